"""Whatever is typed, and whatever happens to the machine: a clear line, and no work lost."""

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import hypothesis.extra.numpy as arrays
import numpy as np
import psutil
import pytest
from conftest import (
    SCRIPT,
    STOPPED,
    Killed,
    command,
    contents,
    dataset_files,
    is_one_line_error,
    killed_midway,
    run,
    runml,
    toy_rows,
    unfinished_array,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if sys.platform == "win32":
    pytest.skip("sends signals and limits files", allow_module_level=True)

import resource

SOAK = int(os.environ.get("RUNML_SOAK", "1"))  # multiplies the number of random moments
MANY = ("--n_reps", 120, "--sequence_length", 5_000)  # enough to be interrupted
quick = settings(
    max_examples=100 * SOAK, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


# What is typed, and what files hold.

words = st.one_of(
    st.sampled_from(
        [f"--{name}" for name in [*runml.OPTIONS, *runml.COMMANDS, "data_dir", "help_", "lay"]]
    ),
    st.floats().map(repr),
    st.integers(-5, 10**12).map(str),
    st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=8),
)


@quick
@given(st.lists(words, max_size=8))
def test_the_parser_answers_anything(tmp_path, capsys, argv):
    try:
        typed = runml.parse([*argv, "--data_dir", str(tmp_path)])
    except runml.UsageError as error:
        assert error.status == 2
        assert str(error)
        return
    except SystemExit as end:
        capsys.readouterr()
        assert end.code == 0
        assert {"-h", "--help"} & set(argv)
        return
    assert typed.modes == [mode for mode in runml.COMMANDS if f"--{mode}" in argv]
    assert ("predict" in typed.modes) == bool(typed.observed)
    assert typed.options.keys() == {word[2:] for word in argv if word[2:] in runml.OPTIONS}
    for name, value in typed.options.items():
        interval = runml.OPTIONS[name].metadata["interval"]
        numbers = [each for each in np.atleast_1d(value).tolist() if interval and each != "uniform"]
        assert all(runml.lies_within(float(each), interval) for each in numbers if each != "log")


def loads_or_explains(folder):
    try:
        data = runml.load_dataset(folder)
    except runml.Problem as problem:
        assert "\n" not in str(problem)
        assert str(folder) in str(problem)
        return
    assert data.sfs.ndim == 4
    assert len(data.sfs) == len(data.responses)
    assert set(np.unique(data.responses)) == {0, 1}


@quick
@given(st.binary(max_size=300), st.booleans(), st.booleans())
def test_random_bytes_are_no_array(tmp_path, trained, data, with_magic, as_responses):
    for name in ("simulated_sfs.npy", "simulated_responses.npy"):
        shutil.copy(trained[0] / name, tmp_path)
    name = "simulated_responses.npy" if as_responses else "simulated_sfs.npy"
    (tmp_path / name).write_bytes((b"\x93NUMPY\x01\x00" if with_magic else b"") + data)
    loads_or_explains(tmp_path)


@quick
@given(
    arrays.arrays(
        st.one_of(arrays.scalar_dtypes(), arrays.array_dtypes()),
        st.one_of(
            arrays.array_shapes(min_dims=0, max_dims=5, max_side=5),
            st.tuples(st.integers(0, 12), st.just(3), st.just(3), st.just(1)),
        ),
    ),
    st.booleans(),
)
def test_random_arrays_are_checked(tmp_path, array, alternate):
    np.save(tmp_path / "simulated_sfs.npy", array)
    responses = np.arange(len(array) if array.ndim else 1) % (1 + alternate)
    np.save(tmp_path / "simulated_responses.npy", responses)
    loads_or_explains(tmp_path)


@quick
@given(st.data())
def test_truncated_and_altered_files_are_told(tmp_path, trained, data):
    names = ["simulated_sfs.npy", "simulated_responses.npy", "simulated_settings.json"]
    for name in names:
        shutil.copy(trained[0] / name, tmp_path)
    name = data.draw(st.sampled_from(names))
    good = (tmp_path / name).read_bytes()
    cut = data.draw(st.integers(0, len(good)))
    (tmp_path / name).write_bytes(good[:cut] + data.draw(st.binary(max_size=5)))
    loads_or_explains(tmp_path)


@quick
@given(st.data())
def test_broken_models_are_told(tmp_path, trained, data):
    good = (trained[0] / "trained_model.keras").read_bytes()
    start = data.draw(st.integers(0, len(good)))
    length = data.draw(st.integers(0, 2_000))
    path = tmp_path / "trained_model.keras"
    path.write_bytes(good[:start] + data.draw(st.binary(max_size=50)) + good[start + length :])
    with contextlib.suppress(runml.Problem):
        notes, *_ = runml.read_archive(path)
        assert notes.training == runml.TrainingSettings(epochs=4, learning_rate=1e-4)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["simulated_sfs.npy", "simulated_responses.npy"])
