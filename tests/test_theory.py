"""What is simulated, against moments, closed forms, Markov chains, msprime and tskit."""

import itertools
from dataclasses import replace

import demes
import moments
import msprime
import numpy as np
import pytest
from conftest import dataset_files, run, runml
from scipy import integrate, stats
from scipy.linalg import expm

SAMPLE_SIZE = runml.PerSpecies(4, 3)
T, N_ANCESTOR, N_A, N_B = 20_000, 10_000, 5_000, 20_000  # so that none can stand in for another
MUTATION_RATE, LENGTH, N_LOCI = 1e-10, 10_000_000, 40  # rare mutations seldom recur at a site


def record(**changes):
    """The parameters of one history, point by point."""
    values = {"divergence_time": T, "size_ancestor": N_ANCESTOR, "size_a": N_A, "size_b": N_B}
    values |= {"mutation_rate": MUTATION_RATE, "recombination_rate": 0}
    values |= {f"size_change_{name}": 1 for name in runml.POPULATIONS} | changes
    values = tuple(values.get(name, 0) for name in runml.PARAMETERS.names)
    return np.array(values, runml.PARAMETERS)[()]


def gene_flow(a_to_b, b_to_a, start, stop):
    """The parameters of gene flow; start and stop in proportions of the time since divergence."""
    rates = {"migration_a_to_b": a_to_b, "migration_b_to_a": b_to_a}
    return rates | {"gene_flow_start": start * T, "gene_flow_stop": stop * T}


SIZES_CHANGE = {
    **{"size_change_ancestor": 2, "size_change_time_ancestor": 1.5 * T},
    **{"size_change_a": 0.2, "size_change_time_a": 0.1 * T},
    **{"size_change_b": 3, "size_change_time_b": 0.6 * T},
}
GENE_FLOW = {
    "divergence": {},
    "secondary contact": gene_flow(5e-5, 5e-5, 0.5, 0),
    "isolation with migration": gene_flow(2e-5, 2e-5, 1, 0),
    "early gene flow": gene_flow(1e-4, 1e-4, 1, 0.5),
    "mostly from A to B": gene_flow(8e-5, 1e-5, 0.75, 0.25),
    "only from B to A": gene_flow(0, 5e-5, 0.5, 0),
}
HISTORIES = GENE_FLOW | {
    "sizes change": SIZES_CHANGE,
    "sizes change in secondary contact": SIZES_CHANGE | gene_flow(5e-5, 1e-5, 0.5, 0),
}


def simulated(parameters, n_rows, **changes):
    """Spectra of one history, shape (N, a, b, 1): many loci of one genealogy each."""
    loci = {"sample_size": SAMPLE_SIZE, "sequence_length": LENGTH, "n_loci": N_LOCI}
    settings, rng = runml.SimulationSettings(**loci | changes), np.random.default_rng(1)
    sfs = [runml.simulate_sfs(settings, parameters, rng) for _ in range(n_rows)]
    return np.array(sfs)[..., np.newaxis]


def expected_by_moments(parameters):
    """The expected spectrum of one base pair and a mutation rate of 1, from a model written anew.

    Demes tells a history forwards in time. moments closes its equations by an approximation that
    is the better, the larger the samples: these are ten times as large.
    """
    values = {name: float(parameters[name]) for name in runml.PARAMETERS.names}
    history = demes.Builder()
    for deme, name in (("ancestor", "ancestor"), ("A", "a"), ("B", "b")):
        end = values["divergence_time"] if deme == "ancestor" else 0
        size, factor = values[f"size_{name}"], values[f"size_change_{name}"]
        change = values[f"size_change_time_{name}"]
        epochs = [{"start_size": size, "end_time": change}] if factor != 1 else []
        epochs.append({"start_size": size * factor, "end_time": end})
        ancestors = [] if deme == "ancestor" else ["ancestor"]
        history.add_deme(deme, ancestors=ancestors, epochs=epochs)
    window = {"start_time": values["gene_flow_start"], "end_time": values["gene_flow_stop"]}
    for source, dest in ("AB", "BA"):
        if rate := values[f"migration_{source.lower()}_to_{dest.lower()}"]:
            history.add_migration(source=source, dest=dest, rate=rate, **window)
    chromosomes = {"A": 2 * SAMPLE_SIZE.a, "B": 2 * SAMPLE_SIZE.b}
    many = {name: 10 * n for name, n in chromosomes.items()}
    sfs = moments.Demes.SFS(history.resolve(), samples=many, u=1)
    sfs = sfs.project([*chromosomes.values()]).filled(0)
    sfs[0, 0] = sfs[-1, -1] = 0
    return sfs


