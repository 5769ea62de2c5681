"""What is in `data/own_species`: the way from a VCF to a spectrum, the example, the guide."""

import functools
import gzip
import importlib.util
import os
import re
import shlex
import subprocess
import sys

import dadi
import msprime
import numpy as np
import pytest
from conftest import ROOT, runml

FOLDER = ROOT / "data" / "own_species"
BASE_PAIRS = 15_000  # of each of two chromosomes
MUTATION_RATE = 1e-6
BINARY = msprime.BinaryMutationModel  # two alleles, even where mutations meet
NAMES = [f"i{n}" for n in range(12)]
SPECIES = ["finch"] * 6 + ["tit"] * 5 + ["wren"]
LIST = "".join(f"{name}\t{species}\n" for name, species in zip(NAMES, SPECIES, strict=True))
SIZES = ("--callable_bp", 2 * BASE_PAIRS, "--n_loci", 5)
FIXED = ("#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT")


def script(folder, *words, **env):
    """Run the script in a folder, as a user does."""
    command = [sys.executable, str(FOLDER / "vcf_to_spectrum.py"), *map(str, words)]
    kwargs = {"cwd": folder, "env": os.environ | env, "timeout": 120}
    return subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)


def spectrum(folder, *options, vcf="birds.vcf", pair=("finch", "tit")):
    """Run the script, which must succeed; return the spectrum and the lines on the screen."""
    done = script(folder, vcf, "species.txt", *pair, *options)
    assert (done.returncode, done.stderr) == (0, "")
    return dadi.Spectrum.from_file(str(folder / "observed.fs")), done.stdout.splitlines()


def vcf_text(records, names=NAMES):
    """A VCF of records (chromosome, position, REF, ALT, FILTER, INFO, FORMAT, genotypes)."""
    lines = [["##fileformat=VCFv4.2"], [*FIXED, *names]]
    for chrom, pos, ref, alt, passed, info, keys, genotypes in records:
        lines.append([chrom, str(pos), ".", ref, alt, ".", passed, info, keys, *genotypes])
    return "".join("\t".join(line) + "\n" for line in lines)


def lay(folder, records, species=LIST):
    """Write a VCF and the list of its individuals."""
    (folder / "birds.vcf").write_text(vcf_text(records))
    (folder / "species.txt").write_text(species)


@functools.cache
def genealogies(model=msprime.JC69):
    """Two chromosomes of 6 + 5 + 1 individuals, with so many mutations that sites have several."""
    demography = msprime.Demography.isolated_model([5_000, 8_000, 3_000])
    demography.set_symmetric_migration_rate([0, 1, 2], 1e-4)
    kwargs = {"demography": demography, "sequence_length": BASE_PAIRS, "recombination_rate": 1e-8}
    samples = {0: 6, 1: 5, 2: 1}
    trees = [msprime.sim_ancestry(samples, random_seed=seed, **kwargs) for seed in (1, 2)]
    kwargs = {"rate": MUTATION_RATE, "random_seed": 3, "model": model()}
    return [msprime.sim_mutations(each, **kwargs) for each in trees]


def true_sfs(trees_of):
    """The spectrum as tskit counts it: every derived allele."""
    samples, whole = [trees_of[0].samples(n) for n in (0, 1)], {"span_normalise": False}
    of_each = [x.allele_frequency_spectrum(samples, polarised=True, **whole) for x in trees_of]
    sfs = sum(of_each)
    sfs[0, 0] = sfs[-1, -1] = 0
    return sfs


def assert_same(observed, truth):
    """Compare an unfolded spectrum that was read with a true one."""
    assert not observed.folded
    np.testing.assert_allclose(observed.filled(0), truth, atol=1e-6)


