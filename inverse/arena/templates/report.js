"use strict";
// Text reaches the page through textContent and attributes only, and Plotly through `plain`.
const D = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const all = (n) => Array.from({ length: n }, (_, i) => i);

function h(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "circle", "text", "g", "title"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

// --- names and numbers ---------------------------------------------------------------------------------------------

const quantities = Object.fromEntries([...D.metrics, ...D.costs].map((q) => [q.name, q]));
const ranked = D.metrics.filter((m) => m.better !== null);
const state = { problem: -1, metric: (ranked[0] || D.metrics[0] || { name: "" }).name, budget: D.budgets.length - 1, search: "", hidden: new Set(), sort: null, limit: 200, open: new Set() };

function number(value, name) {
  if (value == null) return "–";
  if (name === "peak_memory") return value < 2 ** 30 ? `${(value / 2 ** 20).toPrecision(3)} MiB` : `${(value / 2 ** 30).toPrecision(3)} GiB`;
  if (name === "seconds") return value >= 100 ? value.toFixed(0) : String(+value.toPrecision(3));
  const digits = (quantities[name] || { digits: 3 }).digits;
  if (digits === 0) return value >= 1e6 ? value.toExponential(2) : value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
  if ((Math.abs(value) > 1e-9 && Math.abs(value) < 10 ** -digits) || Math.abs(value) >= 1e6) return value.toExponential(2);
  return value.toFixed(digits);
}
const arrow = (q) => (q.better === "higher" ? " ↑" : q.better === "lower" ? " ↓" : q.better === null ? "" : ` → ${q.better}`);
const titled = (q) => q.label + (q.unit && q.unit !== "B" ? ` (${q.unit})` : "");
const loss = (q, v) => (q.better === "higher" ? -v : typeof q.better === "number" ? Math.abs(v - q.better) : v);
const mean = (row, name) => (row.est[name] ? row.est[name][0] : null);
const plural = (n, one, many = one + "s") => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

const kinds = [...new Set(D.methods)];
const MARKS = ["circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "x", "pentagon"];
const PATHS = ["M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0", "M-4.5-4.5h9v9h-9z", "M0-6 6 0 0 6-6 0z", "M0-6 5.5 4.5h-11z", "M-2-5.5h4v3.5h3.5v4H2v3.5h-4V2h-3.5v-4H-2z", "M0 6 5.5-4.5h-11z", "M-5-3-3-5 0-2 3-5 5-3 2 0 5 3 3 5 0 2-3 5-5 3-2 0z", "M0-6 5.7-1.9 3.5 4.9h-7L-5.7-1.9z"];
function look(m) {
  const kind = kinds.indexOf(D.methods[m]);
  const namesake = D.methods.slice(0, m).filter((other) => other === D.methods[m]).length;
  return { colour: `--c${kind % 8}`, mark: (Math.floor(kind / 8) + namesake) % 8 };
}
const mark = (m) => h("svg", { class: "mark", viewBox: "-7 -7 14 14", "aria-hidden": "true" }, h("path", { d: PATHS[look(m).mark], style: `fill:var(${look(m).colour})` }));
const probe = h("i", { hidden: true });
document.body.append(probe);
const faint = (variable) => paint(variable).replace(/^rgb\((.*)\)$/, "rgba($1, .4)");
const paint = (variable) => { probe.style.color = `var(${variable})`; return getComputedStyle(probe).color; };

// --- what is shown ----------------------------------------------------------------------------------------------------

const visible = (m) => !state.hidden.has(m) && (!state.search || state.search.toLowerCase().split(/\s+/).every((word) => D.contestants[m].toLowerCase().includes(word)));
const scoped = (row) => (state.problem < 0 || row.s === state.problem) && (state.budget < 0 || row.b === state.budget);
const shown = (row) => scoped(row) && visible(row.m);
const compared = (metric, s, b) => D.comparisons.find((c) => c.metric === metric && c.s === s && c.b === b);
const settings = () => (state.problem < 0 ? all(D.settings.length) : [state.problem]);

function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, text]) => h("option", { value, selected: String(value) === String(chosen) }, text)));
}

// --- the answer -------------------------------------------------------------------------------------------------------

const FEW = 4; // names in a line; the rest is a number with them in its title
function drawAnswer() {
  const q = quantities[state.metric], limits = state.budget < 0 ? "any budget" : D.budgets[state.budget];
  const called = (row) => D.contestants[row.m] + (state.budget < 0 && D.budgets.length > 1 ? `, ${D.budgets[row.b]}` : "");
  const rows = settings().map((s) => [s, (D.leaders[`${state.metric}|${s}|${state.budget}`] || []).map((i) => D.rows[i])]).filter(([, found]) => found.length);
  $("answer").hidden = !rows.length;
  const lines = rows.map(([s, [best, ...alike]]) => {
    const cost = (row) => mean(row, "seconds") ?? Infinity;
    const fastest = [best, ...alike].reduce((a, b) => (cost(b) < cost(a) ? b : a));
    const pick = () => { state.problem = s; $("problem").value = s; drawAll(); $("leaderboard").scrollIntoView(); };
    const told = best.est[q.name][3] >= D.least, names = told ? called : (row) => `${called(row)} ${number(mean(row, q.name), q.name)}`;
    const rest = alike.slice(0, FEW).map(names).join(", ") + (told && alike.length > FEW ? ` and ${alike.length - FEW} more` : "");
    return h("tr", {}, h("th", { scope: "row" }, h("button", { type: "button", title: "Show only this problem", onclick: pick }, D.settings[s])),
      h("td", { "data-is": "best mean" }, h("span", { class: "pick" }, mark(best.m), h("b", {}, called(best)), h("span", { class: "range" }, number(mean(best, q.name), q.name)))),
      h("td", { "data-is": told ? "not clearly worse" : "next, not separated", title: alike.map(called).join(", ") }, told ? rest || "none" : h("span", { class: "none" }, `too few truths (${best.est[q.name][3]}) to rank; next: `), told ? null : rest || "none"),
      h("td", { "data-is": told ? "fastest of these" : "seconds" }, h("span", { class: "pick" }, told ? mark(fastest.m) : null, told ? called(fastest) : null, h("span", { class: "range" }, cost(told ? fastest : best) < Infinity ? `${number(cost(told ? fastest : best), "seconds")} s` : "–"))));
  });
  const heads = ["Problem", `Best mean ${titled(q || { label: "" })}${q ? arrow(q) : ""}`, ...(rows.some(([, [best]]) => best.est[q.name][3] >= D.least) ? ["Not clearly worse", "Fastest of these"] : ["Next", "Seconds"])];
  $("answers").replaceChildren(h("thead", {}, h("tr", {}, ...heads.map((text) => h("th", { class: "text", scope: "col" }, text)))), h("tbody", {}, ...lines));
  $("answer-note").textContent = `With ${limits === "no limit" ? "no budget" : limits}. Not clearly worse: the 95 % interval of the paired difference to the best, over truths, does not lie above zero. Fewer than ${D.least} truths cannot separate methods; the next best are listed instead.`;
}

