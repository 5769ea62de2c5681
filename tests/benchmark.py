"""How good, how fast and how large the commands are, each against its reference in the same run.

    python tests/benchmark.py                                # everything, a night on two cores
    python tests/benchmark.py startup memory                 # only these parts
    python tests/benchmark.py --work FOLDER                  # keep what is simulated and trained
    python tests/benchmark.py --work FOLDER --scale 0.02     # a quick look: small, and not good

Each part prints rows of a Markdown table as it ends. What it measures, and its minutes on two quiet
cores; the first to need the 50,000 test spectra takes 15 more:

    startup       1   until `--help`, and a usage error
    simulation    8   the rate against the plain pipeline; the time against `sim_ancestry` alone
    accuracy     15   of the lesson's settings, five seeds; `--train` against the usual small CNN
    mistakes      1   which pairs of species the first of these networks mistakes
    more         12   what more simulations bring, and whether `--test` says so
    small         2   a thousand replicates, from nothing
    young         3   species that parted lately, with few migrants
    large        10   samples of 10 to 250 individuals
    memory        3   of the largest process of each command
    scale        12   Dask; memory and number of replicates; a killed run, its rest and its workers
    cost          1   how a spectrum's CPU time grows with the settings
    opinion      15   what the checks of fit say of fresh spectra, and of histories in neither model
    silent       25   harm to the data that nobody tells: what becomes of the verdicts
    projection    4   what it does to the answer that projected counts are smooth
    undecided     3   how many fresh spectra are told, and how many of these wrongly
    sizes        25   a prior of changes of size, on populations that changed and that did not
    networks      3   how networks differ that differ in the training's seed
    bootstrap     8   the block bootstrap against independent samples of the same history
    catalogue    45   published histories, from stdpopsim, under priors as one would choose them
    architecture 10   without convolution, and the usual CNN: is it architecture or representation?
    tests         6   pytest's time against the main job's
    lesson      100   the lesson's experiments, ten seeds each

A folder kept by `--work` serves one version of the script: what is in there is not looked at again.

Times are wall-clock seconds of whole commands, start-up and TensorFlow's import included, or until
a command prints that its results are saved, before it draws pictures. Where a median is printed,
program and reference ran in turn. Accuracy is measured on spectra with finite-sites mutations
(`msprime.sim_mutations` as it comes, SFS by sites), which no training sees. One set is not enough:
its accuracy has a standard error of 0.0005, and the same networks differed by 0.002 from one set to
another. Standard errors are over test spectra, of the mean of all networks on each.
"""

import argparse
import contextlib
import copy
import functools
import importlib.util
import io
import json
import logging
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import Machine_Learning_for_Population_Genetics_V2 as runml  # noqa: E402
from Machine_Learning_for_Population_Genetics_V2 import PerSpecies, Prior  # noqa: E402

SCRIPT = [sys.executable, ROOT / "Machine_Learning_for_Population_Genetics_V2.py"]
TRAIN = [*SCRIPT, *"--train --layers 2 --dropout 0.2 --epochs 10 --learning_rate 1e-05".split()]
EASY = runml.SimulationSettings()  # the lesson's two questions
YOUNG = replace(EASY, tdiv_prior=Prior(5e3, 5e4), migration_prior=Prior(1e-6, 1e-5))
SIZES = {"size_change_prior": Prior(0.03, 10, "log")}
SEEDS = (1, 2, 3, 4, 5)  # of simulation and training both
TEST_SEEDS = (20_000, 20_001, 20_002, 20_003, 20_004)
N_TEST = 10_000  # spectra of each
N_WORKERS = 2
RUN = runml.RunSettings(workers=N_WORKERS)
PLAIN = (99,)  # a stream of random numbers that no command uses
SPAWN = multiprocessing.get_context("spawn")

# ==================================== What the parts share ====================================


def row(*cells):
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def heading(*cells):
    row(*cells)
    print("|---" * len(cells) + "|", flush=True)


def timed(*words, until="", **kwargs):
    """Seconds until a command prints a text, or its last line, and until it ends."""
    start, seconds = time.perf_counter(), 0
    words = [str(word) for word in words]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, **kwargs) as process:
        for line in process.stdout:
            seconds = time.perf_counter() - start if until in line else seconds
    if process.returncode or not seconds:
        raise SystemExit(f"failed: {' '.join(words)}")
    return seconds, time.perf_counter() - start


