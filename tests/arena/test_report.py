"""The report as text: its tables, its data, its thumbnails, and its protection from records."""

import base64
import csv
import dataclasses
import gzip
import hashlib
import html.parser
import io
import json
import re

import numpy as np
import pytest
from arena_records import record, solved, table, write
from PIL import Image

from inverse.arena import report, tradeoffs
from inverse.arena.csv_table import csv_table
from inverse.arena.gallery import CAP, VIRIDIS, gallery
from inverse.arena.groups import grouped
from inverse.arena.labels import budget_label, contestant_labels, setting_labels
from inverse.arena.markdown import markdown
from inverse.arena.payload import payload
from inverse.arena.ranking import compare
from inverse.arena.record import read_records
from inverse.arena.tradeoffs import front
from inverse.errors import InputError
from inverse.result import Result

HOSTILE = "<script>window.pwned=1</script>|`'\"&*_[x](javascript:alert(1))"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Real results of the gaussian problem with artifacts."""
    folder = tmp_path_factory.mktemp("real") / "records"
    return folder, solved(folder)


def parts(page):
    """The page's elements as (tag, attributes, text)."""
    found = []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            found.append([tag, dict(attributes), ""])

        def handle_endtag(self, tag):
            found.append(["", {}, ""])

        def handle_data(self, text):
            if found:
                found[-1][2] += text

    Reader().feed(page)
    return found


def embedded(page, name):
    return json.loads(
        next(
            text
            for tag, attributes, text in parts(page)
            if tag == "script" and attributes.get("id") == name
        )
    )


# --- Markdown ---------------------------------------------------------------------------------


def test_markdown_by_hand():
    rows = [
        record("a", truth=t, metrics={"psnr": p, "misfit": m}, seconds=1.5)
        for t, p, m in [(0, 20.0, 0.5), (1, 22.0, 0.7)]
    ]
    rows += [
        record("b", truth=0, metrics={"psnr": 20.5, "misfit": 1.1}, seconds=12.0),
        record("b", truth=1, metrics={}, status="failed", reason="diverged"),
    ]
    assert markdown(rows) == (
        "**deblur**, no limit\n"
        "\n"
        "| method | PSNR (dB) ↑ | residual χ² → 1 | evaluations ↓ | VJPs ↓ | seconds ↓ "
        "| efficiency | cells |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|\n"
        "| a | **21.00 [20.00, 22.00]** | **0.600** | 100 | 0 | 1.5 | 67 % | 2 |\n"
        "| b | 20.50 | 1.100 | 100 | 0 | 12 | 8 % | 1 of 2 |\n"
        "\n"
        "- 1 of b failed: diverged\n"
    )


def test_a_mean_over_fewer_cells_is_never_the_best():
    """`b` has only the easy truth: the other was never run."""
    text = markdown(
        [
            record("a", truth=0, psnr=30.0),
            record("a", truth=1, psnr=20.0),
            record("b", truth=0, psnr=29.0),
        ]
    )
    assert "| b | 29.00 | 100 | 0 | 2 | 50 % | 1 of 2 |" in text
    assert "| a | **25.00 [20.00, 30.00]** |" in text


def test_markdown_has_a_table_for_each_setting_and_budget():
    text = markdown(table(truths=2, budgets=(20, 100), problems=2, methods=4))
    assert re.findall(r"^\*\*.*$", text, re.M) == [
        f"**{p}**, {n} evaluations + VJPs"
        for p in ("deblur", "super-resolution")
        for n in (20, 100)
    ]
    assert text.count("\n| ") == 4 * (1 + 4)


def test_markdown_of_hostile_names_is_inert():
    text = markdown(
        [record(HOSTILE, f"{HOSTILE}\n\n# title", status="failed", reason=HOSTILE, psnr=None)]
    )
    row = next(line for line in text.splitlines() if line.startswith("| ") and "script" in line)
    assert "<" not in text
    assert len(re.findall(r"(?<!\\)\|", row)) == len(
        re.findall(r"\|", text.splitlines()[2])
    )  # as many columns as the head
    assert "\n# title" not in text
    assert not re.search(r"(?<!\\)[`\[\]]", row)


