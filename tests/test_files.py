"""What is on the disk, and what happens to the machine: a line, and nothing is lost."""

import contextlib
import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import (
    SCRIPT,
    SMALL,
    STOPPED,
    command,
    contents,
    dataset_files,
    is_one_line_error,
    rows,
    run,
    runml,
    toy_blocks,
)

if sys.platform == "win32":
    pytest.skip("sends signals and limits files", allow_module_level=True)

import fcntl
import resource

SFS, LABELS = "simulated_sfs.npy", "simulated_responses.npy"
PARAMETERS, SETTINGS = "simulated_parameters.npy", "simulated_settings.json"
MODEL, RUNS, TESTS, OWN = "trained_model.keras", "experiments.csv", "test_log.csv", "own.npy"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 705728\n"

# Broken files: the table of break x command x culprit.

READ_BY = {
    **{name: ["--train"] for name in (SFS, LABELS, PARAMETERS, RUNS)},
    SETTINGS: ["--simulate", "--settings", SETTINGS],
    MODEL: ["--test"],
    TESTS: ["--test", "--n_test_reps", "5"],
    OWN: ["--predict", OWN],
    "predictions.csv": ["--predict", OWN],
}


def lay_pickle(path):
    with path.open("wb") as file:
        np.save(file, np.array([Bomb(path.with_name("ran"))] * 400, object), allow_pickle=True)