def peak_memory(*words, with_children=True):
    """The largest resident set, in MB, of any one process that a command ran, or of the first."""
    quiet, peak = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}, 0
    root = psutil.Popen([str(word) for word in words], **quiet)
    while root.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [root, *(root.children(recursive=True) if with_children else [])]:
                peak = max(peak, process.memory_info().rss)
        time.sleep(0.02)
    if root.returncode:
        raise SystemExit(f"failed: {' '.join(map(str, words))}")
    return peak / 1e6


def median_ratio(measured, reference):
    return statistics.median(ours / other for ours, other in zip(measured, reference, strict=True))


def with_error(values, digits=4):
    """The mean over spectra, the last axis, of what networks, the first if there are two, do."""
    each = np.mean(np.atleast_2d(values), axis=0)
    error = each.std(ddof=1) / len(each) ** 0.5
    return f"{each.mean():.{digits}f} ± {error:.{digits + 1}f}"


def with_range(values):
    return f"{np.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


@dataclass(frozen=True)
class History:
    """What a spectrum is simulated under: one of the script's models, or one that it has not."""

    label: int | None = None  # of which model parameters are drawn; None: of both, in turn
    truth: int | None = None  # what would be right: have A and B exchanged genes?
    change: Callable = runml.demographic_model  # from parameters to a `msprime.Demography`
    priors: dict = field(default_factory=dict)  # other ones
    target: str = ""  # how many are to be flagged


def with_events(parameters, *events, others=()):
    """The script's demography and more: events, by the names of msprime's methods; populations."""
    demography = runml.demographic_model(parameters)
    for name in others:
        demography.add_population(name=name, initial_size=parameters["size_ancestor"])
    for name, event in events:
        getattr(demography, f"add_{name}")(**event)
    demography.sort_events()
    return demography


def gave(giver, receiver, share, ago):
    """The event by which one gives another a share of its genome; msprime goes backwards."""
    event = {"time": ago, "source": receiver, "dest": giver, "proportion": share}
    return "mass_migration", event


def pulse(share, ago):
    """A gave B a share of its genome, once."""
    return lambda parameters: with_events(parameters, gave("A", "B", share, ago))


def ghost(receivers, share_of_time=None):
    """A third species, that had diverged twice as long ago, gave 15% to each of the receivers."""

    def change(parameters):
        age = parameters["divergence_time"]
        ago = age * share_of_time if share_of_time else 2_000
        events = [gave("ghost", name, 0.15, ago) for name in receivers]
        root = {"time": 2 * age, "derived": ["ancestor", "ghost"], "ancestral": "root"}
        events.append(("population_split", root))
        return with_events(parameters, *events, others=("ghost", "root"))

    return change


def changed(**values):
    """Some parameters have other values."""

    def change(parameters):
        parameters = parameters.copy()
        for name, value in values.items():
            parameters[name] = value
        return runml.demographic_model(parameters)

    return change


def resized(species, factor, ago):
    """Some species are so many times as large today as they were until some generations ago."""
    changes = {f"size_change_{name}": factor for name in species}
    return changed(**changes | {f"size_change_time_{name}": ago for name in species})