def test_a_pickle_is_never_run(tmp_path, copy, capsys, name):
    np.save(copy / name, np.array([Bomb(tmp_path / "ran")] * 400, dtype=object), allow_pickle=True)
    status, _, error = run(capsys, "--train", "--data_dir", copy)
    assert status == 1
    assert is_one_line_error(error)
    assert not (tmp_path / "ran").exists()


def test_a_model_with_code_is_refused(copy, capsys):
    keras = runml.start_keras()
    counts = keras.Input((21, 21, 1))
    x = keras.layers.Lambda(lambda x: x * 2)(counts)
    model = keras.Model(counts, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    notes, *_ = runml.read_archive(copy / "trained_model.keras")
    runml.save_model(copy / "trained_model.keras", model, notes)
    before = contents(copy)
    status, _, error = run(capsys, "--test", "--data_dir", copy)
    assert status == 1
    assert is_one_line_error(error)
    assert "trained_model.keras" in error
    assert contents(copy) == before


@pytest.mark.parametrize(
    ("inputs", "outputs"), [((20, 20, 1), 2), ((21, 21, 2), 2), ((21,), 2), ((21, 21, 1), 3)]
)
def test_a_model_for_something_else_is_refused(tmp_path, trained, inputs, outputs):
    keras = runml.start_keras()
    counts = keras.Input(inputs)
    model = keras.Model(counts, keras.layers.Dense(outputs)(keras.layers.Flatten()(counts)))
    notes, *_ = runml.read_archive(trained[0] / "trained_model.keras")
    runml.save_model(tmp_path / "trained_model.keras", model, notes)
    with pytest.raises(runml.Problem, match="no model of this script"):
        runml.load_network(tmp_path / "trained_model.keras")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("learned", None),
        ("learned", {}),
        ("learned", ["baselines", "reference", "mean_input"]),
        ("baselines", {"F_ST": 1}),
        ("reference", "far away"),
        ("mean_input", [[1.0, 2.0]]),
    ],
)
def test_notes_that_were_edited_are_told(copy, part, value):
    path = copy / "trained_model.keras"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    notes = json.loads(members[runml.NOTES])
    (notes if part == "learned" else notes["learned"])[part] = value
    members[runml.NOTES] = json.dumps(notes).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    with pytest.raises(runml.Problem, match=r"trained_model\.keras"):
        runml.load_network(path)


def test_a_training_that_runs_away_keeps_the_old_model(copy, monkeypatch, capsys):
    before = contents(copy)
    monkeypatch.setattr(runml, "train_network", lambda *_: (None, {"val_loss": [0.5, np.nan]}))
    status, _, error = run(capsys, "--train", "--learning_rate", 10, "--data_dir", copy)
    assert status == 1
    assert is_one_line_error(error)
    assert "--learning_rate 10: too large" in error
    assert contents(copy) == before


def test_results_whose_place_is_taken_by_a_folder(copy, capsys):
    (copy / "test_results.json").unlink()
    (copy / "test_results.json").mkdir()
    before = contents(copy)
    status, _, error = run(capsys, "--test", "--n_test_reps", 5, "--data_dir", copy)
    assert status == 1
    assert is_one_line_error(error)
    assert "test_results.json is a folder" in error
    assert contents(copy) == before


def test_a_rare_model_is_told_before_training(tmp_path, capsys):
    responses = np.zeros(200, int)
    _, validation = runml.split_rows(200, 1234)
    responses[validation[:5]] = 1
    np.save(tmp_path / "simulated_sfs.npy", np.ones((200, 5, 5, 1), np.int32))
    np.save(tmp_path / "simulated_responses.npy", responses)
    status, _, error = run(capsys, "--train", "--data_dir", tmp_path)
    assert status == 1
    assert is_one_line_error(error)
    assert "rare" in error


