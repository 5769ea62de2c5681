"""Whatever is typed, and whatever happens to the machine: a clear line, and no work lost."""

import contextlib
import itertools
import json
import os
import random
import resource
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
from conftest import SCRIPT, command, contents, runml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if sys.platform == "win32":
    pytest.skip("sends signals and limits files", allow_module_level=True)

SOAK = int(os.environ.get("RUNML_SOAK", "1"))  # multiplies the number of random moments
SMALL = ("--n_reps", 60, "--sequence_length", 20_000)
quick = settings(
    max_examples=100 * SOAK, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def is_one_line_error(done):
    return done.stderr.startswith("runml: error: ") and done.stderr.count("\n") == 1


# What is typed, and what files hold.

words = st.one_of(
    st.sampled_from(
        [f"--{name}" for name in [*runml.OPTIONS, *runml.MODES, "data_dir", "help_", "lay"]]
    ),
    st.floats().map(repr),
    st.integers(-5, 10**12).map(str),
    st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=8),
)


@quick
@given(st.lists(words, max_size=8))
def test_the_parser_answers_anything(tmp_path, capsys, argv):
    try:
        modes, _, typed = runml.parse([*argv, "--data_dir", str(tmp_path)])
    except runml.Problem:
        return
    except SystemExit as end:
        printed = capsys.readouterr()
        if end.code == 0:
            assert {"-h", "--help"} & set(argv)
        else:
            assert end.code == 2
            assert printed.err.startswith("runml: error: ")
            assert printed.err.count("\n") == 1
        return
    assert modes == [mode for mode in runml.MODES if f"--{mode}" in argv]
    assert typed.keys() - {"predict"} == {word[2:] for word in argv if word[2:] in runml.OPTIONS}
    for name, value in typed.items():
        if name == "predict":
            assert ("predict" in modes) == bool(value)
            continue
        if name == "dask_scheduler":
            assert value
            continue
        numbers = value if isinstance(value, tuple) else [value]
        assert all(
            runml.lies_within(number, runml.OPTIONS[name].metadata["within"]) for number in numbers
        )


def loads_or_explains(folder):
    try:
        sfs, responses, *_ = runml.load_dataset(folder)
    except runml.Problem as problem:
        assert "\n" not in str(problem)
        assert str(folder) in str(problem)
        return
    assert sfs.ndim == 4
    assert len(sfs) == len(responses)
    assert set(np.unique(responses)) == {0, 1}


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
    np.save(
        tmp_path / "simulated_responses.npy",
        np.arange(len(array) if array.ndim else 1) % (1 + alternate),
    )
    loads_or_explains(tmp_path)


@quick
@given(st.data())
def test_truncated_and_altered_files_are_told(tmp_path, trained, data):
    folder = tmp_path / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(trained[0], folder)
    name = data.draw(
        st.sampled_from(["simulated_sfs.npy", "simulated_responses.npy", "simulated_settings.json"])
    )
    good = (folder / name).read_bytes()
    cut = data.draw(st.integers(0, len(good)))
    (folder / name).write_bytes(good[:cut] + data.draw(st.binary(max_size=5)))
    loads_or_explains(folder)


@quick
@given(st.data())
def test_broken_models_are_told(tmp_path, trained, data):
    good = (trained[0] / "trained_model.keras").read_bytes()
    start = data.draw(st.integers(0, len(good)))
    length = data.draw(st.integers(0, 2_000))
    path = tmp_path / "trained_model.keras"
    path.write_bytes(good[:start] + data.draw(st.binary(max_size=50)) + good[start + length :])
    with contextlib.suppress(runml.Problem):
        assert runml.load_notes(path).training == runml.TrainingSettings(epochs=4, learning_rate=1e-4)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["simulated_sfs.npy", "simulated_responses.npy"])
def test_a_pickle_is_never_run(tmp_path, trained, name):
    folder = tmp_path / "data"
    shutil.copytree(trained[0], folder)
    np.save(folder / name, np.array([Bomb(tmp_path / "ran")] * 400, dtype=object), allow_pickle=True)
    done = command("--train", "--data_dir", folder)
    assert done.returncode == 1
    assert is_one_line_error(done)
    assert not (tmp_path / "ran").exists()