class Bomb:
    """What runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def save_archive(path):
    with path.open("wb") as file:
        np.savez(file, np.ones((21, 21)))


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def text(words):
    return lambda path: path.write_text(words)


def array(change):
    """A change of the array in a file."""
    return lambda path: np.save(path, change(np.load(path)))


def cell(value):
    """Another value in one cell of spectra."""

    def change(sfs):
        sfs = sfs.astype(float)
        sfs[3, 4, 4] = value
        return sfs

    return array(change)


def table(change):
    return lambda path: path.write_text(change(path.read_text()))


def setting(name, value):
    """A setting that was edited by hand."""
    return table(lambda words: json.dumps(json.loads(words) | {name: value}))


EDITED = (
    *(("n_loci", value) for value in ([], 0, "many", None, True, {}, [1, 2], 1e400)),
    *(("tdiv_prior", value) for value in ([], 0, [2, 1], [0, 1, "log"], [1, 2, "lin"])),
    *(("sample_size", [1, 2, 3]), ("asymmetric", 1), ("asymmetric", "on"), ("seed", -1)),
    *(("n_reps", 0), ("n_reps", []), ("versions", []), ("versions", None)),
)
TABLES = (RUNS, TESTS, "predictions.csv")
DAMAGED = {
    "a cell too many": lambda words: words.rstrip("\n") + ",x\n",
    "cells missing": lambda words: words + "x\n",
    "no numbers": lambda words: words.replace("0.", "much"),
    "other columns": lambda words: "a,b\n1,2\n",
    "a quote that is open": lambda words: words + '"',
}
NPY = [SFS, LABELS, PARAMETERS, OWN]
BROKEN = [
    *((name, "missing", Path.unlink) for name in (SFS, LABELS, SETTINGS, MODEL, OWN)),
    *((name, "empty", text("")) for name in (*NPY, SETTINGS, MODEL)),
    *((name, "truncated", cut) for name in (*NPY, SETTINGS, MODEL)),
    *((name, "no such format", text("\0 an SFS")) for name in (*NPY, SETTINGS, MODEL)),
    *((name, "a pickle", lay_pickle) for name in (*NPY, MODEL)),
    *((name, "an archive", save_archive) for name in (*NPY, MODEL)),
    *((name, "a folder", replace_by_folder) for name in READ_BY),
    *((name, "a Git-LFS pointer", text(POINTER)) for name in READ_BY),
    (SFS, "negative", cell(-1)),
    (SFS, "not a number", cell(np.nan)),
    (SFS, "infinite", cell(np.inf)),
    (SFS, "more than a genome has", cell(1e300)),
    (SFS, "three dimensions", array(lambda sfs: sfs[..., 0])),
    (SFS, "odd numbers of chromosomes", array(lambda sfs: sfs[:, :20])),
    (SFS, "two channels", array(lambda sfs: np.repeat(sfs, 2, axis=3))),
    (SFS, "one number", array(lambda _: np.array(5))),
    (SFS, "words", array(lambda sfs: sfs.astype(str))),
    (SFS, "complex", array(lambda sfs: sfs + 1j)),
    (LABELS, "too few", array(lambda labels: labels[:-1])),
    (LABELS, "of other values", array(lambda labels: labels + 1)),
    (LABELS, "fractions", array(lambda labels: labels / 2)),
    (LABELS, "words", array(lambda labels: labels.astype(str))),
    (LABELS, "records", array(lambda labels: labels.astype([("label", int)]))),
    (SETTINGS, "a list", text("[]")),
    (SETTINGS, "nested too deep", text("[" * 100_000)),
    *((SETTINGS, f"{name} {value}", setting(name, value)) for name, value in EDITED),
    *((name, damage, table(DAMAGED[damage])) for name in TABLES for damage in DAMAGED),
    (RUNS, "no text", lambda path: path.write_bytes(b"\xff\x00\n\xff\n")),
    (RUNS, "infinite", table(lambda words: words.replace("0.", "1e9990."))),
    (TESTS, "columns lost", text("n_test,accuracy\n100,0.9\n")),
]


@pytest.mark.parametrize(
    ("name", "spoil"),
    [(name, spoil) for name, _, spoil in BROKEN],
    ids=[f"{name}: {damage}" for name, damage, _ in BROKEN],
)
def test_a_broken_file_is_named_in_a_line_and_nothing_is_lost(
    copy, capsys, monkeypatch, no_pictures, name, spoil
):
    monkeypatch.chdir(copy)
    np.save(OWN, np.load("test_sfs.npy")[0, ..., 0])
    (copy / "predictions.csv").write_text("file,divergence,gene_flow\nx,0.5,0.5\n")
    spoil(copy / name)
    before = contents(copy)
    status, _, error = run(capsys, *READ_BY[name], "--data_dir", ".")
    assert status == 1
    assert is_one_line_error(error), error
    assert name in error
    assert "trust" not in error  # NumPy's advice on pickles
    assert ("git lfs pull" in error) == (before.get(Path(name)) == POINTER.encode())
    assert "anew" not in error  # which would cost the data
    assert contents(copy) == before


@pytest.mark.parametrize("change", [lambda rows: rows[:10], lambda rows: rows[:, np.newaxis]])
def test_parameters_of_other_spectra_cost_no_training(copy, capsys, no_pictures, change):
    array(change)(copy / PARAMETERS)
    before = contents(copy)
    status, printed, error = run(capsys, "--train", "--epochs", 1, "--data_dir", copy)
    if status:
        assert is_one_line_error(error)
        assert PARAMETERS in error
        assert printed == ""
        assert contents(copy) == before
    else:
        assert runml.load_network(copy / MODEL).settings.epochs == 1


def test_settings_of_other_arrays_are_passed_over(copy, capsys, no_pictures):
    for name in (SFS, LABELS):
        np.save(copy / name, np.load(copy / name)[::-1])
    status, printed, _ = run(capsys, "--train", "--epochs", 1, "--data_dir", copy)
    assert status == 0
    assert "is of other arrays" in " ".join(printed.split())
    words = ("--test", "--n_test_reps", 5, "--n_loci", 2, "--data_dir", copy)
    status, printed, _ = run(capsys, *words)
    assert status == 0
    assert "is not known" in " ".join(printed.split())


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--simulate", *SMALL], LABELS),
        (["--train", "--epochs", 1], "training_history.csv"),
        (["--test", "--n_test_reps", 5], "test_results.json"),
    ],
)
def test_a_folder_in_the_place_of_a_result(copy, capsys, toy, words, name):
    replace_by_folder(copy / name)
    before = contents(copy)
    status, _, error = run(capsys, *words, "--data_dir", copy)
    assert status == 1
    assert is_one_line_error(error)
    assert name in error
    assert contents(copy) == before


def test_columns_that_a_user_added_are_kept(copy, capsys, no_pictures):
    words = (copy / RUNS).read_text().splitlines()
    (copy / RUNS).write_text(f'\ufeffidea,{words[0]}\n"a, b",{words[1]}\n')
    status, _, error = run(capsys, "--train", "--epochs", 1, "--layers", 1, "--data_dir", copy)
    assert (status, error) == (0, "")
    assert [(row["idea"], row["layers"]) for row in rows(copy / RUNS)] == [("a, b", "2"), ("", "1")]


def test_a_newline_in_a_path_cuts_no_line(tmp_path, capsys):
    for words in (["--train"], ["--test"], ["--predict", tmp_path / "x\ny.npy"]):
        status, _, error = run(capsys, *words, "--data_dir", tmp_path / "a\n\x1b[2Jb")
        assert status == 1
        assert is_one_line_error(error)
        assert "missing" in error
        assert "\x1b" not in error


# All or nothing.


class Killed(BaseException):
    """In place of a signal that ends the process."""


@pytest.fixture
def whole(tmp_path, toy, capsys):
    """The files of one simulation of 80 spectra for each of two seeds."""
    for seed in (1, 2):
        assert run(capsys, *EIGHTY, seed, "--data_dir", tmp_path / f"whole{seed}")[0] == 0
    return {seed: dataset_files(tmp_path / f"whole{seed}") for seed in (1, 2)}


EIGHTY = ("--simulate", "--n_reps", 40, "--seed")


@pytest.fixture
def half(tmp_path, whole, monkeypatch):
    """A folder in which a simulation of seed 1 was stopped after 50 spectra."""

    def stopped(*words):
        yield from itertools.islice(toy_blocks(*words), 2)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(runml, "in_parallel", stopped)
        runml.main([*map(str, EIGHTY), "1", "--data_dir", str(tmp_path / "half")])
    assert not dataset_files(tmp_path / "half")
    return tmp_path / "half"


def test_a_stopped_simulation_goes_on(half, whole, capsys):
    status, printed, _ = run(capsys, *EIGHTY, 1, "--data_dir", half)
    assert status == 0
    assert "Going on after the 50 spectra" in printed
    assert dataset_files(half) == whole[1]
    assert not [path for path in half.rglob("*") if path.parent != half]


@pytest.mark.parametrize("words", [(2,), (1, "--n_loci", 2), (1, "--n_reps", 41)])
def test_one_of_other_settings_does_not(half, whole, capsys, tmp_path, words):
    status, printed, _ = run(capsys, *EIGHTY, *words, "--data_dir", half)
    assert status == 0
    assert "Going on" not in printed
    assert run(capsys, *EIGHTY, *words, "--data_dir", tmp_path / "expected")[0] == 0
    assert dataset_files(half) == dataset_files(tmp_path / "expected")


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    "spoil",
    [
        text(""),
        text("rubbish"),
        Path.unlink,
        cut,
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        *(lambda path, at=at: flip(path, at) for at in (0, 60, 150, 200, -200, -30, -10)),
    ],
)
def test_blocks_that_were_damaged_are_simulated_again(half, whole, capsys, spoil):
    first, *_ = sorted(path for path in half.rglob("*") if path.parent != half)
    spoil(first)
    status, _, error = run(capsys, *EIGHTY, 1, "--data_dir", half)
    assert (status, error) == (0, "")
    assert dataset_files(half) == whole[1]


def test_a_crash_at_any_step_leaves_one_whole_set(tmp_path, whole, monkeypatch):
    steps, crash_at = itertools.count(), float("inf")

    def crashing(function):
        def step(*args, **kwargs):
            if next(steps) >= crash_at:  # and nothing works any more
                raise Killed
            return function(*args, **kwargs)

        return step

    for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "fsync"):
        monkeypatch.setattr(os, name, crashing(getattr(os, name)))
    for name in ("open", "write_text", "write_bytes"):
        monkeypatch.setattr(Path, name, crashing(getattr(Path, name)))
    words = [*map(str, EIGHTY), "2", "--data_dir"]
    shutil.copytree(tmp_path / "whole1", tmp_path / "none")
    steps = itertools.count()
    assert runml.main([*words, str(tmp_path / "none")]) == 0
    n_steps, seen = next(steps), []
    for step in range(n_steps):
        folder = tmp_path / str(step)
        shutil.copytree(tmp_path / "whole1", folder)
        steps, crash_at = itertools.count(), step
        with pytest.raises(Killed):
            runml.main([*words, str(folder)])
        crash_at = float("inf")
        with contextlib.suppress(runml.UserError), runml.only_command_in(folder):
            pass  # which finishes what was begun
        seen.append(next(seed for seed in (1, 2) if dataset_files(folder) == whole[seed]))
        assert runml.main([*words, str(folder)]) == 0
        assert dataset_files(folder) == whole[2]
        assert {path.name for path in folder.iterdir()} == {".lock", *whole[2]}
    assert seen == sorted(seen)
    assert set(seen) == {1, 2}


MANY = ("--n_reps", 120, "--sequence_length", 5_000)  # enough to be stopped in
AGAIN = ("--simulate", *MANY, "--seed", 2)
LEARN = ("--train", "--test", "--epochs", 3, "--n_test_reps", 30)


def start(*words):
    """Start the script as a terminal does, and wait until Python itself has started."""
    words, kind = [*SCRIPT, *map(str, words)], {"text": True, "start_new_session": True}
    process = psutil.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kind)
    with contextlib.suppress(psutil.Error):
        while process.status() != psutil.STATUS_ZOMBIE:
            if any("numpy" in part.path for part in process.memory_maps()):
                break
            time.sleep(0.005)
    return process


def stop(process, number):
    """Send a signal, Ctrl-C to all processes as a terminal does; return whether it was in time."""
    family = process.children(recursive=True) if process.is_running() else []
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    stopped = process.returncode != 0
    if number == signal.SIGKILL and stopped:
        assert "Traceback" not in errors
    elif stopped:  # before its own line is ready, a signal ends the script silently
        assert (process.returncode, errors) in ((128 + number, STOPPED), (-number, ""))
    else:
        assert errors == ""
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE]
    return stopped


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Folders with whole simulations of two seeds."""
    folders = {seed: tmp_path_factory.mktemp(f"seed{seed}") for seed in (1, 2)}
    for seed, folder in folders.items():
        assert command("--simulate", *MANY, "--seed", seed, "--data_dir", folder).returncode == 0
    return folders


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("words", [AGAIN, LEARN], ids=["simulate", "learn"])
def test_stopped_at_random_moments(copy, simulated, number, words):
    rng, longest = random.Random(len(words) + number), 2.5 if words == AGAIN else 8
    if words == AGAIN:
        shutil.copytree(simulated[1], copy, dirs_exist_ok=True)
    old = {path.name: path.read_bytes() for path in copy.glob("[!.]*[!g]")}
    for _ in range(2 if words == AGAIN else 1):
        process = start(*words, "--data_dir", copy)
        time.sleep(rng.uniform(0, longest))
        stop(process, number)
    with runml.only_command_in(copy):
        left = {path.name: path.read_bytes() for path in copy.glob("[!.]*[!g]")}
    new = {name for name in left if left[name] != old[name]}
    kinds = {name: name.partition("_")[0] for name in old}
    kinds |= dict.fromkeys([MODEL, RUNS, "training_history.csv"], "train")
    for kind in ("simulated", "train", "test"):
        files = {name for name in kinds if kinds[name] == kind} - {LABELS}  # the same for any seed
        assert new & files in (set(), files)
    if words == AGAIN:
        assert dataset_files(copy) in [dataset_files(folder) for folder in simulated.values()]