def found_in_nature(missing, unknown):
    """Records in the forms that other programs write; none of chr3 is a SNP that passed."""
    rng = np.random.default_rng(1)
    for chrom, trees in zip(("chr_1.2", "scaffold_2"), genealogies(BINARY), strict=True):
        for variant in trees.variants():
            ancestral, derived, other = rng.permutation(list("ACGT"))[:3]
            swap = rng.random() < 0.5
            ref, alt = (derived, ancestral) if swap else (ancestral, derived)
            calls = []
            for pair in variant.genotypes.reshape(-1, 2):
                call = rng.choice(["/", "|"]).join(str(int(allele ^ swap)) for allele in pair)
                calls.append(rng.choice([".", "./."]) if rng.random() < missing else call)
            aa = rng.choice([f"AA={ancestral}", f"AA={ancestral.lower()}", f"AA={ancestral}|||"])
            if rng.random() < unknown:
                aa = rng.choice(["AA=.", "AA=N", "AA=", "AAF=0.1", ".", f"AA={other}"])
            info = rng.choice([aa, f"AC=3;{aa};DP=100", f"CAA={derived};AAF=0.1;{aa}"])
            ref = ref.lower() if rng.random() < 0.1 else ref  # soft-masked
            calls = [f"{call}:{n + 1}" for n, call in enumerate(calls)]
            passed, pos = rng.choice(["PASS", "."]), int(variant.site.position) + 1
            yield chrom, pos, ref, alt, passed, info, "GT:DP", calls
    for ref, alt, passed in (
        *(("AT", "A", "PASS"), ("A", "*", "PASS"), ("A", "<DEL>", "PASS")),
        *(("A", ".", "PASS"), ("0", "1", "PASS"), ("A", "C", "LowQual"), ("A", "C,*", ".")),
    ):
        yield "chr3", 7, ref, alt, passed, "AA=A", "GT:DP", ["0/1:9"] * 12


def test_the_spectrum_is_the_true_one(tmp_path):
    lay(tmp_path, found_in_nature(0, 0))
    options = ("--bootstrap", 0, "--mutation_rate", MUTATION_RATE)
    observed, lines = spectrum(tmp_path, "--project", 12, 10, *SIZES, *options)
    trees_of = genealogies(BINARY)
    assert_same(observed, true_sfs(trees_of))
    assert observed.pop_ids == ["finch", "tit"] and observed.S() > 500
    assert lines[-1] == f"--sample_size 6 5 --n_loci 5 --sequence_length {2 * BASE_PAIRS // 5}"
    n_sites = [int(line.split()[0].replace(",", "")) for line in lines[1:4]]
    assert n_sites == [n_sites[2] + 7, n_sites[2] + 1, sum(t.num_sites for t in trees_of)]
    samples = [trees_of[0].samples(0), trees_of[0].samples(1)]
    pi_a, pi_b = (np.mean([t.diversity(own) for t in trees_of]) for own in samples)
    d_xy = np.mean([t.divergence(samples) for t in trees_of])
    screen = "\n".join(lines)
    assert f"pi of A = {pi_a:.3g}, pi of B = {pi_b:.3g}, d_XY = {d_xy:.3g}" in screen
    n_a, n_b = pi_a / 4 / MUTATION_RATE, pi_b / 4 / MUTATION_RATE
    assert f"{n_a:,.0f} and {n_b:,.0f} individuals" in screen
    most, about = d_xy / 2 / MUTATION_RATE, (d_xy - (pi_a + pi_b) / 2) / 2 / MUTATION_RATE
    assert f"{about:,.0f} generations,\nat most {most:,.0f}." in screen
    assert "No site has three nucleotides" in screen
    assert not (tmp_path / "observed_bootstrap").exists()


