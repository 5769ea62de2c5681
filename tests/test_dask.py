"""On a Dask cluster of real processes: the same bytes, whatever happens to the workers."""

import json
import os
import subprocess
import sys
import time

import msprime
import pytest
from conftest import assert_refused, command, contents, dataset_files, run, runml

pytestmark = pytest.mark.usefixtures("no_pictures")
WORDS = ("--simulate", "--n_reps", 120, "--sequence_length", 5_000)  # enough to lose something


def wait_until(true):
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Cluster:
    """A scheduler and workers without nannies, where the script cannot be imported."""

    def __init__(self, folder):
        self.folder, self.processes = folder, []  # the scheduler is the first

    def start(self, kind, *words, path=""):
        log = self.folder / f"{time.monotonic()}.log"
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *map(str, words)]
        command += ["--host", "127.0.0.1", "--no-dashboard"]
        options = {"cwd": self.folder, "env": os.environ | {"PYTHONPATH": str(path)}}
        with log.open("w") as file:
            self.processes.append(subprocess.Popen(command, stdout=file, stderr=file, **options))
        ready = "Registered to:" if kind == "worker" else "Scheduler at:"
        wait_until(lambda: ready in log.read_text())

    def have(self, n_workers, **kwargs):
        """Be a cluster of some workers, whatever is left; return the address."""
        if not self.processes:
            told = self.folder / f"{time.monotonic()}.json"
            self.start("scheduler", "--port", 0, "--scheduler-file", told)
            wait_until(lambda: told.exists() and told.read_text().endswith("}"))
            self.address = json.loads(told.read_text())["address"]
        while len(self.processes) <= n_workers:
            words = (self.address, "--nthreads", 1, "--no-nanny", "--death-timeout", 20)
            self.start("worker", *words, **kwargs)
        self.kill_from(n_workers + 1)
        return self.address

    def kill_from(self, first):
        """Kill all processes but for so many."""
        for process in self.processes[first:]:
            process.kill()
            process.wait()
        del self.processes[first:]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.kill_from(0)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    assert command(*WORDS, "--data_dir", folder)[0] == 0
    return dataset_files(folder)


def simulate(capsys, folder, address, meanwhile=lambda: None):
    """Run a simulation on a cluster; do something once its first spectra are on the disk."""

    def in_parallel(*task, own=runml.in_parallel):
        for number, block in enumerate(own(*task)):
            if number == 1:
                meanwhile()
            yield block

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runml, "in_parallel", in_parallel)
        return run(capsys, *WORDS, "--data_dir", folder, "--dask_scheduler", address)


@pytest.mark.parametrize("n_lost", [0, 1])
def test_the_same_bytes_as_here_though_a_worker_is_lost(tmp_path, cluster, local, capsys, n_lost):
    address = cluster.have(2)
    status, _, error = simulate(capsys, tmp_path, address, lambda: cluster.kill_from(3 - n_lost))
    assert (error, status) == ("", 0)
    assert dataset_files(tmp_path) == local


@pytest.mark.parametrize("n_left", [1, 0], ids=["the workers", "the scheduler"])
def test_what_a_lost_cluster_has_done_is_kept(
    tmp_path, cluster, local, capsys, monkeypatch, n_left
):
    monkeypatch.setattr(runml, "SECONDS_BETWEEN_LOOKS", 1)
    address = cluster.have(1)
    done = simulate(capsys, tmp_path, address, lambda: cluster.kill_from(n_left))
    assert_refused(done, f"--dask_scheduler {address}", "gone")
    assert not dataset_files(tmp_path)
    if n_left:
        assert_refused(
            simulate(capsys, tmp_path, address), address, "no Dask scheduler with workers"
        )
    status, printed, error = run(capsys, *WORDS, "--workers", 1, "--data_dir", tmp_path)
    assert (status, error, "Going on after" in printed) == (0, "", True)
    assert dataset_files(tmp_path) == local


OTHER_VERSION = """
import importlib.metadata as own
own.version = lambda package, v=own.version: "0.7.4" if package == "msprime" else v(package)
"""


def test_a_worker_with_another_version_of_a_package_is_told(tmp_path, cluster, capsys):
    (tmp_path / "sitecustomize.py").write_text(OTHER_VERSION)
    cluster.have(0)
    done = simulate(capsys, tmp_path / "data", cluster.have(1, path=tmp_path))
    cluster.have(0)
    assert_refused(done, "'msprime': '0.7.4'", f"'msprime': '{msprime.__version__}'")
    assert not contents(tmp_path / "data")


@pytest.mark.parametrize("address", ["nonsense", "http://127.0.0.1:8786", "tcp://127.0.0.1:1"])
def test_no_scheduler_at_the_address(tmp_path, capsys, address):
    done = simulate(capsys, tmp_path, address)
    assert_refused(done, f"--dask_scheduler {address}", "no Dask scheduler with workers answers")


def test_the_missing_package_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert_refused(simulate(capsys, tmp_path, "tcp://127.0.0.1:1"), "pip install 'distributed")