// --- the table --------------------------------------------------------------------------------------------------------

const ranks = new Map();
for (const c of D.comparisons) if (c.s >= 0) c.order.forEach((m, i) => ranks.set(`${c.metric}|${c.s}|${c.b}|${m}`, c.ranks[i]));
const rankOf = (row) => ranks.get(`${state.metric}|${row.s}|${row.b}|${row.m}`) ?? null;

function columns() {
  const rows = D.rows.filter(scoped);
  const has = (name) => rows.some((row) => row.est[name]);
  const others = D.metrics.filter((m) => m.name !== state.metric && has(m.name));
  return [
    { key: "name", text: "Method", value: (row) => D.contestants[row.m], rising: true, kind: "name" },
    ...(state.budget < 0 && D.budgets.length > 1 ? [{ key: "budget", text: "Budget", value: (row) => row.b, rising: true, kind: "text", show: (row) => D.budgets[row.b] }] : []),
    { key: "rank", text: "Rank", help: "average rank on the cells that all compared methods finished; 1 is the best", value: rankOf, rising: true, show: (row) => (rankOf(row) == null ? "–" : rankOf(row).toFixed(1)) },
    { ...metricColumn(quantities[state.metric]), main: true },
    { key: "whisker", text: "95 % interval", kind: "whisker" },
    ...others.map(metricColumn),
    ...["nfe", "vjp", "seconds", "peak_memory"].filter(has).map((name) => ({ ...metricColumn(quantities[name]), cost: true })),
    ...(rows.some((row) => row.eff != null) ? [{ key: "eff", text: "Efficiency", help: "time of the counted evaluations alone over the time taken", value: (row) => row.eff, show: (row) => (row.eff == null ? "–" : `${(100 * row.eff).toFixed(0)} %`) }] : []),
    { key: "cells", text: "Cells", help: "finished cells, of those in the suite", value: (row) => row.n[0], show: (row) => { const total = row.n[0] + row.n[1] + row.n[2] + row.missing; return row.n[0] === total ? `${total}` : `${row.n[0]} of ${total}`; } },
  ];
}
const metricColumn = (q) => ({ key: q.name, text: titled(q) + (D.costs.includes(q) ? "" : arrow(q)), q, value: (row) => (mean(row, q.name) == null ? null : D.costs.includes(q) || q.better === null ? mean(row, q.name) : loss(q, mean(row, q.name))), rising: true, show: (row) => number(mean(row, q.name), q.name) });

function drawBoard() {
  const cols = columns();
  const sort = cols.find((c) => state.sort && c.key === state.sort.key && c.value) || cols.find((c) => c.main);
  const falling = state.sort && state.sort.key === sort.key ? state.sort.falling : !sort.rising;
  const order = (a, b) => {
    const [x, y] = [sort.value(a), sort.value(b)];
    if (x == null || y == null) return (x == null) - (y == null);
    return (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y) * (falling ? -1 : 1);
  };
  const rows = D.rows.filter(shown).sort((a, b) => a.s - b.s || order(a, b) || a.m - b.m);
  const best = {}, most = {}; // a mean over fewer cells than another's is never the best
  for (const row of D.rows) most[`${row.s}|${row.b}`] = Math.max(most[`${row.s}|${row.b}`] ?? 0, row.n[0]);
  for (const row of D.rows.filter((r) => r.n[0] === most[`${r.s}|${r.b}`])) for (const c of cols) if (c.q && !c.cost && c.q.better !== null && c.value(row) != null) { const k = `${c.key}|${row.s}|${row.b}`; best[k] = Math.min(best[k] ?? Infinity, c.value(row)); }
  const whisker = whiskers();
  const body = h("tbody");
  let last = null;
  for (const row of rows.slice(0, state.limit)) {
    if (row.s !== last && D.settings.length > 1) body.append(h("tr", { class: "group" }, h("th", { colspan: cols.length, scope: "rowgroup" }, D.settings[row.s])));
    last = row.s;
    body.append(h("tr", { class: "row" }, ...cols.map((c) => boardCell(c, row, row.n[0] === most[`${row.s}|${row.b}`] ? best : {}, whisker))));
    if (state.open.has(row.at)) body.append(cellsOf(row, cols.length));
  }
  if (!rows.length) body.append(h("tr", {}, h("td", { class: "text none", colspan: cols.length }, "Nothing matches these filters.")));
  const head = h("tr", {}, ...cols.map((c) => headCell(c, sort, falling)));
  $("board").replaceChildren(h("caption", { hidden: true }, "Leaderboard"), h("thead", {}, head), body);
  $("more").hidden = rows.length <= state.limit;
  $("more").textContent = `Show all ${rows.length} rows`;
  const budgets = state.budget < 0 ? "every budget" : D.budgets[state.budget];
  $("board-note").textContent = `Means over truths, ${budgets === "no limit" ? "without a budget" : budgets}; the best of each column and problem in bold, among the methods that finished the most cells. Open a row for its cells, a cell for its record.`;
}

// the rows of the table with their intervals, in numbers
function csvOfBoard() {
  const quoted = (v) => { const text = v == null ? "" : typeof v === "number" ? String(v) : String(v).replace(/^[=+\-@\t\r]/, "'$&"); return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text; };
  const rows = D.rows.filter(shown), names = [...D.metrics, ...D.costs].map((q) => q.name).filter((name) => rows.some((row) => row.est[name]));
  const head = ["problem", "budget", "method", ...names.flatMap((name) => [name, `${name}_low`, `${name}_high`, `${name}_truths`]), "efficiency", "ok", "failed", "skipped"];
  const line = (row) => [D.settings[row.s], D.budgets[row.b], D.contestants[row.m], ...names.flatMap((name) => row.est[name] || [null, null, null, null]), row.eff, ...row.n];
  return [head, ...rows.map(line)].map((fields) => fields.map(quoted).join(",")).join("\n") + "\n";
}
$("save").addEventListener("click", () => {
  const link = h("a", { href: URL.createObjectURL(new Blob([csvOfBoard()], { type: "text/csv" })), download: "leaderboard.csv" });
  link.click();
  URL.revokeObjectURL(link.href);
});

function headCell(c, sort, falling) {
  if (c.kind === "whisker") return h("th", { class: "text", scope: "col", style: "padding:.38rem .55rem" }, c.text);
  const direction = c.key === sort.key ? ((falling ? !c.better : c.better) ? "descending" : "ascending") : "none";
  const click = () => { state.sort = { key: c.key, falling: c.key === sort.key ? !falling : !c.rising }; drawBoard(); $("board").querySelector(`[data-key="${CSS.escape(c.key)}"]`).focus(); remember(); };
  return h("th", { scope: "col", class: c.kind === "name" ? "name text" : c.kind || "", "aria-sort": direction }, h("button", { type: "button", "data-key": c.key, title: c.help, onclick: click }, c.text));
}

