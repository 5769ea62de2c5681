"""What is simulated, against coalescent theory and against msprime's own ways."""

import multiprocessing

import msprime
import numpy as np
import pytest
from conftest import dataset_files, fixed_settings, runml, spectra
from scipy import stats


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


@pytest.mark.parametrize("response", [0, 1], ids=runml.MODELS)
@pytest.mark.parametrize("start", [0.5, 1])
def test_diversity_and_fst_meet_their_coalescent_expectations(response, start):
    settings = fixed_settings(
        sample_size=runml.PerSpecies(4, 3),
        sequence_length=20_000,
        mutation_rate=1e-8,
        recombination_rate=1e-9,
        gene_flow_start=runml.Prior(start, start),
    )
    n_rows = 2_000
    sfs = np.stack(
        [runml.simulate_sfs(settings, *draw) for draw in one_model(settings, response, n_rows)]
    )[..., np.newaxis]
    parameters = runml.draw_parameters(settings, response, np.random.default_rng(0))
    debugger = runml.demographic_model(parameters).debug()
    per_generation = 2 * settings.mutation_rate * settings.sequence_length
    expected = {
        "pi_a": per_generation * debugger.mean_coalescence_time({"A": 2}),
        "pi_b": per_generation * debugger.mean_coalescence_time({"B": 2}),
        "d_xy": per_generation * debugger.mean_coalescence_time({"A": 1, "B": 1}),
    }
    measured = summaries(sfs)
    for name, expectation in expected.items():
        values = measured[name]
        assert abs(values.mean() - expectation) < 4 * values.std() / n_rows**0.5, name

    # F_ST after Hudson, a ratio of means; its standard error from the jackknife over blocks.
    within = (measured["pi_a"] + measured["pi_b"]) / 2
    blocks = np.array_split(np.arange(n_rows), 50)
    left_out = np.array(
        [
            1 - np.delete(within, block).sum() / np.delete(measured["d_xy"], block).sum()
            for block in blocks
        ]
    )
    error = (49 / 50 * ((left_out - left_out.mean()) ** 2).sum()) ** 0.5
    fst = 1 - within.sum() / measured["d_xy"].sum()
    expected_fst = 1 - (expected["pi_a"] + expected["pi_b"]) / 2 / expected["d_xy"]
    assert abs(fst - expected_fst) < 4 * error


def one_model(settings, response, n_rows):
    for row in range(n_rows):
        rng = np.random.default_rng([row, response])
        yield runml.draw_parameters(settings, response, rng), rng


def finite_sites(trees, mutation_rate, seed):
    """The SFS by sites of msprime's own mutations, as they come."""
    trees = msprime.sim_mutations(trees, rate=mutation_rate, random_seed=seed)
    samples = [trees.samples(population=0), trees.samples(population=1)]
    sfs = trees.allele_frequency_spectrum(samples, polarised=True, span_normalise=False)
    sfs[0, 0] = sfs[-1, -1] = 0
    return sfs


def ours_and_theirs(settings, response, n_rows, monkeypatch):
    """Spectra of the same genealogies: by branches, as mutations meet, and by msprime's mutations."""
    genealogies, alone = [], []

    def sim_ancestry(*args, _simulate=msprime.sim_ancestry, **kwargs):
        genealogies.extend(_simulate(*args, **kwargs))
        return genealogies[-1:]

    def meet(mutations, *args, _meet=runml.let_mutations_meet):
        alone.append(mutations)
        return _meet(mutations, *args)

    monkeypatch.setattr(msprime, "sim_ancestry", sim_ancestry)
    monkeypatch.setattr(runml, "let_mutations_meet", meet)
    ours = [runml.simulate_sfs(settings, *draw) for draw in one_model(settings, response, n_rows)]
    theirs = [
        finite_sites(trees, settings.mutation_rate, seed) for seed, trees in enumerate(genealogies, 1)
    ]
    return np.array(alone), np.array(ours), np.array(theirs)


