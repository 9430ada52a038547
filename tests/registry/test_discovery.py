"""Plug-ins from distributions, files and classes, and plug-ins that fail."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from cli_fixtures import method_source, pixels, write_distribution, write_picture

import inverse
from inverse.errors import DuplicateNameError, OptionError, PluginError, UnknownNameError
from inverse.registry import discovery as plugins

pytest_plugins = "cli_fixtures"

BROKEN = "raise ValueError('no licence found\\nsecond line')\n"


def hook(signature: str, body: str) -> str:
    """Source of a plug-in that implements one hook."""
    return f"import inverse\n\n@inverse.hookimpl\ndef {signature}:\n    {body}\n"


@pytest.fixture
def install(tmp_path, monkeypatch, fresh_registry):
    """Install a fake distribution: install("name", {file: text}, entry point value)."""
    before = set(sys.modules)

    def put(name: str, files: dict[str, str], value: str, version: str = "1.0") -> Path:
        folder = write_distribution(
            tmp_path / "site" / name, name, files, {"things": value}, version
        )
        monkeypatch.syspath_prepend(str(folder))
        return folder

    yield put
    for name in set(sys.modules) - before:
        if name.startswith("outside_"):
            del sys.modules[name]


@pytest.fixture
def plugin_file(tmp_path):
    """Write a plug-in file: plugin_file(text, "name.py")."""

    def write(text: str, name: str = "own_method.py") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def state(module: str) -> plugins.Loaded:
    """The entry of a module in `inverse plugins`."""
    (row,) = [item for item in plugins.registry().loaded if item.module == module]
    return row


# --- an installed distribution ----------------------------------------------------------------


def test_entry_point_that_names_a_module_contributes_it(install):
    folder = install(
        "outside-one",
        {"outside_one.py": method_source("outside-one")},
        "outside_one",
        version="2.5",
    )
    assert inverse.get_method("outside-one", steps=4).steps == 4
    row = state("outside_one")
    assert (row.distribution, row.file, row.error) == (
        "outside-one 2.5",
        str(folder / "outside_one.py"),
        None,
    )


def test_entry_point_that_names_a_package_contributes_every_module_in_it(install):
    files = {
        "__init__.py": "",
        "a.py": method_source("many-a"),
        "b.py": method_source("many-b"),
        "_helper.py": BROKEN,
    }
    install(
        "outside-many",
        {f"outside_many/{name}": text for name, text in files.items()},
        "outside_many",
    )
    assert {"many-a", "many-b", "red-diff"} <= set(plugins.registry().table("inverse_methods"))


def test_broken_module_does_not_hide_its_neighbours(install, command):
    install(
        "outside-half",
        {
            "outside_half/__init__.py": "",
            "outside_half/bad.py": BROKEN,
            "outside_half/good.py": method_source("half-good"),
        },
        "outside_half",
    )
    assert "half-good" in command("methods").out
    listing = command("plugins")
    assert listing.code == 0
    assert "ValueError: no licence found" in listing.out
    assert "second line" not in listing.out
    assert state("outside_half.good").error is None


@pytest.mark.parametrize(
    "text", [BROKEN, "import nothing_of_that_name", "def f(:", "raise SystemExit(3)"]
)
@pytest.mark.parametrize("place", ["outside_bad.py", "outside_bad/__init__.py"])
def test_plugin_that_fails_to_import_leaves_the_first_party_ones(install, command, text, place):
    install(
        "outside-bad",
        {place: text, **({} if place.endswith("bad.py") else {"outside_bad/inner.py": ""})},
        "outside_bad",
    )
    listing = command("methods")
    assert listing.code == 0
    assert "red-diff" in listing.out
    assert any(
        item.error for item in plugins.registry().loaded if item.module.startswith("outside_bad")
    )


def test_entry_point_of_a_missing_module_is_shown(install):
    install("outside-gone", {}, "outside_gone.inner")
    assert "ModuleNotFoundError" in state("outside_gone.inner").error


def test_unknown_name_mentions_plugins_that_failed(install):
    install("outside-bad", {"outside_bad.py": BROKEN}, "outside_bad")
    with pytest.raises(
        UnknownNameError, match=r"known: .*\(outside_bad failed to load: see `inverse plugins`\)"
    ):
        inverse.get_method("outside-thing")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise RuntimeError('not today')", "inverse_methods: RuntimeError: not today"),
        ("return None", "inverse_methods: TypeError"),
        ("return [object()]", "has no `name`"),
    ],
)
def test_hook_that_fails_does_not_hide_its_neighbours(install, command, body, reason):
    install(
        "outside-hook",
        {"outside_hook.py": hook("inverse_methods()", body)},
        "outside_hook",
    )
    assert "red-diff" in command("methods").out
    assert reason in command("plugins").out


def test_hook_with_arguments_that_do_not_exist_is_shown(install):
    install(
        "outside-takes",
        {"outside_takes.py": hook("inverse_methods(colour)", "return []")},
        "outside_takes",
    )
    assert (
        "{'colour'} are declared in the hookimpl but can not be found in the hookspec"
        in state("outside_takes").error
    )


def test_misspelt_hook_is_shown_with_the_closest(install, command):
    install(
        "outside-typo",
        {"outside_typo.py": hook("inverse_method()", "return []")},
        "outside_typo",
    )
    assert (
        "no hook is called inverse_method; did you mean 'inverse_methods'?"
        in state("outside_typo").error
    )
    assert "no hook is called inverse_method" in command("plugins").out


def test_a_plugin_that_claims_a_known_name_loses_its_own(install, command):
    install("a-twin", {"outside_twin.py": method_source("red-diff")}, "outside_twin")
    table = plugins.registry().table("inverse_methods")
    assert table["red-diff"].module == "inverse_plugins.red_diff"
    assert "tv" in table
    assert re.search(
        r"method 'red-diff' is registered twice: by .*red_diff and by outside_twin",
        state("outside_twin").error,
    )
    assert command("methods").code == 0


def test_a_file_that_claims_a_known_name_is_refused_only_for_that_name(tmp_path):
    file = tmp_path / "twin.py"
    file.write_text(method_source("red-diff"))
    registry = plugins.Registry()
    registry.load_entry_points()
    registry.load_file(file)
    assert registry.find("inverse_methods", "tv").name == "tv"
    with pytest.raises(DuplicateNameError, match=r"twin\.py; remove or rename one"):
        registry.find("inverse_methods", "red-diff")


def test_a_class_registered_by_two_modules_is_not_a_duplicate(install):
    text = "from outside_shared import OutsideShared\n"
    text += hook("inverse_methods()", "return [OutsideShared]")
    install(
        "outside-shared", {"outside_shared.py": method_source("outside-shared")}, "outside_shared"
    )
    install("outside-again", {"outside_again.py": text}, "outside_again")
    assert inverse.get_method("outside-shared").name == "outside-shared"


def test_commands_of_a_plugin_work(install, command):
    text = """
