"""The README's way from a VCF to a spectrum, in its very lines."""

import functools
import gzip
import re
import warnings

import msprime
import numpy as np
import pytest
from conftest import ROOT, runml

README = ROOT / "README.md"
BASE_PAIRS = 200_000  # of each of two chromosomes


def readme_lines(**edited):
    """The README's script, with its first lines edited as it says."""
    text = README.read_text(encoding="utf-8").split("### From a VCF to a spectrum\n")[1]
    script = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    for name, value in edited.items():
        script, n = re.subn(rf"^{name} = .*$", f"{name} = {value!r}", script, flags=re.MULTILINE)
        assert n == 1, name
    return script


@functools.cache
def genealogies():
    """Two chromosomes of 6 + 5 individuals, and one of a third species, which is A's ancestor."""
    demography = msprime.Demography.isolated_model([5_000, 8_000, 3_000])
    demography.set_symmetric_migration_rate([0, 1, 2], 1e-4)
    chromosomes = []
    for seed in (1, 2):
        trees = msprime.sim_ancestry(
            {0: 6, 1: 5, 2: 1},
            demography=demography,
            sequence_length=BASE_PAIRS,
            recombination_rate=1e-8,
            random_seed=seed,
        )
        model = msprime.BinaryMutationModel()  # two alleles, even where mutations meet
        chromosomes.append(msprime.sim_mutations(trees, 2e-8, random_seed=seed, model=model))
    return chromosomes


def write_vcf(path, missing, unknown):
    """A VCF in the forms that are found in nature; return its SNPs as arrays of individuals.

    Returns
    -------
    genotypes : numpy.ndarray, shape (SNPs, individuals, 2)
        1 for the derived allele, -1 where a genotype is missing.
    known : numpy.ndarray of bool
        Whether the ancestral allele is.
    """
    rng = np.random.default_rng(1)
    lines = ["##fileformat=VCFv4.2", '##INFO=<ID=AA,Number=1,Type=String,Description="Ancestral">']
    everyone = [f"i{n}" for n in range(12)]
    order = rng.permutation(12)  # species are not side by side
    header = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT"]
    lines.append("\t".join(header + [everyone[n] for n in order]))
    genotypes, known = [], []
    for name, trees in zip(("chr1", "scaffold_2"), genealogies(), strict=True):
        for variant in trees.variants():
            own = variant.genotypes.reshape(12, 2).copy()
            own[rng.random(12) < missing] = -1
            genotypes.append(own)
            ancestral, derived = rng.permutation(list("ACGT"))[:2]
            ref, alt = (ancestral, derived) if rng.random() < 0.5 else (derived, ancestral)
            codes = {-1: ".", 0: str(int(ref != ancestral)), 1: str(int(ref == ancestral))}
            separator = rng.choice(["/", "|"])
            calls = [separator.join(codes[allele] for allele in pair) for pair in own.tolist()]
            if rng.random() < 0.5:
                calls = ["." if call in ("./.", ".|.") else call for call in calls]
            known.append(rng.random() >= unknown)
            aa = rng.choice([f"AA={ancestral}", f"AA={ancestral.lower()}", f"AA={ancestral}|||"])
            if not known[-1]:
                aa = rng.choice(["AA=.", "AA=N", "AA=", "AAF=0.1", "."])
                aa = f"AA={({*'ACGT'} - {ref, alt}).pop()}" if rng.random() < 0.3 else aa
            info = rng.choice([aa, f"AC=3;{aa};DP=100", f"CAA={derived};AAF=0.1;{aa}"])
            ref = ref.lower() if rng.random() < 0.1 else ref  # soft-masked
            fields = [
                name,
                int(variant.site.position) + 1,
                ".",
                ref,
                alt,
                ".",
                rng.choice(["PASS", "."]),
            ]
            fields += [info, "GT:DP", *(f"{calls[n]}:{10 * n + 1}" for n in order)]
            lines.append("\t".join(map(str, fields)))
    for ref, alt, quality, call in (  # none of them a SNP of two alleles that passed all filters
        ("A", "C,G", "PASS", "0/2"),
        ("AT", "A", "PASS", "0/1"),
        ("A", "*", "PASS", "0/1"),
        ("A", "<DEL>", "PASS", "0/1"),
        ("A", ".", "PASS", "0/0"),
        ("A", "C", "LowQual", "0/1"),
    ):
        lines.append(
            "\t".join(["chr3", "7", ".", ref, alt, ".", quality, "AA=A", "GT:DP"] + [call] * 12)
        )
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt") as file:
        file.write("\n".join(lines) + "\n")
    people = [f"{name}\t{'finch' if n < 6 else 'tit'}\n" for n, name in enumerate(everyone[:11])]
    path.with_name("species.txt").write_text("".join(rng.permutation(people)) + "\n")
    return np.array(genotypes), np.array(known)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """A function that runs the README's lines in `tmp_path`; it returns the spectrum and the screen."""
    monkeypatch.chdir(tmp_path)

    def run(**edited):
        script = readme_lines(**{"names": ["finch", "tit"]} | edited)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", ResourceWarning)  # which Python does not show
            exec(compile(script, "spectrum.py", "exec"), {})
        printed = capsys.readouterr()
        assert not printed.err
        return runml.read_observed(tmp_path / "observed.fs"), printed.out.splitlines()

    return run


