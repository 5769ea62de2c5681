"""How good, how fast and how large the commands are, each against its reference in the same run.

    python tests/benchmark.py                                # everything, a night on two cores
    python tests/benchmark.py startup memory                 # only these parts
    python tests/benchmark.py --work FOLDER                  # keep what is simulated and trained
    python tests/benchmark.py --work FOLDER --scale 0.02     # a quick look: small, and not good

Each part prints rows of a Markdown table as it ends. What they measure, and their minutes on two
quiet cores; the first that needs the 50,000 test spectra takes 15 more:

    startup 1         until `--help`, and until a usage error
    simulation 8      the rate against the plain pipeline; the time against `sim_ancestry` alone
    accuracy 15       of the lesson's settings, five seeds; `--train` against the usual small CNN
    mistakes 1        which pairs of species the first of these networks mistakes
    more 12           what more simulations bring, and what `--test` says of it
    small 2           a thousand replicates, from nothing
    young 3           species that parted lately, with few migrants
    large 10          samples of 10 to 250 individuals
    memory 3          of the largest process of each command
    scale 12          Dask; memory and replicates; a killed run, its workers and its rest
    cost 1            how a spectrum's CPU time grows with the settings
    opinion 15        the checks of fit on fresh spectra, and on histories in neither model
    silent 20         what becomes of the verdicts when data are harmed
    projection 5      what it does to the answer that projected counts are smooth
    undecided 3       how many fresh spectra are told, and how many of these wrongly
    sizes 25          a prior of changes of size, on populations that changed and that did not
    networks 3        how much networks differ that differ in the training's seed
    bootstrap 4       the block bootstrap against independent samples of the same history
    catalogue 45      published histories (stdpopsim) under priors as one would choose them
    architecture 8    no convolution, and the usual CNN: is it architecture or representation?
    tests 6           pytest's time against the main job's
    lesson 100        the lesson's experiments, ten seeds each

What `--work` keeps serves one version of the script: it is not looked at again. Times are seconds
of whole commands, imports included, or until a command prints that its results are saved. Accuracy
is measured on finite-sites spectra (`msprime.sim_mutations` as it comes), which no training sees.
"""

import argparse
import contextlib
import copy
import importlib.util
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import Machine_Learning_for_Population_Genetics_V2 as runml  # noqa: E402
from Machine_Learning_for_Population_Genetics_V2 import PerSpecies, Prior  # noqa: E402

SCRIPT = ROOT / "Machine_Learning_for_Population_Genetics_V2.py"
SIMULATE = (SCRIPT, "--simulate")
TRAIN = (SCRIPT, "--train", "--layers", 2, "--dropout", 0.2, "--epochs", 10)
TRAIN += ("--learning_rate", "1e-05")
EASY = runml.SimulationSettings()  # the lesson's two questions
YOUNG = replace(EASY, tdiv_prior=Prior(5e3, 5e4), migration_prior=Prior(1e-6, 1e-5))
SPECIES = (("easy", EASY, 5_000), ("young", YOUNG, 1_000))  # with replicates
SIZES = {"size_change_prior": Prior(0.03, 10, "log")}
SEEDS = (1, 2, 3, 4, 5)  # of simulation and training both
TEST_SEEDS = (20_000, 20_001, 20_002, 20_003, 20_004)  # of sets of 10,000 spectra
LESSON_SEEDS = range(101, 111)
N_WORKERS = 2
TABLE = sys.stdout  # what the script prints in this process goes nowhere
RUN = runml.RunSettings(workers=N_WORKERS)
VERSIONS = runml.versions("msprime", "tskit", "numpy")
PLAIN = (99,)  # a stream of random numbers that no command uses


def row(*cells, heading=False):
    lines = [" | ".join(cells)] + [" | ".join(["---"] * len(cells))] * heading
    print(*(f"| {line} |" for line in lines), sep="\n", file=TABLE, flush=True)


def start(*words):
    words = [sys.executable, *map(str, words)]
    return psutil.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def timed(*words, until=""):
    """Seconds until a command prints a text, or its last line, and until it ends."""
    began, seconds, process = time.perf_counter(), 0, start(*words)
    lines = []
    for line in process.stdout:
        lines.append(line)
        seconds = time.perf_counter() - began if until in line else seconds
    if process.wait() or not seconds:
        raise SystemExit(f"failed: {' '.join(map(str, words))}\n{''.join(lines[-3:])}")
    return seconds, time.perf_counter() - began


def peak_memory(*words, of_all=True):
    """The MB of a command's largest process, or of its first."""
    process, peak = start(*words), 0
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in [process, *(process.children(recursive=True) if of_all else [])]:
                peak = max(peak, each.memory_info().rss / 1e6)
        time.sleep(0.02)
    return peak


def median(values):
    return float(np.median(values))


def with_error(values, digits=4):
    """The mean over spectra, the last axis, of the mean of networks, the first."""
    each = np.mean(np.atleast_2d(values), axis=0)
    return f"{each.mean():.{digits}f} ± {each.std(ddof=1) / len(each) ** 0.5:.{digits + 1}f}"


@dataclass(frozen=True)
class History:
    """What spectra are simulated under: the script's models, or a history that is neither."""

    label: int | None = None  # of which model parameters are drawn; None: of both, in turn
    truth: int | None = None  # what would be right: have A and B exchanged genes?
    target: str = ""  # how many are to be flagged
    pulses: tuple = ()  # giver, receiver, generations ago (below 1: divergence times), proportion
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
            demography.add_population_split(
                2 * age, derived=["ancestor", "ghost"], ancestral="root"
            )
        for giver, receiver, ago, share in self.pulses:  # which is where lineages go, back in time
            ago *= age if ago < 1 else 1
            demography.add_mass_migration(ago, source=receiver, dest=giver, proportion=share)
        demography.sort_events()
        return demography

    def loci(self, settings, index, *again):
        """The SFS of each locus by the plain pipeline; `again` is of the same parameters."""
        parameters, rng = self.parameters(settings, index)
        rng = runml.random_stream(settings.seed, PLAIN, index, *again) if again else rng
        return loci_by_sites(settings, parameters, self.demography(parameters), rng)

    def spectrum(self, settings, index, *again):
        """One SFS, of all loci together."""
        return self.loci(settings, index, *again).sum(axis=0)