function boardCell(c, row, best, whisker) {
  if (c.kind === "name") {
    const open = state.open.has(row.at);
    const toggle = () => { open ? state.open.delete(row.at) : state.open.add(row.at); drawBoard(); $("board").querySelector(`[data-row="${row.at}"]`).focus(); };
    return h("th", { scope: "row", class: "name" }, h("button", { type: "button", "aria-expanded": String(open), "data-row": row.at, onclick: toggle }, mark(row.m), D.contestants[row.m]));
  }
  if (c.kind === "whisker") return h("td", { class: "whisker" }, whisker(row));
  const text = c.show(row);
  const top = c.q && !c.cost && c.value(row) != null && c.q.better !== null && c.value(row) === best[`${c.key}|${row.s}|${row.b}`];
  const cell = h("td", { class: [c.kind === "text" ? "text" : "", top ? "best" : "", text === "–" ? "none" : "", c.key === "cells" && row.n[1] + row.n[2] + row.missing ? "partial" : ""].join(" ").trim() || null }, text);
  const e = c.main && row.est[c.key];
  if (e) cell.title = e[1] == null ? "one truth: no interval" : `95 % interval ${number(e[1], c.key)} to ${number(e[2], c.key)}, ${plural(e[3], "truth")}`;
  return cell;
}

function whiskers() {
  // one scale a problem, so that the eye may compare within it
  const span = {};
  for (const row of D.rows.filter(shown)) {
    const e = row.est[state.metric];
    if (e) { const s = (span[row.s] ??= [Infinity, -Infinity]); s[0] = Math.min(s[0], e[1] ?? e[0]); s[1] = Math.max(s[1], e[2] ?? e[0]); }
  }
  return (row) => {
    const e = row.est[state.metric];
    if (!e) return "";
    const [low, high] = span[row.s];
    const x = (v) => 5 + 126 * (high > low ? (v - low) / (high - low) : 0.5);
    const colour = `var(${look(row.m).colour})`;
    return h("svg", { viewBox: "0 0 136 18", "aria-hidden": "true" }, h("line", { x1: 5, x2: 131, y1: 9, y2: 9, style: "stroke:var(--grid)" }),
      e[1] == null ? null : h("line", { x1: x(e[1]), x2: x(e[2]), y1: 9, y2: 9, style: `stroke:${colour};stroke-width:2` }), h("circle", { cx: x(e[0]), cy: 9, r: 3.6, style: `fill:${colour}` }));
  };
}

function cellsOf(row, span) {
  const count = row.n[0] + row.n[1] + row.n[2];
  const seeds = new Set(all(count).map((i) => D.cells[row.at + i].seed)).size > 1;
  const items = all(count).map((i) => {
    const index = row.at + i, cell = D.cells[index];
    const text = cell.status === "ok" ? number((cell.metrics || {})[state.metric], state.metric) : cell.status;
    return h("li", {}, h("button", { type: "button", class: cell.status === "ok" ? null : "bad", onclick: () => openRecord(index) }, h("small", {}, `truth ${cell.truth}${seeds ? `, seed ${cell.seed}` : ""}`), text));
  });
  return h("tr", { class: "cells" }, h("td", { colspan: span }, h("ul", {}, ...items)));
}

// --- a record ---------------------------------------------------------------------------------------------------------

function openRecord(index) {
  const cell = D.cells[index], T = D.tables;
  const method = T.method[cell.method], problem = T.problem[cell.problem];
  const pairs = (object) => Object.entries(object || {}).map(([name, value]) => `${name} = ${typeof value === "string" ? value : JSON.stringify(value)}`).join(", ") || "none";
  const facts = [
    ["problem", problem.name + (problem.crop ? `, ${problem.crop} pixels square` : "")], ["problem options", pairs(problem.options)], ["method options", pairs(method.options)],
    ["truth, seed", `${cell.truth}, ${cell.seed}`], ["samples", cell.samples], ["budget", pairs(T.budget[cell.budget])], ["options come from", cell.tuned],
    ["prior", `${T.prior[cell.prior].name}, sha256 ${T.prior[cell.prior].sha256}`], ["observation", cell.observation],
    ...Object.entries(cell.metrics || {}).map(([name, value]) => [(quantities[name] || { label: name }).label, number(value, name)]),
    ["evaluations per sample", Object.keys(cell.cost || {}).length ? ["nfe", "vjp", "A", "A_adjoint"].map((name) => `${quantities[name].label} ${number(cell.cost[name], name)}`).join(", ") : null],
    ["seconds", cell.seconds == null ? null : number(cell.seconds, "seconds") + (cell.floor_seconds == null ? "" : `, evaluations alone ${number(cell.floor_seconds, "seconds")}`)],
    ["peak memory", cell.peak_memory == null ? null : number(cell.peak_memory, "peak_memory")],
    ["ran on", `${cell.device}, ${cell.dtype}, ${cell.executor}`], ["started", cell.started], ["versions", pairs(T.versions[cell.versions])],
  ].filter(([, value]) => value != null && value !== "");
  const copy = h("button", { type: "button", class: "quiet", onclick: async () => { try { await navigator.clipboard.writeText(cell.command); copy.textContent = "Copied"; } catch { getSelection().selectAllChildren(command); copy.textContent = "Selected: copy with Ctrl-C"; } } }, "Copy");
  const command = h("pre", { id: "command", tabindex: "0" }, cell.command || "the record has no command");
  $("record-title").textContent = `${D.contestants[rowOf(index).m]} on ${D.settings[rowOf(index).s]}`;
  $("record-body").replaceChildren(
    ...(cell.status === "ok" ? [] : [h("p", { class: "reason" }, `${cell.status}: ${cell.reason || "no reason given"}`)]),
    h("p", { class: "note" }, "Command that computes this cell again:"), h("div", { class: "command" }, command, cell.command ? copy : null),
    h("dl", {}, ...facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))])),
    ...(cell.href ? [h("p", {}, h("a", { href: cell.href }, "Artifact (HDF5)"), h("span", { class: "note" }, cell.artifact_sha256 ? ` sha256 ${cell.artifact_sha256.slice(0, 16)}…` : ""))] : []),
    h("details", {}, h("summary", {}, "Record as JSON (numbers to six digits)"), h("pre", { tabindex: "0" }, JSON.stringify({ ...cell, problem, method, prior: T.prior[cell.prior], versions: T.versions[cell.versions], budget: T.budget[cell.budget], href: undefined }, null, 2))),
  );
  if (!$("record").open) $("record").showModal();
  $("record").scrollTop = 0;
  remember(cell.cell);
}
const rowOf = (index) => { let low = 0, high = D.rows.length - 1; while (low < high) { const mid = (low + high + 1) >> 1; D.rows[mid].at <= index ? (low = mid) : (high = mid - 1); } return D.rows[low]; };
$("close").addEventListener("click", () => $("record").close());
$("record").addEventListener("click", (event) => { if (event.target === $("record")) $("record").close(); });
$("record").addEventListener("close", () => remember());