import inverse

@inverse.hookimpl
def inverse_commands(app):
    @app.command("hello-there")
    def hello(name: str, loud: bool = False) -> None:
        print(f"hello {name}" + "!" * loud)
"""
    install("outside-command", {"outside_command.py": text}, "outside_command")
    assert command("hello-there", "you", "--loud").out == "hello you!\n"
    assert command("hello-there").code == 2
    assert command("goodbye").code == 2


def test_commands_hook_that_fails_leaves_the_others(install, command):
    text = hook("inverse_commands(app)", "raise RuntimeError('no')")
    install("outside-fails", {"outside_fails.py": text}, "outside_fails")
    unknown = command("goodbye")
    assert unknown.code == 2
    assert "No such command" in unknown.err
    assert command("methods").code == 0


def test_priors_and_samplers_and_metrics_arrive_through_hooks(
    install, command, solve, tiny_prior, tmp_path
):
    text = f"""
import inverse
from pathlib import Path

@inverse.hookimpl
def inverse_priors():
    return [Path({str(tiny_prior.with_suffix(".json"))!r}), Path("/nowhere/lost.json")]

@inverse.hookimpl
def inverse_samplers():
    def stand_still(denoise, x, sigmas, generator):
        "Goes nowhere."
        yield x
    return {{"stand-still": stand_still}}

@inverse.hookimpl
def inverse_metrics():
    return {{"darkest": lambda result: float(result.mean.min())}}
"""
    install("outside-rest", {"outside_rest.py": text}, "outside_rest")
    priors = command("priors")
    assert priors.code == 0
    assert "3 x any x any" in priors.out
    assert "no such file" in priors.out
    assert "Goes nowhere" in command("samplers").out
    outcome = solve("--prior", "tiny", "--input", write_picture(tmp_path / "a.png"), "--json")
    record = json.loads(outcome.out)
    assert record["prior"] == "tiny"
    assert "darkest" in record


# --- a file -----------------------------------------------------------------------------------


def test_method_in_a_file_is_listed_explained_and_run(command, solve, plugin_file, tmp_path):
    path = plugin_file(method_source("own-method"))
    assert "own-method" in command("methods", "--plugin", path).out
    plugins.registry.cache_clear()
    explained = command("methods", "--plugin", path, "own-method")
    assert "nobody, never" in explained.out
    assert "iterates." in explained.out
    plugins.registry.cache_clear()
    outcome = solve(
        "--method",
        "own-method",
        "--plugin",
        path,
        "--input",
        write_picture(tmp_path / "a.png"),
        "--set",
        "steps=2",
    )
    assert outcome.code == 0, outcome.err
    torch.testing.assert_close(
        inverse.Result.load(outcome.path / "result.h5").samples, torch.full((1, 1, 3, 20, 26), 0.5)
    )


def test_file_is_shown_with_its_path(command, plugin_file):
    path = plugin_file(method_source("own-method"))
    assert str(path) in command("plugins", "--plugin", path).out


def test_several_files_may_be_given(command, plugin_file):
    first = plugin_file(method_source("own-a"), "a.py")
    second = plugin_file(method_source("own-b"), "b.py")
    listing = command("methods", "--plugin", first, "--plugin", second).out
    assert "own-a" in listing
    assert "own-b" in listing


def test_missing_file_is_one_line(command):
    command("methods", "--plugin", "lost.py").refused("plug-in lost.py: no such file")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BROKEN, "ValueError: no licence found"),
        ("def f(:", "SyntaxError"),
        ("import lost_module", "lost_module"),
    ],
)
def test_file_that_fails_to_import_is_one_line(command, plugin_file, text, reason):
    command("solve", "--plugin", plugin_file(text)).refused("own_method.py", reason)


def test_file_that_is_not_python_is_one_line(command, plugin_file):
    command("methods", "--plugin", plugin_file("hello", "notes.txt")).refused(
        "notes.txt", "not a Python file"
    )


def test_listing_plugins_with_a_broken_file_shows_the_rest(command, plugin_file):
    outcome = command("plugins", "--plugin", plugin_file(BROKEN))
    assert outcome.code == 2
    assert "inverse_plugins.red_diff" in outcome.out
    assert outcome.err.startswith("inverse: plug-in ")


def test_observers_see_every_iterate_and_the_result(solve, plugin_file, tmp_path):
    text = f"""