def test_a_model_with_code_is_refused(tmp_path, trained):
    keras = runml.start_keras()
    counts = keras.Input((21, 21, 1))
    x = keras.layers.Lambda(lambda x: x * 2)(counts)
    model = keras.Model(counts, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    notes = runml.load_notes(tmp_path / "trained_model.keras")
    runml.save_model(tmp_path / "trained_model.keras", model, notes)
    before = contents(tmp_path)
    done = command("--test", "--data_dir", tmp_path)
    assert done.returncode == 1
    assert is_one_line_error(done)
    assert "trained_model.keras" in done.stderr
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("inputs", "outputs"), [((20, 20, 1), 2), ((21, 21, 2), 2), ((21,), 2), ((21, 21, 1), 3)]
)
def test_a_model_for_something_else_is_refused(tmp_path, trained, inputs, outputs):
    keras = runml.start_keras()
    counts = keras.Input(inputs)
    model = keras.Model(counts, keras.layers.Dense(outputs)(keras.layers.Flatten()(counts)))
    notes = runml.load_notes(trained[0] / "trained_model.keras")
    runml.save_model(tmp_path / "trained_model.keras", model, notes)
    with pytest.raises(runml.Problem, match="no model of this script"):
        runml.load_model(tmp_path / "trained_model.keras")


def test_a_training_that_runs_away_keeps_the_old_model(tmp_path, trained, monkeypatch, capsys):
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "trained_model.keras").read_bytes()
    monkeypatch.setattr(runml, "train_network", lambda *_: (None, {"val_loss": [0.5, np.nan]}))
    assert runml.main(["--train", "--learning_rate", "10", "--data_dir", str(tmp_path)]) == 1
    assert "--learning_rate 10: too large" in capsys.readouterr().err
    assert (tmp_path / "trained_model.keras").read_bytes() == before


# Crashes, one at each step that touches the disk.


class Killed(BaseException):
    """Stands for SIGKILL: nothing may tidy up after it."""


def toy_rows(settings, branch, executor, ahead, first_row=0):
    spectra = np.full((2 * settings.n_reps, 21, 21, 1), settings.seed, np.int32)
    yield from np.split(spectra[first_row:], range(7, len(spectra) - first_row, 7))


