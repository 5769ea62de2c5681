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
TRAIN = [*SCRIPT, "--train", "--layers", 2, "--dropout", 0.2, "--epochs", 10, "--learning_rate", 1e-5]
EASY = runml.SimulationSettings()  # the lesson's two questions
YOUNG = replace(EASY, tdiv_prior=Prior(5e3, 5e4), migration_prior=Prior(1e-6, 1e-5))
SPECIES = (("the lesson's", EASY, 5_000), ("young", YOUNG, 1_000))  # and replicates
SIZES = {"size_change_prior": Prior(0.03, 10, "log")}
LESSON_SEEDS = range(101, 111)
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
    """What spectra are simulated under: the script's models, or a history that is neither."""

    label: int | None = None  # of which model parameters are drawn; None: of both, in turn
    truth: int | None = None  # what would be right: have A and B exchanged genes?
    target: str = ""  # how many are to be flagged
    pulses: tuple = ()  # giver, receiver, proportion, generations ago (below 1: divergence times)
    values: dict = field(default_factory=dict)  # of parameters, in place of what is drawn
    priors: dict = field(default_factory=dict)  # likewise

    def parameters(self, settings, index):
        """The parameters of one spectrum, and the random numbers that go on to make it."""
        rng = runml.random_stream(settings.seed, PLAIN, index)
        label = index % 2 if self.label is None else self.label
        parameters = runml.draw_parameters(replace(settings, **self.priors), label, rng).copy()
        for name, value in self.values.items():
            parameters[name] = value
        return parameters, rng

    def demography(self, parameters):
        """The script's demography, with pulses and, if one gives, a ghost: a third species."""
        demography, age = runml.demographic_model(parameters), parameters["divergence_time"]
        if any("ghost" in pulse for pulse in self.pulses):
            for name in ("ghost", "root"):
                demography.add_population(name=name, initial_size=parameters["size_ancestor"])
            split = {"derived": ["ancestor", "ghost"], "ancestral": "root"}
            demography.add_population_split(time=2 * age, **split)
        for giver, receiver, proportion, ago in self.pulses:
            move = {"source": receiver, "dest": giver, "proportion": proportion}  # back in time
            demography.add_mass_migration(time=ago * (age if ago < 1 else 1), **move)
        demography.sort_events()
        return demography


def resized(species, factor, ago):
    values = {f"size_change_{name}": factor for name in species}
    return values | {f"size_change_time_{name}": ago for name in species}


def design(sample_size, loci, mutation_rate, *ends):
    """Settings of a study: log-uniform priors of divergence time, sizes and migration rate."""
    log = [Prior(*each, "log") for each in ends]
    priors = dict(zip(("tdiv_prior", "ne_prior", "migration_prior"), log, strict=True))
    return runml.SimulationSettings(
        sample_size=PerSpecies(*sample_size),
        n_loci=loci[0],
        sequence_length=loci[1],
        mutation_rate=Prior(mutation_rate, mutation_rate),
        gene_flow_start=Prior(0.2, 1),
        **priors,
    )


LOCI = 200, 20_000
HUMAN = design((10, 10), LOCI, 2.35e-8, (1e3, 12e3), (2e3, 5e4), (1e-6, 1e-3))
APES = design((10, 8), LOCI, 2e-8, (4e3, 1e5), (3e3, 1e5), (1e-6, 1e-4))
DUCKS = design((8, 10), (300, 500), 4.83e-9, (2e4, 1e6), (2e5, 5e6), (1e-7, 1e-5))
FLIES = design((8, 8), (300, 200), 1.45e-9, (3e4, 1e6), (2e5, 1e7), (1e-8, 1e-5))
PLAIN_MODELS = "as simulated"
FROM_GHOST, BOTH = ("ghost", "B", 0.15, 2_000), ("ghost", "A", 0.15, 2_000)
EARLY = {"gene_flow_start": Prior(1, 1), "gene_flow_stop": Prior(0.5, 0.5)}
GREW = {"size_ancestor": 7_310, "size_change_ancestor": 14_474 / 7_310, "size_a": 14_474}
GREW |= {"size_change_time_ancestor": 5_920, "size_b": 14_474, "divergence_time": 2_040}
MISFITS = {
    "one pulse of 12%, 1,500 ago": History(0, 1, "≥ 76%", [("A", "B", 0.12, 1_500)]),
    "one pulse of 12%, 15,000 ago": History(0, 1, "≥ 60%", [("A", "B", 0.12, 15_000)]),
    "one pulse of 1%, 1,500 ago": History(0, 1, "> 24%", [("A", "B", 0.01, 1_500)]),
    "one pulse of 1%, 15,000 ago": History(0, 1, "> 18%", [("A", "B", 0.01, 15_000)]),
    "a ghost gave 15% to both, 2,000 ago": History(0, 0, "≥ 95%", [FROM_GHOST, BOTH]),
    "a ghost gave 15% to B, 2,000 ago": History(0, 0, "≥ 91%", [FROM_GHOST]),
    "... after 9/10 of the time": History(0, 0, "≥ 75%", [("ghost", "B", 0.15, 0.1)]),
    "both crashed to 3%, 3,000 ago": History(0, 0, "≥ 98%", values=resized("ab", 0.03, 3_000)),
    "B crashed to 3%, 3,000 ago": History(0, 0, "≥ 66%", values=resized("b", 0.03, 3_000)),
    "B crashed to 3%, 1,000 ago": History(0, 0, "≥ 66%", values=resized("b", 0.03, 1_000)),
    "... with gene flow": History(1, 1, "≥ 54%", values=resized("b", 0.03, 1_000)),
    "both grew tenfold, 5,000 ago": History(0, 0, "> 3%", values=resized("ab", 10, 5_000)),
    "split 5,000 to 25,000 ago": History(0, 0, priors={"tdiv_prior": Prior(5_000, 25_000)}),
    "early gene flow only": History(1, 1, priors=EARLY),
    "gene flow all the time": History(1, 1, priors={"gene_flow_start": Prior(1, 1)}),
}
YOUNG_ANCESTOR = "split 2,040 ago, the ancestor grew from 7,310 to 14,474, 5,920 ago"
HISTORIES = {PLAIN_MODELS: History(), YOUNG_ANCESTOR: History(0, 0, values=GREW), **MISFITS}


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


