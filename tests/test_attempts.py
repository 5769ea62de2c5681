"""What attempts to break it found: hostile files, strange surroundings, bad moments."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import (
    ROOT,
    SCRIPT,
    SMALL,
    STOPPED,
    command,
    contents,
    dataset_files,
    is_one_line_error,
    killed_midway,
    rows,
    run,
    runml,
    toy_rows,
    unfinished_array,
)

MODEL = "trained_model.keras"
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pipes, limits and signals")


@pytest.fixture(autouse=True)
def no_hang():
    """What hangs fails."""

    def too_long(*_):
        raise AssertionError("this hangs")

    if hasattr(signal, "SIGALRM"):
        before = signal.signal(signal.SIGALRM, too_long)
        signal.alarm(60)
        yield
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    else:
        yield


# ------------------------------- Code in a model file -------------------------------


def rewrite(path, **changes):
    """Change members of a model file: functions that take and return bytes."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, change in changes.items():
        name = {"notes": runml.NOTES, "config": "config.json", "weights": "model.weights.h5"}[name]
        members[name] = change(members[name])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(name, member)


def edit(change):
    """A change of JSON as a function of bytes."""

    def edited(member):
        content = json.loads(member)
        change(content)
        return json.dumps(content).encode()

    return edited


def foreign_layer(config):
    inner = {"module": "os", "class_name": "function", "config": "mkdir", "registered_name": "mkdir"}
    node = {"args": [str(ROOT / "ran")], "kwargs": {}}
    config["config"]["layers"].append(inner | {"name": "x", "inbound_nodes": [node]})


def foreign_initializer(config):
    dense = next(each for each in config["config"]["layers"] if each["class_name"] == "Dense")
    dense["config"]["kernel_initializer"] = {"module": "os", "class_name": "function", "config": "mkdir"}


def foreign_last_layer(config):
    config["config"]["layers"][-1] |= {"class_name": "EinsumDense"}


def own_class_of_another_module(config):
    config["config"]["layers"][-1] |= {"module": "builtins"}


def foreign_model(config):
    config |= {"module": "os", "class_name": "function", "config": config["config"]}


@pytest.mark.parametrize(
    "change",
    [
        foreign_layer,
        foreign_initializer,
        foreign_last_layer,
        own_class_of_another_module,
        foreign_model,
    ],
)
def test_a_model_that_names_foreign_classes_is_refused(copy, monkeypatch, change):
    called, mkdir = [], os.mkdir

    def spy(path, *words, **more):
        called.append(path)
        return mkdir(path, *words, **more)

    monkeypatch.setattr(os, "mkdir", spy)
    rewrite(copy / MODEL, config=edit(change))
    with pytest.raises(runml.Problem, match="no model of this script"):
        runml.load_network(copy / MODEL)
    assert all(isinstance(path, str | Path) for path in called)
    assert str(ROOT / "ran") not in map(str, called)


@pytest.mark.parametrize("mode", ["--test", "--predict"])
def test_what_a_foreign_class_ends_with_is_a_line(copy, tmp_path, capsys, mode):
    rewrite(copy / MODEL, config=edit(foreign_layer))
    np.save(tmp_path / "own.npy", np.ones((21, 21)))
    before = contents(copy)
    words = [mode, tmp_path / "own.npy"][: 1 + (mode == "--predict")]
    status, _, error = run(capsys, *words, "--data_dir", copy)
    assert status == 1
    assert is_one_line_error(error)
    assert MODEL in error
    assert contents(copy) == before


def test_a_zip_bomb_is_refused_by_its_stated_size(copy):
    rewrite(copy / MODEL, notes=lambda notes: notes[:-1] + b" " * 110_000_000 + notes[-1:])
    assert (copy / MODEL).stat().st_size < 3_000_000
    tracemalloc.start()
    with pytest.raises(runml.Problem, match="too large"):
        runml.read_archive(copy / MODEL)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30_000_000


# ------------------------------- Links in the folder -------------------------------


TOY = ("--simulate", "--n_reps", 35)


