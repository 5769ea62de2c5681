"""How good, how fast and how large the commands are, each against its reference in the same run.

    python tests/benchmark.py                    # everything, about two hours on two cores
    python tests/benchmark.py startup memory     # only these parts
    python tests/benchmark.py --work FOLDER      # keep what was simulated, and use it next time

Each part prints rows of a Markdown table as it ends. In minutes, on two cores: startup 1, simulation
6, accuracy 25 (the first to need the 50,000 test spectra, which take 15 of them), mistakes 1, more 15,
small 1, young 8, large 10, memory 2, scale 10, cost 1, opinion 10, projection 3, tests 6, lesson 40.
A folder kept by `--work` serves one version of the script: what the script simulates is taken from
there unseen.

Times are wall-clock seconds of whole commands, start-up and TensorFlow's import included, or until a
command prints that its results are saved, before it draws pictures. Where a median is printed,
program and reference ran in turn. Accuracy is measured on sets of 10,000 spectra with finite-sites
mutations (`msprime.sim_mutations` as it comes, SFS by sites), which no training sees. One set is not
enough: its accuracy has a standard error of 0.0005, and the same networks differed by 0.002 from one
set to another. Standard errors are over test spectra, of the mean of all networks on each.

What was tried for the network
==============================

Counts in bins, mutations that meet: mean accuracy and log-loss on the first three sets, how many
training sets of 8,000 that is the mean of, and the seconds of `fit`, most of them on a busy machine. A
training set weighs as much as a network here: one alone moves these by 0.0002 and 0.0008.

    bins begin at Fibonacci numbers (11 x 11), 32 filters, 128 and 64 units, gain 15, batches of 128:
    dropout after each hidden layer                             0.9976   0.0086   2    24
    ... after the last hidden layer only                        0.9977   0.0082   5     8 to 25
    ... none                                                    0.9979   0.0081   1    24
    dropout after each: the logits of both copies averaged      0.9976   0.0086   2    27
    ... convolution without padding                             0.9976   0.0086   2    17
    ... 3 log(1 + x) for the square root                        0.9966   0.0124   2    22
    ... 4 asinh(sqrt(x) / 4)                                    0.9970   0.0106   2    26
    ... bins 0, 1-2, 3-5, 6-... (9 x 9)                         0.9974   0.0092   1    16
    ... bins grow by 1.4 (15 x 15)                              0.9975   0.0102   1    32
    ... weights averaged over two epochs, not one               0.9976   0.0090   1    21
    ... 16 filters                                              0.9976   0.0090   1    23
    ... gain 20                                                 0.9976   0.0090   1    27
    dropout after the last: batches of 64, 16 filters           0.9976   0.0083   5     6 to 25
    ... batches of 128, 16 filters, without padding             0.9976   0.0082   2     4
    ... 16 filters, gain 20                                     0.9977   0.0084   1    11
    ... 16 filters, 256 and 128 units                           0.9976   0.0084   1    20
    ... 16 filters, dropout of 0.5                              0.9975   0.0089   1    12
    ... one hidden layer                                        0.9976   0.0088   1    17
    ... bins double (9 x 9), batches of 64, 16 filters (chosen)  0.9976   0.0083   2     6
    ... 40,000 training spectra                                 0.9983   0.0070   1    37
    ... 40,000, batches of 64, 16 filters                       0.9982   0.0064   1    49

With 1,600 training spectra (three seeds) dropout after each hidden layer gave 0.9939 and 0.0178, after
the last only 0.9950 and 0.0153, with batches of 64 0.9955 and 0.0141; on young species 0.7562 and
0.4804, 0.7614 and 0.4753, 0.7638 and 0.4711. With samples of 100 + 100, `fit` took 4.5 s with bins that
double, 7.0 s with Fibonacci's (log-loss 0.0062 and 0.0091), of which the first dense layer is most. The
sets differ (log-loss 0.0142, 0.0087 and 0.0071 by one network); 79 of 82 mistakes are gene flow of few
migrants taken for divergence, and 40,000 training spectra do not mend most of them.

Before counts were summed in bins and mutations met, with all 21 x 21 cells: mean accuracy and log-loss
of five training sets of 8,000, on 40,000 spectra (half by finite sites, half by branches), and the
seconds of `fit` alone, some of them on a busy machine.

    filters 8, gain 15                                          0.9973   0.0095    5.8
    filters 12, gain 20                                         0.9974   0.0094    6.6
    filters 16, gain 10, last layer random                      0.9971   0.0101   11.4
    filters 16, gain 15                                         0.9975   0.0091   12.2
    filters 32, gain 10                                         0.9975   0.0089   15.5
    filters 8, gain 25, 128 and 64 units                        0.9974   0.0108    8.4
    ... weight decay of 1                                       0.9974   0.0098    5.9
    ... dropout before the first hidden layer too               0.9973   0.0094    8.8
    ... Gaussian noise of 0.5 on the square roots               0.9971   0.0108    6.5
    ... log(1 + x) for the square root, tripled                 0.9636   0.0932    5.7
    ... x^0.35 for the square root, times 1.5                   0.9783   0.0556    6.5
    ... second channel that tells 0 from more, gain 20          0.9972   0.0109    6.1
    filters 12, gain 20, averaging the last third               0.9973   0.0093    6.9

Trained on infinite sites, transformations that look harder at small counts fail where sites mutate
twice, which makes a few shared SNPs without gene flow (0.93 on the finite-sites half). Averaging what
the network says of a spectrum and of its swapped copy: 0.9977 in place of 0.9976, at twice the time.
Strides of 2 and 3 were faster and worse (0.9967, 0.9933), batches of 256 and dense layers of 32 and 16
too. Averaged weights vary least between seeds and cost next to nothing. A last layer that starts at
zero costs nothing in ten epochs and shows a learning rate that is too small (log-loss 0.2 to 0.3 at
1e-7, where random weights gave 0.06). Determinism costs nothing measurable.

Why the seconds of `fit` jumped: while tf.data tunes itself, a thread of it sleeps 10, 20, 40, ... ms
between looks, and the end of an epoch waits for it to wake. So an epoch took 0.65 or 1.27 seconds,
whatever the network. Without tuning and with one thread for an operation, ten epochs took 7.7 (12
filters), 8.9 (16) and 12.2 (24); with two threads 8.5, 9.8 and 12.7, and more of the processor.

What was tried for the check of spectra
=======================================

Whether a model could have made a spectrum, with the lesson's 5,000 replicates: the share flagged, the
mean of three training sets, at a limit of 99% and asking for the nearer model (fresh on 20,000 spectra,
others on 300 of each): fresh; one pulse of 12% 1,500 generations ago, and 15,000; a ghost to both, to B;
B crashed 3,000 generations ago; both grew tenfold.

    8 principal components, 4 normal distributions       0.8  76.1  57.0  97.0  90.3  92.3   1.6
    8 components, 8 distributions                        0.8  78.9  61.1  98.2  92.7  95.9   3.4
    8 components, 12 distributions                       0.8  81.7  58.9  99.0  92.6  96.7   3.9
    ... asking for the favoured model, 8 and 8           0.9  79.1  64.1  98.7  93.3  96.1   4.1
    ... the same at a limit of 99.2% (chosen)            0.7  78.0  60.7  98.2  92.7  95.2   3.0
    with a fifth of the replicates, 8 and 4              0.7  73.1  49.2  94.7  87.6  80.4   1.4
    with a fifth of the replicates, 8 and 8              0.8  69.6  46.9  91.1  87.6  85.0   3.8

Other numbers of components (6, 12, 16, 24) and more summaries moved these by less than their standard
error of about two percent, up or down.
"""