def has_children(process):
    return bool(process.children(recursive=True))


def has_tensorflow(process):
    return any("tensorflow" in part.path for part in process.memory_maps())


@pytest.mark.parametrize("delay", [0, 0.05, 0.5])
@pytest.mark.parametrize(
    ("words", "begun"), [(("--simulate", "--workers", 4), has_children), (LEARN, has_tensorflow)]
)
def test_ctrl_c_while_workers_start_or_tensorflow_is_imported(copy, words, begun, delay):
    process = start(*words, "--data_dir", copy)
    while not begun(process):
        assert process.poll() is None
        time.sleep(0.002)
    time.sleep(delay)
    assert stop(process, signal.SIGINT)
    assert process.returncode == 128 + signal.SIGINT


# What happens to the machine.


def test_a_worker_that_is_killed_is_told():
    one = runml.RunSettings(workers=1)
    with pytest.raises(runml.UserError, match="a simulating process was killed"):
        list(runml.in_parallel(os._exit, [(1,)], one))


def test_a_second_command_in_the_folder_is_refused(copy, capsys):
    before = contents(copy)
    with runml.only_command_in(copy):
        status, _, error = run(capsys, "--simulate", *SMALL, "--data_dir", copy)
    assert status == 1
    assert is_one_line_error(error)
    assert "another command is at work" in error
    assert contents(copy) == before


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path, capsys, monkeypatch, toy, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    status, printed, error = run(capsys, "--simulate", *SMALL, "--data_dir", tmp_path)
    assert (status, error) == (0, "")
    assert "without locks" in printed
    assert len(dataset_files(tmp_path)) == 4


