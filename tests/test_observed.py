"""Observed spectra, as every program writes them, and what is answered about them."""

import functools
import gzip
import io
import json
import re
from pathlib import Path

import allel
import dadi
import moments
import msprime
import numpy as np
import pytest
from conftest import EXAMPLES, contents, is_one_line_error, rows, run, runml

# ------------------------------------------ reading ------------------------------------------

COUNTS = np.random.default_rng(1).poisson(8, (5, 7)) * 1.0  # of 4 + 6 chromosomes
COUNTS[0, 0] = COUNTS[-1, -1] = 0
FOLDED = np.array(moments.Spectrum(COUNTS).fold().filled(0))
UNUSED = np.add.outer(np.arange(5), np.arange(7)) > 5  # on more than half of ten chromosomes


def text(*lines):
    """A file of lines, of which some are arrays of numbers."""
    lines = [x if isinstance(x, str) else " ".join(map(str, np.ravel(x).tolist())) for x in lines]
    return "".join(f"{line}\n" for line in lines).encode()


def as_npy(array):
    np.save(file := io.BytesIO(), array)
    return file.getvalue()


def fastsimcoal(counts, of_rows=1, of_columns=0, first="1 observations"):
    header = "\t" + "\t".join(f"d{of_columns}_{column}" for column in range(counts.shape[1]))
    lines = [f"d{of_rows}_{i}\t" + "\t".join(f"{x:g}" for x in row) for i, row in enumerate(counts)]
    return text(*[first] * bool(first), header, *lines)


def filled(counts, filling):
    return np.where(UNUSED, filling, counts)


def with_corners(counts):
    """As genomes have them: sites without a SNP."""
    counts = counts.copy()
    counts.flat[[0, -1]] = 1e6, np.nan
    return counts


DADI = text("5 7 unfolded", COUNTS, COUNTS < 0).replace(b"False", b"0")
UNFOLDED = {
    "winsfs.sfs": text("#SHAPE=<5/7>", COUNTS),
    "winsfs in lines.sfs": text("#SHAPE=<5/7>", *COUNTS),
    "a mark.sfs": b"\xef\xbb\xbf" + text("#SHAPE=<5/7>", COUNTS),
    "dadi.fs": DADI,
    "without a mask.fs": text("5 7", COUNTS),
    "a wrapped line.fs": text("5 7 unfolded", *COUNTS),
    "realsfs with a line above.sfs": text("5 7 unfolded", COUNTS),
    "comments.fs": text("# great tits", "#", "", "5 7 unfolded", "# not filtered", COUNTS),
    "carriage returns.fs": DADI.replace(b"\n", b"\r\n"),
    "a mark.fs": b"\xef\xbb\xbf" + DADI,
    "gzipped.fs": gzip.compress(DADI),
    "gzipped.sfs.bgz": gzip.compress(text("#SHAPE=<5/7>", COUNTS)),
    "gzipped.npy": gzip.compress(as_npy(COUNTS)),
    "plain text in spite of.fs.gz": DADI,
    "array.npy": as_npy(COUNTS),
    "whole numbers.npy": as_npy(COUNTS.astype(np.int32)),
    "a channel.npy": as_npy(COUNTS[..., np.newaxis]),
    "by columns.npy": as_npy(np.asfortranarray(COUNTS)),
    "invariant sites.npy": as_npy(with_corners(COUNTS)),
    "invariant sites.fs": text("5 7 unfolded", with_corners(COUNTS)),
    "tits_jointDAFpop1_0.obs": fastsimcoal(COUNTS.T),
    "tits_jointDAFpop1_0.txt": fastsimcoal(COUNTS.T),
    "rows_jointDAFpop0_1.obs": fastsimcoal(COUNTS, 0, 1),
    "far_jointDAFpop12_5.obs": fastsimcoal(COUNTS.T, 12, 5),  # the lower number is A
    "one_jointDAFpop1_0.obs": fastsimcoal(COUNTS.T, first="1 observation"),
    "gzipped_jointDAFpop1_0.obs.gz": gzip.compress(fastsimcoal(COUNTS.T)),
}
FOLDED_FILES = {
    **{f"{x}.sfs": text("#SHAPE=<5/7>", filled(FOLDED, x)) for x in (np.nan, -1, np.inf)},
    **{f"{x}.npy": as_npy(filled(FOLDED, x)) for x in (np.nan, -1, np.inf)},
    "dadi.fs": text("5 7 folded", FOLDED, UNUSED.astype(int)),
    "without a mask.fs": text("5 7 folded", FOLDED),
    "not a number.fs": text("5 7 folded", filled(FOLDED, np.nan)),
    "tits_jointMAFpop1_0.obs": fastsimcoal(FOLDED.T),
}


@pytest.mark.parametrize(
    ("name", "is_folded"), [*((x, 0) for x in UNFOLDED), *((x, 1) for x in FOLDED_FILES)]
)
def test_a_spectrum_is_read(tmp_path, name, is_folded):
    (tmp_path / name).write_bytes((FOLDED_FILES if is_folded else UNFOLDED)[name])
    observed = runml.read_observed(tmp_path / name)
    assert observed.counts.tolist() == (FOLDED if is_folded else COUNTS).tolist()
    assert observed.folded == bool(is_folded)
    assert observed.remark == ""


