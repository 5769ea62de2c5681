"""What is typed, and where: limits, which value wins, what is refused; other Pythons, notebooks."""

import ast
import functools
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
import types
from dataclasses import fields
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from conftest import ROOT, SCRIPT, assert_refused, command, contents, run, runml

KINDS = (runml.SimulationSettings, runml.TrainingSettings, runml.RunSettings)
SETTINGS = {setting.name: setting for kind in KINDS for setting in fields(kind)}
PROPORTIONS = ("migration_prior", "gene_flow_start", "gene_flow_stop")
NUMBERS = {  # below the limits, both ends, above the limits
    **dict.fromkeys(["n_reps", "n_test_reps"], ("0", "1", "1e7", "10000001")),
    **dict.fromkeys(["epochs", "batch_size"], ("0", "1", "100000", "100001")),
    "workers": ("0", "1", "4096", "4097"),
    "sample_size": ("0", "1", "250", "251"),
    "sequence_length": ("0", "1", "1e9", "1000000001"),
    "n_loci": ("0", "1", "1e6", "1000001"),
    "mutation_rate": ("0", "1e-300", "0.01", "0.010001"),
    "recombination_rate": ("-1e-300", "0", "0.5", "0.500001"),
    "tdiv_prior": ("0", "1e-300", "1e9", "1000000001"),
    "ne_prior": ("0.999", "1", "1e9", "1000000001"),
    "size_change_prior": ("0", "1e-300", "1000", "1000.001"),
    **dict.fromkeys(PROPORTIONS, ("-1e-300", "0", "1", "1.000001")),
    "seed": ("-1", "0", "4294967295", "4294967296"),
    "layers": ("0", "1", "6", "7"),
    "dropout": ("-1e-300", "0", "0.999999", "1"),
    "learning_rate": ("0", "1e-300", "10", "10.000001"),
}
NO_NUMBERS = ("", " ", "nan", "-nan", "inf", "-inf", "True", "yes", "ten", "1,000", "0x10", "[]")
PRIORS = [name for name, setting in SETTINGS.items() if setting.type is runml.Prior]


def typed(name, *words):
    """The value that an option gets."""
    command = next(each for each in ("simulate", "train", "test") if name in runml.USES[each])
    return runml.parse_options([f"--{command}", f"--{name}", *words]).typed[name]


def refusal(capsys, folder, *words):
    """The line with which a command line is refused that makes no sense."""
    before = contents(folder)
    done = run(capsys, *words, "--data_dir", folder)
    assert_refused(done, status=2)
    assert done[1] == ""
    assert contents(folder) == before
    return done[2]


@pytest.mark.parametrize("name", NUMBERS)
def test_limits(capsys, tmp_path, name):
    below, low, high, above = NUMBERS[name]
    for word in (low, high):
        value = typed(name, word)
        ends = (value.a, value.b) if isinstance(value, runml.PerSpecies) else (value, value)
        ends = (value.low, value.high) if isinstance(value, runml.Prior) else ends
        assert ends == (float(word), float(word))
        assert SETTINGS[name].type is not int or isinstance(value, int)
    is_whole = SETTINGS[name].type in (int, runml.PerSpecies)
    for word in (below, above, *NO_NUMBERS, *["5.5"] * is_whole):
        error = refusal(capsys, tmp_path, "--simulate", "--train", "--test", f"--{name}", word)
        assert f"--{name}: {word}" in error or word.strip() == ""
        assert " number in [" in error
        assert not (word in (below, above) and float(word) in (float(low), float(high)))


@pytest.mark.parametrize("name", PRIORS)
def test_priors_have_one_two_or_three_words(capsys, tmp_path, name):
    others = {"mutation_rate": ("0.002", "0.004"), "ne_prior": ("200", "400")}
    low, high = others.get(name, ("0.2", "0.4"))
    numbers = float(low), float(high)
    assert typed(name, low) == runml.Prior(numbers[0], numbers[0])
    assert typed(name, low, high) == runml.Prior(*numbers)
    assert typed(name, low, high, "log") == runml.Prior(*numbers, "log")
    assert typed(name, low, low, "log").draw(np.random.default_rng(1)) == numbers[0]
    for words in (
        *([high, low], [high, low, "log"], [low, high, "lin"], [low, high, high], [low, "log"]),
        *([low, high, "log", "log"], [low, "inf"], [f"{low}-{high}"], ["0", high, "log"], []),
    ):
        assert f"--{name}: " in refusal(capsys, tmp_path, "--simulate", f"--{name}", *words)