// --- ranks and what is behind them ------------------------------------------------------------------------------------

function drawRanking() {
  const b = state.budget < 0 ? D.budgets.length - 1 : state.budget;
  const s = state.problem < 0 && D.settings.length > 1 ? -1 : Math.max(state.problem, 0);
  const c = compared(state.metric, s, b), q = quantities[state.metric];
  const where = `${q ? q.label : ""} ${s < 0 ? `on ${D.settings.length} problems` : `on ${D.settings[s]}`}, ${D.budgets[b]}`;
  $("pairs-box").hidden = !c;
  if (!c) {
    $("ranking-note").textContent = `${where}: nothing to compare. A comparison needs two methods with common finished cells, and a metric with a direction.`;
    return $("diagram").replaceChildren();
  }
  const left = c.left.length ? ` Left out because of too few finished cells: ${c.left.map(([m, n]) => `${D.contestants[m]} (${n} of ${c.common[1]})`).join(", ")}.` : "";
  const equal = c.friedman == null ? "" : ` Friedman test of equality: p = ${probability(c.friedman)}.`;
  const few = 2 / 2 ** c.blocks * ((c.order.length * (c.order.length - 1)) / 2) > 0.05 ? " With so few truths and so many methods, no test can find a difference." : "";
  $("ranking-note").textContent = `${where}. Average ranks over ${plural(c.blocks, "truth")}, ${c.common[0]} of ${c.common[1]} observations finished by all. Bars join methods among which no paired Wilcoxon test with Holm's correction finds a difference at 5 %.${equal}${few}${left}`;
  $("diagram").replaceChildren(diagram(c));
  const p = (i, j) => { if (i > j) [i, j] = [j, i]; const k = c.order.length; return c.p[i * k - (i * (i + 1)) / 2 + j - i - 1]; };
  $("pairs").replaceChildren(
    h("thead", {}, h("tr", {}, h("td"), ...c.order.map((m, i) => h("th", { scope: "col", title: D.contestants[m], style: "padding:.38rem .65rem" }, String(i + 1))))),
    h("tbody", {}, ...c.order.map((m, i) => h("tr", {}, h("th", { scope: "row", class: "text" }, `${i + 1}  ${D.contestants[m]}`), ...c.order.map((_, j) => (i === j ? h("td", { class: "none" }, "·") : h("td", { class: p(i, j) <= 0.05 ? "sure" : null }, probability(p(i, j)))))))),
  );
}
const probability = (p) => (p < 0.001 ? p.toExponential(0) : p >= 0.995 ? "1" : String(+p.toPrecision(2)));

function diagram(c) {
  // a critical-difference diagram on its side: it reads as a list, and fits a phone
  const k = c.order.length, row = 24, top = 46, longest = Math.max(...c.order.map((m) => D.contestants[m].length));
  const narrow = $("diagram").clientWidth < 520, width = narrow ? 380 : 736, name = Math.min(narrow ? 150 : 300, 34 + 7.2 * longest), lanes = [];
  for (const [first, last] of c.cliques) { let lane = lanes.findIndex((end) => end < first); if (lane < 0) lane = lanes.push(-1) - 1; lanes[lane] = last; c.lane = { ...c.lane, [`${first}-${last}`]: lane }; }
  const right = width - 54, gutter = Math.min(12, 70 / Math.max(lanes.length, 1)), start = name + 14 + gutter * lanes.length;
  const x = (rank) => start + ((right - start) * (rank - 1)) / Math.max(k - 1, 1), y = (i) => top + row * (i + 0.5);
  const ticks = all(k).filter((i) => k <= 8 || i === 0 || i === k - 1 || (i % Math.ceil(k / 8) === 0 && k - 1 - i >= Math.ceil(k / 8) / 2));
  const short = (text) => { const most = Math.floor((name - 26) / 7.2); return text.length > most ? text.slice(0, most - 1) + "…" : text; };
  const nodes = ticks.flatMap((i) => [h("line", { class: "rule", x1: x(i + 1), x2: x(i + 1), y1: top - 6, y2: top + row * k }), h("text", { class: "soft", x: x(i + 1), y: top - 12, "text-anchor": "middle" }, String(i + 1))]);
  const wide = Math.min(c.cd, k - 1);
  nodes.push(h("line", { class: "cd", x1: x(1), x2: x(1 + wide), y1: 12, y2: 12 }), h("line", { class: "cd", x1: x(1), x2: x(1), y1: 8, y2: 16 }), ...(c.cd > k - 1 ? [] : [h("line", { class: "cd", x1: x(1 + wide), x2: x(1 + wide), y1: 8, y2: 16 })]),
    h("text", { class: "soft", x: Math.min(x(1 + wide) + 7, right - 60), y: c.cd > 0.6 * (k - 1) ? 26 : 16, "text-anchor": "start" }, `${narrow ? "" : "Nemenyi "}CD ${c.cd.toFixed(2)}`));
  c.order.forEach((m, i) => {
    const { colour, mark: shape } = look(m);
    nodes.push(h("line", { class: "rule", x1: start, x2: x(c.ranks[i]), y1: y(i), y2: y(i) }), h("path", { d: PATHS[shape], transform: `translate(${x(c.ranks[i])} ${y(i)})`, style: `fill:var(${colour})` }),
      h("text", { x: 2, y: y(i) + 4.5 }, short(D.contestants[m]), h("title", {}, D.contestants[m])), h("text", { class: "soft", x: Math.min(x(c.ranks[i]) + 11, width - 36), y: y(i) + 4.5 }, c.ranks[i].toFixed(2)));
  });
  for (const [first, last] of c.cliques) { const at = name + 6 + gutter * c.lane[`${first}-${last}`]; nodes.push(h("line", { class: "clique", x1: at, x2: at, y1: y(first) - 5, y2: y(last) + 5 })); }
  const words = c.order.map((m, i) => `${D.contestants[m]} ${c.ranks[i].toFixed(2)}`).join(", ");
  return h("svg", { viewBox: `0 0 ${width} ${top + row * k + 8}`, role: "img", "aria-label": `Average ranks: ${words}` }, ...nodes);
}

// --- plots ------------------------------------------------------------------------------------------------------------