@pytest.fixture
def unfinished(tmp_path, toy, monkeypatch):
    """A folder with half a simulation, and its hidden folder within."""
    folder = tmp_path / "data"
    killed_midway(monkeypatch, folder, *TOY[1:])
    return folder, unfinished_array(folder).parent


@pytest.fixture
def whole(tmp_path, toy, capsys):
    """The files of the same simulation, uninterrupted."""
    assert run(capsys, *TOY, "--data_dir", tmp_path / "whole")[0] == 0
    return dataset_files(tmp_path / "whole")


def goes_on_to_the_same_bytes(capsys, folder, whole):
    status, printed, error = run(capsys, *TOY, "--data_dir", folder)
    assert (status, error) == (0, "")
    assert dataset_files(folder) == whole
    assert not unfinished_array(folder)
    return printed


@pytest.mark.parametrize("seed", [1234, 2])
def test_an_unfinished_folder_that_is_a_link(tmp_path, unfinished, capsys, seed):
    folder, hidden = unfinished
    elsewhere = hidden.rename(tmp_path / "elsewhere")
    (elsewhere / "thesis.txt").write_text("ten years of work")
    hidden.symlink_to(elsewhere)
    before = contents(elsewhere)
    assert run(capsys, *TOY, "--seed", seed, "--data_dir", folder)[0] == 0
    assert contents(elsewhere) == before
    assert runml.load_dataset(folder).simulated.settings.seed == seed
    assert not any(path.is_symlink() for path in folder.iterdir())


@pytest.mark.parametrize("name", runml.SETS)
def test_a_complete_folder_that_is_a_link_or_holds_other_files(tmp_path, name):
    for end in ("complete", "partial"):
        elsewhere, folder = tmp_path / f"elsewhere {end}", tmp_path / f"data {end}"
        elsewhere.mkdir()
        folder.mkdir()
        for file in (*runml.SETS[name], "thesis.txt"):
            (elsewhere / file).write_text("elsewhere")
        before = contents(elsewhere)
        (folder / f".{name}.{end}").symlink_to(elsewhere)
        with runml.only_command_in(folder), runml.new_files(folder, name) as staging:
            (staging / runml.SETS[name][0]).write_text("own")
        assert contents(elsewhere) == before
        assert [path.read_text() for path in folder.glob("[!.]*")] == ["own"]

    folder = tmp_path / "data"
    (folder / f".{name}.complete").mkdir(parents=True)
    (folder / f".{name}.complete" / "README.md").write_text("foreign")
    (folder / f".{name}.complete" / runml.SETS[name][0]).symlink_to(elsewhere / "thesis.txt")
    (folder / f".{name}.complete" / runml.SETS[name][-1]).write_text("own")
    with runml.only_command_in(folder):
        pass
    assert [path.name for path in folder.glob("[!.]*")] == [runml.SETS[name][-1]]


@linux
@pytest.mark.parametrize("kind", ["link", "pipe", "device", "folder"])
def test_files_of_an_unfinished_simulation_that_are_none(tmp_path, unfinished, whole, capsys, kind):
    folder, hidden = unfinished
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in {*runml.SETS["simulated"], *(path.name for path in hidden.iterdir())}:
        path = hidden / name
        (elsewhere / name).write_bytes(path.read_bytes() if path.exists() else b"foreign")
        path.unlink(missing_ok=True)
        replace_by(kind, path, elsewhere / name)
    before = contents(elsewhere)
    signal.alarm(10)
    goes_on_to_the_same_bytes(capsys, folder, whole)
    assert contents(elsewhere) == before