def z_scores(values, expected, tolerance):
    """How many standard errors the means of `values` are off, beyond a relative tolerance.

    Were these sums of a few rare families of mutations, their variance would be proportional to
    their mean. So where fewer than expected were met by chance, the error is made larger.
    """
    mean = values.mean(axis=0)
    error = values.std(axis=0, ddof=1) / len(values) ** 0.5
    error = error * np.sqrt(np.maximum(expected / np.where(mean > 0, mean, 1), 1))
    off = np.maximum(abs(mean - expected) - tolerance * expected, 0)
    return off / np.where(error > 0, error, 1)


# ------------------------------- genealogies and mutations on them -------------------------------


@pytest.mark.parametrize("history", HISTORIES)
def test_mean_spectra_are_those_of_moments(history):
    parameters = record(**HISTORIES[history])
    sfs = simulated(parameters, 60)[..., 0]
    expected = expected_by_moments(parameters) * MUTATION_RATE * LENGTH * N_LOCI
    assert z_scores(sfs, expected, tolerance=0.002).max() < 4.5
    # Together, the cells that migrants fill are a sharper measure than each alone.
    shared = [spectra[..., 1:-1, 1:-1].sum(axis=(-2, -1)) for spectra in (sfs, expected)]
    assert z_scores(*shared, tolerance=0.002) < 4


def mean_meeting_time(*sizes):
    """When two chromosomes meet, in the mean, by the (end, diploid individuals) of each epoch."""
    mean, apart, start = 0, 1, 0
    for end, size in sizes:
        meet = 1 - np.exp(-(end - start) / (2 * size))
        mean, apart, start = mean + apart * 2 * size * meet, apart * (1 - meet), end
    return mean


@pytest.mark.parametrize("changes", [{}, SIZES_CHANGE], ids=["constant", "sizes change"])
def test_diversities_without_gene_flow_are_those_of_closed_forms(changes):
    """Two chromosomes meet in their own species, or before the divergence in the ancestor."""
    parameters = record(**changes)
    found = runml.summarise(simulated(parameters, 100))
    factors = {name: parameters[f"size_change_{name}"] for name in runml.POPULATIONS}
    times = {name: parameters[f"size_change_time_{name}"] for name in runml.POPULATIONS}
    late = N_ANCESTOR * factors["ancestor"]
    ancestor = [(max(times["ancestor"], T), late), (np.inf, N_ANCESTOR)]
    since = [(end - T, size) for end, size in ancestor]
    expected = {
        "pi in A": mean_meeting_time((times["a"], N_A * factors["a"]), (T, N_A), *ancestor),
        "pi in B": mean_meeting_time((times["b"], N_B * factors["b"]), (T, N_B), *ancestor),
        "d_XY": T + mean_meeting_time(*since),
    }
    for name, generations in expected.items():
        theory = 2 * generations * MUTATION_RATE * LENGTH * N_LOCI
        assert z_scores(found[name], theory, tolerance=0.001) < 4, name
        assert found[name].std() / len(found) ** 0.5 < 0.02 * theory  # the test is a sharp one


