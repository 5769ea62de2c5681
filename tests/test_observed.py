"""A student's own two species: other settings, observed spectra, and whether the model may judge."""

import contextlib
import gzip
import io
import json
import re
import shutil
import time
from pathlib import Path

import moments
import msprime
import numpy as np
import pytest
from conftest import ROOT, SMALL, contents, is_one_line_error, rows, run, runml, spectra
from matplotlib.image import imread

HUMANS = ROOT.parent / "shared" / "examples" / "YRI_CEU.fs"


def said(*words):
    """What `main` prints, which must succeed: for fixtures, which have no `capsys`."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert runml.main([str(word) for word in words]) == 0
    return printed.getvalue()


@pytest.fixture(scope="session")
def folded(tmp_path_factory, trained):
    """The small trained model's data, and a folded model of them."""
    folder = Path(shutil.copytree(trained[0], tmp_path_factory.mktemp("folded") / "data"))
    said("--train", "--folded", "--epochs", 4, "--learning_rate", 1e-4, "--data_dir", folder)
    return folder


def notes_of(sfs, responses, folded=False):
    """The notes of a model that learned from these spectra, of which nothing was learned but what they
    look like.
    """
    whole = runml.digest(sfs, responses, folded)
    reference = runml.fit_reference(*(whole.rows(part) for part in runml.split_rows(len(sfs), 1)))
    return runml.Notes(runml.TrainingSettings(folded=folded), {}, None, {"reference": reference}, {})


def flagged(sfs, notes):
    """Whether the verdict is "neither" or "out of range", whatever the network says."""
    comparison = runml.compare_with_simulations(sfs, notes)
    return comparison.out_of_range | (comparison.fits.min(axis=1) > 1)


def a_spectrum_of_neither(folder):
    """A spectrum that neither model makes, though no summary is out of the range."""
    notes = runml.read_archive(folder / "trained_model.keras")[0]
    candidates = runml.fold(np.load(folder / "test_sfs.npy").astype(float))
    comparison = runml.compare_with_simulations(candidates, notes)
    unlike = comparison.fits.min(axis=1) > 1.05
    return candidates[np.flatnonzero(unlike & ~comparison.out_of_range)[0], ..., 0]


@pytest.fixture(scope="session")
def judged(tmp_path_factory, trained):
    """A folder after one `--predict` of a spectrum for each verdict, in its order, and what it said."""
    base = tmp_path_factory.mktemp("judged")
    folder = Path(shutil.copytree(trained[0], base / "data"))
    sfs = np.load(folder / "test_sfs.npy")[..., 0]
    notes = runml.read_archive(folder / "trained_model.keras")[0]
    probabilities = runml.predict_probabilities(
        runml.load_network(folder / "trained_model.keras").model, sfs[..., np.newaxis]
    )
    fine = ~flagged(sfs[..., np.newaxis], notes)
    observed = {"longer": sfs[0] * 10, "neither": a_spectrum_of_neither(folder)}
    for response, model in enumerate(("divergence", "gene_flow")):
        observed[model] = sfs[np.argmax(np.where(fine, probabilities[:, response], 0))]
    files = [base / f"{name}.npy" for name in ("divergence", "gene_flow", "neither", "longer")]
    for path in files:
        np.save(path, observed[path.stem])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runml, "save_picture", lambda *_, **__: None)
        return folder, said("--predict", *files, "--data_dir", folder), files


def random_spectrum(rng, shape):
    counts = rng.poisson(5, shape) * 1.0
    counts[0, 0] = counts[-1, -1] = 0
    return counts


# ------------------------------------- summaries and folding -------------------------------------


def test_summaries_agree_with_tskit():
    demography = runml.demographic_model(
        np.array((2e4, 1e4, 2e4, 5e3, 1e-5, 1e-5, 1e4, 0), runml.PARAMETERS)[()]
    )
    trees = msprime.sim_ancestry(
        {"A": 4, "B": 6},
        demography=demography,
        sequence_length=1e5,
        recombination_rate=1e-8,
        random_seed=1,
    )
    trees = msprime.sim_mutations(trees, rate=1e-7, discrete_genome=False, random_seed=2)
    a, b = trees.samples(population=0), trees.samples(population=1)
    sfs = trees.allele_frequency_spectrum([a, b], polarised=True, span_normalise=False)
    found = {name: value[0] for name, value in runml.summaries(sfs[np.newaxis, ..., np.newaxis]).items()}
    whole = {"span_normalise": False}
    assert found["SNPs"] == trees.num_sites
    assert found["pi in A"] == pytest.approx(trees.diversity(a, **whole))
    assert found["pi in B"] == pytest.approx(trees.diversity(b, **whole))
    assert found["d_XY"] == pytest.approx(trees.divergence([a, b], **whole))
    within = (trees.diversity(a, **whole) + trees.diversity(b, **whole)) / 2
    assert found["F_ST"] == pytest.approx(1 - within / trees.divergence([a, b], **whole))
    counts = np.array([(v.genotypes[a].sum(), v.genotypes[b].sum()) for v in trees.variants()])
    in_a, in_b = (counts[:, 0] % 8 > 0), (counts[:, 1] % 12 > 0)
    assert found["polymorphic in both"] == pytest.approx((in_a & in_b).mean())
    assert found["polymorphic in A only"] == pytest.approx((in_a & ~in_b).mean())
    assert found["polymorphic in B only"] == pytest.approx((in_b & ~in_a).mean())
    assert found["fixed differences"] == pytest.approx((~in_a & ~in_b).mean())
    assert found["derived allele more common"] == pytest.approx((counts.sum(axis=1) > 10).mean())