def replace_by(kind, path, target=None):
    """Something that is no regular file, in a file's place."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
        (path / "file").write_text("")
    else:
        path.symlink_to(target if kind == "link" else "/dev/zero")


# --------------------------- What is left of a simulation ---------------------------


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def sums_of(hidden):
    """Whatever vouches for the unfinished array."""
    (path,) = set(hidden.iterdir()) - {hidden / "simulated_sfs.npy"}
    return path


def zeroed(hidden):
    path = hidden / "simulated_sfs.npy"
    data = path.read_bytes()
    path.write_bytes(data[:-20_000] + bytes(20_000))


SPOILT = {
    "a zeroed tail": zeroed,
    "all zeros": lambda x: (x / "simulated_sfs.npy").write_bytes(
        bytes((x / "simulated_sfs.npy").stat().st_size)
    ),
    "a flipped byte": lambda x: flip(x / "simulated_sfs.npy", 30_000),
    "a flipped byte in the header": lambda x: flip(x / "simulated_sfs.npy", 60),
    "rubbish behind": lambda x: (x / "simulated_sfs.npy").open("ab").write(b"rubbish" * 1_000),
    "rubbish before": lambda x: (x / "simulated_sfs.npy").write_bytes(
        b"rubbish" + (x / "simulated_sfs.npy").read_bytes()
    ),
    "cut in a row": lambda x: os.truncate(x / "simulated_sfs.npy", 20_001),
    "cut in the header": lambda x: os.truncate(x / "simulated_sfs.npy", 50),
    "an empty array": lambda x: os.truncate(x / "simulated_sfs.npy", 0),
    "longer than it may be": lambda x: os.truncate(x / "simulated_sfs.npy", 10_000_000),
    "no array": lambda x: (x / "simulated_sfs.npy").unlink(),
    "no sums": lambda x: sums_of(x).unlink(),
    "cut sums": lambda x: os.truncate(sums_of(x), 40),
    "sums whose last line has no end": lambda x: os.truncate(sums_of(x), sums_of(x).stat().st_size - 1),
    "sums cut in the first line": lambda x: os.truncate(sums_of(x), 5),
    "zeroed sums": lambda x: sums_of(x).write_bytes(bytes(100)),
    "a flipped byte in the sums": lambda x: flip(sums_of(x), 20),
    "rubbish behind the sums": lambda x: sums_of(x).open("a").write("7 abc\n25"),
    "rubbish sums": lambda x: sums_of(x).write_bytes(b"\xff\xfe rubbish \x00\n\n7 \n"),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_what_cannot_be_vouched_for_is_simulated_again(unfinished, whole, capsys, spoil):
    folder, hidden = unfinished
    spoil(hidden)
    goes_on_to_the_same_bytes(capsys, folder, whole)


def test_what_can_be_vouched_for_is_kept(unfinished, whole, capsys):
    folder, _ = unfinished
    assert "Going on after the 35 spectra" in goes_on_to_the_same_bytes(capsys, folder, whole)


def test_going_on_twice(unfinished, whole, capsys, monkeypatch):
    """Killed a second time behind a torn tail: what was appended to the sums must fit."""
    folder, hidden = unfinished
    zeroed(hidden)
    os.truncate(sums_of(hidden), 40)
    killed_midway(monkeypatch, folder, *TOY[1:])
    assert "Going on after the 35 spectra" in goes_on_to_the_same_bytes(capsys, folder, whole)


# ------------------------------ A result without a word ------------------------------


def other_model(path, copy):
    """A model with other notes and other weights."""
    notes, *_ = runml.read_archive(copy / MODEL)
    notes = notes._replace(training=replace(notes.training, epochs=77))
    model = runml.build_network((21, 21), notes.training)
    runml.save_model(path, model, notes)
    return runml.load_network(path)


def test_notes_and_weights_are_of_one_model(copy, tmp_path, monkeypatch):
    """Though the file is replaced once its notes are read, while TensorFlow is imported."""
    old = runml.load_network(copy / MODEL)
    new = other_model(tmp_path / MODEL, copy)
    assert old.fingerprint != new.fingerprint
    start_keras, build_network = runml.start_keras, runml.build_network

    def meanwhile(function):
        def slow(*args):
            shutil.copy(tmp_path / MODEL, copy / MODEL)
            return function(*args)

        return slow

    monkeypatch.setattr(runml, "start_keras", meanwhile(start_keras))
    monkeypatch.setattr(runml, "build_network", meanwhile(build_network))
    found = runml.load_network(copy / MODEL)
    assert (found.notes.training.epochs, found.fingerprint) in (
        (4, old.fingerprint),
        (77, new.fingerprint),
    )


def test_no_setting_of_keras_or_tensorflow_changes_the_weights(copy, trained, tmp_path):
    """Nor do those of tqdm and of Python's warnings matter."""
    (tmp_path / ".keras").mkdir()
    keras = {"floatx": "float64", "image_data_format": "channels_first", "epsilon": 0.1}
    (tmp_path / ".keras" / "keras.json").write_text(json.dumps(keras | {"backend": "jax"}))
    surroundings = {name: value for name, value in os.environ.items() if name != "KERAS_HOME"}
    surroundings |= {"HOME": str(tmp_path), "TF_ENABLE_ONEDNN_OPTS": "0"}
    surroundings |= {"TF_NUM_INTRAOP_THREADS": "2", "TF_NUM_INTEROP_THREADS": "1"}
    surroundings |= {"TQDM_NCOLS": "abc", "PYTHONWARNINGS": "error"}
    words = ("--epochs", 4, "--learning_rate", 1e-4, "--data_dir", copy)
    done = command("--train", *words, env=surroundings)
    assert (done.returncode, done.stderr) == (0, "")
    found, expected = (runml.load_network(folder / MODEL) for folder in (copy, trained[0]))
    for a, b in zip(found.model.get_weights(), expected.model.get_weights(), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, b)