@pytest.mark.parametrize(
    ("library", "file"), [(dadi, "two.fs"), (moments, "two.fs"), (moments, "not_packed.fs.gz")]
)
@pytest.mark.parametrize("is_folded", [False, True])
@pytest.mark.parametrize("names", [None, ["Parus major", "folded"]])
def test_what_dadi_and_moments_write_is_read(tmp_path, library, is_folded, names, file):
    spectrum = library.Spectrum(COUNTS, pop_ids=names).project([2, 4])  # fractions of SNPs
    spectrum = spectrum.fold() if is_folded else spectrum
    spectrum.to_file(str(tmp_path / file), comment_lines=["two species", "projected"])
    observed = runml.read_observed(tmp_path / file)
    assert observed.counts == pytest.approx(spectrum.filled(0), abs=1e-9)
    assert (observed.folded, observed.remark) == (is_folded, "")
    assert list(observed.names) == (names or [])


def test_masked_cells_count_as_nothing_and_are_told(tmp_path):
    spectrum = moments.Spectrum(COUNTS + 1)
    spectrum.mask[1, 0] = spectrum.mask[0, 1] = True
    spectrum.to_file(str(tmp_path / "singletons.fs"))
    observed = runml.read_observed(tmp_path / "singletons.fs")
    assert observed.counts.tolist() == spectrum.filled(0).tolist()
    assert re.search(r"\b2 masked", observed.remark)


def refusal(path):
    """Why a file cannot be read, in a line that begins with its name."""
    with pytest.raises(runml.UserError) as caught:
        runml.read_observed(path)
    said = str(caught.value)
    assert said.startswith(str(path))
    assert len(said) < len(str(path)) + 500
    assert "\n" not in said
    return said