def test_summaries_by_hand():
    sfs = np.zeros((1, 3, 3, 1))
    sfs[0, 1, 0], sfs[0, 1, 1], sfs[0, 0, 2], sfs[0, 0, 0] = 3, 4, 1, 1000
    found = {name: value[0] for name, value in runml.summaries(sfs).items()}
    assert found["SNPs"] == 8
    assert found["pi in A"] == 7  # each SNP with one derived copy of two differs in the only pair
    assert found["pi in B"] == 4
    assert found["d_XY"] == 3 * 0.5 + 4 * 0.5 + 1
    assert found["F_ST"] == 1 - 5.5 / 4.5
    assert found["polymorphic in both"] == 0.5
    assert found["fixed differences"] == 1 / 8


@pytest.mark.parametrize("shape", [(5, 5), (7, 13), (21, 21)])
def test_folding_is_that_of_moments(shape):
    counts = random_spectrum(np.random.default_rng(1), shape)
    ours = runml.fold(counts[np.newaxis, ..., np.newaxis])
    assert np.array_equal(ours[0, ..., 0], moments.Spectrum(counts).fold().filled(0))
    assert np.array_equal(runml.fold(ours), ours)


def test_summaries_of_folded_spectra_are_the_same():
    sfs = spectra(runml.SimulationSettings(sequence_length=5000, sample_size=runml.PerSpecies(3, 5)), 6)
    plain, folded = runml.summaries(sfs, folded=True), runml.summaries(runml.fold(sfs), folded=True)
    assert "derived allele more common" not in plain
    for name, values in plain.items():
        assert folded[name] == pytest.approx(values)


# ------------------------------------------ reading ------------------------------------------


@pytest.mark.parametrize("as_folded", [False, True])
@pytest.mark.parametrize("pop_ids", [None, ["Great tit", "folded"]])
def test_what_moments_writes_is_read(tmp_path, as_folded, pop_ids):
    spectrum = moments.Spectrum(random_spectrum(np.random.default_rng(2), (9, 13)), pop_ids=pop_ids)
    spectrum = spectrum.project([6, 8])  # fractions of SNPs
    if as_folded:
        spectrum = spectrum.fold()
    spectrum.to_file(str(tmp_path / "two.fs"), comment_lines=["two species", "projected"])
    observed = runml.read_observed(tmp_path / "two.fs")
    assert observed.counts == pytest.approx(spectrum.filled(0), abs=1e-9)
    assert observed.folded == as_folded
    assert observed.remark == ""


def test_old_files_without_a_mask_are_read_as_moments_reads_them(tmp_path):
    counts = random_spectrum(np.random.default_rng(3), (5, 7))
    (tmp_path / "old.fs").write_text("5 7\n" + " ".join(map(str, counts.ravel())) + "\n")
    observed = runml.read_observed(tmp_path / "old.fs")
    assert np.array_equal(
        observed.counts, moments.Spectrum.from_file(str(tmp_path / "old.fs")).filled(0)
    )


def test_masked_cells_count_as_nothing_and_are_told(tmp_path):
    spectrum = moments.Spectrum(random_spectrum(np.random.default_rng(4), (5, 5)) + 1)
    spectrum.mask[1, 0] = spectrum.mask[0, 1] = True
    spectrum.to_file(str(tmp_path / "singletons.fs"))
    observed = runml.read_observed(tmp_path / "singletons.fs")
    assert observed.remark == "2 masked cells beside the two corners count as 0"
    assert observed.counts[1, 0] == observed.counts[0, 1] == 0
    assert observed.counts[1, 1] == spectrum[1, 1]


def test_fastsimcoal_has_the_second_population_in_rows(tmp_path):
    text = "1 observations\n\td0_0\td0_1\td0_2\td0_3\td0_4\n" + "".join(
        f"d1_{row}\t" + "\t".join(str(10 * column + row) for column in range(5)) + "\n"
        for row in range(3)
    )
    for kind in ("DAF", "MAF"):
        path = tmp_path / f"tits_joint{kind}pop1_0.obs"
        path.write_text(text)
        observed = runml.read_observed(path)
        assert observed.counts.shape == (5, 3)
        assert observed.counts[4, 1] == 41
        assert observed.folded == (kind == "MAF")


def test_arrays_are_read(tmp_path):
    counts = random_spectrum(np.random.default_rng(5), (5, 7))
    with_corners = counts.copy()
    with_corners[0, 0], with_corners[-1, -1] = 1e6, np.nan  # as in what moments has under its mask
    for array in (counts, counts.astype(np.int32), counts[..., np.newaxis], with_corners):
        np.save(tmp_path / "own.npy", array)
        assert np.array_equal(runml.read_observed(tmp_path / "own.npy").counts, counts)


@pytest.mark.skipif(not HUMANS.exists(), reason="the example is not here")
def test_the_human_spectrum():
    observed = runml.read_observed(HUMANS)
    expected = moments.Spectrum.from_file(str(HUMANS))
    assert observed.counts.shape == (21, 21)
    assert observed.counts == pytest.approx(expected.filled(0))
    assert not observed.folded
    assert observed.remark == ""