import argparse
import contextlib
import csv
import json
import logging
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import distributed
import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import Machine_Learning_for_Population_Genetics_V2 as runml  # noqa: E402

SCRIPT = [sys.executable, str(ROOT / "Machine_Learning_for_Population_Genetics_V2.py")]
LESSON = ["--layers", "2", "--dropout", "0.2", "--epochs", "10", "--learning_rate", "1e-05"]
EASY = runml.SimulationSettings()  # the lesson's two questions
YOUNG = replace(EASY, tdiv_prior=runml.Prior(5e3, 5e4), migration_prior=runml.Prior(1e-6, 1e-5))
SEEDS = (1, 2, 3, 4, 5)  # of simulation and training both
TEST_SEEDS = (20_000, 20_001, 20_002, 20_003, 20_004)
N_TEST = 10_000  # spectra of each
N_WORKERS = 2
FINITE_SITES, OTHER_HISTORIES = (99,), (98,)  # streams of random numbers that no command uses

# ==================================== What the parts share ====================================


def row(*cells):
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def heading(*cells):
    row(*cells)
    print("|---" * len(cells) + "|", flush=True)


def insist(succeeded, command):
    """End here if a command has failed; it has said why on the standard error."""
    if not succeeded:
        raise SystemExit(f"failed: {' '.join(map(str, command))}")


def timed(command, **kwargs):
    """Run a command; return its seconds and what it printed."""
    start = time.perf_counter()
    words = [str(word) for word in command]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False, **kwargs)
    insist(done.returncode == 0, command)
    return time.perf_counter() - start, done.stdout


def timed_until(saved, command):
    """Seconds until a command prints that its results are saved, and until it has drawn its pictures."""
    start, until = time.perf_counter(), None
    with subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if saved in line:
                until = time.perf_counter() - start
    insist(until and process.returncode == 0, command)
    return until, time.perf_counter() - start


def peak_memory(command, with_children=True):
    """The largest resident set, in MB, of any one process that a command ran, or of the first."""
    root = psutil.Popen(
        [str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    peak = 0
    while root.poll() is None:
        try:
            for process in [root, *(root.children(recursive=True) if with_children else [])]:
                peak = max(peak, process.memory_info().rss)
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.02)
    insist(root.returncode == 0, command)
    return peak / 1e6


@contextlib.contextmanager
def dask_workers(folder):
    """The address of a scheduler on loopback, with one-threaded workers for as long as the block."""
    where = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", "scheduler.json"]
    quiet = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    kinds = [["scheduler", "--port", "0"], *[["worker", "--nthreads", "1", "--no-nanny"]] * N_WORKERS]
    processes = []
    try:
        for kind, *words in kinds:
            start = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *words, *where]
            processes.append(subprocess.Popen(start, **quiet))
        ready = Path(folder) / "scheduler.json"
        while not ready.exists() or not ready.read_text().endswith("}"):  # else half written
            time.sleep(0.1)
        address = json.loads(ready.read_text())["address"]
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(N_WORKERS, timeout=60)
        yield address
    finally:
        for process in processes:
            process.kill()
            process.wait()


def genealogies(settings, demography, rng):
    """The bare `sim_ancestry` call of one spectrum."""
    import msprime

    return msprime.sim_ancestry(
        samples={"A": settings.sample_size.a, "B": settings.sample_size.b},
        demography=demography,
        sequence_length=settings.sequence_length,
        recombination_rate=settings.recombination_rate,
        random_seed=rng.integers(1, 2**32),
    )


def finite_sites(settings, demography, rng):
    """The genealogies of one spectrum, with finite-sites mutations."""
    import msprime

    trees, seed = genealogies(settings, demography, rng), rng.integers(1, 2**32)
    return msprime.sim_mutations(trees, rate=settings.mutation_rate, random_seed=seed)