def plain_loci(settings, name, index, *again):
    """The SFS of each locus under one of the `HISTORIES`; `again` is of the same parameters."""
    history = HISTORIES[name]
    parameters, rng = history.parameters(settings, index)
    rng = runml.random_stream(settings.seed, PLAIN, index, *again) if again else rng
    return loci_by_sites(settings, parameters, history.demography(parameters), rng)


def plain_spectrum(settings, name, index, *again):
    """One SFS, of all loci together."""
    return plain_loci(settings, name, index, *again).sum(axis=0)


def one_snp_a_locus(settings, name, index):
    """One SFS of a SNP from each locus that has any."""
    rng, loci = np.random.default_rng(index), plain_loci(settings, name, index)
    cells = [
        rng.choice(counts.size, p=counts.ravel() / counts.sum()) for counts in loci if counts.any()
    ]
    return np.bincount(cells, minlength=loci[0].size).reshape(loci[0].shape)


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
            silently(runml.simulate, folder, specification(settings, n_reps), RUN)
        return folder

    def trained(self, settings, n_reps, **training):
        """A network, trained once: at the lesson's settings but for some, with the data's seed."""
        training = runml.TrainingSettings(**{"seed": settings.seed} | training)
        described = runml.as_saved(settings), n_reps, runml.as_saved(training)
        folder = self.folder("trained", *described)
        if not (folder / runml.MODEL).exists():
            dataset = runml.load_dataset(self.simulated(settings, n_reps))
            silently(runml.train, folder, training, [], dataset)
        return runml.load_network(folder / runml.MODEL)

    def of_seeds(self, seeds, settings, n_reps, **training):
        """Networks of which each has simulations of its own."""
        each = [replace(settings, seed=seed) for seed in seeds]
        return [self.trained(settings, n_reps, **training) for settings in each]

    def validated(self, settings, n_reps):
        """The network of the epochs that validation chooses."""
        networks = [self.trained(settings, n_reps, epochs=epochs) for epochs in (10, 30, 100)]
        return min(networks, key=lambda network: runml.validation_loss(network.table)[0])

    def plain(self, settings, n, name=PLAIN_MODELS):
        """Spectra by the plain pipeline, made once, (n, a, b, 1), and what is right of each."""
        path = self.folder("plain", runml.as_saved(settings), name, n) / "sfs.npy"
        if not path.exists():
            spectra = on_all_cores(plain_spectrum, [(settings, name, index) for index in range(n)])
            np.save(path, spectra[..., np.newaxis])
        truth = HISTORIES[name].truth
        return np.load(path), np.arange(n) % 2 if truth is None else np.full(n, truth)

    def test_sets(self, settings, seeds=TEST_SEEDS, n_test=N_TEST):
        """Some such sets, one behind the other."""
        sets = [self.plain(replace(settings, seed=seed), self.n(n_test)) for seed in seeds]
        return [np.concatenate(arrays) for arrays in zip(*sets, strict=True)]


def silently(function, *args):
    with contextlib.redirect_stdout(io.StringIO()):
        function(*args)


def specification(settings, n_reps):
    used = runml.versions("msprime", "tskit", "numpy")
    return runml.DatasetSpecification(settings, n_reps, used)


def ask(networks, sfs):
    """The probabilities that networks give, shape (networks, N, 2)."""
    given = [runml.predict_probabilities(network.model, sfs) for network in networks]
    return np.clip(given, 1e-7, 1)


def log_odds(given):
    return np.log(given[..., 1] / given[..., 0])


def scores(given, labels):
    """Whether the right model is favoured, and the loss, from probabilities (networks, N, 2)."""
    of_true = np.array(given)[:, np.arange(len(labels)), labels] / np.sum(given, axis=-1)
    return np.argmax(given, axis=-1) == labels, -np.log(of_true)


def quality(what, networks, test, accuracy="", loss=""):
    """Rows that tell how good networks are on spectra; `accuracy` and `loss` are targets."""
    (sfs, labels), given = test, ask(networks, test[0])
    right, losses = scores(given, labels)
    for name, values, worst, target in (
        ("accuracy", right, min, accuracy),
        ("log-loss", losses, max, loss),
    ):
        fifths = [f"{some.mean():.4f}" for some in np.array_split(values.mean(axis=0), 5)]
        worst = f"worst of {len(networks)}: {worst(values.mean(axis=1)):.4f}"
        row(
            f"{what}: {name}", with_error(values), f"{worst}; by fifths {', '.join(fifths)}", target
        )
    dataset = SimpleNamespace(sfs=sfs, labels=labels)
    found = [runml.baseline_accuracies(network, dataset) for network in networks]
    means = {"network": right.mean()} | {x: np.mean([each[x] for each in found]) for x in found[0]}
    mistakes = ", ".join(f"{name} {10_000 * (1 - mean):.0f}" for name, mean in means.items())
    row(f"{what}: mistakes per 10,000", mistakes, f"the same {len(labels):,} spectra", "")
    told = runml.is_told(given)
    wrong = (told & ~right).sum() / max(1, told.sum())
    verdicts = f"told {told.mean():.1%}, of these {wrong:.2%} wrongly"
    row(f"{what}: verdicts", verdicts, f"undecided {(~told).mean():.1%}", "at most 5% wrongly")