AS_SIMULATED = "as simulated"
HUMAN_ANCESTOR = {"size_ancestor": 7_310, "size_a": 14_474, "size_b": 14_474}
HUMAN_ANCESTOR |= {"size_change_ancestor": 14_474 / 7_310, "size_change_time_ancestor": 5_920}
EARLY = {"gene_flow_start": Prior(1, 1), "gene_flow_stop": Prior(0.5, 0.5)}
HISTORIES = {
    AS_SIMULATED: History(),
    "one pulse of 12%, 1,500 generations ago": History(0, 1, pulse(0.12, 1_500), {}, "≥ 76%"),
    "one pulse of 12%, 15,000 ago": History(0, 1, pulse(0.12, 15_000), {}, "≥ 60%"),
    "one pulse of 1%, 1,500 ago": History(0, 1, pulse(0.01, 1_500), {}, "above 24%"),
    "one pulse of 1%, 15,000 ago": History(0, 1, pulse(0.01, 15_000), {}, "above 18%"),
    "a ghost gave 15% to both, 2,000 ago": History(0, 0, ghost("AB"), {}, "≥ 95%"),
    "a ghost gave 15% to B, 2,000 ago": History(0, 0, ghost("B"), {}, "≥ 91%"),
    "a ghost gave 15% to B, after 9/10 of the time": History(0, 0, ghost("B", 0.1)),
    "both crashed to 3%, 3,000 ago": History(0, 0, resized("ab", 0.03, 3_000), {}, "≥ 98%"),
    "B crashed to 3%, 3,000 ago": History(0, 0, resized("b", 0.03, 3_000), {}, "≥ 66%"),
    "B crashed to 3%, 1,000 ago": History(0, 0, resized("b", 0.03, 1_000), {}, "≥ 66%"),
    "B crashed to 3%, 1,000 ago, gene flow": History(1, 1, resized("b", 0.03, 1_000)),
    "both grew tenfold, 5,000 ago": History(0, 0, resized("ab", 10, 5_000), {}, "above 3%"),
    "split 5,000 to 25,000 ago": History(0, 0, priors={"tdiv_prior": Prior(5e3, 25e3)}),
    "early gene flow only": History(1, 1, priors=EARLY),
    "gene flow all the time": History(1, 1, priors={"gene_flow_start": Prior(1, 1)}),
    "split 2,040 ago, ancestor grew from 7,310 to 14,474, 5,920 ago": History(
        0, 0, changed(divergence_time=2_040, **HUMAN_ANCESTOR)
    ),
}
*MISFITS, YOUNG_ANCESTOR = list(HISTORIES)[1:]


def drawn(settings, index, label=None):
    """The parameters of one spectrum, and the random numbers that go on to make it."""
    rng = runml.random_stream(settings.seed, PLAIN, index)
    label = index % 2 if label is None else label
    return runml.draw_parameters(settings, label, rng), rng


def genealogies(settings, parameters, demography, rng, names=("A", "B")):
    """The bare `sim_ancestry` call of one spectrum, locus by locus."""
    import msprime

    sizes = settings.sample_size.a, settings.sample_size.b
    return msprime.sim_ancestry(
        samples=dict(zip(names, sizes, strict=True)),
        demography=demography,
        sequence_length=settings.sequence_length,
        recombination_rate=parameters["recombination_rate"],
        num_replicates=settings.n_loci,
        random_seed=rng.integers(1, 2**32),
    )


def loci_by_sites(settings, parameters, demography, rng, names=("A", "B")):
    """The plain pipeline: ancestry, finite-sites mutations, an SFS by sites of each locus."""
    import msprime

    populations, spectra = [demography[name].id for name in names], []
    for trees in genealogies(settings, parameters, demography, rng, names):
        seed = rng.integers(1, 2**32)
        mutated = msprime.sim_mutations(trees, parameters["mutation_rate"], random_seed=seed)
        samples = [mutated.samples(population=population) for population in populations]
        form = {"polarised": True, "span_normalise": False}
        spectra.append(mutated.allele_frequency_spectrum(samples, **form))
    mask = runml.snp_mask(runml.sfs_shape(settings.sample_size))[..., 0]
    return (np.stack(spectra) * mask).astype(np.int32)


def plain_spectrum(settings, index, name=AS_SIMULATED):
    """One SFS under one of the `HISTORIES`."""
    history = HISTORIES[name]
    settings = replace(settings, **history.priors)
    parameters, rng = drawn(settings, index, history.label)
    return loci_by_sites(settings, parameters, history.change(parameters), rng).sum(axis=0)


def on_all_cores(function, tasks):
    """What a function of this file returns for each task, a tuple of its arguments."""
    return np.stack(list(runml.in_parallel(function, tasks, RUN)))