let plotly = null;
function library() {
  plotly ??= (async () => {
    const packed = Uint8Array.from(atob($("plotly").textContent), (c) => c.charCodeAt(0));
    const text = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
    const node = document.createElement("script");
    node.textContent = text; // its hash is in the page's policy
    document.head.append(node);
    if (!window.Plotly) throw new Error("plotly did not start");
    return window.Plotly;
  })().catch((error) => { for (const id of ["pareto", "solved", "curves"]) $(`${id}-panels`).replaceChildren(h("p", { class: "note" }, `The plots cannot be drawn in this browser (${error.message}).`)); throw error; });
  return plotly;
}
const drawn = new Map();
const watcher = new IntersectionObserver((entries) => entries.forEach((entry) => { if (entry.isIntersecting) draw(entry.target); }), { rootMargin: "300px" });
async function draw(node) {
  const spec = drawn.get(node);
  if (!spec || spec.done) return;
  spec.done = true;
  const library_ = await library();
  if (drawn.get(node) !== spec) return;
  const { traces, layout } = spec.make();
  const [ink, soft, grid, paper] = ["--ink", "--soft", "--grid", "--paper"].map(paint);
  const axis = { gridcolor: grid, linecolor: soft, zeroline: false, tickfont: { color: soft, size: 12 }, title: { font: { color: soft, size: 12.5 } }, fixedrange: true, automargin: true };
  const merged = (own) => ({ ...axis, ...own, title: { ...axis.title, text: plain(own.text), standoff: 8 } });
  await library_.react(node, traces, {
    ...layout, xaxis: merged(layout.xaxis), yaxis: merged(layout.yaxis), paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest", dragmode: false,
    font: { family: getComputedStyle(document.body).fontFamily, color: ink, size: 12.5 }, margin: { l: 52, r: 14, t: 10, b: 44 }, hoverlabel: { bgcolor: paper, bordercolor: soft, font: { color: ink }, align: "left" },
  }, { displayModeBar: false, responsive: true });
}
function panels(id, entries) {
  const box = $(`${id}-panels`);
  for (const node of box.querySelectorAll(".plot")) { watcher.unobserve(node); drawn.delete(node); if (window.Plotly) window.Plotly.purge(node); }
  box.classList.toggle("single", entries.length === 1);
  box.replaceChildren(...entries.map(({ caption, words, make }) => {
    const node = h("div", { class: "plot", role: "img", "aria-label": words });
    drawn.set(node, { make, done: false });
    watcher.observe(node);
    return h("figure", {}, caption ? h("figcaption", {}, caption) : null, node);
  }));
  if (!entries.length) box.replaceChildren(h("p", { class: "note" }, "Nothing to draw for these filters."));
}
const marker = (m, size = 9) => ({ color: paint(look(m).colour), symbol: MARKS[look(m).mark], size });
// nothing spent has no place on a logarithmic axis: it gets one at its left end
function logarithmic(values, name) {
  const positive = values.filter((v) => v > 0), zero = values.some((v) => v === 0);
  if (!positive.length) return { at: () => 0, axis: { text: titled(quantities[name]), tickvals: [0], ticktext: ["0"], range: [-1, 1] } };
  const scale = name === "peak_memory" ? 2 ** 20 : 1, low = Math.min(...positive) / scale, high = Math.max(...positive) / scale;
  const floor = Math.log10(low) - Math.max(0.25, 0.12 * Math.log10(high / low + 1e-9));
  const at = (v) => (v > 0 ? Math.log10(v / scale) : floor);
  const tens = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) for (const f of Math.log10(high / low) > 2.2 ? [1] : Math.log10(high / low) > 1 ? [1, 3] : [1, 2, 5]) tens.push(f * 10 ** e);
  const ticks = tens.filter((t) => Math.log10(t) >= Math.log10(low) - 0.25 && Math.log10(t) <= Math.log10(high) + 0.25);
  const text = name === "peak_memory" ? "peak memory (MiB)" : titled(quantities[name]);
  return { at, zero, axis: { text, tickvals: [...(zero ? [floor] : []), ...ticks.map(Math.log10)], ticktext: [...(zero ? ["0"] : []), ...ticks.map((t) => String(+t.toPrecision(1)))] } };
}
const qualityAxis = () => { const q = quantities[state.metric]; return { text: titled(q) + (typeof q.better === "number" ? `, ideal ${q.better}` : ""), ...(q.better === "lower" ? { autorange: "reversed" } : {}) }; };
const target = (q) => (typeof q.better === "number" ? [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: q.better, y1: q.better, line: { color: paint("--soft"), width: 1, dash: "dot" } }] : []);
const told = (row, ...more) => [`<b>${plain(D.contestants[row.m])}</b>`, state.budget < 0 ? plain(D.budgets[row.b]) : null, ...more].filter(Boolean).join("<br>");
const interval = (e, name) => number(e[0], name) + (e[1] == null ? "" : ` (${number(e[1], name)} to ${number(e[2], name)})`);
const bars = (rows) => ({ type: "data", symmetric: false, array: rows.map((r) => (r.est[state.metric][2] ?? r.est[state.metric][0]) - r.est[state.metric][0]), arrayminus: rows.map((r) => r.est[state.metric][0] - (r.est[state.metric][1] ?? r.est[state.metric][0])), thickness: 1, width: 0 });

function drawPareto() {
  const cost = $("pareto-axis").value, q = quantities[state.metric];
  panels("pareto", settings().flatMap((s) => {
    const rows = D.rows.filter((row) => row.s === s && shown(row) && row.est[cost] && row.est[state.metric]);
    if (!rows.length) return [];
    const make = () => {
      const scale = logarithmic(rows.map((row) => mean(row, cost)), cost);
      const front = (D.fronts[`${state.metric}|${cost}|${s}|${state.budget}`] || []).map((i) => D.rows[i]).filter((row) => visible(row.m));
      const line = { x: front.map((row) => scale.at(mean(row, cost))), y: front.map((row) => mean(row, state.metric)), mode: "lines", line: { color: paint("--soft"), width: 1, shape: "hv" }, hoverinfo: "skip" };
      const points = rows.map((row) => ({ x: [scale.at(mean(row, cost))], y: [mean(row, state.metric)], error_y: { ...bars([row]), color: faint(look(row.m).colour) }, mode: "markers", marker: marker(row.m), hoverinfo: "text", text: [told(row, `${plain(q.label)} ${interval(row.est[state.metric], state.metric)}`, `${plain(quantities[cost].label)} ${number(mean(row, cost), cost)}`)] }));
      return { traces: [line, ...points], layout: { xaxis: scale.axis, yaxis: qualityAxis(), shapes: target(q) } };
    };
    return [{ caption: D.settings.length > 1 ? D.settings[s] : "", words: `${q.label} against ${quantities[cost].label}: ${rows.map((row) => `${D.contestants[row.m]} ${number(mean(row, state.metric), state.metric)} at ${number(mean(row, cost), cost)}`).join("; ")}`, make }];
  }));
}

