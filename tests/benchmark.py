"""How good, how fast and how large the commands are, each against its reference in the same run.

`python tests/benchmark.py` takes a night on two cores; names of parts choose among them. `--work`
keeps what is simulated and trained, and `--scale 0.02` is a quick look: small, and not good. Each
part prints rows of a Markdown table as it ends. What they measure, and their minutes on two quiet
cores; the first that needs the 50,000 test spectra takes 15 more:

    startup 1         until `--help`, and until a usage error
    simulation 8      the rate against the plain pipeline; the time against `sim_ancestry` alone
    accuracy 15       of the lesson's settings, five seeds; `--train` against the usual small CNN
    more 12           what more simulations bring, and what `--test` says of it
    small 2           a thousand replicates, from nothing
    young 3           species that parted lately, with few migrants
    large 10          samples of 10 to 250 individuals
    memory 3          of the largest process of `--simulate` and of `--train`
    scale 12          Dask; memory and replicates; a killed run, its workers and its rest
    opinion 15        the checks of fit on fresh spectra, and on histories in neither model
    silent 20         what becomes of the verdicts when data are harmed
    undecided 3       how many fresh spectra are told, and how many of these wrongly
    sizes 25          a prior of changes of size, on populations that changed and that did not
    networks 3        how much networks differ that differ in the training's seed
    bootstrap 4       the block bootstrap against independent samples of the same history
    catalogue 60      published histories (stdpopsim) under priors as one would choose them
    architecture 8    no convolution, and the usual CNN: is it architecture or representation?
    tests 6           pytest's time against the main job's
    lesson 100        most of the lesson's experiments, ten seeds each

What `--work` keeps serves one version of the script: it is not looked at again. Times are seconds
of whole commands, imports included, or until a command prints that its results are saved. Accuracy
is measured on finite-sites spectra (`msprime.sim_mutations` as it comes), which no training sees.
"""

import argparse
import contextlib
import hashlib
import io
import json
import logging
import multiprocessing
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from itertools import product
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
TRAIN = (SCRIPT, "--train")
TABLE = sys.stdout  # what the script prints in this process goes nowhere
VERSIONS = {name: version(name) for name in ("msprime", "tskit", "numpy")}

EASY = runml.SimulationSettings()  # the lesson's two questions
YOUNG = replace(EASY, tdiv_prior=Prior(5e3, 5e4), migration_prior=Prior(1e-6, 1e-5))
SPECIES = (("easy", EASY, 5_000), ("young", YOUNG, 1_000))  # with replicates
SIZES = {"size_change_prior": Prior(0.03, 10, "log")}
SEEDS = (1, 2, 3, 4, 5)  # of simulation and training both
TEST_SEEDS = (20_000, 20_001, 20_002, 20_003, 20_004)  # of sets of 10,000 spectra
LESSON_SEEDS = range(101, 111)
LESSON = [{}, {"layers": 1}, {"layers": 3}, {"dropout": 0.0}, {"dropout": 0.5}, {"epochs": 5}]
LESSON += [{"epochs": 15}, {"learning_rate": 1e-3}, {"learning_rate": 1e-7}]
LONG = [{"epochs": 60}, {"epochs": 60, "dropout": 0.0}, {"epochs": 60, "dropout": 0.5}]
USUAL_CNN = {  # what it sees, and its learning rate
    "the usual CNN on raw counts, at 1e-5": (np.array, 1e-5),
    "... at 1.5e-4, which 1e-5 is with the gain": (np.array, 1.5e-4),
    "... and on square roots": (np.sqrt, 1.5e-4),
}


def row(*cells, heading=False):
    """Print a row of the table."""
    cells += ("",) * (4 - len(cells))
    rows = [cells, ["---"] * len(cells)] if heading else [cells]
    lines = [""] * heading + [f"| {' | '.join(each)} |" for each in rows]
    print(*lines, sep="\n", file=TABLE, flush=True)


def start(*words):
    words = [sys.executable, *map(str, words)]
    return psutil.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def timed(*words, until=""):
    """Seconds until a command prints a text, and until it ends; and the last line of all."""
    began, process, seconds, line = time.perf_counter(), start(*words), 0, ""
    for line in process.stdout:
        seconds = time.perf_counter() - began if until in line else seconds
    if (process.wait() or not seconds) and until:
        raise SystemExit(f"failed: {' '.join(map(str, words))}\n{line}")
    return seconds, time.perf_counter() - began, line


def peak_memory(*words, of_all=True):
    """The MB of a command's largest process, or of its first."""
    process, peak = start(*words), 0
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in [process, *(process.children(recursive=True) if of_all else [])]:
                peak = max(peak, each.memory_info().rss / 1e6)
        time.sleep(0.02)
    return peak


def compare(what, seconds, other, others, target=""):
    """A row of times, and how many times those of a reference, with which they took turns."""
    ratio = f"{np.median(seconds):.2f} s, {np.median(np.divide(seconds, others)):.2f} times"
    row(what, ratio, f"{other}: {np.median(others):.2f} s", target)


