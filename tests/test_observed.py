"""A student's own two species: other settings, observed spectra, and whether the model may judge."""

import csv
import json
import shutil
from pathlib import Path

import moments
import msprime
import numpy as np
import pytest
from conftest import ROOT, command, contents, runml, spectra

HUMANS = ROOT.parent / "shared" / "examples" / "YRI_CEU.fs"
SMALL = ["--n_reps", 30, "--sequence_length", 5000]


def run(capsys, *words):
    """Run `main` in this process; return its exit status and what it printed."""
    try:
        status = runml.main([str(word) for word in words])
    except SystemExit as end:
        status = end.code
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def predictions(folder):
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def own_species(tmp_path_factory):
    """A model for samples of unequal size, other priors, and loci that add up."""
    folder = tmp_path_factory.mktemp("own_species")
    done = command(
        *(
            "--simulate",
            "--train",
            "--test",
            "--n_reps",
            600,
            "--n_test_reps",
            100,
            "--data_dir",
            folder,
        ),
        *("--sample_size", 6, 8, "--sequence_length", 2_000, "--n_loci", 5, "--mutation_rate", 5e-7),
        *(
            "--tdiv_prior",
            100_000,
            400_000,
            "--ne_prior",
            20_000,
            60_000,
            "--migration_prior",
            1e-5,
            1e-4,
        ),
        *("--gene_flow_fraction", 1, "--learning_rate", 5e-5),
    )
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.fixture(scope="session")
def folded(tmp_path_factory, trained):
    """The small trained model's data, and a folded model of them."""
    folder = tmp_path_factory.mktemp("folded")
    shutil.copytree(trained[0], folder, dirs_exist_ok=True)
    done = command("--train", "--folded", "--epochs", 4, "--learning_rate", 1e-4, "--data_dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


def random_spectrum(rng, shape):
    counts = rng.poisson(5, shape) * 1.0
    counts[0, 0] = counts[-1, -1] = 0
    return counts


# ------------------------------------- summaries and folding -------------------------------------


def test_summaries_agree_with_tskit():
    demography = runml.demographic_model(
        runml.SimulationSettings(), np.array((2e4, 1e4, 2e4, 5e3, 1e-5), runml.PARAMETERS)[()]
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


def test_what_we_write_is_read_by_moments(tmp_path):
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
    assert status == 1
    assert out == ""
    assert err.count("\n") == 1
    assert culprit in err or str(path) in err
    assert contents(trained[0]) == before


# ------------------------------------------ predicting ------------------------------------------


def test_predictions_come_with_their_place(tmp_path, trained, capsys):
    folder = tmp_path / "data"
    shutil.copytree(trained[0], folder)
    spectrum = np.load(folder / "test_sfs.npy")[0, ..., 0]
    np.save(tmp_path / "fits.npy", spectrum)
    np.save(tmp_path / "longer.npy", spectrum * 10)
    files = [tmp_path / "fits.npy", tmp_path / "longer.npy"]
    status, out, err = run(capsys, "--predict", *files, "--data_dir", folder)
    assert (status, err) == (0, "")
    rows = predictions(folder)
    assert [row["file"] for row in rows] == list(map(str, files))
    assert list(rows[0]) == ["file", "divergence", "gene_flow", "verdict", "within_training_range"]
    assert [row["within_training_range"] for row in rows] == ["yes", "no"]
    model = runml.load_model(folder / "trained_model.keras")
    expected = model.predict_on_batch(np.stack([spectrum, spectrum * 10])[..., np.newaxis])
    found = [[float(row["divergence"]), float(row["gene_flow"])] for row in rows]
    assert np.array(found) == pytest.approx(expected, abs=1e-6)
    for row in rows:
        more = "gene flow" if float(row["gene_flow"]) > 0.5 else "divergence"
        assert row["verdict"] == more
    assert "Warning: SNPs: more than in any simulation" in out
    assert "--mutation_rate" in out
    assert "equally probable beforehand" in out


def test_place_by_hand():
    reference = {
        "percentiles": {"SNPs": np.linspace(0, 200, 101)},
        "mean": np.zeros(6),
        "precision": np.eye(6),
        "limit": 1e9,
    }
    sfs = np.zeros((3, 3, 3, 1))
    sfs[:, 1, 1, 0] = 50, 200, 201
    _, percentiles, outlier = runml.place(sfs, reference)
    assert percentiles["SNPs"].tolist() == [25, 100, np.inf]
    assert not outlier.any()


def test_the_model_knows_what_it_was_not_made_for():
    def simulated(branch, n_rows, **changed):
        return spectra(runml.SimulationSettings(seed=7, **changed), n_rows, branch)

    reference = runml.fit_reference(simulated(runml.SIMULATE, 1200))
    fresh = simulated(runml.TEST, 300)
    known = {
        "fresh": fresh,
        "longer": simulated(runml.TEST, 30, sequence_length=1_000_000),
        "shorter": simulated(runml.TEST, 300, sequence_length=10_000),
        "folded": runml.fold(fresh),
        "swapped": fresh[:, ::-1, ::-1],
    }
    flagged = {}
    for name, sfs in known.items():
        _, percentiles, outlier = runml.place(sfs, reference)
        flagged[name] = np.mean(
            outlier | ~np.all([np.isfinite(x) for x in percentiles.values()], axis=0)
        )
    # The range of ten summaries of 1,200 spectra leaves out up to 20 in 1,200 others, and the limit of
    # the distance 4 in 1,000; with four standard errors of a share of 300 this makes 0.054.
    assert flagged.pop("fresh") < 0.054
    for name, share in flagged.items():
        assert share > 0.95, name


# ------------------------------------------ own settings ------------------------------------------


def test_other_species_from_end_to_end(tmp_path, own_species, capsys):
    folder, done = own_species
    assert "A and B swapped" not in done.stdout  # as their samples are not of the same size
    assert np.load(folder / "simulated_sfs.npy").shape == (1200, 13, 17, 1)
    assert json.loads((folder / "test_results.json").read_text())["accuracy"] > 0.97
    settings = runml.load_notes(folder / "trained_model.keras").simulations
    truth = []
    for row in range(200):
        parameters, rng = runml.draw_row(runml.replace(settings, seed=99), runml.TEST, row)
        np.save(tmp_path / f"{row}.npy", runml.simulate_sfs(settings, parameters, rng))
        truth.append(runml.MODELS[row % 2])
    files = [tmp_path / f"{row}.npy" for row in range(200)]
    assert run(capsys, "--predict", *files, "--data_dir", folder)[0] == 0
    rows = predictions(folder)
    assert np.mean([row["verdict"] == model for row, model in zip(rows, truth, strict=True)]) > 0.97
    assert np.mean([row["within_training_range"] == "yes" for row in rows]) > 0.9


def test_settings_from_a_file(tmp_path, capsys):
    one, two, three = tmp_path / "one", tmp_path / "two", tmp_path / "three"
    words = ["--simulate", *SMALL, "--sample_size", 3, 2, "--n_loci", 2, "--seed", 5]
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


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"n_reps": -1}', "\x00"])
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
    model = runml.load_model(folded / "trained_model.keras")
    probabilities = model.predict_on_batch(sfs)
    assert model.predict_on_batch(runml.fold(sfs)) == pytest.approx(probabilities, abs=1e-5)
    assert np.mean(probabilities.argmax(axis=1) == np.arange(40) % 2) > 0.7
    spectrum = moments.Spectrum(sfs[1, ..., 0]).fold()
    spectrum.to_file(str(tmp_path / "folded.fs"))
    np.save(tmp_path / "unfolded.npy", sfs[1])
    files = [tmp_path / "folded.fs", tmp_path / "unfolded.npy"]
    status, out, err = run(capsys, "--predict", *files, "--data_dir", folded)
    assert (status, err) == (0, "")
    assert "derived allele more common" not in out
    one, two = predictions(folded)
    assert float(one["gene_flow"]) == pytest.approx(float(two["gene_flow"]), abs=1e-5)


def test_folding_belongs_to_the_model(trained, folded, capsys):
    status, _, err = run(capsys, "--test", "--folded", "--data_dir", trained[0])
    assert (status, err) == (2, "runml: error: --folded on: the model was trained with off\n")
    assert runml.load_notes(folded / "trained_model.keras").training.folded
    assert not runml.load_notes(trained[0] / "trained_model.keras").training.folded