REFUSED = [  # on a model of two layers with 10 + 10 individuals, or its data
    ("", "--simulate, --train, --test or --predict"),
    ("--simulate=yes", "--simulate"),
    ("--train --learning_rat 1e-5", "--learning_rat"),
    ("--simulate --sample_size 24 24 24", "24 24 24: takes one number, or two"),
    ("--predict", "--predict"),
    ("--simulate --dask_scheduler=", "--dask_scheduler"),
    ("--simulate --dask_scheduler tcp://127.0.0.1:1 --workers 2", "--workers"),
    ("--train --settings own.json", "--settings"),
    ("--test --bootstrap own.npy", "--bootstrap"),
    ("--predict own.npy two.npy --bootstrap own.npy", "--bootstrap"),
    # No command has a use for it.
    ("--simulate --layers 2", "--layers has no use in --simulate"),
    ("--train --workers 2", "--workers has no use in --train"),
    # It contradicts what was saved.
    ("--test --layers 3", "--layers 3: the model was trained with 2"),
    ("--test --folded", "--folded on: the model was trained with off"),
    ("--predict own.npy --seed 9", "trained with 1234"),
    ("--predict own.npy --sample_size 5", "trained with 10 10"),
    ("--train --tdiv_prior 5e4 5e5 log", "the data were simulated with 50000 500000"),
    ("--train --test --sample_size 5", "simulated with 10 10"),
    ("--simulate --test --sample_size 5", "trained with 10 10"),
    # Each is possible, but not together.
    ("--simulate --train --n_reps 4", "--n_reps 4"),
    ("--simulate --migration_prior 0", "--migration_prior"),
    ("--simulate --gene_flow_start 0", "--gene_flow_start"),
    ("--train --test --gene_flow_stop 0.5", "--gene_flow_stop"),
    ("--simulate --ne_prior 1e6", "mutations a site"),
    ("--simulate --n_loci 1e6", "--n_loci"),
    ("--simulate --n_loci 1e5 --ne_prior 10 1e7 log", "--n_loci"),
    ("--simulate --sequence_length 1 --mutation_rate 1e-12", "--mutation_rate"),
]
AGREES = (
    *("--test --layers 2 --n_reps 200", "--train --sample_size 10 --tdiv_prior 50000 500000"),
    *("--predict own.npy --seed 1234", "--train --test --layers 3"),
)


@pytest.fixture
def asked(monkeypatch):
    """In place of the commands: what each was asked to do. The model is read only once."""
    calls = {}
    for name in ("simulate", "train", "test", "predict"):
        monkeypatch.setattr(runml, name, lambda *words, _name=name: calls.update({_name: words}))
    monkeypatch.setattr(runml, "load_network", load_once)
    return calls


load_once = functools.cache(runml.load_network)


