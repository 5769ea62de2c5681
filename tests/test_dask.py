"""On a Dask cluster of real processes: the same bytes, whatever happens to the workers."""

import contextlib
import json
import logging
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings

import psutil
import pytest
from conftest import SCRIPT, STOPPED, command, dataset_files, is_one_line_error, runml, unfinished_array

MANY = ("--n_reps", 120, "--sequence_length", 5_000)  # enough to lose something midway


def wait_until(true, ended=lambda: None, seconds=30):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        assert ended() is None
        time.sleep(0.01)


class Cluster:
    """A scheduler and workers without nannies, on loopback, where the script cannot be imported."""

    def __init__(self, folder):
        self.folder, self.workers, self.n_started = folder, [], 0
        self.scheduler = self.start("scheduler", "--port", 0, "--scheduler-file", "scheduler.json")
        told = folder / "scheduler.json"
        wait_until(lambda: told.exists() and told.read_text().endswith("}"))  # else half written
        self.address = json.loads(told.read_text())["address"]

    def start(self, kind, *words, name=None, path=""):
        with (self.folder / f"{name or kind}.log").open("w") as log:
            return psutil.Popen(
                [
                    *(sys.executable, "-m", f"distributed.cli.dask_{kind}", *map(str, words)),
                    *("--host", "127.0.0.1", "--no-dashboard"),
                ],
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": str(path)},
                stdout=log,
                stderr=log,
            )

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    def add_workers(self, n_workers, path=""):
        names = [f"worker{self.n_started + number}" for number in range(n_workers)]
        self.n_started += n_workers
        for name in names:
            words = (self.address, "--nthreads", 1, "--no-nanny", "--death-timeout", 20)
            self.workers.append(self.start("worker", *words, name=name, path=path))
        wait_until(lambda: all("Registered to:" in self.log(name) for name in names))

    def kill_workers(self, n_workers=None):
        for worker in self.workers[:n_workers]:
            worker.kill()
            worker.wait()
        del self.workers[:n_workers]

    def stop(self):
        for process in [*self.workers, self.scheduler]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
            process.wait()


@contextlib.contextmanager
def new_cluster(folder, n_workers):
    cluster = Cluster(folder)
    try:
        cluster.add_workers(n_workers)
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of two workers. A test that kills some starts others."""
    with new_cluster(tmp_path_factory.mktemp("cluster"), 2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """What a run on this machine's own processes writes."""
    folder = tmp_path_factory.mktemp("local")
    assert command("--simulate", *MANY, "--data_dir", folder).returncode == 0
    return dataset_files(folder)


def start(folder, address):
    """Start a simulation on a cluster; return it once its first spectra are on the disk."""
    words = ("--simulate", *MANY, "--data_dir", folder, "--dask_scheduler", address)
    process = subprocess.Popen(
        [*SCRIPT, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(
        lambda: (array := unfinished_array(folder)) and array.stat().st_size > 20_000, process.poll
    )
    return process


def assert_refused(done, *texts):
    assert done.returncode == 1
    assert is_one_line_error(done.stderr), done.stderr
    assert done.stderr.startswith("runml: error: --dask_scheduler")
    for text in texts:
        assert text in done.stderr


def run_here(capsys, *words):
    """Run `main` in this process, as an imported module; return it as a finished command."""
    status = runml.main([str(word) for word in words])
    return subprocess.CompletedProcess(words, status, *capsys.readouterr())


def test_the_same_bytes_as_here(tmp_path, cluster, local):
    done = command("--simulate", *MANY, "--data_dir", tmp_path, "--dask_scheduler", cluster.address)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert " of 240 SFS, " in done.stdout
    assert dataset_files(tmp_path) == local


def test_a_test_set_from_an_imported_script(tmp_path, trained, cluster, capsys):
    folder = shutil.copytree(trained[0], tmp_path / "data")
    before = dataset_files(folder, "test")
    words = ("--test", "--n_test_reps", 50, "--data_dir", folder)
    done = run_here(capsys, *words, "--dask_scheduler", cluster.address)
    assert done.returncode == 0, done.stderr
    assert "Simulating" in done.stdout
    assert dataset_files(folder, "test") == before


def test_a_lost_worker_is_done_without(tmp_path, cluster, local):
    process = start(tmp_path, cluster.address)
    cluster.kill_workers(1)
    _, errors = process.communicate(timeout=60)
    cluster.add_workers(1)
    assert (process.returncode, errors) == (0, "")
    assert dataset_files(tmp_path) == local


def run_and_lose(capsys, folder, address, lose):
    """Run a simulation here, and lose something once its first spectra are on the disk."""

    ended = threading.Event()

    def lose_midway():
        while not ended.wait(0.01):
            if (array := unfinished_array(folder)) and array.stat().st_size > 20_000:
                lose()
                return

    thread = threading.Thread(target=lose_midway)
    thread.start()
    try:
        words = ("--simulate", *MANY, "--data_dir", folder, "--dask_scheduler", address)
        return run_here(capsys, *words)
    finally:
        ended.set()
        thread.join()


def test_without_workers_a_run_ends_and_goes_on_here(tmp_path, cluster, local, capsys, monkeypatch):
    monkeypatch.setattr(runml, "SECONDS_BETWEEN_LOOKS", 1)
    done = run_and_lose(capsys, tmp_path, cluster.address, cluster.kill_workers)
    assert_refused(done, "last of its workers")
    assert not dataset_files(tmp_path)
    words = ("--simulate", *MANY, "--data_dir", tmp_path)
    assert_refused(run_here(capsys, *words, "--dask_scheduler", cluster.address), "no workers")
    cluster.add_workers(2)
    done = run_here(capsys, *words)
    assert done.returncode == 0
    assert "Going on after" in done.stdout
    assert dataset_files(tmp_path) == local


def test_a_lost_scheduler_ends_a_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runml, "SECONDS_BETWEEN_LOOKS", 1)
    (tmp_path / "mortal").mkdir()
    with new_cluster(tmp_path / "mortal", 1) as mortal:
        done = run_and_lose(capsys, tmp_path / "data", mortal.address, mortal.scheduler.kill)
    assert_refused(done, "scheduler, or")
    assert not dataset_files(tmp_path / "data")


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_an_interrupted_run_ends_at_once_and_goes_on(tmp_path, cluster, local):
    process = start(tmp_path, cluster.address)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=3)
    assert process.returncode == 130
    assert errors == STOPPED
    done = command("--simulate", *MANY, "--data_dir", tmp_path, "--dask_scheduler", cluster.address)
    assert done.returncode == 0, done.stderr
    assert "Going on after" in done.stdout
    assert dataset_files(tmp_path) == local


