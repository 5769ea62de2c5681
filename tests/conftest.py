"""The script as a module, and one small trained model that many tests look at."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import Machine_Learning_for_Population_Genetics_V2 as runml  # noqa: E402

SCRIPT = [sys.executable, str(ROOT / "Machine_Learning_for_Population_Genetics_V2.py")]


def command(*words, **kwargs):
    """Run the script as a student does, in a process of its own, with its output in a pipe."""
    return subprocess.run(
        [*SCRIPT, *map(str, words)], capture_output=True, text=True, check=False, timeout=300, **kwargs
    )


def contents(folder):
    """Every file of a folder, hidden ones too, with its bytes."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def summaries(sfs):
    """SNPs, pi in A and in B, and d_XY, all summed over sites, of spectra of shape (N, a, b, 1).

    From the definitions: the share of pairs of chromosomes that differ, SNP by SNP.
    """
    counts = sfs[..., 0].astype(float)
    n_a, n_b = counts.shape[1] - 1, counts.shape[2] - 1
    i, j = np.arange(n_a + 1)[:, None], np.arange(n_b + 1)[None, :]
    pi_a = counts * (2 * i * (n_a - i) / (n_a * (n_a - 1)))
    pi_b = counts * (2 * j * (n_b - j) / (n_b * (n_b - 1)))
    d_xy = counts * (i * (n_b - j) + (n_a - i) * j) / (n_a * n_b)
    return {
        "snps": counts.sum(axis=(1, 2)),
        "pi_a": pi_a.sum(axis=(1, 2)),
        "pi_b": pi_b.sum(axis=(1, 2)),
        "d_xy": d_xy.sum(axis=(1, 2)),
    }


def spectra(settings, n_rows, branch=runml.SIMULATE):
    """The first rows of a dataset, simulated in this process."""
    return runml.simulate_rows(settings, branch, range(n_rows))


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder after a small `--simulate --train --test`, and what was printed."""
    folder = tmp_path_factory.mktemp("trained")
    done = command(
        *("--simulate", "--train", "--test", "--n_reps", 200, "--n_test_reps", 50, "--epochs", 4),
        *("--learning_rate", 1e-4, "--sequence_length", 20_000, "--data_dir", folder),
    )
    assert done.returncode == 0, done.stderr
    return folder, done