NUMBERS = " ".join(["1"] * 25)
REFUSED = {
    "three.fs": ("3 3 3 unfolded\n" + " ".join(["1"] * 27), "3 populations"),
    "one.fs": ("5 unfolded\n1 1 1 1 1", "1 populations"),
    "odd.fs": ("4 5 unfolded\n" + " ".join(["1"] * 20), "3 + 4 chromosomes: project"),
    "short.fs": ("5 5 unfolded\n1 2 3", "3 numbers"),
    "words.fs": ("5 5 unfolded\n" + NUMBERS.replace("1 1", "1 x", 1), "x"),
    "no_sizes.fs": ("a b\n" + NUMBERS, "no spectrum"),
    "negative.fs": ("5 5\n" + NUMBERS.replace("1 1", "1 -1", 1), "negative"),
    "infinite.fs": ("5 5\n" + NUMBERS.replace("1 1", "1 inf", 1), "infinite"),
    "nothing.fs": ("5 5\n" + " ".join(["7"] + ["0"] * 23 + ["7"]), "no SNPs"),
    "empty.fs": ("", "empty.fs"),
    "comments.fs": ("# nothing else\n", "comments.fs"),
    "quote.fs": ('5 5 unfolded "A\n' + NUMBERS, "quotation"),
    "other_size.fs": ("5 5\n" + NUMBERS, "4 + 4 chromosomes, the model takes 20 + 20"),
    "folded.fs": ("21 21 folded\n" + " ".join(["1"] * 441), "--folded"),
    "plain.obs": ("1 observations\n", "jointDAF"),
    "two_jointDAFpop1_0.obs": ("2 observations\n\td0_0\td0_1\nd1_0\t1\t1\n", "1 observations"),
    "nothing_jointDAFpop1_0.obs": ("", "1 observations"),
    "other_jointDAFpop1_0.obs": ("1 observations\n\td0_0\td0_2\nd1_0\t1\t1\n", "labelled"),
    "ragged_jointDAFpop1_0.obs": ("1 observations\n\td0_0\td0_1\td0_2\nd1_0\t1\n", "some rows"),
    "binary.fs": (b"\xff\xfe\x00\x01", "binary.fs"),
    "noise.npy": (b"\x93NUMPY\x01\x00", "noise.npy"),
}


@pytest.mark.parametrize("name", [*REFUSED, "missing.fs", "objects.npy", "many.npy", "words.npy", "."])
def test_what_is_no_spectrum_is_refused(tmp_path, trained, capsys, name):
    path = tmp_path / name
    content, culprit = REFUSED.get(name, (None, name))
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(content)
    elif name == "objects.npy":
        np.save(path, np.array([[Path("x")]], dtype=object), allow_pickle=True)
    elif name == "many.npy":
        np.save(path, np.ones((4, 21, 21, 1)))
    elif name == "words.npy":
        np.save(path, np.full((21, 21), "a"))
    before = contents(trained[0])
    status, out, err = run(capsys, "--predict", path, "--data_dir", trained[0])
    assert (status, out) == (1, "")
    assert is_one_line_error(err)
    assert culprit in err or str(path) in err
    assert contents(trained[0]) == before


VCF = b"##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
MATERIAL = {  # what a spectrum is made from
    "birds.vcf": (VCF, "a VCF file"),
    "birds.vcf.gz": (gzip.compress(VCF), "compressed"),
    "birds.bcf": (gzip.compress(b"BCF\x02\x02"), "compressed"),
    "plain.bcf": (b"BCF\x02\x02" + bytes(range(256)), "BCF"),
    "species.txt": (b"tit1\tgreat\ntit2\tgreat\ntit3\tblue\n", "a list of individuals"),
    "numbered.txt": (b"tit1\t1\ntit2\t1\ntit3\t2\n", "a list of individuals"),
    "blanks.txt": (b"tit1 great\r\ntit2 great\r\ntit3 blue", "a list of individuals"),
}


@pytest.mark.parametrize("name", MATERIAL)
def test_what_a_spectrum_is_made_from_is_told(tmp_path, trained, capsys, name):
    content, kind = MATERIAL[name]
    (tmp_path / name).write_bytes(content)
    status, out, err = run(capsys, "--predict", tmp_path / name, "--data_dir", trained[0])
    assert (status, out) == (1, "")
    assert is_one_line_error(err)
    assert kind in err
    assert "README's 'From a VCF to a spectrum'" in err


# ----------------------------- could either model have made it? -----------------------------


def test_comparison_by_hand():
    clouds = [
        {"percentiles": {"SNPs": np.linspace(0, 200, 101)}, "limit": 2.0},
        {"percentiles": {"SNPs": np.linspace(100, 300, 101)}, "limit": 4.0},
    ]
    for cloud in clouds:  # traits: log(0 + 0.01) off no axes, then log(SNPs) in units
        cloud |= {"origin": np.zeros(9), "axes": np.zeros((1, 9)), "mean": 0, "deviation": 1}
        n_traits = 2 + len(runml.MEASURES)
        cloud["mixture"] = [[1.0], [np.zeros(n_traits)], [np.eye(n_traits)]]
    for cloud in clouds:
        cloud["percentiles"] |= {
            name: np.linspace(-1e9, 1e9, 101)
            for name in runml.summaries(np.ones((1, 3, 3, 1)))
            if name != "SNPs"
        }
    notes = runml.Notes(runml.TrainingSettings(), {}, None, {"reference": clouds}, {})
    snps = [0, 50, 51, 100, 200, 201, 300, 302, 304]
    sfs = np.zeros((len(snps), 3, 3, 1))
    sfs[:, 1, 1, 0] = snps
    comparison = runml.compare_with_simulations(sfs, notes)
    of_divergence, of_gene_flow = (each["SNPs"].tolist() for each in comparison.percentiles)
    assert of_divergence == [0, 25, 25.5, 50, 100, *[np.inf] * 4]
    assert of_gene_flow == [*[-np.inf] * 3, 0, 50, 50.5, 100, *[np.inf] * 2]
    # What counts is the range of both, 0 to 300, and a hundredth of it beyond.
    assert comparison.outside["SNPs"].tolist() == [*[0] * 8, 1]
    assert comparison.out_of_range.tolist() == [*[False] * 8, True]
    assert comparison.values["SNPs"].tolist() == snps
    # The same distances, in units of limits of which one is twice the other.
    assert comparison.fits[:, 0] == pytest.approx(2 * comparison.fits[:, 1])


