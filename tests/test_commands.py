"""The three commands, from the command line down."""

import contextlib
import functools
import io
import json
import multiprocessing
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import (
    ROOT,
    SCRIPT,
    SET,
    SMALL,
    contents,
    dataset_files,
    is_one_line_error,
    rows,
    run,
    runml,
)

ONE_WORKER = ("--workers", 1)


def plan(*words, folder):
    """What a command line is completed to, without doing it."""
    return runml.make_plan(runml.parse([*map(str, words), "--data_dir", str(folder)]))


@pytest.fixture
def no_pictures(monkeypatch):
    """Where they are not the point."""
    monkeypatch.setattr(runml, "save_picture", lambda *_: None)


def use_other_data(folder):
    """Put the first spectra of a folder in the place of all of them, with settings that fit."""
    names = ("simulated_sfs.npy", "simulated_responses.npy", "simulated_parameters.npy")
    for name in names:
        np.save(folder / name, np.load(folder / name)[:40])
    path = folder / "simulated_settings.json"
    saved = json.loads(path.read_text()) | {"n_reps": 20}
    saved["sha256"] = runml.checksums(*(folder / name for name in names[:2]))
    path.write_text(json.dumps(saved))


# The lesson.


def test_the_lesson_from_end_to_end(trained):
    folder, done = trained
    assert {path.name for path in folder.iterdir() if path.name != ".lock"} == {
        *(f"simulated_{part}" for part in SET),
        *(f"test_{part}" for part in SET),
        *("trained_model.keras", "training_history.csv", "experiments.csv"),
        *("test_results.json", "test_log.csv"),
        *("demographic_models.png", "simulated_sfs.png", "training_history.png", "test_report.png"),
    }
    sfs = np.load(folder / "simulated_sfs.npy")
    assert sfs.shape == (400, 21, 21, 1)
    assert sfs.dtype == np.int32
    results = json.loads((folder / "test_results.json").read_text())
    assert results.keys() == {
        *("accuracy", "accuracy_95ci", "log_loss", "roc_auc", "confusion_matrix", "n_test", "seed"),
        *("model", "test_set", "recognised_by_migration_rate", "half_missed_below", "baselines"),
    }
    assert results["n_test"] == 100
    assert results["seed"] == 1234
    assert results["model"] == runml.load_network(folder / "trained_model.keras").fingerprint
    assert results["accuracy"] > 0.7  # chance is 0.5, with a standard error of 0.05
    assert f"Accuracy {results['accuracy']:.4f}" in done.stdout
    assert "predicted gene flow" in done.stdout
    assert not np.array_equal(np.load(folder / "test_sfs.npy")[:100], sfs[:100])


def test_a_log_is_plain(trained):
    _, done = trained
    assert done.stderr == ""
    assert not any(ord(character) < 32 and character != "\n" for character in done.stdout)
    epochs = re.findall(r"^ +(\d+)( +\d\.\d{4}){4}$", done.stdout, re.MULTILINE)
    assert [int(number) for number, _ in epochs] == [1, 2, 3, 4]
    assert "Validation accuracy" in done.stdout
    assert " of 400 SFS, " in done.stdout


def too_wide(text, *paths):
    """The lines that do not fit into a terminal of 80 columns, those with a path in them aside."""
    lines = [line for line in text.splitlines() if not any(str(path) in line for path in paths)]
    return [line for line in lines if len(line) > 80]


def test_the_lesson_fits_into_80_columns(trained):
    folder, done = trained
    assert too_wide(done.stdout, folder) == []


def test_the_help_fits_into_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert too_wide(run(capsys, "--help")[1]) == []


@pytest.mark.parametrize(
    "changes",
    [{}, {"n_loci": 300, "sequence_length": 1_500_000}, {"n_loci": 1_000, "sequence_length": 150}],
)
def test_what_is_announced_fits_and_is_about_right(changes, capsys):
    settings = runml.SimulationSettings(**changes)
    runml.say(runml.size_in_words(settings))
    told = capsys.readouterr().out
    assert too_wide(told) == []
    told = " ".join(told.split())
    base_pairs = settings.n_loci * settings.sequence_length
    assert f"{settings.sequence_length:,} bp" in told
    assert {100_000: "100 kb", 450_000_000: "450 Mb", 150_000: "150 kb"}[base_pairs] in told


def test_the_announced_number_of_snps_is_near_that_of_the_lesson(trained):
    snps = np.load(trained[0] / "simulated_sfs.npy").sum(axis=(1, 2, 3))
    announced = int(re.search(r"about ([\d,]+) SNPs", trained[1].stdout)[1].replace(",", ""))
    assert announced == pytest.approx(snps.mean(), rel=0.4)