def shared_and_fixed(sfs):
    """All SNPs, those polymorphic in both species, and fixed differences; each of shape (N,)."""
    both, fixed = sfs[:, 1:-1, 1:-1].sum(axis=(1, 2)), sfs[:, 0, -1] + sfs[:, -1, 0]
    return {"all": sfs.sum(axis=(1, 2)), "shared": both, "fixed": fixed}


@pytest.mark.parametrize("response", [0, 1], ids=runml.MODELS)
def test_mutations_meet_as_often_as_those_of_msprime(response, monkeypatch):
    settings = fixed_settings(
        sample_size=runml.PerSpecies(5, 4),
        sequence_length=20_000,
        tdiv_prior=runml.Prior(400_000, 400_000),
        ne_prior=runml.Prior(50_000, 50_000),
        migration_prior=runml.Prior(1e-6, 1e-6),
    )
    n_rows = 400
    alone, ours, theirs = ours_and_theirs(settings, response, n_rows, monkeypatch)

    def unlike(spectra):
        """Cells whose means differ by more than 4.5 standard errors, and more than 5%."""
        difference = spectra - theirs
        error = difference.std(axis=0) / n_rows**0.5
        beyond = abs(difference.mean(axis=0)) - 0.05 * theirs.mean(axis=0) - 4.5 * error
        return (beyond > 0)[theirs.sum(axis=0) >= 50]

    assert not unlike(ours).any()
    assert unlike(alone).any()  # under infinite sites
    ours, theirs, alone = map(shared_and_fixed, (ours, theirs, alone))
    for name, values in ours.items():
        assert stats.ks_2samp(values, theirs[name]).pvalue > 1e-3, name
    assert stats.ks_2samp(alone["shared"], theirs["shared"]).pvalue < 1e-6 or response == 1
    assert stats.ks_2samp(alone["all"], theirs["all"]).pvalue < 1e-3


def test_infinite_sites_come_back_where_mutations_are_rare(monkeypatch):
    settings = fixed_settings(
        sample_size=runml.PerSpecies(5, 4),
        tdiv_prior=runml.Prior(1e6, 1e6),
        mutation_rate=1e-9,
        recombination_rate=1e-10,
        sequence_length=2_000_000,
    )
    alone, ours, theirs = ours_and_theirs(settings, 0, 200, monkeypatch)
    assert abs(ours - alone).sum() < 0.01 * alone.sum()
    assert alone[:, 1:-1, 1:-1].sum() == 0
    both = [spectra[:, 1:-1, 1:-1].sum(axis=(1, 2)) for spectra in (ours, theirs)]
    assert max(both[0].mean(), both[1].mean()) < 3  # of some thousand SNPs
    assert abs(both[0].mean() - both[1].mean()) < 4 * ((both[0].var() + both[1].var()) / 200) ** 0.5


class OneMeeting(np.random.Generator):
    """Random numbers under which two mutations meet."""

    def poisson(self, mean):
        return 1


@pytest.mark.parametrize(
    ("carriers", "same_nucleotide", "another"),
    [
        (((1, 0), (0, 1)), [(1, 1)], [(0, 1), (1, 0)]),  # on different branches
        (((4, 2), (1, 1)), [(3, 1)], [(1, 1), (3, 1)]),  # one within the other
        (((4, 0), (4, 0)), [], [(4, 0)]),  # on one branch
        (((4, 0), (0, 4)), [], [(0, 4), (4, 0)]),  # what all carry is no SNP
    ],
)
def test_where_mutations_meet_by_hand(carriers, same_nucleotide, another):
    mutations = np.zeros((5, 5), int)
    np.add.at(mutations, tuple(np.transpose(carriers)), 1)
    rng = OneMeeting(np.random.PCG64(1))
    n_same = 0
    for _ in range(600):
        sfs = runml.let_mutations_meet(mutations, 10, rng)
        alleles = [cell for cell in np.ndindex(5, 5) for _ in range(sfs[cell])]
        assert alleles in (same_nucleotide, another)
        n_same += alleles == same_nucleotide
    assert abs(n_same - 200) < 4 * (600 * 1 / 3 * 2 / 3) ** 0.5