@pytest.mark.parametrize(("rho", "n_loci"), [(0, 1), (0, 10), (20, 1)])
def test_recombination_and_loci_make_sites_independent(rho, n_loci):
    """The variance of the differences between two chromosomes of one population (Hudson 1983)."""
    theta, n, length = 20, 1_000, 1_000_000
    rate = theta / (4 * N_A * length * n_loci)
    parameters = record(
        size_ancestor=N_A, mutation_rate=rate, recombination_rate=rho / (4 * N_A * length)
    )
    few = {"sample_size": runml.PerSpecies(1, 1), "sequence_length": length, "n_loci": n_loci}
    found = runml.summarise(simulated(parameters, n, **few))["pi in A"]

    def correlation(x):  # of the times at which two sites meet
        return (x + 18) / (x**2 + 13 * x + 18)

    linked = 1
    if rho:
        linked = 2 / rho**2 * integrate.quad(lambda x: (rho - x) * correlation(x), 0, rho)[0]
    expected = theta + theta**2 * linked / n_loci
    squares = (found - found.mean()) ** 2
    assert abs(squares.mean() - expected) < 4 * squares.std() / n**0.5
    assert abs(found.mean() - theta) < 4 * (expected / n) ** 0.5


def shared_and_fixed(sfs):
    """All SNPs, those polymorphic in both species, and fixed differences; each of shape (N,)."""
    both, fixed = sfs[:, 1:-1, 1:-1].sum(axis=(1, 2)), sfs[:, 0, -1] + sfs[:, -1, 0]
    return {"all": sfs.sum(axis=(1, 2)), "shared": both, "fixed": fixed}


@pytest.mark.parametrize("label", [0, 1], ids=runml.MODELS)
def test_mutations_recur_as_those_of_msprime(label, monkeypatch):
    """On the same genealogies: with what is added, without, and as msprime places mutations."""
    settings = runml.SimulationSettings(
        sample_size=runml.PerSpecies(5, 4),
        sequence_length=20_000,
        tdiv_prior=runml.Prior(400_000, 400_000),
        ne_prior=runml.Prior(50_000, 50_000),
        migration_prior=runml.Prior(1e-6, 1e-6),
    )
    genealogies, alone, n_rows, rng = [], [], 250, np.random.default_rng(1)

    def sim_ancestry(*args, simulate=msprime.sim_ancestry, **kwargs):
        genealogies.extend(simulate(*args, **kwargs))
        return genealogies[-1:]

    def add(mutations, *args, add=runml.add_recurrent_mutations):
        alone.append(mutations)
        return add(mutations, *args)

    monkeypatch.setattr(msprime, "sim_ancestry", sim_ancestry)
    monkeypatch.setattr(runml, "add_recurrent_mutations", add)
    parameters = runml.draw_parameters(settings, label, rng)
    ours = np.array([runml.simulate_sfs(settings, parameters, rng) for _ in range(n_rows)])
    theirs = []
    for seed, trees in enumerate(genealogies, 1):
        trees = msprime.sim_mutations(trees, rate=settings.mutation_rate.low, random_seed=seed)
        samples = [trees.samples(population=population) for population in (0, 1)]
        whole = {"polarised": True, "span_normalise": False}
        theirs.append(trees.allele_frequency_spectrum(samples, **whole))
        theirs[-1][0, 0] = theirs[-1][-1, -1] = 0
    alone, theirs = np.array(alone), np.array(theirs)

    def unlike(spectra):
        """Cells whose means differ by more than 4.5 standard errors, and more than 5%."""
        difference = spectra - theirs
        error = difference.std(axis=0) / n_rows**0.5
        beyond = abs(difference.mean(axis=0)) - 0.05 * theirs.mean(axis=0) - 4.5 * error
        return (beyond > 0)[theirs.sum(axis=0) >= 50]

    assert not unlike(ours).any()
    assert unlike(alone).any()  # were each mutation alone at its site
    ours, theirs, alone = map(shared_and_fixed, (ours, theirs, alone))
    for name, values in ours.items():
        assert stats.ks_2samp(values, theirs[name]).pvalue > 1e-3, name
    assert stats.ks_2samp(alone["all"], theirs["all"]).pvalue < 1e-3


