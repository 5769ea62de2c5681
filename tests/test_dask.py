"""On a Dask cluster of real processes: the same bytes, whatever happens to the workers."""

import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from conftest import SCRIPT, command, runml

SMALL = ("--n_reps", 100, "--sequence_length", 50_000)


def wait_until(true, seconds=30):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Cluster:
    """A scheduler and workers without nannies, on loopback, where the script cannot be imported."""

    def __init__(self, folder):
        self.folder, self.workers = folder, []
        self.scheduler = self.start("scheduler", "--port", 0, "--scheduler-file", "scheduler.json")
        wait_until(lambda: "Scheduler at:" in self.log("scheduler"))
        self.address = json.loads((folder / "scheduler.json").read_text())["address"]

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
        first = len(self.workers)
        names = [f"worker{number}" for number in range(first, first + n_workers)]
        for name in names:
            words = (self.address, "--nthreads", 1, "--no-nanny", "--death-timeout", 20)
            self.workers.append(self.start("worker", *words, name=name, path=path))
        wait_until(lambda: all("Registered to:" in self.log(name) for name in names))

    def stop(self):
        for process in [*self.workers, self.scheduler]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
            process.wait()


@contextlib.contextmanager
def two_workers(folder):
    cluster = Cluster(folder)
    try:
        cluster.add_workers(2)
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with two_workers(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def mortal(tmp_path_factory):
    """A cluster for one test, which may kill it."""
    with two_workers(tmp_path_factory.mktemp("mortal")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """What a run on this machine's own processes writes."""
    folder = tmp_path_factory.mktemp("local")
    assert command("--simulate", *SMALL, "--data_dir", folder).returncode == 0
    return dataset_files(folder)


def dataset_files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("simulated_*")}


def start(folder, address):
    """Start a simulation on a cluster; return it once its first spectra are on the disk."""
    words = ("--simulate", *SMALL, "--data_dir", folder, "--dask_scheduler", address)
    process = subprocess.Popen(
        [*SCRIPT, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    growing = folder / ".simulated.partial" / "simulated_sfs.npy"
    wait_until(lambda: growing.exists() and growing.stat().st_size > 20_000)
    return process


def assert_refused(done, *texts):
    assert done.returncode == 1
    assert done.stderr.startswith("runml: error: --dask_scheduler")
    assert done.stderr.count("\n") == 1
    for text in texts:
        assert text in done.stderr


def run_here(capsys, *words):
    """Run `main` in this process, as an imported module; return it as a finished command."""
    status = runml.main([str(word) for word in words])
    return subprocess.CompletedProcess(words, status, *capsys.readouterr())


def test_the_same_bytes_as_here(tmp_path, cluster, local):
    done = command("--simulate", *SMALL, "--data_dir", tmp_path, "--dask_scheduler", cluster.address)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert " of 200 SFS, " in done.stdout
    assert dataset_files(tmp_path) == local


def test_a_test_set_from_an_imported_script(tmp_path, trained, cluster, capsys):
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "test_sfs.npy").read_bytes()
    words = ("--test", "--n_test_reps", 50, "--data_dir", tmp_path)
    done = run_here(capsys, *words, "--dask_scheduler", cluster.address)
    assert done.returncode == 0, done.stderr
    assert "Simulating" in done.stdout
    assert (tmp_path / "test_sfs.npy").read_bytes() == before


def test_a_lost_worker_is_done_without(tmp_path, mortal, local):
    process = start(tmp_path, mortal.address)
    mortal.workers[0].kill()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert dataset_files(tmp_path) == local


def test_without_workers_a_run_ends_and_goes_on_here(tmp_path, mortal, local):
    process = start(tmp_path, mortal.address)
    for worker in mortal.workers:
        worker.kill()
    printed, errors = process.communicate(timeout=30)
    assert_refused(
        subprocess.CompletedProcess([], process.returncode, printed, errors), "last of its workers"
    )
    assert not dataset_files(tmp_path)
    words = ("--simulate", *SMALL, "--data_dir", tmp_path)
    assert_refused(command(*words, "--dask_scheduler", mortal.address), "no workers")
    done = command(*words)
    assert done.returncode == 0
    assert "Going on after" in done.stdout
    assert dataset_files(tmp_path) == local


def test_a_lost_scheduler_ends_a_run(tmp_path, mortal):
    process = start(tmp_path, mortal.address)
    mortal.scheduler.kill()
    printed, errors = process.communicate(timeout=30)
    assert_refused(subprocess.CompletedProcess([], process.returncode, printed, errors), "scheduler, or")


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_an_interrupted_run_ends_at_once_and_goes_on(tmp_path, cluster, local):
    process = start(tmp_path, cluster.address)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=3)
    assert process.returncode == 130
    assert errors == "runml: stopped; what was not finished has replaced nothing.\n"
    done = command("--simulate", *SMALL, "--data_dir", tmp_path, "--dask_scheduler", cluster.address)
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
def test_a_worker_with_other_packages_is_told(tmp_path, mortal, statement, told):
    (mortal.folder / "sitecustomize.py").write_text(OTHER_PACKAGES.format(statement=statement))
    mortal.add_workers(1, path=mortal.folder)
    words = ("--simulate", *SMALL, "--data_dir", tmp_path, "--dask_scheduler", mortal.address)
    needs = "needs " + runml.listed(runml.versions())
    assert_refused(command(*words), needs, told)
    assert not dataset_files(tmp_path)


def test_another_python_on_the_workers_is_told(tmp_path, cluster, capsys, monkeypatch):
    parent, here = os.getpid(), platform.python_version()
    python = lambda: "3.4.1" if os.getpid() == parent else here  # noqa: E731
    monkeypatch.setattr(platform, "python_version", python)
    words = ("--simulate", *SMALL, "--data_dir", tmp_path, "--dask_scheduler", cluster.address)
    assert_refused(run_here(capsys, *words), f"has Python {here}, and here is 3.4.1")


@pytest.mark.parametrize("address", ["nonsense", "http://127.0.0.1:8786", "tcp://127.0.0.1:1"])
def test_no_scheduler_at_the_address(tmp_path, address):
    done = command("--simulate", *SMALL, "--data_dir", tmp_path, "--dask_scheduler", address)
    assert_refused(done, address, "no Dask scheduler answers there")


def test_something_else_at_the_address(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        done = command("--simulate", *SMALL, "--data_dir", tmp_path, "--dask_scheduler", address)
    assert_refused(done, address, "no Dask scheduler answers there")


def test_the_missing_package_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    words = ("--simulate", *SMALL, "--data_dir", tmp_path, "--dask_scheduler", "tcp://127.0.0.1:1")
    assert_refused(run_here(capsys, *words), "pip install 'distributed>=2026.8'")