def resized(species, factor, ago):
    values = {f"size_change_{name}": factor for name in species}
    return values | {f"size_change_time_{name}": ago for name in species}


def design(sample_size, loci, rate, *ends):
    """Settings of a study: log-uniform priors of divergence time, sizes and migration rate."""
    names = "tdiv_prior", "ne_prior", "migration_prior"
    priors = {name: Prior(*each, "log") for name, each in zip(names, ends, strict=True)}
    priors |= {"mutation_rate": Prior(rate, rate), "gene_flow_start": Prior(0.2, 1)}
    n_loci, length = loci
    return runml.SimulationSettings(PerSpecies(*sample_size), length, n_loci, **priors)


HUMAN = design((10, 10), (200, 20_000), 2.35e-8, (1e3, 12e3), (2e3, 5e4), (1e-6, 1e-3))
APES = design((10, 8), (200, 20_000), 2e-8, (4e3, 1e5), (3e3, 1e5), (1e-6, 1e-4))
DUCKS = design((8, 10), (300, 500), 4.83e-9, (2e4, 1e6), (2e5, 5e6), (1e-7, 1e-5))
FLIES = design((8, 8), (300, 200), 1.45e-9, (3e4, 1e6), (2e5, 1e7), (1e-8, 1e-5))
CATALOGUE = (  # of stdpopsim: species, model, A and B
    (HUMAN, "HomSap", "OutOfAfrica_3G09", ("YRI", "CHB")),
    (replace(HUMAN, sample_size=PerSpecies(12, 8)), "HomSap", "OutOfAfrica_2T12", ("AFR", "EUR")),
    (FLIES, "DroMel", "OutOfAfrica_2L06", ("AFR", "EUR")),
    (DUCKS, "AnaPla", "MallardBlackDuck_2L19", ("Mallard", "Black_duck")),
    (APES, "PonAbe", "TwoSpecies_2L11", ("Bornean", "Sumatran")),
)
LESSON = [{}, {"layers": 1}, {"layers": 3}, {"dropout": 0.0}, {"dropout": 0.5}, {"epochs": 5}]
LESSON += [{"epochs": 15}, {"learning_rate": 1e-3}, {"learning_rate": 1e-7}]
LONG = [{"epochs": 60}, {"epochs": 60, "dropout": 0.0}, {"epochs": 60, "dropout": 0.5}]
MODELS = History()
GHOST_TO_A, GHOST_TO_B = (("ghost", name, 2_000, 0.15) for name in "AB")
EARLY = {"gene_flow_start": Prior(1, 1), "gene_flow_stop": Prior(0.5, 0.5)}
GREW = {"size_ancestor": 7_310, "size_change_ancestor": 14_474 / 7_310, "size_a": 14_474}
GREW |= {"size_change_time_ancestor": 5_920, "size_b": 14_474, "divergence_time": 2_040}
MISFITS = {
    "one pulse of 12%, 1,500 ago": History(0, 1, "≥ 76%", [("A", "B", 1_500, 0.12)]),
    "one pulse of 12%, 15,000 ago": History(0, 1, "≥ 60%", [("A", "B", 15_000, 0.12)]),
    "one pulse of 1%, 1,500 ago": History(0, 1, "> 24%", [("A", "B", 1_500, 0.01)]),
    "one pulse of 1%, 15,000 ago": History(0, 1, "> 18%", [("A", "B", 15_000, 0.01)]),
    "a ghost gave 15% to both, 2,000 ago": History(0, 0, "≥ 95%", [GHOST_TO_A, GHOST_TO_B]),
    "a ghost gave 15% to B, 2,000 ago": History(0, 0, "≥ 91%", [GHOST_TO_B]),
    "... after 9/10 of the time": History(0, 0, "≥ 75%", [("ghost", "B", 0.1, 0.15)]),
    "both crashed to 3%, 3,000 ago": History(0, 0, "≥ 98%", values=resized("ab", 0.03, 3_000)),
    "B crashed to 3%, 3,000 ago": History(0, 0, "≥ 66%", values=resized("b", 0.03, 3_000)),
    "B crashed to 3%, 1,000 ago": History(0, 0, "≥ 66%", values=resized("b", 0.03, 1_000)),
    "... with gene flow": History(1, 1, "≥ 54%", values=resized("b", 0.03, 1_000)),
    "both grew tenfold, 5,000 ago": History(0, 0, "> 3%", values=resized("ab", 10, 5_000)),
    "split 5,000 to 25,000 ago": History(0, 0, priors={"tdiv_prior": Prior(5_000, 25_000)}),
    "early gene flow only": History(1, 1, priors=EARLY),
    "gene flow all the time": History(1, 1, priors={"gene_flow_start": Prior(1, 1)}),
}
YOUNG_GREW = History(0, 0, values=GREW)


def genealogies(settings, rates, demography, rng, names=("A", "B")):
    """The bare `sim_ancestry` call of one spectrum, locus by locus."""
    import msprime

    sizes, rate = (settings.sample_size.a, settings.sample_size.b), rates["recombination_rate"]
    samples, seed = dict(zip(names, sizes, strict=True)), rng.integers(1, 2**32)
    of_locus = {"sequence_length": settings.sequence_length, "recombination_rate": rate}
    loci = {"num_replicates": settings.n_loci, "random_seed": seed}
    return msprime.sim_ancestry(samples, demography=demography, **of_locus, **loci)