def test_without_migration_the_two_models_are_one():
    def pvalues(migration):
        settings = fixed_settings(
            migration_prior=runml.Prior(migration, migration), sequence_length=10_000
        )
        sfs = spectra(settings, 800)
        even, odd = summaries(sfs[::2]), summaries(sfs[1::2])
        assert not np.array_equal(sfs[::2], sfs[1::2])
        return [stats.ks_2samp(even[name], odd[name]).pvalue for name in even]

    assert min(pvalues(0)) > 1e-3
    assert min(pvalues(1e-4)) < 1e-9  # the comparison can tell models apart


@pytest.mark.parametrize(("start", "stop"), [(0.25, 0), (0.5, 0), (1, 0), (1, 0.5), (0.2, 0.7)])
def test_gene_flow_takes_place_when_it_is_asked_to(start, stop):
    settings = fixed_settings(
        gene_flow_start=runml.Prior(start, start), gene_flow_stop=runml.Prior(stop, stop)
    )
    parameters = runml.draw_parameters(settings, 1, np.random.default_rng(0))
    epochs = runml.demographic_model(parameters).debug().epochs
    with_flow = [epoch for epoch in epochs if np.any(epoch.migration_matrix)]
    assert with_flow[0].start_time == pytest.approx(min(start, stop) * settings.tdiv_prior.low)
    assert with_flow[-1].end_time == pytest.approx(max(start, stop) * settings.tdiv_prior.low)
    assert all(
        epoch.migration_matrix[0, 1] == epoch.migration_matrix[1, 0] == settings.migration_prior.low
        for epoch in with_flow
    )
    assert {"ancestor"} == {population.name for population in epochs[-1].active_populations}
    assert epochs[-1].start_time == settings.tdiv_prior.low

    divergence = runml.draw_parameters(settings, 0, np.random.default_rng(0))
    for epoch in runml.demographic_model(divergence).debug().epochs:
        assert not np.any(epoch.migration_matrix)


def test_rows_of_the_spectrum_are_species_a():
    settings = fixed_settings(sample_size=runml.PerSpecies(2, 6))
    assert spectra(settings, 2).shape == (2, 5, 13, 1)

    parameters = runml.draw_parameters(settings, 0, np.random.default_rng(0))
    parameters["size_a"], parameters["size_b"] = 1_000, 100_000
    rng = np.random.default_rng(1)
    sfs = np.stack([runml.simulate_sfs(settings, parameters, rng) for _ in range(50)])[..., np.newaxis]
    measured = summaries(sfs)
    assert measured["pi_b"].mean() > 20 * measured["pi_a"].mean()


def test_monomorphic_corners_are_empty_and_counts_are_int32():
    sfs = spectra(fixed_settings(), 20)
    assert sfs.dtype == np.int32
    assert not sfs[:, 0, 0].any()
    assert not sfs[:, -1, -1].any()
    assert (sfs >= 0).all()
    assert sfs.sum(axis=(1, 2, 3)).min() > 0


def test_loci_are_independent_and_add_up():
    base = {"recombination_rate": 0.0, "migration_prior": runml.Prior(0, 0)}
    one = summaries(spectra(fixed_settings(sequence_length=20_000, **base), 300))["snps"]
    many = summaries(spectra(fixed_settings(sequence_length=1_000, n_loci=20, **base), 300))["snps"]
    assert abs(one.mean() - many.mean()) < 4 * (one.var() / 300 + many.var() / 300) ** 0.5
    # Var(S) = E(S) + what the genealogy adds, which shrinks by the number of independent loci.
    by_genealogy = [snps.var() - snps.mean() for snps in (one, many)]
    assert by_genealogy[0] / by_genealogy[1] == pytest.approx(20, rel=0.5)