def test_percentiles_where_many_values_are_equal():
    ones = np.zeros((200, 3, 3, 1))
    ones[:, 1, 1] = 5  # no cell differs
    ones[:, 0, 1] = np.arange(200)[:, np.newaxis]
    notes = notes_of(ones, np.arange(200) % 2)
    comparison = runml.compare_with_simulations(ones[99:101], notes)
    for of_model in comparison.percentiles:
        assert of_model["pi in A"] == pytest.approx(50)  # in the middle of those that are the same
        assert of_model["SNPs"] == pytest.approx(50, abs=1.5)


def test_each_verdict_has_its_cause():
    fits, outside = np.array([[0.5, 3], [3, 0.5], [1.5, 1.1], [0.5, 3], [3, 3]]), [0, 0, 0, 1, -1]
    comparison = runml.Comparison({}, [], fits, {"SNPs": np.array(outside), "F_ST": np.zeros(5, int)})
    of_divergence = ["divergence", "neither", "neither", "out of range", "out of range"]
    of_gene_flow = ["neither", "gene flow", "neither", "out of range", "out of range"]
    # A spectrum that only the other model makes is none that the favoured one explains.
    for probabilities, expected in (([0.9, 0.1], of_divergence), ([0.1, 0.9], of_gene_flow)):
        found = [
            runml.Prediction(None, None, np.array(probabilities), comparison.of_row(row)).verdict
            for row in range(5)
        ]
        assert found == expected
        favoured = np.full(5, np.argmax(probabilities))
        assert comparison.unlike(favoured).tolist() == (fits[range(5), favoured] > 1).tolist()


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (1, "more than 0.999"),
        (np.float32(0.99999), "more than 0.999"),
        (0.9991, "more than 0.999"),
        (0.999, "0.999"),
        (0.5, "0.500"),
        (0.0012, "0.001"),
        (0.0009, "less than 0.001"),
        (0, "less than 0.001"),
    ],
)
def test_probabilities_are_never_quite_sure(value, printed):
    assert runml.never_sure(value) == printed


def simulate_with_a_pulse(settings, n_rows):
    """Divergence as the priors have it, and 12% of B come from A 1,500 generations ago."""

    def demographic_model(parameters):
        demography = msprime.Demography()
        for name, size in (("A", "size_a"), ("B", "size_b"), ("ancestor", "size_ancestor")):
            demography.add_population(name=name, initial_size=parameters[size])
        demography.add_mass_migration(time=1_500, source="B", dest="A", proportion=0.12)
        demography.add_population_split(
            time=parameters["divergence_time"], derived=["A", "B"], ancestral="ancestor"
        )
        return demography

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runml, "demographic_model", demographic_model)
        return runml.simulate_rows(settings, runml.TEST_SET, range(0, 2 * n_rows, 2))


def test_the_model_knows_what_it_was_not_made_for():
    """Under the lesson's priors, with several loci: their spectra are less noisy than one sequence's."""
    genome = {"sample_size": runml.PerSpecies(6, 6), "n_loci": 10, "sequence_length": 5_000}

    def simulated(stream, n_rows, **changed):
        return spectra(runml.SimulationSettings(**{"seed": 7} | genome | changed), n_rows, stream)

    n_known, n_fresh = 500, 160
    notes = notes_of(simulated(runml.TRAINING_SET, n_known), np.arange(n_known) % 2)
    fresh = simulated(runml.TEST_SET, n_fresh)
    # Each limit leaves out 1% as far as 50 validation spectra of a model can tell, and 80
    # others are judged by it: four standard errors of both.
    for response, model in enumerate(runml.MODELS):
        share = flagged(fresh[response::2], notes).mean()
        assert share < 0.01 + 4 * np.sqrt(0.01 * 0.99 * (1 / 50 + 2 / n_fresh)), model
    unknown = {
        "longer": simulated(runml.TEST_SET, 20, sequence_length=50_000),
        "shorter": simulated(runml.TEST_SET, 60, sequence_length=500),
        "folded": runml.fold(fresh),
        "swapped": fresh[:, ::-1, ::-1],
    }
    for name, sfs in unknown.items():
        assert flagged(sfs, notes).mean() > 0.95, name
    # The check of before, on both models together, saw 8% of these.
    pulses = simulate_with_a_pulse(runml.SimulationSettings(seed=7, **genome), 50)
    assert flagged(pulses, notes).mean() > 0.4


# ------------------------------------------ predicting ------------------------------------------


def test_predictions_hold_what_a_reader_needs(judged):
    folder, _, files = judged
    found = rows(folder / "predictions.csv")
    assert [row["file"] for row in found] == list(map(str, files))
    assert [row["verdict"] for row in found] == ["divergence", "gene flow", "neither", "out of range"]
    assert [row["within_training_range"] for row in found] == ["yes", "yes", "no", "no"]
    network = runml.load_network(folder / "trained_model.keras")
    sfs = np.stack([np.load(path) for path in files])[..., np.newaxis]
    comparison = runml.compare_with_simulations(sfs, network.notes)
    columns = {"divergence": 0, "gene_flow": 1}
    expected = network.model.predict_on_batch(sfs)
    for name, column in columns.items():
        assert [float(row[name]) for row in found] == pytest.approx(expected[:, column], abs=1e-6)
        fits = [float(row[f"fit_{name}"]) for row in found]
        assert fits == pytest.approx(comparison.fits[:, column], abs=6e-4)
    for name in comparison.values:
        for response, model in enumerate(runml.MODELS):
            among = [float(row[f"{name}, percentile under {model}"]) for row in found]
            assert among == pytest.approx(comparison.percentiles[response][name])
    assert {row["model"] for row in found} == {network.fingerprint}
    simulations = runml.fingerprint(network.notes.simulated.as_saved())
    assert {row["simulations"] for row in found} == {simulations}