function drawSolved() {
  const q = quantities[state.metric], level = Number($("solved-level").value), cost = $("solved-axis").value;
  const families = (D.solved[`${state.metric}|${level}|${cost}`] || []).map((cells, f) => ({ f, m: D.rows.find((row) => row.f === f && visible(row.m))?.m, cells: cells.filter((i) => state.problem < 0 || rowOf(i).s === state.problem) })).filter((family) => family.m !== undefined && D.rows.some((row) => row.f === family.f && (state.problem < 0 || row.s === state.problem)));
  const total = settings().reduce((sum, s) => sum + D.observations[s], 0);
  const spent = (i) => (cost === "seconds" ? D.cells[i].seconds : D.cells[i].cost.nfe + D.cells[i].cost.vjp);
  $("solved-note").textContent = q && q.within.length ? `Share of the ${plural(total, "observation")} on which a method came within ${q.within[level]} of ${typeof q.better === "number" ? q.better : `the best ${q.label} of any method`}, against its cost; of several budgets, the cheapest sufficient one counts. Higher and further left is better.` : "This metric has no target.";
  if (!families.length || !q.within.length) return panels("solved", []);
  const nowhere = families.filter(({ cells }) => !cells.length).map(({ f }) => D.families[f]);
  if (nowhere.length) $("solved-note").textContent += ` Methods that solve none: ${nowhere.join(", ")}.`;
  const make = () => {
    const scale = logarithmic(families.flatMap((family) => family.cells.map(spent)), cost);
    const far = Math.max(0, ...families.flatMap((family) => family.cells.map((i) => scale.at(spent(i))))) + 0.12;
    const near = Math.min(far, ...families.flatMap((family) => family.cells.map((i) => scale.at(spent(i))))) - 0.05;
    const traces = families.map(({ f, m, cells }) => {
      const x = [near, ...cells.map((i) => scale.at(spent(i))), far], y = [0, ...cells.map((_, i) => (100 * (i + 1)) / total), (100 * cells.length) / total];
      const text = [0, ...cells.map((_, i) => i + 1), cells.length].map((n, i) => `<b>${plain(D.families[f])}</b><br>${n} of ${total}${i > 0 && i <= cells.length ? `<br>${number(spent(cells[i - 1]), cost)} ${plain(quantities[cost].label)}` : ""}`);
      return { x, y, text, hoverinfo: "text", mode: "lines", line: { color: paint(look(m).colour), width: 2, shape: "hv", dash: ["solid", "dash", "dot", "dashdot"][look(m).mark % 4] } };
    });
    const names = families.filter(({ cells }) => cells.length).map(({ f, m, cells }) => ({ f, m, y: (100 * cells.length) / total })).sort((a, b) => b.y - a.y);
    let last = 200;
    const annotations = $("solved-panels").clientWidth < 520 ? [] : names.map(({ f, m, y }) => { last = Math.min(y, last - 4.6); return { x: far, y: last, xanchor: "left", showarrow: false, text: plain(D.families[f]), font: { color: paint(look(m).colour), size: 12 } }; });
    return { traces, layout: { xaxis: { ...scale.axis, range: [near, far + (annotations.length ? 0.3 * (far - near) : 0)] }, yaxis: { text: "solved (%)", range: [Math.min(-2, last - 3), 103], tickvals: [0, 25, 50, 75, 100] }, annotations } };
  };
  panels("solved", [{ caption: "", words: `Share solved: ${families.map(({ f, cells }) => `${D.families[f]} ${cells.length} of ${total}`).join(", ")}`, make }]);
}

function drawCurves() {
  const axis = $("curves-axis").value, q = quantities[state.metric];
  const lines = (D.curves[axis] || []).map((line) => line.map((i) => D.rows[i]).filter((row) => visible(row.m) && row.est[state.metric]));
  $("curves").hidden = !(D.curves.steps.length || D.curves.calls.length);
  panels("curves", settings().flatMap((s) => {
    const own = lines.filter((line) => line.length > 1 && line[0].s === s);
    if (!own.length) return [];
    const place = (row) => (axis === "steps" ? row.steps : mean(row, axis));
    const make = () => {
      const scale = logarithmic(own.flatMap((line) => line.map(place)), "calls");
      const traces = own.map((line) => ({ x: line.map((row) => scale.at(place(row))), y: line.map((row) => mean(row, state.metric)), mode: "lines+markers", line: { color: paint(look(line[0].m).colour), width: 1.8 }, marker: marker(line[0].m, 7), error_y: { ...bars(line), color: faint(look(line[0].m).colour) }, hoverinfo: "text", text: line.map((row) => `<b>${plain(D.families[row.f])}</b><br>${axis === "steps" ? `${row.steps} steps` : `${number(place(row), "calls")} ${quantities.calls.label}`}<br>${plain(q.label)} ${interval(row.est[state.metric], state.metric)}`) }));
      return { traces, layout: { xaxis: { ...scale.axis, text: axis === "steps" ? "steps" : quantities.calls.label }, yaxis: qualityAxis(), shapes: target(q) } };
    };
    return [{ caption: D.settings.length > 1 ? D.settings[s] : "", words: `${q.label} over ${axis === "steps" ? "steps" : quantities.calls.label}, ${plural(own.length, "method")}`, make }];
  }));
}

// --- pictures ---------------------------------------------------------------------------------------------------------