def loci_by_sites(settings, rates, demography, rng, names=("A", "B")):
    """The plain pipeline: ancestry, finite-sites mutations, an SFS by sites of each locus."""
    import msprime

    spectra, form = [], {"polarised": True, "span_normalise": False}
    for trees in genealogies(settings, rates, demography, rng, names):
        seed = rng.integers(1, 2**32)
        trees = msprime.sim_mutations(trees, rates["mutation_rate"], random_seed=seed)
        samples = [trees.samples(population=demography[name].id) for name in names]
        spectra.append(trees.allele_frequency_spectrum(samples, **form))
    return (np.stack(spectra) * runml.snp_mask(spectra[0].shape)).astype(np.int32)


def spend(function, indices):
    """Seconds that a process spends on spectra, or on their `sim_ancestry` calls alone."""
    import msprime  # noqa: F401

    began = time.perf_counter()
    for index in indices:
        parameters, rng = MODELS.parameters(EASY, index)
        list(function(EASY, parameters, MODELS.demography(parameters), rng))
    return time.perf_counter() - began


def one_snp_a_locus(settings, index):
    """One SFS, of a SNP from each locus that has any."""
    rng, loci = np.random.default_rng(index), MODELS.loci(settings, index)
    cells = [x.ravel() / x.sum() for x in loci if x.any()]
    return sum(rng.multinomial(1, shares) for shares in cells).reshape(loci[0].shape)


def more_and_projected(settings, index):
    """One SFS, and that of two individuals more of each species, projected down to the same."""
    import dadi

    more = replace(settings, sample_size=PerSpecies(12, 12))
    projected = dadi.Spectrum(MODELS.spectrum(more, index)).project([20, 20])
    return np.stack([MODELS.spectrum(settings, index), np.ma.filled(projected, 0)])


def catalogued(settings, species, model, names, index, label):
    """One SFS under a published history, or under the same without migration."""
    import stdpopsim

    published = stdpopsim.get_species(species).get_demographic_model(model).model
    demography = copy.deepcopy(published)  # stdpopsim has one object for all
    demography.migration_matrix *= label
    for event in demography.events:
        if type(event).__name__ == "MigrationRateChange":
            event.rate *= label
    rates, rng = MODELS.parameters(settings, index)
    return loci_by_sites(settings, rates, demography, rng, names).sum(axis=0)


def harms(shape):
    """What is done to data: the probability that a SNP is kept, that its alleles are swapped."""
    n, (in_a, in_b) = shape[1] - 1, np.ogrid[: shape[1], : shape[2]]
    total, all_kept = in_a + in_b, np.ones(shape[1:3])
    minor = np.minimum(total, 2 * n - total)
    return {
        "half of the singletons lost": (np.where(total == 1, 0.5, 1), 0),
        "polarised by a genome of A": (1, all_kept * in_a / n),
        "minor alleles below 5% dropped": (minor >= 0.1 * n, 0),
        "3% of ancestral alleles mistaken": (1, 0.03),
        "ancestral and derived swapped": (1, 1),
        "folded, passed off as unfolded": (1, np.select([total > n, total == n], [1, 0.5], 0)),
    }


def on_all_cores(function, *tasks):
    """What a function of this file returns for each task, a tuple of its arguments."""
    return np.stack(list(runml.in_parallel(function, tasks, RUN)))


def ask(networks, sfs):
    """The probabilities that networks give, shape (networks, N, 2)."""
    return np.array([runml.predict_probabilities(network.model, sfs) for network in networks])


def log_odds(given):
    return np.subtract(*np.log(np.maximum(given, 1e-7))[..., ::-1].T).T


def scores(given, labels):
    """Whether the right model is favoured, and the loss, from probabilities (networks, N, 2)."""
    of_true = np.array(given)[:, np.arange(len(labels)), labels] / np.sum(given, axis=-1)
    return np.argmax(given, axis=-1) == labels, -np.log(np.maximum(of_true, 1e-15))


def quality(what, networks, test, accuracy="", loss=""):
    """Rows that tell how good networks are on spectra; `accuracy` and `loss` are targets."""
    (sfs, labels), given = test, ask(networks, test[0])
    right, losses = scores(given, labels)
    measures = ("accuracy", right, min, accuracy), ("log-loss", losses, max, loss)
    for name, values, worst, target in measures:
        fifths = [f"{some.mean():.4f}" for some in np.array_split(values.mean(axis=0), 5)]
        reference = f"worst network {worst(values.mean(axis=1)):.4f}; by fifths of the spectra "
        row(f"{what}: {name}", with_error(values), reference + ", ".join(fifths), target)
    told = runml.is_told(given)
    wrongly = (told & ~right).sum() / max(1, told.sum())
    verdicts = f"told {told.mean():.1%}, {wrongly:.1%} of these wrongly"
    row(f"{what}: verdicts", verdicts, f"undecided {(~told).mean():.1%}", "at most 5% wrongly")
    dataset = SimpleNamespace(sfs=sfs, labels=labels)
    found = [runml.baseline_accuracies(network, dataset) for network in networks]
    means = {"network": right.mean()} | {x: np.mean([each[x] for each in found]) for x in found[0]}
    mistakes = ", ".join(f"{name} {10_000 * (1 - mean):.0f}" for name, mean in means.items())
    row(f"{what}: mistakes per 10,000", mistakes, f"the same {len(labels):,} spectra", "")