# What only the worker knows, put into its `importlib.metadata`.
OTHER_PACKAGES = """
import importlib.metadata as metadata
version = metadata.version
def other(package):
    if package == "msprime":
        {statement}
    return version(package)
metadata.version = other
"""


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("return '0.7.4'", "it has msprime 0.7.4"),
        ("raise metadata.PackageNotFoundError(package)", "No package metadata was found for msprime"),
    ],
)
def test_a_worker_with_other_packages_is_told(tmp_path, cluster, capsys, statement, told):
    (tmp_path / "sitecustomize.py").write_text(OTHER_PACKAGES.format(statement=statement))
    cluster.add_workers(1, path=tmp_path)
    words = ("--simulate", *MANY, "--data_dir", tmp_path / "data", "--dask_scheduler", cluster.address)
    done = run_here(capsys, *words)
    cluster.workers.pop().kill()
    assert_refused(done, "needs " + runml.listed(runml.versions()), told)
    assert not dataset_files(tmp_path / "data")


def test_another_python_on_the_workers_is_told(tmp_path, cluster, capsys, monkeypatch):
    parent, here = os.getpid(), platform.python_version()
    python = lambda: "3.4.1" if os.getpid() == parent else here  # noqa: E731
    monkeypatch.setattr(platform, "python_version", python)
    words = ("--simulate", *MANY, "--data_dir", tmp_path, "--dask_scheduler", cluster.address)
    assert_refused(run_here(capsys, *words), f"has Python {here}, and here is 3.4.1")


@pytest.mark.parametrize("address", ["nonsense", "http://127.0.0.1:8786", "tcp://127.0.0.1:1"])
def test_no_scheduler_at_the_address(tmp_path, capsys, address):
    words = ("--simulate", *MANY, "--data_dir", tmp_path, "--dask_scheduler", address)
    assert_refused(run_here(capsys, *words), address, "no Dask scheduler answers there")


def test_something_else_at_the_address(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        words = ("--simulate", *MANY, "--data_dir", tmp_path, "--dask_scheduler", address)
        assert_refused(run_here(capsys, *words), address, "no Dask scheduler answers there")


def test_logs_and_warnings_are_heard_again(tmp_path, capsys):
    """After a command that silenced Dask, as another may follow in this process."""
    disabled, filters = logging.root.manager.disable, list(warnings.filters)
    words = ("--simulate", *MANY, "--data_dir", tmp_path, "--dask_scheduler", "nonsense")
    assert run_here(capsys, *words).returncode == 1
    assert logging.root.manager.disable == disabled
    assert warnings.filters == filters


def test_the_missing_package_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    words = ("--simulate", *MANY, "--data_dir", tmp_path, "--dask_scheduler", "tcp://127.0.0.1:1")
    assert_refused(run_here(capsys, *words), "pip install 'distributed>=2026.8'")