def test_each_verdict_is_told(judged):
    _, out, files = judged
    parts = [part.partition("\nThese estimate")[0] for part in out.split("\n\n")]
    told = {path.stem: part for path in files for part in [*parts] if str(path) in part}
    assert "Verdict: no gene flow of the kind that was simulated." in told["divergence"]
    assert "Verdict: gene flow of the kind that was simulated." in told["gene_flow"]
    assert "Verdict: neither; the model that the network favours makes no such" in told["neither"]
    assert "Verdict: none, as the spectrum lies outside" in told["longer"]
    for name in ("divergence", "gene_flow"):
        assert "Warning" not in told[name]
    warnings = {name: " ".join(told[name].split()) for name in ("neither", "longer")}
    assert f"unlike {runml.WITHIN}% of the simulations of either model" in warnings["neither"]
    assert "Warning: SNPs: more than in any simulation." in warnings["longer"]
    for cause in ("--ne_prior", "--tdiv_prior", "--mutation_rate", "missing genotypes"):
        assert cause in warnings["longer"].partition("pi in A: more")[0]
    assert "than in any" not in warnings["neither"]
    for part in told.values():
        assert "Estimated probabilities: divergence " in part
        assert not re.search(r"\b[01]\.000\b", part.partition("Estimated")[2].partition("\n")[0])
        for line in part.splitlines()[1:]:
            assert len(line) <= 80
    assert "equally probable beforehand, and nothing else is" in " ".join(out.split())


def test_summaries_are_told_with_their_percentiles(judged):
    folder, out, files = judged
    sfs = np.load(files[0])[np.newaxis, ..., np.newaxis]
    found = {name: value[0] for name, value in runml.summaries(sfs).items()}
    base_pairs = 20_000
    for name in ("pi in A", "pi in B", "d_XY"):  # per base pair, as papers have them
        assert f"{name}, per bp" in out
        shown = re.search(rf"^{name}, per bp +(\S+)", out, re.MULTILINE)[1]
        assert float(shown) == pytest.approx(found[name] / base_pairs, rel=0.006)
    row = rows(folder / "predictions.csv")[0]
    of_models = re.search(r"^SNPs +([\d,]+) +(\S+) +(\S+)$", out, re.MULTILINE)
    assert int(of_models[1].replace(",", "")) == found["SNPs"]
    for shown, model in zip(of_models.groups()[1:], runml.MODELS, strict=True):
        among = float(row[f"SNPs, percentile under {model}"])
        assert shown == (f"{among:.0f}" if np.isfinite(among) else "outside")


def test_predictions_are_kept(copy, capsys, no_pictures):
    spectra_ = np.load(copy / "test_sfs.npy")[:3]
    files = [copy / f"{name}.npy" for name in "abc"]
    for path, spectrum in zip(files, spectra_, strict=True):
        np.save(path, spectrum)
    a, b, c = files
    words = ("--predict", a, "--predict", b, a, "--data_dir", copy)
    assert run(capsys, *words)[::2] == (0, "")
    first = rows(copy / "predictions.csv")
    assert [row["file"] for row in first] == [str(a), str(b)]  # once each
    assert run(capsys, "--predict", c, a, "--data_dir", copy)[::2] == (0, "")
    found = rows(copy / "predictions.csv")
    assert found[:2] == first
    assert [row["file"] for row in found] == [str(path) for path in (a, b, c, a)]
    assert found[3] == found[0]


def test_a_thousand_files_in_one_call(copy, tmp_path, capsys, no_pictures):
    sfs = np.load(copy / "test_sfs.npy")
    files = [tmp_path / f"{number}.npy" for number in range(1000)]
    for number, path in enumerate(files):
        np.save(path, sfs[number % len(sfs)])
    start = time.perf_counter()
    status, out, err = run(capsys, "--predict", *files, "--data_dir", copy)
    seconds = time.perf_counter() - start
    assert (status, err) == (0, "")
    assert out.count("\nVerdict: ") == 1000
    assert "(Of 1,000 spectra, the first 10 are drawn.)" in out
    found = rows(copy / "predictions.csv")
    assert [row["file"] for row in found] == list(map(str, files))
    assert found[0] == found[100] | {"file": found[0]["file"]}
    assert seconds < 30


# ----------------------------------------- neighbours -----------------------------------------


