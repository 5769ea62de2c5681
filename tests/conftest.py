"""The script as a module, what files of tests share, and one small trained model for all."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT.parent / "shared" / "examples"  # real files, where they are there
sys.path.insert(0, str(ROOT))

import Machine_Learning_for_Population_Genetics_V2 as runml  # noqa: E402

SCRIPT = [sys.executable, str(ROOT / "Machine_Learning_for_Population_Genetics_V2.py")]
ESCAPE = "\x1b[2J\x1b]0;owned\x07\u202e"  # what a terminal would act on


def command(*words, python=(), **kwargs):
    """Run the script in a process of its own: exit status, output, errors."""
    words = [SCRIPT[0], *python, SCRIPT[1], *map(str, words)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300, **kwargs)
    return done.returncode, done.stdout, done.stderr


def run(capsys, *words):
    """Run `main` in this process: exit status, output, errors."""
    try:
        status = runml.main([str(word) for word in words])
    except SystemExit as end:  # --help
        status = end.code
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def contents(folder):
    """Every file of a folder with its bytes, hidden ones too, but for the lock."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def dataset_files(folder, name="simulated"):
    """The files of a dataset with their bytes."""
    return {path.name: path.read_bytes() for path in folder.glob(f"{name}_*.[nj]*")}


def rows(path):
    """The rows of a table."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def assert_refused(done, *told, status=1):
    """Of what `run` or `command` return: a single line tells what is wrong."""
    found, _, error = done
    assert (found, error.count("\n")) == (status, 1), error
    assert error.startswith("runml: error: ") and error.endswith("\n"), error
    assert [words for words in told if words not in error] == [], error


class Bomb:
    """What runs code when it is unpickled: then there is a file "ran"."""

    def __reduce__(self):
        return open, ("ran", "w")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder after a small `--simulate --train --test`, and what was printed: not to change."""
    folder = tmp_path_factory.mktemp("trained")
    status, printed, error = command(
        *("--simulate", "--train", "--test", "--n_reps", 200, "--n_test_reps", 50, "--epochs", 4),
        *("--learning_rate", 1e-4, "--sequence_length", 20_000, "--data_dir", folder),
    )
    assert status == 0, error
    return folder, printed


@pytest.fixture
def copy(tmp_path, trained):
    """A copy of the folder of the small trained model, to change."""
    return Path(shutil.copytree(trained[0], tmp_path / "data"))


def toy_blocks(_function, tasks, _run):
    """In place of `in_parallel`: blocks whose spectra tell their seed and their row."""
    for settings, _stream, block in tasks:
        shape = runml.sfs_shape(settings.sample_size)
        numbers = np.array(block, np.int32) + 10_000 * settings.seed + 1
        yield {
            "sfs": np.tile(numbers[:, np.newaxis, np.newaxis, np.newaxis], (*shape, 1)),
            "responses": np.array(block, np.int32) % 2,
            "parameters": np.ones(len(block), runml.PARAMETERS),
        }


@pytest.fixture
def no_pictures(monkeypatch):
    """Pictures take longer than all else."""
    monkeypatch.setattr(runml, "save_picture", lambda *_, **__: None)


@pytest.fixture
def toy(monkeypatch, no_pictures):
    """Simulations that take no time: neither msprime, nor processes, nor pictures."""
    monkeypatch.setattr(runml, "in_parallel", toy_blocks)