def test_an_unknown_metric_is_shown_without_a_rank():
    text = markdown([record("a", metrics={"mystery": 1.0}), record("b", metrics={"mystery": 2.0})])
    assert "| mystery |" in text
    assert "**1" not in text


# --- names ------------------------------------------------------------------------------------


def test_labels_hold_the_options_that_differ():
    rows = [record("dps", options={"zeta": z, "eta": 1.0}) for z in (0.5, 1.0)] + [
        record("tv", options={"strength": 0.1}),
        record("dps", options={"eta": 1.0, "zeta": 1.0}, samples=8),
    ]
    labels = contestant_labels([group.contestant for group in grouped(rows)])
    assert labels == [
        "dps zeta=0.5 samples=1",
        "dps zeta=1 samples=1",
        "tv",
        "dps zeta=1 samples=8",
    ]


def test_labels_of_settings_hold_options_crop_prior_and_device():
    rows = [record(problem_options={"kernel": k}) for k in ("gaussian", "motion")] + [
        record("x", "denoise"),
        record("x", "denoise", device="cuda"),
    ]
    labels = setting_labels([group.setting for group in grouped(rows)])
    assert labels == [
        "deblur kernel=gaussian",
        "deblur kernel=motion",
        "denoise device=cpu",
        "denoise device=cuda",
    ]


def test_labels_of_budgets():
    assert budget_label('{"nfe": 100, "seconds": 2.5}') == "100 evaluations + VJPs, 2.5 s"
    assert budget_label("null") == "no limit"


# --- what the page carries --------------------------------------------------------------------


def test_every_record_is_in_the_page_once():
    rows = table(truths=3)
    data = payload(rows)
    assert sorted(cell["cell"] for cell in data["cells"]) == sorted(r.cell for r in rows)
    counted = [
        index for row in data["rows"] for index in range(row["at"], row["at"] + sum(row["n"]))
    ]
    assert counted == list(range(len(rows)))
    assert data["status"] == {
        status: sum(r.status == status for r in rows) for status in {r.status for r in rows}
    }


def test_the_page_holds_the_statistics():
    rows = table(truths=4, problems=2)
    data, groups = payload(rows), grouped(rows)
    for shown, group in zip(data["rows"], groups, strict=True):
        assert data["contestants"][shown["m"]] == json.loads(group.contestant)["name"]
        if found := group.estimate("psnr"):
            assert shown["est"]["psnr"] == pytest.approx(
                [found.mean, found.low, found.high, found.truths], rel=1e-5
            )
    together = next(c for c in data["comparisons"] if c["metric"] == "psnr" and c["s"] == -1)
    compared = compare(groups, "psnr")
    assert together["ranks"] == pytest.approx(compared.ranks, abs=1e-3)
    assert [data["contestants"][m] for m in together["order"]] == [
        json.loads(c)["name"] for c in compared.contestants
    ]
    (deblur,) = [i for i, setting in enumerate(data["settings"]) if setting == "deblur"]
    own = [i for i, row in enumerate(data["rows"]) if row["s"] == deblur]
    assert data["fronts"][f"psnr|seconds|{deblur}|0"] == [
        own[i] for i in front([groups[i] for i in own], "psnr", "seconds")
    ]
    reached = tradeoffs.solved(groups, "psnr", 1.0, "calls")
    shown = {
        data["families"][f]: [data["cells"][i]["cell"] for i in cells]
        for f, cells in enumerate(data["solved"]["psnr|1|calls"])
    }
    assert shown == {
        json.loads(family)["name"]: [r.cell for r in cells] for family, cells in reached.items()
    }


def test_a_cell_carries_its_command():
    (cell,) = payload([record(command="inverse bench reproduce 'a b' --out x")])["cells"]
    assert cell["command"] == "inverse bench reproduce 'a b' --out x"