def test_the_nearest_simulations_are_the_nearest(trained):
    folder, _ = trained
    network = runml.load_network(folder / "trained_model.keras")
    simulations = runml.load_simulations(folder, network)
    sfs, responses, parameters = runml.open_dataset(folder, "simulated")
    seen = runml.flat(runml.preprocess_all(sfs, folded=False))
    for row in (0, 1, 150, 301):
        observed = runml.Observed(sfs[row, ..., 0].astype(float), folded=False)
        favoured = np.eye(2)[responses[row]]
        near = runml.neighbours(simulations, network, runml.Prediction(None, observed, favoured, None))
        own = near.parameters[responses[row]]
        assert own[0] == parameters[row]  # the spectrum itself comes first
        for response, found in enumerate(near.parameters):
            assert len(found) == near.n == 50
            assert set(found["migration_a_to_b"] > 0) == {bool(response)}
            which = [int(np.flatnonzero(parameters == each)[0]) for each in found]
            others = np.setdiff1d(np.flatnonzero(responses == response), which)
            # Nearest on the axes, and so on average in all bins.
            far = np.linalg.norm(seen - seen[row], axis=1)
            assert far[which].mean() < far[others].mean()
        assert near.n_right <= near.n_validation == 80
        probabilities = runml.predict_probabilities(network.model, sfs)
        _, validation = runml.split_rows(len(sfs), network.notes.training.seed)
        right = probabilities.argmax(axis=1)[validation] == responses[validation]
        assert near.n_right == right.sum()  # here, all validation spectra are the nearest
        assert near.at == pytest.approx(simulations.scores[row, :2], rel=1e-3, abs=1e-3)
        of_favoured = [int(np.flatnonzero(parameters == each)[0]) for each in own]
        assert near.mean_sfs == pytest.approx(sfs[of_favoured].mean(axis=0)[..., 0])


def test_the_nearest_simulations_are_told(judged):
    folder, out, files = judged
    assert out.count("The 50 simulations of each model that are most like it") == len(files)
    truth = np.load(folder / "simulated_parameters.npy")["divergence_time"]
    told = re.findall(r"^divergence time +(.+)$", out, re.MULTILINE)
    number = r"([\d,]+)"
    for line in told:
        for words in re.findall(rf"{number} \({number} to {number}\)", line):
            median, low, high = (int(word.replace(",", "")) for word in words)
            assert truth.min() - 1 <= low <= median <= high <= truth.max() + 1
    assert len(told) == len(files)
    assert re.search(r"^migration a to b +none +\S+e-0\d \(", out, re.MULTILINE)
    right = re.findall(r"Of the (\d+) validation simulations most like it, the network is right", out)
    assert right == ["80"] * len(files)


def test_wide_numbers_of_neighbours_stay_apart(capsys):
    parameters = np.full(50, 123_456_789.0, runml.PARAMETERS.descr)
    near = runml.Neighbours(50, np.ones((3, 3)), [parameters] * 2, 9, 9, [], np.zeros(2))
    runml.print_neighbours(near)
    for line in capsys.readouterr().out.splitlines():
        assert not re.search(r"\)\S", line), line


@pytest.mark.parametrize(
    "damage", ["none there", "other data", "empty parameters", "old parameters", "no numbers"]
)
def test_without_the_simulations_none_are_near(copy, capsys, damage):
    np.save(copy / "own.npy", np.load(copy / "test_sfs.npy")[0])
    parameters = copy / "simulated_parameters.npy"
    if damage == "none there":
        for path in copy.glob("simulated_*.npy"):
            path.unlink()
    elif damage == "other data":
        shutil.copy(copy / "test_sfs.npy", copy / "simulated_sfs.npy")
    elif damage == "empty parameters":
        parameters.write_bytes(b"")
    elif damage == "old parameters":
        np.save(parameters, np.load(parameters)[["divergence_time", "size_a"]])
    elif damage == "no numbers":
        parameters.write_bytes(b"PK\x03\x04 no archive")
    status, out, err = run(capsys, "--predict", copy / "own.npy", "--data_dir", copy)
    assert (status, err) == (0, "")
    assert out.count("simulations behind the model are not in") == 1
    assert "most like it" not in out
    assert "See " not in out
    assert not (copy / "prediction_own.png").exists()
    assert len(rows(copy / "predictions.csv")) == 1


def test_parameters_of_other_simulations_are_not_told(copy, capsys, no_pictures):
    """Arrays of a class, dropped beside parameters that an earlier simulation left."""
    (copy / "simulated_settings.json").unlink()
    sfs = np.load(copy / "simulated_sfs.npy")
    np.save(copy / "simulated_sfs.npy", sfs[::-1])
    np.save(copy / "simulated_responses.npy", np.load(copy / "simulated_responses.npy")[::-1])
    np.save(copy / "own.npy", sfs[0])
    said("--train", "--epochs", 1, "--data_dir", copy)
    status, out, err = run(capsys, "--predict", copy / "own.npy", "--data_dir", copy)
    assert (status, err) == (0, "")
    assert "most like it" not in out
    assert "pi in A, in all" in out  # as the base pairs are not known either


def test_spectra_of_one_name_have_each_their_picture(copy, capsys):
    files = [copy / folder / "joint.npy" for folder in ("tits", "crows")]
    for path, spectrum in zip(files, np.load(copy / "test_sfs.npy"), strict=False):
        path.parent.mkdir()
        np.save(path, spectrum)
    status, out, _ = run(capsys, "--predict", *files, "--data_dir", copy)
    assert status == 0
    pictures = list(copy.glob("prediction_*.png"))
    assert len(pictures) == 2
    assert all(f"See {path}." in out and imread(path).std() > 0.05 for path in pictures)


# ------------------------------------------ methods ------------------------------------------