class Judge:
    """What `--predict` says of spectra, by one network."""

    def __init__(self, network):
        self.network = network
        self.fits = [runml.ModelFit(network.table.of_model(label)) for label in range(2)]

    def row(self, what, sfs, truth, reference="", target=""):
        """Print how often it says what; return how many are told, and how many wrongly."""
        said, folded = [], self.network.settings.folded
        for counts in np.array(sfs[..., 0], float):
            observed = runml.Observed(counts, folded)
            said.append(runml.make_prediction(Path("sfs"), observed, self.network, self.fits))
        names = np.array([each.verdict for each in said])
        told, right = np.isin(names, runml.MODELS), np.array(runml.MODELS)[truth]
        limits = [runml.false_alarms(each.n_simulated) for each in said]
        is_so = {x: names == x for x in ("neither", "out of range")}
        is_so["warned"] = np.array([each.p_after for each in said]) <= limits
        is_so["flagged"] = np.any(list(is_so.values()), axis=0)
        is_so |= {"undecided": names == "undecided", "told": told}
        is_so["wrongly"] = told & (names != right)
        is_so["favoured rightly"] = np.array([each.favoured for each in said]) == truth
        text = ", ".join(f"{name} {values.mean():.1%}" for name, values in is_so.items())
        row(f"{what} ({len(said):,})", text, reference, target)
        return np.array([told.sum(), is_so["wrongly"].sum()])


def usual_cnn(inputs, labels, seed, learning_rate):
    """The usual small CNN, fitted: two convolutions with pooling, no data augmentation."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    training, validation = runml.split_rows(labels, seed)
    parts = [layers.Conv2D(10, 3, activation="relu"), layers.MaxPooling2D()]
    parts += [layers.Conv2D(10, 3, activation="relu"), layers.MaxPooling2D(), layers.Flatten()]
    for units in (64, 32):
        parts += [layers.Dense(units, activation="relu"), layers.Dropout(0.2)]
    model = keras.Sequential([*parts, layers.Dense(2, activation="softmax")])
    optimizer, loss = keras.optimizers.Adam(learning_rate), "sparse_categorical_crossentropy"
    model.compile(optimizer, loss, metrics=["accuracy"])
    how = {"batch_size": 128, "epochs": 10, "verbose": 0}
    how["validation_data"] = inputs[validation], labels[validation]
    model.fit(inputs[training], labels[training], **how)
    return model


def without_convolution(model):
    """The script's network, not yet trained, and the same from its bins to its dense layers."""
    x, layers = model.get_layer(runml.FIRST_GAIN).output, model.layers
    for layer in layers[layers.index(model.get_layer(runml.FIRST_GAIN)) + 2 :]:
        x = type(layer).from_config(layer.get_config())(x)
    return type(model)(model.input, x)