def test_the_page_is_a_function_of_its_records():
    rows = table(truths=2, problems=2)
    assert report.page(rows) == report.page(rows)


def test_infinity_and_nan_do_not_break_the_page():
    data = embedded(
        report.page([record(metrics={"psnr": float("inf"), "ssim": float("nan")}), record("b")]),
        "data",
    )
    assert data["cells"][0]["metrics"] == {"psnr": None, "ssim": None}


# --- what it does not do ----------------------------------------------------------------------


def test_the_page_refers_to_no_other_file():
    """No element has an external address; artifacts are linked from JSON by relative paths."""
    page = report.page(table(truths=2, problems=1))
    for tag, attributes, _ in parts(page):
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            assert attributes.get(name) is None or attributes[name].startswith(("#", "data:")), (
                tag,
                attributes,
            )
        assert not any(name.startswith("on") for name in attributes)
    assert "@import" not in page
    assert "url(" not in re.sub(r"data:[^\"]*", "", page)


def test_the_policy_allows_two_scripts_and_no_connection():
    elements = parts(report.page([record()]))
    policy = next(
        a["content"]
        for tag, a, _ in elements
        if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    plotly = gzip.decompress(
        base64.b64decode(next(text for tag, a, text in elements if a.get("id") == "plotly"))
    )
    (script,) = [text for tag, a, text in elements if tag == "script" and not a]
    assert policy.startswith("default-src 'none'; ")
    for source in (script.encode(), plotly):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(source).digest()).decode()}'" in policy
    assert "connect-src" not in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    assert "eval" not in policy


def test_hostile_names_stay_in_their_json():
    hostile = record(
        HOSTILE,
        HOSTILE,
        options={HOSTILE: HOSTILE},
        status="failed",
        reason="</script><img src=x onerror=alert(1)>",
        command="</script>",
        psnr=None,
    )
    page = report.page([hostile, record()])
    assert "<script>window.pwned" not in page
    assert "<img src=x" not in page
    data = embedded(page, "data")
    assert HOSTILE in data["contestants"][1] + data["contestants"][0]
    assert "</script>" in [cell.get("command") for cell in data["cells"]]


def test_artifact_links_stay_relative():
    (cell,) = payload([record(artifact="artifacts/a b#?.h5")], "../results/records")["cells"]
    assert cell["href"] == "../results/records/artifacts/a%20b%23%3F.h5"
    (cell,) = payload([record(artifact="javascript:alert(1)")])["cells"]
    assert cell["href"] == "./javascript%3Aalert%281%29"


# --- files ------------------------------------------------------------------------------------


def test_write_makes_one_file(tmp_path, real):
    folder, rows = real
    out = report.write(folder, tmp_path / "site" / "index.html")
    assert [p.name for p in out.parent.iterdir()] == ["index.html"]
    data = embedded(out.read_text(), "data")
    assert len(data["cells"]) == len(rows)
    links = {cell["cell"]: (out.parent / cell["href"]).resolve() for cell in data["cells"]}
    assert links == {r.cell: (folder / r.artifact).resolve() for r in rows}
    assert report.write(folder, tmp_path) == tmp_path / "report.html"


def test_the_table_as_csv():
    """Its numbers are those of the statistics; a name that looks like a formula stays text."""
    rows = [
        record(truth=0, psnr=20.0),
        record(truth=1, psnr=24.0),
        record(truth=0, status="failed", psnr=None, method="=1+1"),
    ]
    table = list(csv.DictReader(io.StringIO(csv_table(rows))))
    assert [row["method"][:5] for row in table] == [table[0]["method"][:5], "'=1+1"]
    assert float(table[0]["psnr"]) == 22.0
    assert float(table[0]["psnr_low"]) < 22 < float(table[0]["psnr_high"])
    assert (table[0]["psnr_truths"], table[0]["ok"], table[1]["failed"]) == ("2", "2", "1")
    assert table[1]["psnr"] == ""