def test_parameters_follow_their_priors():
    settings = runml.SimulationSettings(
        migration_prior=runml.Prior(1e-7, 1e-4, "log"),
        gene_flow_start=runml.Prior(0, 1),
        gene_flow_stop=runml.Prior(0, 1),
        asymmetric=True,
    )
    draws = np.array([runml.draw_row(settings, runml.TRAINING_SET, row)[0] for row in range(4_000)])
    flow = draws[1::2]
    for name, prior in {
        "divergence_time": settings.tdiv_prior,
        "size_ancestor": settings.ne_prior,
        "size_a": settings.ne_prior,
        "size_b": settings.ne_prior,
    }.items():
        uniform = stats.uniform(prior.low, prior.high - prior.low)
        assert stats.kstest(flow[name], uniform.cdf).pvalue > 1e-3, name
    for name in ("migration_a_to_b", "migration_b_to_a"):
        assert not draws[name][::2].any()
        assert stats.kstest(np.log10(flow[name]), stats.uniform(-7, 3).cdf).pvalue > 1e-3
    start, stop = (flow[f"gene_flow_{end}"] / flow["divergence_time"] for end in ("start", "stop"))
    assert stats.kstest(start, stats.beta(2, 1).cdf).pvalue > 1e-3  # the larger of two
    assert stats.kstest(stop, stats.beta(1, 2).cdf).pvalue > 1e-3  # the smaller
    names = ("size_ancestor", "size_a", "size_b", "divergence_time", "migration_a_to_b")
    independent = np.array([*(flow[name] for name in names), flow["migration_b_to_a"]])
    assert np.abs(np.corrcoef(np.log(independent)) - np.eye(6)).max() < 4 / 2_000**0.5


@pytest.mark.parametrize("scale", ["uniform", "log"])
def test_a_prior_whose_ends_meet_fixes_the_value_and_draws_nothing(scale):
    rng = np.random.default_rng(1)
    assert runml.Prior(7.0, 7.0, scale).draw(rng) == 7
    assert rng.random() == np.random.default_rng(1).random()
    assert runml.Prior(1.0, 100.0, scale).middle == {"uniform": 50.5, "log": 10}[scale]


def test_without_asymmetry_migration_is_the_same_both_ways():
    settings = runml.SimulationSettings()
    draws = np.array([runml.draw_row(settings, runml.TRAINING_SET, row)[0] for row in range(20)])
    assert (draws["migration_a_to_b"] == draws["migration_b_to_a"]).all()
    assert (draws["gene_flow_start"] == draws["divergence_time"] / 2).all()
    assert not draws["gene_flow_stop"].any()


@pytest.mark.parametrize("seed", [0, 1, 1234, 2**32 - 1])
def test_training_and_test_sets_spring_from_different_streams(seed):
    streams = runml.TRAINING_SET, runml.TEST_SET, runml.SPLIT, runml.WEIGHTS
    keys = {runml.seed_sequence(seed, stream, 0).spawn_key[: len(stream)] for stream in streams}
    assert len(keys) == 4  # no row number can make two of them equal
    assert runml.TRAINING_SET[0] not in {stream[0] for stream in streams[1:]}
    settings = runml.SimulationSettings(seed=seed)
    draws = [
        {float(runml.draw_row(settings, stream, row)[0]["divergence_time"]) for row in range(500)}
        for stream in (runml.TRAINING_SET, runml.TEST_SET)
    ]
    assert not draws[0] & draws[1]


def test_same_bytes_for_any_number_of_workers(tmp_path):
    settings = runml.SimulationSettings(sequence_length=5_000)
    files = []
    for n_workers in (1, 2, 3):
        folder = tmp_path / str(n_workers)
        folder.mkdir()
        work = runml.WorkSettings(workers=n_workers)
        simulated = runml.Simulated(settings, 30, runml.versions())
        runml.save_dataset(simulated, runml.TRAINING_SET, folder, "simulated", work)
        files.append(dataset_files(folder))
    assert files[0] == files[1] == files[2]
    sfs = np.load(folder / "simulated_sfs.npy")
    assert np.array_equal(sfs, spectra(settings, 60))
    assert np.array_equal(np.load(folder / "simulated_responses.npy"), np.arange(60) % 2)
    parameters = np.load(folder / "simulated_parameters.npy")
    assert parameters.shape == (60,)
    assert (parameters["migration_a_to_b"][::2] == 0).all()
    assert not multiprocessing.active_children()


def test_a_seed_changes_everything_and_alone():
    first, again, other = (
        spectra(runml.SimulationSettings(seed=seed, sequence_length=5_000), 6) for seed in (7, 7, 8)
    )
    assert np.array_equal(first, again)
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