def test_a_crash_at_any_step_leaves_one_whole_set(tmp_path, monkeypatch):
    monkeypatch.setattr(runml, "worker_pool", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(runml, "simulate_dataset", toy_rows)
    monkeypatch.setattr(runml, "save_picture", lambda *_: None)
    steps, crash_at = itertools.count(), None

    def crashing(function):
        def step(*args, **kwargs):
            if next(steps) == crash_at:
                raise Killed
            return function(*args, **kwargs)

        return step

    for name in ("rename", "replace", "rmdir", "unlink", "mkdir", "write_text", "write_bytes", "open"):
        monkeypatch.setattr(runml.Path, name, crashing(getattr(runml.Path, name)))
    monkeypatch.setattr(runml.os, "fsync", crashing(os.fsync))

    def simulate(folder, seed):
        argv = ["--simulate", "--n_reps", "20", "--seed", str(seed), "--data_dir", str(folder)]
        assert runml.main(argv) == 0

    def state(folder):
        nonlocal crash_at
        crash_at = None
        runml.finish_moves(folder)
        sfs, responses, _, found = runml.load_dataset(folder)
        assert found is not None
        assert np.unique(sfs).tolist() == [found.seed]
        assert len(sfs) == len(responses) == 40
        parameters = np.load(folder / "simulated_parameters.npy")
        expected = [runml.draw_row(found, runml.SIMULATE, row)[0] for row in range(40)]
        assert np.array_equal(parameters, np.array(expected, runml.PARAMETERS))
        return found.seed

    simulate(tmp_path / "whole", 1)
    first = next(steps)
    simulate(tmp_path / "whole", 2)
    n_steps = next(steps) - first - 1
    assert n_steps > 20
    seen = set()
    rmtree = shutil.rmtree
    for step in range(n_steps):
        folder = tmp_path / str(step)
        simulate(folder, 1)
        steps, crash_at = itertools.count(), step
        monkeypatch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
        with pytest.raises(Killed):
            simulate(folder, 2)
        monkeypatch.setattr(shutil, "rmtree", rmtree)
        seen.add(state(folder))
        simulate(folder, 2)
        assert state(folder) == 2
        assert {path.name for path in folder.iterdir()} - {".simulated.lock"} == {
            f"simulated_{part}"
            for part in ("sfs.npy", "responses.npy", "parameters.npy", "settings.json")
        }
    assert seen == {1, 2}


# Signals, at random moments.


def stop_after(seconds, number, *argv):
    """Start a command, send it a signal after a while; return its status, errors and seconds to end."""
    process = psutil.Popen(
        [*SCRIPT, *map(str, argv)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(seconds)
    family = process.children(recursive=True) if process.is_running() else []
    sent = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    _, alive = psutil.wait_procs(family, timeout=1)
    assert not [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE]
    return process.returncode, errors, time.monotonic() - sent


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Whole sets of two seeds, to compare with."""
    files = {}
    for seed in (1, 2):
        folder = tmp_path_factory.mktemp(f"seed{seed}")
        start = time.monotonic()
        assert command("--simulate", *SMALL, "--seed", seed, "--data_dir", folder).returncode == 0
        files[seed] = folder, time.monotonic() - start
    return files


def dataset_files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("simulated_*.[nj]*")}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_simulate_stopped_at_random_moments(tmp_path, both, number):
    rng = random.Random(int(number))
    duration = both[2][1]
    shutil.copytree(both[1][0], tmp_path, dirs_exist_ok=True)
    argv = ("--simulate", *SMALL, "--seed", 2, "--data_dir", tmp_path)
    for _ in range(8 * SOAK):
        status, errors, seconds = stop_after(rng.uniform(0.05, duration * 1.1), number, *argv)
        if number != signal.SIGKILL and status != 0 and status != -number:
            assert status == 128 + number
            assert errors == "runml: stopped; what was not finished has replaced nothing.\n"
            assert seconds < 3
        elif status != -number:
            assert status == 0
        runml.finish_moves(tmp_path)
        found = dataset_files(tmp_path)
        assert found in (dataset_files(both[1][0]), dataset_files(both[2][0]))
        if found == dataset_files(both[2][0]):
            shutil.rmtree(tmp_path)
            shutil.copytree(both[1][0], tmp_path)
    done = command(*argv)
    assert done.returncode == 0, done.stderr
    assert dataset_files(tmp_path) == dataset_files(both[2][0])


@pytest.mark.parametrize("mode", ["--train", "--test"])
def test_train_and_test_stopped_at_random_moments(tmp_path, trained, mode):
    rng = random.Random(5)
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    changes = ("--epochs", 3) if mode == "--train" else ("--n_test_reps", 80)
    tables = {"--train": "experiments.csv", "--test": "test_log.csv"}

    def results(files):
        return {
            str(name): data
            for name, data in files.items()
            if name.suffix != ".png" and str(name)[0] != "."
        }

    before = contents(tmp_path)
    for number in [signal.SIGINT, signal.SIGTERM, signal.SIGKILL] * SOAK:
        status, errors, _ = stop_after(rng.uniform(1, 5), number, mode, *changes, "--data_dir", tmp_path)
        if status == 0:  # it was faster
            before = contents(tmp_path)
        elif number != signal.SIGKILL:
            assert status == 128 + number
            assert errors == "runml: stopped; what was not finished has replaced nothing.\n"
        left, old = results(contents(tmp_path)), results(before)
        if left != old:  # it was stopped while it drew, when all else was done
            table, n_rows = tables[mode], old[tables[mode]].count(b"\n")
            assert left[table].count(b"\n") == n_rows + 1
            assert not list(tmp_path.glob(".*.partial"))
            before = contents(tmp_path)
    assert command(mode, *changes, "--data_dir", tmp_path).returncode == 0


def interrupt_midway(folder, *argv):
    """Send Ctrl-C once the first spectra of a simulation are on the disk."""
    process = subprocess.Popen(
        [*SCRIPT, "--simulate", *map(str, argv), "--data_dir", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    growing = folder / ".simulated.partial" / "simulated_sfs.npy"
    while not growing.exists() or growing.stat().st_size < 20_000:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130


def test_an_interrupted_simulation_goes_on(tmp_path, both):
    interrupt_midway(tmp_path, *SMALL, "--seed", 2)
    other = command("--train", "--data_dir", tmp_path)
    assert other.returncode == 1
    assert "--simulate first" in other.stderr
    done = command("--simulate", *SMALL, "--seed", 2, "--data_dir", tmp_path)
    assert "Going on after" in done.stdout
    assert dataset_files(tmp_path) == dataset_files(both[2][0])


def test_an_unfinished_simulation_of_other_settings_is_discarded(tmp_path, both):
    interrupt_midway(tmp_path, *SMALL, "--seed", 1)
    done = command("--simulate", *SMALL, "--seed", 2, "--data_dir", tmp_path)
    assert "Discarding" in done.stdout
    assert dataset_files(tmp_path) == dataset_files(both[2][0])


def test_a_torn_settings_file_of_an_unfinished_simulation_is_no_trap(tmp_path, both):
    (tmp_path / ".simulated.partial").mkdir()
    (tmp_path / ".simulated.partial" / "simulated_settings.json").write_text('{"n_reps": 6')
    (tmp_path / ".simulated.partial" / "simulated_sfs.npy").write_bytes(b"x" * 100_000)
    assert command("--simulate", *SMALL, "--seed", 2, "--data_dir", tmp_path).returncode == 0
    assert dataset_files(tmp_path) == dataset_files(both[2][0])


# What happens to the machine.


def test_a_killed_worker_ends_the_run_with_a_message(tmp_path):
    process = psutil.Popen(
        [*SCRIPT, "--simulate", "--data_dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    workers, deadline = [], time.monotonic() + 30
    while not workers and time.monotonic() < deadline:
        time.sleep(0.2)
        forkservers = [child for child in process.children() if child.children()]
        workers = [worker for server in forkservers for worker in server.children()]
    time.sleep(1)
    workers[0].kill()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert errors.startswith("runml: error: a simulating process was killed")
    assert errors.count("\n") == 1
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive


@pytest.mark.parametrize(
    ("argv", "limit"),
    [
        (("--simulate", "--n_reps", 60, "--sequence_length", 20_000), 60_000),
        (("--train", "--epochs", 1), 100_000),
        (("--test", "--n_test_reps", 50, "--seed", 3), 60_000),
    ],
)
def test_a_quota_is_reported_and_nothing_lost(tmp_path, trained, argv, limit):
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path)
    done = command(
        *argv,
        *("--data_dir", tmp_path),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1
    assert is_one_line_error(done), done.stderr
    assert "File too large" in done.stderr
    left = contents(tmp_path)
    assert {name: left[name] for name in before} == before


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


def test_a_full_disk(tiny_disk, trained):
    shutil.copytree(trained[0], tiny_disk, dirs_exist_ok=True)
    before = contents(tiny_disk)
    done = command("--simulate", "--n_reps", 5_000, "--data_dir", tiny_disk)
    assert done.returncode == 1
    assert is_one_line_error(done)
    assert "no room for 18 MB" in done.stderr
    filler = tiny_disk / "filler"
    free = shutil.disk_usage(tiny_disk).free
    filler.write_bytes(bytes(free - 100_000))
    for argv in (("--train", "--epochs", 1), ("--test", "--n_test_reps", 10)):
        done = command(*argv, "--data_dir", tiny_disk)
        if done.returncode:
            assert is_one_line_error(done), done.stderr
            assert "No space left" in done.stderr
        else:
            assert argv[0] == "--test"  # which may fit
    left = contents(tiny_disk)
    assert {name: left[name] for name in before if "test" not in str(name)} == {
        name: data for name, data in before.items() if "test" not in str(name)
    }


def test_a_read_only_folder(tiny_disk, trained):
    shutil.copytree(trained[0], tiny_disk, dirs_exist_ok=True)
    before = contents(tiny_disk)
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    for argv in (("--simulate", *SMALL), ("--train",), ("--test",)):
        done = command(*argv, "--data_dir", tiny_disk)
        assert done.returncode == 1
        assert is_one_line_error(done), done.stderr
        assert "Read-only file system" in done.stderr
    assert contents(tiny_disk) == before


def test_two_runs_in_one_folder(tmp_path, both):
    """The second waits a second for the first to end, and is then refused."""
    argv = ("--n_reps", 600, "--sequence_length", 20_000, "--data_dir", tmp_path)
    first = subprocess.Popen(
        [*SCRIPT, "--simulate", "--seed", "2", *map(str, argv)], stdout=subprocess.DEVNULL
    )
    while not (tmp_path / ".simulated.partial").exists():
        time.sleep(0.01)
    second = command("--simulate", "--seed", 1, *argv)
    assert first.poll() is None
    assert second.returncode == 1
    assert is_one_line_error(second)
    assert "another run is at work" in second.stderr
    assert first.wait() == 0
    assert runml.load_dataset(tmp_path).settings.seed == 2


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


def test_settings_file_says_everything(tmp_path, both):
    saved = json.loads((both[2][0] / "simulated_settings.json").read_text())
    (tmp_path / "again").mkdir()
    again = runml.saved_settings(runml.SimulationSettings, saved, "the file")
    runml.save_dataset(
        again, runml.SIMULATE, tmp_path / "again", "simulated", runml.RunSettings(workers=1)
    )
    assert dataset_files(tmp_path / "again") == dataset_files(both[2][0])


def test_training_and_test_twice_in_a_row(tmp_path, trained):
    results = []
    for copy in ("a", "b"):
        folder = tmp_path / copy
        shutil.copytree(trained[0], folder)
        done = command("--train", "--test", "--epochs", 2, "--n_test_reps", 20, "--data_dir", folder)
        assert done.returncode == 0, done.stderr
        model = runml.load_model(folder / "trained_model.keras")
        results.append((model.get_weights(), (folder / "test_results.json").read_bytes()))
    for a, b in zip(results[0][0], results[1][0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert results[0][1] == results[1][1]


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
@pytest.mark.parametrize("mode", [["--test"], ["--predict"]])
def test_notes_that_were_edited_are_told(tmp_path, trained, mode, part, value):
    folder = tmp_path / "data"
    shutil.copytree(trained[0], folder)
    path = folder / "trained_model.keras"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    notes = json.loads(members[runml.NOTES])
    (notes if part == "learned" else notes["learned"])[part] = value
    members[runml.NOTES] = json.dumps(notes).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    np.save(tmp_path / "own.npy", np.ones((21, 21)))
    before = contents(folder)
    words = [*mode, tmp_path / "own.npy"] if mode == ["--predict"] else mode
    assert runml.main([*map(str, words), "--data_dir", str(folder)]) == 1
    assert contents(folder) == before


def test_results_whose_place_is_taken_by_a_folder(tmp_path, trained, capsys):
    folder = tmp_path / "data"
    shutil.copytree(trained[0], folder)
    (folder / "test_results.json").unlink()
    (folder / "test_results.json").mkdir()
    before = contents(folder)
    assert runml.main(["--test", "--n_test_reps", "5", "--data_dir", str(folder)]) == 1
    assert "test_results.json is a folder" in capsys.readouterr().err
    assert contents(folder) == before


def test_a_rare_model_is_told_before_training(tmp_path, capsys):
    responses = np.zeros(200, int)
    _, validation = runml.split_rows(200, 1234)
    responses[validation[:5]] = 1
    np.save(tmp_path / "simulated_sfs.npy", np.ones((200, 5, 5, 1), np.int32))
    np.save(tmp_path / "simulated_responses.npy", responses)
    assert runml.main(["--train", "--data_dir", str(tmp_path)]) == 1
    assert "rare" in capsys.readouterr().err


def test_a_wrong_cluster_does_not_discard_what_is_unfinished(tmp_path):
    partial = tmp_path / ".simulated.partial"
    partial.mkdir()
    (partial / "simulated_settings.json").write_text('{"seed": 1}')
    before = contents(tmp_path)
    done = command("--simulate", *SMALL, "--dask_scheduler", "tcp://127.0.0.1:1", "--data_dir", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    after = {path: data for path, data in contents(tmp_path).items() if path.suffix != ".lock"}
    assert after == before