def test_a_file_system_without_memory_maps(copy, capsys, monkeypatch, no_pictures):
    def memmap(*_, **__):
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(np, "memmap", memmap)
    monkeypatch.setattr(np.lib.format, "open_memmap", memmap)
    with pytest.raises(OSError, match="No such device"):
        np.load(copy / SFS, mmap_mode="r")
    status, printed, error = run(capsys, "--train", "--epochs", 1, "--data_dir", copy)
    assert (status, error) == (0, "")
    assert "Model saved" in printed


@contextlib.contextmanager
def largest_file(size):
    """Within the block, no file may grow larger, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


TEST = ("--test", "--n_test_reps", 40, "--seed")


@pytest.mark.parametrize("words", [EIGHTY, ("--train", "--epochs", 1, "--seed"), TEST])
def test_no_room_for_results(copy, capsys, toy, words):
    before = contents(copy)
    with largest_file(50_000):
        status, _, error = run(capsys, *words, 1234, "--data_dir", copy)
    assert status == 1
    assert is_one_line_error(error), error
    assert "File too large" in error
    left = contents(copy)
    assert {name: left.get(name) for name in before} == before
    if words == EIGHTY:
        assert "Going on after the 80" in run(capsys, *words, 1234, "--data_dir", copy)[1]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ZeroDivisionError("an odd thing\nand more"), "ZeroDivisionError, an odd thing"),
        (RuntimeError("OOM when allocating tensor\n  [[{{node}}]]"), "RuntimeError, OOM when"),
        (MemoryError(), "MemoryError"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
    ],
)
def test_what_nobody_foresaw_is_a_line(copy, capsys, monkeypatch, error, told):
    def train_network(*_, **__):
        raise error

    before = contents(copy)
    monkeypatch.setattr(runml, "train_network", train_network)
    for traceback in ("", "1"):
        monkeypatch.setenv("RUNML_TRACEBACK", traceback)
        status, _, printed = run(capsys, "--train", "--data_dir", copy)
        assert status == 1
        assert told in printed.splitlines()[-1]
        assert is_one_line_error(printed.splitlines()[-1] + "\n")
        assert ("Traceback" in printed) == (traceback == "1")
        assert is_one_line_error(printed) or traceback
        assert contents(copy) == before


def test_a_training_that_runs_away_keeps_the_old_model(copy, capsys, monkeypatch):
    before = contents(copy)
    losses = {"loss": [0.5, np.nan], "val_loss": [0.5, np.nan], "val_accuracy": [0.5, 0.5]}
    monkeypatch.setattr(runml, "train_network", lambda *_, **__: losses)
    status, _, error = run(capsys, "--train", "--learning_rate", 10, "--data_dir", copy)
    assert status == 1
    assert is_one_line_error(error)
    assert "--learning_rate 10" in error
    assert contents(copy) == before


@pytest.mark.parametrize(("end", "status"), [("| true", 0), (">/dev/full", 1)])
def test_a_reader_that_leaves_and_a_full_output(tmp_path, end, status):
    words = " ".join([*SCRIPT, "--simulate", *map(str, SMALL), "--data_dir", str(tmp_path)])
    done = subprocess.run(f"{words} {end}", shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert done.stderr == "" if status == 0 else is_one_line_error(done.stderr)
