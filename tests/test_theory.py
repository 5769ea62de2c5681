"""The two models against theory: moments' diffusion, closed forms, Markov chains and exact odds."""

import demes
import moments
import numpy as np
import pytest
from conftest import runml
from scipy.linalg import expm

SAMPLE_SIZE = runml.PerSpecies(4, 3)
T, N_ANCESTOR, N_A, N_B = 20_000, 10_000, 5_000, 20_000  # so that none can stand in for another
SHAPES = {  # rates from A to B and from B to A; start and stop in shares of the time since divergence
    "divergence": (0, 0, 0.5, 0),
    "secondary contact": (5e-5, 5e-5, 0.5, 0),
    "isolation with migration": (2e-5, 2e-5, 1, 0),
    "early gene flow": (1e-4, 1e-4, 1, 0.5),
    "mostly from A to B": (8e-5, 1e-5, 0.75, 0.25),
    "only from B to A": (0, 5e-5, 0.5, 0),
}


def record(shape):
    """The parameters of one shape of gene flow."""
    a_to_b, b_to_a, start, stop = SHAPES[shape]
    parameters = np.zeros((), runml.PARAMETERS)
    values = {
        "divergence_time": T,
        "size_ancestor": N_ANCESTOR,
        "size_a": N_A,
        "size_b": N_B,
        "migration_a_to_b": a_to_b,
        "migration_b_to_a": b_to_a,
        "gene_flow_start": start * T,
        "gene_flow_stop": stop * T,
    }
    assert values.keys() == set(runml.PARAMETERS.names)
    for name, value in values.items():
        parameters[name] = value
    return parameters[()]


MUTATION_RATE, LENGTH, N_LOCI = 1e-10, 10_000_000, 40  # rare mutations seldom meet at a site


def simulated(shape, n_rows):
    """Spectra of many loci without recombination: one genealogy each."""
    settings = runml.SimulationSettings(
        sample_size=SAMPLE_SIZE,
        sequence_length=LENGTH,
        n_loci=N_LOCI,
        mutation_rate=MUTATION_RATE,
        recombination_rate=0.0,
    )
    rng = np.random.default_rng(1)
    return np.array([runml.simulate_sfs(settings, record(shape), rng) for _ in range(n_rows)])


def expected_by_moments(parameters, chromosomes):
    """The expected spectrum of one base pair and a mutation rate of 1, from a model written anew.

    Demes tells a history forwards in time. moments closes its equations by an approximation that is
    the better, the larger the samples: these are ten times as large.
    """
    values = {name: float(parameters[name]) for name in runml.PARAMETERS.names}
    history = demes.Builder()
    epochs = [{"start_size": values["size_ancestor"], "end_time": values["divergence_time"]}]
    history.add_deme("ancestor", epochs=epochs)
    for name in ("A", "B"):
        size = values[f"size_{name.lower()}"]
        history.add_deme(name, ancestors=["ancestor"], epochs=[{"start_size": size}])
    window = {"start_time": values["gene_flow_start"], "end_time": values["gene_flow_stop"]}
    for source, dest in ("AB", "BA"):
        if rate := values[f"migration_{source.lower()}_to_{dest.lower()}"]:
            history.add_migration(source=source, dest=dest, rate=rate, **window)
    many = {"A": 10 * chromosomes[0], "B": 10 * chromosomes[1]}
    sfs = moments.Demes.SFS(history.resolve(), samples=many, u=1).project(chromosomes).filled(0)
    sfs[0, 0] = sfs[-1, -1] = 0
    return sfs