def test_the_folder_is_kept_until_all_is_printed_and_drawn(tmp_path, toy, monkeypatch, capsys):
    others, drawn = [], []

    def draw_meanwhile(_path, _draw, *inputs):
        others.append(runml.main([*map(str, TOY), "--seed", "2", "--data_dir", str(tmp_path)]))
        drawn.extend(each for each in inputs if isinstance(each, np.ndarray))

    monkeypatch.setattr(runml, "save_picture", draw_meanwhile)
    status, _, error = run(capsys, *TOY, "--seed", 1, "--data_dir", tmp_path)
    assert status == 0
    assert others
    assert set(others) == {1}
    assert "another command is at work" in error
    for sfs in drawn:
        assert np.array_equal(sfs, np.load(tmp_path / "simulated_sfs.npy"))


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("still_at_work", [False, True])
def test_a_folder_that_is_removed_and_made_again(
    tmp_path, toy, monkeypatch, capsys, seed, still_at_work
):
    """While one command writes to it; another, of the same settings or not, begins there."""
    folder, expected = tmp_path / "data", {}
    words = ["--simulate", "--n_reps", "30", "--data_dir", str(folder), "--seed"]
    for each in (1, seed):
        assert runml.main([*words, str(each)]) == 0
        expected[each] = dataset_files(folder)
        shutil.rmtree(folder)
    begun, release, statuses = threading.Event(), threading.Event(), []
    other = threading.Thread(target=lambda: statuses.append(runml.main([*words, str(seed)])))

    def slow(*args):
        for number, spectra in enumerate(toy_rows(*args)):
            yield spectra
            if number == 3 and threading.current_thread() is other:
                begun.set()
                release.wait(30)
            elif number == 4 and threading.current_thread() is not other:
                shutil.rmtree(folder)
                other.start()
                begun.wait(30)
                if not still_at_work:
                    release.set()
                    other.join()

    monkeypatch.setattr(runml, "simulate_dataset", slow)
    capsys.readouterr()
    status = runml.main([*words, "1"])
    error = capsys.readouterr().err
    assert status == 0 or is_one_line_error(error), error
    assert dataset_files(folder) in ({}, *expected.values())
    release.set()
    other.join()
    assert dataset_files(folder) in expected.values()
    if status == 1 and statuses == [0]:
        assert dataset_files(folder) == expected[seed]
    assert 0 in (status, *statuses)


def test_weights_that_are_no_numbers_are_refused(copy):
    network = runml.load_network(copy / MODEL)
    weights = network.model.get_weights()
    weights[-1][:] = np.nan
    network.model.set_weights(weights)
    runml.save_model(copy / MODEL, network.model, network.notes)
    with pytest.raises(runml.Problem, match="no model of this script"):
        runml.load_network(copy / MODEL)