def on_both_cores(function, arguments):
    """What a function of this file returns for each argument, as one array."""
    # Spawned, as nothing should be forked from where TensorFlow may run threads.
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as processes:
        return np.stack(list(processes.map(function, arguments)))


def spread(values, form=".4f"):
    """The median, and between which values 90% of them lie."""
    low, middle, high = (format(x, form) for x in np.quantile(values, [0.05, 0.5, 0.95]))
    return f"{middle} ({low} to {high})"


@dataclass(frozen=True)
class History:
    """What spectra are simulated under: the script's models, or a history that is neither."""

    label: int | None = None  # of which model parameters are drawn; None: of both, in turn
    truth: int | None = None  # what would be right: have A and B exchanged genes?
    target: str = ""  # how many are to be flagged
    pulses: tuple = ()  # giver, receiver, generations ago (below 1: divergence times), proportion
    resized: tuple = ("", 1, 0)  # populations, by which factor, how many generations ago
    values: dict = field(default_factory=dict)  # of parameters, in place of what is drawn
    priors: dict = field(default_factory=dict)  # likewise
    published: object = None  # the demography of stdpopsim, in place of the script's
    names: tuple = ("A", "B")  # of the populations that are sampled

    def loci(self, settings, index, bare=False):
        """The SFS of each locus, (loci, a, b, 1), by the plain pipeline, or bare genealogies."""
        import msprime

        rng = runml.random_stream(settings.seed, (99,), index)  # a stream that no command uses
        label = index % 2 if self.label is None else self.label
        drawn = runml.draw_parameters(replace(settings, **self.priors), label, rng).copy()
        for name in self.resized[0]:
            drawn[f"size_change_{name}"], drawn[f"size_change_time_{name}"] = self.resized[1:]
        for name, value in self.values.items():
            drawn[name] = value
        demography, age = self.published or runml.demographic_model(drawn), drawn["divergence_time"]
        if self.published and label == 0:  # each task has a copy of its own
            demography.migration_matrix[:] = 0
            for event in demography.events:
                if isinstance(event, msprime.MigrationRateChange):
                    event.rate = 0
        if any("ghost" in pulse for pulse in self.pulses):  # a third species
            demography.add_population(name="ghost", initial_size=drawn["size_ancestor"])
            demography.add_mass_migration(2 * age, source="ghost", dest="ancestor", proportion=1)
        for giver, receiver, ago, share in self.pulses:  # which is where lineages go, back in time
            ago *= age if ago < 1 else 1
            demography.add_mass_migration(ago, source=receiver, dest=giver, proportion=share)
        demography.sort_events()
        loci = msprime.sim_ancestry(
            dict(zip(self.names, (settings.sample_size.a, settings.sample_size.b), strict=True)),
            demography=demography,
            sequence_length=settings.sequence_length,
            recombination_rate=drawn["recombination_rate"],
            num_replicates=settings.n_loci,
            random_seed=rng.integers(1, 2**32),
        )
        if bare:
            return list(loci)
        spectra, form = [], {"polarised": True, "span_normalise": False}
        for trees in loci:
            seed = rng.integers(1, 2**32)
            trees = msprime.sim_mutations(trees, drawn["mutation_rate"], random_seed=seed)
            samples = [trees.samples(population=demography[name].id) for name in self.names]
            spectra.append(trees.allele_frequency_spectrum(samples, **form))
        spectra = np.array(spectra, np.int32)[..., np.newaxis]
        spectra[:, 0, 0] = spectra[:, -1, -1] = 0  # alleles that none or all carry
        return spectra


def spend(bare, indices):
    """Seconds that a process spends on spectra, or on their `sim_ancestry` calls alone."""
    MODELS.loci(EASY, 0, bare=True)  # imports msprime before the clock starts
    began = time.perf_counter()
    for index in indices:
        MODELS.loci(EASY, index, bare=bare)
    return time.perf_counter() - began