@pytest.mark.parametrize(
    ("carriers", "same_nucleotide", "another"),
    [
        (((1, 0), (0, 1)), [(1, 1)], [(0, 1), (1, 0)]),  # on different branches
        (((4, 2), (1, 1)), [(3, 1)], [(1, 1), (3, 1)]),  # one within the other
        (((4, 0), (4, 0)), [], [(4, 0)]),  # on one branch
        (((4, 0), (0, 4)), [], [(0, 4), (4, 0)]),  # what all carry is no SNP
        (((4, 1), (0, 4)), [(4, 1)], [(0, 4), (4, 1)]),  # neither apart nor within
    ],
)
def test_two_mutations_at_one_site_by_hand(carriers, same_nucleotide, another):
    mutations, n, rng = np.zeros((5, 5), int), 900, np.random.default_rng(1)
    np.add.at(mutations, tuple(np.transpose(carriers)), 1)
    found = []
    for _ in range(n):
        sfs = runml.add_recurrent_mutations(mutations, 1, rng)
        found.append([cell for cell in np.ndindex(5, 5) for _ in range(sfs[cell])])
    meet = 1 - np.exp(-(2 - 1 + np.exp(-2)))  # with two mutations at one site in the mean
    expected = {str(same_nucleotide): meet / 3, str(another): 2 * meet / 3}
    apart = str(sorted(carriers))
    expected[apart] = expected.get(apart, 0) + 1 - meet
    assert set(map(str, found)) == set(expected)
    for alleles, probability in expected.items():
        error = (probability * (1 - probability) / n) ** 0.5
        assert abs(sum(str(each) == alleles for each in found) / n - probability) < 4 * error


# ------------------------------------- demographic models -------------------------------------


@pytest.mark.parametrize("history", GENE_FLOW)
def test_migrants_go_the_right_way_at_the_right_rate_and_time(history):
    """Back in time, a lineage of B moves to A where forwards migrants go from A to B."""
    parameters = record(**GENE_FLOW[history])
    a_to_b, b_to_a = parameters["migration_a_to_b"], parameters["migration_b_to_a"]
    start, stop = parameters["gene_flow_start"], parameters["gene_flow_stop"]
    debugger = runml.demographic_model(parameters).debug()
    backwards = np.array([[-b_to_a, b_to_a], [a_to_b, -a_to_b]])
    for time in np.array([0.1, 0.25, 0.3, 0.5, 0.6, 0.75, 0.8, 0.999]) * T:
        where = debugger.lineage_probabilities([time])[0][:2, :2]
        generations = np.clip(time, stop, start) - stop
        assert np.allclose(where, expm(backwards * generations), rtol=1e-6, atol=1e-9), time
    assert [each.name for each in debugger.epochs[-1].active_populations] == ["ancestor"]
    assert debugger.epochs[-1].start_time == T


@pytest.mark.parametrize("factor", [runml.Prior(0.1, 10, "log"), runml.Prior(1, 1)], ids=str)
@pytest.mark.parametrize("label", [0, 1], ids=runml.MODELS)
def test_sizes_are_those_of_the_record(label, factor):
    """Today's size is the factor times that before the change, in both models alike."""
    settings = runml.SimulationSettings(size_change_prior=factor)
    for seed in range(20):
        drawn = runml.draw_parameters(settings, label, np.random.default_rng(seed))
        debugger, divergence = runml.demographic_model(drawn).debug(), drawn["divergence_time"]
        for column, name in enumerate(("a", "b", "ancestor")):
            change, begins = drawn[f"size_change_time_{name}"], divergence * (name == "ancestor")
            before, factor_drawn = drawn[f"size_{name}"], drawn[f"size_change_{name}"]
            times = np.array([begins, change * (1 - 1e-9), change * (1 + 1e-9), 6 * divergence])
            if name != "ancestor":
                times[3] = divergence * (1 - 1e-9)
            sizes = debugger.population_size_trajectory(np.sort(times))[:, column]
            after = before * factor_drawn
            assert sizes == pytest.approx([after, after, before, before]), (name, times)