def test_missing_records_are_an_error_and_leave_no_file(tmp_path):
    with pytest.raises(InputError, match=r"no records\.jsonl"):
        report.write(tmp_path / "nothing", tmp_path / "x.html")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="no records"):
        report.page([])


def test_an_unwritable_path_is_an_error(tmp_path):
    write(tmp_path / "records", [record()])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        report.write(tmp_path / "records", tmp_path / "file" / "x.html")


# --- pictures ---------------------------------------------------------------------------------


def pixels(uri):
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/webp;base64,"))))
    )


def test_thumbnails_show_the_artifacts(real):
    """The thumbnails of the 8 x 8 fields of `gaussian` are exact up to the rounding to bytes."""
    folder, _ = real
    found = gallery(folder, read_records(folder))
    assert (len(found.scenes), found.beyond, found.unusable) == (2, 0, {})
    for scene in found.scenes:
        assert len(scene.means) == len(scene.stds) == len(scene.records) == 2
        for shown, mean in zip(scene.records, scene.means, strict=True):
            result = Result.load(folder / shown.artifact)
            expected = (result.mean[0, 0].clamp(0, 1).numpy() * 255).round()
            assert pixels(mean).shape == (8, 8, 3)
            assert np.abs(pixels(mean)[..., 0] - expected).max() <= 1
        assert (
            np.abs(
                pixels(scene.truth)[..., 0] - (result.truth[0, 0].clamp(0, 1).numpy() * 255).round()
            ).max()
            <= 1
        )


def test_one_scale_of_uncertainty_for_all_methods(real):
    """The brightest value of all methods is the end of the scale; less uncertainty is darker."""
    folder, _ = real
    scene = gallery(folder, read_records(folder)).scenes[0]
    stds = {
        r.method["name"]: Result.load(folder / r.artifact).std[0, 0].numpy() for r in scene.records
    }
    assert scene.std_high == pytest.approx(
        max(np.quantile(std, 0.995) for std in stds.values()), rel=1e-5
    )
    for shown, uri in zip(scene.records, scene.stds, strict=True):
        brightness = pixels(uri).astype(float).sum(-1).ravel()
        std = stds[shown.method["name"]].ravel()
        if std.max() == 0:  # a deterministic method
            assert (pixels(uri) == np.array(VIRIDIS[0])).all()
        else:
            assert np.corrcoef(brightness, std)[0, 1] > 0.9


def test_a_changed_artifact_is_not_shown(real, tmp_path):
    folder, rows = real
    wrong = [
        dataclasses.replace(rows[0], artifact_sha256="00" * 32),
        dataclasses.replace(rows[1], artifact="../escape.h5"),
        dataclasses.replace(rows[2], artifact="artifacts/gone.h5"),
        rows[3],
    ]
    found = gallery(folder, wrong)
    assert [found.unusable[r.cell].split(": ")[1] for r in wrong[:3]] == [
        "its hash is not the one in the record",
        "lies outside the folder of the records",
        "no such file",
    ]
    assert [r.cell for scene in found.scenes for r in scene.records] == [rows[3].cell]


def test_the_size_cap_holds_and_is_reported(real):
    folder, rows = real
    one = gallery(folder, rows).scenes[0].size
    found = gallery(folder, rows, cap=one + 10)
    assert (len(found.scenes), found.beyond) == (1, 1)
    assert sum(scene.size for scene in gallery(folder, rows, cap=CAP).scenes) <= CAP
    assert embedded(report.page(rows, found), "pictures")["beyond"] == 1


def test_results_without_an_image_have_no_thumbnail(tmp_path):
    import inverse

    result = inverse.solve(
        inverse.get_problem("bimodal").posterior(seed=0),
        inverse.get_method("dps", steps=4),
        samples=2,
    )
    result.save(tmp_path / "a.h5")
    assert gallery(tmp_path, [record(artifact="a.h5")]).scenes == []


def test_nan_among_options_does_not_break_the_page():
    assert embedded(report.page([record(options={"zeta": float("nan")})]), "data")["tables"][
        "method"
    ][0]["options"] == {"zeta": None}
