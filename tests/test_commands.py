"""The three commands, from the command line down."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, SCRIPT, contents, runml

SMALL = ["--n_reps", "20", "--sequence_length", "5000"]


def run(capsys, *words):
    """Run `main` in this process; return its exit status and what it printed."""
    try:
        status = runml.main([str(word) for word in words])
    except SystemExit as end:
        status = end.code
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_the_lesson_from_end_to_end(trained):
    folder, done = trained
    assert {path.name for path in folder.iterdir() if not path.name.endswith(".lock")} == {
        *(
            f"simulated_{part}"
            for part in ("sfs.npy", "responses.npy", "parameters.npy", "settings.json")
        ),
        *(f"test_{part}" for part in ("sfs.npy", "responses.npy", "parameters.npy", "settings.json")),
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
        "baselines",
    }
    assert results["n_test"] == 100
    assert results["seed"] == 1234
    assert results["accuracy"] > 0.7  # chance is 0.5, with a standard error of 0.05
    assert f"Accuracy {results['accuracy']:.4f}" in done.stdout
    assert "predicted gene flow" in done.stdout
    assert not np.array_equal(np.load(folder / "test_sfs.npy")[:100], sfs[:100])


def test_a_log_is_plain(trained):
    _, done = trained
    assert done.stderr == ""
    assert not any(ord(character) < 32 and character != "\n" for character in done.stdout)
    assert done.stdout.count("Epoch ") == 4
    assert "Validation accuracy" in done.stdout
    assert " of 400 SFS, " in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_bars_move_on_a_terminal(tmp_path, trained):
    import fcntl
    import pty
    import struct
    import termios

    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    shown = []

    def read(descriptor):
        data = os.read(descriptor, 4096)
        shown.append(data)
        return data

    words = ["--simulate", "--train", "--epochs", "2", *SMALL, "--data_dir", str(tmp_path)]
    pid, descriptor = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        os.execv(SCRIPT[0], [*SCRIPT, *words])
    while True:
        try:
            if not read(descriptor):
                break
        except OSError:
            break
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    screen = b"".join(shown).decode()
    assert "40/40" in screen
    assert "\r" in screen.replace("\r\n", "\n")
    assert "SFS/s" in screen
    assert "Epoch 2/2" in screen
    assert "━" in screen  # Keras's own bar


def test_every_option_of_the_simulation_is_saved_and_used(tmp_path, capsys):
    typed = {
        "n_reps": "3",
        "sample_size": "2 4",
        "sequence_length": "1e3",
        "n_loci": "2",
        "mutation_rate": "1e-6",
        "recombination_rate": "2e-8",
        "tdiv_prior": "1000 2000",
        "ne_prior": "3000 3000",
        "migration_prior": "1e-3 2e-3",
        "gene_flow_fraction": "0.25",
        "seed": "9",
    }
    words = [word for name, value in typed.items() for word in (f"--{name}", *value.split())]
    status, _, _ = run(capsys, "--simulate", *words, "--data_dir", tmp_path)
    assert status == 0
    saved = json.loads((tmp_path / "simulated_settings.json").read_text())
    for name, value in typed.items():
        numbers = [float(number) for number in value.split()]
        assert saved[name] == (numbers if len(numbers) > 1 else numbers[0]), name
    assert saved["versions"].keys() >= {"msprime", "numpy"}
    assert np.load(tmp_path / "simulated_sfs.npy").shape == (6, 5, 9, 1)
    parameters = np.load(tmp_path / "simulated_parameters.npy")
    assert ((parameters["divergence_time"] >= 1000) & (parameters["divergence_time"] <= 2000)).all()
    assert (parameters["size_a"] == 3000).all()
    assert (parameters["migration_rate"][1::2] >= 1e-3).all()


def test_test_uses_the_settings_of_the_model_and_a_fresh_branch(tmp_path, trained, capsys):
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    run(capsys, "--simulate", "--n_reps", 5, "--sequence_length", 3000, "--data_dir", tmp_path)
    status, _, _ = run(capsys, "--test", "--n_test_reps", 20, "--data_dir", tmp_path)
    assert status == 0
    saved = json.loads((tmp_path / "test_settings.json").read_text())
    assert saved["sequence_length"] == 20_000
    assert saved["n_reps"] == 20
    first = np.load(trained[0] / "test_sfs.npy")[:40]
    np.testing.assert_array_equal(np.load(tmp_path / "test_sfs.npy"), first)
    other = run(capsys, "--test", "--n_test_reps", 20, "--seed", 5, "--data_dir", tmp_path)
    assert other[0] == 0
    assert json.loads((tmp_path / "test_results.json").read_text())["seed"] == 5
    assert not np.array_equal(np.load(tmp_path / "test_sfs.npy"), first)


def test_train_says_that_it_replaces_a_model_of_other_data(tmp_path, trained, capsys):
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    words = ("--train", "--epochs", 1, "--data_dir", tmp_path)
    assert "other data" not in run(capsys, *words)[1]
    run(capsys, "--simulate", *SMALL, "--data_dir", tmp_path)
    assert "trained on other data, and is to be replaced" in run(capsys, *words)[1]
    assert "other data" not in run(capsys, *words)[1]


def test_testing_under_other_settings_is_said(tmp_path, trained, capsys):
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    words = ("--test", "--n_test_reps", 5, "--data_dir", tmp_path)
    status, printed, _ = run(capsys, *words, "--mutation_rate", 2e-7)
    assert status == 0
    assert "Testing under --mutation_rate 2e-07; the model was trained under 1e-07." in printed
    assert json.loads((tmp_path / "test_settings.json").read_text())["mutation_rate"] == 2e-7
    assert "trained under" not in run(capsys, *words)[1]


def test_arrays_without_settings_are_welcome(tmp_path, trained, capsys):
    for name in ("simulated_sfs.npy", "simulated_responses.npy"):
        shutil.copy(trained[0] / name, tmp_path)
    status, _, _ = run(capsys, "--train", "--epochs", 1, "--data_dir", tmp_path)
    assert status == 0
    assert runml.load_notes(tmp_path / "trained_model.keras").simulations is None
    words = ("--test", "--n_test_reps", 5, "--sequence_length", 4000, "--data_dir", tmp_path)
    status, printed, _ = run(capsys, *words)
    assert status == 0
    assert "not known" in printed
    saved = json.loads((tmp_path / "test_settings.json").read_text())
    assert (saved["sequence_length"], saved["mutation_rate"]) == (4000, 1e-7)


def test_settings_of_other_arrays_are_passed_over(tmp_path, trained, capsys):
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    np.save(tmp_path / "simulated_sfs.npy", np.load(trained[0] / "simulated_sfs.npy")[::-1])
    np.save(tmp_path / "simulated_responses.npy", np.load(trained[0] / "simulated_responses.npy")[::-1])
    status, printed, _ = run(capsys, "--train", "--epochs", 1, "--data_dir", tmp_path)
    assert status == 0
    assert "belongs to other arrays" in printed
    assert runml.load_notes(tmp_path / "trained_model.keras").simulations is None


def test_help_is_complete_and_grouped(capsys):
    status, printed, _ = run(capsys, "--help")
    assert status == 0
    for kind in (runml.SimulationSettings, runml.TrainingSettings, runml.RunSettings):
        for setting in runml.fields(kind):
            assert f"--{setting.name} " in printed
    for text in ("generations", "diploid individuals", "per base pair", "default: 1e-05", "base pairs"):
        assert text in " ".join(printed.split())


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


def test_start_up_imports_no_more_than_it_needs(tmp_path):
    def imported(what, packages):
        code = (
            f"import sys, Machine_Learning_for_Population_Genetics_V2 as runml; {what}; "
            f"print([name for name in {packages} if name in sys.modules])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()[-1]

    packages = ["tensorflow", "keras", "matplotlib", "sklearn", "scipy"]
    assert imported("pass", [*packages, "msprime"]) == "[]"
    simulate = f"runml.main(['--simulate', '--n_reps', '2', '--data_dir', {str(tmp_path)!r}])"
    assert imported(simulate, ["tensorflow", "keras", "sklearn"]) == "[]"


def test_workers_are_never_more_than_the_work(tmp_path, monkeypatch, capsys):
    pools = []
    monkeypatch.setattr(
        runml, "worker_pool", lambda n, _pool=runml.worker_pool: pools.append(n) or _pool(n)
    )
    run(capsys, "--simulate", *SMALL, "--workers", 64, "--data_dir", tmp_path)
    assert pools == [2]  # 40 rows, 25 to a task


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
            "tdiv_prior": ("5 4", "0 1", "-1 5", "nan 1", "7"),
            "ne_prior": ("100 10", "0 5", "1 inf"),
            "migration_prior": ("-1e-6 1e-4", "1e-4 1e-6", "0 2"),
            "gene_flow_fraction": ("0", "1.1", "-0.5", "nan"),
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
    (["--train", "--learning-rate", "1e-5"], "--learning-rate"),
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
    (["--train", "--gene_flow_fraction", "1"], "simulated with 0.5"),
    (["--train", "--tdiv_prior", "1", "2"], "50000 500000"),
    (["--predict"], "--predict"),
    (["--simulate", "--train", "--n_reps", "4"], "--n_reps 4"),
    (["--simulate", "--sequence_length", "1", "--mutation_rate", "1e-12"], "--mutation_rate"),
    (["--predict", "two.fs", "--seed", "9"], "trained with 1234"),
    (["--predict", "two.fs", "--layers", "3"], "trained with 2"),
    (["--predict", "two.fs", "--sample_size", "5"], "trained with 10 10"),
    (["--predict", "two.fs", "--n_test_reps", "9"], "--n_test_reps"),
    (["--predict", "two.fs", "--workers", "2"], "--workers"),
    (["--predict", "two.fs", "--settings", "own.json"], "--settings"),
    (["--train", "--settings", "own.json"], "--settings"),
    (["--test", "--folded"], "trained with off"),
    (["--simulate", "--folded"], "--folded"),
    (["--train", "--folded", "yes"], "yes"),
    (["train"], "train"),
    (["--data_dir"], "--data_dir"),
]


@pytest.mark.parametrize(
    ("words", "culprit"), USAGE, ids=[" ".join(words) or "nothing" for words, _ in USAGE]
)
def test_usage_errors(trained, capsys, words, culprit):
    before = contents(trained[0])
    status, printed, error = run(capsys, *words, "--data_dir", trained[0])
    assert status == 2
    assert printed == ""
    assert error.startswith("runml: error: ")
    assert error.count("\n") == 1
    assert culprit in error
    assert contents(trained[0]) == before


def test_the_table_of_bad_invocations_is_long():
    assert len(USAGE) + len(BROKEN) >= 120


def test_what_agrees_with_what_was_saved_may_be_typed(tmp_path, trained, capsys):
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    words = ("--test", "--layers", 2, "--epochs", 4, "--n_reps", 200, "--sequence_length", 20_000)
    assert run(capsys, *words, "--data_dir", tmp_path)[0] == 0
    words = ("--train", "--sequence_length", "2e4", "--sample_size", 10, "--epochs", 1)
    assert run(capsys, *words, "--data_dir", tmp_path)[0] == 0


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

    return {
        "no spectra": ("--train", sfs, sfs.unlink),
        "no responses": ("--train", responses, responses.unlink),
        "truncated spectra": ("--train", sfs, lambda: sfs.write_bytes(sfs.read_bytes()[:5000])),
        "empty spectra": ("--train", sfs, lambda: sfs.write_bytes(b"")),
        "text": ("--train", sfs, lambda: sfs.write_text("an SFS")),
        "a pickle": (
            "--train",
            responses,
            lambda: np.save(responses, np.array([{}] * 400, dtype=object)),
        ),
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
    *(
        "no spectra",
        "no responses",
        "truncated spectra",
        "empty spectra",
        "text",
        "a pickle",
        "an archive",
    ),
    *("words", "negative counts", "no numbers", "three dimensions", "even length", "too few responses"),
    *("other labels", "one class", "no model", "truncated model", "no Keras model"),
)


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(tmp_path, trained, capsys, case):
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    cases = broken_files(tmp_path)
    assert tuple(cases) == BROKEN
    mode, culprit, spoil = cases[case]
    spoil()
    before = contents(tmp_path)
    status, _, error = run(capsys, mode, "--data_dir", tmp_path)
    assert status == 1
    assert error.startswith("runml: error: ")
    assert error.count("\n") == 1
    assert culprit.name in error
    assert contents(tmp_path) == before


def test_commands_out_of_order_name_the_one_to_run_first(tmp_path, capsys):
    example = tmp_path.with_suffix(".npy")
    np.save(example, np.ones((21, 21)))
    for words, first in (
        (["--train"], "--simulate"),
        (["--test"], "--train"),
        (["--predict", example], "--train"),
    ):
        status, _, error = run(capsys, *words, "--data_dir", tmp_path)
        assert status == 1
        assert f"run runml {first} first" in error
    assert not list(tmp_path.iterdir())


def test_a_model_for_other_sample_sizes_is_told(tmp_path, trained, capsys):
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path)
    for modes in (["--test"], ["--simulate", "--test"]):
        status, _, error = run(capsys, *modes, "--sample_size", 5, "--data_dir", tmp_path)
        assert status == 2
        assert "--sample_size 5 5" in error
        assert "10 10" in error
    assert contents(tmp_path) == before


def test_simulating_does_not_start_if_the_test_to_follow_cannot(tmp_path, capsys):
    status, _, error = run(capsys, "--simulate", "--test", "--data_dir", tmp_path)
    assert status == 1
    assert "run runml --train first" in error
    assert not list(tmp_path.iterdir())


def test_a_folder_named_by_a_number(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "--simulate", *SMALL, "--data_dir", "2024")[0] == 0
    assert (tmp_path / "2024" / "simulated_sfs.npy").exists()


@pytest.mark.parametrize("obstacle", ["file", "below a file"])
def test_a_data_folder_that_cannot_be(tmp_path, capsys, obstacle):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" if obstacle == "file" else tmp_path / "file" / "data"
    status, _, error = run(capsys, "--simulate", *SMALL, "--data_dir", folder)
    assert status == 1
    assert "file" in error
    assert error.count("\n") == 1


def visible(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}


def test_set_of_files_appears_whole_or_not_at_all(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), runml.staging(tmp_path, "set") as partial:
        (partial / "a").write_text("new")
        1 / 0  # noqa: B018
    assert visible(tmp_path) == {"a": b"old"}
    with runml.staging(tmp_path, "set") as partial:
        (partial / "a").write_text("new")
        (partial / "b").write_text("new")
    assert visible(tmp_path) == {"a": b"new", "b": b"new"}


def test_moves_that_were_stopped_are_finished_by_the_next_command(tmp_path, capsys):
    complete = tmp_path / ".simulated.complete"
    complete.mkdir()
    (complete / "b").write_text("new")
    (tmp_path / "a").write_text("new")  # moved already
    run(capsys, "--train", "--n_reps", 5, "--data_dir", tmp_path)
    assert visible(tmp_path) == {"a": b"new", "b": b"new"}
    assert not complete.exists()


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
