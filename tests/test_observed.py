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


@pytest.mark.parametrize(("name", "is_folded"), [*((x, 0) for x in UNFOLDED), *((x, 1) for x in FOLDED_FILES)])
def test_a_spectrum_is_read(tmp_path, name, is_folded):
    (tmp_path / name).write_bytes((FOLDED_FILES if is_folded else UNFOLDED)[name])
    observed = runml.read_observed(tmp_path / name)
    assert observed.counts.tolist() == (FOLDED if is_folded else COUNTS).tolist()
    assert observed.folded == bool(is_folded)
    assert observed.remark == ""


@pytest.mark.parametrize("library", [dadi, moments])
@pytest.mark.parametrize("is_folded", [False, True])
@pytest.mark.parametrize("names", [None, ["Parus major", "folded"]])
@pytest.mark.parametrize("file", ["two.fs", "two.fs.gz"])
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