@pytest.fixture
def own(tmp_path, monkeypatch, trained):
    """Spectra of the trained model's sample size, and of another one, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name, cut in (("own", 21), ("two", 21), ("other", 11)):
        np.save(f"{name}.npy", np.load(trained[0] / "test_sfs.npy")[0, :cut, :, 0])


@pytest.mark.parametrize(("words", "culprit"), REFUSED, ids=[words for words, _ in REFUSED])
def test_what_makes_no_sense_is_refused_before_anything_is_done(
    capsys, trained, own, asked, words, culprit
):
    assert culprit in refusal(capsys, trained[0], *words.split())
    assert not asked


@pytest.mark.parametrize("words", AGREES)
def test_what_agrees_with_what_was_saved_may_be_typed(capsys, trained, own, asked, words):
    assert run(capsys, *words.split(), "--data_dir", trained[0]) == (0, "", "")
    assert list(asked) == [word[2:] for word in words.split() if word[2:] in asked]


def test_commands_run_in_their_order_whatever_was_typed_first(capsys, own, asked):
    words = ("--predict", "own.npy", "--test", "--train", "--simulate", "--epochs", 7)
    assert run(capsys, *words, "--data_dir", "new")[0] == 0
    assert list(asked) == ["simulate", "train", "test", "predict"]
    assert asked["train"][1].epochs == 7


@pytest.mark.parametrize(
    ("words", "status", "culprit"),
    [
        ("--train", 1, "run runml --simulate first"),
        ("--test", 1, "run runml --train first"),
        ("--simulate --predict own.npy", 1, "run runml --train first"),
        ("--simulate --train --predict nowhere.npy", 1, "nowhere.npy"),
        ("--simulate --train --predict other.npy", 1, "other.npy"),
        ("--simulate --settings nowhere.json", 1, "nowhere.json"),
        ("--data_dir", 2, "--data_dir"),
        ("--simulate --data_dir own.npy", 1, "own.npy"),
    ],
)
def test_a_refused_command_leaves_no_folder_behind(
    capsys, tmp_path, own, asked, words, status, culprit
):
    before = sorted(tmp_path.rglob("*"))
    done = run(capsys, *words.split())
    assert_refused(done, culprit, status=status)
    assert done[1] == ""
    assert not asked
    assert sorted(tmp_path.rglob("*")) == before


def test_typed_beats_saved_beats_default(capsys, tmp_path, trained, toy):
    saved = json.loads((trained[0] / "simulated_settings.json").read_text())
    saved |= {"n_reps": 30, "n_loci": 4, "seed": 77, "asymmetric": True}
    saved |= {"ne_prior": [5e3, 6e3, "log"]}
    del saved["tdiv_prior"]  # as from before there was such an option
    (tmp_path / "own.json").write_text(json.dumps(saved))
    words = ("--settings", tmp_path / "own.json", "--n_loci", 3, "--sample_size", 2, 4)
    assert run(capsys, "--simulate", *words, "--data_dir", tmp_path / "data")[0] == 0
    found = json.loads((tmp_path / "data" / "simulated_settings.json").read_text())
    expected = {"n_loci": 3, "sample_size": [2, 4], "sequence_length": 20_000, "seed": 77}
    expected |= {"n_reps": 30, "asymmetric": True, "ne_prior": [5e3, 6e3, "log"]}
    expected |= {"tdiv_prior": [5e4, 5e5]}
    assert {name: found[name] for name in expected} == expected
    assert np.load(tmp_path / "data" / "simulated_sfs.npy").shape == (60, 5, 9, 1)


def test_a_training_has_the_seed_of_the_data_and_a_test_the_settings_of_the_model(
    capsys, copy, asked
):
    path = copy / "simulated_settings.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 5, "n_loci": 2}))
    for words, seed in ((), 5), (("--seed", 6), 6):
        assert run(capsys, "--train", *words, "--data_dir", copy)[0] == 0
        assert asked["train"][1] == runml.TrainingSettings(seed=seed)
    for path in copy.glob("simulated_*"):
        path.unlink()
    assert run(capsys, "--test", "--n_loci", 3, "--data_dir", copy)[0] == 0
    found = asked["test"][2]
    assert (found.n_reps, found.settings.seed, found.settings.n_loci) == (1000, 1234, 3)
    assert found.settings.sequence_length == 20_000


def test_a_test_has_the_seed_of_a_training_on_bare_arrays(capsys, copy, no_pictures):
    for name in ("settings.json", "parameters.npy"):
        (copy / f"simulated_{name}").unlink()
    words = ("--data_dir", copy, "--n_test_reps", 5, "--sequence_length", 2_000)
    assert run(capsys, "--train", "--seed", 7, "--epochs", 1, *words[:2])[0] == 0
    assert run(capsys, "--test", *words)[0] == 0
    assert json.loads((copy / "test_results.json").read_text())["seed"] == 7


@pytest.mark.parametrize("also", [(), ("--simulate", "--n_reps", 20)], ids=["alone", "simulate"])
def test_a_test_under_other_settings_leaves_the_honest_one_alone(copy, capsys, toy, also):
    before = {path.name: path.read_bytes() for path in copy.glob("test_*")}
    words = (*also, "--test", "--n_test_reps", 10, "--data_dir", copy)
    status, printed, _ = run(capsys, *words, "--mutation_rate", 2e-7, "--seed", 5)
    assert status == 0
    told = "Testing under --mutation_rate 2e-07; the model was trained under 1e-07."
    assert told in printed
    after = {path.name: path.read_bytes() for path in copy.glob("test_*")}
    new = {name: after[name] for name in after.keys() - before.keys()}
    assert {name: after[name] for name in before} == before
    names = {name for name in before if not name.endswith(".png")}
    assert new.keys() == {name.replace("test_", "test_elsewhere_") for name in names}
    saved = json.loads(new["test_elsewhere_settings.json"])
    assert (saved["mutation_rate"], saved["seed"], saved["n_reps"]) == (2e-7, 5, 10)
    assert json.loads(new["test_elsewhere_results.json"])["n_test"] == 20

    status, printed, _ = run(capsys, "--test", "--n_test_reps", 10, "--seed", 5, "--data_dir", copy)
    assert status == 0
    assert "Testing under" not in printed
    assert json.loads((copy / "test_results.json").read_text())["seed"] == 5
    assert (copy / "test_elsewhere_results.json").read_bytes() == new["test_elsewhere_results.json"]


# What the command line says about itself.


def test_a_success_names_the_next_command(trained):
    told = re.findall(r"^Next: (.*)$", trained[1], re.MULTILINE)
    words = [set(re.findall(r"runml --(\w+)", line)) for line in told]
    assert words == [{"train"}, {"train", "test"} & words[1] | {"test"}, {"predict"}]


def test_help_lists_every_option_and_ends_with_examples(capsys):
    status, printed, error = run(capsys, "--help")
    assert (status, error) == (0, "")
    assert NUMBERS.keys() == SETTINGS.keys() - {"asymmetric", "folded", "dask_scheduler"}
    for name in (*SETTINGS, "settings", "bootstrap", "data_dir", "version", *runml.USES):
        assert re.search(rf"--{name}\b", printed), name
    told = " ".join(printed.split())
    for name, setting in SETTINGS.items():
        assert setting.metadata["meaning"] in told, name
    *_, last = printed.strip().partition("examples:")
    examples = [line.split()[:2] for line in last.strip().splitlines()]
    assert examples == [["runml", f"--{name}"] for name in ("simulate", "train", "test")]
    for line in last.strip().splitlines():
        runml.parse_options(line.split()[1:])
    assert re.fullmatch(r"runml \d+(\.\d+)+\n", run(capsys, "--version")[1])


def test_the_readme_lists_every_option_with_its_default():
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "data/README.md")]
    text = next(text for text in texts if "\n| `--n_reps` |" in text)
    table = next(part for part in text.split("\n\n") if "\n| `--n_reps` |" in part)
    listed = dict(re.findall(r"^\| `--(\w+)` \| *(.*?) *\|", table, re.MULTILINE))
    assert listed.keys() - {"bootstrap"} == {*SETTINGS, "settings", "data_dir"}
    for name, setting in SETTINGS.items():
        words = listed[name].strip("`").split()
        if setting.type is bool:
            assert words == ["off"], name
        elif setting.default is not None:
            assert typed(name, *words) == setting.default, name


def test_the_block_for_uv_equals_the_requirements():
    source = runml.Path(runml.__file__).read_text(encoding="utf-8")
    (block,) = re.findall(r"^# /// script\n((?:#(?: .*)?\n)+?)# ///$", source, re.MULTILINE)
    block = tomllib.loads("".join(line[2:] for line in block.splitlines(keepends=True)))
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert sorted(block["dependencies"]) == sorted(filter(None, lines))
    assert block["requires-python"].startswith(">=3.11")


# ------------------------------ where people really start it ------------------------------

STATE = """
import os, signal, sys, warnings
def state():
    numbers = (signal.SIGINT, signal.SIGTERM)
    streams = sys.stdout, sys.stderr, sys.stdout.line_buffering, sys.stderr.errors
    return [*map(signal.getsignal, numbers), *streams, dict(os.environ), list(warnings.filters)]
