"""What is simulated, against coalescent theory and against msprime's own ways."""

import multiprocessing

import msprime
import numpy as np
import pytest
from conftest import runml, spectra, summaries
from scipy import stats


def fixed_settings(**changes):
    """Settings whose priors are points, so that expectations are those of one demography."""
    settings = {
        "tdiv_prior": runml.Prior(40_000, 40_000),
        "ne_prior": runml.Prior(20_000, 20_000),
        "migration_prior": runml.Prior(2e-5, 2e-5),
    }
    return runml.SimulationSettings(**settings | changes)


@pytest.mark.parametrize("response", [0, 1], ids=runml.MODELS)
@pytest.mark.parametrize("fraction", [0.5, 1])
def test_diversity_and_fst_meet_their_coalescent_expectations(response, fraction):
    settings = fixed_settings(
        sample_size=runml.PerSpecies(4, 3), sequence_length=2_000, gene_flow_fraction=fraction
    )
    n_rows = 3_000
    sfs = np.stack(
        [runml.simulate_sfs(settings, *draw) for draw in one_model(settings, response, n_rows)]
    )[..., np.newaxis]
    parameters = runml.draw_parameters(settings, response, np.random.default_rng(0))
    debugger = runml.demographic_model(settings, parameters).debug()
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


@pytest.mark.parametrize("fraction", [0.25, 0.5, 1])
def test_gene_flow_lasts_for_its_fraction_of_the_time_since_divergence(fraction):
    settings = fixed_settings(gene_flow_fraction=fraction)
    parameters = runml.draw_parameters(settings, 1, np.random.default_rng(0))
    epochs = runml.demographic_model(settings, parameters).debug().epochs
    with_flow = [epoch for epoch in epochs if np.any(epoch.migration_matrix)]
    assert with_flow[0].start_time == 0
    assert with_flow[-1].end_time == pytest.approx(fraction * settings.tdiv_prior.low)
    assert all(
        epoch.migration_matrix[0, 1] == epoch.migration_matrix[1, 0] == settings.migration_prior.low
        for epoch in with_flow
    )
    assert {"ancestor"} == {population.name for population in epochs[-1].active_populations}
    assert epochs[-1].start_time == settings.tdiv_prior.low

    divergence = runml.draw_parameters(settings, 0, np.random.default_rng(0))
    for epoch in runml.demographic_model(settings, divergence).debug().epochs:
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


def test_parameters_are_uniform_within_the_priors():
    settings = runml.SimulationSettings()
    draws = np.array([runml.draw_row(settings, runml.SIMULATE, row)[0] for row in range(4_000)])
    flow = draws[1::2]
    for name, prior in {
        "divergence_time": settings.tdiv_prior,
        "size_ancestor": settings.ne_prior,
        "size_a": settings.ne_prior,
        "size_b": settings.ne_prior,
        "migration_rate": settings.migration_prior,
    }.items():
        uniform = stats.uniform(prior.low, prior.high - prior.low)
        assert stats.kstest(flow[name], uniform.cdf).pvalue > 1e-3, name
    assert not draws["migration_rate"][::2].any()
    sizes = np.array([flow["size_ancestor"], flow["size_a"], flow["size_b"], flow["divergence_time"]])
    assert np.abs(np.corrcoef(sizes) - np.eye(4)).max() < 4 / 2_000**0.5


@pytest.mark.parametrize("seed", [0, 1, 1234, 2**32 - 1])
def test_training_and_test_sets_grow_on_different_branches(seed):
    branches = {runml.SIMULATE, runml.TEST, runml.TRAIN}
    assert len(branches) == 3
    keys = {branch: runml.random_branch(seed, branch, 0).spawn_key for branch in branches}
    assert len({key[0] for key in keys.values()}) == 3  # no row number can make two of them equal
    settings = runml.SimulationSettings(seed=seed)
    draws = {
        branch: {
            float(runml.draw_row(settings, branch, row)[0]["divergence_time"]) for row in range(500)
        }
        for branch in (runml.SIMULATE, runml.TEST)
    }
    assert not draws[runml.SIMULATE] & draws[runml.TEST]


def test_same_bytes_for_any_number_of_workers(tmp_path):
    settings = runml.SimulationSettings(n_reps=16, sequence_length=5_000)
    files = []
    for n_workers in (1, 2, 3):
        folder = tmp_path / str(n_workers)
        folder.mkdir()
        runml.save_dataset(
            settings, runml.SIMULATE, folder, "simulated", runml.RunSettings(workers=n_workers)
        )
        files.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert files[0] == files[1] == files[2]
    sfs = np.load(folder / "simulated_sfs.npy")
    assert np.array_equal(sfs, spectra(settings, 32))
    assert np.array_equal(np.load(folder / "simulated_responses.npy"), np.arange(32) % 2)
    parameters = np.load(folder / "simulated_parameters.npy")
    assert parameters.shape == (32,)
    assert (parameters["migration_rate"][::2] == 0).all()
    assert not multiprocessing.active_children()


def test_a_seed_changes_everything_and_alone():
    first, again, other = (
        spectra(runml.SimulationSettings(seed=seed, sequence_length=5_000), 6) for seed in (7, 7, 8)
    )
    assert np.array_equal(first, again)
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
