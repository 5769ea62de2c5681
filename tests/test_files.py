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
    Bomb,
    assert_refused,
    command,
    contents,
    dataset_files,
    rows,
    run,
    runml,
)

if sys.platform == "win32":
    pytest.skip("sends signals and limits files", allow_module_level=True)

import fcntl
import resource

SFS, LABELS = "simulated_sfs.npy", "simulated_responses.npy"
PARAMETERS, SETTINGS = "simulated_parameters.npy", "simulated_settings.json"
MODEL, RUNS, TESTS, OWN = "trained_model.keras", "experiments.csv", "test_log.csv", "own.npy"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 705728\n"
SMALL = ("--simulate", "--n_reps", 20, "--sequence_length", 5000)

# ------------- broken files: which file, how it is broken, and who meets it -------------

MET_BY = {
    **dict.fromkeys((SFS, LABELS, PARAMETERS, RUNS, "training_history.csv"), "--train"),
    **dict.fromkeys((MODEL, TESTS, "test_results.json"), "--test --n_test_reps 5"),
    **dict.fromkeys((OWN, "predictions.csv"), f"--predict {OWN}"),
    SETTINGS: f"--simulate --settings {SETTINGS}",
}


def lay_pickle(path):
    with path.open("wb") as file:
        np.save(file, np.array([Bomb()] * 400, object), allow_pickle=True)


def lay_folder(path):
    path.unlink()
    path.mkdir()


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def text(words):
    return lambda path: path.write_text(words)


def table(change):
    """A change of the text in a file."""
    return lambda path: path.write_text(change(path.read_text()))


def array(change):
    """A change of the array in a file."""
    return lambda path: np.save(path, change(np.load(path)))


def cell(value):
    """Another value in one cell of spectra."""
    return array(lambda sfs: np.where(np.arange(sfs.size).reshape(sfs.shape) == 7, value, sfs))


def setting(name, value):
    """A setting that was edited by hand."""
    return table(lambda words: json.dumps(json.loads(words) | {name: value}))