let P = null;
const view = { scene: 0, layer: "mean", left: "y", right: null, zoom: 1, x: 0, y: 0 };
function scenes() { // parsed when they come into view
  P ??= JSON.parse($("pictures").textContent);
  return P;
}
const inScope = () => scenes().scenes.map((scene, i) => i).filter((i) => state.problem < 0 || rowOf(P.scenes[i].items[0][0]).s === state.problem);
function drawPictures() {
  const chosen = inScope();
  const unusable = Object.keys(P.unusable).length;
  $("images").hidden = !P.scenes.length && !unusable;
  const lost = [P.beyond ? `${plural(P.beyond, "more observation")} beyond the size limit of this page` : "", unusable && P.scenes.length ? `${plural(unusable, "artifact")} not shown (${[...new Set(Object.values(P.unusable))].slice(0, 3).join("; ")})` : ""].filter(Boolean).join("; ");
  $("viewer").hidden = $("scale-note").hidden = $("scene-controls").hidden = !chosen.length;
  $("images-note").textContent = (chosen.length ? "Thumbnails; the artifact of a record has every pixel and sample. Choose any picture for the right side." : P.scenes.length ? "No pictures for this problem." : `None of ${plural(unusable, "artifact")} can be shown (${Object.values(P.unusable)[0]}); pictures need the artifacts beside the records.`) + (lost ? ` Left out: ${lost}.` : "");
  if (!chosen.length) return options($("scene"), [["", "none"]], "");
  if (!chosen.includes(view.scene)) view.scene = chosen[0];
  options($("scene"), chosen.map((i) => { const cell = D.cells[P.scenes[i].items[0][0]]; return [i, `${D.settings[rowOf(P.scenes[i].items[0][0]).s]}, truth ${cell.truth}${cell.seed ? `, seed ${cell.seed}` : ""}`]; }), view.scene);
  drawScene();
}
function drawScene() {
  const scene = P.scenes[view.scene], q = quantities[state.metric];
  const score = (index) => (D.cells[index].metrics || {})[state.metric];
  const items = scene.items.filter(([index]) => { const row = rowOf(index); return visible(row.m) && (state.budget < 0 || row.b === state.budget); });
  if (q && q.better !== null) items.sort((a, b) => (score(a[0]) == null ? Infinity : loss(q, score(a[0]))) - (score(b[0]) == null ? Infinity : loss(q, score(b[0]))));
  const pictures = [
    ...(scene.y ? [{ key: "y", name: "measurement", src: scene.y }] : []), ...(scene.truth ? [{ key: "truth", name: "truth", src: scene.truth }] : []),
    ...items.map(([index, reconstruction, std]) => ({ key: String(index), index, name: D.contestants[rowOf(index).m] + (state.budget < 0 && D.budgets.length > 1 ? `, ${D.budgets[rowOf(index).b]}` : ""), src: view.layer === "mean" ? reconstruction : std, score: score(index) })),
  ];
  const keys = pictures.map((picture) => picture.key);
  if (!keys.includes(view.left)) view.left = keys[0];
  if (!keys.includes(view.right)) view.right = items.length ? String(items[0][0]) : keys[keys.length - 1];
  options($("left"), pictures.map((p) => [p.key, p.name]), view.left);
  options($("right"), pictures.map((p) => [p.key, p.name]), view.right);
  for (const [id, key] of [["before", view.left], ["after", view.right]]) {
    const picture = pictures.find((p) => p.key === key);
    $(id).hidden = !(picture && picture.src);
    if (picture && picture.src) { $(id).src = picture.src; $(id).alt = picture.name; }
  }
  const layer = view.layer === "std" ? ", posterior standard deviation" : "";
  const [low, high] = scene.window, channel = [1, 3].includes(scene.channels) ? "" : ` First of ${scene.channels} channels, in false colours.`;
  $("scale-note").textContent = (view.layer === "std" ? `Standard deviation of the samples, from 0 (dark) to ${number(scene.high ?? 0, "")} (bright), one scale for all methods.` : low === 0 && high === 1 ? "" : `From ${number(low, "")} (dark) to ${number(high, "")} (bright), one scale for all methods.`) + channel;
  $("wall").replaceChildren(...pictures.map((picture) => h("figure", {},
    h("div", { class: picture.src ? "frame" : "frame absent" }, picture.src ? h("img", { src: picture.src, alt: picture.name + (picture.index === undefined ? "" : layer), loading: "lazy", draggable: "false" }) : "one sample: no spread"),
    h("figcaption", {}, h("button", { type: "button", title: "Show on the right side", onclick: () => { view.right = picture.key; drawScene(); } }, picture.name), picture.index === undefined ? null : h("button", { type: "button", title: "Open the record", "aria-label": `Record of ${picture.name}`, onclick: () => openRecord(picture.index) }, picture.score == null ? "record" : number(picture.score, state.metric))))));
  const shape = new Image();
  shape.onload = () => $("viewer").style.setProperty("--ratio", `${shape.width} / ${shape.height}`);
  shape.src = scene.truth || scene.items[0][1];
  $("scene").value = view.scene;
}
function zoom(factor, reset) {
  view.zoom = reset ? 1 : Math.min(16, Math.max(1, view.zoom * factor));
  pan(0, 0);
}
function pan(dx, dy) { // in shares of a frame
  const most = 50 - 50 / view.zoom, clamp = (v) => Math.max(-most, Math.min(most, v));
  view.x = clamp(view.x + (100 * dx) / view.zoom);
  view.y = clamp(view.y + (100 * dy) / view.zoom);
  const style = $("viewer").style;
  style.setProperty("--z", view.zoom); style.setProperty("--x", `${view.x}%`); style.setProperty("--y", `${view.y}%`);
  $("viewer").classList.toggle("zoomed", view.zoom > 1);
  $("zoom-level").textContent = `${+view.zoom.toFixed(1)}×`;
}
function cut(percent) { $("slider").value = percent; $("slider-frame").style.setProperty("--cut", `${percent}%`); }
function step(by) {
  const chosen = inScope();
  if (chosen.length) { view.scene = chosen[(chosen.indexOf(view.scene) + by + chosen.length) % chosen.length]; view.right = null; drawScene(); }
}
$("slider").addEventListener("input", () => cut($("slider").value));
$("scene").addEventListener("change", () => { view.scene = Number($("scene").value); view.right = null; drawScene(); });
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("layer").addEventListener("change", () => { view.layer = $("layer").value; drawScene(); });
for (const side of ["left", "right"]) $(side).addEventListener("change", () => { view[side] = $(side).value; drawScene(); });
$("zoom-in").addEventListener("click", () => zoom(2));
$("zoom-out").addEventListener("click", () => zoom(0.5));
$("viewer").addEventListener("dblclick", (event) => { if (event.target.closest(".frame")) zoom(view.zoom > 1 ? 1 : 4, view.zoom > 1); });
$("viewer").addEventListener("wheel", (event) => { if (event.ctrlKey && event.target.closest(".frame")) { event.preventDefault(); zoom(event.deltaY < 0 ? 1.25 : 0.8); } }, { passive: false });
$("viewer").addEventListener("keydown", (event) => {
  if (event.target !== $("viewer")) return;
  const moves = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };
  if (event.key === "+" || event.key === "=") zoom(2);
  else if (event.key === "-") zoom(0.5);
  else if (event.key === "0") zoom(1, true);
  else if (moves[event.key] && view.zoom > 1) pan(...moves[event.key]);
  else return;
  event.preventDefault();
});
let held = null;
$("viewer").addEventListener("pointerdown", (event) => {
  const frame = event.target.closest(".frame");
  if (!frame || event.button) return;
  held = { frame, x: event.clientX, y: event.clientY };
  if (view.zoom > 1 || frame === $("slider-frame")) { frame.setPointerCapture(event.pointerId); event.preventDefault(); }
  slide(event);
});
function slide(event) {
  if (view.zoom > 1 || held.frame !== $("slider-frame")) return;
  const box = held.frame.getBoundingClientRect();
  cut(Math.max(0, Math.min(100, (100 * (event.clientX - box.left)) / box.width)));
}
$("viewer").addEventListener("pointermove", (event) => {
  if (!held) return;
  if (view.zoom > 1) { const box = held.frame.getBoundingClientRect(); pan((event.clientX - held.x) / box.width, (event.clientY - held.y) / box.height); held.x = event.clientX; held.y = event.clientY; }
  slide(event);
});
for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => { held = null; });

// --- what did not finish ----------------------------------------------------------------------------------------------