"""
IMPORT = f"""{STATE}
import numpy
before = state()
import Machine_Learning_for_Population_Genetics_V2
assert state() == before
heavy = {{"tensorflow", "keras", "matplotlib", "sklearn", "scipy", "msprime", "distributed"}}
print(sorted(heavy & set(sys.modules)))
"""
OLD_PYTHON = """
import runpy, sys
sys.version_info = (3, 10, 13, "final", 0)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_importing_it_changes_nothing_and_takes_no_time():
    words = [sys.executable, "-c", IMPORT]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


@pytest.mark.parametrize(("words", "status"), [(["--help"], 0), (["--nothing"], 2), ([], 2)])
def test_a_notebook_keeps_its_signals_and_streams(monkeypatch, capsys, words, status):
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setattr(sys, "argv", [SCRIPT[1], *words])
    exec(STATE, found := {})
    before = found["state"]()
    with pytest.raises(SystemExit) as end:
        runpy.run_path(SCRIPT[1], run_name="__main__")
    assert end.value.code == status
    assert found["state"]() == before


def test_a_python_without_the_packages_and_an_old_one_are_told(tmp_path):
    words = ("--simulate", "--data_dir", tmp_path / "data")
    told = (sys.executable, "numpy", "msprime", "tensorflow", "README.md")
    assert_refused(command(*words, python=("-I", "-S")), *told)
    assert_refused(command(*words, python=("-c", OLD_PYTHON)), "Python 3.10")
    assert not (tmp_path / "data").exists()
    ast.parse(Path(SCRIPT[1]).read_text(), feature_version=(3, 8))  # which gets as far


def test_the_backend_of_a_notebook_and_settings_of_keras_do_no_harm(copy, tmp_path):
    (tmp_path / ".keras").mkdir()
    text = '{"floatx": "float64", "image_data_format": "channels_first", "backend": "jax"}'
    (tmp_path / ".keras" / "keras.json").write_text(text)
    env = {name: value for name, value in os.environ.items() if name != "KERAS_HOME"}
    env |= {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "PYTHONWARNINGS": "error"}
    # Its own folder for Keras, but not for matplotlib, which would look for fonts for long.
    env |= {"HOME": str(tmp_path), "MPLCONFIGDIR": matplotlib.get_cachedir()}
    (copy / "training_history.png").unlink()
    status, _, error = command("--train", "--epochs", 1, "--data_dir", copy, env=env)
    assert (status, error) == (0, "")
    assert (copy / "training_history.png").stat().st_size > 10_000
    weights = runml.load_network(copy / "trained_model.keras").model.get_weights()
    assert {array.dtype for array in weights} == {np.dtype("f4")}