def z_scores(values, expected, tolerance):
    """How many standard errors the means of `values` are off, beyond a relative tolerance.

    Were these sums of a few rare families of mutations, their variance would be proportional to their
    mean. So where fewer families than expected were met by chance, the error is made larger.
    """
    mean = values.mean(axis=0)
    error = values.std(axis=0, ddof=1) / len(values) ** 0.5
    error = error * np.sqrt(np.maximum(expected / np.where(mean > 0, mean, 1), 1))
    off = np.maximum(abs(mean - expected) - tolerance * expected, 0)
    return off / np.where(error > 0, error, 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_mean_spectra_are_those_of_moments(shape):
    sfs = simulated(shape, 100)
    chromosomes = [2 * SAMPLE_SIZE.a, 2 * SAMPLE_SIZE.b]
    expected = expected_by_moments(record(shape), chromosomes) * MUTATION_RATE * LENGTH * N_LOCI
    assert z_scores(sfs, expected, tolerance=0.002).max() < 4.5
    # Together, the cells that migrants fill are a sharper measure than each alone.
    shared = [spectra[..., 1:-1, 1:-1].sum(axis=(-2, -1)) for spectra in (sfs, expected)]
    assert z_scores(*shared, tolerance=0.002) < 4


def pairwise_differences(sfs):
    """The mean number of differences within A, within B and between them, of spectra (N, a, b)."""
    n_a, n_b = 2 * SAMPLE_SIZE.a, 2 * SAMPLE_SIZE.b
    i, j = np.indices((n_a + 1, n_b + 1))
    weights = {
        "pi_a": i * (n_a - i) * 2 / (n_a * (n_a - 1)),
        "pi_b": j * (n_b - j) * 2 / (n_b * (n_b - 1)),
        "d_xy": (i * (n_b - j) + (n_a - i) * j) / (n_a * n_b),
    }
    return {name: (sfs * weight).sum(axis=(1, 2)) for name, weight in weights.items()}


def test_diversities_without_gene_flow_are_those_of_closed_forms():
    """Two chromosomes of one species meet in it, or, with probability exp(-T / 2N), in the ancestor.

    The time to meet is then 2N (1 - exp(-T / 2N)) + 2 N_ancestor exp(-T / 2N) in the mean; of two
    chromosomes of different species it is T + 2 N_ancestor. Diversity is twice that time, mutating.
    """
    sfs = simulated("divergence", 150)
    per_generation = 2 * MUTATION_RATE * LENGTH * N_LOCI
    not_yet = {"pi_a": np.exp(-T / (2 * N_A)), "pi_b": np.exp(-T / (2 * N_B))}
    expected = {
        "pi_a": 2 * N_A * (1 - not_yet["pi_a"]) + 2 * N_ANCESTOR * not_yet["pi_a"],
        "pi_b": 2 * N_B * (1 - not_yet["pi_b"]) + 2 * N_ANCESTOR * not_yet["pi_b"],
        "d_xy": T + 2 * N_ANCESTOR,
    }
    for name, measured in pairwise_differences(sfs).items():
        theory = expected[name] * per_generation
        assert z_scores(measured, theory, tolerance=0.001) < 4, name
        assert measured.std() / len(measured) ** 0.5 < 0.02 * theory  # the test is a sharp one


@pytest.mark.parametrize("shape", SHAPES)
def test_migrants_go_the_right_way_at_the_right_rate_and_time(shape):
    """Back in time, a lineage of B moves to A where forwards migrants go from A to B."""
    a_to_b, b_to_a, start, stop = SHAPES[shape]
    debugger = runml.demographic_model(record(shape)).debug()
    assert [population.name for population in debugger.demography.populations][:2] == ["A", "B"]
    backwards = np.array([[-b_to_a, b_to_a], [a_to_b, -a_to_b]])
    for time in np.array([0.1, 0.25, 0.3, 0.5, 0.6, 0.75, 0.8, 0.999]) * T:
        generations = np.clip(time, stop * T, start * T) - stop * T
        where = debugger.lineage_probabilities([time])[0][:2, :2]
        assert np.allclose(where, expm(backwards * generations), rtol=1e-6, atol=1e-9), time
    assert [population.name for population in debugger.epochs[-1].active_populations] == ["ancestor"]
    assert debugger.epochs[-1].start_time == T


def test_sizes_are_those_of_the_record():
    debugger = runml.demographic_model(record("secondary contact")).debug()
    sizes = debugger.population_size_trajectory([0, 0.999 * T, 2 * T])
    assert np.array_equal(sizes[:2, :2], [[N_A, N_B]] * 2)
    assert sizes[2, 2] == N_ANCESTOR


def test_log_odds_of_the_network_are_those_of_exact_likelihoods():
    """With point priors and many unlinked SNPs, both models are known Poisson spectra.

    Rates so low that odds remain: the means are scaled so that the log-likelihood ratio is 2 in the mean
    where its model is true. A network learns large odds last, so the slope is that of odds below 20.
    """
    gene_flow = record("secondary contact")
    gene_flow["migration_a_to_b"] = gene_flow["migration_b_to_a"] = 5e-6
    without, with_flow = (expected_by_moments(p, [6, 4]) for p in (record("divergence"), gene_flow))
    log_ratio = np.log(np.divide(with_flow, without, where=without > 0, out=np.ones_like(without)))
    scale = 4 / ((with_flow - without) * log_ratio).sum()
    without, with_flow = scale * without, scale * with_flow

    rng = np.random.default_rng(1)

    def draw(n_rows):
        responses = np.arange(n_rows) % 2
        spectra = rng.poisson(np.where(responses[:, None, None] == 1, with_flow, without))
        return spectra.astype(np.int32)[..., np.newaxis], responses

    settings = runml.TrainingSettings(layers=1, dropout=0, learning_rate=3e-4, epochs=8, batch_size=1024)
    model, _ = runml.train_network(*draw(40_000), settings)
    spectra, responses = draw(4_000)
    divergence, flow = model.predict(spectra, batch_size=4_000, verbose=0).T.astype(float)
    learned = np.log(flow / divergence)
    exact = (spectra[..., 0] * log_ratio).sum(axis=(1, 2)) - (with_flow - without).sum()
    assert np.percentile(abs(exact), 99) < 8
    middle = abs(exact) < 3
    slope, intercept = np.polyfit(exact[middle], learned[middle], 1)
    assert 0.85 < slope < 1.15
    assert abs(intercept) < 0.2
    assert np.corrcoef(exact, learned)[0, 1] > 0.97

    def log_loss(log_odds):
        return np.logaddexp(0, np.where(responses == 1, -log_odds, log_odds)).mean()

    assert log_loss(learned) < log_loss(exact) + 0.02  # nobody does better than the exact odds