def test_another_activation_changes_no_probability(copy):
    """The network is built by the script, whatever the file says of it."""
    sfs = np.load(copy / "test_sfs.npy")
    expected = runml.predict_probabilities(runml.load_network(copy / MODEL).model, sfs)

    def linear(config):
        config["config"]["layers"][-1]["config"]["activation"] = "linear"

    rewrite(copy / MODEL, config=edit(linear))
    try:
        found = runml.predict_probabilities(runml.load_network(copy / MODEL).model, sfs)
    except runml.Problem:
        return
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(5, 5), (21, 23)])
def test_weights_of_another_size_are_refused_before_simulating(copy, shape):
    """Also under notes that do not say how the data were simulated."""
    notes, *_ = runml.read_archive(copy / MODEL)
    for simulated in (notes.simulated, None):
        changed = notes._replace(simulated=simulated)
        model = runml.build_network(shape, replace(notes.training, layers=1))
        runml.save_model(copy / "other.keras", model, changed)
        with zipfile.ZipFile(copy / "other.keras") as archive:
            other = archive.read("model.weights.h5")
        with pytest.raises(runml.Problem, match="no model of this script"):
            runml.load_network(copy / "other.keras")
        model = runml.load_network(copy / MODEL).model
        runml.save_model(copy / "third.keras", model, changed)
        rewrite(copy / "third.keras", weights=lambda _, other=other: other)
        with pytest.raises(runml.Problem, match="no model of this script"):
            runml.load_network(copy / "third.keras")


def as_text(counts, word, name):
    numbers = " ".join(map(str, np.ravel(counts)))
    return f"# {name}\n{counts.shape[0]} {counts.shape[1]} {word}\n{numbers}\n"


@pytest.mark.parametrize("word", ["Folded", "FOLDED", "folded"])
def test_folded_in_capitals(tmp_path, word):
    (tmp_path / "x.fs").write_text(as_text(np.ones((5, 5)), word, "x"))
    assert runml.read_observed(tmp_path / "x.fs").folded


def test_the_lower_population_of_fastsimcoal_is_a(tmp_path):
    counts = np.arange(1.0, 36.0).reshape(5, 7)  # of populations 0, in rows here, and 1
    for name, table, (across, down) in (
        ("x_jointDAFpop1_0.obs", counts.T, "01"),
        ("x_jointDAFpop0_1.obs", counts, "10"),
    ):
        header = "\t".join(f"d{across}_{count}" for count in range(table.shape[1]))
        lines = ["1 observations", f"\t{header}"]
        lines += [
            f"d{down}_{count}\t" + "\t".join(map(str, row)) for count, row in enumerate(table.tolist())
        ]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        found = runml.read_observed(tmp_path / name).counts
        assert np.array_equal(found.ravel()[1:-1], counts.ravel()[1:-1]), name
        assert found.shape == counts.shape


@pytest.mark.parametrize("many", [3.5e38, 1e300])
def test_counts_that_no_genome_has(tmp_path, many):
    sfs = np.ones((40, 5, 5, 1))
    sfs[7, 2, 2] = many
    np.save(tmp_path / "simulated_sfs.npy", sfs)
    np.save(tmp_path / "simulated_responses.npy", np.arange(40) % 2)
    with pytest.raises(runml.Problem, match=r"simulated_sfs\.npy"):
        runml.load_dataset(tmp_path)
    np.save(tmp_path / "own.npy", sfs[7, ..., 0])
    with pytest.raises(runml.Problem, match=r"own\.npy"):
        runml.read_observed(tmp_path / "own.npy")


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i8", "f4", "f8"])
def test_folding_wraps_on_no_type(kind):
    counts = np.full((1, 5, 5, 1), 100)
    expected = runml.fold(counts.astype(float))
    np.testing.assert_array_equal(runml.fold(counts.astype(kind)), expected)
    assert expected.max() == 200


def test_predicting_twice_is_predicting_both():
    typed = runml.parse(["--predict", "a.fs", "--predict", "b.fs", "c.fs"])
    assert [str(path) for path in typed.observed] == ["a.fs", "b.fs", "c.fs"]


# ------------------------------- Pipes and devices -------------------------------