# Crashes, one at each step that touches the disk.


def test_a_crash_at_any_step_leaves_one_whole_set(tmp_path, monkeypatch, toy):
    steps, crash_at = itertools.count(), float("inf")

    def crashing(function):
        def step(*args, **kwargs):
            if next(steps) >= crash_at:  # and nothing works any more
                raise Killed
            return function(*args, **kwargs)

        return step

    for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "fsync", "truncate", "ftruncate"):
        monkeypatch.setattr(os, name, crashing(getattr(os, name)))
    for name in ("open", "write_text", "write_bytes"):
        monkeypatch.setattr(runml.Path, name, crashing(getattr(runml.Path, name)))

    def simulate(folder, seed):
        argv = ["--simulate", "--n_reps", "10", "--seed", str(seed), "--data_dir", str(folder)]
        assert runml.main(argv) == 0

    def state(folder):
        with runml.only_command_in(folder):  # which finishes what was begun
            data = runml.load_dataset(folder)
        seed = data.simulated.settings.seed
        assert np.array_equal(data.sfs, np.concatenate([*toy_rows(data.simulated.settings, 0, 20, 0)]))
        parameters = np.load(folder / "simulated_parameters.npy")
        expected = [
            runml.draw_row(data.simulated.settings, runml.TRAINING_SET, row)[0] for row in range(20)
        ]
        assert np.array_equal(parameters, np.array(expected, runml.PARAMETERS))
        return seed

    simulate(tmp_path / "whole", 1)
    first = next(steps)
    simulate(tmp_path / "whole", 2)
    n_steps = next(steps) - first - 1
    assert n_steps > 20
    seen = set()
    for step in range(n_steps):
        folder = tmp_path / str(step)
        shutil.copytree(tmp_path / "whole", folder)  # of seed 2
        steps, crash_at = itertools.count(), step
        with pytest.raises(Killed):
            simulate(folder, 1)
        crash_at = float("inf")
        seen.add(state(folder))
        simulate(folder, 1)
        assert state(folder) == 1
        left = {path.name for path in folder.iterdir()} - {".lock"}
        assert left == dataset_files(folder).keys()
    assert seen == {1, 2}


# Signals, at random moments.


def wait_for_the_script(process):
    """Wait until Python is past its own start, which no script can change: until NumPy is imported."""
    with contextlib.suppress(psutil.Error):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if any("numpy" in part.path for part in process.memory_maps()):
                return
            time.sleep(0.005)