MODELS = History()
GHOST_TO_A, GHOST_TO_B = (("ghost", name, 2_000, 0.15) for name in "AB")
EARLY = {"gene_flow_start": Prior(1, 1), "gene_flow_stop": Prior(0.5, 0.5)}
MISFITS = {
    "one pulse of 12%, 1,500 ago": History(0, 1, "≥ 76%", [("A", "B", 1_500, 0.12)]),
    "one pulse of 12%, 15,000 ago": History(0, 1, "≥ 60%", [("A", "B", 15_000, 0.12)]),
    "one pulse of 1%, 1,500 ago": History(0, 1, "> 24%", [("A", "B", 1_500, 0.01)]),
    "one pulse of 1%, 15,000 ago": History(0, 1, "> 18%", [("A", "B", 15_000, 0.01)]),
    "a ghost gave 15% to both, 2,000 ago": History(0, 0, "≥ 95%", [GHOST_TO_A, GHOST_TO_B]),
    "a ghost gave 15% to B, 2,000 ago": History(0, 0, "≥ 91%", [GHOST_TO_B]),
    "... after 9/10 of the time": History(0, 0, "≥ 75%", [("ghost", "B", 0.1, 0.15)]),
    "both crashed to 3%, 3,000 ago": History(0, 0, "≥ 98%", resized=("ab", 0.03, 3_000)),
    "B crashed to 3%, 3,000 ago": History(0, 0, "≥ 66%", resized=("b", 0.03, 3_000)),
    "B crashed to 3%, 1,000 ago": History(0, 0, "≥ 66%", resized=("b", 0.03, 1_000)),
    "... with gene flow": History(1, 1, "≥ 54%", resized=("b", 0.03, 1_000)),
    "both grew tenfold, 5,000 ago": History(0, 0, "> 3%", resized=("ab", 10, 5_000)),
    "split 5,000 to 25,000 ago": History(0, 0, priors={"tdiv_prior": Prior(5_000, 25_000)}),
    "early gene flow only": History(1, 1, priors=EARLY),
    "gene flow all the time": History(1, 1, priors={"gene_flow_start": Prior(1, 1)}),
}
YOUNG_GREW = {"size_ancestor": 7_310, "size_change_ancestor": 14_474 / 7_310, "size_a": 14_474}
YOUNG_GREW |= {"size_b": 14_474, "divergence_time": 2_040}


IN_A, IN_B, _ = np.ogrid[:21, :21, :1]  # carriers of an allele
HARMS = {  # the probability that a SNP is kept, and that its alleles are swapped
    "half of the singletons lost": (np.where(IN_A + IN_B == 1, 0.5, 1), 0),
    "polarised by a genome of A": (1, IN_A / 20),
    "minor alleles below 5% dropped": (abs(IN_A + IN_B - 20) <= 18, 0),
    "3% of ancestral alleles mistaken": (1, 0.03),
    "ancestral and derived swapped": (1, 1),
    "folded, passed off as unfolded": (1, (np.sign(IN_A + IN_B - 20) + 1) / 2),
}


def study(sample_size, n_loci, length, rate, times, sizes):
    """Settings of a study: log-uniform priors, of 0.1 to 10 migrants a generation."""
    size = (sizes[0] * sizes[1]) ** 0.5
    ends = {"tdiv_prior": times, "ne_prior": sizes, "migration_prior": (0.1 / size, 10 / size)}
    priors = {name: Prior(*each, "log") for name, each in ends.items()}
    priors |= {"mutation_rate": Prior(rate, rate), "gene_flow_start": Prior(0.2, 1)}
    return runml.SimulationSettings(PerSpecies(*sample_size), length, n_loci, **priors)


HUMAN = study((10, 10), 200, 20_000, 2.35e-8, (1e3, 12e3), (2e3, 5e4))
APES = study((10, 8), 200, 20_000, 2e-8, (4e3, 1e5), (3e3, 1e5))
DUCKS = study((8, 10), 300, 500, 4.83e-9, (2e4, 1e6), (2e5, 5e6))
FLIES = study((8, 8), 300, 200, 1.45e-9, (3e4, 1e6), (2e5, 1e7))
GENOMES = replace(HUMAN, n_loci=500, sample_size=PerSpecies(20, 20))
UNEQUAL = replace(GENOMES, sample_size=PerSpecies(20, 16))
CATALOGUE = (  # of stdpopsim: species, model, A and B
    (GENOMES, "HomSap", "OutOfAfrica_3G09", ("YRI", "CHB")),
    (UNEQUAL, "HomSap", "OutOfAfrica_2T12", ("AFR", "EUR")),
    (FLIES, "DroMel", "OutOfAfrica_2L06", ("AFR", "EUR")),
    (DUCKS, "AnaPla", "MallardBlackDuck_2L19", ("Mallard", "Black_duck")),
    (APES, "PonAbe", "TwoSpecies_2L11", ("Bornean", "Sumatran")),
)


def ask(networks, sfs):
    """The probabilities that networks give, shape (networks, N, 2)."""
    return np.array([runml.predict_probabilities(network.model, sfs) for network in networks])


def scores(given, labels):
    """Whether the right model is favoured, and the loss, from probabilities (..., N, 2)."""
    of_true = np.array(given)[..., np.arange(len(labels)), labels] / np.sum(given, axis=-1)
    return np.argmax(given, axis=-1) == labels, -np.log(np.maximum(of_true, 1e-15))


def mean_of(what, values, worst, target=""):
    """A row of the mean over spectra of the mean of networks, from values (networks, spectra)."""
    each = values.mean(axis=0)
    mean = f"{each.mean():.4f} ± {each.std(ddof=1) / len(each) ** 0.5:.5f}"
    fifths = ", ".join(f"{some.mean():.4f}" for some in np.array_split(each, 5))
    row(what, mean, f"worst network {worst(values.mean(axis=1)):.4f}; fifths {fifths}", target)