EDITED = (
    *(("n_loci", value) for value in ([], 0, "many", None, True, {}, [1, 2], 1e400)),
    *(("tdiv_prior", [2, 1]), ("asymmetric", "on"), ("n_reps", 0), ("versions", [])),
)
BROKEN = [
    *((name, "a folder", lay_folder) for name in MET_BY),
    *((name, "a Git-LFS pointer", text(POINTER)) for name in (SFS, SETTINGS, MODEL, RUNS, OWN)),
    *((name, "missing", Path.unlink) for name in (SFS, LABELS, SETTINGS, MODEL, OWN)),
    *((name, "truncated", cut) for name in (SFS, SETTINGS, MODEL, OWN)),
    *((name, "a pickle", lay_pickle) for name in (SFS, LABELS, PARAMETERS, MODEL, OWN)),
    (SFS, "empty", text("")),
    (SFS, "negative", cell(-1)),
    (SFS, "not a number", cell(np.nan)),
    (SFS, "more than a genome has", cell(1e300)),
    (SFS, "three dimensions", array(lambda sfs: sfs[..., 0])),
    (SFS, "odd numbers of chromosomes", array(lambda sfs: sfs[:, :20])),
    (SFS, "words", array(lambda sfs: sfs.astype(str))),
    (LABELS, "too few", array(lambda labels: labels[:-1])),
    (LABELS, "of other values", array(lambda labels: labels + 1)),
    (LABELS, "words", array(lambda labels: labels.astype(str))),
    (SETTINGS, "a list", text("[]")),
    (SETTINGS, "nested too deep", text("[" * 100_000)),
    *((SETTINGS, f"{name} {value}", setting(name, value)) for name, value in EDITED),
    *((name, "other columns", text("a,b\n1,2\n")) for name in (RUNS, TESTS, "predictions.csv")),
    (RUNS, "a cell too many", table(lambda words: words.rstrip("\n") + ",x\n")),
    (RUNS, "cells missing", table(lambda words: words + "x\n")),
    (RUNS, "no numbers", table(lambda words: words.replace("0.", "much"))),
    (RUNS, "infinite", table(lambda words: words.replace("0.", "1e9990."))),
    (RUNS, "a quote that is open", table(lambda words: words + '"')),
    (RUNS, "no text", lambda path: path.write_bytes(b"\xff\x00\n\xff\n")),
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
    Path("predictions.csv").write_text("file,divergence,gene_flow\nx,0.5,0.5\n")
    spoil(copy / name)
    before = contents(copy)
    done = run(capsys, *MET_BY[name].split(), "--data_dir", ".")
    assert_refused(done, name)
    assert "trust" not in done[2]  # NumPy's advice on pickles
    assert ("git lfs pull" in done[2]) == (before.get(Path(name)) == POINTER.encode())
    assert contents(copy) == before


def test_arrays_of_unknown_origin_are_learned_from_all_the_same(copy, capsys, no_pictures):
    for name in (SFS, LABELS):
        array(lambda rows: rows[::-1])(copy / name)
    array(lambda rows: rows[:10])(copy / PARAMETERS)
    for words, told in (
        (["--train", "--epochs", 1], "is of other arrays"),
        (["--test", "--n_test_reps", 5, "--n_loci", 2], "is not known"),
    ):
        status, printed, error = run(capsys, *words, "--data_dir", copy)
        assert (status, error) == (0, "")
        assert told in " ".join(printed.split())


def test_columns_that_a_user_added_are_kept(copy, capsys, no_pictures):
    words = (copy / RUNS).read_text().splitlines()
    (copy / RUNS).write_text(f'\ufeffidea,{words[0]}\n"a, b",{words[1]}\n')
    status, _, error = run(capsys, "--train", "--epochs", 1, "--layers", 1, "--data_dir", copy)
    assert (status, error) == (0, "")
    assert [(row["idea"], row["layers"]) for row in rows(copy / RUNS)] == [("a, b", "2"), ("", "1")]


# ------------------------------------ all or nothing ------------------------------------

EIGHTY = ("--simulate", "--n_reps", 40, "--seed")


@pytest.fixture
def whole(tmp_path, toy, capsys):
    """The files of one simulation of 80 spectra for each of two seeds."""
    for seed in (1, 2):
        assert run(capsys, *EIGHTY, seed, "--data_dir", tmp_path / f"whole{seed}")[0] == 0
    return {seed: dataset_files(tmp_path / f"whole{seed}") for seed in (1, 2)}


@pytest.fixture
def half(tmp_path, whole, monkeypatch):
    """A folder in which a simulation of seed 1 was stopped after 50 spectra."""

    def stopped(*words, simulated=runml.in_parallel):
        yield from itertools.islice(simulated(*words), 2)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runml, "in_parallel", stopped)
        runml.main([*map(str, EIGHTY), "1", "--data_dir", str(tmp_path / "half")])
    assert not dataset_files(tmp_path / "half")
    return tmp_path / "half"


def blocks(folder):
    """The files in hidden folders, where a simulation keeps what it has done."""
    return sorted(path for path in folder.rglob("*") if path.parent != folder)


@pytest.mark.parametrize("words", [(1,), (2,), (1, "--n_loci", 2), (1, "--n_reps", 41)])
def test_a_stopped_simulation_goes_on_if_its_settings_are_the_same(half, capsys, tmp_path, words):
    status, printed, _ = run(capsys, *EIGHTY, *words, "--data_dir", half)
    assert (status, "Going on after the 50 spectra" in printed) == (0, words == (1,))
    assert run(capsys, *EIGHTY, *words, "--data_dir", tmp_path / "expected")[0] == 0
    assert dataset_files(half) == dataset_files(tmp_path / "expected")
    assert not blocks(half)


def flip(at):
    """A byte that has changed on the disk."""

    def change(path):
        data = bytearray(path.read_bytes())
        data[at] ^= 0xFF
        path.write_bytes(data)

    return change


@pytest.mark.parametrize(
    "spoil", [text("rubbish"), Path.unlink, cut, *map(flip, (0, 60, 150, 200, -200, -30, -10))]
)
def test_blocks_that_were_damaged_are_simulated_again(half, whole, capsys, spoil):
    spoil(blocks(half)[0])
    status, _, error = run(capsys, *EIGHTY, 1, "--data_dir", half)
    assert (status, error) == (0, "")
    assert dataset_files(half) == whole[1]