CURVES = {  # of training and validation
    "nothing learned": ([0.694, 0.693, 0.692], [0.693, 0.692, 0.691], "0.69"),
    "overfitting": ([0.5, 0.3, 0.2, 0.1], [0.5, 0.3, 0.4, 0.5], "lowest after epoch 2"),
    "too short": ([0.5, 0.4, 0.3], [0.5, 0.4, 0.3], "still falling"),
    "long enough": ([0.5, 0.3, 0.29, 0.29], [0.5, 0.3001, 0.3, 0.3], "hardly changes"),
    "too long steps": ([0.05, 0.01, 0.04, 0.01], [0.04, 0.02, 0.05, 0.02], "smaller --learning_rate"),
    "too long steps, dead": ([1.2, 0.7, 0.694], [0.694, 0.694, 0.694], "smaller --learning_rate"),
}


@pytest.mark.parametrize("name", CURVES)
def test_what_the_curves_say(name, capsys):
    *losses, words = CURVES[name]
    said = runml.what_the_curves_say(*losses)
    assert words in said
    runml.say(said)
    assert too_wide(capsys.readouterr().out) == []


def test_one_epoch_is_no_curve():
    said = runml.what_the_curves_say([0.2], [0.1])
    assert "hardly" not in said
    assert "risen" not in said


@pytest.mark.parametrize("shape", [(21, 21), (101, 41)])
def test_the_network_is_told_within_80_columns(capsys, shape):
    runml.print_network(runml.build_network(shape, runml.TrainingSettings(layers=6)))
    printed = capsys.readouterr().out
    assert too_wide(printed) == []
    assert printed.count("Dense") == 7
    assert "rate 0.2" in printed


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_bars_move_on_a_terminal(tmp_path):
    import fcntl
    import pty
    import struct
    import termios

    shown = []
    words = ["--simulate", *map(str, SMALL), "--data_dir", str(tmp_path)]
    pid, descriptor = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        os.execv(SCRIPT[0], [*SCRIPT, *words])
    with contextlib.suppress(OSError):  # with which Linux tells the end
        while data := os.read(descriptor, 4096):
            shown.append(data)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    screen = b"".join(shown).decode()
    assert "40/40" in screen
    assert "\r" in screen.replace("\r\n", "\n")
    assert "SFS/s" in screen


class Terminal(io.StringIO):
    """A stream that takes itself for a terminal."""

    def isatty(self):
        return True

    def screen(self):
        """The lines that stand on it in the end."""
        lines, row, column = [""], 0, 0
        for part in re.findall(r"\x1b\[A|\r|\n|[^\r\n\x1b]+", self.getvalue()):
            if part == "\x1b[A":
                row = max(0, row - 1)
            elif part == "\r":
                column = 0
            elif part == "\n":
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            else:
                line = lines[row].ljust(column)
                lines[row] = line[:column] + part + line[column + len(part) :]
                column += len(part)
        return [line.rstrip() for line in lines]