def quality(what, networks, test, accuracy="", loss=""):
    """Rows that tell how good networks are on spectra; `accuracy` and `loss` are targets."""
    given = ask(networks, test.sfs)
    right, losses = scores(given, test.labels)
    mean_of(f"{what}: accuracy", right, min, accuracy)
    mean_of(f"{what}: log-loss", losses, max, loss)
    told = given.min(axis=-1) < runml.MAX_ERROR
    verdicts = f"told {told.mean():.1%}, wrongly {(told & ~right).sum() / max(1, told.sum()):.1%}"
    row(f"{what}: verdicts", verdicts, f"undecided {(~told).mean():.1%}", "at most 5% wrongly")
    found = [runml.baseline_accuracies(network, test) for network in networks]
    means = {"network": right.mean()} | {x: np.mean([each[x] for each in found]) for x in found[0]}
    mistakes = ", ".join(f"{name} {10_000 * (1 - mean):.0f}" for name, mean in means.items())
    missed = f"gene flow missed by the network {5_000 * (~right[:, test.labels == 1]).mean():.0f}"
    row(f"{what}: mistakes per 10,000", mistakes, f"{missed}; {len(test.labels):,} spectra")


def judge(what, network, test, reference="", target=""):
    """A row that tells how often `--predict` says what; return how many are told, and wrongly."""
    table = network.table
    fits = [runml.ModelFit(table[table["labels"] == label]) for label in range(2)]
    observed = [runml.Observed(x, network.settings.folded) for x in test.sfs[..., 0].astype(float)]
    said = [runml.Prediction(Path("sfs"), x, network, fits) for x in observed]
    names = np.array([each.verdict for each in said])
    warned = [each.p_after <= each.fit.false_alarms for each in said]
    is_so = {x: names == x for x in ("neither", "out of range")} | {"warned": np.array(warned)}
    is_so["flagged"] = np.any(list(is_so.values()), axis=0)
    is_so |= {"undecided": names == "undecided", "told": np.isin(names, runml.MODELS)}
    is_so["wrongly"] = is_so["told"] & (names != np.array(runml.MODELS)[test.labels])
    is_so["favoured rightly"] = np.array([each.favoured for each in said]) == test.labels
    text = ", ".join(f"{name} {values.mean():.1%}" for name, values in is_so.items())
    row(f"{what} ({len(said):,})", text, reference, target)
    return np.array([is_so["told"].sum(), is_so["wrongly"].sum()])


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
    known, others = ((inputs[rows], labels[rows]) for rows in (training, validation))
    model.fit(*known, batch_size=128, epochs=10, verbose=0, validation_data=others)
    return model