def test_methods_hold_the_numbers(judged):
    folder, out, _ = judged
    assert "methods.txt" in out
    text = (folder / "methods.txt").read_text()
    assert max(map(len, text.splitlines())) <= 80
    whole = " ".join(text.split())
    results = json.loads((folder / "test_results.json").read_text())
    simulated = json.loads((folder / "simulated_settings.json").read_text())
    for words in (
        "We simulated 200 joint site frequency spectra under each of two models",
        f"msprime {simulated['versions']['msprime']} (",
        "10 diploid individuals of species A and 10 of species B",
        "at one locus of 20,000 base pairs",
        "a mutation rate of 1e-07 and a recombination rate of 1e-08 per base pair per generation",
        "divergence time was uniform between 50,000 and 500,000 generations",
        "uniform between 10,000 and 100,000 diploid individuals",
        "migration rate per generation was uniform between 1e-06 and 0.0001, the same both ways",
        "fixed at 0.5, and ended at one that was fixed at 0;",
        "2 hidden layers",
        f"Keras {runml.version('keras')}, TensorFlow {runml.version('tensorflow')}",
        "unfolded, for 4 epochs, with a dropout of 0.2, Adam at a learning rate of 0.0001",
        f"On 100 spectra simulated for the test alone, its accuracy was {results['accuracy']:.4f}",
        f"scikit-learn {runml.version('scikit-learn')}",
    ):
        assert words in whole
    sentences_are_whole(text)


def sentences_are_whole(text):
    """Whether paragraphs begin with a capital, end with a full stop, and have no holes."""
    for paragraph in text.strip().split("\n\n"):
        assert re.fullmatch(r"[A-Z].*[a-z0-9)]\.", paragraph, re.DOTALL)
        for hole in ("None", "nan", "  ", "()", " ,", " .", "{", "}", ".."):
            assert hole not in paragraph
        assert paragraph.count("(") == paragraph.count(")")


USED = {"keras": "3.14.1", "tensorflow": "2.20.0", "sklearn": "1.7.2"}  # when the model was trained


def told_methods(folder, notes, weights=b""):
    """The methods of a model that needs no more than weights."""

    class Model:
        def get_weights(self):
            return [np.frombuffer(weights, np.uint8)]

    return " ".join(runml.methods(runml.Network(Model(), notes), folder).split())


def test_methods_of_other_priors(tmp_path):
    settings = runml.SimulationSettings(
        sample_size=runml.PerSpecies(6, 8),
        n_loci=1_500,
        mutation_rate=2.35e-8,
        tdiv_prior=runml.Prior(1_600, 10_800, "log"),
        ne_prior=runml.Prior(20_000, 20_000),
        migration_prior=runml.Prior(1e-7, 1e-3, "log"),
        gene_flow_start=runml.Prior(0, 1),
        gene_flow_stop=runml.Prior(0.25, 0.5),
        asymmetric=True,
    )
    simulated = runml.Simulated(settings, 2_500, {"msprime": "1.4.4"})
    text = told_methods(
        tmp_path,
        runml.Notes(runml.TrainingSettings(layers=1, epochs=1, folded=True), {}, simulated, {}, USED),
    )
    for words in (
        "simulated 2,500 joint",
        "6 diploid individuals of species A and 8 of species B, at 1,500 independent loci",
        "rate of 2.35e-08 and",
        "log-uniform between 1,600 and 10,800 generations",
        "fixed at 20,000 diploid individuals",
        "log-uniform between 1e-07 and 0.001, independently in each direction",
        "uniform between 0 and 1, and ended at one that was uniform between 0.25 and 0.5",
        "spectra, folded, for 1 epoch,",
        "of 1 hidden layer (Keras 3.14.1, TensorFlow 2.20.0)",
    ):
        assert words in text
    assert "accuracy" not in text
    without = told_methods(tmp_path, runml.Notes(runml.TrainingSettings(), {}, None, {}, USED))
    assert "simulated" not in without.partition("An observed spectrum")[0]
    sentences_are_whole(text)
    sentences_are_whole(without)


ACCURACY = {"accuracy": 0.75, "accuracy_95ci": [0.5, 0.9], "n_test": 4_321}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, True),
        ({"model": "0123456789ab"}, False),
        ({"test_set": "0123456789ab"}, False),
        ({"accuracy_95ci": [0.5]}, False),
        ({"accuracy": "high"}, False),
    ],
)
def test_methods_tell_the_accuracy_of_this_model_under_its_own_priors(tmp_path, changed, told):
    settings = runml.SimulationSettings()
    simulated = runml.Simulated(settings, 5, runml.versions())
    notes = runml.Notes(runml.TrainingSettings(), {}, simulated, {}, USED)
    own = {"model": runml.fingerprint(b"x"), "seed": settings.seed}
    own["test_set"] = runml.fingerprint(runml.as_saved(settings))
    runml.save_json(tmp_path / "test_results.json", ACCURACY | own | changed)
    text = told_methods(tmp_path, notes, b"x")
    assert ("accuracy was 0.7500 (95% interval 0.5000 to 0.9000)" in text) == told
    assert ("4,321" in text) == told


# ------------------------------------------ own settings ------------------------------------------


def test_other_species_from_end_to_end(tmp_path, capsys, no_pictures):
    """Samples of unequal size, other priors, gene flow since the split, and loci that add up."""
    folder = tmp_path / "data"
    out = said(
        *("--simulate", "--train", "--test", "--n_reps", 150, "--n_test_reps", 40, "--data_dir", folder),
        *("--sample_size", 3, 4, "--sequence_length", 5_000, "--n_loci", 5, "--mutation_rate", 2e-7),
        *("--tdiv_prior", 100_000, 400_000, "--ne_prior", 20_000, 60_000),
        *("--migration_prior", 1e-5, 1e-4, "--gene_flow_start", 1, 1, "--learning_rate", 5e-4),
        *("--epochs", 8),
    )
    assert "A and B swapped" not in out  # as their samples are not of the same size
    assert np.load(folder / "simulated_sfs.npy").shape == (300, 7, 9, 1)
    assert json.loads((folder / "test_results.json").read_text())["accuracy"] > 0.93
    settings = runml.load_network(folder / "trained_model.keras").notes.simulated.settings
    assert settings.gene_flow_start == (1, 1, "uniform")
    sfs = spectra(runml.replace(settings, seed=99), 100, runml.TEST_SET)
    files = [tmp_path / f"{row}.npy" for row in range(len(sfs))]
    for path, spectrum in zip(files, sfs, strict=True):
        np.save(path, spectrum)
    assert run(capsys, "--predict", *files, "--data_dir", folder)[0] == 0
    found = rows(folder / "predictions.csv")
    favoured = [float(row["gene_flow"]) > 0.5 for row in found]
    assert np.mean(np.array(favoured) == np.arange(100) % 2) > 0.93
    inside = np.array([row["within_training_range"] == "yes" for row in found])
    assert inside.mean() > 0.85
    for row, gene_flow, yes in zip(found, favoured, inside, strict=True):
        if yes:
            assert row["verdict"] == runml.MODELS[gene_flow]