def sfs_by_sites(trees, samples):
    """The SFS of samples of A and of B."""
    sfs = trees.allele_frequency_spectrum(samples, polarised=True, span_normalise=False)
    sfs[0, 0] = sfs[-1, -1] = 0
    return sfs.astype(np.int32)


def finite_sites_sfs(settings, demography, rng):
    """One SFS by the plain pipeline: ancestry, finite-sites mutations, spectrum by sites."""
    trees = finite_sites(settings, demography, rng)
    return sfs_by_sites(trees, [trees.samples(population=0), trees.samples(population=1)])


def sampled_and_projected(settings, demography, rng):
    """Two individuals more of each species left out, and projected away: two SFS, shape (2, a, b)."""
    import dadi

    n_a, n_b = (2 * n for n in settings.sample_size)
    more = runml.PerSpecies(*(n + 2 for n in settings.sample_size))
    trees = finite_sites(replace(settings, sample_size=more), demography, rng)
    samples = [trees.samples(population=0), trees.samples(population=1)]
    whole = dadi.Spectrum(sfs_by_sites(trees, samples))
    left_out = sfs_by_sites(trees, [samples[0][:n_a], samples[1][:n_b]])
    return np.stack([left_out, np.ma.filled(whole.project([n_a, n_b]), 0)])


def finite_sites_row(settings, index, function=finite_sites_sfs):
    """What the plain pipeline, or a part of it, makes of one draw of parameters."""
    parameters, rng = runml.draw_row(settings, FINITE_SITES, index)
    return function(settings, runml.demographic_model(parameters), rng)


def other_history(settings, name, index):
    """One spectrum under one of the `SCENARIOS`, by the plain pipeline."""
    scenario = SCENARIOS[name]
    number = list(SCENARIOS).index(name)
    settings = replace(settings, **scenario.settings)
    rng = np.random.default_rng(runml.seed_sequence(settings.seed, OTHER_HISTORIES, number, index))
    parameters = runml.draw_parameters(settings, scenario.drawn, rng)
    return finite_sites_sfs(settings, scenario.change(parameters), rng)


