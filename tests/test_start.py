"""Where people really start it: another Python, a notebook, an old processor."""

import os
import runpy
import signal
import subprocess
import sys
import types

import matplotlib
import numpy as np
import pytest
from conftest import ROOT, SCRIPT, command, contents, is_one_line_error, run, runml


@pytest.fixture
def arrays(tmp_path):
    """A folder with spectra that are quickly learned from."""
    folder = tmp_path / "data"
    folder.mkdir()
    labels = np.arange(40) % 2
    sfs = np.random.default_rng(1).poisson(2 + 5 * labels, (3, 3, 1, 40)).transpose(3, 0, 1, 2)
    np.save(folder / "simulated_sfs.npy", sfs)
    np.save(folder / "simulated_responses.npy", labels)
    return folder


def test_a_python_without_the_packages_is_told(tmp_path):
    done = subprocess.run(
        [sys.executable, "-I", "-S", SCRIPT[1], "--simulate", "--data_dir", str(tmp_path / "data")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert is_one_line_error(done.stderr)
    for told in (sys.executable, "numpy", "msprime", "tensorflow", "README.md"):
        assert told in done.stderr
    assert not (tmp_path / "data").exists()


OLD = """
import runpy, sys
sys.version_info = (3, 10, 13, "final", 0)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_an_old_python_is_told():
    done = subprocess.run(
        [sys.executable, "-c", OLD, SCRIPT[1], "--simulate"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert is_one_line_error(done.stderr)
    assert "Python 3.10" in done.stderr


def test_a_missing_package_is_not_the_model_s_fault(copy, capsys, monkeypatch):
    def start_keras():
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")

    before = contents(copy)
    monkeypatch.setattr(runml, "start_keras", start_keras)
    for words in (["--test"], ["--predict", copy / "own.npy"]):
        np.save(copy / "own.npy", np.load(copy / "test_sfs.npy")[0, ..., 0])
        status, _, error = run(capsys, *words, "--data_dir", copy)
        (copy / "own.npy").unlink()
        assert status == 1
        assert is_one_line_error(error)
        assert "No module named 'tensorflow'" in error
        assert "trained_model.keras" not in error
        assert contents(copy) == before


def test_the_backend_of_a_notebook_and_settings_of_keras_do_no_harm(arrays, tmp_path):
    (tmp_path / ".keras").mkdir()
    text = '{"floatx": "float64", "image_data_format": "channels_first", "backend": "jax"}'
    (tmp_path / ".keras" / "keras.json").write_text(text)
    env = {name: value for name, value in os.environ.items() if name != "KERAS_HOME"}
    env |= {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "PYTHONWARNINGS": "error"}
    # Its own folder for Keras, but not for matplotlib, which would look for fonts for long.
    env |= {"HOME": str(tmp_path), "MPLCONFIGDIR": matplotlib.get_cachedir()}
    done = command("--train", "--epochs", 1, "--data_dir", arrays, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Validation accuracy" in done.stdout
    assert (arrays / "training_history.png").stat().st_size > 10_000
    weights = runml.load_network(arrays / "trained_model.keras").model.get_weights()
    assert {array.dtype for array in weights} == {np.dtype("f4")}


@pytest.mark.parametrize(("words", "status"), [(["--help"], 0), (["--nothing"], 2), ([], 2)])
def test_a_notebook_keeps_its_signals_and_streams(monkeypatch, capsys, words, status):
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setattr(sys, "argv", [SCRIPT[1], *words])

    def state():
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        return [*handlers, sys.stdout, sys.stderr, sys.stderr.errors, dict(os.environ)]

    before = state()
    with pytest.raises(SystemExit) as end:
        runpy.run_path(SCRIPT[1], run_name="__main__")
    assert end.value.code == status
    assert state() == before
    assert is_one_line_error(capsys.readouterr().err) or status == 0


DIES = """
import os, signal
os.write(2, b"{reason}")
os.kill(os.getpid(), signal.{how})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize("how", ["SIGILL", "SIGABRT", "SIGKILL"])
@pytest.mark.parametrize("end", ["\\n", ""])
def test_a_tensorflow_that_dies_has_its_last_word(arrays, tmp_path, how, end):
    reason = "It was compiled to use AVX instructions, but these are not available."
    package = tmp_path / "packages" / "tensorflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(DIES.format(reason=reason + end, how=how))
    before = contents(arrays)
    env = os.environ | {"PYTHONPATH": str(package.parent)}
    done = command("--train", "--data_dir", arrays, env=env)
    assert done.returncode == -getattr(signal, how)
    assert done.stderr.strip() == reason
    assert contents(arrays) == before


def test_a_tensorflow_that_cannot_be_imported_is_a_line(arrays, tmp_path):
    package = tmp_path / "packages" / "tensorflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('libcudart.so: not found\\nat all')")
    env = os.environ | {"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    done = command("--train", "--data_dir", arrays, env=env)
    assert done.returncode == 1
    assert is_one_line_error(done.stderr)
    assert "libcudart.so: not found" in done.stderr
    assert ROOT.name not in done.stderr