# ------------------------------------------- priors -------------------------------------------


DISTRIBUTIONS = {
    **{"7": None, "7 7 log": None},
    **{"1 100": stats.uniform(1, 99), "1 100 log": stats.loguniform(1, 100)},
}


@pytest.mark.parametrize("words", DISTRIBUTIONS)
def test_a_prior_is_drawn_from_as_typed(words):
    options = runml.parse_options(["--simulate", "--tdiv_prior", *words.split()])
    typed, rng = options.typed["tdiv_prior"], np.random.default_rng(1)
    draws, distribution = [typed.draw(rng) for _ in range(1_000)], DISTRIBUTIONS[words]
    settings = runml.SimulationSettings(tdiv_prior=typed)
    middle, end = (runml.parameters_at(settings, 0, x)["divergence_time"] for x in (0.5, 1))
    if distribution is None:
        assert {*draws, middle, end} == {7}
    else:
        assert stats.kstest(draws, distribution.cdf).pvalue > 1e-3
        assert middle == pytest.approx(distribution.median())
        assert end == pytest.approx(100)


@pytest.mark.parametrize("label", [0, 1], ids=runml.MODELS)
def test_parameters_follow_their_priors_each_independently(label):
    settings = runml.SimulationSettings(
        mutation_rate=runml.Prior(1e-9, 1e-7, "log"),
        recombination_rate=runml.Prior(0, 1e-8),
        size_change_prior=runml.Prior(0.1, 10, "log"),
        migration_prior=runml.Prior(1e-7, 1e-4, "log"),
        gene_flow_start=runml.Prior(0, 1),
        gene_flow_stop=runml.Prior(0, 1),
        asymmetric=True,
    )
    n = 2_000
    streams = [runml.random_stream(5, runml.TRAINING_SET, row) for row in range(n)]
    drawn = np.array([runml.draw_parameters(settings, label, stream) for stream in streams])
    values = {name: drawn[name].copy() for name in runml.PARAMETERS.names}
    expected = {
        "divergence_time": stats.uniform(50_000, 450_000),
        "gene_flow_start": stats.beta(2, 1),  # the larger of two
        "gene_flow_stop": stats.beta(1, 2),  # the smaller
        "mutation_rate": stats.loguniform(1e-9, 1e-7),
        "recombination_rate": stats.uniform(0, 1e-8),
        "size_change_time_ancestor": stats.loguniform(1, 5),
    }
    expected |= {f"size_{name}": stats.uniform(10_000, 90_000) for name in runml.POPULATIONS}
    expected |= {f"size_change_{name}": stats.loguniform(0.1, 10) for name in runml.POPULATIONS}
    expected |= {f"size_change_time_{name}": stats.loguniform(0.005, 1) for name in "ab"}
    for name in ("migration_a_to_b", "migration_b_to_a"):
        if label:
            expected[name] = stats.loguniform(1e-7, 1e-4)
        else:
            assert not values.pop(name).any()
    assert values.keys() == expected.keys()
    for name in values:
        if name.startswith(("gene_flow_", "size_change_time_")):
            values[name] /= drawn["divergence_time"]
        assert stats.kstest(values[name], expected[name].cdf).pvalue > 1e-4, name
    del values["gene_flow_start"]  # the smaller it is, the smaller is the end
    ranks = [stats.rankdata(each) for each in values.values()]
    ranks += [np.roll(each, 1) for each in ranks]  # nor do rows depend on the ones before
    assert abs(np.corrcoef(ranks) - np.eye(len(ranks))).max() < 4.5 / n**0.5


def test_the_lesson_has_symmetric_secondary_contact_and_constant_sizes():
    settings = runml.SimulationSettings()
    drawn = [runml.draw_parameters(settings, 1, np.random.default_rng(i)) for i in range(20)]
    drawn = np.array(drawn)
    assert (drawn["migration_a_to_b"] == drawn["migration_b_to_a"]).all()
    assert (drawn["gene_flow_start"] == drawn["divergence_time"] / 2).all()
    assert not drawn["gene_flow_stop"].any()
    assert {*drawn["size_change_a"], *drawn["size_change_b"], *drawn["size_change_ancestor"]} == {1}