@dataclass(frozen=True)
class Bench:
    """Where simulations and networks are kept, and how small a quick look makes them."""

    work: Path
    scale: float

    def n(self, full, least=30):
        """A number of replicates or spectra, scaled."""
        return max(least, round(self.scale * full))

    def folder(self, kind, *described):
        """The folder of what is so described."""
        folder = self.work / f"{kind}_{runml.fingerprint(described)}"
        folder.mkdir(exist_ok=True)
        return folder

    def simulated(self, settings, n_reps):
        """A folder with a dataset, simulated once."""
        folder = self.folder("simulated", runml.as_saved(settings), n_reps)
        if not (folder / "simulated_sfs.npy").exists():
            with contextlib.redirect_stdout(io.StringIO()):
                runml.simulate(folder, specification(settings, n_reps), RUN)
        return folder

    def trained(self, settings, n_reps, **training):
        """A network, trained once: at the lesson's settings, but for some, and the data's seed."""
        training = runml.TrainingSettings(**{"seed": settings.seed} | training)
        saved = runml.as_saved(settings), n_reps, runml.as_saved(training)
        folder = self.folder("trained", *saved)
        if not (folder / runml.MODEL).exists():
            dataset = runml.load_dataset(self.simulated(settings, n_reps))
            with contextlib.redirect_stdout(io.StringIO()):
                runml.train(folder, training, [], dataset)
        return runml.load_network(folder / runml.MODEL)

    def plain(self, settings, n, name=AS_SIMULATED):
        """Spectra by the plain pipeline, made once, (n, a, b, 1), and the true labels."""
        folder = self.folder("plain", runml.as_saved(settings), name, n)
        if not (folder / "sfs.npy").exists():
            spectra = on_all_cores(plain_spectrum, [(settings, row, name) for row in range(n)])
            np.save(folder / "sfs.npy", spectra[..., np.newaxis])
        truth = HISTORIES[name].truth
        labels = np.arange(n) % 2 if truth is None else np.full(n, truth)
        return np.load(folder / "sfs.npy"), labels

    def test_sets(self, settings, n_sets=len(TEST_SEEDS), n_test=N_TEST):
        """Some sets of spectra to test on, one behind the other, and their labels."""
        seeds = TEST_SEEDS[:n_sets]
        sets = [self.plain(replace(settings, seed=seed), self.n(n_test)) for seed in seeds]
        return [np.concatenate(arrays) for arrays in zip(*sets, strict=True)]


def specification(settings, n_reps):
    used = runml.versions("msprime", "tskit", "numpy")
    return runml.DatasetSpecification(settings, n_reps, used)


def scores(probabilities, labels):
    """Of each spectrum whether it is told rightly, and the loss."""
    of_true = probabilities[np.arange(len(labels)), labels] / probabilities.sum(axis=1)
    return probabilities.argmax(axis=1) == labels, -np.log(np.maximum(of_true, 1e-15))


def scores_of(networks, sfs, labels):
    """The same by several networks, shape (networks, N) each."""
    given = [runml.predict_probabilities(network.model, sfs) for network in networks]
    return [np.array(each) for each in zip(*(scores(some, labels) for some in given), strict=True)]


def mistakes_of_each(networks, sfs, labels):
    """Mistakes per 10,000, by each classifier, the mean of several networks and their tables."""
    right, dataset = scores_of(networks, sfs, labels)[0], SimpleNamespace(sfs=sfs, labels=labels)
    accuracies = [runml.baseline_accuracies(network, dataset) for network in networks]
    means = {name: np.mean([each[name] for each in accuracies]) for name in accuracies[0]}
    means = {"network": right.mean()} | means
    return ", ".join(f"{name} {10_000 * (1 - mean):.0f}" for name, mean in means.items())


def by_set(values, n_sets=len(TEST_SEEDS)):
    """The means of each test set, of what networks, the first axis, do."""
    means = np.reshape(values, (len(values), n_sets, -1)).mean(axis=(0, 2))
    return f"{n_sets} sets: " + ", ".join(f"{mean:.4f}" for mean in means)


class Verdicts:
    """What `--predict` says of spectra."""

    def __init__(self, network, sfs, truth):
        fits, names = fits_of(network), np.array(runml.MODELS)[truth]
        said = []
        for counts in sfs[..., 0]:
            observed = runml.Observed(np.array(counts, float), network.settings.folded)
            said.append(runml.make_prediction(Path("spectrum"), observed, network, fits))
        verdicts = np.array([each.verdict for each in said])
        self.told, self.undecided = np.isin(verdicts, runml.MODELS), verdicts == "undecided"
        self.wrong, self.outside = self.told & (verdicts != names), verdicts == "out of range"
        self.as_gene_flow = verdicts == "gene flow"
        self.refused = ~self.told & ~self.undecided
        limits = [runml.false_alarms(each.n_simulated) for each in said]
        self.warned = np.array([each.p_after for each in said]) <= limits
        self.network_right = np.array([each.favoured for each in said]) == truth

    def __str__(self):
        told, wrong, undecided, refused, warned = (
            getattr(self, name).sum()
            for name in ("told", "wrong", "undecided", "refused", "warned")
        )
        return (
            f"{told} told, {wrong} of them wrongly; {undecided} undecided, {refused} refused; "
            f"{warned} with a warning"
        )