def test_on_a_terminal_too_there_is_a_line_an_epoch(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    sfs = np.random.default_rng(1).poisson(2, (20, 3, 3, 1))
    runml.train_network(sfs, np.arange(20) % 2, runml.TrainingSettings(epochs=3))
    print("The next line.")
    lines = terminal.screen()
    while not lines[-1]:
        lines.pop()
    assert [line.split()[:1] for line in lines[-4:]] == [["1"], ["2"], ["3"], ["The"]]
    assert all(re.fullmatch(r" +\d( +\d\.\d{4}){4}", line) for line in lines[-4:-1])
    assert lines[-1] == "The next line."  # no bar is left behind


def test_a_long_log_has_a_line_a_tenth(capsys, monkeypatch):
    """Also where tqdm's watchman finds that lines come too seldom."""
    import tqdm

    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0.05)
    with runml.progress(100, 0) as bar:
        for _ in range(100):
            time.sleep(0.01)
            bar.update(1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [str(n) for n in range(10, 101, 10)]


# Settings.


def test_every_option_of_the_simulation_is_saved_and_used(tmp_path, capsys, no_pictures):
    typed = {
        "n_reps": "30",
        "sample_size": "2 4",
        "sequence_length": "5e2",
        "n_loci": "2",
        "mutation_rate": "1e-6",
        "recombination_rate": "2e-8",
        "tdiv_prior": "1000 8000 log",
        "ne_prior": "3000 3000",
        "migration_prior": "1e-4 1e-2 log",
        "gene_flow_start": "0.5 1",
        "gene_flow_stop": "0.1 0.2 log",
        "seed": "9",
    }
    assert {*typed, "asymmetric"} == {*runml.SIMULATION, "n_reps"}
    words = [word for name, value in typed.items() for word in (f"--{name}", *value.split())]
    status, _, _ = run(capsys, "--simulate", "--asymmetric", *words, *ONE_WORKER, "--data_dir", tmp_path)
    assert status == 0
    saved = json.loads((tmp_path / "simulated_settings.json").read_text())
    for name, value in typed.items():
        expected = [word if word == "log" else float(word) for word in value.split()]
        assert saved[name] == (expected if len(expected) > 1 else expected[0]), name
    assert saved["asymmetric"] is True
    assert saved["versions"].keys() >= {"msprime", "numpy"}
    sfs = np.load(tmp_path / "simulated_sfs.npy")
    assert sfs.shape == (60, 5, 9, 1)
    found = np.load(tmp_path / "simulated_parameters.npy")
    age = found["divergence_time"]
    assert ((age >= 1000) & (age <= 8000)).all()
    assert np.median(age) < 4000  # 2828 if log-uniform, 4500 if uniform
    assert (found["size_a"] == 3000).all()
    rates = np.stack([found["migration_a_to_b"][1::2], found["migration_b_to_a"][1::2]])
    assert ((rates >= 1e-4) & (rates <= 1e-2)).all()
    assert 3e-4 < np.median(rates) < 3e-3  # 1e-3 if log-uniform, 5e-3 if uniform
    assert (rates[0] != rates[1]).all()
    assert not found["migration_a_to_b"][::2].any()
    assert not found["migration_b_to_a"][::2].any()
    start, stop = found["gene_flow_start"] / age, found["gene_flow_stop"] / age
    assert ((start >= 0.5) & (start <= 1)).all()
    assert ((stop >= 0.1) & (stop <= 0.2)).all()
    assert np.ptp(start) > 0.3

    settings = runml.load_dataset(tmp_path).simulated.settings
    for name in typed.keys() - {"n_reps"}:  # and it is these that make the bytes
        default = runml.replace(settings, **{name: getattr(runml.SimulationSettings(), name)})
        assert default != settings, name
    np.testing.assert_array_equal(runml.simulate_rows(settings, runml.TRAINING_SET, range(4)), sfs[:4])
    assert (
        plan(
            "--simulate", "--settings", tmp_path / "simulated_settings.json", folder=tmp_path / "b"
        ).simulation
        == settings
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sequence_length", ["3000"]),
        ("n_loci", ["2"]),
        ("mutation_rate", ["2e-7"]),
        ("recombination_rate", ["2e-8"]),
        ("tdiv_prior", ["5e4", "5e5", "log"]),
        ("ne_prior", ["1e4", "2e4"]),
        ("migration_prior", ["1e-6", "1e-4", "log"]),
        ("gene_flow_start", ["1", "1"]),
        ("gene_flow_stop", ["0.2", "0.3"]),
        ("asymmetric", []),
        ("seed", ["4"]),
    ],
)
def test_each_option_of_the_simulation_changes_the_spectra(name, words):
    small = ["--simulate", "--sequence_length", "2000"]
    typed = [word for word in (small if name != "sequence_length" else small[:1])]
    settings, without = (
        runml.replace(runml.SimulationSettings(), **runml.parse(argv).options)
        for argv in ([*typed, f"--{name}", *words], small)
    )
    each = [
        runml.simulate_rows(some, runml.TRAINING_SET, range(1, 4, 2)) for some in (settings, without)
    ]
    assert not np.array_equal(*each)


def test_testing_is_under_the_settings_of_the_model_not_of_the_data(copy, trained):
    use_other_data(copy)
    for name in ("simulated_settings.json", "simulated_sfs.npy"):
        (copy / name).unlink()
    found = plan("--test", folder=copy)
    assert found.testing == runml.load_dataset(trained[0]).simulated.settings
    assert found.testing.sequence_length == 20_000
    assert found.remarks == []


def test_a_test_under_other_settings_is_said_and_done(copy, trained, capsys, no_pictures):
    words = ("--test", "--n_test_reps", 5, *ONE_WORKER, "--data_dir", copy)
    status, printed, _ = run(capsys, *words)
    assert status == 0
    assert "trained under" not in printed
    first = np.load(trained[0] / "test_sfs.npy")[:10]
    np.testing.assert_array_equal(np.load(copy / "test_sfs.npy"), first)
    status, printed, _ = run(capsys, *words, "--mutation_rate", 2e-7, "--seed", 5)
    assert status == 0
    assert "Testing under --mutation_rate 2e-07; the model was trained under 1e-07." in printed
    saved = json.loads((copy / "test_settings.json").read_text())
    assert (saved["mutation_rate"], saved["seed"], saved["n_reps"]) == (2e-7, 5, 5)
    assert saved["sequence_length"] == 20_000
    assert json.loads((copy / "test_results.json").read_text())["seed"] == 5
    assert not np.array_equal(np.load(copy / "test_sfs.npy"), first)