def on_all_cores(function, settings, *others, n):
    """Spectra, shape (n, a, b, 1), of a function that takes settings, others and an index."""
    arguments = [[each] * n for each in (settings, *others)]
    with ProcessPoolExecutor(N_WORKERS, multiprocessing.get_context("spawn")) as pool:
        spectra = list(pool.map(function, *arguments, range(n), chunksize=max(1, min(50, n // 8))))
    return np.stack(spectra)[..., np.newaxis]


def test_set(work, settings, seeds=TEST_SEEDS, n_sfs=None):
    """Spectra that accuracy is measured on, simulated once: one set behind the other, responses."""
    spectra, n_sfs = [], n_sfs or N_TEST
    for seed in seeds:
        own = replace(settings, seed=seed)
        path = work / f"finite_sites_{runml.fingerprint(runml.as_saved(own))}_{n_sfs}.npy"
        if not path.exists():
            runml.save_array(path, on_all_cores(finite_sites_row, own, n=n_sfs))
        spectra.append(np.load(path))
    return np.concatenate(spectra), np.tile(np.arange(n_sfs) % 2, len(seeds))


class Scores(NamedTuple):
    """How a trained folder does on spectra.

    Attributes
    ----------
    right : numpy.ndarray of bool, shape (N,)
        Whether the network is, about each.
    losses, regression_losses : numpy.ndarray, shape (N,)
        -log(probability of the true model), by the network and by the logistic regression.
    mistakes : dict of str to float
        Per 10,000, by each classifier.
    """

    right: np.ndarray
    losses: np.ndarray
    regression_losses: np.ndarray
    mistakes: dict


def scores(folder, sfs, responses):
    """The `Scores` of a folder's model."""
    model, notes = runml.load_network(folder / runml.MODEL)
    probabilities = runml.predict_probabilities(model, sfs).astype(float)
    of_true = probabilities[np.arange(len(sfs)), responses] / probabilities.sum(axis=1)
    right = probabilities.argmax(axis=1) == responses
    regression = notes.learned["baselines"][runml.LOGISTIC]
    seen = runml.flat(runml.preprocess_all(sfs, notes.training.folded))
    log_odds = seen @ regression["coefficients"]
    log_odds += regression["intercept"]
    accuracies = {"network": right.mean()} | runml.accuracy_without_network(notes, sfs, responses)
    return Scores(
        right,
        -np.log(np.maximum(of_true, 1e-15)),
        np.logaddexp(0, np.where(responses == 1, -log_odds, log_odds)),
        {name: 10_000 * (1 - accuracy) for name, accuracy in accuracies.items()},
    )


def standard_error(values):
    """Of the mean over spectra, the last axis, of what networks, the first if there are two, do."""
    each = np.mean(np.atleast_2d(values), axis=0)
    return each.std(ddof=1) / len(each) ** 0.5


def with_error(values, digits=4):
    return f"{np.mean(values):.{digits}f} ± {standard_error(values):.{digits + 1}f}"


def mistakes_of_each(found):
    """Mistakes per 10,000, by each classifier, the mean of several `Scores`."""
    means = {name: np.mean([each.mistakes[name] for each in found]) for name in found[0].mistakes}
    return ", ".join(f"{name} {mean:.0f}" for name, mean in means.items())


def by_set(values):
    """The means of each test set, of what networks, the first axis, do."""
    return ", ".join(f"{x:.4f}" for x in np.reshape(values, (len(values), -1, N_TEST)).mean(axis=(0, 2)))


def spread(values):
    return f"{np.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def median_ratio(measured, reference):
    return statistics.median(ours / theirs for ours, theirs in zip(measured, reference, strict=True))


def typed(settings):
    """Simulation settings as one types them: those that are not the defaults."""
    words = []
    for name, value in vars(settings).items():
        if value != getattr(EASY, name):
            words += [f"--{name}", *runml.shown(value).split()]
    return words


def simulated(work, settings, n_reps=5_000):
    """A folder with simulated data, made once."""
    folder = work / f"simulated_{runml.fingerprint(runml.as_saved(settings))}_{n_reps}"
    if not (folder / "simulated_sfs.npy").exists():
        timed([*SCRIPT, "--simulate", *typed(settings), "--n_reps", n_reps, "--data_dir", folder])
    return folder


def trained(work, settings, n_reps=5_000):
    """A folder with simulated data and a model trained at the lesson's settings, made once."""
    folder = simulated(work, settings, n_reps)
    if not (folder / runml.MODEL).exists():
        timed(training(folder))
    return folder


def training(folder, *options):
    """The command that trains at the lesson's settings, but for some options."""
    return [*SCRIPT, "--train", *LESSON, *options, "--data_dir", folder]


def last_epoch(folder):
    """The last row of a training's history, in numbers."""
    with (folder / "training_history.csv").open(newline="") as file:
        *_, last = csv.DictReader(file)
    return {name: float(value) for name, value in last.items()}


def reference_fit(folder):
    """The usual small CNN, which sees raw counts: pooling, plain `fit`, no swapped copies."""
    import keras
    from keras import layers

    sfs, responses = np.load(folder / "simulated_sfs.npy"), np.load(folder / "simulated_responses.npy")
    training, validation = runml.split_rows(len(sfs), 1)
    model = keras.Sequential(
        [
            keras.Input(sfs.shape[1:]),
            layers.Conv2D(10, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(10, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(32, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(2, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(1e-5), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(
        sfs[training],
        responses[training],
        batch_size=128,
        epochs=10,
        validation_data=(sfs[validation], responses[validation]),
        verbose=0,
    )


# ========================================= The parts =========================================


def part_startup(work):
    def median(command, check=True):
        times = []
        for _ in range(15):
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=check)
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    bare = median([sys.executable, "-c", "pass"])
    usage = median([*SCRIPT, "--train", "--layers", "0"], check=False)
    reference = f"`python3 -c pass`: {bare:.2f} s"
    row("`--help`", f"{median([*SCRIPT, '--help']):.2f} s", reference, "at most 0.25 s more")
    row("usage error", f"{usage:.2f} s", reference, "at most 0.25 s more")


def spend(function, indices):
    """Seconds that a process spends on the plain pipeline, or on its `sim_ancestry` calls alone."""
    import msprime  # noqa: F401

    start = time.perf_counter()
    for index in indices:
        finite_sites_row(EASY, index, function)
    return time.perf_counter() - start


def part_simulation(work, n_reps=2_500, n_plain=400, n_rounds=3):
    n_sfs = 2 * n_reps
    plain, floor, ours = [], [], []
    halves = [range(0, n_sfs, 2), range(1, n_sfs, 2)]
    context = multiprocessing.get_context("spawn")
    for _ in range(n_rounds):
        with ProcessPoolExecutor(1, context) as pool:
            plain.append(n_plain / pool.submit(spend, finite_sites_sfs, range(n_plain)).result())
        with ProcessPoolExecutor(N_WORKERS, context) as pool:
            floor.append(max(pool.map(spend, [genealogies] * N_WORKERS, halves)))
        command = [*SCRIPT, "--simulate", "--n_reps", n_reps, "--workers", N_WORKERS]
        with tempfile.TemporaryDirectory(dir=work) as folder:
            ours.append(timed_until("joint SFS saved", [*command, "--data_dir", folder])[0])
    rates = [n_sfs / seconds for seconds in ours]
    ratio, over = median_ratio(rates, plain), median_ratio(ours, floor)
    row(
        f"`--simulate --n_reps {n_reps}`, 2 workers, rate",
        f"{statistics.median(rates):.0f} SFS/s, {ratio:.2f} times",
        f"plain pipeline, one process: {statistics.median(plain):.1f} SFS/s",
        "at least 4 times",
    )
    row(
        "the same, time until the arrays are saved",
        f"{statistics.median(ours):.1f} s, {100 * (over - 1):+.0f}%",
        f"bare `sim_ancestry` calls, 2 processes: {statistics.median(floor):.1f} s",
        "at most +10%",
    )


def part_accuracy(work, n_reps=5_000):
    test, found, saved, whole, references = test_set(work, EASY), [], [], [], []
    for seed in SEEDS:
        folder = simulated(work, replace(EASY, seed=seed), n_reps)
        references.append(timed([sys.executable, __file__, "--reference_fit", folder])[0])
        for times, seconds in zip(
            (saved, whole), timed_until("Model saved", training(folder)), strict=True
        ):
            times.append(seconds)
        found.append(scores(folder, *test))
    right, losses = (np.array([getattr(each, name) for each in found]) for name in ("right", "losses"))
    row(
        "accuracy at the lesson's settings, mean of five seeds (lowest seed)",
        f"{right.mean():.4f} ({right.mean(axis=1).min():.4f})",
        f"standard error over {len(test[0]):,} test spectra: {standard_error(right):.5f}; "
        f"sets of {N_TEST:,}: {by_set(right)}",
        "at least 0.9978 (0.9970), standard error below 0.0002",
    )
    row(
        "log-loss, mean of five seeds (highest seed)",
        f"{losses.mean():.4f} ({losses.mean(axis=1).max():.4f})",
        f"standard error: {standard_error(losses):.5f}; sets: {by_set(losses)}",
        "at most 0.0075",
    )
    row("mistakes per 10,000, mean of five seeds", mistakes_of_each(found), "the same spectra", "")
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


def part_mistakes(work, n_reps=5_000, few=3e-6):
    """Which spectra the network of the first seed mistakes."""
    folder, (sfs, truth) = trained(work, replace(EASY, seed=SEEDS[0]), n_reps), test_set(work, EASY)
    right = scores(folder, sfs, truth).right
    drawn = [
        runml.draw_row(replace(EASY, seed=seed), FINITE_SITES, index)[0]
        for seed in TEST_SEEDS
        for index in range(N_TEST)
    ]
    parameters = np.array(drawn, runml.PARAMETERS)
    missed, mistaken = (parameters[~right & (truth == response)] for response in (1, 0))
    rare = runml.mean_migration(parameters[truth == 1]) < few
    row(
        "gene flow taken for divergence",
        f"{len(missed)} of {(truth == 1).sum():,}",
        f"{(runml.mean_migration(missed) < few).mean():.0%} of them at rates below {few:g}, where "
        f"{(~right[truth == 1][rare]).mean():.0%} are missed; divergence times "
        f"{runml.median_and_range(missed['divergence_time'], ',.0f')}",
        "",
    )
    row(
        "divergence taken for gene flow",
        f"{len(mistaken)} of {(truth == 0).sum():,}",
        f"divergence times {runml.median_and_range(mistaken['divergence_time'], ',.0f')}, "
        f"ancestors of {runml.median_and_range(mistaken['size_ancestor'], ',.0f')}",
        "",
    )


def part_more(work, sizes=((1_000, 2_500), (5_000, 2_500), (25_000, 5_000))):
    """What more simulations bring, on spectra by finite sites and by the script's own test.

    The sizes are replicates to train on and to test with.
    """
    test = test_set(work, EASY)
    for n_reps, n_test_reps in sizes:
        folder = trained(work, replace(EASY, seed=77), n_reps)
        timed([*SCRIPT, "--test", "--n_test_reps", n_test_reps, "--data_dir", folder])
        claimed = json.loads((folder / "test_results.json").read_text())
        own = [np.load(folder / f"test_{part}.npy") for part in ("sfs", "responses")]
        found, by_itself = scores(folder, *test), scores(folder, *own)
        last = n_reps == sizes[-1][0]
        for what, claim, values, of_own, target in (
            ("accuracy", claimed["accuracy"], found.right, by_itself.right, "never falling"),
            ("log-loss", claimed["log_loss"], found.losses, by_itself.losses, "never rising"),
        ):
            limit = {"accuracy": ", at least 0.998", "log-loss": ", at most 0.0065"}[what]
            row(
                f"{what} of {n_reps:,} replicates",
                with_error(values),
                f"`--test --n_test_reps {n_test_reps}` says {claim:.4f} ± {standard_error(of_own):.5f}",
                target + (limit if last else ""),
            )


def part_small(work, n_reps=1_000):
    with tempfile.TemporaryDirectory(dir=work) as folder:
        simulating, _ = timed([*SCRIPT, "--simulate", "--n_reps", n_reps, "--data_dir", folder])
        learning, _ = timed(training(folder))
        found = scores(Path(folder), *test_set(work, EASY))
    row(
        f"from nothing, `--n_reps {n_reps}`: accuracy",
        with_error(found.right),
        f"sets of {N_TEST:,}: {by_set([found.right])}",
        "at least 0.995",
    )
    row(
        "the same, time",
        f"{simulating + learning:.0f} s",
        f"`--simulate` {simulating:.1f} s, `--train` {learning:.1f} s",
        "under 30 s",
    )


def part_young(work, n_reps=1_000, seeds=SEEDS[:3]):
    """The hard question: species that parted lately, with few migrants."""
    test = test_set(work, YOUNG, TEST_SEEDS[:1])
    found = [scores(trained(work, replace(YOUNG, seed=seed), n_reps), *test) for seed in seeds]
    losses, regression = (
        [getattr(each, name) for each in found] for name in ("losses", "regression_losses")
    )
    what = f"young species, `--n_reps {n_reps}`, mean of {len(seeds)} seeds"
    row(
        f"{what}: log-loss (highest seed)",
        f"{with_error(losses)} ({max(map(np.mean, losses)):.4f})",
        f"logistic regression: {with_error(regression)}; tossing a coin: 0.6931",
        "at most 0.48",
    )
    row(f"{what}: accuracy", with_error([each.right for each in found]), "", "")
    row(f"{what}: mistakes per 10,000", mistakes_of_each(found), "the same spectra", "")


def part_large(
    work, sizes=((10, 1_000), (50, 1_000), (100, 1_000), (250, 100)), n_rounds=3, n_test=5_000
):
    """What large samples cost, on 20,000 bp. The sizes are individuals a species, and replicates.

    The first is the reference; the last but one must cost little more, the last must fit in memory.
    """
    of_size = {size: replace(EASY, sample_size=runml.PerSpecies(size, size)) for size, _ in sizes}
    of_size = {size: replace(settings, sequence_length=20_000) for size, settings in of_size.items()}
    simulating, learning, memory = {}, {size: [] for size in of_size}, {}
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        folders = {size: Path(temporary) / str(size) for size in of_size}
        for size, n_reps in sizes:
            simulate = [*SCRIPT, "--simulate", *typed(of_size[size]), "--n_reps", n_reps]
            command = [*simulate, "--data_dir", folders[size]]
            simulating[size], _ = timed_until("joint SFS saved", command)
        for _ in range(n_rounds):
            for size, times in learning.items():
                times.append(timed_until("Model saved", training(folders[size])))
        for size, n_reps in sizes:
            memory[size] = peak_memory(training(folders[size]))
            saved, whole = map(statistics.median, zip(*learning[size], strict=True))
            row(
                f"{size} + {size} individuals, {n_reps:,} replicates of 20,000 bp",
                f"`--simulate` {simulating[size]:.1f} s, `--train` {saved:.1f} s until saved",
                f"{whole:.1f} s with its picture; largest process of `--train`: {memory[size]:.0f} MB",
                "at most 2,000 MB" if size == sizes[-1][0] else "",
            )
        small, large = sizes[0][0], sizes[-2][0]
        found = scores(folders[large], *test_set(work, of_size[large], TEST_SEEDS[:1], n_test))
    saved, whole = (
        median_ratio(*([times[until] for times in learning[size]] for size in (large, small)))
        for until in range(2)
    )
    what = f"{large} + {large} individuals"
    row(
        f"`--train`, {what}, until the model is saved",
        f"{saved:.2f} times",
        f"{small} + {small} individuals; with the picture {whole:.2f} times",
        "at most 1.5 times",
    )
    row(f"largest process of `--train`, {what}", f"{memory[large]:.0f} MB", "", "at most 1,000 MB")
    row(
        f"log-loss, {what}",
        with_error(found.losses),
        f"accuracy {with_error(found.right)}, on {n_test:,} fresh spectra; mistakes per 10,000: "
        f"{mistakes_of_each([found])}",
        "at most 0.010",
    )


def part_memory(work):
    with tempfile.TemporaryDirectory(dir=work) as folder:
        simulating = peak_memory([*SCRIPT, "--simulate", "--data_dir", folder])
        learning = peak_memory(training(folder))
    row("largest process of `--simulate`", f"{simulating:.0f} MB", "", "at most 400 MB")
    row("largest process of `--train`", f"{learning:.0f} MB", "", "at most 2,000 MB")


def part_scale(work, n_reps=2_500, n_rounds=3, sizes=(2_000, 20_000)):
    simulate = [*SCRIPT, "--simulate", "--n_reps", n_reps, "--data_dir"]
    rates = {"1 worker": [], f"{N_WORKERS} workers": [], "Dask": []}
    with tempfile.TemporaryDirectory(dir=work) as folder, dask_workers(folder) as address:
        choices = [["--workers", 1], ["--workers", N_WORKERS], ["--dask_scheduler", address]]
        for turn in range(n_rounds):
            for (name, found), choice in zip(rates.items(), choices, strict=True):
                command = [*simulate, Path(folder) / f"{name} {turn}", *choice]
                seconds, _ = timed_until("joint SFS saved", command)
                found.append(2 * n_reps / seconds)
    one, two, dask = rates.values()

    def compare(measured, reference):
        ratio = median_ratio(measured, reference)
        return f"{statistics.median(measured):.0f} SFS/s, {ratio:.2f} times"

    what = f"`--simulate --n_reps {n_reps}`, {N_WORKERS}"
    row(
        f"{what} local workers, rate",
        compare(two, one),
        f"1 local worker: {statistics.median(one):.0f} SFS/s",
        "",
    )
    row(
        f"{what} Dask workers, rate",
        compare(dask, two),
        f"{N_WORKERS} local workers: {statistics.median(two):.0f} SFS/s",
        "at least 0.9 times",
    )

    with tempfile.TemporaryDirectory(dir=work) as folder:
        tiny = [*SCRIPT, "--sequence_length", 100, "--data_dir", folder]
        memory = {"--n_reps": [], "--n_test_reps": []}
        for size in sizes:
            command = [*tiny, "--simulate", "--n_reps", size]
            memory["--n_reps"].append(peak_memory(command, with_children=False))
        timed(training(folder, "--epochs", 1))
        for size in sizes:
            command = [*tiny, "--test", "--n_test_reps", size]
            memory["--n_test_reps"].append(peak_memory(command, with_children=False))
    for option, (small, large) in memory.items():
        row(
            f"parent of `--{'test' if 'test' in option else 'simulate'} {option} {sizes[1]}`, memory",
            f"{large:.0f} MB",
            f"`{option} {sizes[0]}`: {small:.0f} MB",
            "at most 100 MB more",
        )

    with tempfile.TemporaryDirectory(dir=work) as folder:
        whole, _ = timed_until("joint SFS saved", [*simulate, Path(folder) / "whole"])
        half = (Path(folder) / "whole" / "simulated_sfs.npy").stat().st_size / 2
        resumed = Path(folder) / "resumed"
        process = subprocess.Popen(
            [str(word) for word in [*simulate, resumed]], stdout=subprocess.DEVNULL
        )
        while True:  # the folder of what is unfinished is named after its settings
            file = next(resumed.glob(".simulated-*.partial/simulated_sfs.npy"), None)
            if process.poll() is not None or (file and file.stat().st_size >= half):
                break
            time.sleep(0.01)
        process.kill()
        process.wait()
        done = 100 * file.stat().st_size / (2 * half)
        rest, _ = timed_until("joint SFS saved", [*simulate, resumed])
    row(
        f"`--simulate`, killed after {done:.0f}%, run again",
        f"{rest:.1f} s",
        f"whole: {whole:.1f} s",
        "",
    )


def part_cost(work, n_sfs=60):
    """How the CPU time of one SFS, in one process, grows with what most decides it."""
    grids = {
        "sample_size": [runml.PerSpecies(n, n) for n in (5, 10, 20, 40)],
        "sequence_length": [50_000, 100_000, 200_000, 400_000],
        "recombination_rate": [5e-9, 1e-8, 2e-8, 4e-8],
    }
    runml.simulate_rows(EASY, FINITE_SITES, range(2))  # imports msprime
    for name, values in grids.items():
        times = []
        for value in values:
            settings = replace(EASY, **{name: value})
            start = time.process_time()
            runml.simulate_rows(settings, FINITE_SITES, range(n_sfs))
            times.append((time.process_time() - start) / n_sfs)
        steps = np.log([np.mean(value) for value in values])
        exponent = np.polyfit(steps, np.log(times), 1)[0]
        row(
            f"CPU time of one SFS by `--{name}`, {runml.shown(values[0])} to {runml.shown(values[-1])}",
            f"grows with its power {exponent:.2f}",
            f"{', '.join(f'{1000 * seconds:.1f}' for seconds in times)} ms",
            "",
        )


class Scenario(NamedTuple):
    """A history that the script does not simulate.

    Attributes
    ----------
    drawn : int
        For which of the two models parameters are drawn.
    truth : int
        What would be the right answer: whether A and B have exchanged genes.
    change : callable
        Takes parameters to a demography.
    settings : dict
        Other priors.
    target : str
        How many should be flagged.
    """

    drawn: int
    truth: int
    change: Callable = runml.demographic_model
    settings: dict = {}  # noqa: RUF012
    target: str = ""


def with_events(parameters, *events, others=()):
    """The script's demography, with more events, by the names of msprime's methods, and populations."""
    demography = runml.demographic_model(parameters)
    for name in others:
        demography.add_population(name=name, initial_size=parameters["size_ancestor"])
    for name, event in events:
        getattr(demography, f"add_{name}")(**event)
    demography.sort_events()
    return demography


def gave(giver, receiver, share, ago):
    """The event by which a population gives another a share of its genome; msprime goes backwards."""
    return "mass_migration", {"time": ago, "source": receiver, "dest": giver, "proportion": share}


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
        return with_events(parameters, *events, ("population_split", root), others=("ghost", "root"))

    return change


def resized(species, factor, ago):
    """Some species are so many times as large today as they were until some generations ago."""

    def change(parameters):
        today, events = parameters.copy(), []
        for name in species:
            size = f"size_{name.lower()}"
            today[size] *= factor
            before = {"time": ago, "population": name, "initial_size": parameters[size]}
            events.append(("population_parameters_change", before))
        return with_events(today, *events)

    return change


HALF, ALWAYS = runml.Prior(0.5, 0.5), runml.Prior(1, 1)
SCENARIOS = {
    "one pulse of 12%, 1,500 generations ago": Scenario(0, 1, pulse(0.12, 1_500), {}, "at least 76%"),
    "one pulse of 12%, 15,000 ago": Scenario(0, 1, pulse(0.12, 15_000), {}, "at least 60%"),
    "one pulse of 1%, 1,500 ago": Scenario(0, 1, pulse(0.01, 1_500)),
    "one pulse of 1%, 15,000 ago": Scenario(0, 1, pulse(0.01, 15_000)),
    "a ghost gave 15% to both, 2,000 ago": Scenario(0, 0, ghost("AB"), {}, "at least 95%"),
    "a ghost gave 15% to B, 2,000 ago": Scenario(0, 0, ghost("B"), {}, "at least 91%"),
    "a ghost gave 15% to B, after 9/10 of the time": Scenario(0, 0, ghost("B", 0.1)),
    "both crashed to 3%, 3,000 ago": Scenario(0, 0, resized("AB", 0.03, 3_000), {}, "at least 98%"),
    "B crashed to 3%, 3,000 ago": Scenario(0, 0, resized("B", 0.03, 3_000), {}, "at least 66%"),
    "B crashed to 3%, 1,000 ago": Scenario(0, 0, resized("B", 0.03, 1_000)),
    "B crashed to 3%, 1,000 ago, gene flow": Scenario(1, 1, resized("B", 0.03, 1_000)),
    "both grew tenfold, 5,000 ago": Scenario(0, 0, resized("AB", 10, 5_000), {}, "harmless"),
    "split 5,000 to 25,000 ago": Scenario(0, 0, settings={"tdiv_prior": runml.Prior(5e3, 25e3)}),
    "early gene flow only": Scenario(1, 1, settings={"gene_flow_start": ALWAYS, "gene_flow_stop": HALF}),
    "gene flow all the time": Scenario(1, 1, settings={"gene_flow_start": ALWAYS}),
}


def part_opinion(work, n_reps=5_000, n_other=300):
    """How often spectra are said to be such as neither model makes, and the network alone is right."""
    folder = trained(work, replace(EASY, seed=SEEDS[0]), n_reps)
    fresh, truth = test_set(work, EASY)
    tenfold, tenth = (
        np.load(simulated(work, replace(EASY, seed=7, sequence_length=length), n) / "simulated_sfs.npy")
        for length, n in ((1_000_000, max(5, n_other // 2)), (10_000, n_other))
    )
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        folded_folder = Path(shutil.copytree(folder, Path(temporary) / "folded"))
        timed(training(folded_folder, "--folded"))
        networks = [runml.load_network(each / runml.MODEL) for each in (folder, folded_folder)]

    def judge(what, sfs, truth, target="", folded=False):
        model, notes = networks[folded]
        comparison = runml.compare_with_simulations(sfs, notes)
        favoured = runml.predict_probabilities(model, sfs).argmax(axis=1)
        flagged = comparison.out_of_range | comparison.unlike(favoured)
        row(
            f"flagged{' by a folded model' if folded else ''}: {what}",
            f"{flagged.mean():.1%} ({comparison.out_of_range.mean():.1%} for being out of range)",
            f"of {len(sfs):,}; the network alone is right about {(favoured == truth).mean():.1%}",
            target,
        )

    for folded in (False, True):
        judge("fresh, by finite sites", fresh, truth, "at most 1%", folded)
        for what, sfs in (("ten times the length", tenfold), ("a tenth of the length", tenth)):
            judge(what, sfs, np.arange(len(sfs)) % 2, "at least 95%", folded)
    fresh, truth = fresh[:N_TEST], truth[:N_TEST]
    judge("folded, passed off as unfolded", runml.fold(fresh), truth, "at least 95%")
    judge("ancestral and derived swapped", fresh[:, ::-1, ::-1], truth, "at least 95%")
    rng = np.random.default_rng(0)
    mistaken = rng.binomial(fresh, 0.03)
    judge("3% of ancestral alleles mistaken", fresh - mistaken + mistaken[:, ::-1, ::-1], truth)
    fewer = fresh.copy()
    for cell in ((0, 1), (1, 0)):
        fewer[:, *cell] = rng.binomial(fresh[:, *cell], 0.5)
    judge("half of the singletons lost", fewer, truth)
    for name, scenario in SCENARIOS.items():
        sfs = on_all_cores(other_history, EASY, name, n=n_other)
        judge(name, sfs, scenario.truth, scenario.target)


def part_projection(work, n_reps=5_000, n_sfs=500):
    """What it does to the network's answer that projected counts are smoother than simulated ones."""
    for length in (5_000, 100_000):
        settings = replace(EASY, seed=SEEDS[0], sequence_length=length)
        network = runml.load_network(trained(work, settings, n_reps) / runml.MODEL)
        pairs = on_all_cores(
            partial(finite_sites_row, function=sampled_and_projected), settings, n=n_sfs
        )
        log_odds = []
        for sfs in pairs.swapaxes(0, 1):
            divergence, gene_flow = runml.predict_probabilities(network.model, sfs).T.astype(float)
            log_odds.append(np.log(np.maximum(gene_flow, 1e-6) / np.maximum(divergence, 1e-6)))
        moved = log_odds[1] - log_odds[0]
        of_each = (
            f"{model} {with_error(moved[response::2], 2)}" for response, model in enumerate(runml.MODELS)
        )
        row(
            f"log-odds moved towards gene flow by projecting 24 to 20 chromosomes, {length:,} bp",
            ", ".join(of_each),
            f"{n_sfs:,} spectra of {np.median(pairs[:, 0].sum(axis=(1, 2, 3))):,.0f} SNPs (median)",
            "",
        )


def part_tests(work, tests="tests", main_job=("--simulate", "--train", "--test")):
    with tempfile.TemporaryDirectory(dir=work) as folder:
        job, _ = timed([*SCRIPT, *main_job, "--data_dir", folder])
    start = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-q", tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    summary = done.stdout.strip().rpartition("\n")[2].strip("= ")
    row(
        "`pytest tests`",
        f"{seconds:.0f} s, {seconds / job:.2f} times ({summary})",
        f"`{' '.join(main_job)}` at the defaults: {job:.0f} s",
        "at most 2 times, none failed",
    )


def part_lesson(work, n_easy=5_000, n_young=1_000, enough=(50, 200, 500, 1_000, 5_000)):
    """The instructor's questions, one change at a time, on both pairs of species.

    Each seed simulates and trains anew, as each student of a class does.
    """

    def learn(settings, n_reps, test, options):
        """For each seed, the last epoch of a training, and the accuracy on a fresh set."""
        ends = []
        for seed in SEEDS:
            folder = simulated(work, replace(settings, seed=seed), n_reps)
            timed(training(folder, *options))
            ends.append(last_epoch(folder) | {"fresh": scores(folder, *test).right.mean()})
            (folder / runml.MODEL).unlink()  # other parts want that of the lesson's settings
        return {name: [end[name] for end in ends] for name in ends[0]}

    print()
    columns = ("validation loss", "validation accuracy", "training loss", "accuracy on 10,000 others")
    heading(f"what changes; mean (lowest to highest) of {len(SEEDS)} seeds", *columns)
    values = {
        "layers": (1, 3),
        "dropout": (0, 0.5),
        "learning_rate": ("1e-3", "1e-7"),
        "epochs": (5, 15),
    }
    for species, settings, n_reps in (("easy", EASY, n_easy), ("young", YOUNG, n_young)):
        test = test_set(work, settings, TEST_SEEDS[:1])
        changes = [(), *((f"--{name}", value) for name in values for value in values[name])]
        if settings == YOUNG:
            long = ("--epochs", 60)
            changes += [long, (*long, "--dropout", 0), (*long, "--dropout", 0.5)]
        found = {}
        for n, change in [(n_reps, change) for change in changes] + [(n, ()) for n in enough]:
            what = f"`{' '.join(map(str, change))}`" if change else "as in the lesson"
            found[n, change] = learn(settings, n, test, change)
            cells = (found[n, change][name] for name in ("val_loss", "val_accuracy", "loss", "fresh"))
            row(f"{species}, {n:,} replicates: {what}", *map(spread, cells))
        tried = [found[n_reps, change] for change in changes]
        pairs = zip(
            *(zip(ends["val_accuracy"], ends["fresh"], strict=True) for ends in tried), strict=True
        )
        validation, fresh = zip(*map(max, pairs), strict=True)
        what = f"{species}: each seed's best of {len(tried)} by validation accuracy"
        row(what, "", spread(validation), "", spread(fresh))


PARTS = {
    name.removeprefix("part_"): function
    for name, function in globals().items()
    if name.startswith("part_")
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument(
        "--work", type=Path, help="folder to keep simulations in (default: a temporary one)"
    )
    parser.add_argument("--reference_fit", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.reference_fit:
        reference_fit(args.reference_fit)
        return
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no such part: {' '.join(unknown)}")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it minds that many models predict
    versions = {name: runml.version(name) for name in ("msprime", "numpy", "tensorflow", "keras")}
    print(f"{os.cpu_count()} cores; {json.dumps(versions)}\n")
    heading("what", "measured", "reference in the same run", "target")
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for name in args.parts or PARTS:
            PARTS[name](work)


if __name__ == "__main__":
    main()