@functools.lru_cache(4)
def fits_of(network):
    return [runml.ModelFit(network.table.of_model(label)) for label in range(2)]


def usual_cnn(inputs, labels, seed, learning_rate):
    """The usual small CNN, fitted: two convolutions with pooling, no data augmentation."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    training, validation = runml.split_rows(labels, seed)
    model = keras.Sequential([keras.Input(inputs.shape[1:])])
    for _ in range(2):
        model.add(layers.Conv2D(10, 3, activation="relu"))
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    for units in (64, 32):
        model.add(layers.Dense(units, activation="relu"))
        model.add(layers.Dropout(0.2))
    model.add(layers.Dense(2, activation="softmax"))
    loss = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    model.compile(keras.optimizers.Adam(learning_rate), **loss)
    unseen = {"validation_data": (inputs[validation], labels[validation])}
    fit = {"batch_size": 128, "epochs": 10, "verbose": 0}
    model.fit(inputs[training], labels[training], **fit, **unseen)
    return model


# ========================================= The parts =========================================


def part_startup(bench):
    def median(*words):
        times = []
        for _ in range(bench.n(15, 3)):
            start = time.perf_counter()
            subprocess.run(words, capture_output=True, check=False)
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    reference = f"`python3 -c pass`: {median(sys.executable, '-c', 'pass'):.2f} s"
    target = "at most 0.25 s more"
    row("`--help`", f"{median(*SCRIPT, '--help'):.2f} s", reference, target)
    wrong = "--train", "--layers", "0"
    row("usage error", f"{median(*SCRIPT, *wrong):.2f} s", reference, target)


def spend(function, rows):
    """Seconds that a process spends on the plain pipeline, or on its `sim_ancestry` calls alone."""
    import msprime  # noqa: F401

    start = time.perf_counter()
    for index in rows:
        parameters, rng = drawn(EASY, index)
        for _ in function(EASY, parameters, runml.demographic_model(parameters), rng):
            pass
    return time.perf_counter() - start


def part_simulation(bench):
    n_reps, n_plain = bench.n(2_500), bench.n(400)
    one, two, bare, ours = [], [], [], []
    for _ in range(3):
        for n, function, n_processes, times in (
            (n_plain, loci_by_sites, 1, one),
            (n_plain, loci_by_sites, N_WORKERS, two),
            (2 * n_reps, genealogies, N_WORKERS, bare),
        ):
            rows = [range(first, n, n_processes) for first in range(n_processes)]
            with ProcessPoolExecutor(n_processes, SPAWN) as pool:
                times.append(max(pool.map(spend, [function] * n_processes, rows)))
        with tempfile.TemporaryDirectory(dir=bench.work) as folder:
            words = ["--simulate", "--n_reps", n_reps, "--workers", N_WORKERS, "--data_dir", folder]
            ours.append(timed(*SCRIPT, *words, until="joint SFS saved")[0])
    rates = [2 * n_reps / seconds for seconds in ours]
    for times, processes, target in (
        (one, "one process", "at least 4 times"),
        (two, f"{N_WORKERS} processes at once, core for core", ""),
    ):
        plain = [n_plain / seconds for seconds in times]
        row(
            f"`--simulate --n_reps {n_reps}`, {N_WORKERS} workers, rate",
            f"{statistics.median(rates):.0f} SFS/s, {median_ratio(rates, plain):.2f} times",
            f"plain pipeline, {processes}: {statistics.median(plain):.1f} SFS/s",
            target,
        )
    row(
        "the same, time until the arrays are saved",
        f"{statistics.median(ours):.1f} s, {100 * (median_ratio(ours, bare) - 1):+.0f}%",
        f"bare `sim_ancestry` calls, {N_WORKERS} processes: {statistics.median(bare):.1f} s",
        "at most +10%",
    )


def part_accuracy(bench):
    test, networks, saved, whole, references = bench.test_sets(EASY), [], [], [], []
    for seed in SEEDS:
        folder = bench.simulated(replace(EASY, seed=seed), bench.n(5_000))
        references.append(timed(sys.executable, __file__, "--usual_cnn", folder)[1])
        seconds = timed(*TRAIN, "--data_dir", folder, until="Model saved")
        for times, each in zip((saved, whole), seconds, strict=True):
            times.append(each)
        networks.append(runml.load_network(folder / runml.MODEL))
    right, losses = scores_of(networks, *test)
    row(
        "accuracy at the lesson's settings, mean of five seeds (lowest seed)",
        f"{with_error(right)} ({right.mean(axis=1).min():.4f})",
        f"{len(test[0]):,} test spectra; {by_set(right)}",
        "at least 0.9978 (0.9970), standard error below 0.0002",
    )
    row(
        "log-loss, mean of five seeds (highest seed)",
        f"{with_error(losses)} ({losses.mean(axis=1).max():.4f})",
        by_set(losses),
        "at most 0.0075",
    )
    mistakes = mistakes_of_each(networks, *test)
    row("mistakes per 10,000, mean of five seeds", mistakes, "the same spectra", "")
    for what, seconds, target in (
        ("`--train`, lesson's settings, until the model is saved", saved, "at most 1.0 times"),
        ("the same, until the ranking is printed and the picture drawn", whole, ""),
    ):
        row(
            f"{what}, median of five",
            f"{statistics.median(seconds):.1f} s, {median_ratio(seconds, references):.2f} times",
            f"the usual small CNN: {statistics.median(references):.1f} s",
            target,
        )


def part_mistakes(bench, few=3e-6):
    network = bench.trained(replace(EASY, seed=SEEDS[0]), bench.n(5_000))
    sfs, truth = bench.test_sets(EASY)
    right = scores_of([network], sfs, truth)[0][0]
    rows = range(len(sfs) // len(TEST_SEEDS))
    pairs = [drawn(replace(EASY, seed=seed), index)[0] for seed in TEST_SEEDS for index in rows]
    parameters = np.array(pairs, runml.PARAMETERS)
    missed, mistaken = (parameters[~right & (truth == label)] for label in (1, 0))
    rare = (truth == 1) & (runml.mean_migration(parameters) < few)

    def spread(name, some):
        return runml.format_range(some[name], ",.0f") if len(some) else "none"

    row(
        "gene flow taken for divergence",
        f"{len(missed)} of {(truth == 1).sum():,}",
        f"{(rare & ~right).sum()} of them at rates below {few:g}, where {(~right[rare]).mean():.0%}"
        f" are missed; divergence times {spread('divergence_time', missed)}",
        "",
    )
    row(
        "divergence taken for gene flow",
        f"{len(mistaken)} of {(truth == 0).sum():,}",
        f"divergence times {spread('divergence_time', mistaken)}, ancestors of "
        f"{spread('size_ancestor', mistaken)}",
        "",
    )


def part_more(bench):
    test, sizes = bench.test_sets(EASY), ((1_000, 2_500), (5_000, 2_500), (25_000, 5_000))
    for n_reps, n_test_reps in sizes:
        settings, n_reps, n_own = replace(EASY, seed=77), bench.n(n_reps), bench.n(n_test_reps)
        network = bench.trained(settings, n_reps)
        with tempfile.TemporaryDirectory(dir=bench.work) as folder:
            with contextlib.redirect_stdout(io.StringIO()):
                runml.test(Path(folder), specification(settings, n_own), [], RUN, network)
            claimed = json.loads((Path(folder) / "test_results.json").read_text())
            own = runml.load_dataset(Path(folder), "test")
            claims = scores_of([network], own.sfs, own.labels)
        last = n_test_reps == sizes[-1][1]
        for name, values, claim, target in zip(
            ("accuracy", "log_loss"),
            scores_of([network], *test),
            claims,
            ("never falling, at last 0.998", "never rising, at last 0.0065"),
            strict=True,
        ):
            row(
                f"{name} of {n_reps:,} replicates",
                with_error(values),
                f"`--test --n_test_reps {n_own}` says {claimed[name]:.4f}: {with_error(claim)}",
                target if last else "",
            )
