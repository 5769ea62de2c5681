"""The guide for one's own species: its script runs as a file, its commands are those of `runml`."""

import importlib.util
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, runml

FOLDER = ROOT / "data" / "own_species"
GUIDE = (FOLDER / "README.md").read_text(encoding="utf-8")
COMMAND = r"\brunml (--[^`;\n]*(?:\\\n[^`;\n]*)*)"  # to the end of the line or of the quotation
COMMANDS = [each.replace("\\\n", " ") for each in re.findall(COMMAND, GUIDE)]


def spectra(folder):
    """What the script wrote: the sizes, the names and the counts of each spectrum."""
    files = [runml.read_observed(path) for path in sorted(folder.glob("*.fs"))]
    return [(each.counts.shape, each.names, each.counts.sum()) for each in files]


@pytest.mark.skipif(not importlib.util.find_spec("stdpopsim"), reason="stdpopsim is not installed")
def test_orangutans_as_a_file(tmp_path):
    script = [sys.executable, str(FOLDER / "orangutans.py"), "--n", "1", "--n_loci", "3"]
    done = subprocess.run([*script, "--vcf", "--out", str(tmp_path)], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    with_migration, without = spectra(tmp_path)
    assert with_migration[:2] == without[:2] == ((21, 21), ("Bornean", "Sumatran"))
    assert 100 < with_migration[2] != without[2] > 100

    # From its VCF comes the same spectrum.
    vcf = [tmp_path / "with_migration_01.vcf", tmp_path / "species.txt", "Bornean", "Sumatran"]
    sizes = ["--callable_bp", "60000", "--n_loci", "3", "--project", "20", "20"]
    command = [sys.executable, FOLDER / "vcf_to_spectrum.py", *vcf, *sizes]
    subprocess.run([*command, "--out", tmp_path / "vcf.fs"], check=True, capture_output=True)
    direct, from_vcf = (
        runml.read_observed(tmp_path / name) for name in ("with_migration_01.fs", "vcf.fs")
    )
    np.testing.assert_allclose(from_vcf.counts, direct.counts, atol=1e-6)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_guide(command):
    options = runml.parse_options(shlex.split(command.replace("$S", "1")))
    settings = runml.choose(runml.SimulationSettings, options.typed)
    if "simulate" in options.commands:
        runml.check_simulation(settings)
    assert not {"simulate", "test"} <= set(options.commands), "the test is for when one has chosen"


def test_the_spectra_beside_the_guide():
    for shape, names, n_snps in spectra(FOLDER):
        assert shape == (21, 21) and names == ("Bornean", "Sumatran") and n_snps > 30_000
    assert len(spectra(FOLDER)) == 2
    assert len(COMMANDS) >= 8