def test_a_crash_at_any_step_leaves_one_whole_set(tmp_path, whole, monkeypatch):
    steps, crash_at = itertools.count(), float("inf")

    def crashing(function):
        def step(*args, **kwargs):
            if next(steps) >= crash_at:  # and nothing works any more
                raise KeyboardInterrupt
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
        with pytest.raises(KeyboardInterrupt):
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


# ----------------------------------- signals at any moment -----------------------------------

MANY = ("--simulate", "--n_reps", 120, "--sequence_length", 5_000, "--seed")
STOPPED = "runml: stopped; what was not finished has replaced nothing.\n"


def maps(process, library):
    """Whether a process has loaded a library."""
    return any(library in part.path for part in process.memory_maps())


def start(*words):
    """Start the script as a terminal does, and wait until Python itself has started."""
    words, kind = [*SCRIPT, *map(str, words)], {"text": True, "start_new_session": True}
    process = psutil.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kind)
    with contextlib.suppress(psutil.Error):
        while process.status() != psutil.STATUS_ZOMBIE and not maps(process, "numpy"):
            time.sleep(0.005)
    return process


def stop(process, number):
    """Send a signal, Ctrl-C to all processes as a terminal does; return the exit status."""
    family = process.children(recursive=True) if process.is_running() else []
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, error = process.communicate(timeout=30)
    status = process.returncode
    if status != -signal.SIGKILL:  # before its own line is ready, a signal ends the script silently
        assert (status, error) in ((0, ""), (128 + number, STOPPED), (-number, ""))
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE]
    return status


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Folders with whole simulations of two seeds."""
    folders = {seed: tmp_path_factory.mktemp(f"seed{seed}") for seed in (1, 2)}
    for seed, folder in folders.items():
        assert command(*MANY, seed, "--data_dir", folder)[0] == 0
    return folders


COMMANDS = {  # what is typed, how one sees that it is in the middle, and how long it takes
    "simulate": ((*MANY, 2), lambda process: process.children(recursive=True), 2.5),
    "learn": (
        ("--train", "--test", "--epochs", 3, "--n_test_reps", 30),
        lambda process: maps(process, "tensorflow"),
        8,
    ),
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("name", COMMANDS)
def test_stopped_at_any_moment(copy, simulated, number, name):
    (words, in_the_middle, seconds), rng = COMMANDS[name], random.Random(number)
    if name == "simulate":
        shutil.copytree(simulated[1], copy, dirs_exist_ok=True)
    old = {path.name: path.read_bytes() for path in copy.glob("[!.]*[!g]")}
    for moment in ("any", "workers start, or TensorFlow is imported"):
        process = start(*words, "--data_dir", copy)
        if moment == "any":
            time.sleep(rng.uniform(0, seconds))
            stop(process, number)
        else:
            while not in_the_middle(process):
                assert process.poll() is None
                time.sleep(0.002)
            time.sleep(rng.choice([0, 0.05, 0.3]))
            assert stop(process, number) == (-9 if number == signal.SIGKILL else 128 + number)
        with runml.only_command_in(copy):
            left = {path.name: path.read_bytes() for path in copy.glob("[!.]*[!g]")}
        new = {file for file in left if left[file] != old[file]}
        kinds = {file: file.partition("_")[0] for file in old}
        kinds |= dict.fromkeys([MODEL, RUNS, "training_history.csv"], "train")
        for kind in ("simulated", "train", "test"):
            files = {file for file in kinds if kinds[file] == kind} - {LABELS}  # of any seed
            assert new & files in (set(), files)
        if name == "simulate":
            assert dataset_files(copy) in [dataset_files(folder) for folder in simulated.values()]


# ------------------------------ what happens to the machine ------------------------------


def test_a_worker_that_is_killed_is_told():
    one = runml.RunSettings(workers=1)
    with pytest.raises(runml.UserError, match="a simulating process was killed"):
        list(runml.in_parallel(os._exit, [(1,)], one))


def test_a_second_command_in_the_folder_is_refused(copy, capsys):
    before = contents(copy)
    with runml.only_command_in(copy):
        assert_refused(run(capsys, *SMALL, "--data_dir", copy), "another command is at work")
    assert contents(copy) == before


@pytest.mark.parametrize("lacking", ["locks", "memory maps"])
def test_a_file_system_that_lacks_something(copy, capsys, monkeypatch, toy, lacking):
    def fail(*_, **__):
        raise OSError(errno.ENOSYS, "No such thing")

    if lacking == "locks":
        monkeypatch.setattr(fcntl, "flock", fail)
    else:
        monkeypatch.setattr(np, "memmap", fail)
        monkeypatch.setattr(np.lib.format, "open_memmap", fail)
    status, printed, error = run(capsys, *SMALL, "--train", "--epochs", 1, "--data_dir", copy)
    assert (status, error) == (0, "")
    assert "Model saved" in printed
    assert ("without locks" in printed) == (lacking == "locks")


@pytest.mark.parametrize("command", ["--simulate", "--train", "--test"])
def test_no_room_for_results(copy, capsys, toy, command):
    before, words = contents(copy), (command, "--seed", 1234, "--data_dir", copy)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # of a file, as on a full disk
    try:
        assert_refused(run(capsys, *words), "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert before.items() <= contents(copy).items()
    if command == "--simulate":
        assert "Going on after the 10,000" in run(capsys, *words)[1]


@pytest.mark.parametrize(
    ("error", "told"),
    [(RuntimeError("OOM at\n  [[{{node}}]]"), "RuntimeError, OOM at"), (OSError("EIO"), "EIO")],
)
def test_what_nobody_foresaw_is_a_line(copy, capsys, monkeypatch, error, told):
    def train_network(*_, **__):
        raise error

    before = contents(copy)
    monkeypatch.setattr(runml, "train_network", train_network)
    assert_refused(run(capsys, "--train", "--data_dir", copy), told)
    monkeypatch.setenv("RUNML_TRACEBACK", "1")
    status, _, printed = run(capsys, "--train", "--data_dir", copy)
    assert (status, printed.startswith("Traceback")) == (1, True)
    assert told in printed.splitlines()[-1]
    assert contents(copy) == before


def test_a_training_that_runs_away_keeps_the_old_model(copy, capsys, monkeypatch):
    before = contents(copy)
    losses = {"loss": [0.5, np.nan], "val_loss": [0.5, np.nan], "val_accuracy": [0.5, 0.5]}
    monkeypatch.setattr(runml, "train_network", lambda *_, **__: losses)
    done = run(capsys, "--train", "--learning_rate", 10, "--data_dir", copy)
    assert_refused(done, "--learning_rate 10")
    assert contents(copy) == before


@pytest.mark.parametrize(("end", "status"), [("| true", 0), (">/dev/full", 1)])
def test_a_reader_that_leaves_and_a_full_output(tmp_path, end, status):
    words = " ".join([*SCRIPT, *map(str, SMALL), "--data_dir", str(tmp_path)])
    done = subprocess.run(f"{words} {end}", shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (status, status)  # one line, or none


NO_AVX = """
import pathlib, platform
of_others = pathlib.Path.read_text
flags = lambda self, **how: "flags: sse4_2" if self.name == "cpuinfo" else of_others(self, **how)
platform.machine, pathlib.Path.read_text = lambda: "x86_64", flags
"""
UNFIT = {  # Python code that goes first, and what is told
    "sitecustomize.py": (NO_AVX, "AVX"),
    "tensorflow.py": ("raise ImportError('libcudart.so: not found\\nat all')", "libcudart.so: not"),
}


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="no Linux")
@pytest.mark.parametrize("words", [["--train"], ["--test"]])
@pytest.mark.parametrize("file", UNFIT)
def test_a_tensorflow_that_does_not_fit_the_machine(copy, tmp_path, words, file):
    code, told = UNFIT[file]
    before = contents(copy)
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / file).write_text(code)
    env = os.environ | {"PYTHONPATH": str(tmp_path / "packages")}
    done = command(*words, "--data_dir", copy, env=env)
    assert contents(copy) == before
    assert_refused(done, told)
    assert MODEL not in done[2]  # which is not to blame