class Verdicts:
    """What `--predict` says of spectra, and how often."""

    def __init__(self, network, sfs, truth):
        said, fits = [], fits_of(network)
        for counts in sfs[..., 0]:
            observed = runml.Observed(np.array(counts, float), network.settings.folded)
            said.append(runml.make_prediction(Path("sfs"), observed, network, fits))
        names = np.array([each.verdict for each in said])
        self.told = told = np.isin(names, runml.MODELS)
        refused = np.isin(names, ("neither", "out of range"))
        warned = [each.p_after <= runml.false_alarms(each.n_simulated) for each in said]
        self.flagged, self.wrong = refused | warned, told & (names != np.array(runml.MODELS)[truth])
        self.right_alone = (np.array([each.favoured for each in said]) == truth).mean()
        self.text = (
            f"{len(said):,}: told {told.sum()}, {self.wrong.sum()} wrongly, undecided "
            f"{(names == 'undecided').sum()}, neither {(names == 'neither').sum()}, out of range "
            f"{(names == 'out of range').sum()}; warned {sum(warned)}, flagged "
            f"{self.flagged.mean():.1%}; favoured rightly {self.right_alone:.1%}"
        )


def verdict_row(what, network, spectra, reference="", target=""):
    row(what, Verdicts(network, *spectra).text, reference, target)


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
    fit = {"batch_size": 128, "epochs": 10, "verbose": 0}
    fit["validation_data"] = inputs[validation], labels[validation]
    model.fit(inputs[training], labels[training], **fit)
    return model


# ========================================= The parts =========================================


def part_startup(bench):
    def median(*words):
        times = []
        for _ in range(bench.n(15, 3)):
            start = time.perf_counter()
            subprocess.run(words, capture_output=True, check=False)
            times.append(time.perf_counter() - start)
        return f"{statistics.median(times):.2f} s"

    reference = f"`python3 -c pass`: {median(sys.executable, '-c', 'pass')}"
    for what, words in (("`--help`", ["--help"]), ("usage error", ["--train", "--layers", "0"])):
        row(what, median(*SCRIPT, *words), reference, "at most 0.25 s more")


def spend(function, indices):
    """Seconds that a process spends on the plain pipeline, or on its `sim_ancestry` calls alone."""
    import msprime  # noqa: F401

    start, history = time.perf_counter(), HISTORIES[PLAIN_MODELS]
    for index in indices:
        parameters, rng = history.parameters(EASY, index)
        list(function(EASY, parameters, history.demography(parameters), rng))
    return time.perf_counter() - start


def part_simulation(bench):
    n_reps, n_plain = bench.n(2_500), bench.n(400)
    one, two, bare, ours = [], [], [], []
    for _ in range(3):
        for times, n, function, n_processes in (
            (one, n_plain, loci_by_sites, 1),
            (two, n_plain, loci_by_sites, N_WORKERS),
            (bare, 2 * n_reps, genealogies, N_WORKERS),
        ):
            indices = [range(first, n, n_processes) for first in range(n_processes)]
            with ProcessPoolExecutor(n_processes, SPAWN) as pool:
                times.append(max(pool.map(spend, [function] * n_processes, indices)))
        ours.append(timed_simulation(bench, n_reps, "--workers", N_WORKERS))
    rates, what = [2 * n_reps / seconds for seconds in ours], f"`--simulate --n_reps {n_reps}`"
    for times, n_processes, target in ((one, 1, "at least 4 times"), (two, N_WORKERS, "")):
        plain = [n_plain / seconds for seconds in times]
        reference = f"plain pipeline, {n_processes} at once: {statistics.median(plain):.1f} SFS/s"
        row(f"{what}, {N_WORKERS} workers, rate", rate_of(rates, plain), reference, target)
    over = f"{statistics.median(ours):.1f} s, {100 * (median_ratio(ours, bare) - 1):+.0f}%"
    reference = f"bare `sim_ancestry`, {N_WORKERS} at once: {statistics.median(bare):.1f} s"
    row(f"{what}, until the arrays are saved", over, reference, "at most +10%")


def timed_simulation(bench, n_reps, *words):
    with tempfile.TemporaryDirectory(dir=bench.work) as folder:
        words = ["--simulate", "--n_reps", n_reps, *words, "--data_dir", folder]
        return timed(*SCRIPT, *words, until="joint SFS saved")[0]


def rate_of(rates, reference):
    return f"{statistics.median(rates):.0f} SFS/s, {median_ratio(rates, reference):.2f} times"


def part_accuracy(bench):
    networks, ours, usual = [], [], []
    for seed in SEEDS:
        folder = bench.simulated(replace(EASY, seed=seed), bench.n(5_000))
        usual.append(timed(sys.executable, __file__, "--usual_cnn", folder)[1])
        ours.append(timed(*TRAIN, "--data_dir", folder, until="Model saved"))
        networks.append(runml.load_network(folder / runml.MODEL))
    targets = "at least 0.9978 (worst 0.9970), error below 0.0002", "at most 0.0075"
    quality("the lesson's settings", networks, bench.test_sets(EASY), *targets)
    saved, whole = zip(*ours, strict=True)
    for until, seconds in (("until the model is saved", saved), ("with its picture", whole)):
        ratio = f"{statistics.median(seconds):.1f} s, {median_ratio(seconds, usual):.2f} times"
        reference = f"the usual small CNN: {statistics.median(usual):.1f} s"
        target = "at most 1.0 times" if seconds is saved else ""
        row(f"`--train`, the lesson's settings, {until}, median of 5", ratio, reference, target)