@linux
@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("simulated_sfs.npy", ["--train"]),
        ("simulated_responses.npy", ["--train"]),
        ("simulated_settings.json", ["--train"]),
        (MODEL, ["--test"]),
        (MODEL, ["--predict", "own.npy"]),
        ("simulated_settings.json", ["--simulate", "--settings", "simulated_settings.json"]),
        ("own.npy", ["--predict", "own.npy"]),
        ("own.fs", ["--predict", "own.fs"]),
        ("own_jointDAFpop1_0.obs", ["--predict", "own_jointDAFpop1_0.obs"]),
    ],
)
def test_only_regular_files_are_read(copy, capsys, monkeypatch, kind, name, words):
    monkeypatch.chdir(copy)
    np.save("own.npy", np.ones((21, 21)))
    replace_by(kind, copy / name)
    signal.alarm(10)
    status, _, error = run(capsys, *words, "--data_dir", ".")
    assert status == 1
    assert is_one_line_error(error), error
    assert name in error
    assert not list(copy.glob(".*.partial"))


@linux
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_regular_files_are_tables(copy, capsys, kind):
    signal.alarm(10)
    for name in ("experiments.csv", "test_log.csv", "predictions.csv"):
        replace_by(kind, copy / name)
        table = runml.Table(copy / name)
        printed = capsys.readouterr().out
        assert table.rows == []
        assert printed.count("\n") == 1
        assert name in printed
        table.append({"a": 1})
        with runml.new_files(copy, "test") as staging:
            table.save(staging)
        kept = next(copy.glob(f"{name[:-4]}.old*.csv"))
        assert kept.name in printed
        assert not kept.is_file()


@linux
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_predict_passes_by_what_it_need_not_read(copy, capsys, tmp_path, kind):
    np.save(tmp_path / "own.npy", np.load(copy / "test_sfs.npy")[0, ..., 0])
    for name in ("simulated_parameters.npy", "test_results.json"):
        replace_by(kind, copy / name)
    signal.alarm(30)
    status, printed, error = run(capsys, "--predict", tmp_path / "own.npy", "--data_dir", copy)
    assert (status, error) == (0, "")
    assert "are not in" in printed
    assert len(rows(copy / "predictions.csv")) == 1


@linux
@pytest.mark.parametrize("kind", ["pipe", "device", "link", "folder"])
def test_a_lock_that_is_no_file(tmp_path, toy, capsys, kind):
    (tmp_path / "data").mkdir()
    replace_by(kind, tmp_path / "data" / ".lock", tmp_path / "elsewhere")
    signal.alarm(10)
    status, _, error = run(capsys, *TOY, "--data_dir", tmp_path / "data")
    assert status == 0 or is_one_line_error(error)
    assert not (tmp_path / "elsewhere").exists()


# ------------------------------- Limits of the system -------------------------------


def told_in_a_line(done):
    assert done.returncode == 1, done.stdout + done.stderr
    assert is_one_line_error(done.stderr), done.stderr
    assert done.stdout.count("Traceback") == 0
    assert "memory was full" not in done.stderr