def true_sfs():
    """The spectrum as tskit counts it."""
    sfs = sum(
        trees.allele_frequency_spectrum(
            [trees.samples(0), trees.samples(1)], polarised=True, span_normalise=False
        )
        for trees in genealogies()
    )
    sfs[0, 0] = sfs[-1, -1] = 0
    return sfs


def fold(sfs):
    return runml.fold(sfs[np.newaxis, ..., np.newaxis])[0, ..., 0]


def projected_by_hand(genotypes, sizes):
    """The mean spectrum of samples without replacement of the chromosomes called, one at a time."""
    sfs = np.zeros(np.add(sizes, 1))
    for snp in genotypes:
        chances = []
        for own, size in zip((snp[:6].ravel(), snp[6:11].ravel()), sizes, strict=True):
            called = own[own >= 0]
            if len(called) < size:
                break
            table = {(0, 0): 1.0}  # (taken, derived)
            for n_seen, allele in enumerate(called):
                after = {}
                for (taken, derived), p in table.items():
                    take = (size - taken) / (len(called) - n_seen)
                    for more, share in ((1, take), (0, 1 - take)):
                        if share > 0:
                            key = (taken + more, derived + more * allele)
                            after[key] = after.get(key, 0) + p * share
                table = after
            chance = [table.get((size, derived), 0) for derived in range(size + 1)]
            chances.append(chance)
        else:
            sfs += np.outer(*chances)
    sfs[0, 0] = sfs[-1, -1] = 0
    return sfs


@pytest.mark.parametrize("folded", [False, True], ids=["unfolded", "folded"])
def test_without_missing_genotypes_the_spectrum_is_the_true_one(tmp_path, run, folded):
    genotypes, _ = write_vcf(tmp_path / "birds.vcf", missing=0, unknown=0)
    observed, printed = run(
        vcf="birds.vcf", chromosomes=[12, 10], folded=folded, callable_bp=2 * BASE_PAIRS, n_loci=8
    )
    truth = fold(true_sfs()) if folded else true_sfs()
    assert truth.sum() > 300
    assert observed.folded == folded
    np.testing.assert_allclose(observed.counts, truth, atol=1e-9)
    n = len(genotypes)
    assert printed[0] == f"12 and 10 chromosomes would keep 100.0% of {n:,} SNPs"
    assert (
        printed[-2]
        == f"{truth.sum():,.0f} SNPs are in observed.fs, of {2 * BASE_PAIRS:,} callable base pairs:"
    )
    assert printed[-1] == "--sample_size 6 5 --n_loci 8 --sequence_length 50000"


@pytest.mark.parametrize("folded", [False, True], ids=["unfolded", "folded"])
def test_missing_genotypes_are_projected_over(tmp_path, run, folded):
    genotypes, known = write_vcf(tmp_path / "birds.vcf.gz", missing=0.1, unknown=0.2)
    observed, printed = run(
        vcf="birds.vcf.gz", chromosomes=[10, 8], folded=folded, callable_bp=1_000_000, n_loci=7
    )
    known = known | folded
    truth = projected_by_hand(genotypes[known], (10, 8))
    truth = fold(truth) if folded else truth
    assert np.allclose(observed.counts, truth, rtol=0, atol=1e-5)

    called = (genotypes >= 0).sum(axis=2)
    called = called[:, :6].sum(axis=1), called[:, 6:11].sum(axis=1)

    def kept(a, b):
        return ((called[0] >= a) & (called[1] >= b) & known).sum()

    n = len(genotypes)
    for line, (a, b) in zip(printed, [(12, 10), (10, 8), (8, 6), (6, 4)], strict=False):
        assert line == f"{a} and {b} chromosomes would keep {kept(a, b) / n:.1%} of {n:,} SNPs"
    length = round(1_000_000 * kept(10, 8) / n / 7)
    told = f"{truth.sum():,.0f} SNPs are in observed.fs, of {7 * length:,} callable base pairs:"
    assert printed[-2] == told
    assert printed[-1] == f"--sample_size 5 4 --n_loci 7 --sequence_length {length}"
    assert 0.2 < kept(12, 10) / n < kept(10, 8) / n < (0.99 if folded else 0.8)


def test_what_is_printed_can_be_typed(tmp_path, run):
    write_vcf(tmp_path / "birds.vcf", missing=0.05, unknown=0)
    _, printed = run(vcf="birds.vcf", chromosomes=[10, 8], callable_bp=400_000, n_loci=4)
    typed = runml.parse(["--simulate", *printed[-1].split()])
    assert typed.options["sample_size"] == (5, 4)
    assert typed.options["n_loci"] == 4