@dataclass(frozen=True)
class Benchmark:
    """Where simulations and networks are kept, how small a quick look makes them, and the parts."""

    work: Path
    temporary: Path
    scale: float

    def n(self, full, least=30):
        return max(least, round(self.scale * full))

    def folder(self):
        return Path(tempfile.mkdtemp(dir=self.temporary))

    def kept(self, *described):
        """A folder for what is so described."""
        folder = self.work / hashlib.sha256(repr(described).encode()).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def simulated(self, settings, n_reps):
        """A folder with a dataset, simulated once."""
        folder = self.kept(settings, n_reps)
        if not (folder / "simulated_sfs.npy").exists():
            specification = runml.DatasetSpecification(settings, n_reps, VERSIONS)
            runml.simulate(folder, specification, runml.RunSettings(workers=2))
        return folder

    def trained(self, settings, n_reps, **training):
        """A network, trained once: at the lesson's settings but for some, with the data's seed."""
        training = runml.TrainingSettings(**{"seed": settings.seed} | training)
        path = self.kept(settings, n_reps, training) / runml.MODEL
        if not path.exists():
            dataset = runml.load_dataset(self.simulated(settings, n_reps))
            runml.train(path.parent, training, [], dataset)
        return runml.load_network(path)

    def of_seeds(self, seeds, settings, n_reps, **training):
        """Networks of which each has simulations of its own."""
        return [self.trained(replace(settings, seed=x), n_reps, **training) for x in seeds]

    def plain(self, settings, n, history=MODELS):
        """Spectra by the plain pipeline, made once, and what is right of each."""
        path = self.kept(settings, n, history) / "sfs.npy"
        if not path.exists():
            loci = on_both_cores(partial(history.loci, settings), range(n))
            np.save(path, loci.sum(axis=1, dtype=np.int32))
        labels = np.arange(n) % 2 if history.truth is None else np.full(n, history.truth)
        return SimpleNamespace(sfs=np.load(path), labels=labels)

    def test_sets(self, settings, n_sets=1, n=10_000):
        """Some such sets, one behind the other."""
        sets = [self.plain(replace(settings, seed=x), self.n(n)) for x in TEST_SEEDS[:n_sets]]
        sfs, labels = (np.concatenate([vars(x)[name] for x in sets]) for name in ("sfs", "labels"))
        return SimpleNamespace(sfs=sfs, labels=labels)

    def part_startup(self):
        times = {}
        for words in (("-c", "pass"), (SCRIPT, "--help"), (SCRIPT, "--train=0")):
            times[words[1]] = [timed(*words)[1] for _ in range(self.n(15, 3))]
        python = times.pop("pass")
        for word, seconds in times.items():
            compare(f"`{word}`", seconds, "`python3 -c pass`", python, "at most 0.25 s more")

    def part_simulation(self):
        n_reps, n_plain, ours = self.n(2_500), self.n(400), []
        command = *SIMULATE, "--n_reps", n_reps, "--workers", 2, "--data_dir"
        references = {  # bare or not, spectra, processes at once
            "plain pipeline, one process": (False, n_plain, 1, "at most 0.25 times"),
            "plain pipeline, two processes": (False, n_plain, 2, ""),
            "bare `sim_ancestry`, two processes": (True, 2 * n_reps, 2, "at most 1.1 times"),
        }
        times = {name: [] for name in references}
        for _ in range(3):
            ours.append(timed(*command, self.folder(), until="joint SFS saved")[0])
            for name, (bare, n, at_once, _) in references.items():
                shares = [range(first, n, at_once) for first in range(at_once)]
                seconds = on_both_cores(partial(spend, bare), shares).max()
                times[name].append(seconds * 2 * n_reps / n)  # for as many spectra
        for name, (*_, target) in references.items():
            compare(f"`--simulate`, {2 * n_reps:,} SFS saved", ours, name, times[name], target)

    def part_accuracy(self):
        networks, times, usual = [], [], []
        for seed in SEEDS:
            folder = self.simulated(replace(EASY, seed=seed), self.n(5_000))
            usual.append(timed(__file__, "--usual_cnn", folder, until="sequential")[1])
            times.append(timed(*TRAIN, "--data_dir", folder, until="Model saved")[:2])
            networks.append(runml.load_network(folder / runml.MODEL))
        targets = "at least 0.9978 (worst 0.9970), error below 0.0002", "at most 0.0075"
        quality("easy, 5 seeds", networks, self.test_sets(EASY, 5), *targets)
        saved, drawn = np.transpose(times)
        compare("`--train` until all is saved", saved, "usual CNN", usual, "at most 1.0 times")
        compare("`--train` until all is drawn", drawn, "usual CNN", usual)

    def part_more(self):
        targets = (), ("never falling", "never rising"), ("at least 0.998", "at most 0.0065")
        for n_reps, target in zip(map(self.n, (1_000, 5_000, 25_000)), targets, strict=True):
            network, folder = self.trained(replace(EASY, seed=77), n_reps), self.folder()
            quality(f"{n_reps:,} replicates", [network], self.test_sets(EASY, 5), *target)
            runml.save_network(folder / runml.MODEL, network)
            words = SCRIPT, "--test", "--n_test_reps", self.n(2_500), "--data_dir", folder
            timed(*words, until="Next:")
            said = json.loads((folder / "test_results.json").read_text())
            accuracy = "{:.4f} ({:.4f} to {:.4f})".format(said["accuracy"], *said["accuracy_95ci"])
            row("the same: `--test` says", accuracy, f"log-loss {said['log_loss']:.4f}", "alike")

    def part_small(self):
        n_reps, folder = self.n(1_000), self.folder()
        commands = (*SIMULATE, "--n_reps", n_reps), TRAIN
        times = [timed(*words, "--data_dir", folder, until="Next:")[1] for words in commands]
        network, what = runml.load_network(folder / runml.MODEL), f"from nothing, {n_reps:,}"
        quality(f"{what} replicates", [network], self.test_sets(EASY, 5), "at least 0.995")
        reference = "`--simulate` {:.1f} s, `--train` {:.1f} s".format(*times)
        row("the same, time", f"{sum(times):.0f} s", reference, "under 30 s")

    def part_young(self):
        test, n_reps = self.test_sets(YOUNG), self.n(1_000)
        networks = self.of_seeds(SEEDS[:3], YOUNG, n_reps)
        quality(f"young, {n_reps:,} replicates", networks, test, loss="at most 0.48")
        fits = [runml.fit_logistic_regression(network) for network in networks]
        inputs = runml.network_inputs(test.sfs, folded=False).reshape(len(test.sfs), -1)
        losses = scores([fit.predict_proba(inputs) for fit in fits], test.labels)[1]
        mean_of("the same: log-loss of a logistic regression", losses, max, "a coin: 0.6931")

    def part_large(self):
        targets, smallest = {100: "at most 1.5 times, 1,000 MB", 250: "at most 2,000 MB"}, None
        for size in (10, 50, 250, 100):
            own = replace(EASY, sequence_length=20_000, sample_size=PerSpecies(size, size))
            n_reps = self.n(100 if size == 250 else 1_000)
            words = *TRAIN, "--data_dir", self.simulated(own, n_reps)
            times = [timed(*words, until="Model saved")[:2] for _ in range(3)]
            saved, drawn = np.median(times, axis=0)
            smallest = smallest or saved
            ours = f"{saved:.1f} s, {saved / smallest:.2f} times; {peak_memory(*words):.0f} MB"
            row(f"`--train`, {size} + {size}", ours, f"drawn: {drawn:.1f} s", targets.get(size, ""))
        network, test = self.trained(own, n_reps), self.test_sets(own, n=5_000)
        quality("100 + 100 individuals", [network], test, loss="at most 0.010")

    def part_memory(self):
        folder = self.folder()
        for words, limit in ((SIMULATE, 400), (TRAIN, 2_000)):
            peak = f"{peak_memory(*words, '--data_dir', folder):.0f} MB"
            row(f"largest process of `{words[1]}`", peak, "", f"at most {limit:,} MB")

    def part_scale(self):
        from distributed import LocalCluster

        n_reps, times = self.n(2_500), []
        command, saved = (*SIMULATE, "--n_reps", n_reps, "--data_dir"), "joint SFS saved"
        with LocalCluster(None, 2, 1, dashboard_address=None) as cluster:
            dask = "--dask_scheduler", cluster.scheduler_address
            for _ in range(3):
                each = [(self.folder(), *x) for x in (("--workers", 2), ("--workers", 1), dask)]
                times.append([timed(*command, *where, until=saved)[0] for where in each])
        local, one, dask = np.transpose(times)
        compare("`--simulate`, one worker", one, "two", local)
        compare("`--simulate`, two Dask workers", dask, "two local", local, "at most 1.1 times")
        rest = "--sequence_length", 100, "--data_dir", self.folder()
        for words in ((*SIMULATE, "--n_reps"), (SCRIPT, "--test", "--n_test_reps")):
            each = (self.n(2_000), *rest), (self.n(20_000), *rest)
            few, many = (peak_memory(*words, *more, of_all=False) for more in each)
            reference = f"a tenth of the replicates: {few:.0f} MB"
            row(f"parent of `{words[1]}`", f"{many:.0f} MB", reference, "at most 100 MB more")
            timed(*TRAIN, "--epochs", 1, *rest[2:], until="Next:")
        folder = self.folder()
        process, half = start(*command, folder), n_reps / runml.ROWS_PER_BLOCK
        while len(list(folder.glob(".simulated-*/block_*"))) < half and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        began = time.perf_counter()
        process.stdout.read()  # to its end, which comes when no worker has it any more
        gone = f"{time.perf_counter() - began:.2f} s"
        row("workers gone after their parent was killed", gone, "", "soon")
        rest = timed(*command, folder, until=saved)[:1]
        compare("`--simulate`, killed after half, run again", rest, "whole", local, "half")

    def part_opinion(self):
        own, n, fresh = replace(EASY, seed=1), self.n(300), self.test_sets(EASY, n=2_000)
        for n_reps in map(self.n, (50, 500, 1_000, 5_000)):
            network = self.trained(own, n_reps)
            expected = f"each check expects {max(runml.FALSE_ALARMS, 1 / (n_reps + 1)):.1%}"
            judge(f"fresh, {n_reps:,} replicates", network, fresh, expected, "flagged ≤ 2%")
        networks = {"": network, " (folded)": self.trained(own, n_reps, folded=True)}
        for (folded, each), length in product(networks.items(), (10_000, 100_000, 1_000_000)):
            spectra = self.plain(replace(EASY, sequence_length=length), n)
            target = "≤ 2%" if length == EASY.sequence_length else "≥ 95%"
            judge(f"{length:,} bp{folded}", each, spectra, "trained on 100,000", target)
        for name, history in MISFITS.items():
            judge(name, network, self.plain(EASY, n, history), target=history.target)

    def part_silent(self):
        n, rng, order = self.n(100), np.random.default_rng(0), {"sample_size": PerSpecies(8, 12)}
        rad = {"n_loci": 500, "sequence_length": 200, "mutation_rate": Prior(1e-8, 1e-8)}
        for (species, usual, n_reps), changes in product(SPECIES, ({}, order, rad)):
            settings, n_reps = replace(usual, **changes), self.n(1_000 if changes else n_reps)
            network, test = self.trained(replace(settings, seed=1), n_reps), self.plain(settings, n)
            sfs, harmed = test.sfs, {"unharmed": test.sfs}
            if changes is order:
                harmed["sizes in the wrong order"] = sfs.swapaxes(1, 2).reshape(sfs.shape)
            elif changes is rad:
                loci = on_both_cores(partial(MODELS.loci, settings), range(n))
                cells, total = loci.reshape(*loci.shape[:2], -1), loci.sum(axis=(2, 3))
                one = rng.multinomial(1, cells / np.maximum(total, 1)) * (total > 0)
                harmed["one SNP a locus"] = one.sum(axis=1).reshape(sfs.shape)
            else:
                for name, (kept, swapped) in HARMS.items():
                    left = rng.binomial(sfs, kept)
                    moved = rng.binomial(left, swapped)
                    harmed[name] = left - moved + moved[:, ::-1, ::-1]
            for name, test.sfs in harmed.items():
                judge(f"{species} {' '.join(changes)}: {name}", network, test)

    def part_undecided(self):
        for species, settings, n_reps in SPECIES:
            networks = self.of_seeds(SEEDS[:3], settings, self.n(n_reps))
            quality(f"fresh, {species}, 3 seeds", networks, self.test_sets(settings))

    def part_sizes(self):
        network, n = self.trained(replace(EASY, seed=1, **SIZES), self.n(4_000)), self.n(300)
        quality("changes of size", [network], self.test_sets(EASY, 5), "at least 0.996")
        for begins, least in (("both crashed", 93), ("B crashed", 99), ("both grew", 100)):
            name = next(name for name in MISFITS if name.startswith(begins))
            spectra = self.plain(EASY, n, MISFITS[name])
            judge(f"... {name}", network, spectra, "", f"right ≥ {least}%, told wrongly ≤ 2%")
        for what, settings in (("without", HUMAN), ("with", replace(HUMAN, **SIZES))):
            network = self.trained(settings, self.n(2_000), epochs=30)
            for ago in (5_920, 3_600):
                grew = YOUNG_GREW | {"size_change_time_ancestor": ago}
                spectra = self.plain(HUMAN, 20, History(0, 0, values=grew))
                name = f"{what} changes of size: young, the ancestor grew {ago:,} ago"
                judge(name, network, spectra, target="with them told wrongly ≤ 5%")

    def part_networks(self):
        for species, settings, n_reps in SPECIES:
            test, own = self.test_sets(settings), (replace(settings, seed=1), self.n(n_reps))
            given = ask([self.trained(*own, seed=seed) for seed in SEEDS], test.sfs)
            deviation = np.diff(np.log(np.maximum(given, 1e-7))).std(axis=0, ddof=1).mean()
            one, of_mean = (scores(x, test.labels)[1].mean() for x in (given, given.mean(axis=0)))
            losses = f"log-loss of one {one:.4f}, of the mean probability {of_mean:.4f}"
            row(f"{species}: deviation of log-odds, 5 seeds", f"{deviation:.2f}", losses)

    def part_bootstrap(self):
        settings = replace(YOUNG, seed=1, n_loci=100, sequence_length=1_000)
        network, n, n_again = self.trained(settings, self.n(1_000)), self.n(40, 4), self.n(50, 10)
        longer, drawn = replace(settings, n_loci=100 * (1 + n_again)), np.random.default_rng(0)
        ratios = []
        for loci in on_both_cores(partial(MODELS.loci, longer), range(n)):
            resampled = loci[drawn.integers(100, size=(100, 100))].sum(axis=1)
            others = np.add.reduceat(loci, range(100, len(loci), 100))
            given = [np.log(np.maximum(ask([network], sfs), 1e-7)) for sfs in (resampled, others)]
            ratios.append(np.divide(*(np.diff(log).std(ddof=1) for log in given)))
        reference = f"{n_again} independent samples each of {n} histories, 100 loci of 1,000 bp"
        row("block bootstrap, ratio of deviations", spread(ratios, ".2f"), reference, "0.7 to 1.4")

    def part_catalogue(self):
        try:
            import stdpopsim
        except ImportError:
            return row("catalogue", "not measured: pip install stdpopsim")
        total = 0
        for settings, species, model, names in CATALOGUE:
            network = self.trained(replace(settings, **SIZES), self.n(2_000), epochs=30)
            published = stdpopsim.get_species(species).get_demographic_model(model).model
            label = 0 if species == "DroMel" else None  # it has no migration
            history = History(label, label, published=published, names=names)
            spectra = self.plain(settings, 12, history)
            total += judge(f"{species} {model}, {' and '.join(names)}", network, spectra)
        row("all 60", "{} told, {} wrongly".format(*total), "", "at least 25, at most 2")
        folder = self.folder()
        runml.save_network(folder / runml.MODEL, network)
        files = [folder / f"{number}.npy" for number in range(100)]
        for number, path in enumerate(files):
            np.save(path, spectra.sfs[number % 12])
        seconds = timed(SCRIPT, "--data_dir", folder, "--predict", *files, until="Saved in")[0]
        row("`--predict` of 100 spectra, until saved", f"{seconds:.1f} s", "", "at most 30 s")

    def part_architecture(self):
        test, n_reps = self.test_sets(EASY), self.n(5_000)
        given = {"ours": ask(self.of_seeds(SEEDS[:3], EASY, n_reps), test.sfs)}
        given |= {what: [] for what in ("no convolution", *USUAL_CNN)}
        for seed in SEEDS[:3]:
            dataset = runml.load_dataset(self.simulated(replace(EASY, seed=seed), n_reps))
            training, sfs, labels = runml.TrainingSettings(seed=seed), dataset.sfs, dataset.labels
            model = runml.build_network(sfs.shape[1:3], training)
            at = [layer.name.startswith("conv") for layer in model.layers].index(True)
            x = model.layers[at - 1].output  # from the bins on to copies of the dense layers
            for layer in model.layers[at + 1 :]:
                x = type(layer).from_config(layer.get_config())(x)
            model, inputs = type(model)(model.input, x), runml.network_inputs(sfs, folded=False)
            runml.train_network(model, inputs, labels, runml.split_rows(labels, seed), training)
            given["no convolution"].append(runml.predict_probabilities(model, test.sfs))
            for what, (see, rate) in USUAL_CNN.items():
                model = usual_cnn(see(sfs), labels, seed, rate)
                given[what].append(runml.predict_probabilities(model, see(test.sfs)))
        for what, each in given.items():
            right, loss = (str(x.mean(axis=1).round(4)) for x in scores(each, test.labels))
            row(what, f"accuracy {right}", f"log-loss {loss}", "three seeds")

    def part_tests(self):
        words = *SIMULATE, "--train", "--test", "--data_dir", self.folder()
        job = timed(*words, until="Next: runml --predict")[1]
        _, seconds, summary = timed("-m", "pytest", "-q", ROOT / "tests")
        what, target = f"`pytest tests`: {summary.strip()}", "at most 1.5 times, none failed"
        compare(what, [seconds], "`--simulate --train --test`", [job], target)

    def part_lesson(self):
        """Each seed simulates and trains anew, as each student of a class does."""
        columns = "validation loss", "validation accuracy", "training loss", "accuracy on others"
        row(f"median (5% to 95%) of {len(LESSON_SEEDS)} seeds", *columns, heading=True)
        for species, settings, n_reps in SPECIES:
            test, full, chosen = self.test_sets(settings), self.n(n_reps), []
            tried = [(full, change) for change in (LESSON if settings is EASY else LESSON + LONG)]
            for n in sorted({self.n(n) for n in (50, 200, 500, 1_000)} - {full}):
                tried += [(n, {}), (n, {"epochs": 10 * full // n})]  # as many steps as of all
            for n, change in tried:
                networks, ends = self.of_seeds(LESSON_SEEDS, settings, n, **change), []
                for network in networks:
                    parts = [
                        scores(x["probabilities"], x["labels"]) for x in runml.parts(network.table)
                    ]
                    fresh = scores(ask([network], test.sfs), test.labels)[0]
                    ends.append([x.mean() for x in (*parts[1][::-1], parts[0][1], fresh)])
                words = " ".join(f"--{name} {value:g}" for name, value in change.items())
                what = f"{species}, {n:,} replicates: {words or 'as in the lesson'}"
                row(what, *map(spread, np.transpose(ends)))
                if not change:
                    found = [runml.baseline_accuracies(network, test) for network in networks]
                    found = spread([each["logistic regression"] for each in found])
                    row("logistic regression", "", "", "", found)
                chosen += [ends] if n == full else []
            best = [max(ends, key=lambda end: end[1]) for ends in zip(*chosen, strict=True)]
            _, validation, _, fresh = map(spread, np.transpose(best))
            row(f"{species}, each seed's best by validation", "", validation, "", fresh)
        test = self.plain(replace(EASY, tdiv_prior=YOUNG.tdiv_prior), self.n(1_000))
        given = ask(self.of_seeds(LESSON_SEEDS, EASY, self.n(5_000)), test.sfs)
        right, losses = scores(given, test.labels)
        wrongly = f"{(~right[:, test.labels == 0]).mean():.0%} of divergence called gene flow"
        loss, accuracy = (spread(x.mean(axis=1)) for x in (losses, right))
        row("easy, tested on pairs split 5,000 to 50,000 ago", loss, wrongly, "", accuracy)


def main():
    parts = {name[5:]: x for name, x in vars(Benchmark).items() if name.startswith("part_")}
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=parts, help="which to measure (default: all)")
    parser.add_argument("--work", type=Path, help="where to keep what is simulated and trained")
    parser.add_argument("--scale", type=float, default=1, help="of the sizes (default: 1)")
    parser.add_argument("--usual_cnn", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.usual_cnn:
        dataset = runml.load_dataset(args.usual_cnn)
        return print(usual_cnn(np.array(dataset.sfs), dataset.labels, 1, 1e-5).name)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it minds that many models predict
    runml.save_picture = lambda *_, **__: None  # nobody looks at them here
    print(f"{psutil.cpu_count()} cores, scale {args.scale:g}; {json.dumps(VERSIONS)}", flush=True)
    row("what", "measured", "reference in the same run", "target", heading=True)
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as temporary:
        for name in args.parts or parts:
            parts[name](Benchmark(args.work or Path(temporary), temporary, args.scale))


if __name__ == "__main__":
    main()