def limited(limit, *words, before=(), **kwargs):
    """Run the script under a limit of the shell."""
    quoted = " ".join(f"'{word}'" for word in [*SCRIPT, *map(str, words)])
    return subprocess.run(
        [*before, "bash", "-c", f"ulimit {limit} && exec {quoted}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        **kwargs,
    )


@linux
@pytest.mark.parametrize("n", [12, 16])
def test_few_open_files(tmp_path, n):
    told_in_a_line(limited(f"-n {n}", "--simulate", *SMALL, "--data_dir", tmp_path))


@linux
@pytest.mark.parametrize("n", [1, 3, 5])
def test_few_processes(tmp_path, n):
    """Root has no such limit: be another user, who may still read all files."""
    may_read = "+dac_override,+dac_read_search"
    user = ["setpriv", "--reuid", "61234", "--regid", "61234", "--clear-groups", "--bounding-set"]
    user += [f"-all,{may_read}", "--inh-caps", f"-all,{may_read}", "--ambient-caps", f"-all,{may_read}"]
    if os.getuid() or subprocess.run([*user, "true"], capture_output=True, check=False).returncode:
        pytest.skip("takes a user of its own, and root to be that user")
    surroundings = os.environ | {"HOME": str(tmp_path), "OPENBLAS_NUM_THREADS": "1"}
    words = ("--simulate", *SMALL, "--workers", 4, "--data_dir", tmp_path / "data")
    told_in_a_line(limited(f"-u {n}", *words, before=user, env=surroundings))


# ---------------------------- Streams, signals, surroundings ----------------------------


@linux
@pytest.mark.parametrize("stream", ["2>&-", ">&- 2>&- <&-", "2>/dev/full"])
def test_a_simulation_is_saved_whatever_the_streams_are(tmp_path, stream):
    quoted = " ".join([*SCRIPT, "--simulate", *map(str, SMALL), "--data_dir", str(tmp_path)])
    done = subprocess.run(f"{quoted} {stream}", shell=True, capture_output=True, check=False)
    assert done.returncode == 0
    assert len(dataset_files(tmp_path)) == 4
    assert done.stderr == b""


@linux
def test_a_full_standard_output_is_told(tmp_path):
    quoted = " ".join([*SCRIPT, "--simulate", *map(str, SMALL), "--data_dir", str(tmp_path)])
    done = subprocess.run(f"{quoted} >/dev/full", shell=True, capture_output=True, check=False)
    assert done.returncode == 1
    assert is_one_line_error(done.stderr.decode()), done.stderr


# Sends Ctrl-C to itself when a module is about to be imported: a random moment that is none.
INTERRUPTED = """
import os, signal, sys
def interrupt(event, arguments):
    if event == "import" and arguments[0] == {module!r}:
        if os.environ.pop("RUNML_INTERRUPT", None):
            os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(interrupt)
"""


@linux
@pytest.mark.parametrize("module", ["argparse", "numpy", "filelock", "tqdm", "multiprocessing.util"])
def test_an_interruption_during_imports_is_silent_or_a_line(tmp_path, module):
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED.format(module=module))
    surroundings = os.environ | {"PYTHONPATH": str(tmp_path), "RUNML_INTERRUPT": "1"}
    done = command("--simulate", *SMALL, "--data_dir", tmp_path / "data", env=surroundings)
    assert (done.returncode, done.stderr) in ((-signal.SIGINT, ""), (130, STOPPED))


SPAWN = """
import multiprocessing
context = multiprocessing.get_context
multiprocessing.get_all_start_methods = lambda: ["spawn"]
multiprocessing.get_context = lambda method=None: context("spawn")
"""


@linux
@pytest.mark.parametrize("delay", [0, 0.2])
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_ctrl_c_while_workers_start(tmp_path, method, delay):
    """As a terminal sends it: to the command and to all its workers."""
    if method == "spawn":
        (tmp_path / "sitecustomize.py").write_text(SPAWN)
    # Not below `tmp_path`: the path of a socket in it must be of no more than 107 letters.
    temporary = Path(tempfile.mkdtemp())
    process = psutil.Popen(
        [*SCRIPT, "--simulate", "--n_reps", "1000", "--data_dir", str(tmp_path / "data")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "TMPDIR": str(temporary)},
        start_new_session=True,
    )
    while not process.children(recursive=True):
        assert process.poll() is None
        time.sleep(0.002)
    time.sleep(delay)
    family = process.children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, STOPPED)
    temporary.rmdir()  # which only an empty one can be
    _, alive = psutil.wait_procs(family, timeout=3)
    assert not [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE]


def test_settings_of_tqdm_and_warnings_are_no_trap(tmp_path):
    surroundings = {"TQDM_NCOLS": "abc", "TQDM_MININTERVAL": "x", "PYTHONWARNINGS": "error"}
    done = command("--simulate", *SMALL, "--data_dir", tmp_path, env=os.environ | surroundings)
    assert (done.returncode, done.stderr) == (0, "")
    assert "could not be drawn" not in done.stdout