function drawUnfinished() {
  const reasons = new Map();
  for (const row of D.rows.filter((r) => (state.problem < 0 || r.s === state.problem) && visible(r.m)))
    for (let i = row.at; i < row.at + row.n[0] + row.n[1] + row.n[2]; i++)
      if (D.cells[i].status !== "ok") { const key = JSON.stringify([row.m, D.cells[i].status, D.cells[i].reason || "no reason given"]); reasons.set(key, [...(reasons.get(key) || []), i]); }
  const items = [...reasons].sort((a, b) => b[1].length - a[1].length).map(([key, cells]) => {
    const [m, status, reason] = JSON.parse(key);
    const links = cells.slice(0, 12).map((i) => h("button", { type: "button", onclick: () => openRecord(i) }, `${D.settings[rowOf(i).s]}, truth ${D.cells[i].truth}`));
    return h("li", {}, `${D.contestants[m]}: ${plural(cells.length, "cell")} ${status}, ${reason} `, ...links, cells.length > 12 ? ` and ${cells.length - 12} more` : "");
  });
  for (const row of D.rows.filter((r) => r.missing && (state.problem < 0 || r.s === state.problem) && visible(r.m)))
    items.push(h("li", {}, `${D.contestants[row.m]}: ${plural(row.missing, "cell")} of ${D.settings[row.s]}, ${D.budgets[row.b]}, not run`));
  $("reasons").replaceChildren(items.length ? h("ul", {}, ...items) : h("p", {}, "Every cell finished."));
}

// --- filters, theme, address ------------------------------------------------------------------------------------------

function drawLegend() {
  const present = new Set(D.rows.filter(scoped).map((row) => row.m));
  $("legend").replaceChildren(...all(D.contestants.length).filter((m) => present.has(m)).map((m) => h("button", { type: "button", "aria-pressed": String(visible(m)), "data-method": m, onclick: () => { state.hidden.has(m) ? state.hidden.delete(m) : state.hidden.add(m); drawAll(); $("legend").querySelector(`[data-method="${m}"]`).focus(); } }, mark(m), D.contestants[m])));
}
function drawTargets() {
  const q = quantities[state.metric];
  options($("solved-level"), (q ? q.within : []).map((text, i) => [i, `within ${text}`]), Math.min(1, (q ? q.within : []).length - 1));
}
const later = [["ranking", drawRanking], ["pareto", drawPareto], ["solved", drawSolved], ["curves", drawCurves], ["images", drawPictures], ["unfinished", drawUnfinished]];
const stale = new Set();
const sections = new IntersectionObserver((entries) => entries.forEach((entry) => { if (entry.isIntersecting) refresh(entry.target.id); }), { rootMargin: "600px" });
function refresh(id) { if (stale.delete(id)) later.find(([name]) => name === id)[1](); }
function drawAll() {
  drawAnswer();
  drawLegend();
  drawBoard();
  for (const [id] of later) { stale.add(id); sections.unobserve($(id)); sections.observe($(id)); }
  remember();
}
function remember(cell) {
  const words = new URLSearchParams();
  if (state.problem >= 0) words.set("problem", D.settings[state.problem]);
  if (ranked.length && state.metric !== ranked[0].name) words.set("metric", state.metric);
  if (state.budget !== D.budgets.length - 1) words.set("budget", state.budget < 0 ? "all" : D.budgets[state.budget]);
  if (state.search) words.set("methods", state.search);
  if (cell) words.set("cell", cell);
  history.replaceState(null, "", words.size ? `#${words}` : "#");
}
function recall() {
  const words = new URLSearchParams(location.hash.slice(1));
  if (D.settings.includes(words.get("problem"))) state.problem = D.settings.indexOf(words.get("problem"));
  if (D.metrics.some((m) => m.name === words.get("metric"))) state.metric = words.get("metric");
  if (words.get("budget") === "all") state.budget = -1;
  else if (D.budgets.includes(words.get("budget"))) state.budget = D.budgets.indexOf(words.get("budget"));
  state.search = words.get("methods") || "";
  return words.get("cell");
}
function theme(wanted) {
  if (wanted) { document.documentElement.dataset.theme = wanted; try { localStorage.setItem("inverse-theme", wanted); } catch { /* no storage for files: the choice lasts as long as the page */ } }
  const dark = (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  $("theme").textContent = dark ? "Light" : "Dark";
  $("theme").setAttribute("aria-label", dark ? "Use light colours" : "Use dark colours");
  for (const [node, spec] of drawn) if (spec.done) { spec.done = false; watcher.unobserve(node); watcher.observe(node); }
}

const cell = recall();
try { if (["light", "dark"].includes(localStorage.getItem("inverse-theme"))) document.documentElement.dataset.theme = localStorage.getItem("inverse-theme"); } catch { /* as above */ }
const count = D.status, missing = D.rows.reduce((sum, row) => sum + row.missing, 0), asked = D.cells.length + missing;
$("summary").textContent = [`${plural(new Set(D.contestants).size, "method")} on ${plural(D.settings.length, "problem")}`, plural(asked, "cell") + (count.ok === asked ? ", all finished" : `: ${count.ok || 0} finished${count.failed ? `, ${count.failed} failed` : ""}${count.skipped ? `, ${count.skipped} skipped` : ""}${missing ? `, ${missing} not run` : ""}`), D.started[0] ? (D.started[0].slice(0, 10) === D.started[1].slice(0, 10) ? D.started[0].slice(0, 10) : `${D.started[0].slice(0, 10)} to ${D.started[1].slice(0, 10)}`) : null].filter(Boolean).join(" · ");
options($("problem"), [...(D.settings.length > 1 ? [[-1, "all problems"]] : []), ...D.settings.map((label, i) => [i, label])], state.problem);
options($("metric"), D.metrics.map((m) => [m.name, m.label + arrow(m)]), state.metric);
options($("budget"), [...(D.budgets.length > 1 ? [[-1, "every budget"]] : []), ...D.budgets.map((label, i) => [i, label])], state.budget);
options($("pareto-axis"), ["seconds", "calls", "nfe", "vjp", "peak_memory"].filter((name) => D.rows.some((row) => row.est[name])).map((name) => [name, quantities[name].label]), "seconds");
options($("solved-axis"), ["calls", "seconds"].map((name) => [name, quantities[name].label]), D.budgets.length > 1 || D.curves.calls.length ? "calls" : "seconds");
options($("curves-axis"), [["steps", "steps"], ["calls", quantities.calls.label]].filter(([name]) => D.curves[name].length), "steps");
$("search").value = state.search;
for (const [id, read] of [["problem", Number], ["budget", Number], ["metric", String]]) $(id).addEventListener("change", () => { state[id] = read($(id).value); state.sort = id === "metric" ? null : state.sort; if (id === "metric") drawTargets(); drawAll(); });
$("search").addEventListener("input", () => { state.search = $("search").value.trim(); drawAll(); });
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("more").addEventListener("click", () => { state.limit = Infinity; drawBoard(); });
$("pareto-axis").addEventListener("change", drawPareto);
$("solved-level").addEventListener("change", drawSolved);
$("solved-axis").addEventListener("change", drawSolved);
$("curves-axis").addEventListener("change", drawCurves);
$("theme").addEventListener("click", () => theme($("theme").textContent.toLowerCase()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme());
addEventListener("resize", () => { clearTimeout(drawRanking.timer); drawRanking.timer = setTimeout(() => { if (!stale.has("ranking")) drawRanking(); }, 150); });
theme();
drawTargets();
drawAll();
const opened = D.cells.findIndex((c) => c.cell === cell);
if (cell && opened >= 0) openRecord(opened);