def test_spectra_are_simulated_under_the_mutation_rates_that_are_saved():
    settings = runml.SimulationSettings(
        sample_size=runml.PerSpecies(2, 2),
        sequence_length=20_000,
        tdiv_prior=runml.Prior(40_000, 40_000),
        ne_prior=runml.Prior(20_000, 20_000),
        mutation_rate=runml.Prior(1e-9, 1e-7, "log"),
        recombination_rate=runml.Prior(1e-9, 1e-8),
    )
    block = runml.simulate_block(settings, runml.TRAINING_SET, range(0, 800, 2))
    rates = block["parameters"]["mutation_rate"]
    generations = settings.tdiv_prior.low + 2 * settings.ne_prior.low
    ratio = runml.summarise(block["sfs"])["d_XY"] / (2 * rates * 20_000 * generations)
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / len(ratio) ** 0.5
    assert rates.max() > 50 * rates.min()


# ------------------------------------------ a dataset ------------------------------------------


def test_models_take_turns_and_labels_travel_with_their_spectra():
    settings = runml.SimulationSettings(sample_size=SAMPLE_SIZE, sequence_length=2_000)
    whole = runml.simulate_block(settings, runml.TRAINING_SET, range(10))
    part = runml.simulate_block(settings, runml.TRAINING_SET, range(3, 8))
    for name, rows in part.items():
        assert np.array_equal(rows, whole[name][3:8]), name
    assert np.array_equal(whole["responses"], np.arange(10) % 2)
    migrates = whole["parameters"]["migration_a_to_b"] > 0
    assert np.array_equal(migrates, whole["responses"] == 1)
    sfs = whole["sfs"]
    assert sfs.dtype == np.int32
    assert sfs.shape == (10, 9, 7, 1)
    assert sfs.min() == 0
    assert sfs.sum(axis=(1, 2, 3)).min() > 0
    assert not sfs[:, [0, -1], [0, -1]].any()  # the corners hold no SNPs


STREAMS = (runml.TRAINING_SET, runml.TEST_SET)


@pytest.mark.parametrize("seed", [0, 1234, 2**32 - 1])
def test_streams_of_random_numbers_never_meet(seed):
    of_rows = itertools.product(STREAMS, range(300))
    streams = [runml.random_stream(seed, *each) for each in of_rows]
    streams += [runml.random_stream(seed, stream) for stream in (runml.SPLIT, runml.WEIGHTS)]
    assert len({stream.integers(2**63) for stream in streams}) == len(streams) == 602
    settings = runml.SimulationSettings(seed=seed, sequence_length=2_000)
    blocks = [runml.simulate_block(settings, stream, range(4)) for stream in STREAMS]
    assert not np.array_equal(*(block["sfs"] for block in blocks))


def test_same_bytes_for_the_same_seed_and_any_number_of_workers(tmp_path, capsys, no_pictures):
    for n in (1, 2):
        words = ("--n_reps", 30, "--sequence_length", 2_000, "--workers", n)
        assert run(capsys, "--simulate", *words, "--data_dir", tmp_path / f"{n}")[0] == 0
    one, two = (dataset_files(tmp_path / f"{n}") for n in (1, 2))
    assert one == two
    settings = runml.SimulationSettings(sequence_length=2_000)
    block = runml.simulate_block(settings, runml.TRAINING_SET, range(60))  # in one go
    for name, rows in block.items():
        saved = np.load(tmp_path / "1" / f"simulated_{name}.npy")
        assert saved.dtype == rows.dtype
        assert np.array_equal(saved, rows), name
    other = runml.simulate_block(replace(settings, seed=1235), runml.TRAINING_SET, range(60))
    assert not (other["sfs"] == block["sfs"]).all(axis=(1, 2, 3)).any()