@pytest.mark.parametrize("text", ["distributed: [unclosed", "- a list", "\t"])
def test_a_broken_dask_configuration_is_told(tmp_path, text):
    (tmp_path / "dask.yaml").write_text(text)
    words = ("--simulate", *SMALL, "--data_dir", tmp_path / "data")
    address = ("--dask_scheduler", "tcp://127.0.0.1:1")
    done = command(*words, *address, env=os.environ | {"DASK_CONFIG": str(tmp_path)})
    told_in_a_line(done)


BROKEN_PIPE = """
import sys
import tempfile
import Machine_Learning_for_Population_Genetics_V2 as runml
def fail(*_):
    raise BrokenPipeError(32, "Broken pipe")
runml.save_dataset = fail
sys.exit(runml.main(["--simulate", "--data_dir", sys.argv[1]]))
"""


def test_a_broken_pipe_to_a_process_is_no_reader_who_left(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BROKEN_PIPE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    told_in_a_line(done)


# ------------------------------------ Messages ------------------------------------


def test_a_newline_in_a_path_cuts_no_line(tmp_path, capsys):
    folder = tmp_path / "a\nb"
    for words in (["--train"], ["--test"], ["--predict", folder / "x\ny.npy"]):
        status, _, error = run(capsys, *words, "--data_dir", folder)
        assert status == 1
        assert is_one_line_error(error), error
        assert "missing" in error


def test_an_empty_folder_name_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (["--data_dir", ""], ["--settings", "", "--data_dir", "x"]):
        status, _, error = run(capsys, *TOY, *words)
        assert status == 2
        assert is_one_line_error(error)
        assert f"{words[0]} must not be empty" in error
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--layers", "-5"], "--layers -5: must"),
        (["--layers=-5"], "--layers -5: must"),
        (["--learning_rate", "-1e-5"], "--learning_rate -1e-5: must"),
        (["--learning_rate", "-inf"], "--learning_rate -inf: must"),
        (["--sample_size", "24", "24", "24"], "--sample_size 24 24 24: it takes one number, or two"),
        (["--tdiv_prior", "-5", "5"], "--tdiv_prior -5: must"),
    ],
)
def test_words_are_shown_as_typed(tmp_path, capsys, words, shown):
    status, _, error = run(capsys, "--simulate", "--train", *words, "--data_dir", tmp_path)
    assert status == 2
    assert is_one_line_error(error)
    assert shown in error


@linux
def test_a_long_folder_for_temporary_files(tmp_path):
    """Sockets have short names only."""
    temporary = tmp_path / ("long " * 20) / ("long " * 20)
    temporary.mkdir(parents=True)
    surroundings = os.environ | {"TMPDIR": str(temporary)}
    done = command("--simulate", *SMALL, "--data_dir", tmp_path / "data", env=surroundings)
    if done.returncode:
        told_in_a_line(done)
        assert "TMPDIR" in done.stderr
    else:
        assert done.stderr == ""
        assert len(dataset_files(tmp_path / "data")) == 4


def test_the_script_from_standard_input(tmp_path):
    words = ("-", "--simulate", *SMALL, "--data_dir", tmp_path / "data")
    with Path(SCRIPT[1]).open() as script:
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            stdin=script,
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
    if done.returncode:
        told_in_a_line(done)
        assert "open files" not in done.stderr  # which is not why
    else:
        assert (done.stderr, len(dataset_files(tmp_path / "data"))) == ("", 4)


def test_no_advice_about_pickles(copy, capsys):
    for name in ("simulated_sfs.npy", "simulated_responses.npy"):
        good = (copy / name).read_bytes()
        np.save(copy / name, np.array([{}] * 400, dtype=object), allow_pickle=True)
        status, _, error = run(capsys, "--train", "--data_dir", copy)
        assert status == 1
        assert is_one_line_error(error)
        assert "allow_pickle" not in error
        assert "if you trust" not in error
        (copy / name).write_bytes(good)
    np.save(copy / "own.npy", np.array([{}] * 400, dtype=object), allow_pickle=True)
    status, _, error = run(capsys, "--predict", copy / "own.npy", "--data_dir", copy)
    assert status == 1
    assert is_one_line_error(error)
    assert "allow_pickle" not in error