import inverse
log = open({str(tmp_path / "log")!r}, "w", buffering=1)

@inverse.hookimpl
def inverse_step(index, total, x, misfit):
    print("step", index, total, tuple(x.shape), misfit() > 0, file=log)

@inverse.hookimpl
def inverse_result(result):
    print("result", tuple(result.samples.shape), file=log)
    log.close()
"""
    picture = write_picture(tmp_path / "a.png", pixels(16, 16))
    observed = solve(
        "--method",
        "red-diff",
        "--steps",
        3,
        "--plugin",
        plugin_file(text),
        "--input",
        picture,
        "--json",
    )
    assert observed.code == 0, observed.err
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines == [f"step {i} 3 (1, 3, 16, 16) True" for i in (1, 2, 3)] + [
        "result (1, 1, 3, 16, 16)"
    ]
    plugins.registry.cache_clear()
    alone = solve("--method", "red-diff", "--steps", 3, "--input", picture, "--json")
    costs = [
        {key: json.loads(outcome.out)[key] for key in ("nfe", "vjp", "A", "A_adjoint")}
        for outcome in (observed, alone)
    ]
    assert costs[0] == costs[1]  # observers do not count


def test_observer_may_omit_arguments(solve, plugin_file, tmp_path):
    text = hook("inverse_step(index)", f"open({str(tmp_path / 'log')!r}, 'a').close()")
    assert (
        solve("--plugin", plugin_file(text), "--input", write_picture(tmp_path / "a.png")).code == 0
    )
    assert (tmp_path / "log").exists()


def test_without_observers_there_is_no_step_hook(fresh_registry):
    from inverse.command.solve import step_hook

    assert step_hook() is None


# --- a class ----------------------------------------------------------------------------------


@pytest.fixture
def posterior():
    """Two noisy pictures under a flat prior."""
    truth = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return inverse.get_problem("denoise").posterior(
        truth, prior=inverse.FlatPrior((3, None, None), shift=0.5, scale=0.5)
    )


@dataclass(frozen=True)
class Echo(inverse.Method):
    """Answer the pseudo-inverse."""

    name = "echo"
    times: int = 1

    def run(self, posterior, samples, generator):
        for _ in range(self.times):
            yield posterior.pseudo_inverse()


@pytest.mark.parametrize("method", [Echo, Echo(times=2)])
def test_class_and_instance_are_solved_without_being_registered(posterior, method):
    result = inverse.solve(posterior, method, samples=3)
    assert result.samples.shape == (2, 3, 3, 8, 8)
    assert result.provenance["method"]["name"] == "echo"


def test_registered_name_is_solved(posterior):
    assert (
        inverse.solve(posterior, "pseudo-inverse").provenance["method"]["name"] == "pseudo-inverse"
    )


def test_an_abstract_method_is_refused_by_python():
    with pytest.raises(TypeError, match="abstract"):
        inverse.Method()


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: inverse.get_method("rediff"), UnknownNameError, "did you mean 'red-diff'"),
        (lambda: inverse.get_method("red-diff", stps=3), UnknownNameError, "did you mean 'steps'"),
        (lambda: inverse.get_method("red-diff", steps="x"), OptionError, "must be an integer"),
        (lambda: inverse.get_problem("deblu"), UnknownNameError, "did you mean 'deblur'"),
        (lambda: inverse.get_sampler("dim"), UnknownNameError, "did you mean 'ddim'"),
        (lambda: plugins.registry().load_file(Path("lost.py")), PluginError, "no such file"),
    ],
)
def test_python_api_says_what_would_work(call, error, said):
    with pytest.raises(error, match=said):
        call()
