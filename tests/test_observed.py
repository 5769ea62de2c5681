"""Observed spectra, as every program writes them, and what is answered about them."""

import functools
import gzip
import io
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import dadi
import moments
import numpy as np
import pytest
from conftest import ESCAPE, EXAMPLES, rows, run, runml
from threadpoolctl import threadpool_limits

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


DADI = text("5 7 unfolded", COUNTS, np.zeros((5, 7), int))
WITH_CORNERS = np.where(COUNTS == 0, 1e6, COUNTS)  # sites without a SNP
HALVES = {filling: np.where(UNUSED, filling, FOLDED) for filling in (np.nan, -1, np.inf)}
UNFOLDED = {
    "winsfs.sfs": text("#SHAPE=<5/7>", COUNTS),
    "dadi.fs": DADI,
    "without a mask.fs": text("5 7", COUNTS),
    "comments.fs": text("# great tits", "#", "", "5 7 unfolded", "# not filtered", COUNTS),
    "a mark and carriage returns.fs": b"\xef\xbb\xbf" + DADI.replace(b"\n", b"\r\n"),
    "gzipped.fs": gzip.compress(DADI),
    "plain text in spite of.fs.gz": DADI,
    "array.npy": as_npy(COUNTS),
    "a channel.npy": as_npy(COUNTS[..., np.newaxis]),
    "invariant sites.npy": as_npy(WITH_CORNERS),
    "tits_jointDAFpop1_0.obs": fastsimcoal(COUNTS.T),
    "rows_jointDAFpop0_1.obs": fastsimcoal(COUNTS, 0, 1),
    "far_jointDAFpop12_5.obs": fastsimcoal(COUNTS.T, 12, 5),  # the lower number is A
}
FOLDED_FILES = {
    **{f"{x}.sfs": text("#SHAPE=<5/7>", half) for x, half in HALVES.items()},
    **{f"{x}.npy": as_npy(half) for x, half in HALVES.items()},
    "dadi.fs": text("5 7 folded", FOLDED, UNUSED.astype(int)),
    "not a number.fs": text("5 7 folded", HALVES[np.nan]),
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
    mask = np.eye(5, 7, 1, dtype=int)
    (tmp_path / "own.fs").write_bytes(text("5 7", COUNTS, mask))
    observed = runml.read_observed(tmp_path / "own.fs")
    assert observed.counts.tolist() == (COUNTS * (1 - mask)).tolist()
    assert re.search(r"\b5 masked", observed.remark)


def refusal(path):
    """Why a file cannot be read, in a line that begins with its name."""
    with pytest.raises(runml.UserError) as caught:
        runml.read_observed(path)
    said = str(caught.value)
    assert said.startswith(str(path))
    assert len(said) < len(str(path)) + 500
    assert "\n" not in said
    assert "allow_pickle" not in said  # what is advised runs no code
    return said


VCF = text("##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO")
LIST = "vcf_to_spectrum.py"
MINUS = np.where(np.eye(5, 7, 1) > 0, -1, COUNTS)
GAP = np.where((COUNTS > 0) & (np.cumsum(COUNTS > 0) == 33).reshape(5, 7), np.nan, COUNTS)
REFUSED = {
    "realsfs.sfs": (text("7442567.936 " + "1.5e-3 " * 48), "realSFS", "a line above it"),
    "bootstrap.sfs": (text(*[np.ones(49)] * 3), "realSFS", "one line of numbers"),
    "three.sfs": (text("#SHAPE=<3/3/3>", np.ones(27)), "3 populations", "marginalize"),
    "chromosomes.fs": (text("4 6 unfolded", COUNTS), "chromosomes + 1", "5 7?"),
    "alone.fs": (text("4 unfolded", np.ones(5)), "chromosomes + 1, 5?"),
    "sizes.fs": (text("unfolded", np.ones(9)), "9 numbers below the sizes"),
    "two.fs": (text("5 7 unfolded", COUNTS, COUNTS), "mask holds 0 and 1", "2 spectra"),
    "odd.fs": (text("4 5 unfolded", np.ones(20)), "3 + 4 chromosomes", "project"),
    "fill.fs": (text("5 7 unfolded", MINUS), "negative", "masked ones 0"),
    "empty.fs": (b"", "empty"),
    "nothing.fs": (text("5 7 unfolded", np.eye(5, 7) * 0), "no SNPs"),
    "shares.fs": (text("5 7", COUNTS / COUNTS.sum()), "proportions", "number of SNPs"),
    "too many.fs": (text("5 7", COUNTS * 1e15), "so many SNPs"),
    "utf16.fs": (DADI.decode().encode("utf-16"), "UTF-16", "UTF-8"),
    "pickle.fs": (moments.Spectrum(COUNTS).dumps(), "Python object", "to_file"),
    "archive.npz": (b"PK\x03\x04", ".npz", "numpy.save"),
    "other cells of that half have SNPs.npy": (as_npy(GAP), "masked ones 0"),
    "many.npy": (as_npy(np.ones((4, 5, 7, 1))), "(4, 5, 7, 1)"),
    "objects.npy": (as_npy(np.array([[{}]])), "objects.npy"),
    "tits_MSFS.obs": (text("1 observations. No. of demes", "2\t4\t6", COUNTS), "_jointDAFpop1_0"),
    "tits.obs": (fastsimcoal(COUNTS.T), "jointDAF", "jointMAF"),
    "expected_jointDAFpop1_0.txt": (fastsimcoal(COUNTS.T, first=""), "1 observation"),
    "many_jointDAFpop1_0.obs": (fastsimcoal(COUNTS.T, first="3 observations"), "which one?"),
    "own_jointMAFpop1_0.obs": (fastsimcoal(COUNTS.T), "MAF", "major"),
    "birds.vcf": (VCF, "VCF", LIST),
    "large.vcf": (VCF + b"\n" * 9_000_000, "VCF", LIST),
    "large.fs": (DADI + b"\n" * 9_000_000, "larger"),
    "birds.bcf": (gzip.compress(b"BCF\x02\x02"), "BCF", LIST),
    "species.txt": (text("tit1\tgreat", "tit2\tblue"), "list of individuals", LIST),
    "pointer.npy": (text("version https://git-lfs.github.com/spec/v1", "oid x"), "git lfs pull"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_spectrum_is_refused_by_the_name_of_its_format(tmp_path, name):
    content, *words = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    assert [word for word in words if word not in refusal(tmp_path / name)] == []


@pytest.mark.parametrize("beginning", [b"1", b"x\t", b" ", b"#SHAPE=<2/", b'5 7 "'])
def test_a_file_without_end_is_refused(tmp_path, beginning):
    (tmp_path / "own.fs").write_bytes(beginning + beginning[-2:] * 1_000_000)
    refusal(tmp_path / "own.fs")
    (tmp_path / "packed.fs").write_bytes(gzip.compress(beginning + bytes(70_000_000), 1))
    with (tmp_path / "plain.fs").open("wb") as file:
        file.write(beginning)
        file.truncate(10**12)
    assert all("larger" in refusal(tmp_path / name) for name in ("packed.fs", "plain.fs"))


FITS = [  # the sizes of a file and of a model: what is told, and what is not
    ((5, 7), (7, 5), ["4 + 6", "other way round"], "project"),
    ((9, 7), (5, 7), ["8 + 6", "takes 4 + 6", "project", "--sample_size 4 3"], "way round"),
    ((5, 7), (21, 21), ["4 + 6", "takes 20 + 20", "--sample_size 2 3"], "project"),
    ((31, 7), (21, 21), ["--sample_size 15 3"], "project"),
    ((5, 5), (5, 5), ["folded", "train with --folded"], "project"),
]


@pytest.mark.parametrize(("own", "model", "told", "not_told"), FITS)
def test_other_spectra_than_the_models(own, model, told, not_told):
    observed = runml.Observed(np.ones(own), own == model)  # one of them folded
    with pytest.raises(runml.UserError) as caught:
        runml.check_fits(Path("own.fs"), observed, model, False)
    assert all(word in str(caught.value) for word in ["own.fs", *told])
    assert not_told not in str(caught.value)


def test_scikit_allel_with_and_without_the_numbers_of_chromosomes(tmp_path):
    allel, path = pytest.importorskip("allel"), tmp_path / "own.npy"
    derived = np.random.default_rng(1).integers(0, 19, (2, 500))  # of 20, none on more than 18
    of_both = [np.stack([20 - each, each], axis=1) for each in derived]
    for cut in (allel.joint_sfs(*derived), allel.joint_sfs_folded(*of_both)):
        np.save(path, cut)
        with pytest.raises(runml.UserError, match=r"n1=\.\.\., n2=.* never joint_sfs_folded"):
            runml.check_fits(path, runml.read_observed(path), (21, 21), False)
    np.save(path, allel.joint_sfs(*derived, n1=20, n2=20))
    whole = runml.read_observed(path)
    expected = np.histogram2d(*derived, bins=[np.arange(22) - 0.5] * 2)[0]
    expected[0, 0] = 0
    assert whole.counts.tolist() == expected.tolist()


# Files of public repositories in different formats, or unfolded and folded, of the same data.
PUBLIC = EXAMPLES / "public"
PAIRS = [
    ("winsfs_A-B.sfs", "winsfs_A-B.npy"),
    ("gadma_jointMAFpop1_0.obs", "gadma_jointDAFpop1_0.obs"),
    ("momi2_folded_2pop.sfs", "momi2_unfolded_2pop.sfs"),
]


@pytest.mark.skipif(not PUBLIC.exists(), reason="the examples are not here")
@pytest.mark.parametrize(("name", "like"), PAIRS)
def test_files_of_public_repositories_agree(name, like):
    observed, other = (runml.read_observed(PUBLIC / each) for each in (name, like))
    expected = moments.Spectrum(other.counts)
    expected = expected.fold() if observed.folded else expected
    assert observed.counts == pytest.approx(np.array(expected.filled(0)), abs=1e-5)


# ------------------------------------------ answers ------------------------------------------
#
# By networks that give what a test lets them give, on simulations that take no time.

A, B = np.ogrid[:9, :9]
SHARED = np.where((A % 8 > 0) & (B % 8 > 0), 1 / np.maximum(A + B, 1), 0)
PRIVATE = np.where(B == 0, 1 / np.maximum(A, 1), 0) + np.where(A == 0, 1 / np.maximum(B, 1), 0)
PRIVATE[0, 0] = 0
LABELS = np.arange(1_200, dtype=np.int32) % 2
IS_VALIDATION = np.arange(1_200) % 8 < 2  # 150 of each toy model


@functools.cache
def toy_spectra(seed=1, is_random=True):
    """Parameters, and spectra of as many SNPs as A is large, shared where genes flow."""
    rng, truth = np.random.default_rng(seed), np.ones(1_200, runml.PARAMETERS)
    truth["size_a"] = rng.uniform(1_000, 10_000, 1_200)
    truth["size_b"] = rng.uniform(1_000, 10_000, 1_200)  # of which nothing depends
    truth["migration_a_to_b"] = LABELS * (rng.uniform(0.1, 1, 1_200) if is_random else 0.5)
    share = (0.1 + 0.5 * truth["migration_a_to_b"])[:, np.newaxis, np.newaxis]
    mixture = (1 - share) * PRIVATE / PRIVATE.sum() + share * SHARED / SHARED.sum()
    expected = mixture * truth["size_a"][:, np.newaxis, np.newaxis]
    return truth, rng.poisson(expected).astype(float) if is_random else expected


def toy_network(gives, validated=None, folded=False, is_random=True, data="x", **training):
    """A network that gives some probability of gene flow, and has given others in validation."""
    truth, sfs = toy_spectra(is_random=is_random)
    given, sfs = np.where(LABELS, 0.9, 0.1), sfs[..., np.newaxis]
    given[IS_VALIDATION] = given[IS_VALIDATION] if validated is None else validated
    both = np.stack([1 - given, given], axis=1)
    inputs, summaries = runml.network_inputs(sfs, folded), runml.summarise(sfs, folded)
    table = np.empty(len(sfs), runml.reference_dtype(inputs.shape[1:], folded))
    table["inputs"], table["summaries"], table["parameters"] = inputs, summaries, truth
    table["labels"], table["is_validation"], table["probabilities"] = LABELS, IS_VALIDATION, both
    settings = runml.TrainingSettings(folded=folded, **training)
    known = gives if isinstance(gives, dict) else {}  # by the number of SNPs, or the same for all

    def predict(sfs):
        given = np.array([known.get(each.sum(), gives) for each in np.array(sfs)])
        return np.stack([1 - given, given], axis=1)

    weights = [np.array([float(settings.seed), settings.dropout])]
    model = SimpleNamespace(predict_on_batch=predict, get_weights=lambda: weights)
    return runml.Network(model, settings, None, {"simulated_sfs.npy": data}, table)


@pytest.fixture
def ask(tmp_path, capsys, no_pictures):
    """To ask a network about arrays by name: what is printed, in one line, and all rows so far."""

    def answer(network, observed, bootstrap=(), before=()):
        is_folded, some = network.settings.folded, []
        for spectra in (observed, dict(bootstrap)):
            own = {name: runml.Observed(sfs * 1.0, is_folded) for name, sfs in spectra.items()}
            some.append({tmp_path / name: spectrum for name, spectrum in own.items()})
        runml.predict(tmp_path, *some, list(before), network)
        out, error = capsys.readouterr()
        assert error == ""
        return " ".join(out.split()), rows(tmp_path / "predictions.csv")

    return answer


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Where others compute too, small arrays take many threads much longer than one."""
    pytest.importorskip("sklearn.mixture")
    with threadpool_limits(1):
        yield


def typical(label=1):
    """A spectrum of the middle of a toy model."""
    truth, sfs = toy_spectra()
    unlike = abs(truth["size_a"] - 5_000) / 5_000 + abs(truth["migration_a_to_b"] - label * 0.5)
    return sfs[np.argmin(np.where(label == LABELS, unlike, np.inf))]


CHECKERED = np.where(SHARED > 0, typical() * (1 + 0.95 * (-1.0) ** (A + B)), typical())
VERDICTS = [  # in cells where no toy model has them, CHECKERED has as many SNPs of each summary
    (0.049, typical(0), "divergence", "divergence; no gene flow of"),
    (0.051, typical(0), "undecided", "undecided"),
    (0.5, typical(0), "undecided", "undecided"),
    (0.949, typical(1), "undecided", "undecided"),
    (0.951, typical(1), "gene flow", "gene flow of the kind"),
    (0.998, CHECKERED, "neither", "neither"),
    (0.998, typical(1) * 3, "out of range", "out of range; the spectrum lies"),
]


@pytest.mark.parametrize(("gives", "spectrum", "verdict", "said"), VERDICTS)
def test_each_verdict(ask, gives, spectrum, verdict, said):
    out, (row,) = ask(toy_network(gives), {"own": spectrum})
    assert row["verdict"] == verdict
    assert f"Verdict: {said}" in out
    assert (float(row["gene_flow"]), float(row["divergence"])) == pytest.approx((gives, 1 - gives))
    is_inside = verdict not in ("neither", "out of range")
    assert row["within_training_range"] == ("yes" if is_inside else "no")
    assert f"probability of gene flow: {gives:.3f}" in out
    assert ("a third, unsampled one" in out) == (verdict == "gene flow")
    assert ("Warning: SNPs outside all simulations" in out) == (verdict == "out of range")


def test_a_summary_outside_the_favoured_model_alone_is_told(ask):
    for gives in (0.02, 0.98):
        out, (row,) = ask(toy_network(gives), {"own": typical(0)})  # shares less than any gene flow
        told = "Warning: shared outside the favoured model's simulations" in out
        assert told == (gives > 0.5)
        assert row["verdict"] != "out of range"


def validated(of_gene_flow, of_divergence):
    """The probabilities of gene flow in validation: how many have which, the rest of each 0.5."""
    given = np.full(300, 0.5)
    for label, some in ((1, of_gene_flow), (0, of_divergence)):
        values = np.repeat(list(some), list(some.values()))
        given[np.flatnonzero(LABELS[IS_VALIDATION] == label)[: len(values)]] = values
    return given


SOME = validated({0.99: 60, 0.97: 40, 0.9: 45, 0.02: 2}, {0.98: 7, 0.9: 9, 0.03: 80, 0.01: 50})


def best(most):
    """A validation in which the probability of divergence is never higher, if there is any."""
    return validated({0.95: 150}, {1 - most: 100, 0.2: 50})


GIVEN = r"Of the {} validation spectra given as much or more for {}, {}\b"
SAID = [  # the probability of gene flow, those given in validation, and what is said of both
    (0.985, SOME, GIVEN.format(60, "gene flow", 60)),
    (0.975, SOME, GIVEN.format(67, "gene flow", 60)),
    (0.95, SOME, GIVEN.format(107, "gene flow", 100)),
    (0.025, SOME, GIVEN.format(52, "divergence", 50)),
    (0.8, None, r"Bayes factor[^:]*: 4\)"),
    (0.2, None, r"Bayes factor[^:]*: 0.25\)"),
    (1 - 1e-6, None, r"Bayes factor[^:]*: [a-z> ]+ 1,000\)"),
    (0.5, best(0.9), "95% of true divergence is given less than 0.900 for divergence: hardly any"),
    (0.5, best(0.99), r"95% of true divergence is given less than 0.990 for divergence\."),
]


@pytest.mark.parametrize(("gives", "given", "said"), SAID)
def test_how_sure_an_answer_is(ask, gives, given, said):
    assert re.search(said, ask(toy_network(gives, given), {"own": typical(gives > 0.5)})[0])


COIN, WRONG = np.full(300, 0.5), np.where(np.arange(300) % 3 == 0, 0.01, 0.99)


@pytest.mark.parametrize("given", [COIN, WRONG], ids=["coin", "wrong"])
def test_a_network_that_learned_nothing_tells_no_model(ask, given):
    for gives, label in ((0.02, 0), (0.98, 1)):
        out, (row,) = ask(toy_network(gives, given), {"own": typical(label)})
        assert row["verdict"] == "undecided"
        assert "No model can be told" in out
    assert "No model can be told" not in ask(toy_network(0.98), {"own": typical()})[0]


def test_networks_of_other_seeds_are_told_together(ask):
    own = {"own": typical()}
    _, so_far = ask(toy_network(0.96, seed=1), own | {"other": typical(0)})
    for changes in ({"seed": 9, "dropout": 0.5}, {"seed": 8, "data": "y"}):  # not to be counted
        out, so_far = ask(toy_network(0.01, **changes), own, before=so_far)
        assert "verdict of the mean" not in out
    out, so_far = ask(toy_network(0.99, seed=2), own, before=so_far)
    assert "2 networks" in out
    assert "0.975 (0.960 to 0.990); verdict of the mean: gene flow" in out
    _, so_far = ask(toy_network(0.6, seed=3), own, before=so_far)
    out, so_far = ask(toy_network(0.6, seed=3), {"a copy of it": typical()}, before=so_far)
    assert "3 networks" in out
    assert "0.850 (0.600 to 0.990); verdict of the mean: undecided" in out
    assert len(so_far) == 7


def test_what_networks_say_together_is_checked_against_the_model_that_they_favour(ask):
    own, so_far = {"own": typical(1)}, ()  # which divergence does not make
    for seed, gives, verdict in ((1, 0.7, "undecided"), (2, 0.8, "undecided"), (3, 0.4, "neither")):
        out, so_far = ask(toy_network(gives, seed=seed), own, before=so_far)
        assert so_far[-1]["verdict"] == verdict
    assert "0.633 (0.400 to 0.800); verdict of the mean: undecided" in out


def test_of_many_spectra_the_verdicts_and_what_networks_say_together(ask):
    many = {f"{n}": typical() + n * (A + B == 1) / 2 for n in range(runml.MAX_SCREENS + 1)}
    _, so_far = ask(toy_network(0.96, seed=1), many)
    out, found = ask(toy_network(0.99, seed=2), many, before=so_far)
    assert "Verdict: " not in out
    assert out.count("gene flow 0.990; verdict: gene flow") == len(many)
    assert out.count("0.975 (0.960 to 0.990); verdict of the mean: gene flow") == len(many)
    assert len(found) == 2 * len(many)


def test_bootstrap_spectra(ask):
    """Each with a SNP more than the one before, by which the toy network knows it."""
    observed = typical()
    some = {f"{n}": observed + n * (A + B == 1) / 2 for n in range(1, 101)}
    some["own"] = some.pop("100")  # of the same name as the observed one
    gives = {x.sum(): 0.9 if n < 3 else 0.95 + n / 2500 for n, x in enumerate(some.values())}
    out, found = ask(toy_network(gives | {observed.sum(): 0.98}), {"own": observed}, some)
    low, high = np.quantile(list(gives.values()), [0.025, 0.975])
    line = f"probability of gene flow {low:.3f} to {high:.3f} (95%)"
    assert f"100 bootstrap spectra: gene flow in 97, undecided in 3; {line}" in out
    assert out.count("Verdict: ") == 1
    assert [Path(row["bootstrap_of"]).name for row in found] == ["", *["own"] * 100]
    assert [float(row["gene_flow"]) for row in found[1:]] == pytest.approx(list(gives.values()))


def test_a_model_that_folds_takes_folded_and_unfolded_spectra_alike(ask):
    sfs = {"unfolded": typical(), "folded": moments.Spectrum(typical()).fold().filled(0)}
    out, (one, other) = ask(toy_network(0.98, folded=True), sfs)
    assert "derived" not in out
    same = one.keys() - {"file", "spectrum"}
    assert {name: one[name] for name in same} == {name: other[name] for name in same}


def told_of(out, name):
    """What is printed of a parameter: the nearest's median and ends, the prior's ends, more."""
    ends = r"([\d,]+) \(([\d,]+) to ([\d,]+)\) ([\d,]+) to ([\d,]+)(.{40})"
    *numbers, remark = re.search(f"{name} {ends}", out).groups()
    return [float(number.replace(",", "")) for number in numbers], remark.partition("size")[0]


RANKS = [(5, True), (40, True), (62, False), (300, False), (595, True)]  # of 600


@pytest.mark.parametrize(("rank", "at_edge"), RANKS)
def test_nearest_simulations_and_the_edge_of_a_prior(ask, rank, at_edge):
    """Where a spectrum depends on the size of A alone, the nearest have nearly the same size."""
    truth, sfs = toy_spectra(is_random=False)
    sizes = np.sort(truth["size_a"][LABELS == 1])
    own = sfs[np.flatnonzero(truth["size_a"] == sizes[rank])[0]]
    out, _ = ask(toy_network(0.98, is_random=False), {"own": own})
    (_, low, high, *prior), remark = told_of(out, "size a")
    assert prior == pytest.approx(np.quantile(sizes, [0.05, 0.95]), abs=1)
    n = int(re.search(r"ABC: the (\d+) nearest of gene flow", out)[1])
    assert low - 50 <= sizes[rank] <= high + 50 or at_edge
    assert 0.4 * n < np.sum((low <= sizes) & (sizes <= high)) < 2 * n
    assert ("edge" in remark.lower()) == at_edge
    assert "nothing learnt" not in remark
    assert "nothing learnt" in told_of(out, "size b")[1]
    assert "divergence time" not in out  # which is fixed


def test_summaries_by_hand():
    sfs = np.zeros((1, 3, 3, 1))  # one individual of each: 8 SNPs, and sites without one
    sfs[0, 1, 0], sfs[0, 1, 1], sfs[0, 0, 2], sfs[0, 0, 0] = 3, 4, 1, 1000
    (found,) = runml.summarise(sfs)
    expected = {"SNPs": 8, "pi in A": 7, "pi in B": 4, "d_XY": 1.5 + 2 + 1, "F_ST": 1 - 5.5 / 4.5}
    expected |= {"shared": 4 / 8, "private to A": 3 / 8, "private to B": 0}
    expected |= {"fixed differences": 1 / 8, "derived allele major": 0}
    expected |= {"singletons per doubleton": 3 / 5}
    assert dict(zip(found.dtype.names, found, strict=True)) == pytest.approx(expected)


def test_a_small_model_is_asked_about_spectra(copy, tmp_path, capsys, no_pictures):
    sfs = np.load(copy / "test_sfs.npy")[:40]
    files = [tmp_path / f"{row}.npy" for row in range(40)]
    for path, spectrum in zip(files, sfs, strict=True):
        np.save(path, spectrum)
    words = ("--data_dir", copy, "--predict", files[0], "--bootstrap", *files[1:])
    status, out, error = run(capsys, *words)
    assert (status, error, out.count("Verdict: ")) == (0, "", 1)
    found = rows(copy / "predictions.csv")
    given = runml.load_network(copy / "trained_model.keras").model.predict_on_batch(sfs)[:, 1]
    assert [float(row["gene_flow"]) for row in found] == pytest.approx(given.tolist(), abs=1e-6)
    assert ((given > 0.5) == np.arange(40) % 2).mean() > 0.7
    counts = re.findall(r"([a-z ]+?) in (\d+)[,;]", " ".join(out.partition("spectra:")[2].split()))
    verdicts = [row["verdict"] for row in found[1:]]
    assert {name.strip(): int(n) for name, n in counts} == dict(Counter(verdicts))
    (pi,) = runml.summarise(sfs[:1])["pi in A"] / 20_000
    assert re.search(rf"pi in A, per bp +{pi:.3g} ", out)


@pytest.mark.parametrize(
    ("file", "names", "told"),
    [
        ("own.fs", '"Parus major" "P. minor"', "A: Parus major, B: P. minor"),
        ("one.fs", '"Parus major"', "one.fs"),
        (f"good{ESCAPE}.fs", f'"A{ESCAPE}" "B{ESCAPE}"', "owned"),
        (f"bad{ESCAPE}.fs", f"{ESCAPE}\n1", "owned"),
    ],
)
def test_names_are_told_and_act_on_no_terminal(
    copy, tmp_path, capsys, no_pictures, file, names, told
):
    counts = np.load(copy / "test_sfs.npy")[0]
    (tmp_path / file).write_bytes(text(f"21 21 unfolded {names}", counts))
    status, out, error = run(capsys, "--data_dir", copy, "--predict", tmp_path / file)
    assert status == ("bad" in file)
    assert told in out + error
    assert all(letter.isprintable() for letter in (out + error).replace("\n", ""))


def test_spectra_of_one_name_have_each_their_picture(copy, tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(runml, "save_picture", lambda path, *_: drawn.append(path))
    files = [tmp_path / name for name in ("a.npy", "b/a.npy", "a_2.npy", "c/a.npy")]
    for path in files:
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.load(copy / "test_sfs.npy")[0])
    assert run(capsys, "--data_dir", copy, "--predict", *files)[0] == 0
    assert len(set(drawn)) == len(files)