def part_mistakes(bench, few=3e-6):
    network = bench.trained(replace(EASY, seed=SEEDS[0]), bench.n(5_000))
    sfs, labels = bench.test_sets(EASY)
    right, history = scores(ask([network], sfs), labels)[0][0], HISTORIES[PLAIN_MODELS]
    indices = range(len(sfs) // len(TEST_SEEDS))
    settings = [replace(EASY, seed=seed) for seed in TEST_SEEDS]
    drawn = [history.parameters(each, index)[0] for each in settings for index in indices]
    parameters = np.array(drawn, runml.PARAMETERS)
    rare = (labels == 1) & (runml.mean_migration(parameters) < few)
    missed = f"{(rare & ~right).sum()} at rates below {few:g}, {(~right[rare]).mean():.0%} of these"
    for label, remark in ((1, missed), (0, "")):
        wrong = parameters[~right & (labels == label)]
        of_each = "; ".join(
            f"{name} {runml.format_range(wrong[name], ',.0f') if len(wrong) else ''}"
            for name in ("divergence_time", "size_ancestor")
        )
        what = f"{runml.MODELS[label]} taken for {runml.MODELS[1 - label]}"
        row(what, f"{len(wrong)} of {(labels == label).sum():,}; {remark}", of_each, "")


def part_more(bench):
    for n_reps, n_own, *targets in (
        (1_000, 2_500),
        (5_000, 2_500, "never falling", "never rising"),
        (25_000, 5_000, "at least 0.998", "at most 0.0065"),
    ):
        settings, n_reps = replace(EASY, seed=77), bench.n(n_reps)
        network, own = bench.trained(settings, n_reps), specification(settings, bench.n(n_own))
        quality(f"{n_reps:,} replicates", [network], bench.test_sets(EASY), *targets)
        with tempfile.TemporaryDirectory(dir=bench.work) as folder:
            silently(runml.test, Path(folder), own, [], RUN, network)
            told = json.loads((Path(folder) / "test_results.json").read_text())
        says = runml.format_proportion(told["accuracy"], told["accuracy_95ci"])
        row("the same: what `--test` says", says, f"log-loss {told['log_loss']:.4f}", "within")


def part_small(bench):
    n_reps, test = bench.n(1_000), bench.test_sets(EASY)
    with tempfile.TemporaryDirectory(dir=bench.work) as folder:
        _, first = timed(*SCRIPT, "--simulate", "--n_reps", n_reps, "--data_dir", folder)
        _, second = timed(*TRAIN, "--data_dir", folder)
        network = runml.load_network(Path(folder) / runml.MODEL)
    quality(f"from nothing, `--n_reps {n_reps}`", [network], test, "at least 0.995")
    reference = f"`--simulate` {first:.1f} s, `--train` {second:.1f} s"
    row("the same, time", f"{first + second:.0f} s", reference, "under 30 s")


def part_young(bench):
    sfs, labels = bench.test_sets(YOUNG, TEST_SEEDS[:1])
    networks = bench.of_seeds(SEEDS[:3], YOUNG, bench.n(1_000))
    quality("young species, 1,000 replicates", networks, (sfs, labels), loss="at most 0.48")
    fits = [runml.fit_logistic_regression(*network.table.parts()) for network in networks]
    inputs = runml.flat(runml.network_inputs(sfs, folded=False))
    losses = scores([fit.predict_proba(inputs) for fit in fits], labels)[1]
    row("the same: log-loss of a logistic regression", with_error(losses), "a coin: 0.6931", "")


def part_large(bench):
    short, targets = ["--sequence_length", 20_000], {100: "at most 1.5 times, 1,000 MB"}
    targets |= {250: "at most 2,000 MB"}
    with tempfile.TemporaryDirectory(dir=bench.work) as work:
        folders, simulating, learning = {}, {}, {}
        for size, n_reps in ((10, 1_000), (50, 1_000), (100, 1_000), (250, 100)):
            folders[size], learning[size] = Path(work) / str(size), []
            words = [*short, "--sample_size", size, "--n_reps", bench.n(n_reps)]
            words = ["--simulate", *words, "--data_dir", folders[size]]
            simulating[size], _ = timed(*SCRIPT, *words, until="joint SFS saved")
        for _ in range(3):
            for size, folder in folders.items():
                learning[size].append(timed(*TRAIN, "--data_dir", folder, until="Model saved"))
        for size, folder in folders.items():
            saved, whole = np.median(learning[size], axis=0)
            ratio, _ = np.median(np.divide(learning[size], learning[10]), axis=0)
            peak = peak_memory(*TRAIN, "--data_dir", folder)
            ours = f"{saved:.1f} s, {ratio:.2f} times; largest process {peak:.0f} MB"
            reference = f"`--simulate` {simulating[size]:.1f} s; with the picture {whole:.1f} s"
            what = f"`--train`, {size} + {size} individuals, 20,000 bp, until the model is saved"
            row(what, ours, reference, targets.get(size, ""))
        network = runml.load_network(folders[100] / runml.MODEL)
    settings = replace(EASY, sequence_length=20_000, sample_size=PerSpecies(100, 100))
    test = bench.test_sets(settings, TEST_SEEDS[:1], 5_000)
    quality("100 + 100 individuals", [network], test, loss="at most 0.010")


def part_memory(bench):
    with tempfile.TemporaryDirectory(dir=bench.work) as folder:
        for words, target in (([*SCRIPT, "--simulate"], 400), (TRAIN, 2_000)):
            peak = f"{peak_memory(*words, '--data_dir', folder):.0f} MB"
            row(f"largest process of `{words[2]}`", peak, "", f"at most {target:,} MB")


def part_scale(bench):
    n_reps, choices = bench.n(2_500), {f"{n} local": ["--workers", n] for n in (1, N_WORKERS)}
    with contextlib.ExitStack() as stack:
        if importlib.util.find_spec("distributed"):
            from distributed import LocalCluster

            cluster = LocalCluster(
                n_workers=N_WORKERS, threads_per_worker=1, dashboard_address=None
            )
            address = stack.enter_context(cluster).scheduler_address
            choices[f"{N_WORKERS} Dask"] = ["--dask_scheduler", address]
        rates = {name: [] for name in choices}
        for _ in range(3):
            for name, words in choices.items():
                rates[name].append(2 * n_reps / timed_simulation(bench, n_reps, *words))
    local = rates[f"{N_WORKERS} local"]
    for name, found in rates.items():
        reference, target = f"{N_WORKERS} local workers", "≥ 0.9 times" if "Dask" in name else ""
        row(f"`--simulate`, {name} workers, rate", rate_of(found, local), reference, target)

    with tempfile.TemporaryDirectory(dir=bench.work) as folder:
        for command, option in (("--simulate", "--n_reps"), ("--test", "--n_test_reps")):
            if command == "--test":
                timed(*TRAIN, "--epochs", 1, "--data_dir", folder)
            words = [*SCRIPT, command, "--sequence_length", 100, "--data_dir", folder, option]
            few, many = bench.n(2_000), bench.n(20_000)
            small, large = (peak_memory(*words, n, with_children=False) for n in (few, many))
            reference = f"`{option} {few}`: {small:.0f} MB"
            what = f"parent of `{command} {option} {many}`, memory"
            row(what, f"{large:.0f} MB", reference, "at most 100 MB more")

    with tempfile.TemporaryDirectory(dir=bench.work) as folder:
        folder = Path(folder)
        words = [*SCRIPT, "--simulate", "--n_reps", n_reps, "--data_dir", folder]
        process = psutil.Popen([str(word) for word in words], stdout=subprocess.DEVNULL)
        n_blocks = n_reps / runml.ROWS_PER_BLOCK  # half of them
        while len(list(folder.glob(".simulated-*.partial/block_*.npz"))) < n_blocks:
            time.sleep(0.01)
        workers = process.children(recursive=True)
        process.kill()
        process.wait()
        start = time.perf_counter()
        while any(map(is_at_work, workers)):
            time.sleep(0.01)
        gone = f"{time.perf_counter() - start:.1f} s"
        rest, _ = timed(*words, until="joint SFS saved")
    row("workers gone after their parent was killed", gone, f"{len(workers)} processes", "soon")
    whole = f"whole: {statistics.median(2 * n_reps / rate for rate in local):.1f} s"
    row("`--simulate`, killed after half, run again", f"{rest:.1f} s", whole, "about half")


def is_at_work(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def part_cost(bench):
    n_sfs = bench.n(60, 4)
    runml.simulate_block(EASY, PLAIN, range(2))  # imports msprime
    for name, values in (
        ("sample_size", [PerSpecies(n, n) for n in (5, 10, 20, 40)]),
        ("sequence_length", [50_000, 100_000, 200_000, 400_000]),
        ("recombination_rate", [Prior(x, x) for x in (5e-9, 1e-8, 2e-8, 4e-8)]),
    ):
        times = []
        for value in values:
            start = time.process_time()
            runml.simulate_block(replace(EASY, **{name: value}), PLAIN, range(n_sfs))
            times.append(1000 * (time.process_time() - start) / n_sfs)
        power = np.polyfit(np.log([1, 2, 4, 8]), np.log(times), 1)[0]
        span = f"{runml.format_setting(values[0])} to {runml.format_setting(values[-1])}"
        each = ", ".join(f"{milliseconds:.1f}" for milliseconds in times)
        row(f"CPU time of an SFS, `--{name}` {span}", f"power {power:.2f}", f"{each} ms", "")


def part_opinion(bench):
    settings, most = replace(EASY, seed=SEEDS[0]), bench.n(5_000)
    fresh = bench.test_sets(EASY, TEST_SEEDS[:1], 2_000)
    for n_reps in (50, 500, 1_000, 5_000):
        network = bench.trained(settings, bench.n(n_reps))
        expected = f"each check expects {runml.false_alarms(bench.n(n_reps)):.1%}"
        verdict_row(f"fresh, {n_reps:,} replicates", network, fresh, expected, "flagged ≤ 2%")
    for folded in (False, True):
        network, model = bench.trained(settings, most, folded=folded), "folded" if folded else ""
        for length in (10_000, 100_000, 1_000_000):
            spectra = bench.plain(replace(EASY, sequence_length=length), bench.n(200))
            target = "≤ 2%" if length == EASY.sequence_length else "≥ 95%"
            verdict_row(f"{model} {length:,} bp", network, spectra, "trained on 100,000", target)
    network = bench.trained(settings, most)
    for name, history in MISFITS.items():
        spectra = bench.plain(EASY, bench.n(300), name)
        verdict_row(name, network, spectra, "flagged", history.target)


def harms(n):
    """What is done to data: the probability that a SNP is kept, and that its alleles are swapped."""
    in_a, in_b = np.ogrid[: n + 1, : n + 1]
    total = in_a + in_b
    folding = np.select([total > n, total == n], [1, 0.5], 0)
    return {
        "half of the singletons lost": (np.where(total == 1, 0.5, 1), 0 * total),
        "polarised by a genome of A": (1 + 0 * total, in_a / n + 0 * in_b),
        "minor alleles below 5% dropped": (np.minimum(total, 2 * n - total) >= 0.1 * n, 0 * total),
        "3% of ancestral alleles mistaken": (1 + 0 * total, 0.03 + 0 * total),
        "ancestral and derived swapped": (1 + 0 * total, 1 + 0 * total),
        "folded, passed off as unfolded": (1 + 0 * total, folding),
    }


def part_silent(bench):
    rng, n = np.random.default_rng(0), bench.n(100)
    rad = {"n_loci": 500, "sequence_length": 200, "mutation_rate": Prior(1e-8, 1e-8)}
    for species, settings, n_reps in SPECIES:
        own = replace(settings, seed=SEEDS[0])
        network, (sfs, truth) = bench.trained(own, bench.n(n_reps)), bench.plain(settings, n)
        verdict_row(f"{species}, unharmed", network, (sfs, truth))
        for harm, (kept, swapped) in harms(sfs.shape[1] - 1).items():
            harmed = rng.binomial(sfs, kept[..., np.newaxis])
            moved = rng.binomial(harmed, swapped[..., np.newaxis])
            harmed += moved[:, ::-1, ::-1] - moved
            verdict_row(f"{species}, {harm}", network, (harmed, truth))
        for harm, changes in (
            ("sizes in the wrong order", {"sample_size": PerSpecies(8, 12)}),
            ("one SNP for each RAD locus", rad),
        ):
            own = replace(settings, **changes)
            network = bench.trained(replace(own, seed=SEEDS[0]), bench.n(1_000))
            sfs, truth = bench.plain(own, n)
            harmed = sfs.swapaxes(1, 2).reshape(sfs.shape)
            if changes is rad:
                tasks = [(own, PLAIN_MODELS, index) for index in range(n)]
                harmed = on_all_cores(one_snp_a_locus, tasks)[..., np.newaxis]
            verdict_row(f"{species}, unharmed, the same design", network, (sfs, truth))
            verdict_row(f"{species}, {harm}", network, (harmed, truth))


def more_and_projected(settings, index):
    """An SFS, and that of two individuals more of each species, projected down to the same."""
    import dadi

    n = settings.sample_size.a
    more = replace(settings, sample_size=PerSpecies(n + 2, n + 2))
    whole = dadi.Spectrum(plain_spectrum(more, PLAIN_MODELS, index))
    projected = np.ma.filled(whole.project([2 * n, 2 * n]), 0)
    return np.stack([plain_spectrum(settings, PLAIN_MODELS, index), projected])


def part_projection(bench):
    for length in (5_000, 100_000):
        settings, n = replace(EASY, seed=SEEDS[0], sequence_length=length), bench.n(500)
        network = bench.trained(settings, bench.n(5_000))
        pairs = on_all_cores(more_and_projected, [(settings, index) for index in range(n)])
        own, projected = (
            log_odds(ask([network], sfs[..., np.newaxis]))[0] for sfs in pairs.swapaxes(0, 1)
        )
        moved = [with_error((projected - own)[label::2], 2) for label in range(2)]
        what = f"log-odds of gene flow, moved by projecting 24 to 20 chromosomes, {length:,} bp"
        row(what, "divergence {}, gene flow {}".format(*moved), f"{n:,} spectra", "")


def part_undecided(bench):
    for species, settings, n_reps in SPECIES:
        networks = bench.of_seeds(SEEDS[:3], settings, bench.n(n_reps))
        quality(species, networks, bench.test_sets(settings, TEST_SEEDS[:1]))


def part_sizes(bench):
    network = bench.trained(replace(EASY, seed=SEEDS[0], **SIZES), bench.n(4_000))
    quality("with changes of size", [network], bench.test_sets(EASY), "at least 0.996")
    for name, target in (("both crashed", 93), ("B crashed", 99), ("both grew", 100)):
        name = next(each for each in MISFITS if each.startswith(name))
        target = f"rightly ≥ {target}%, told wrongly ≤ 2%"
        verdict_row(f"... {name}", network, bench.plain(EASY, bench.n(300), name), "", target)
    spectra = bench.plain(HUMAN, 20, YOUNG_ANCESTOR)
    for what, settings in (("without", HUMAN), ("with", replace(HUMAN, **SIZES))):
        network, target = bench.validated(settings, bench.n(2_000)), "at most 1 told wrongly"
        verdict_row(f"{what} changes of size: {YOUNG_ANCESTOR}", network, spectra, "", target)


def part_networks(bench):
    for species, settings, n_reps in SPECIES:
        sfs, labels = bench.test_sets(settings, TEST_SEEDS[:1])
        own = replace(settings, seed=SEEDS[0])
        given = ask([bench.trained(own, bench.n(n_reps), seed=seed) for seed in SEEDS], sfs)
        deviation = log_odds(given).std(axis=0, ddof=1).mean()
        one, mean = (scores(some, labels)[1].mean() for some in (given, given.mean(axis=0)[None]))
        losses = f"log-loss of one {one:.4f}, of the mean probability {mean:.4f}"
        row(f"{species}: deviation of the log-odds, 5 seeds", f"{deviation:.2f}", losses, "")


def part_bootstrap(bench):
    settings = replace(YOUNG, seed=SEEDS[0], n_loci=100, sequence_length=1_000)
    network, n, n_again = bench.trained(settings, bench.n(1_000)), bench.n(40, 4), bench.n(50, 10)
    rng, ratios, indices = np.random.default_rng(0), [], range(n)
    loci = on_all_cores(plain_loci, [(settings, PLAIN_MODELS, index) for index in indices])
    tasks = [(settings, PLAIN_MODELS, index, i) for index in indices for i in range(n_again)]
    again = np.split(on_all_cores(plain_spectrum, tasks), n)
    for of_loci, others in zip(loci, again, strict=True):
        rows = rng.integers(settings.n_loci, size=(100, settings.n_loci))
        both = np.concatenate([others, of_loci[rows].sum(axis=1)])[..., np.newaxis]
        given = log_odds(ask([network], both))[0]
        ratios.append(given[n_again:].std(ddof=1) / given[:n_again].std(ddof=1))
    reference = f"{n_again} independent samples each of {n} histories, 100 loci of 1,000 bp"
    what = "block bootstrap: deviation of the log-odds, ratio"
    row(what, runml.format_range(ratios, ".2f"), reference, "median 0.7 to 1.4")


CATALOGUE = (  # of stdpopsim: species, model, A and B
    (HUMAN, "HomSap", "OutOfAfrica_3G09", ("YRI", "CHB")),
    (replace(HUMAN, sample_size=PerSpecies(12, 8)), "HomSap", "OutOfAfrica_2T12", ("AFR", "EUR")),
    (FLIES, "DroMel", "OutOfAfrica_2L06", ("AFR", "EUR")),
    (DUCKS, "AnaPla", "MallardBlackDuck_2L19", ("Mallard", "Black_duck")),
    (APES, "PonAbe", "TwoSpecies_2L11", ("Bornean", "Sumatran")),
)


def catalogued(settings, species, model, names, index, label):
    """One SFS by the plain pipeline under a published history, or the same without migration."""
    import msprime
    import stdpopsim

    published = stdpopsim.get_species(species).get_demographic_model(model).model
    demography = copy.deepcopy(published)  # stdpopsim has one object for all
    if not label:
        demography.migration_matrix[:] = 0
        for event in demography.events:
            if isinstance(event, msprime.MigrationRateChange):
                event.rate = 0
    rng = runml.random_stream(settings.seed, PLAIN, index)
    rates = {
        name: getattr(settings, name).median for name in ("mutation_rate", "recombination_rate")
    }
    return loci_by_sites(settings, rates, demography, rng, names).sum(axis=0)


def part_catalogue(bench):
    if not importlib.util.find_spec("stdpopsim"):
        row("catalogue", "not measured", "pip install stdpopsim", "")
        return
    told = wrong = 0
    for settings, species, model, names in CATALOGUE:
        network = bench.validated(replace(settings, **SIZES), bench.n(2_000))
        labels = [0] * 12 if species == "DroMel" else [0, 1] * 6  # it has no migration
        tasks = [(settings, species, model, names, *each) for each in enumerate(labels)]
        sfs = on_all_cores(catalogued, tasks)[..., np.newaxis]
        found = Verdicts(network, sfs, labels)
        told, wrong = told + found.told.sum(), wrong + found.wrong.sum()
        row(f"{species} {model}, {' and '.join(names)}", found.text, "", "")
    row(
        "all of them",
        f"{told} told, {wrong} of them wrongly",
        "60 spectra",
        "≥ 25 told, ≤ 2 wrongly",
    )
    with tempfile.TemporaryDirectory(dir=bench.work) as folder:
        runml.save_network(Path(folder) / runml.MODEL, network)
        files = [Path(folder) / f"{number}.npy" for number in range(100)]
        for number, path in enumerate(files):
            np.save(path, sfs[number % len(sfs)])
        seconds, _ = timed(*SCRIPT, "--data_dir", folder, "--predict", *files, until="Saved in")
    row("`--predict` of 100 spectra, until saved", f"{seconds:.1f} s", "", "at most 30 s")


def network_of_its_own(dataset, seed, sfs, convolution):
    """What the script's network gives, or the same without its convolution."""
    settings = runml.TrainingSettings(seed=seed)
    model = runml.build_network(sfs.shape[1:3], settings)
    if not convolution:
        behind = model.layers[model.layers.index(model.get_layer(runml.FIRST_GAIN)) + 2 :]
        x = model.get_layer(runml.FIRST_GAIN).output
        for layer in behind:
            x = type(layer).from_config(layer.get_config())(x)
        model = type(model)(model.input, x)
    inputs, split = runml.network_inputs(dataset.sfs, False), runml.split_rows(dataset.labels, seed)
    silently(runml.train_network, model, inputs, dataset.labels, split, settings)
    return runml.predict_probabilities(model, sfs)


def usual_of(dataset, seed, sfs, see, learning_rate):
    """What the usual small CNN gives, from counts or from what else it is to see."""
    model = usual_cnn(see(dataset.sfs), dataset.labels, seed, learning_rate)
    return runml.predict_probabilities(model, see(sfs))


def part_architecture(bench):
    (sfs, labels), n_reps = bench.test_sets(EASY, TEST_SEEDS[:1]), bench.n(5_000)
    for what, function, *how in (
        ("the script's network", network_of_its_own, True),
        ("... without its convolution", network_of_its_own, False),
        ("the usual CNN on raw counts, at 1e-5", usual_of, np.array, 1e-5),
        ("... at 1.5e-4, what the gain makes of 1e-5", usual_of, np.array, 1.5e-4),
        ("... on square roots of counts", usual_of, np.sqrt, 1.5e-4),
    ):
        given = []
        for seed in SEEDS[:3]:
            dataset = runml.load_dataset(bench.simulated(replace(EASY, seed=seed), n_reps))
            given.append(function(dataset, seed, sfs, *how))
        right, losses = (with_range(values.mean(axis=1)) for values in scores(given, labels))
        row(what, f"accuracy {right}", f"log-loss {losses}", "mean (range) of 3 seeds")


def part_tests(bench):
    commands = "--simulate --train --test"
    with tempfile.TemporaryDirectory(dir=bench.work) as folder:
        _, job = timed(*SCRIPT, *commands.split(), "--data_dir", folder)
    seconds = time.perf_counter()
    words = [sys.executable, "-m", "pytest", "-q", "tests"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - seconds
    ratio = (
        f"{seconds:.0f} s, {seconds / job:.2f} times ({done.stdout.splitlines()[-1].strip('= ')})"
    )
    row("`pytest tests`", ratio, f"`{commands}`: {job:.0f} s", "at most 1.5 times, none failed")


LESSON = [{}, {"layers": 1}, {"layers": 3}, {"dropout": 0.0}, {"dropout": 0.5}, {"epochs": 5}]
LESSON += [{"epochs": 15}, {"learning_rate": 1e-3}, {"learning_rate": 1e-7}]
LONG = [{"epochs": 60}, {"epochs": 60, "dropout": 0.0}, {"epochs": 60, "dropout": 0.5}]


def part_lesson(bench):
    """Each seed simulates and trains anew, as each student of a class does."""
    columns = "validation loss", "validation accuracy", "training loss", "accuracy on others"
    print()
    heading(f"median (5% to 95%) of {len(LESSON_SEEDS)} seeds", *columns)
    for species, settings, n_reps in SPECIES:
        sfs, labels = bench.test_sets(settings, TEST_SEEDS[:1])
        n_reps, found = bench.n(n_reps), []
        tried = [(n_reps, change) for change in LESSON + (LONG if settings is YOUNG else [])]
        for n in [n for n in map(bench.n, (50, 200, 500, 1_000)) if n < n_reps]:
            tried += [(n, {}), (n, {"epochs": 10 * n_reps // n})]  # as many steps as in the lesson
        for n, change in tried:
            networks, ends = bench.of_seeds(LESSON_SEEDS, settings, n, **change), []
            for network in networks:
                parts = [scores([x.probabilities], x.labels) for x in network.table.parts()]
                (_, loss), (right, val_loss) = parts
                fresh = scores(ask([network], sfs), labels)[0]
                ends.append([values.mean() for values in (val_loss, right, loss, fresh)])
            found.append(np.array(ends))
            cells = [runml.format_range(values, ".4f") for values in found[-1].T]
            words = " ".join(f"--{name} {value:g}" for name, value in change.items())
            row(f"{species}, {n:,} replicates: {words or 'as in the lesson'}", *cells)
            if n < n_reps and not change:
                fits = [
                    runml.fit_logistic_regression(*network.table.parts()) for network in networks
                ]
                inputs = runml.flat(runml.network_inputs(sfs, folded=False))
                scored = [fit.score(inputs, labels) for fit in fits]
                row("a logistic regression on these", "", "", "", runml.format_range(scored, ".4f"))
        of_seeds = np.stack(found[: len(LESSON)], axis=1)  # (seeds, changes, columns)
        best = np.array([ends[ends[:, 1].argmax()] for ends in of_seeds])
        cells = [runml.format_range(best[:, column], ".4f") for column in (1, 3)]
        row(f"{species}: each seed's best by validation accuracy", "", cells[0], "", cells[1])
    elsewhere, labels = bench.plain(replace(EASY, tdiv_prior=YOUNG.tdiv_prior), bench.n(1_000))
    given = ask(bench.of_seeds(LESSON_SEEDS, EASY, bench.n(5_000)), elsewhere)
    right, losses = scores(given, labels)
    cells = [runml.format_range(values.mean(axis=1), ".4f") for values in (losses, right)]
    wrongly = f"gene flow in {1 - right[:, labels == 0].mean():.0%} of divergence"
    row("easy, tested on pairs split 5,000 to 50,000 ago", cells[0], wrongly, "", cells[1])


PARTS = {
    name.removeprefix("part_"): function
    for name, function in globals().items()
    if name.startswith("part_")
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--work", type=Path, help="where to keep what is simulated and trained")
    parser.add_argument("--scale", type=float, default=1, help="of the sizes (default: 1)")
    parser.add_argument("--usual_cnn", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.usual_cnn:
        dataset = runml.load_dataset(args.usual_cnn)
        usual_cnn(np.array(dataset.sfs), dataset.labels, seed=1, learning_rate=1e-5)
        print("fitted")
        return
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no such part: {' '.join(unknown)}")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it minds that many models predict
    runml.save_picture = lambda *_, **__: None  # nobody looks at them here
    versions = runml.versions("msprime", "numpy", "tensorflow", "keras")
    print(f"{os.cpu_count()} cores, scale {args.scale:g}; {json.dumps(versions)}\n")
    heading("what", "measured", "reference in the same run", "target")
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench((args.work or Path(temporary)).resolve(), args.scale)
        bench.work.mkdir(parents=True, exist_ok=True)
        for name in args.parts or PARTS:
            PARTS[name](bench)


if __name__ == "__main__":
    main()