def start(*argv):
    process = psutil.Popen(
        [*SCRIPT, *map(str, argv)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_the_script(process)
    return process


def stop_after(seconds, number, *argv):
    """Start a command, send it a signal after a while; return whether it was stopped by it."""
    process = start(*argv)
    time.sleep(seconds)
    family = process.children(recursive=True) if process.is_running() else []
    sent = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    stopped = process.returncode != 0
    if stopped and number != signal.SIGKILL:
        # Before its own line is ready, a signal ends the script silently.
        assert (process.returncode, errors) in ((128 + number, STOPPED), (-number, ""))
        assert time.monotonic() - sent < 5
    else:
        assert (process.returncode, errors) == (-number if stopped else 0, "")
    _, alive = psutil.wait_procs(family, timeout=3)
    assert not [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE]
    return stopped


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Whole sets of two seeds, to compare with, and how long one took."""
    files = {}
    for seed in (1, 2):
        folder, begin = tmp_path_factory.mktemp(f"seed{seed}"), time.monotonic()
        assert command("--simulate", *MANY, "--seed", seed, "--data_dir", folder).returncode == 0
        files[seed] = folder, time.monotonic() - begin
    return files


def test_simulate_stopped_at_random_moments(tmp_path, both, capsys):
    rng = random.Random(1)
    duration = both[2][1]
    whole = {seed: dataset_files(both[seed][0]) for seed in both}
    shutil.copytree(both[1][0], tmp_path, dirs_exist_ok=True)
    argv = ("--simulate", *MANY, "--seed", 2, "--data_dir", tmp_path)
    for number in [signal.SIGKILL, signal.SIGINT, signal.SIGTERM] * 2 * SOAK:
        stop_after(rng.uniform(0, duration), number, *argv)
        with runml.only_command_in(tmp_path):
            found = dataset_files(tmp_path)
        assert found in whole.values()
        if found == whole[2]:
            shutil.copytree(both[1][0], tmp_path, dirs_exist_ok=True)
    assert run(capsys, *argv)[0] == 0
    assert dataset_files(tmp_path) == whole[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_train_and_test_stopped_at_random_moments(copy, number):
    rng = random.Random(5 + number)
    argv = ("--train", "--test", "--epochs", 3, "--n_test_reps", 30, "--data_dir", copy)
    for _ in range(SOAK):
        old = {path.name: path.read_bytes() for path in copy.glob("[!.]*[!g]")}
        stop_after(rng.uniform(0, 6), number, *argv)
        with runml.only_command_in(copy):
            left = {path.name: path.read_bytes() for path in copy.glob("[!.]*[!g]")}
        new = {name for name in left if left[name] != old[name]}
        # All files of a set are new or none is; the same test gives the same results.
        trained_files = {name for name in runml.SETS["trained"] if name in new}
        assert len(trained_files) in (0, len(runml.SETS["trained"]))
        for table, kind in (("experiments.csv", "trained"), ("test_log.csv", "test")):
            n_more = left[table].count(b"\n") - old[table].count(b"\n")
            assert n_more == bool(new & set(runml.SETS[kind]))
        runml.load_network(copy / runml.MODEL)


def interrupt_midway(folder, *argv):
    """Send Ctrl-C once the first spectra of a simulation are on the disk."""
    process = start("--simulate", *argv, "--data_dir", folder)
    while not (array := unfinished_array(folder)) or array.stat().st_size < 20_000:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, STOPPED)


def test_an_interrupted_simulation_goes_on(tmp_path, both, capsys):
    interrupt_midway(tmp_path, *MANY, "--seed", 2)
    status, _, error = run(capsys, "--train", "--data_dir", tmp_path)
    assert status == 1
    assert "--simulate first" in error
    status, printed, _ = run(capsys, "--simulate", *MANY, "--seed", 2, "--data_dir", tmp_path)
    assert status == 0
    assert "Going on after" in printed
    assert dataset_files(tmp_path) == dataset_files(both[2][0])


def test_an_unfinished_simulation_of_other_settings_is_discarded(tmp_path, toy, monkeypatch, capsys):
    for argv in (("--seed", 2), ("--n_reps", 41), ("--mutation_rate", 2e-8)):
        words = ("--n_reps", 40, *argv)
        killed_midway(monkeypatch, tmp_path, "--n_reps", 40)
        status, printed, _ = run(capsys, "--simulate", *words, "--data_dir", tmp_path)
        assert status == 0
        assert "Discarding" in printed
        assert "Going on" not in printed
        assert run(capsys, "--simulate", *words, "--data_dir", tmp_path / "whole")[0] == 0
        assert dataset_files(tmp_path) == dataset_files(tmp_path / "whole")
        assert not unfinished_array(tmp_path)


def test_a_wrong_cluster_does_not_discard_what_is_unfinished(tmp_path, monkeypatch, capsys, request):
    with monkeypatch.context():
        request.getfixturevalue("toy")
        killed_midway(monkeypatch, tmp_path, "--n_reps", 40)
    monkeypatch.undo()
    before = contents(tmp_path)
    for seed in (1234, 2):
        words = ("--simulate", "--n_reps", 40, "--seed", seed, "--data_dir", tmp_path)
        status, _, error = run(capsys, *words, "--dask_scheduler", "nonsense")
        assert status == 1
        assert is_one_line_error(error)
        left = contents(tmp_path)
        assert {name: left.get(name) for name in before} == before


# What happens to the machine.


def test_a_killed_worker_ends_the_run_with_a_message(tmp_path):
    process = start("--simulate", "--data_dir", tmp_path)
    while not unfinished_array(tmp_path):  # at the latest by then, the workers are there
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.2)
    workers = [worker for child in process.children() for worker in child.children()]
    workers[0].kill()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert errors.startswith("runml: error: a simulating process was killed")
    assert is_one_line_error(errors)
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive


@contextlib.contextmanager
def largest_file(size):
    """Within the block, no file may grow larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("argv", "limit"),
    [
        (("--simulate", "--n_reps", 60, "--sequence_length", 5_000), 60_000),
        (("--train", "--epochs", 1), 100_000),
        (("--test", "--n_test_reps", 50, "--seed", 3), 60_000),
    ],
)
def test_a_quota_is_reported_and_nothing_lost(copy, capsys, argv, limit):
    before = contents(copy)
    with largest_file(limit):
        status, _, error = run(capsys, *argv, "--data_dir", copy)
    assert status == 1
    assert is_one_line_error(error), error
    assert "File too large" in error
    left = contents(copy)
    assert {name: left.get(name) for name in before} == before


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 4 MB, where this may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk(tiny_disk, trained, capsys):
    shutil.copytree(trained[0], tiny_disk, dirs_exist_ok=True)
    before = contents(tiny_disk)
    status, _, error = run(capsys, "--simulate", "--n_reps", 5_000, "--data_dir", tiny_disk)
    assert status == 1
    assert is_one_line_error(error)
    assert "no room for 18 MB" in error
    free = shutil.disk_usage(tiny_disk).free
    (tiny_disk / "filler").write_bytes(bytes(free - 100_000))
    for argv in (("--train", "--epochs", 1), ("--test", "--n_test_reps", 40)):
        status, _, error = run(capsys, *argv, "--data_dir", tiny_disk)
        assert status == 1
        assert is_one_line_error(error), error
        assert "No space left" in error or "no room" in error
    left = contents(tiny_disk)
    assert {name: left.get(name) for name in before} == before


def test_a_read_only_folder(tiny_disk, trained, capsys):
    shutil.copytree(trained[0], tiny_disk, dirs_exist_ok=True)
    before = contents(tiny_disk)
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    for argv in (("--simulate", *MANY), ("--train",), ("--test",)):
        status, _, error = run(capsys, *argv, "--data_dir", tiny_disk)
        assert status == 1
        assert is_one_line_error(error), error
        assert "Read-only file system" in error
    assert contents(tiny_disk) == before


def test_two_commands_in_one_folder(copy):
    """The second waits a second for the first to end, and is then refused."""
    before = contents(copy)
    with runml.only_command_in(copy):
        done = command("--simulate", *MANY, "--data_dir", copy)
    assert done.returncode == 1
    assert is_one_line_error(done.stderr)
    assert "another command is at work" in done.stderr
    assert contents(copy) == before


def test_a_reader_that_leaves(tmp_path):
    done = subprocess.run(
        f"{' '.join(SCRIPT)} --simulate --n_reps 20 --sequence_length 5000 --data_dir {tmp_path} | true",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


# The same again.

SPAWN = """
import multiprocessing
context = multiprocessing.get_context
multiprocessing.get_all_start_methods = lambda: ["spawn"]
multiprocessing.get_context = lambda method=None: context("spawn")
"""


def test_processes_that_are_spawned_give_the_same_bytes(tmp_path, both):
    """As on Windows, and with a number of workers of its own."""
    (tmp_path / "sitecustomize.py").write_text(SPAWN)
    words = (*MANY, "--seed", 2, "--workers", 3, "--data_dir", tmp_path / "data")
    done = command("--simulate", *words, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (0, "")
    assert dataset_files(tmp_path / "data") == dataset_files(both[2][0])


def test_settings_file_says_everything(tmp_path, both, capsys):
    words = ("--settings", both[2][0] / "simulated_settings.json", "--workers", 1)
    assert run(capsys, "--simulate", *words, "--data_dir", tmp_path)[0] == 0
    assert dataset_files(tmp_path) == dataset_files(both[2][0])


def test_training_and_test_twice_in_a_row(copy, trained, capsys):
    """Once in a process of its own, and once here."""
    words = ("--epochs", 4, "--learning_rate", 1e-4, "--n_test_reps", 50, "--data_dir", copy)
    status, _, error = run(capsys, "--train", "--test", *words)
    assert (status, error) == (0, "")
    networks = [runml.load_network(folder / runml.MODEL) for folder in (trained[0], copy)]
    for a, b in zip(*(network.model.get_weights() for network in networks), strict=True):
        np.testing.assert_array_equal(a, b)
    for name in ("test_results.json", "test_sfs.npy"):
        assert (copy / name).read_bytes() == (trained[0] / name).read_bytes()