def test_spectra_of_the_same_name_have_pictures_of_their_own(tmp_path):
    used = {}
    for name in ("a.obs", "a_2.obs", "b/a.obs", "c/a.npy", "a_3.obs"):
        used[runml.unused_name(Path(name), used)] = name
    assert list(used) == [f"prediction_a{end}.png" for end in ("", "_2", "_3", "_4", "_3_2")]


def test_settings_from_a_file(tmp_path, capsys, no_pictures):
    one, two, three = tmp_path / "one", tmp_path / "two", tmp_path / "three"
    words = ["--simulate", *SMALL, "--sample_size", 3, 2, "--n_loci", 2, "--seed", 5]
    words += ["--migration_prior", 1e-6, 1e-4, "log", "--gene_flow_stop", 0, 0.25, "--asymmetric"]
    assert run(capsys, *words, "--data_dir", one)[0] == 0
    file = one / "simulated_settings.json"
    assert run(capsys, "--simulate", "--settings", file, "--data_dir", two)[0] == 0
    for part in ("sfs", "responses", "parameters"):
        name = f"simulated_{part}.npy"
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert run(capsys, "--simulate", "--settings", file, "--n_reps", 5, "--data_dir", three)[0] == 0
    assert np.array_equal(np.load(three / "simulated_sfs.npy"), np.load(one / "simulated_sfs.npy")[:10])
    status, _, err = run(capsys, "--train", "--settings", file, "--data_dir", one)
    assert (status, err) == (2, "runml: error: --settings has no use in --train\n")


def saved_settings(**changes):
    """What a settings file holds, but for some changes."""
    return json.dumps(runml.Simulated(runml.SimulationSettings(), 5, {}).as_saved() | changes)


@pytest.mark.parametrize(
    "content",
    [
        *("", "{}", "[1]", '{"n_reps": -1}', "\x00"),
        *(saved_settings(asymmetric=value) for value in ([], 0, [1.0], "true")),
        *(saved_settings(versions=value) for value in (5, "abc")),
        *(saved_settings(tdiv_prior=value) for value in ([], [1], [1, 2, 3], {"low": 1})),
    ],
)
def test_a_broken_settings_file_is_told(tmp_path, capsys, content):
    (tmp_path / "own.json").write_text(content)
    status, _, err = run(
        capsys, "--simulate", "--settings", tmp_path / "own.json", "--data_dir", tmp_path / "new"
    )
    assert status == 1
    assert "own.json" in err
    assert not (tmp_path / "new").exists()


# ------------------------------------------ no outgroup ------------------------------------------


def test_a_folded_model_takes_both(tmp_path, folded, capsys):
    sfs = np.load(folded / "test_sfs.npy")[:40]
    model = runml.load_network(folded / "trained_model.keras").model
    probabilities = model.predict_on_batch(sfs)
    assert model.predict_on_batch(runml.fold(sfs)) == pytest.approx(probabilities, abs=1e-5)
    assert np.mean(probabilities.argmax(axis=1) == np.arange(40) % 2) > 0.7
    spectrum = moments.Spectrum(sfs[1, ..., 0]).fold()
    files = [tmp_path / "folded" / "birds.fs", tmp_path / "unfolded" / "birds.npy"]
    for file in files:
        file.parent.mkdir()
    spectrum.to_file(str(files[0]))
    np.save(files[1], sfs[1])
    folder = Path(shutil.copytree(folded, tmp_path / "data"))
    status, out, err = run(capsys, "--predict", *files, "--data_dir", folder)
    assert (status, err) == (0, "")
    assert "derived allele more common" not in out
    one, two = rows(folder / "predictions.csv")
    assert not any("derived" in name for name in one)
    for name in one:
        if "probability" in name or name.startswith(("gene_flow", "fit_")) or "percentile" in name:
            assert float(one[name]) == pytest.approx(float(two[name]), abs=2e-3)
    assert one["verdict"] == two["verdict"]
    assert "spectra, folded, for" in " ".join((folder / "methods.txt").read_text().split())
    # What is drawn of both is the same: a folded mean is to be compared with a folded spectrum.
    drawn = [imread(folder / f"prediction_birds{number}.png") for number in ("", "_2")]
    assert drawn[0].shape == drawn[1].shape
    assert abs(drawn[0] - drawn[1]).mean() < 0.002


def test_folding_belongs_to_the_model(trained, folded, capsys):
    status, _, err = run(capsys, "--test", "--folded", "--data_dir", trained[0])
    assert (status, err) == (2, "runml: error: --folded on: the model was trained with off\n")
    for folder, is_folded in ((folded, True), (trained[0], False)):
        notes = runml.read_archive(folder / "trained_model.keras")[0]
        assert notes.training.folded == is_folded