@dataclass(frozen=True)
class Benchmark:
    """Where simulations and networks are kept, how small a quick look makes them, and the parts."""

    work: Path
    scale: float

    def n(self, full, least=30):
        return max(least, round(self.scale * full))

    @contextlib.contextmanager
    def folder(self):
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            yield Path(folder)

    def kept(self, kind, *described):
        return self.work / f"{kind}_{runml.fingerprint(described)}"

    def simulated(self, settings, n_reps):
        """A folder with a dataset, simulated once."""
        folder = self.kept("simulated", runml.as_saved(settings), n_reps)
        if not (folder / "simulated_sfs.npy").exists():
            folder.mkdir(parents=True, exist_ok=True)
            specification = runml.DatasetSpecification(settings, n_reps, VERSIONS)
            runml.simulate(folder, specification, RUN)
        return folder

    def trained(self, settings, n_reps, **training):
        """A network, trained once: at the lesson's settings but for some, with the data's seed."""
        training = runml.TrainingSettings(**{"seed": settings.seed} | training)
        saved = runml.as_saved(settings), n_reps, runml.as_saved(training)
        folder = self.kept("trained", *saved)
        if not (folder / runml.MODEL).exists():
            folder.mkdir(parents=True, exist_ok=True)
            dataset = runml.load_dataset(self.simulated(settings, n_reps))
            runml.train(folder, training, [], dataset)
        return runml.load_network(folder / runml.MODEL)

    def of_seeds(self, seeds, settings, n_reps, **training):
        """Networks of which each has simulations of its own."""
        each = [replace(settings, seed=seed) for seed in seeds]
        return [self.trained(settings, n_reps, **training) for settings in each]

    def plain(self, settings, n, history=MODELS):
        """Spectra by the plain pipeline, made once, (n, a, b, 1), and what is right of each."""
        path = self.kept("plain", runml.as_saved(settings), str(history), n).with_suffix(".npy")
        if not path.exists():
            spectra = on_all_cores(history.spectrum, *((settings, index) for index in range(n)))
            np.save(path, spectra[..., np.newaxis])
        truth = history.truth
        return np.load(path), np.arange(n) % 2 if truth is None else np.full(n, truth)

    def test_sets(self, settings, n_sets=1, n=10_000):
        """Some such sets, one behind the other."""
        each = [replace(settings, seed=seed) for seed in TEST_SEEDS[:n_sets]]
        sets = [self.plain(settings, self.n(n)) for settings in each]
        return [np.concatenate(arrays) for arrays in zip(*sets, strict=True)]

    def time_to_simulate(self, n_reps, *words):
        with self.folder() as folder:
            words = (*SIMULATE, "--n_reps", n_reps, *words, "--data_dir", folder)
            return timed(*words, until="joint SFS saved")[0]

    def part_startup(self):
        script, times = ("--help", "--train=0"), {}
        for words in (("-c", "pass"), *((SCRIPT, word) for word in script)):
            for _ in range(self.n(15, 3)):
                began = time.perf_counter()
                start(*words).communicate()
                times.setdefault(words[1], []).append(time.perf_counter() - began)
        reference = f"`python3 -c pass`: {median(times['pass']):.2f} s"
        for word in script:
            row(f"`{word}`", f"{median(times[word]):.2f} s", reference, "at most 0.25 s more")

    def part_simulation(self):
        n_reps, n_plain = self.n(2_500), self.n(400)
        plans = {(loci_by_sites, 1): n_plain, (loci_by_sites, N_WORKERS): n_plain}
        plans, ours = plans | {(genealogies, N_WORKERS): 2 * n_reps}, []
        times = {plan: [] for plan in plans}
        for _ in range(3):
            for (function, at_once), n in plans.items():
                tasks = [(function, range(first, n, at_once)) for first in range(at_once)]
                times[function, at_once].append(on_all_cores(spend, *tasks).max())
            ours.append(self.time_to_simulate(n_reps, "--workers", N_WORKERS))
        *plain, bare = times.values()
        what = f"`--simulate --n_reps {n_reps}`, {N_WORKERS} workers"
        for at_once, seconds, target in zip((1, N_WORKERS), plain, ("≥ 4 times", ""), strict=True):
            rates = [2 * n_reps / np.array(ours), n_plain / np.array(seconds)]
            rate = f"{median(rates[0]):.0f} SFS/s, {median(np.divide(*rates)):.2f} times"
            reference = f"plain pipeline, {at_once} at once: {median(rates[1]):.1f} SFS/s"
            row(f"{what}, rate", rate, reference, target)
        over = f"{median(ours):.1f} s, {100 * (median(np.divide(ours, bare)) - 1):+.0f}%"
        reference = f"bare `sim_ancestry`, {N_WORKERS} at once: {median(bare):.1f} s"
        row(f"{what}, until the arrays are saved", over, reference, "at most +10%")

    def part_accuracy(self):
        networks, ours, usual = [], [], []
        for seed in SEEDS:
            folder = self.simulated(replace(EASY, seed=seed), self.n(5_000))
            usual.append(timed(__file__, "--usual_cnn", folder)[1])
            ours.append(timed(*TRAIN, "--data_dir", folder, until="Model saved"))
            networks.append(runml.load_network(folder / runml.MODEL))
        targets = "at least 0.9978 (worst 0.9970), error below 0.0002", "at most 0.0075"
        quality("easy, 5 seeds", networks, self.test_sets(EASY, 5), *targets)
        saved, whole = zip(*ours, strict=True)
        reference = f"the usual small CNN: {median(usual):.1f} s"
        for what, times, target in (("saved", saved, "at most 1.0 times"), ("drawn", whole, "")):
            ratio = f"{median(times):.1f} s, {median(np.divide(times, usual)):.2f} times"
            row(f"`--train` until all is {what}, median of 5", ratio, reference, target)

    def part_mistakes(self):
        (sfs, labels), own = self.test_sets(EASY), replace(EASY, seed=1)
        right = scores(ask([self.trained(own, self.n(5_000))], sfs), labels)[0][0]
        settings = replace(EASY, seed=TEST_SEEDS[0])
        drawn = [MODELS.parameters(settings, index)[0] for index in range(len(sfs))]
        drawn = np.array(drawn, runml.PARAMETERS)
        for label, model in enumerate(runml.MODELS):
            wrong, ranges = ~right & (labels == label), []
            for name in ("divergence_time", "size_ancestor", "migration_a_to_b"):
                values = drawn[name][wrong] if wrong.any() else [np.nan]
                ranges.append(f"{name} {runml.format_range(values, '.2g')}")
            row(f"{model} mistaken", f"{wrong.sum()} of {len(sfs) // 2:,}", "; ".join(ranges), "")
        few = (labels == 1) & (drawn["migration_a_to_b"] < 3e-6)
        row("gene flow at rates below 3e-06", f"{(~right[few]).mean():.0%} mistaken", "", "")

    def part_more(self):
        targets = (), ("never falling", "never rising"), ("at least 0.998", "at most 0.0065")
        for n_reps, target in zip((1_000, 5_000, 25_000), targets, strict=True):
            settings, n_reps = replace(EASY, seed=77), self.n(n_reps)
            network = self.trained(settings, n_reps)
            quality(f"{n_reps:,} replicates", [network], self.test_sets(EASY, 5), *target)
            with self.folder() as folder:
                own = runml.DatasetSpecification(settings, self.n(2_500), VERSIONS)
                runml.test(folder, own, [], RUN, network)
                said = json.loads((folder / "test_results.json").read_text())
            accuracy = runml.format_proportion(said["accuracy"], said["accuracy_95ci"])
            row("the same: `--test` says", accuracy, f"log-loss {said['log_loss']:.4f}", "alike")

    def part_small(self):
        n_reps = self.n(1_000)
        with self.folder() as folder:
            _, first = timed(*SIMULATE, "--n_reps", n_reps, "--data_dir", folder)
            _, second = timed(*TRAIN, "--data_dir", folder)
            network, what = runml.load_network(folder / runml.MODEL), f"`--n_reps {n_reps}`"
        quality(f"from nothing, {what}", [network], self.test_sets(EASY, 5), "at least 0.995")
        reference = f"`--simulate` {first:.1f} s, `--train` {second:.1f} s"
        row("the same, time", f"{first + second:.0f} s", reference, "under 30 s")

    def part_young(self):
        (sfs, labels), n_reps = self.test_sets(YOUNG), self.n(1_000)
        networks, what = self.of_seeds(SEEDS[:3], YOUNG, n_reps), f"young, {n_reps:,} replicates"
        quality(what, networks, (sfs, labels), loss="at most 0.48")
        fits = [runml.fit_logistic_regression(*network.table.parts()) for network in networks]
        inputs = runml.flat(runml.network_inputs(sfs, folded=False))
        losses = scores([fit.predict_proba(inputs) for fit in fits], labels)[1]
        row("the same: log-loss of a logistic regression", with_error(losses), "a coin: 0.6931", "")

    def part_large(self):
        targets, smallest = {100: "at most 1.5 times, 1,000 MB", 250: "at most 2,000 MB"}, None
        for size, n_reps in ((10, 1_000), (50, 1_000), (100, 1_000), (250, 100)):
            own = replace(EASY, sequence_length=20_000, sample_size=PerSpecies(size, size))
            command = *TRAIN, "--data_dir", self.simulated(own, self.n(n_reps))
            times = [timed(*command, until="Model saved") for _ in range(3)]
            saved, whole = np.median(times, axis=0)
            smallest = smallest or saved
            ours = f"{saved:.1f} s, {saved / smallest:.2f} times; {peak_memory(*command):.0f} MB"
            what = f"`--train`, {size} + {size} individuals, until saved"
            row(what, ours, f"with its picture {whole:.1f} s", targets.get(size, ""))
            if size == 100:
                networks, test = [self.trained(own, self.n(n_reps))], self.test_sets(own, n=5_000)
        quality("100 + 100 individuals", networks, test, loss="at most 0.010")

    def part_memory(self):
        with self.folder() as folder:
            for words, limit in ((SIMULATE, 400), (TRAIN, 2_000)):
                peak = f"{peak_memory(*words, '--data_dir', folder):.0f} MB"
                row(f"largest process of `{words[1]}`", peak, "", f"at most {limit:,} MB")

    def part_scale(self):
        n_reps, where = self.n(2_500), {f"{n} local": ("--workers", n) for n in (N_WORKERS, 1)}
        with contextlib.ExitStack() as stack:
            if importlib.util.find_spec("distributed"):
                from distributed import LocalCluster

                cluster = LocalCluster(None, N_WORKERS, 1, dashboard_address=None)
                address = stack.enter_context(cluster).scheduler_address
                where[f"{N_WORKERS} Dask"] = "--dask_scheduler", address
            times = {name: [] for name in where}
            for _ in range(3):
                for name, words in where.items():
                    times[name].append(self.time_to_simulate(n_reps, *words))
        local = times[f"{N_WORKERS} local"]
        for name, each in times.items():
            rate = f"{2 * n_reps / median(each):.0f} SFS/s"
            ratio = f"{median(np.divide(local, each)):.2f} times {N_WORKERS} local"
            row(f"`--simulate`, {name} workers", rate, ratio, "Dask at least 0.9 times")
        few, many = self.n(2_000), self.n(20_000)
        with self.folder() as folder:
            rest = "--sequence_length", 100, "--data_dir", folder
            for words in (("--simulate", "--n_reps"), ("--test", "--n_test_reps")):
                if words[0] == "--test":
                    timed(*TRAIN, "--epochs", 1, "--data_dir", folder)
                first, last = (
                    f"{words[1]} {n}: {peak_memory(SCRIPT, *words, n, *rest, of_all=False):.0f} MB"
                    for n in (few, many)
                )
                row(f"parent of `{words[0]}`, memory", last, first, "at most 100 MB more")
        with self.folder() as folder:
            words = (*SIMULATE, "--n_reps", n_reps, "--data_dir", folder)
            process, half = start(*words), n_reps / runml.ROWS_PER_BLOCK
            while len(list(folder.glob(".simulated-*/block_*"))) < half and process.poll() is None:
                time.sleep(0.01)
            process.kill()
            began = time.perf_counter()
            process.stdout.read()  # to its end, which comes when no worker has it any more
            gone = f"{time.perf_counter() - began:.2f} s"
            rest = f"{timed(*words, until='joint SFS saved')[0]:.1f} s"
        row("workers gone after their parent was killed", gone, "", "soon")
        whole = median(local)
        row("`--simulate`, killed after half, run again", rest, f"whole: {whole:.1f} s", "half")

    def part_cost(self):
        runml.simulate_block(EASY, PLAIN, range(2))  # imports msprime
        kinds = {"sample_size": (5, PerSpecies), "recombination_rate": (5e-9, Prior)}
        for name, (lowest, kind) in (kinds | {"sequence_length": (50_000, max)}).items():
            times, rows = [], range(self.n(60, 4))
            for factor in (1, 2, 4, 8):
                value, began = kind(factor * lowest, factor * lowest), time.process_time()
                runml.simulate_block(replace(EASY, **{name: value}), PLAIN, rows)
                times.append(1_000 * (time.process_time() - began) / len(rows))
            power = f"power {np.polyfit(np.log([1, 2, 4, 8]), np.log(times), 1)[0]:.2f}"
            each = ", ".join(f"{x:.1f}" for x in times)
            what = f"`--{name}` {lowest:g} to {8 * lowest:g}"
            row(f"CPU time of an SFS by {what}", power, f"{each} ms", "")

    def part_opinion(self):
        settings, n = replace(EASY, seed=1), self.n(300)
        fresh, judges = self.test_sets(EASY, n=2_000), {}
        for n_reps in (50, 500, 1_000, 5_000):
            judge = Judge(self.trained(settings, self.n(n_reps)))
            expected = f"each check expects {runml.false_alarms(self.n(n_reps)):.1%}"
            judge.row(f"fresh, {n_reps:,} replicates", *fresh, expected, "flagged ≤ 2%")
        judges = {"": judge, " (folded)": Judge(self.trained(settings, self.n(5_000), folded=True))}
        for folded, judge in judges.items():
            for length in (10_000, 100_000, 1_000_000):
                spectra = self.plain(replace(EASY, sequence_length=length), n)
                target = "≤ 2%" if length == EASY.sequence_length else "≥ 95%"
                judge.row(f"{length:,} bp{folded}", *spectra, "trained on 100,000", target)
        for name, history in MISFITS.items():
            judges[""].row(name, *self.plain(EASY, n, history), "", history.target)

    def part_silent(self):
        n, rng, order = self.n(100), np.random.default_rng(0), {"sample_size": PerSpecies(8, 12)}
        rad = {"n_loci": 500, "sequence_length": 200, "mutation_rate": Prior(1e-8, 1e-8)}
        for species, usual, n_reps in SPECIES:
            for changes in ({}, order, rad):
                settings, own = replace(usual, **changes), replace(usual, **changes, seed=1)
                judge = Judge(self.trained(own, self.n(1_000 if changes else n_reps)))
                (sfs, truth), harmed = self.plain(settings, n), {}
                tasks = ((settings, index) for index in range(n))
                if changes is order:
                    harmed["sizes in the wrong order"] = sfs.swapaxes(1, 2).reshape(sfs.shape)
                elif changes is rad:
                    harmed["one SNP a locus"] = on_all_cores(one_snp_a_locus, *tasks)[
                        ..., np.newaxis
                    ]
                else:
                    for name, (kept, swapped) in harms(sfs.shape).items():
                        left = rng.binomial(sfs, np.expand_dims(kept, -1))
                        moved = rng.binomial(left, np.expand_dims(swapped, -1))
                        harmed[name] = left - moved + moved[:, ::-1, ::-1]
                for name, spectra in ({"unharmed": sfs} | harmed).items():
                    judge.row(f"{species} {' '.join(changes)}: {name}", spectra, truth)

    def part_projection(self):
        for length in (5_000, 100_000):
            settings, n = replace(EASY, seed=1, sequence_length=length), self.n(500)
            network = self.trained(settings, self.n(5_000))
            both = on_all_cores(more_and_projected, *((settings, i) for i in range(n)))
            given = [ask([network], sfs[..., np.newaxis])[0] for sfs in both.swapaxes(0, 1)]
            moved = np.subtract(*log_odds(np.array(given)))
            moved = [with_error(-moved[label::2], 2) for label in range(2)]
            what = f"log-odds moved by projecting 24 to 20 chromosomes, {length:,} bp"
            row(what, "divergence {}, gene flow {}".format(*moved), f"{n:,} spectra", "")

    def part_undecided(self):
        for species, settings, n_reps in SPECIES:
            networks = self.of_seeds(SEEDS[:3], settings, self.n(n_reps))
            quality(f"fresh, {species}, 3 seeds", networks, self.test_sets(settings))

    def part_sizes(self):
        network, n = self.trained(replace(EASY, seed=1, **SIZES), self.n(4_000)), self.n(300)
        quality("changes of size", [network], self.test_sets(EASY, 5), "at least 0.996")
        judge, target = Judge(network), "right ≥ {}%, told wrongly ≤ 2%"
        for start, least in (("both crashed", 93), ("B crashed", 99), ("both grew", 100)):
            name = next(name for name in MISFITS if name.startswith(start))
            judge.row(f"... {name}", *self.plain(EASY, n, MISFITS[name]), "", target.format(least))
        for what, settings in (("without", HUMAN), ("with", replace(HUMAN, **SIZES))):
            judge = Judge(self.trained(settings, self.n(2_000), epochs=30))
            spectra, target = self.plain(HUMAN, 20, YOUNG_GREW), "with them told ≤ 5%"
            judge.row(f"{what} changes of size: young, the ancestor grew", *spectra, "", target)

    def part_networks(self):
        for species, settings, n_reps in SPECIES:
            sfs, labels = self.test_sets(settings)
            own = replace(settings, seed=1), self.n(n_reps)
            given = ask([self.trained(*own, seed=seed) for seed in SEEDS], sfs)
            deviation = log_odds(given).std(axis=0, ddof=1).mean()
            one, of_mean = (scores(x, labels)[1].mean() for x in (given, given.mean(0)[np.newaxis]))
            losses = f"log-loss of one {one:.4f}, of the mean probability {of_mean:.4f}"
            row(f"{species}: deviation of log-odds, 5 seeds", f"{deviation:.2f}", losses, "")

    def part_bootstrap(self):
        settings = replace(YOUNG, seed=1, n_loci=100, sequence_length=1_000)
        network, n, n_again = self.trained(settings, self.n(1_000)), self.n(40, 4), self.n(50, 10)
        loci = on_all_cores(MODELS.loci, *((settings, index) for index in range(n)))
        tasks = ((settings, index, again) for index in range(n) for again in range(n_again))
        others, rng = np.split(on_all_cores(MODELS.spectrum, *tasks), n), np.random.default_rng(0)
        ratios, drawn = [], rng.integers(settings.n_loci, size=(n, 100, settings.n_loci))
        for of_loci, again, rows in zip(loci, others, drawn, strict=True):
            sets = np.append(of_loci[rows].sum(axis=1), again, axis=0)[..., np.newaxis]
            given = log_odds(ask([network], sets))[0]
            ratios.append(given[:100].std(ddof=1) / given[100:].std(ddof=1))
        reference = f"{n_again} independent samples each of {n} histories, 100 loci of 1,000 bp"
        what = "block bootstrap, deviation of log-odds, ratio"
        row(what, runml.format_range(ratios, ".2f"), reference, "median 0.7 to 1.4")

    def part_catalogue(self):
        if not importlib.util.find_spec("stdpopsim"):
            return row("catalogue", "not measured: pip install stdpopsim", "", "")
        total = 0
        for settings, species, model, names in CATALOGUE:
            judge = Judge(self.trained(replace(settings, **SIZES), self.n(2_000), epochs=30))
            labels = [0] * 12 if species == "DroMel" else [0, 1] * 6  # it has no migration
            tasks = ((settings, species, model, names, *each) for each in enumerate(labels))
            sfs = on_all_cores(catalogued, *tasks)[..., np.newaxis]
            total += judge.row(f"{species} {model}, {' and '.join(names)}", sfs, labels)
        row("all 60", "{} told, {} wrongly".format(*total), "", "at least 25, at most 2")
        with self.folder() as folder:
            runml.save_network(folder / runml.MODEL, judge.network)
            files = [folder / f"{number}.npy" for number in range(100)]
            for number, path in enumerate(files):
                np.save(path, sfs[number % len(sfs)])
            seconds, _ = timed(SCRIPT, "--data_dir", folder, "--predict", *files, until="Saved in")
        row("`--predict` of 100 spectra, until saved", f"{seconds:.1f} s", "", "at most 30 s")

    def part_architecture(self):
        (sfs, labels), given = self.test_sets(EASY), {}
        usual = {"the usual CNN on raw counts, at 1e-5": (np.array, 1e-5)}
        usual |= {"... at 1.5e-4, which 1e-5 is with the gain": (np.array, 1.5e-4)}
        usual |= {"... and on square roots": (np.sqrt, 1.5e-4)}
        for seed in SEEDS[:3]:
            settings, training = replace(EASY, seed=seed), runml.TrainingSettings(seed=seed)
            dataset = runml.load_dataset(self.simulated(settings, self.n(5_000)))
            inputs, split = runml.network_inputs(dataset.sfs, False), [dataset.labels, seed]
            own, split = runml.build_network(sfs.shape[1:3], training), runml.split_rows(*split)
            for what, model in {"ours": own, "no convolution": without_convolution(own)}.items():
                runml.train_network(model, inputs, dataset.labels, split, training)
                given.setdefault(what, []).append(runml.predict_probabilities(model, sfs))
            for what, (see, rate) in usual.items():
                model = usual_cnn(see(dataset.sfs), dataset.labels, seed, rate)
                given.setdefault(what, []).append(runml.predict_probabilities(model, see(sfs)))
        for what, each in given.items():
            right, loss = (str(x.mean(axis=1).round(4)) for x in scores(each, labels))
            row(what, f"accuracy {right}", f"log-loss {loss}", "three seeds")

    def part_tests(self):
        with self.folder() as folder:
            _, job = timed(*SIMULATE, "--train", "--test", "--data_dir", folder)
        began, tests = time.perf_counter(), start("-m", "pytest", "-q", ROOT / "tests")
        summary = tests.communicate()[0].splitlines()[-1].strip("= ")
        seconds = time.perf_counter() - began
        ratio, target = f"{seconds / job:.2f} times ({summary})", "at most 1.5 times, none failed"
        row("`pytest tests`", ratio, f"`--simulate --train --test`: {job:.0f} s", target)

    def part_lesson(self):
        """Each seed simulates and trains anew, as each student of a class does."""
        columns = "validation loss", "validation accuracy", "training loss", "accuracy on others"
        print(file=TABLE)
        row(f"median (5% to 95%) of {len(LESSON_SEEDS)} seeds", *columns, heading=True)
        for species, settings, n_reps in SPECIES:
            (sfs, labels), full, chosen = self.test_sets(settings), self.n(n_reps), []
            tried = [(full, change) for change in (LESSON if settings is EASY else LESSON + LONG)]
            for n in sorted({self.n(n) for n in (50, 200, 500, 1_000)} - {full}):
                tried += [(n, {}), (n, {"epochs": 10 * full // n})]  # as many steps as of all
            for n, change in tried:
                networks, ends = self.of_seeds(LESSON_SEEDS, settings, n, **change), []
                for network in networks:
                    parts = [scores([x.probabilities], x.labels) for x in network.table.parts()]
                    fresh = scores(ask([network], sfs), labels)[0]
                    ends.append([x.mean() for x in (*parts[1][::-1], parts[0][1], fresh)])
                cells = [runml.format_range(values, ".4f") for values in np.transpose(ends)]
                words = " ".join(f"--{name} {value:g}" for name, value in change.items())
                row(f"{species}, {n:,} replicates: {words or 'as in the lesson'}", *cells)
                if not change:
                    own = SimpleNamespace(sfs=sfs, labels=labels)
                    others = [runml.baseline_accuracies(network, own) for network in networks]
                    others = [each["logistic regression"] for each in others]
                    row("logistic regression", "", "", "", runml.format_range(others, ".4f"))
                chosen += [ends] if n == full else []
            best = [max(ends, key=lambda end: end[1]) for ends in zip(*chosen, strict=True)]
            best = [runml.format_range(values, ".4f") for values in np.transpose(best)]
            row(f"{species}, each seed's best by validation", "", best[1], "", best[3])
        sfs, labels = self.plain(replace(EASY, tdiv_prior=YOUNG.tdiv_prior), self.n(1_000))
        right, losses = scores(ask(self.of_seeds(LESSON_SEEDS, EASY, self.n(5_000)), sfs), labels)
        wrongly = f"{(~right[:, labels == 0]).mean():.0%} of divergence called gene flow"
        loss, accuracy = (runml.format_range(x.mean(axis=1), ".4f") for x in (losses, right))
        row("easy, tested on pairs split 5,000 to 50,000 ago", loss, wrongly, "", accuracy)


PARTS = {name[5:]: part for name, part in vars(Benchmark).items() if name.startswith("part_")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--work", type=Path, help="where to keep what is simulated and trained")
    parser.add_argument("--scale", type=float, default=1, help="of the sizes (default: 1)")
    parser.add_argument("--usual_cnn", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.usual_cnn:
        dataset = runml.load_dataset(args.usual_cnn)
        return print(usual_cnn(np.array(dataset.sfs), dataset.labels, 1, 1e-5).name)
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no such part: {' '.join(unknown)}")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it minds that many models predict
    runml.save_picture = lambda *_, **__: None  # nobody looks at them here
    print(f"{os.cpu_count()} cores, scale {args.scale:g}; {json.dumps(VERSIONS)}\n", flush=True)
    row("what", "measured", "reference in the same run", "target", heading=True)
    nowhere = contextlib.redirect_stdout(io.StringIO())
    with nowhere, tempfile.TemporaryDirectory() as temporary:
        benchmark = Benchmark((args.work or Path(temporary)).resolve(), args.scale)
        for name in args.parts or PARTS:
            PARTS[name](benchmark)


if __name__ == "__main__":
    main()