VCF = text("##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO")
LIST = "vcf_to_spectrum.py"
MINUS = np.where(COUNTS == COUNTS[1, 1], -1, COUNTS)
REFUSED = {
    # ANGSD, winsfs
    "realsfs.sfs": (text("7442567.936 " + "1.5e-3 " * 48), "realSFS", "7 7 unfolded"),
    "unequal.sfs": (text(COUNTS), "realSFS", "(n_A + 1) (n_B + 1) unfolded"),
    "bootstrap.sfs": (text(*[np.ones(49)] * 3), "realSFS", "3 spectra"),
    "short.sfs": (text("#SHAPE=<5/7>", "1 2 3"), "3", "(5,7)"),
    "three.sfs": (text("#SHAPE=<3/3/3>", np.ones(27)), "3 populations", "marginalize"),
    # dadi, moments
    "chromosomes.fs": (text("4 6 unfolded", COUNTS), "chromosomes + 1", "5 7?"),
    "two.fs": (text("5 7 unfolded", COUNTS, COUNTS), "mask holds 0 and 1", "2 spectra"),
    "three.fs": (text("3 3 3 unfolded", np.ones(27)), "3 populations", "marginalize"),
    "one.fs": (text("5 unfolded", np.ones(5)), "1 populations", "choose A and B"),
    "odd.fs": (text("4 5 unfolded", np.ones(20)), "3 + 4 chromosomes", "project"),
    "words.fs": (text("5 7 unfolded", "one " + "1 " * 34), "one"),
    "few.fs": (text("5 7 unfolded", "1 2 3"), "3 numbers", "5 7 unfolded"),
    "no sizes.fs": (text("unfolded", COUNTS), "35 numbers", "unfolded"),
    "fill.fs": (text("5 7 unfolded", MINUS), "negative", "masked ones 0"),
    "infinite.fs": (text("5 7 unfolded", np.where(MINUS < 0, np.inf, COUNTS)), "infinite"),
    "empty.fs": (b"", "empty"),
    "comments.fs": (b"# nothing else\n", "0 numbers"),
    "nothing.fs": (text("5 7 unfolded", np.eye(5, 7) * 0), "no SNPs"),
    "shares.fs": (text("5 7", COUNTS / COUNTS.sum()), "proportions", "number of SNPs"),
    "too many.fs": (text("5 7", COUNTS * 1e15), "so many SNPs"),
    "utf16.fs": (DADI.decode().encode("utf-16"), "UTF-16", "UTF-8"),
    "big endian.fs": (b"\xfe\xff" + DADI.decode().encode("utf-16-be"), "UTF-16", "UTF-8"),
    "pickle.fs": (moments.Spectrum(COUNTS).dumps(), "Python object", "to_file"),
    # arrays
    "archive.npz": (b"PK\x03\x04", ".npz", "numpy.save"),
    "fill.npy": (as_npy(MINUS), "negative", "masked ones 0"),
    "many.npy": (as_npy(np.ones((4, 5, 7, 1))), "(4, 5, 7, 1)"),
    "letters.npy": (as_npy(COUNTS.astype(str)), "shape (5, 7)"),
    "cut.npy": (as_npy(COUNTS)[:-9], "cut.npy"),
    "header.npy": (b"\x93NUMPY\x01\x00", "header.npy"),
    # fastsimcoal2
    "tits_MSFS.obs": (text("1 observations. No. of demes", "2\t4\t6", COUNTS), "_jointDAFpop1_0"),
    "tits.obs": (fastsimcoal(COUNTS.T), "jointDAF", "jointMAF"),
    "expected_jointDAFpop1_0.txt": (fastsimcoal(COUNTS.T, first=""), "1 observation"),
    "many_jointDAFpop1_0.obs": (fastsimcoal(COUNTS.T, first="3 observations"), "which one?"),
    "own_jointMAFpop1_0.obs": (fastsimcoal(COUNTS.T), "MAF", "major"),
    "gap_jointDAFpop1_0.obs": (fastsimcoal(COUNTS.T).replace(b"d0_1", b"d0_2"), "labels"),
    # what a spectrum is made from
    "birds.vcf": (VCF, "VCF", LIST),
    "birds.vcf.gz": (gzip.compress(VCF), "VCF", LIST),
    "birds.bcf": (gzip.compress(b"BCF\x02\x02"), "BCF", LIST),
    "species.txt": (text("tit1\tgreat", "tit2\tblue"), "list of individuals", LIST),
    "numbered.txt": (text("tit1 1", "tit2 2").replace(b"\n", b"\r\n"), "individuals", LIST),
    "cut.gz": (gzip.compress(DADI)[:60], "cut.gz"),
    "noise.fs": (bytes(range(128, 256)), "noise.fs"),
    "pointer.npy": (text("version https://git-lfs.github.com/spec/v1", "oid x"), "git lfs pull"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_spectrum_is_refused_by_the_name_of_its_format(tmp_path, name):
    content, *words = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    said = refusal(tmp_path / name)
    for word in words:
        assert word in said


def test_no_advice_to_run_a_pickle(tmp_path):
    np.save(tmp_path / "own.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    assert "allow_pickle" not in refusal(tmp_path / "own.npy")


@pytest.mark.parametrize("where", ["missing.fs", "."])
def test_where_there_is_no_file(tmp_path, where):
    assert re.search("missing in|no regular file", refusal(tmp_path / where))


def test_a_pointer_in_place_of_the_training_set(tmp_path, capsys):
    (tmp_path / "simulated_sfs.npy").write_bytes(REFUSED["pointer.npy"][0])
    status, _, error = run(capsys, "--train", "--data_dir", tmp_path)
    assert status == 1
    assert is_one_line_error(error)
    assert "git lfs pull" in error


ENDLESS = 1_000_000
LONG = {
    "digits": b"1" * ENDLESS,
    "sizes": b"2 " * ENDLESS,
    "letters": b"x" * ENDLESS,
    "a shape": b"#SHAPE=<" + b"2/" * ENDLESS + b">\n1 2",
    "observations": b"1 observations" + b"\td0_0" * ENDLESS,
    "a comment": b"#" * ENDLESS,
    "blanks": b" " * ENDLESS,
    "pairs": b"x\t" * ENDLESS,
    "quotes": b'5 7 "' + b'\\"' * ENDLESS,
    "packed": gzip.compress(bytes(70_000_000), 1),
}


@pytest.mark.parametrize("kind", LONG)
def test_what_has_no_end_is_refused(tmp_path, kind):
    (tmp_path / "own.fs").write_bytes(LONG[kind])
    refusal(tmp_path / "own.fs")


def test_a_file_that_is_larger_than_memory(tmp_path):
    with (tmp_path / "own.fs").open("wb") as file:
        file.truncate(10**12)
    assert "larger" in refusal(tmp_path / "own.fs")


FITS = {  # the sizes of a file and of a model: what is told, and what is not
    ((5, 7), (7, 5)): (["4 + 6", "other way round"], "project"),
    ((9, 7), (5, 7)): (["8 + 6", "takes 4 + 6", "project", "--sample_size 4 3"], "way round"),
    ((5, 7), (21, 21)): (["4 + 6", "takes 20 + 20", "--sample_size 2 3"], "project"),
    ((31, 7), (21, 21)): (["--sample_size 15 3"], "project"),
}


@pytest.mark.parametrize("shapes", FITS)
def test_other_sizes_than_the_models(shapes):
    (own, model), (told, not_told) = shapes, FITS[shapes]
    with pytest.raises(runml.UserError) as caught:
        runml.check_fits(Path("own.fs"), runml.Observed(np.ones(own), False), model, False)
    assert all(word in str(caught.value) for word in ["own.fs", *told])
    assert not_told not in str(caught.value)


@pytest.mark.parametrize("function", ["joint_sfs", "joint_sfs_folded"])
def test_scikit_allel_without_the_numbers_of_chromosomes(tmp_path, function):
    rng = np.random.default_rng(1)
    derived = rng.integers(0, 19, (2, 500))  # of 20 chromosomes, none on more than 18
    of_both = [np.stack([20 - each, each], axis=1) for each in derived]
    cut = allel.joint_sfs(*derived) if function == "joint_sfs" else allel.joint_sfs_folded(*of_both)
    assert cut.shape == ((19, 19) if function == "joint_sfs" else (11, 11))
    np.save(tmp_path / "own.npy", cut)
    try:
        observed = runml.read_observed(tmp_path / "own.npy")
        runml.check_fits(tmp_path / "own.npy", observed, (21, 21), False)
    except runml.UserError as error:
        assert "n1=..., n2=..." in str(error)
        assert "never joint_sfs_folded" in str(error)
    else:
        pytest.fail("it was accepted")
    np.save(tmp_path / "own.npy", allel.joint_sfs(*derived, n1=20, n2=20))
    whole = runml.read_observed(tmp_path / "own.npy")
    runml.check_fits(tmp_path / "own.npy", whole, (21, 21), False)
    expected = np.histogram2d(*derived, bins=[np.arange(22) - 0.5] * 2)[0]
    expected[0, 0] = 0
    assert whole.counts.tolist() == expected.tolist()


def test_a_folded_spectrum_and_a_model_of_unfolded_ones():
    observed = runml.Observed(FOLDED, True)
    with pytest.raises(runml.UserError, match="--folded"):
        runml.check_fits(Path("own.fs"), observed, COUNTS.shape, False)
    runml.check_fits(Path("own.fs"), observed, COUNTS.shape, True)


def test_one_missing_number_does_not_fold_a_spectrum(tmp_path):
    for lacking in (-1, np.nan):
        counts = COUNTS.copy()
        counts[3, 5] = lacking  # where more than half have the allele, but others there have SNPs
        np.save(tmp_path / "own.npy", counts)
        assert "masked ones 0" in refusal(tmp_path / "own.npy")


# The readings that come with the files, from how other programs read them.
READINGS = {
    "winsfs_A-B.sfs": ((11, 13), 1041.882, False),
    "winsfs_A-B.npy": ((11, 13), 1041.882, False),
    "gadma_jointDAFpop1_0.obs": ((5, 9), 67_212, False),
    "gadma_jointMAFpop1_0.obs": ((5, 9), 67_212, True),
    "momi2_unfolded_2pop.sfs": ((9, 9), 938, False),
    "momi2_folded_2pop.sfs": ((9, 9), 938, True),
    "dadi-cli_LowPass_cov.fs": ((21, 21), 139, True),
    "gadma_MO_jointDAFpop1_0.obs": "which one?",
    "moments_2_pops_16x21.fs": "15 + 20 chromosomes",
    "moledata_simulated_sfs.npy.lfs-pointer": "git lfs pull",
}
PUBLIC = EXAMPLES / "public"
there = pytest.mark.skipif(not PUBLIC.exists(), reason="the examples are not here")


@there
@pytest.mark.parametrize("name", READINGS)
def test_files_of_public_repositories(name):
    if isinstance(READINGS[name], str):
        assert READINGS[name] in refusal(PUBLIC / name)
        return
    observed = runml.read_observed(PUBLIC / name)
    shape, snps, is_folded = READINGS[name]
    assert (observed.counts.shape, observed.folded) == (shape, is_folded)
    assert observed.counts.sum() == pytest.approx(snps, abs=0.001)


@there
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("winsfs_A-B.sfs", "winsfs_A-B.npy"),
        ("gadma_jointDAFpop1_0.obs", "gadma_jointMAFpop1_0.obs"),
        ("momi2_unfolded_2pop.sfs", "momi2_folded_2pop.sfs"),
    ],
)
def test_pairs_of_files_are_alike(one, other):
    one, other = runml.read_observed(PUBLIC / one), runml.read_observed(PUBLIC / other)
    expected = moments.Spectrum(one.counts).fold().filled(0) if other.folded else one.counts
    assert other.counts == pytest.approx(np.array(expected), abs=1e-5)


# ------------------------------------------ answers ------------------------------------------
#
# By networks that give what a test lets them give, on simulations that take no time.

N_EACH = 600  # simulations of each toy model, a quarter of them for validation
A, B = np.ogrid[:9, :9]
SHARED = np.where((A % 8 > 0) & (B % 8 > 0), 1 / np.maximum(A + B, 1), 0)
PRIVATE = np.where(B == 0, 1 / np.maximum(A, 1), 0) + np.where(A == 0, 1 / np.maximum(B, 1), 0)
PRIVATE[0, 0] = 0
TRUTH = np.ones(2 * N_EACH, runml.PARAMETERS)
LABELS = np.arange(2 * N_EACH, dtype=np.int32) % 2
IS_VALIDATION = np.arange(2 * N_EACH) % 8 < 2


@functools.cache
def toy_spectra(seed=1, is_random=True):
    """Their parameters, and spectra of as many SNPs as A is large, shared where genes flow."""
    rng, truth = np.random.default_rng(seed), TRUTH.copy()
    truth["size_a"] = rng.uniform(1_000, 10_000, len(truth))
    truth["size_b"] = rng.uniform(1_000, 10_000, len(truth))  # of which nothing depends
    truth["migration_a_to_b"] = LABELS * (rng.uniform(0.1, 1, len(truth)) if is_random else 0.5)
    share = (0.1 + 0.5 * truth["migration_a_to_b"])[:, np.newaxis, np.newaxis]
    mixture = (1 - share) * PRIVATE / PRIVATE.sum() + share * SHARED / SHARED.sum()
    expected = mixture * truth["size_a"][:, np.newaxis, np.newaxis]
    return truth, rng.poisson(expected).astype(float) if is_random else expected


class ToyModel:
    """What there is of a model, giving the same to all spectra, or what is known by their SNPs."""

    def __init__(self, gives, weights):
        self.gives, self.weights = gives, weights

    def predict_on_batch(self, sfs):
        known = self.gives if isinstance(self.gives, dict) else {}
        gives = np.array([known.get(each.sum(), self.gives) for each in np.array(sfs)])
        return np.stack([1 - gives, gives], axis=1)

    def get_weights(self):
        return [np.array(self.weights)]


def toy_network(gives, validated=None, folded=False, is_random=True, data="x", **training):
    """A network that gives some probability of gene flow, and has given others in validation."""
    truth, sfs = toy_spectra(is_random=is_random)
    sfs = sfs[..., np.newaxis]
    given = np.where(LABELS, 0.9, 0.1)
    if validated is not None:
        given[IS_VALIDATION] = validated
    table = runml.ReferenceTable(
        runml.network_inputs(sfs, folded),
        runml.summarise(sfs, folded),
        truth,
        LABELS,
        IS_VALIDATION,
        np.stack([1 - given, given], axis=1),
    )
    settings = runml.TrainingSettings(folded=folded, **training)
    model = ToyModel(gives, [float(settings.seed), settings.dropout])
    return runml.Network(model, settings, None, {"simulated_sfs.npy": data}, table)


@pytest.fixture
def ask(tmp_path, capsys, no_pictures):
    """To ask a network about arrays by name: what is printed, in one line, and all rows so far."""

    def predict(network, observed, bootstrap=(), before=()):
        some = [
            {tmp_path / name: runml.Observed(x.copy(), network.settings.folded) for name, x in each}
            for each in (observed.items(), dict(bootstrap).items())
        ]
        runml.predict(tmp_path, *some, list(before), network)
        printed = capsys.readouterr()
        assert printed.err == ""
        return " ".join(printed.out.split()), rows(tmp_path / "predictions.csv")

    return predict


def typical(label=1):
    """A spectrum of the middle of a toy model."""
    truth, sfs = toy_spectra()
    unlike = abs(truth["size_a"] - 5_000) / 5_000 + abs(truth["migration_a_to_b"] - label * 0.5)
    return sfs[np.argmin(np.where(label == LABELS, unlike, np.inf))]


def checkered():
    """One with as many SNPs of every summary, about, in cells where no toy model has them."""
    return np.where(SHARED > 0, typical() * (1 + 0.95 * (-1.0) ** (A + B)), typical())


VERDICTS = [
    (0.02, typical(0), "divergence", "no gene flow of the kind"),
    (0.049, typical(0), "divergence", "no gene flow of the kind"),
    (0.051, typical(0), "undecided", "both models remain possible"),
    (0.5, typical(1), "undecided", "both models remain possible"),
    (0.949, typical(1), "undecided", "both models remain possible"),
    (0.951, typical(1), "gene flow", "gene flow of the kind"),
    (0.999, checkered(), "neither", "neither"),
    (0.999, typical(1) * 3, "out of range", "outside what was simulated"),
]


@pytest.mark.parametrize(("gives", "spectrum", "verdict", "said"), VERDICTS)
def test_each_verdict(ask, gives, spectrum, verdict, said):
    out, (row,) = ask(toy_network(gives), {"own": spectrum})
    assert row["verdict"] == verdict
    assert f"Verdict: {said}" in out
    assert float(row["gene_flow"]) == gives
    assert float(row["divergence"]) == pytest.approx(1 - gives)
    assert row["within_training_range"] == (
        "no" if verdict in ("neither", "out of range") else "yes"
    )
    assert f"probability of gene flow: {gives:.3f}" in out
    assert ("a third, unsampled one" in out) == (verdict == "gene flow")
    assert ("Warning: SNPs outside all simulations" in out) == (verdict == "out of range")


def test_few_fresh_spectra_are_taken_for_outliers(ask):
    truth, sfs = toy_spectra(seed=2)
    out, found = ask(toy_network(0.99), {f"{row}": sfs[row] for row in range(1, 301, 2)})
    refused = sum(row["within_training_range"] == "no" for row in found)
    expected = float(re.search(r"about ([\d.]+)% are taken for outliers", out)[1])
    assert 0.8 < expected < 3
    assert refused < 12  # of 150, where three are expected at most


def validated(of_gene_flow, of_divergence):
    """The probabilities of gene flow in validation: how many have which, the rest of each 0.5."""
    given = np.full(IS_VALIDATION.sum(), 0.5)
    for label, some in ((1, of_gene_flow), (0, of_divergence)):
        own = np.flatnonzero(LABELS[IS_VALIDATION] == label)
        values = [value for value, times in some.items() for _ in range(times)]
        given[own[: len(values)]] = values
    return given


SOME = validated({0.99: 60, 0.97: 40, 0.9: 45, 0.02: 2}, {0.98: 7, 0.9: 9, 0.03: 80, 0.01: 50})


@pytest.mark.parametrize(
    ("gives", "told"),
    [(0.985, (60, 60)), (0.975, (67, 60)), (0.95, (107, 100)), (0.9, (161, 145)), (0.02, (52, 50))],
)
def test_how_reliable_a_probability_is(ask, gives, told):
    """As many of the validation spectra got as much or more, and had it."""
    out, _ = ask(toy_network(gives, SOME), {"own": typical(gives > 0.5)})
    found = re.search(
        r"Of the (\d+) validation spectra given as much or more for ([a-z ]+), (\d+)", out
    )
    assert (int(found[1]), int(found[3])) == told
    assert found[2] == ("gene flow" if gives > 0.5 else "divergence")


@pytest.mark.parametrize(
    ("gives", "odds"), [(0.8, "4"), (0.2, "0.25"), (0.5, "1"), (0.999999, "1,000")]
)
def test_the_bayes_factor(ask, gives, odds):
    out, _ = ask(toy_network(gives), {"own": typical()})
    assert re.search(rf"Bayes factor[^)]*: [a-z ]*{odds}\)", out)


@pytest.mark.parametrize(("most", "can"), [(0.9, False), (0.99, True)])
def test_what_divergence_can_get_at_best(ask, most, can):
    given = validated({0.95: 150}, {1 - most: 100, 0.2: 50})
    out, _ = ask(toy_network(0.5, given), {"own": typical()})
    assert f"95% of true divergence is given less than {most:.3f}" in out
    assert ("hardly any spectrum could get that verdict" in out) != can


NOTHING = {
    "a coin": np.full(300, 0.5),
    "noise around it": np.random.default_rng(3).uniform(0.3, 0.7, 300),
    "sure and wrong": np.where(np.arange(300) % 3 == 0, 0.01, 0.99),
}


@pytest.mark.parametrize("given", NOTHING)
def test_a_network_that_learned_nothing_tells_no_model(ask, given):
    for gives, spectrum, *_ in VERDICTS[0], VERDICTS[5]:
        out, (row,) = ask(toy_network(gives, NOTHING[given]), {"own": spectrum})
        assert row["verdict"] == "undecided"
        assert "learned nothing" in out
        assert "0.69" in out  # a coin's loss
    out, (row,) = ask(toy_network(0.999, NOTHING[given]), {"own": typical() * 3})
    assert row["verdict"] == "out of range"
    assert "learned nothing" not in ask(toy_network(0.98), {"own": typical()})[0]


def test_networks_of_other_seeds_are_told_together(ask):
    own = {"own": typical()}
    out, so_far = ask(toy_network(0.96, seed=1), own | {"other": typical(0)})
    for changes in ({"seed": 9, "dropout": 0.5}, {"seed": 8, "data": "y"}):  # not to be counted
        out, so_far = ask(toy_network(0.01, **changes), own, before=so_far)
        assert "networks" not in out
    out, so_far = ask(toy_network(0.99, seed=2), own, before=so_far)
    assert "2 networks" in out
    assert "0.975 (0.960 to 0.990); verdict of the mean: gene flow" in out
    out, so_far = ask(toy_network(0.6, seed=3), own, before=so_far)
    out, so_far = ask(toy_network(0.6, seed=3), {"a copy of it": typical()}, before=so_far)  # again
    assert "3 networks" in out
    assert "0.850 (0.600 to 0.990); verdict of the mean: undecided" in out
    assert len(so_far) == 7


def test_bootstrap_spectra(ask):
    """Each with one SNP more than the one before, by which the toy network knows them."""
    observed, more = typical(), {f"{n}": typical() + n * (A + B == 1) / 2 for n in range(1, 101)}
    gives = {x.sum(): 0.9 if n <= 3 else 0.95 + n / 2500 for n, x in enumerate(more.values(), 1)}
    network = toy_network(gives | {observed.sum(): 0.98})
    out, found = ask(network, {"own": observed}, more)
    low, high = np.quantile(list(gives.values()), [0.025, 0.975])
    line = f"probability of gene flow {low:.2f} to {high:.2f} (95%)"
    assert f"100 bootstrap spectra: gene flow in 97, undecided in 3; {line}" in out
    assert out.count("Verdict: ") == 1
    assert [Path(row["bootstrap_of"]).name for row in found] == ["", *["own"] * 100]
    assert [float(row["gene_flow"]) for row in found[1:]] == pytest.approx(list(gives.values()))


def test_the_observed_spectrum_among_its_bootstrap(ask):
    out, found = ask(toy_network(0.98), {"own": typical()}, {"own": typical(), "1": typical()})
    assert "2 bootstrap spectra: gene flow in 2" in out
    assert [bool(row["bootstrap_of"]) for row in found] == [False, True, True]


def test_folded_spectra_and_unfolded_ones_are_alike_to_a_model_that_folds(ask):
    network = toy_network(0.98, folded=True)
    sfs = {"unfolded": typical(), "folded": moments.Spectrum(typical()).fold().filled(0)}
    out, (one, other) = ask(network, sfs)
    assert "derived" not in out
    same = [name for name in one if name not in ("file", "spectrum")]
    assert [one[name] for name in same] == [other[name] for name in same]


# ------------------------------ nearest simulations, summaries ------------------------------


def table_line(out, name):
    """What is printed of a parameter: of the nearest its median and ends, and the prior's ends."""
    number = r"([\d,.e+-]+)"
    line = re.search(rf"{name} {number} \({number} to {number}\) {number} to {number}", out)
    remark = out[line.end() :].split(" size")[0][:30]
    return [float(word.replace(",", "")) for word in line.groups()], remark


@pytest.mark.parametrize(("rank", "at_edge"), [(10, True), (300, False), (590, True)])
def test_the_nearest_simulations_are_the_nearest(ask, rank, at_edge):
    """Where a spectrum depends on the size of A alone, they are those of the next sizes."""
    network = toy_network(0.98, is_random=False)
    truth, sfs = toy_spectra(is_random=False)
    by_size = np.flatnonzero(LABELS)[np.argsort(truth["size_a"][LABELS == 1])]
    density = runml.ModelDensity(network.table.of_model(1))
    own = sfs[by_size[rank]]
    spectrum = runml.make_prediction(
        Path("own"), runml.Observed(own, False), network, [density] * 2
    )
    sizes, near = truth["size_a"][by_size], np.sort(spectrum.nearest.parameters["size_a"])
    first = np.searchsorted(sizes, near[0])
    assert near.tolist() == sizes[first : first + 100].tolist()
    assert near[0] <= sizes[rank] <= near[-1]

    out, _ = ask(network, {"own": own})
    expected = [*np.quantile(near, [0.5, 0.05, 0.95]), *np.quantile(sizes, [0.05, 0.95])]
    told, remark = table_line(out, "size a")
    assert told == pytest.approx(expected, abs=1)
    assert ("edge" in remark) == at_edge
    assert "nothing learnt" in table_line(out, "size b")[1]
    assert "nothing learnt" not in remark
    assert "divergence time" not in out  # which is fixed


def test_the_spectrum_must_fit_what_is_inferred_from_it(ask):
    """The misfit to the nearest simulations is above 1, and that is told."""
    spectrum = checkered()
    network = toy_network(0.999)
    out, (bad, good) = ask(network, {"bad": spectrum, "good": typical()})
    assert float(bad["misfit"]) > 1 > float(good["misfit"])
    assert re.search(rf"(?i)misfit.*{float(bad['misfit']):.2f}", out)


def test_ranks_among_others():
    values = np.array([1.0, 2, 2, 4])
    ranks = [runml.percentile(value, values) for value in (0, 1, 2, 3, 4, 5)]
    assert ranks == [-np.inf, 12.5, 50, 75, 87.5, np.inf]


def test_summaries_are_those_of_tskit():
    settings = runml.SimulationSettings(sample_size=runml.PerSpecies(4, 6))
    parameters = runml.draw_parameters(settings, 1, np.random.default_rng(1))
    ancestry = msprime.sim_ancestry(
        {"A": 4, "B": 6},
        demography=runml.demographic_model(parameters),
        sequence_length=1e5,
        recombination_rate=1e-8,
        random_seed=1,
    )
    trees = msprime.sim_mutations(ancestry, rate=1e-7, discrete_genome=False, random_seed=2)
    a, b = trees.samples(population=0), trees.samples(population=1)
    sfs = trees.allele_frequency_spectrum([a, b], polarised=True, span_normalise=False)
    whole = {"span_normalise": False}
    counts = np.array([(v.genotypes[a].sum(), v.genotypes[b].sum()) for v in trees.variants()])
    in_a, in_b, both = counts[:, 0] % 8 > 0, counts[:, 1] % 12 > 0, counts.sum(axis=1)
    expected = {
        "SNPs": trees.num_sites,
        "pi in A": (pi_a := trees.diversity(a, **whole)),
        "pi in B": (pi_b := trees.diversity(b, **whole)),
        "d_XY": (d_xy := trees.divergence([a, b], **whole)),
        "F_ST": 1 - (pi_a + pi_b) / 2 / d_xy,
        "shared": (in_a & in_b).mean(),
        "private to A": (in_a & ~in_b).mean(),
        "private to B": (in_b & ~in_a).mean(),
        "fixed differences": (~in_a & ~in_b).mean(),
        "singletons per doubleton": (both == 1).sum() / (both == 2).sum(),
        "derived allele major": (both > 10).mean(),
    }
    (found,) = runml.summarise(sfs[np.newaxis, ..., np.newaxis])
    assert dict(zip(found.dtype.names, found, strict=True)) == pytest.approx(expected)
    minor = np.minimum(both, 20 - both)
    expected |= {"singletons per doubleton": (minor == 1).sum() / (minor == 2).sum()}
    del expected["derived allele major"]
    for each in (sfs, moments.Spectrum(sfs).fold().filled(0)):
        (found,) = runml.summarise(np.array(each)[np.newaxis, ..., np.newaxis], folded=True)
        assert dict(zip(found.dtype.names, found, strict=True)) == pytest.approx(expected)


# ----------------------------------------- end to end -----------------------------------------


def test_a_small_model_is_asked_about_spectra(copy, tmp_path, capsys, no_pictures):
    sfs = np.load(copy / "test_sfs.npy")[:40]
    files = [tmp_path / f"{row}.npy" for row in range(40)]
    for path, spectrum in zip(files, sfs, strict=True):
        np.save(path, spectrum)
    words = ("--data_dir", copy, "--predict")
    status, out, error = run(capsys, *words, files[0], "--bootstrap", *files[1:])
    assert (status, error, out.count("Verdict: ")) == (0, "", 1)
    found = rows(copy / "predictions.csv")
    model = runml.load_network(copy / "trained_model.keras").model
    given = model.predict_on_batch(sfs)
    assert [float(row["gene_flow"]) for row in found] == pytest.approx(
        given[:, 1].tolist(), abs=1e-6
    )
    right = given.argmax(axis=1) == np.arange(40) % 2
    assert right.mean() > 0.7
    counts = re.search(r"39 bootstrap spectra: ([^;]*);", " ".join(out.split()))[1].split(", ")
    for count in counts:
        verdict, n = count.split(" in ")
        assert [row["verdict"] for row in found[1:]].count(verdict) == int(n)
    assert len({row["verdict"] for row in found[1:]}) == len(counts)
    for row in found:
        told = min(float(row["gene_flow"]), float(row["divergence"])) < 0.05
        assert row["verdict"] in ("neither", "out of range") or told == (
            row["verdict"] != "undecided"
        )
    assert run(capsys, *words, files[0])[0] == 0
    assert len(rows(copy / "predictions.csv")) == 41
    settings = json.loads((copy / "simulated_settings.json").read_text())
    (pi,) = runml.summarise(sfs[:1])["pi in A"] / settings["sequence_length"]
    assert re.search(rf"pi in A, per bp +{pi:.3g} ", out)


def test_a_file_that_is_refused_changes_nothing(copy, tmp_path, capsys):
    np.save(tmp_path / "good.npy", np.load(copy / "test_sfs.npy")[0])
    (tmp_path / "bad.fs").write_bytes(REFUSED["two.fs"][0])
    before = contents(copy)
    status, out, error = run(
        capsys, "--data_dir", copy, "--predict", tmp_path / "good.npy", tmp_path / "bad.fs"
    )
    assert (status, out) == (1, "")
    assert is_one_line_error(error)
    assert contents(copy) == before


def test_nothing_in_a_file_or_its_name_acts_on_a_terminal(copy, tmp_path, capsys, no_pictures):
    escape = "\x1b[31mred\x07\x9b1m"
    counts = np.load(copy / "test_sfs.npy")[0]
    good, bad = tmp_path / f"good{escape}.fs", tmp_path / f"bad{escape}.fs"
    good.write_bytes(text(f'21 21 unfolded "{escape}" "B\x1b"', counts))
    bad.write_bytes(text(f"{escape} 21 unfolded", counts, counts))
    for path, status in ((good, 0), (bad, 1)):
        found, out, error = run(capsys, "--data_dir", copy, "--predict", path)
        assert found == status
        assert "red" in out + error
        assert not set("\x1b\x07\x9b") & set(out + error)


def test_species_are_called_by_their_names(copy, tmp_path, capsys):
    counts = np.load(copy / "test_sfs.npy")[0]
    for names, told in (('"Parus major" "P. minor"', "A: Parus major, B: P. minor"), ('"one"', "")):
        (tmp_path / "own.fs").write_bytes(text(f"21 21 unfolded {names}", counts))
        status, out, error = run(capsys, "--data_dir", copy, "--predict", tmp_path / "own.fs")
        assert (status, error) == (0, "")
        assert told in out
        assert "See " in out


def test_spectra_of_one_name_have_each_their_picture(copy, tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(runml, "save_picture", lambda path, *_: drawn.append(path))
    files = [tmp_path / name for name in ("a.npy", "b/a.npy", "a_2.npy", "c/a.npy")]
    for path in files:
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.load(copy / "test_sfs.npy")[0])
    assert run(capsys, "--data_dir", copy, "--predict", *files)[0] == 0
    assert len(set(drawn)) == len(files)