@pytest.mark.parametrize("folded", [False, True], ids=["unfolded", "folded"])
def test_missing_genotypes_are_projected_over_as_by_dadi_itself(tmp_path, folded):
    text = vcf_text(found_in_nature(0.15, 0.2))
    (tmp_path / "birds.vcf.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "species.txt").write_text("sample pop\n" + LIST.replace("\t", "  "))
    options = ("--project", 10, 6, *SIZES, "--bootstrap", 0, *["--folded"] * folded)
    observed, lines = spectrum(tmp_path, *options, vcf="birds.vcf.gz")
    files = [str(tmp_path / name) for name in ("birds.vcf.gz", "species.txt")]
    snps = dadi.Misc.make_data_dict_vcf(*files)
    by_dadi = dadi.Spectrum.from_data_dict(snps, ["finch", "tit"], [10, 6], polarized=not folded)
    np.testing.assert_allclose(observed.filled(0), by_dadi.filled(0), atol=1e-9)
    kept = next(line.split() for line in lines if "chromosomes called" in line)
    share = float(kept[-1].rstrip("%")) / 100
    assert 0.3 < share < (0.95 if folded else 0.75)
    length = int(lines[-1].split()[-1])
    assert length == pytest.approx(share * 2 * BASE_PAIRS / 5, abs=10)
    assert lines[-1].startswith("--sample_size 5 3 --n_loci 5 ")
    if folded:  # the table says the same
        done = script(tmp_path, "birds.vcf.gz", "species.txt", "finch", "tit", *SIZES, "--folded")
        table = [line.split() for line in done.stdout.splitlines()[-7:]]
        assert done.returncode == 2 and "choose" in done.stderr and done.stderr.count("\n") == 1
        assert table[0] == ["10", "8", "6", "4", "2"]
        assert [row[0] for row in table[1:]] == ["12", "10", "8", "6", "4", "2"]
        assert table[2][3] == kept[-1] and table[-1][-1] == "100.0%"


def test_sites_of_three_alleles_count_as_in_the_simulations(tmp_path):
    trees_of = genealogies()
    records = []
    for n, trees in enumerate(trees_of):
        kwargs = {"individual_names": NAMES, "position_transform": lambda x: 1 + np.array(x)}
        for line in trees.as_vcf(contig_id=str(n), **kwargs).splitlines():
            if not line.startswith("#"):  # tskit writes the ancestral allele as REF
                chrom, pos, _, ref, alt, _, passed, _, keys, *calls = line.split("\t")
                records.append((chrom, pos, ref, alt, passed, f"AA={ref}", keys, calls))
    lay(tmp_path, records)
    observed, screen = spectrum(tmp_path, "--project", 12, 10, *SIZES, "--bootstrap", 0)
    truth = true_sfs(trees_of)
    assert_same(observed, truth)
    assert any("of three or four alleles" in line for line in screen)
    assert any("AA is REF at every SNP" in line for line in screen)
    files = [str(tmp_path / name) for name in ("birds.vcf", "species.txt")]
    snps = dadi.Misc.make_data_dict_vcf(*files)
    dropped = dadi.Spectrum.from_data_dict(snps, ["finch", "tit"], [12, 10])
    lost = 1 - dropped.S() / truth.sum()
    n_sites = sum(trees.num_sites for trees in trees_of)
    assert lost == pytest.approx(2 / 3 * n_sites / (2 * BASE_PAIRS), rel=0.3)


def toy(n_loci=5, locus=0, gap=0):
    """SNPs of 5 + k copies of one site pattern for locus or block k, which thereby shows."""
    for k in range(n_loci):
        for n in range(5 + k):
            calls = ["1/1"] * (k // 2) + ["0/1"] * (k % 2) + ["0/0"] * (6 - k // 2 - k % 2)
            place = (f"locus_{k * locus}.1", 10 + n + k * gap)
            yield (*place, "A", "C", "PASS", "AA=A", "GT", [*calls, *["1/1"] * 6])


@pytest.mark.parametrize(
    ("layout", "options", "n_chunks", "unit"),
    [
        ({"locus": 1}, ("--callable_bp", 1200, "--n_loci", 8), 8, "loci"),  # 3 without a SNP
        ({"gap": 1_000_000}, ("--callable_bp", 5e6, "--n_loci", 50), 5, "blocks of 1 Mb"),
    ],
    ids=["RAD loci", "one chromosome"],
)
def test_the_bootstrap_draws_loci_or_blocks(tmp_path, layout, options, n_chunks, unit):
    lay(tmp_path, toy(**layout))
    folder = tmp_path / "observed_bootstrap"
    folder.mkdir()
    for old in ("bootstrap_999.fs", "mine.txt"):
        (folder / old).write_text("of an earlier spectrum")
    observed, lines = spectrum(tmp_path, "--project", 12, 10, *options, "--seed", 7)
    paths = sorted(folder.glob("*.fs"))
    assert [path.name for path in paths] == [f"bootstrap_{n:03}.fs" for n in range(1, 101)]
    assert (folder / "mine.txt").exists()
    assert f"100 bootstrap spectra, of {n_chunks} {unit} drawn with replacement." in lines
    resampled = np.array([dadi.Spectrum.from_file(str(path)).filled(0) for path in paths])
    drawn = resampled[:, :5, 10] / (5 + np.arange(5))  # how often each locus
    assert np.array_equal(drawn, drawn.round()) and resampled[:, 5:].sum() == 0
    assert set(drawn.sum(axis=1)) == {5} if n_chunks == 5 else drawn.sum(axis=1).max() > 5
    assert np.abs(drawn.mean(axis=0) - 1).max() < 0.4 and drawn.std() > 0.7
    np.testing.assert_array_equal(observed[:5, 10], 5 + np.arange(5))


def test_blanks_marks_and_files_by_another_name_change_nothing(tmp_path):
    """Names with blanks, BOM and CRLF, gzip under .vcf, haploids, 0/0 without a read."""
    names = ["KB 1", "i 2", *NAMES[2:]]
    calls = ["0/1", "1|1", "0", ".", "0/0:0", "0/0", *["0/0"] * 4, "1", "0/1"]
    record = ("1", 5, "A", "C", "PASS", "AA=A", "GT:DP", calls)
    text = "\ufeff" + vcf_text([record], names)
    (tmp_path / "birds.vcf").write_bytes(gzip.compress(text.replace("\n", "\r\n").encode()))
    pair = ("Pongo abelii", "Pongo pygmaeus")
    species = [pair[0]] * 6 + [pair[1]] * 5 + ["wren"]
    lines = [f"{name}\t{own}\n" for name, own in zip(names, species, strict=True)]
    lines[2] = f"i2 {pair[0]}\r\n"  # nothing else than a name and a species can be meant
    (tmp_path / "species.txt").write_bytes(("\ufeff#list\n\n" + "".join(lines)).encode())
    options = ("--callable_bp", 1_000, "--n_loci", 1, "--project")
    observed, screen = spectrum(tmp_path, *options, 6, 8, pair=pair)
    assert observed.pop_ids == list(pair)
    # 3 of 7 in A, 1 of 9 in B: samples of 6 lose one of either kind, samples of 8 of theirs
    truth = np.zeros((7, 9))
    truth[np.ix_([2, 3], [0, 1])] = np.outer([3 / 7, 4 / 7], [1 / 9, 8 / 9])
    assert_same(observed, truth)
    assert "Note: 2 genotypes are haploid, and count as one chromosome each." in screen
    assert "Note: no bootstrap, since all SNPs are in one locus or block of 1 Mb." in screen


def test_what_a_filter_leaves_behind_is_noted(tmp_path):
    records = []
    for k in range(400):
        copies = 2 + k % 3
        calls = ["1/1"] * (copies // 2) + ["0/1"] * (copies % 2)
        calls += ["0/0"] * (12 - len(calls))
        records.append((f"rad{k}", 9, "A", "C", ".", "AA=A", "GT", calls))
    lay(tmp_path, records)
    options = ("--project", 12, 10, "--callable_bp", 60_000, "--n_loci", 400)
    notes = [line for line in spectrum(tmp_path, *options)[1] if line.startswith("Note: ")]
    for words in ("0 singletons beside up to 134", "one SNP for each locus?", "AA is REF"):
        assert sum(words in note for note in notes) == 1
    assert len(notes) == 3


RECORD = ("1", 5, "A", "C", "PASS", "AA=A", "GT", ["0/1"] * 12)
VCF = vcf_text([RECORD])
GZ = gzip.compress(VCF.encode() * 50)
ODD = "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"


def with_record(**changes):
    """The VCF with another record."""
    keys = ("chrom", "pos", "ref", "alt", "passed", "info", "keys", "calls")
    return vcf_text([tuple((dict(zip(keys, RECORD, strict=True)) | changes).values())])


WRONG = [  # the list, the VCF or what is typed, and what is told; the exit status is 1
    ({"list": LIST.replace("i3\tfinch", "i3")}, "line 4: 'i3' must be a name, a tab, and"),
    ({"list": LIST.replace("\t", ", ")}, "a tab, not a comma"),
    ({"list": LIST.encode("utf-16")}, "species.txt is not plain text in UTF-8"),
    ({"list": LIST + "i12\ttit\n"}, "'i12' of the list is not in it (#CHROM)"),
    ({"list": LIST + "i1\ttit\n"}, "'i1' is there twice, in lines 2 and 13"),
    ({"list": LIST.replace("tit", "Tit")}, "no individual of 'tit'; it lists 'Tit', 'finch'"),
    ({"list": "finch\ti1\ntit\ti2\n"}, "columns are swapped"),
    ({"list": VCF}, "species.txt is a VCF: first the VCF, then the list"),
    ({"vcf": None}, "birds.vcf: No such file"),
    ({"vcf": LIST}, "birds.vcf is not a VCF: it starts with 'i0\\tfinch'"),
    ({"vcf": gzip.compress(b"BCF\2\2")}, "is a BCF: 'bcftools view"),
    ({"vcf": ODD}, "'git lfs pull'"),
    ({"vcf": GZ[: len(GZ) // 2]}, "birds.vcf is damaged or incomplete"),
    ({"vcf": VCF.replace("#CHROM", "#chrom")}, "no #CHROM line"),
    ({"vcf": VCF[:-9]}, "line 3: damaged, or cut off before column 21"),
    ({"vcf": with_record(keys="DP")}, "line 3: there is no GT"),
    ({"vcf": vcf_text([])}, "it has no records"),
    ({"vcf": with_record(ref="0", alt="1")}, "no alleles are nucleotides"),
    ({"vcf": with_record(passed="q10")}, "no SNP has PASS or . in its FILTER"),
    ({"vcf": with_record(calls=["0/0"] * 11 + ["0/1"])}, "no SNP varies in A and B"),
    ({"vcf": with_record(info="AA=G")}, "no SNP has AA= in INFO: use --folded"),
    ({"typed": "--project 14 10"}, "at most 12 and 10 have been called"),
    ({"typed": "--callable_bp 2"}, "--callable_bp 2 are too few"),
]
MISTYPED = [  # the exit status is 2
    ("--project 3 4", "--project takes even numbers, 2 or more"),
    ("--out observed.vcf", "a name that ends in .fs"),
    ("--out no/where.fs", "in a folder that exists"),
    ("--mutation_rate -1", "--mutation_rate"),
    ("--snps 3", "unrecognized arguments: --snps 3"),
]


@pytest.mark.parametrize(
    ("given", "words", "status"),
    [*((*row, 1) for row in WRONG), *(({"typed": typed}, words, 2) for typed, words in MISTYPED)],
    ids=[words for _, words in [*WRONG, *MISTYPED]],
)
def test_one_line_tells_what_is_wrong(tmp_path, given, words, status):
    given = {"list": LIST, "vcf": VCF, "typed": ""} | given
    for name, content in (("species.txt", given["list"]), ("birds.vcf", given["vcf"])):
        if content is not None:
            content = content if isinstance(content, bytes) else content.encode()
            (tmp_path / name).write_bytes(content)
    (tmp_path / "observed.fs").write_text("an earlier one")
    typed = ("--project", 4, 4, *SIZES, *given["typed"].split())
    done = script(tmp_path, "birds.vcf", "species.txt", "finch", "tit", *typed)
    assert words in done.stderr and done.stderr.startswith("vcf_to_spectrum.py: error: ")
    assert (done.returncode, done.stderr.count("\n")) == (status, 1)
    assert (tmp_path / "observed.fs").read_text() == "an earlier one"
    assert not list(tmp_path.glob(".*"))


def test_other_ends(tmp_path):
    lay(tmp_path, [RECORD])
    words = ("birds.vcf", "species.txt", "finch", "tit", *SIZES, "--project", 4, 4)
    done = script(tmp_path, *("finch" if word == "tit" else word for word in words))
    assert (done.returncode, "A and B are both 'finch'" in done.stderr) == (2, True)
    for broken, traceback, told in (
        ("import sys; sys.modules['dadi'] = None", "", "error: dadi is not installed"),
        ("import dadi; del dadi.Spectrum", "", "unforeseen AttributeError"),
        ("import dadi; del dadi.Spectrum", "1", "Traceback"),
    ):
        (tmp_path / "sitecustomize.py").write_text(broken)
        done = script(tmp_path, *words, PYTHONPATH=str(tmp_path), RUNML_TRACEBACK=traceback)
        assert (done.returncode, told in done.stderr) == (1, True), done.stderr
        assert traceback or done.stderr.count("\n") == 1


# ------------------------------- the example and the guide -------------------------------

GUIDE = (FOLDER / "README.md").read_text(encoding="utf-8")
COMMAND = r"\brunml (--[^`;\n]*(?:\\\n[^`;\n]*)*)"  # to the end of the line or of the quotation
COMMANDS = [each.replace("\\\n", " ") for each in re.findall(COMMAND, GUIDE)]


@pytest.mark.skipif(not importlib.util.find_spec("stdpopsim"), reason="stdpopsim is not installed")
def test_orangutans_as_a_file_and_from_their_vcf(tmp_path):
    words = [sys.executable, str(FOLDER / "orangutans.py"), "--n", "1", "--n_loci", "3", "--vcf"]
    done = subprocess.run([*words, "--out", str(tmp_path)], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    direct, other = map(runml.read_observed, sorted(tmp_path.glob("*.fs")))
    assert direct.names == other.names == ("Bornean", "Sumatran")
    assert 100 < direct.counts.sum() != other.counts.sum() > 100
    files = ("with_migration_01.vcf", "species.txt", "Bornean", "Sumatran", "--project", 20, 20)
    done = script(tmp_path, *files, "--callable_bp", 60_000, "--n_loci", 3)
    assert done.returncode == 0, done.stderr
    from_vcf = runml.read_observed(tmp_path / "observed.fs")
    np.testing.assert_allclose(from_vcf.counts, direct.counts, atol=1e-6)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_guide(command):
    options = runml.parse_options(shlex.split(command.replace("$S", "1")))
    settings = runml.choose(runml.SimulationSettings, options.typed)
    if "simulate" in options.commands:
        runml.check_simulation(settings)
    assert not {"simulate", "test"} <= set(options.commands), "the test is for when one has chosen"


def test_the_spectra_beside_the_guide():
    found = [runml.read_observed(path) for path in FOLDER.glob("*.fs")]
    assert [each.counts.shape for each in found] == [(21, 21)] * 2
    assert len(COMMANDS) >= 8