def test_what_agrees_with_what_was_saved_may_be_typed(trained):
    words = ("--test", "--layers", 2, "--epochs", 4, "--n_reps", 200, "--sequence_length", 20_000)
    assert plan(*words, folder=trained[0]).testing.sequence_length == 20_000
    words = ("--train", "--sequence_length", "2e4", "--sample_size", 10, "--epochs", 1, "--n_reps", 200)
    assert plan(*words, folder=trained[0]).training.epochs == 1


def test_settings_of_other_arrays_are_passed_over(copy):
    for name in ("simulated_sfs.npy", "simulated_responses.npy"):
        np.save(copy / name, np.load(copy / name)[::-1])
    found = plan("--train", folder=copy)
    assert any("belongs to other arrays" in remark for remark in found.remarks)
    assert found.data.simulated is None


@pytest.fixture(scope="module")
def come_home(trained, tmp_path_factory):
    """A class's arrays alone, beside tables that nobody can read; trained on and tested, in one go."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("simulated_sfs.npy", "simulated_responses.npy"):
        np.save(folder / name, np.load(trained[0] / name)[:100])
    for name in ("experiments", "test_log"):
        (folder / f"{name}.csv").write_bytes(b"\x00\xff,\n\n,,,\n")
    (folder / "experiments.old.csv").write_text("precious")
    words = ["--train", "--test", "--epochs", "1", "--n_test_reps", "5", "--sequence_length", "4000"]
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        status = runml.main([*words, "--workers", "1", "--data_dir", str(folder)])
    assert (status, err.getvalue()) == (0, "")
    return folder, out.getvalue()


def test_arrays_without_settings_are_welcome(come_home):
    folder, printed = come_home
    assert runml.load_network(folder / "trained_model.keras").notes.simulated is None
    assert "not known" in printed
    assert too_wide(printed, folder) == []
    saved = json.loads((folder / "test_settings.json").read_text())
    assert (saved["sequence_length"], saved["mutation_rate"]) == (4000, 1e-7)


def test_a_command_goes_on_with_damaged_tables(come_home):
    folder, printed = come_home
    assert f"{folder / 'experiments.csv'} cannot be read" in printed
    assert "it is now experiments.old1.csv" in printed
    assert "it is now test_log.old.csv" in printed
    assert (folder / "experiments.old.csv").read_text() == "precious"
    for name in ("experiments.old1.csv", "test_log.old.csv"):
        assert (folder / name).read_bytes() == b"\x00\xff,\n\n,,,\n"
    assert len(rows(folder / "experiments.csv")) == len(rows(folder / "test_log.csv")) == 1


# What is typed.


def test_help_is_complete_and_grouped(capsys):
    status, printed, _ = run(capsys, "--help")
    assert status == 0
    for kind in runml.KINDS:
        for setting in runml.fields(kind):
            assert re.search(rf"--{setting.name}\b", printed)
    for text in ("generations", "diploid individuals", "per base pair", "default: 1e-05", "base pairs"):
        assert text in " ".join(printed.split())
    assert "uniform" in printed
    assert "default: 1000)" in " ".join(printed.split())  # --n_test_reps


def test_the_readme_lists_every_option_as_it_is():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    options = text.partition("\n## Options\n")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `--(\w+)` \|(.*?)\| (.+?) \|$", options, re.MULTILINE)
    told = {name: (default.strip(" `"), meaning) for name, default, meaning in listed}
    unset = {"workers": "all usable cores", "dask_scheduler": "none"}
    for name, setting in runml.OPTIONS.items():
        default = unset.get(name) or runml.shown(setting.default)
        assert told.pop(name) == (default, setting.metadata["meaning"])
    assert set(told) == {"settings", "data_dir"}


def test_parsing_looks_at_no_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = runml.parse(
        ["--simulate", "--predict", "a.fs", "--predict", "b.fs", "a.fs", "--data_dir", "2024"]
    )
    assert typed.modes == ["simulate", "predict"]
    assert [str(path) for path in typed.observed] == ["a.fs", "b.fs"]
    assert str(typed.folder) == "2024"
    assert not list(tmp_path.iterdir())


def test_start_up_imports_no_more_than_it_needs(tmp_path):
    words = ["--simulate", "--n_reps", "2", "--sequence_length", "500", "--data_dir", str(tmp_path)]
    code = (
        "import sys, Machine_Learning_for_Population_Genetics_V2 as runml; names = set(sys.modules); "
        f"status = runml.main({words}); print(status, *sorted(names), sep='/'); "
        "print(*sorted(sys.modules), sep='/')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    first, then = (set(line.split("/")) for line in done.stdout.splitlines()[-2:])
    assert "0" in first
    assert not first & {
        "tensorflow",
        "keras",
        "matplotlib",
        "sklearn",
        "scipy",
        "msprime",
        "distributed",
    }
    assert not then & {"tensorflow", "keras", "sklearn", "distributed"}


def test_workers_are_never_more_than_the_work():
    with runml.simulating_processes(runml.WorkSettings(workers=64), 1):
        assert len(multiprocessing.active_children()) == 1


USAGE = [
    ([], "--simulate, --train, --test or --predict"),
    (["--layers", "2"], "--simulate, --train, --test or --predict"),
    (["--train", "--lay", "2"], "--lay"),
    (["--simulate", "5"], "unrecognized arguments: 5"),
    (["--simulate", "--n_reps", "1", "2"], "unrecognized arguments: 2"),
    *(
        (["--simulate", f"--{name}", *values.split()], f"--{name}")
        for name, bad in {
            "n_reps": ("0", "-1", "nan", "inf", "1.5", "many", "1e9"),
            "sample_size": ("0", "10 0", "1 2 3", "5 x", "1e6"),
            "sequence_length": ("0", "-5", "0.5", "1e12"),
            "n_loci": ("0", "1.5"),
            "mutation_rate": ("0", "-1e-7", "nan", "1"),
            "recombination_rate": ("-1e-8", "inf", "1"),
            "tdiv_prior": ("5 4", "0 1", "-1 5", "nan 1", "7", "0 1 log", "5 4 log", "1 2 lin"),
            "ne_prior": ("100 10", "0 5", "1 inf", "log", "1 log", "1 2 log log", "log 1 2"),
            "migration_prior": ("-1e-6 1e-4", "1e-4 1e-6", "0 2", "0 1e-4 log", "0 0 log"),
            "gene_flow_start": ("1.2 1.2", "0.5 1.1", "-0.5 1", "nan 1", "1", "0.5 0.2", "0 1 log"),
            "gene_flow_stop": ("1.2 1.3", "-0.1 0", "0.5", "0 0.5 log", "half 1"),
            "seed": ("-1", "1.5", "5e9", "x"),
            "workers": ("0", "-2", "two"),
        }.items()
        for values in bad
    ),
    *(
        (["--train", f"--{name}", value], f"--{name}")
        for name, bad in {
            "layers": ("0", "7", "2.5", "-1"),
            "dropout": ("1", "-0.1", "nan", "inf"),
            "epochs": ("0", "-1", "1.5"),
            "learning_rate": ("0", "-1e-5", "nan", "inf", "-inf"),
            "batch_size": ("0", "0.5"),
            "n_test_reps": ("5",),  # no use in --train
            "workers": ("2",),
        }.items()
        for value in bad
    ),
    (["--train", "--learning_rate", "-5"], "--learning_rate -5: must lie in"),
    (["--train", "--learning_rate=-5"], "--learning_rate -5: must lie in"),
    (
        ["--simulate", "--sample_size", "24", "24", "24"],
        "--sample_size 24 24 24: it takes one number, or two",
    ),
    (["--train", "--learning_rat", "1e-5"], "did you mean --learning_rate?"),
    (["--simulate", "--gene_flow_fraction", "0.5"], "--gene_flow_fraction"),
    (["--simulate", "--gene_flow_start", "0", "0"], "--gene_flow_start"),
    (["--simulate", "--gene_flow_stop", "0.5", "0.5"], "--gene_flow_stop"),
    (["--train", "--test", "--gene_flow_stop", "0.5", "0.5"], "--gene_flow_stop"),
    (["--simulate", "--asymmetric", "yes"], "yes"),
    (["--simulate", "--asymmetric=yes"], "--asymmetric"),
    (["--train", "--asymmetric"], "simulated with off"),
    (["--simulate", "--mutation_rate", "1e-6"], "--mutation_rate 1e-06"),  # too many a site
    (
        [*("--simulate", "--n_loci", "1e5", "--ne_prior", "10", "1e7", "log")],
        "--n_loci",
    ),  # too many at the upper end of the prior, though not in its middle
    (["--simulate", "--ne_prior", "1e6", "1e6"], "mutations a site"),
    (["--simulate", "--layers", "2"], "--layers"),
    (["--simulate", "--dask_scheduler", ""], "--dask_scheduler"),
    (["--simulate", "--dask_scheduler", "tcp://127.0.0.1:8786", "--workers", "2"], "--workers"),
    (["--train", "--dask_scheduler", "tcp://127.0.0.1:8786"], "--dask_scheduler"),
    (["--simulate", "--n_test_reps", "5"], "--n_test_reps"),
    (["--train", "--sequence_length", "777"], "20000"),
    (["--test", "--layers", "3", "--n_test_reps", "2"], "trained with 2"),
    (["--test", "--n_reps", "7"], "trained with 200"),
    (["--test", "--n_test_reps", "0"], "--n_test_reps"),
    (["--simulate", "--migration_prior", "0", "0"], "--migration_prior"),
    (["--simulate", "--n_loci", "1e6"], "--n_loci"),
    (["--simulate", "--mutation_rate", "0.01"], "--mutation_rate"),
    (["--simulate", "--tdiv_prior"], "--tdiv_prior"),
    (["--train", "--epochs"], "--epochs"),
    (["--train", "--epochs", "--layers", "2"], "--epochs"),
    (["--train", "--epochs=ten"], "--epochs"),
    (["--train", "--learning-rate", "1e-5"], "did you mean --learning_rate?"),
    (["--train", "--TEST"], "--TEST"),
    (["--simulate=yes"], "--simulate"),
    (["--simulate", "--n_reps", "5,000"], "--n_reps"),
    (["--simulate", "--n_reps", ""], "--n_reps"),
    (["--simulate", "--n_reps", "0x10"], "--n_reps"),
    (["--simulate", "--sequence_length", "100kb"], "--sequence_length"),
    (["--simulate", "--ne_prior", "1e4", "1e5", "1e6"], "1e6"),
    (["--simulate", "--ne_prior", "1e4-1e5"], "--ne_prior"),
    (["--test", "--learning_rate", "1e-5"], "trained with 0.0001"),
    (["--test", "--dropout", "0.3"], "--dropout"),
    (["--train", "--n_reps", "5000"], "simulated with 200"),
    (["--train", "--gene_flow_start", "1", "1"], "simulated with 0.5 0.5"),
    (["--train", "--tdiv_prior", "5e4", "5e5", "log"], "simulated with 50000 500000"),
    (["--train", "--tdiv_prior", "1", "2"], "50000 500000"),
    (["--predict"], "--predict"),
    (["--simulate", "--train", "--n_reps", "4"], "--n_reps 4"),
    (["--simulate", "--sequence_length", "1", "--mutation_rate", "1e-12"], "--mutation_rate"),
    (["--predict", "two.npy", "--seed", "9"], "trained with 1234"),
    (["--predict", "two.npy", "--layers", "3"], "trained with 2"),
    (["--predict", "two.npy", "--sample_size", "5"], "trained with 10 10"),
    (["--predict", "two.npy", "--n_test_reps", "9"], "--n_test_reps"),
    (["--predict", "two.npy", "--workers", "2"], "--workers"),
    (["--predict", "two.npy", "--settings", "own.json"], "--settings"),
    (["--train", "--settings", "own.json"], "--settings"),
    (["--simulate", "--settings", ""], "--settings"),
    (["--test", "--folded"], "trained with off"),
    (["--simulate", "--folded"], "--folded"),
    (["--train", "--folded", "yes"], "yes"),
    (["train"], "train"),
    (["--data_dir"], "--data_dir"),
    (["--simulate", "--data_dir", ""], "--data_dir"),
]


@pytest.fixture
def cached_network(monkeypatch):
    """Read the model of the small trained folder once for all commands that are refused."""
    monkeypatch.setattr(runml, "load_network", load_once)


load_once = functools.cache(runml.load_network)


@pytest.mark.parametrize(
    ("words", "culprit"), USAGE, ids=[" ".join(words) or "nothing" for words, _ in USAGE]
)
def test_usage_errors(trained, capsys, tmp_path, monkeypatch, cached_network, words, culprit):
    monkeypatch.chdir(tmp_path)
    np.save("two.npy", np.ones((21, 21)))
    before = contents(trained[0]), contents(tmp_path)
    where = () if "--data_dir" in words else ("--data_dir", trained[0])
    status, printed, error = run(capsys, *words, *where)
    assert status == 2
    assert printed == ""
    assert is_one_line_error(error)
    assert culprit in error
    assert "[" not in error.partition(" must lie in ")[0]  # no list as Python writes it
    assert (contents(trained[0]), contents(tmp_path)) == before


def test_the_table_of_bad_invocations_is_long():
    assert len(USAGE) + len(BROKEN) >= 120


# What is on the disk.


def broken_files(folder):
    """Ways to spoil a good folder: a name, the command that must refuse it, the file to blame."""
    sfs, responses = folder / "simulated_sfs.npy", folder / "simulated_responses.npy"
    good_sfs, good_responses = np.load(sfs), np.load(responses)
    model = folder / "trained_model.keras"

    def negative():
        bad = good_sfs.copy()
        bad[3, 4, 4] = -1
        np.save(sfs, bad)

    def not_a_number():
        bad = good_sfs.astype(float)
        bad[3, 4, 4] = np.nan
        np.save(sfs, bad)

    def object_array():
        np.save(responses, np.array([{}] * 400, dtype=object))

    return {
        "no spectra": ("--train", sfs, sfs.unlink),
        "no responses": ("--train", responses, responses.unlink),
        "truncated spectra": ("--train", sfs, lambda: sfs.write_bytes(sfs.read_bytes()[:5000])),
        "empty spectra": ("--train", sfs, lambda: sfs.write_bytes(b"")),
        "text": ("--train", sfs, lambda: sfs.write_text("an SFS")),
        "a pickle": ("--train", responses, object_array),
        "an archive": ("--train", sfs, lambda: np.savez(sfs.open("wb"), good_sfs)),
        "words": ("--train", responses, lambda: np.save(responses, np.array(["a"] * 400))),
        "negative counts": ("--train", sfs, negative),
        "no numbers": ("--train", sfs, not_a_number),
        "three dimensions": ("--train", sfs, lambda: np.save(sfs, good_sfs[..., 0])),
        "even length": ("--train", sfs, lambda: np.save(sfs, good_sfs[:, :20])),
        "too few responses": ("--train", responses, lambda: np.save(responses, good_responses[:-1])),
        "other labels": ("--train", responses, lambda: np.save(responses, good_responses + 1)),
        "one class": ("--train", responses, lambda: np.save(responses, good_responses * 0)),
        "no model": ("--test", model, model.unlink),
        "truncated model": ("--test", model, lambda: model.write_bytes(model.read_bytes()[:5000])),
        "no Keras model": ("--test", model, lambda: model.write_text("a model")),
    }


BROKEN = (
    *("no spectra", "no responses", "truncated spectra", "empty spectra", "text", "a pickle"),
    *("an archive", "words", "negative counts", "no numbers", "three dimensions", "even length"),
    *("too few responses", "other labels", "one class", "no model", "truncated model", "no Keras model"),
)


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(copy, capsys, case):
    cases = broken_files(copy)
    assert tuple(cases) == BROKEN
    mode, culprit, spoil = cases[case]
    spoil()
    before = contents(copy)
    status, _, error = run(capsys, mode, "--data_dir", copy)
    assert status == 1
    assert is_one_line_error(error)
    assert culprit.name in error
    assert "trust" not in error  # NumPy's advice on pickles
    assert contents(copy) == before


def test_commands_out_of_order_name_the_one_to_run_first(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("example.npy", np.ones((21, 21)))
    for words, first in (
        (["--train"], "--simulate"),
        (["--test"], "--train"),
        (["--simulate", "--test"], "--train"),
        (["--predict", "example.npy"], "--train"),
    ):
        status, _, error = run(capsys, *words, "--data_dir", "here")
        assert status == 1
        assert f"run runml {first} first" in error
        assert str(tmp_path / "here") in error  # which folder that is
    assert not contents(tmp_path / "here")


def test_a_model_for_other_sample_sizes_is_told(trained, capsys, cached_network):
    before = contents(trained[0])
    for modes in (["--test"], ["--simulate", "--test"], ["--train", "--test"]):
        status, _, error = run(capsys, *modes, "--sample_size", 5, "--data_dir", trained[0])
        assert status == 2
        assert "--sample_size 5 5" in error
        assert "10 10" in error
    assert contents(trained[0]) == before


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("--train --test --mutation_rate 0.01", 2),
        ("--train --test --sample_size 5", 2),
        ("--train --test --migration_prior 0 0", 2),
        ("--train --test --gene_flow_stop 0.5 0.5", 2),
        ("--train --predict OTHER", 1),
        ("--train --predict FOLDED", 1),
        ("--train --predict GOOD --predict OTHER", 1),
        ("--train --test --predict nowhere.fs", 1),
    ],
)
@pytest.mark.parametrize("with_settings", [True, False], ids=["settings", "arrays alone"])
def test_a_refused_command_has_replaced_nothing(copy, tmp_path, capsys, words, status, with_settings):
    if not with_settings:
        (copy / "simulated_settings.json").unlink()
    np.save(tmp_path / "OTHER.npy", np.ones((11, 21)))
    np.save(tmp_path / "GOOD.npy", np.ones((21, 21)))
    folded = np.triu(np.ones((21, 21)))[:, ::-1]
    text = " ".join(f"{count:g}" for count in folded.ravel())
    (tmp_path / "FOLDED.npy").with_suffix(".fs").write_text(f"21 21 folded\n{text}\n")
    suffix = {"OTHER": ".npy", "GOOD": ".npy", "FOLDED": ".fs"}
    typed = [str(tmp_path / (word + suffix[word])) if word in suffix else word for word in words.split()]
    before = contents(copy)
    found, printed, error = run(capsys, *typed, "--data_dir", copy)
    assert found == status
    assert printed == ""
    assert is_one_line_error(error)
    assert contents(copy) == before


def test_a_clock_at_1970_is_told_before_the_training(copy, capsys, monkeypatch):
    before = contents(copy)
    with monkeypatch.context() as patch:
        patch.setattr(time, "localtime", lambda *_: time.gmtime(0))
        status, printed, error = run(capsys, "--train", "--data_dir", copy)
    assert status == 1
    assert printed == ""
    assert is_one_line_error(error)
    assert "1970" in error
    assert contents(copy) == before


@pytest.mark.parametrize("obstacle", ["file", "below a file"])
def test_a_data_folder_that_cannot_be(tmp_path, capsys, obstacle):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" if obstacle == "file" else tmp_path / "file" / "data"
    status, _, error = run(capsys, "--simulate", *SMALL, "--data_dir", folder)
    assert status == 1
    assert "file" in error
    assert is_one_line_error(error)


def visible(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}


def test_a_set_of_files_appears_whole_or_not_at_all(tmp_path):
    one, other = "trained_model.keras", "experiments.csv"
    (tmp_path / one).write_text("old")
    with pytest.raises(ZeroDivisionError), runml.new_files(tmp_path, "trained") as staging:
        (staging / one).write_text("new")
        1 / 0  # noqa: B018
    assert visible(tmp_path) == {one: b"old"}
    with runml.new_files(tmp_path, "trained") as staging:
        (staging / one).write_text("new")
        (staging / other).write_text("new")
    assert visible(tmp_path) == {one: b"new", other: b"new"}
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []


def test_moves_that_were_stopped_are_finished_by_the_next_command(tmp_path, capsys, monkeypatch):
    names = ("test_results.json", "test_log.csv")
    for name in names:
        (tmp_path / name).write_text("old")

    done, move = [], type(tmp_path).replace

    def stopped_after_one(path, target):
        if done:
            raise KeyboardInterrupt
        done.append(move(path, target))

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "replace", stopped_after_one)
        with pytest.raises(KeyboardInterrupt), runml.new_files(tmp_path, "test") as staging:
            for name in names:
                (staging / name).write_text("new")
    assert sorted(visible(tmp_path).values()) == [b"new", b"old"]
    status, _, _ = run(capsys, "--train", "--data_dir", tmp_path)  # which fails: there are no data
    assert status == 1
    assert visible(tmp_path) == dict.fromkeys(names, b"new")


def test_workers_go_when_the_parent_is_killed(tmp_path):
    import psutil

    parent = psutil.Popen([*SCRIPT, "--simulate", "--data_dir", str(tmp_path)], stdout=-3, stderr=-3)
    deadline = time.monotonic() + 30
    while len(family := parent.children(recursive=True)) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert family
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


# A training after another.


def test_train_says_that_it_replaces_a_model_of_other_data(copy, capsys, no_pictures):
    words = ("--train", "--epochs", 1, "--data_dir", copy)
    use_other_data(copy)
    data = dataset_files(copy)
    status, printed, _ = run(capsys, *words)
    assert status == 0
    assert "was trained on other data, and is to be replaced" in printed
    assert sum(line.startswith(">") for line in printed.splitlines()) == 1
    assert "  2. " not in printed  # the other had other data
    status, printed, _ = run(capsys, *words, "--layers", 1)
    assert status == 0
    assert "other data" not in printed
    assert "  2. " in printed
    assert [row["layers"] for row in rows(copy / "experiments.csv")] == ["2", "2", "1"]
    assert dataset_files(copy) == data
