#!/usr/bin/env python3
"""Do two sister species have a history of gene flow?

Three commands answer, and the second is there to be played with:

    runml --simulate
    runml --train --layers 2 --dropout 0.2 --epochs 10 --learning_rate 1e-05
    runml --test

`--simulate` draws populations from a prior and simulates their genomes under two demographic
models, with and without gene flow; each data set is summarised as a joint site frequency
spectrum (SFS). `--train` teaches a convolutional neural network to tell the two models apart.
`--test` simulates a fresh set, which the network has never met, and counts its mistakes.

The file reads in the order in which the data flow: settings, demography, one simulated SFS, a
dataset, the network, its training, its test. There the lesson ends; what serves it comes behind.
"""

import os
import signal
import sys

if __name__ == "__main__":
    # From here on Ctrl-C and SIGTERM end a run with one line. There is nothing to tidy up: unfinished
    # files are hidden until the next run, and the workers go when their parent is gone.
    screen = os.dup(2)  # stays the screen while `held_stderr` holds 2

    def stop(signal_number, _frame):
        """Answer a signal."""
        line = "runml: stopped; what was not finished has replaced nothing.\n"
        os.write(screen, ("\n" + line if os.isatty(screen) else line).encode())
        os._exit(128 + signal_number)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)

import argparse
import contextlib
import csv
import hashlib
import io
import itertools
import json
import logging
import math
import multiprocessing
import platform
import shlex
import shutil
import tempfile
import textwrap
import threading
import time
import warnings
import zipfile
from collections import deque
from concurrent.futures import CancelledError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

# ==================================== 1. Settings ====================================
#
# The default of every option, the interval it must lie in, and what it means.


class Problem(Exception):  # noqa: N818
    """Something that the user can put right. Its text says what is wrong and what to do."""


class Prior(NamedTuple):
    """A uniform prior; low = high fixes the value."""

    low: float
    high: float


class PerSpecies(NamedTuple):
    """A number for each of the two sister species."""

    a: int
    b: int


def option(default, within, meaning):
    """A setting: its default, the interval it must lie in, and what it means."""
    return field(default=default, metadata={"within": within, "meaning": meaning})


SEED = (1234, "[0, 4294967295]", "one number fixes every result")


@dataclass(frozen=True)
class SimulationSettings:
    """What is simulated. Times are in generations, sizes in diploid individuals."""

    n_reps: int = option(5_000, "[1, 1e7]", "training replicates per model")
    sample_size: PerSpecies = option(
        PerSpecies(10, 10), "[1, 250]", "diploid individuals per species: one number, or two for A and B"
    )
    sequence_length: int = option(100_000, "[1, 1e9]", "base pairs of one locus")
    n_loci: int = option(1, "[1, 1e6]", "independent loci, whose spectra are added up")
    mutation_rate: float = option(1e-7, "(0, 0.01]", "per base pair per generation")
    recombination_rate: float = option(1e-8, "[0, 0.5]", "per base pair per generation")
    tdiv_prior: Prior = option(Prior(50_000.0, 500_000.0), "(0, 1e9]", "divergence time, generations")
    ne_prior: Prior = option(
        Prior(10_000.0, 100_000.0),
        "[1, 1e9]",
        "size of the ancestor, of A and of B, diploid individuals",
    )
    migration_prior: Prior = option(
        Prior(1e-6, 1e-4),
        "[0, 1]",
        "share of each species that are migrants from the other, per generation",
    )
    gene_flow_fraction: float = option(
        0.5, "(0, 1]", "share of the time since divergence, back from today, with gene flow"
    )
    seed: int = option(*SEED)


@dataclass(frozen=True)
class TrainingSettings:
    """The network and how it learns: what the class experiments with."""

    layers: int = option(2, "[1, 6]", "hidden layers, each half as wide as the one before")
    dropout: float = option(0.2, "[0, 1)", "share of units silenced at random, after each hidden layer")
    epochs: int = option(10, "[1, 100000]", "passes through the training spectra")
    learning_rate: float = option(1e-5, "(0, 10]", "size of Adam's steps")
    batch_size: int = option(128, "[1, 100000]", "spectra per step")
    folded: bool = option(False, "[0, 1]", "fold the spectra, for when ancestral alleles are not known")
    seed: int = option(*SEED)


@dataclass(frozen=True)
class RunSettings:
    """How much is tested, and what simulates. None of it changes what a replicate is."""

    n_test_reps: int = option(500, "[1, 1e7]", "test replicates per model")
    workers: int = option(0, "[1, 4096]", "processes that simulate")  # 0: as many as there are cores
    dask_scheduler: str = option("", "", "address of a Dask scheduler to simulate on instead")


# One seed grows three branches, whose random numbers are independent whatever the seed.
SIMULATE, TEST, TRAIN = range(3)


def random_branch(seed, *branch):
    """The seed sequence at a place in the tree that grows from one seed."""
    return np.random.SeedSequence(seed, spawn_key=branch)


# =============================== 2. Two demographic models ===============================

MODELS = ("divergence", "gene flow")  # the responses 0 and 1
PARAMETERS = np.dtype(
    [(name, "f8") for name in ("divergence_time", "size_ancestor", "size_a", "size_b", "migration_rate")]
)


def draw_parameters(settings, response, rng):
    """Draw one pair of species from the priors, each parameter independently.

    Parameters
    ----------
    settings : SimulationSettings
    response : int
        0 for divergence, 1 for gene flow. The first model is the second without migration.
    rng : numpy.random.Generator

    Returns
    -------
    numpy.void
        A record of `PARAMETERS`: generations, diploid individuals, and the migration rate per
        generation.
    """
    return np.array(
        (
            rng.uniform(*settings.tdiv_prior),
            *rng.uniform(*settings.ne_prior, size=3),
            rng.uniform(*settings.migration_prior) * response,
        ),
        dtype=PARAMETERS,
    )[()]


def demographic_model(settings, parameters):
    """An ancestor that splits into A and B, which may exchange migrants.

    Time runs backwards from today: migration, as strong from A to B as from B to A, goes on for
    `gene_flow_fraction` of the time since their divergence, then stops. That is secondary contact
    or, where the fraction is 1, isolation with migration.

    Parameters
    ----------
    settings : SimulationSettings
    parameters : numpy.void
        One record of `PARAMETERS`.

    Returns
    -------
    msprime.Demography
    """
    import msprime

    divergence_time = parameters["divergence_time"]
    demography = msprime.Demography()
    demography.add_population(name="A", initial_size=parameters["size_a"])
    demography.add_population(name="B", initial_size=parameters["size_b"])
    demography.add_population(name="ancestor", initial_size=parameters["size_ancestor"])
    demography.set_symmetric_migration_rate(["A", "B"], parameters["migration_rate"])
    demography.add_symmetric_migration_rate_change(
        time=divergence_time * settings.gene_flow_fraction, populations=["A", "B"], rate=0
    )
    demography.add_population_split(time=divergence_time, derived=["A", "B"], ancestral="ancestor")
    return demography


# =========================== 3. One joint site frequency spectrum ===========================


def simulate_sfs(settings, parameters, rng):
    """Simulate the genealogies of both samples, and the SNPs on them as a joint SFS.

    msprime gives the genealogies along the sequence. On each branch, mutations are Poisson, with a
    mean of mutation rate x length of the branch x span of sequence (Hudson 1990). So the mutations
    in a cell of the SFS are Poisson too, with the mutation rate x the area of all branches that have
    as many descendants in A and in B (Ralph, Thornton and Kelleher 2020). To draw that number takes
    a twentieth of the time of placing mutations one by one. Then some meet at the same site.

    Parameters
    ----------
    settings : SimulationSettings
    parameters : numpy.void
        One record of `PARAMETERS`.
    rng : numpy.random.Generator

    Returns
    -------
    numpy.ndarray of int32, shape (2 * n_A + 1, 2 * n_B + 1)
        Entry [i, j] counts the SNPs whose derived allele is on i chromosomes of A and j of B.
    """
    import msprime

    loci = msprime.sim_ancestry(
        samples={"A": settings.sample_size.a, "B": settings.sample_size.b},
        demography=demographic_model(settings, parameters),
        sequence_length=settings.sequence_length,
        recombination_rate=settings.recombination_rate,
        num_replicates=settings.n_loci,  # what msprime calls replicates are our loci
        random_seed=rng.integers(1, 2**32),
        record_provenance=False,
    )
    branch_area = sum(
        trees.allele_frequency_spectrum(
            [trees.samples(population=0), trees.samples(population=1)],  # A and B
            mode="branch",
            polarised=True,
            span_normalise=False,
        )
        for trees in loci
    )
    mutations = rng.poisson(settings.mutation_rate * branch_area * is_snp(branch_area.shape))
    n_sites = settings.n_loci * settings.sequence_length
    return let_mutations_meet(mutations, n_sites, rng).astype(np.int32)


MOST_MUTATIONS_A_SITE = 0.5  # with more of them, how they meet would have to be simulated exactly


def let_mutations_meet(mutations, n_sites, rng):
    """Let some mutations fall on sites that have mutated before.

    With k mutations a site, n_sites * (k - 1 + exp(-k)) of them meet an earlier one. Which two meet is
    drawn from the spectrum itself. If their carriers fit beside each other they are taken to be on
    different branches; one time in three (Jukes and Cantor 1969) both make the same nucleotide, and
    the two alleles become one. Otherwise one arose among the carriers of the other, who lose the
    older allele for it, or, one time in three, mutate back.

    The number that meets is exact for sites alike; that genealogies differ along the sequence, and
    which branches lie within which, is not looked at. Beside `msprime.sim_mutations`, at 0.18
    mutations a site (the lesson's mean), this makes 1% more SNPs and up to 2% more that are
    polymorphic in both species; at 0.5 it makes 4% and 6% more, at 1 it makes 9% and 12% more.

    Parameters
    ----------
    mutations : numpy.ndarray of int, shape (2 * n_A + 1, 2 * n_B + 1)
        How many have how many carriers in A and in B, were each alone at its site.
    n_sites : int
    rng : numpy.random.Generator

    Returns
    -------
    numpy.ndarray of int, shape (2 * n_A + 1, 2 * n_B + 1)
        The derived alleles at all sites; several at a site are each counted, as tskit does.
    """
    per_site = mutations.sum() / n_sites
    n_meetings = rng.poisson(n_sites * (per_site - 1 + np.exp(-per_site)))
    n_meetings = min(n_meetings, mutations.sum() // 2)
    meeting = rng.multivariate_hypergeometric(mutations.ravel(), 2 * n_meetings)
    pairs = rng.permutation(np.repeat(np.arange(mutations.size), meeting)).reshape(2, n_meetings)
    carriers = np.stack(np.unravel_index(pairs, mutations.shape))  # species, one or other, meeting
    smaller_last = np.argsort(-carriers.sum(axis=0), axis=0)
    one, other = np.take_along_axis(carriers, smaller_last[np.newaxis], axis=1).swapaxes(0, 1)

    apart = (one + other < np.transpose([mutations.shape])).all(axis=0)
    within = (other <= one).all(axis=0)
    same_nucleotide = rng.random(n_meetings) < 1 / 3
    one = one + np.where(apart, same_nucleotide, -within.astype(int)) * other
    alleles = np.concatenate([one, other[:, ~same_nucleotide]], axis=1)
    cells = np.ravel_multi_index(alleles, mutations.shape)
    sfs = mutations.ravel() - meeting + np.bincount(cells, minlength=mutations.size)
    return sfs.reshape(mutations.shape) * is_snp(mutations.shape).astype(int)


def is_snp(shape):
    """1 for each cell of a joint SFS, but 0 for the two of alleles that none or all carry."""
    cells = np.ones(shape, np.float32)
    cells[0, 0] = cells[-1, -1] = 0
    return cells


def fold(sfs):
    """Fold joint SFS over both species together, for when the ancestral allele is not known.

    Parameters
    ----------
    sfs : numpy.ndarray or keras.KerasTensor, shape (N, n_A + 1, n_B + 1, 1)
        By chromosomes.

    Returns
    -------
    numpy.ndarray or keras.KerasTensor
        The same shape, by copies of the allele that is rarer in both samples together, as dadi and
        moments fold: where both are equally frequent, half a SNP each way.
    """
    total = np.add.outer(np.arange(sfs.shape[1]), np.arange(sfs.shape[2]))[..., np.newaxis]
    share = 0.5 - 0.5 * np.sign(2 * total - total.max())  # 1 below one half, 0.5 at it, 0 above
    return (sfs + sfs[:, ::-1, ::-1]) * share.astype(np.float32)


# ======================================= 4. A dataset =======================================

ROWS_PER_TASK = 25  # about a third of a second: more would unbalance, fewer cost a cluster time


def draw_row(settings, branch, row):
    """The parameters of one row of a dataset, a function of settings, seed and place alone.

    Parameters
    ----------
    settings : SimulationSettings
    branch : int
        `SIMULATE` or `TEST`.
    row : int
        The models alternate: even rows are divergence, odd rows gene flow.

    Returns
    -------
    parameters : numpy.void
        One record of `PARAMETERS`.
    rng : numpy.random.Generator
        The randomness left for genealogies and mutations.
    """
    rng = np.random.default_rng(random_branch(settings.seed, branch, row))
    return draw_parameters(settings, row % 2, rng), rng


def simulate_rows(settings, branch, rows):
    """The spectra of some rows of a dataset, shape (rows, 2 * n_A + 1, 2 * n_B + 1, 1)."""
    spectra = [simulate_sfs(settings, *draw_row(settings, branch, row)) for row in rows]
    return np.stack(spectra)[..., np.newaxis]  # one channel, like a picture in grey


def simulate_dataset(settings, branch, executor, ahead, first_row=0):
    """Simulate a dataset and yield its spectra in order, a few rows at a time.

    Parameters
    ----------
    settings : SimulationSettings
    branch : int
        `SIMULATE` or `TEST`.
    executor : concurrent.futures.Executor
        Where the rows are simulated. The result is the same on any.
    ahead : int
        Tasks handed out before the oldest is waited for: memory does not grow with the dataset.
    first_row : int
        Where to begin.

    Yields
    ------
    numpy.ndarray of int32, shape (rows, 2 * n_A + 1, 2 * n_B + 1, 1)
    """
    n_rows = 2 * settings.n_reps
    tasks = deque()
    for first in range(first_row, n_rows, ROWS_PER_TASK):
        rows = range(first, min(first + ROWS_PER_TASK, n_rows))
        tasks.append(executor.submit(simulate_rows, settings, branch, rows))
        if len(tasks) > ahead:
            yield tasks.popleft().result()
    while tasks:
        yield tasks.popleft().result()


# ====================================== 5. The network ======================================

FILTERS = 16  # of the convolution; more of them cost time and gain little here
UNITS = 64  # in the first hidden layer

# Adam moves a weight by about the learning rate a step, however steep the loss is. At the lesson's
# 1e-5 a usual network hardly leaves its starting point in ten epochs. So each layer's input is
# multiplied by a gain and its initial weights are divided by it: the network starts as the same
# function, but to a weight each step counts that much more (Yang & Hu 2021 discuss such choices).
GAIN = 15


def build_network(shape, settings):
    """The convolutional network, from raw counts to the probabilities of the two models.

    An SFS is no photograph: where a cell stands is what it means. Hence there is no pooling, which
    would blur it. The square root evens out the noise of small and large Poisson counts.

    Parameters
    ----------
    shape : tuple of int
        (2 * n_A + 1, 2 * n_B + 1), the shape of a joint SFS.
    settings : TrainingSettings

    Returns
    -------
    keras.Model
        Takes counts, shape (N, 2 * n_A + 1, 2 * n_B + 1, 1), folded ones too if it folds, and
        returns the posterior probabilities of divergence and gene flow, equally likely beforehand,
        shape (N, 2).
    """
    keras = start_keras()
    from keras import layers, ops

    def he_weights():  # He et al. 2015, divided by the gain
        return keras.initializers.VarianceScaling(2 / GAIN**2, mode="fan_in")

    counts = keras.Input(shape=(*shape, 1), name="joint_sfs")
    x = counts * is_snp((*shape, 1))  # observed spectra may have invariant sites in the corners
    if settings.folded:
        x = fold(x)
    x = ops.sqrt(x)
    x = layers.Rescaling(GAIN)(x)
    x = layers.Conv2D(FILTERS, 3, padding="same", activation="relu", kernel_initializer=he_weights())(x)
    x = layers.Flatten()(x)
    for layer in range(settings.layers):
        x = layers.Rescaling(GAIN)(x)
        x = layers.Dense(UNITS // 2**layer, activation="relu", kernel_initializer=he_weights())(x)
        x = layers.Dropout(settings.dropout)(x)
    x = layers.Rescaling(GAIN)(x)
    # Weights of zero: before it learns, the network gives both models one half.
    probabilities = layers.Dense(2, activation="softmax", kernel_initializer="zeros")(x)
    return keras.Model(counts, probabilities)


# ======================================= 6. Training =======================================

VALIDATION_SHARE = 0.2
STEPS_AT_ONCE = 100  # that TensorFlow takes before Python looks at it again


def split_rows(n_rows, seed):
    """Part a dataset's rows at random: some to train on, some to validate with."""
    rows = np.random.default_rng(random_branch(seed, TRAIN, 0)).permutation(n_rows)
    n_validation = max(1, round(n_rows * VALIDATION_SHARE))
    return np.sort(rows[n_validation:]), np.sort(rows[:n_validation])


def at_once(sfs):
    """How many spectra to have in memory at a time where no more are needed: half a million cells."""
    return max(1, 500_000 // math.prod(sfs.shape[1:]))


def pieces(sfs):
    """Spectra, `at_once` at a time."""
    return (sfs[first : first + at_once(sfs)] for first in range(0, len(sfs), at_once(sfs)))


def batches(sfs, responses, rows, batch_size, swapped_copies=False, shuffle_seed=None):
    """Some rows of a dataset, batch by batch, as TensorFlow eats them.

    Parameters
    ----------
    sfs : numpy.ndarray of int, shape (N, a, b, 1)
        May be memory-mapped: no more than some batches are in memory at a time.
    responses : numpy.ndarray of int, shape (N,)
    rows : numpy.ndarray of int
    batch_size : int
    swapped_copies : bool
        Add each spectrum once more with its axes, the two species, swapped.
    shuffle_seed : int, optional
        Each epoch comes in another order, which follows from this seed.

    Returns
    -------
    tensorflow.data.Dataset
        Of counts, shape (batch, a, b, 1), and responses, shape (batch,).
    """
    import tensorflow as tf

    def read(examples):  # of which the second half, if any, are the swapped copies
        swapped, row = examples >= len(rows), rows[examples % len(rows)]
        counts = sfs[row].astype(np.float32)
        if swapped_copies:
            counts[swapped] = counts[swapped].transpose(0, 2, 1, 3)
        return counts, responses[row].astype(np.int32)

    def read_batch(examples):
        counts, answers = tf.numpy_function(read, [examples], [tf.float32, tf.int32])
        return tf.ensure_shape(counts, (None, *sfs.shape[1:])), tf.ensure_shape(answers, (None,))

    # While tf.data tunes itself, it may sleep through half a second at the end of an epoch.
    untuned = tf.data.Options()
    untuned.autotune.enabled = False
    examples = tf.data.Dataset.range(len(rows) * (2 if swapped_copies else 1))
    if shuffle_seed is not None:
        examples = examples.shuffle(len(examples), seed=shuffle_seed)
    return examples.batch(batch_size).map(read_batch).prefetch(8).with_options(untuned)


def train_network(sfs, responses, settings, log_path=None):
    """Build a network, print what it is made of, and train it.

    Parameters
    ----------
    sfs : numpy.ndarray of int, shape (N, a, b, 1)
    responses : numpy.ndarray of int, shape (N,)
        0 for divergence, 1 for gene flow.
    settings : TrainingSettings
    log_path : pathlib.Path, optional
        Where Keras keeps the history, epoch by epoch, as a table.

    Returns
    -------
    model : keras.Model
    history : dict of str to list of float
        Loss and accuracy of the training and of the validation part, one value an epoch.
    """
    keras = start_keras()
    random_seed = int(random_branch(settings.seed, TRAIN, 1).generate_state(1)[0])
    keras.utils.set_random_seed(random_seed)

    # One prior serves both species. If their samples are equal too, nothing tells A from B, and each
    # spectrum with its axes swapped is another valid one.
    exchangeable = sfs.shape[1] == sfs.shape[2]
    training, validation = split_rows(len(sfs), settings.seed)
    how = {"swapped_copies": exchangeable, "shuffle_seed": random_seed}
    training_batches = batches(sfs, responses, training, settings.batch_size, **how)
    validation_batches = batches(sfs, responses, validation, at_once(sfs))

    model = build_network(sfs.shape[1:3], settings)
    # What is validated and kept is a running mean of the weights, over about the last tenth of the
    # steps: it has less noise than the weights after the last step.
    averaging = {
        "use_ema": True,
        "ema_momentum": max(0, 1 - 10 / (settings.epochs * len(training_batches))),
    }
    model.compile(
        keras.optimizers.Adam(settings.learning_rate, **averaging),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=min(STEPS_AT_ONCE, len(training_batches)),
    )
    print_network(model)
    copies = ", each also with A and B swapped" if exchangeable else ""
    print(f"Training on {len(training):,} spectra{copies}; validating with {len(validation):,}.")
    callbacks = [keras.callbacks.SwapEMAWeights(), *epoch_printer(settings.epochs)]
    if log_path:
        callbacks.append(keras.callbacks.CSVLogger(log_path))
    history = model.fit(
        training_batches,
        validation_data=validation_batches,
        epochs=settings.epochs,
        callbacks=callbacks,
        verbose=1 if sys.stdout.isatty() else 0,
        shuffle=False,  # the batches are shuffled already
    )
    return model, history.history


# ======================================== 7. The test ========================================


def wilson(n_right, n):
    """The 95% interval of an accuracy of `n_right` out of `n` (Wilson 1927)."""
    from scipy.stats import binomtest

    low, high = binomtest(int(n_right), int(n)).proportion_ci(0.95, method="wilson")
    return [float(low), float(high)]


def evaluate(probabilities, responses):
    """How well a classifier does on spectra that it has never met.

    Parameters
    ----------
    probabilities : numpy.ndarray of float, shape (N, 2)
    responses : numpy.ndarray of int, shape (N,)

    Returns
    -------
    dict
        `accuracy`, `accuracy_95ci` (Wilson's interval), `log_loss` (natural logarithm), `roc_auc`,
        `confusion_matrix` (a row for each true, a column for each predicted model), `n_test`.
    """
    from sklearn import metrics

    verdicts = probabilities.argmax(axis=1)
    probabilities = probabilities.astype(float)
    probabilities /= probabilities.sum(axis=1, keepdims=True)  # float32 is not exact enough
    n_right = int((verdicts == responses).sum())
    return {
        "accuracy": n_right / len(responses),
        "accuracy_95ci": wilson(n_right, len(responses)),
        "log_loss": metrics.log_loss(responses, probabilities, labels=[0, 1]),
        "roc_auc": metrics.roc_auc_score(responses, probabilities[:, 1]),
        "confusion_matrix": metrics.confusion_matrix(responses, verdicts, labels=[0, 1]).tolist(),
        "n_test": len(responses),
    }


# The lesson ends here. What follows serves it: life without a network, observed spectra, processes,
# files, pictures, screen, and the command line.

# ================================= 8. Without a network =================================
#
# What population geneticists read off a joint SFS, and how far that alone would get them.


def summaries(sfs, folded=False):
    """The summaries of joint SFS that one would look at without a network.

    Parameters
    ----------
    sfs : numpy.ndarray, shape (N, n_A + 1, n_B + 1, 1)
        By chromosomes. Memory-mapped, it is read in pieces.
    folded : bool
        Leave out what only makes sense where derived alleles are known.

    Returns
    -------
    dict of str to numpy.ndarray of float, shape (N,)
        "SNPs" is their number. "pi in A", "pi in B" and "d_XY" are the mean numbers of differences
        between two chromosomes of A, of B, and one of each, over the whole sequence. "F_ST" is
        Hudson's, 1 - mean(pi) / d_XY (Bhatia et al. 2013). The others are shares of the SNPs.
    """
    n_a, n_b = sfs.shape[1] - 1, sfs.shape[2] - 1
    a, b = np.ogrid[: n_a + 1, : n_b + 1]
    varies_a, varies_b = (a > 0) & (a < n_a), (b > 0) & (b < n_b)
    weights = {  # of a SNP in each cell
        "SNPs": np.True_,
        "pi in A": 2 * a * (n_a - a) / (n_a * (n_a - 1)),
        "pi in B": 2 * b * (n_b - b) / (n_b * (n_b - 1)),
        "d_XY": (a * (n_b - b) + b * (n_a - a)) / (n_a * n_b),
        "polymorphic in both": varies_a & varies_b,
        "polymorphic in A only": varies_a & ~varies_b,
        "polymorphic in B only": varies_b & ~varies_a,
        "fixed differences": ~varies_a & ~varies_b,
    }
    if not folded:
        weights["derived allele more common"] = 2 * (a + b) > n_a + n_b
    cells = is_snp((n_a + 1, n_b + 1)).astype(float)
    table = np.stack([(weight * cells).ravel() for weight in weights.values()], axis=1)
    sums = np.concatenate([piece.reshape(len(piece), -1) @ table for piece in pieces(sfs)])
    found = dict(zip(weights, sums.T, strict=True))
    for name in list(weights)[4:]:
        found[name] = found[name] / np.maximum(found["SNPs"], 1)
    within = (found["pi in A"] + found["pi in B"]) / 2
    found["F_ST"] = 1 - np.divide(within, found["d_XY"], out=np.ones(len(sfs)), where=found["d_XY"] > 0)
    return found


ENOUGH = 10_000_000  # cells of spectra for statistics to look at; more would fill the memory
BASELINES = ("F_ST", "polymorphic in both")  # on which one could set a threshold
LOGISTIC = "log(1 + SFS)"


def log_counts(sfs, folded):
    """What the logistic regression sees: log(1 + SFS), shape (N, cells)."""
    return np.log1p(fold(sfs) if folded else sfs).reshape(len(sfs), -1)


def fit_baselines(sfs, responses, folded=False):
    """Three classifiers that are no networks: two thresholds and a logistic regression.

    Parameters
    ----------
    sfs : numpy.ndarray, shape (N, n_A + 1, n_B + 1, 1)
    responses : numpy.ndarray of int, shape (N,)
    folded : bool
        Fold the spectra first.

    Returns
    -------
    dict
        For each summary in `BASELINES`, the "threshold" with the fewest mistakes and the response
        "above" it; for `LOGISTIC`, "intercept" and "coefficients" of the log-odds of gene flow.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.tree import DecisionTreeClassifier

    found, baselines = summaries(sfs, folded), {}
    for name in BASELINES:
        tree = DecisionTreeClassifier(max_depth=1).fit(found[name][:, np.newaxis], responses).tree_
        above = int(tree.value[tree.children_right[0]].argmax()) if tree.node_count > 1 else 0
        baselines[name] = {"threshold": float(tree.threshold[0]), "above": above}
    logistic = LogisticRegression(solver="liblinear").fit(log_counts(sfs, folded), responses)
    baselines[LOGISTIC] = {
        "intercept": float(logistic.intercept_[0]),
        "coefficients": logistic.coef_[0].tolist(),
    }
    return baselines


def baseline_verdicts(baselines, sfs, folded=False):
    """What each of the `fit_baselines` takes spectra for: dict of str to responses, shape (N,)."""
    found, verdicts = summaries(sfs, folded), {}
    for name in BASELINES:
        threshold, above = baselines[name]["threshold"], baselines[name]["above"]
        verdicts[f"threshold on {name}"] = np.where(found[name] > threshold, above, 1 - above)
    coefficients, intercept = baselines[LOGISTIC]["coefficients"], baselines[LOGISTIC]["intercept"]
    log_odds = log_counts(sfs, folded) @ np.array(coefficients) + intercept
    verdicts[f"logistic regression on {LOGISTIC}"] = (log_odds > 0).astype(int)
    return verdicts


MEASURES = (  # in which a spectrum as a whole is compared with the simulations
    "SNPs",
    "pi in A",
    "pi in B",
    "d_XY",
    "polymorphic in both",
    "derived allele more common",
)

SCALE = "--mutation_rate, --sequence_length and --n_loci"
HISTORY = "--tdiv_prior, --ne_prior and --migration_prior"
DEPENDS_ON = {  # the settings to look at where a summary is unlike all simulations
    "SNPs": SCALE,
    "pi in A": f"--ne_prior, {SCALE}",
    "pi in B": f"--ne_prior, {SCALE}",
    "d_XY": f"--tdiv_prior, {SCALE}",
    "F_ST": HISTORY,
    "polymorphic in both": HISTORY,
    "polymorphic in A only": HISTORY,
    "polymorphic in B only": HISTORY,
    "fixed differences": HISTORY,
    "derived allele more common": "which alleles are ancestral (if that is not known, --train --folded)",
}


def log_measures(found):
    """The logarithms of `MEASURES` in what `summaries` found, shape (N, measures)."""
    return np.log(np.stack([found[name] for name in MEASURES if name in found], axis=1) + 1e-6)


def fit_reference(sfs, folded=False):
    """What spectra look like on which a network was trained.

    For a spectrum as a whole, this is the Mahalanobis distance of the logarithms of `MEASURES`,
    beyond which four in 1,000 simulations lie. Among the detectors of scikit-learn it is the one
    that learns a mean and a matrix and no more, plain numbers that a model can carry. Logarithms,
    as they make what is missing stand out: folded spectra have no derived alleles above one half.

    Parameters
    ----------
    sfs : numpy.ndarray, shape (N, n_A + 1, n_B + 1, 1)
    folded : bool
        Leave out the summary that folded spectra do not have.

    Returns
    -------
    dict
        "percentiles", from 0 to 100, of each of the `summaries`; "mean", "precision" and "limit" of
        the squared distance.
    """
    from sklearn.covariance import EmpiricalCovariance

    found = summaries(sfs, folded)
    normal = EmpiricalCovariance().fit(log_measures(found))
    return {
        "percentiles": {name: np.percentile(x, np.arange(101)).tolist() for name, x in found.items()},
        "mean": normal.location_.tolist(),
        "precision": normal.precision_.tolist(),
        "limit": float(np.percentile(normal.mahalanobis(log_measures(found)), 99.6)),
    }


def place(sfs, reference, folded=False):
    """Where spectra lie among those that a network was trained on.

    Parameters
    ----------
    sfs : numpy.ndarray, shape (N, n_A + 1, n_B + 1, 1)
    reference : dict
        From `fit_reference`.
    folded : bool

    Returns
    -------
    values : dict of str to numpy.ndarray, shape (N,)
        The `summaries`.
    percentiles : dict of str to numpy.ndarray, shape (N,)
        Between 0 and 100; -inf or inf where a value is below or above all simulations.
    outlier : numpy.ndarray of bool, shape (N,)
        Whether the spectrum as a whole is one.
    """
    values, percentiles = summaries(sfs, folded), {}
    for name, known in reference["percentiles"].items():
        # Between two percentiles, or on several that are the same: in their middle.
        ends = [np.searchsorted(known, values[name], side) for side in ("left", "right")]
        percentiles[name] = (ends[0] + ends[1] - 1) / 2
        percentiles[name][values[name] < known[0]] = -np.inf
        percentiles[name][values[name] > known[-1]] = np.inf
    off = log_measures(values) - reference["mean"]
    distances = ((off @ np.array(reference["precision"])) * off).sum(axis=1)
    return values, percentiles, distances > reference["limit"]


# ================================= 9. Observed spectra =================================


def individuals(shape):
    """The sample size behind a joint SFS of shape (2 * n_A + 1, 2 * n_B + 1)."""
    return PerSpecies(*(n // 2 for n in shape))


class Observed(NamedTuple):
    """A joint SFS from nature.

    Attributes
    ----------
    counts : numpy.ndarray of float, shape (n_A + 1, n_B + 1)
        By chromosomes; A is the first population. Projected spectra have fractions of SNPs.
    folded : bool
    remark : str
        What there is to say about it.
    """

    counts: np.ndarray
    folded: bool
    remark: str = ""


def read_observed(path):
    """Read an observed joint SFS: `.npy`, fastsimcoal2's `.obs`, or else dadi's and moments' text.

    Raises
    ------
    Problem
        If it is no joint SFS of two populations, each of an even number of chromosomes.
    """
    read = {".npy": read_numpy, ".obs": read_fastsimcoal}.get(path.suffix.lower(), read_dadi)
    if not path.is_file():
        raise Problem(f"{path} is missing, or no file.")
    try:
        observed = read(path)
        counts = observed.counts
        if counts.ndim != 2:
            raise ValueError(
                f"{counts.ndim} populations in place of two: choose A and B in easySFS, or sum over the "
                "others (moments: marginalize)"
            )
        sizes = [size - 1 for size in counts.shape]
        for size in sizes:
            if size < 2 or size % 2:
                raise ValueError(
                    f"{sizes[0]} + {sizes[1]} chromosomes: project to even numbers, two an individual "
                    "(easySFS: --proj; moments: project)"
                )
        counts[0, 0] = counts[-1, -1] = 0  # no SNPs, whatever they hold
        if not np.isfinite(counts).all() or counts.min() < 0:
            raise ValueError("some counts are negative or infinite")
        if not counts.any():
            raise ValueError("there are no SNPs in it")
        if counts.max() > 1e12:
            raise ValueError("no genome has so many SNPs")
    except Exception as error:  # a broken file can raise anything
        raise Problem(f"{path}: {one_line(error)}.") from None
    return observed


def read_numpy(path):
    """An array of shape (n_A + 1, n_B + 1), perhaps with a channel behind; taken for unfolded."""
    counts = np.load(path, allow_pickle=False)
    if counts.ndim == 3 and counts.shape[2] == 1:
        counts = counts[..., 0]
    if counts.dtype.kind not in "iuf" or counts.ndim != 2:
        raise ValueError(
            f"shape {counts.shape}, type {counts.dtype}: not one spectrum, (n_A + 1, n_B + 1) numbers"
        )
    return Observed(counts.astype(float), folded=False)


def read_dadi(path):
    """Text as dadi and moments write it: comments, sizes, data and, perhaps, a mask."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    lines = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    header, *rest = lines or [""]
    words = shlex.split(header)
    shape = [int(word) for word in itertools.takewhile(str.isdigit, words)]
    folded = words[len(shape) : len(shape) + 1] == ["folded"]
    numbers = [float(word) for word in " ".join(rest).split()]
    n_cells = math.prod(shape)
    if not shape or len(numbers) not in (n_cells, 2 * n_cells):
        raise ValueError(f"{len(numbers)} numbers after a first line of {header!r:.60}: no spectrum")
    counts = np.array(numbers[:n_cells]).reshape(shape)
    masked = np.isnan(counts)
    masked |= np.array(numbers[n_cells:] or [0] * n_cells).reshape(shape) != 0
    counts[masked] = 0
    masked.flat[[0, -1]] = False
    if folded:
        total = sum(np.ogrid[tuple(map(slice, shape))])
        masked &= 2 * total <= total.max()  # the others are empty
    remark = f"{masked.sum()} masked cells beside the two corners count as 0" if masked.any() else ""
    return Observed(counts, folded, remark)


def read_fastsimcoal(path):
    """fastsimcoal2's joint spectrum of two populations; A is the one in columns, of the lower number."""
    if ("jointDAF" in path.name) == ("jointMAF" in path.name):
        raise ValueError("the name must have jointDAF or jointMAF in it, for derived or minor alleles")
    lines = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if len(lines) < 3 or lines[0][0] != "1":
        raise ValueError("not a first line of 1 observations, then one spectrum")
    _, columns, *rows = lines
    labels = [row[0] for row in rows]
    for names in (columns, labels):
        if names != [f"{names[0].partition('_')[0]}_{count}" for count in range(len(names))]:
            raise ValueError(
                "columns and rows are not labelled as in d0_0, d0_1, ... and d1_0, d1_1, ..."
            )
    if any(len(row) != len(columns) + 1 for row in rows):
        raise ValueError("some rows are longer than others")
    return Observed(np.array([row[1:] for row in rows], float).T, folded="jointMAF" in path.name)


# ======================================== 10. Processes ========================================


def usable_cores():
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def follow_parent():
    """In a worker: leave Ctrl-C to the parent, and go when it is gone, however it went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextlib.contextmanager
def worker_pool(n_workers):
    """An executor on this machine. Nothing is forked from here, where TensorFlow may run threads.

    Each worker imports msprime for itself: forked with it already there, it was 8% slower.
    """
    forkserver = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forkserver else "spawn")
    if forkserver:
        from multiprocessing.forkserver import ensure_running

        os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")  # on what a killed run leaves
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # is inherited from the first moment on
        ensure_running()
        signal.signal(signal.SIGINT, handler)
    if os.name == "nt":
        n_workers = min(n_workers, 61)  # Windows has no more
    with ProcessPoolExecutor(n_workers, mp_context=context, initializer=follow_parent) as executor:
        try:
            yield executor
        except BrokenProcessPool:
            raise Problem(
                "a simulating process was killed, perhaps as the memory was full: try fewer --workers."
            ) from None
        except BaseException:
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise


def versions():
    """The versions of the packages that each count depends on."""
    return {package: version(package) for package in ("msprime", "tskit", "numpy")}


def listed(found):
    """Packages with their versions, in a line."""
    return ", ".join(f"{package} {number}" for package, number in found.items())


@contextlib.contextmanager
def dask_cluster(address):
    """An executor on the workers of a Dask scheduler, and how many threads these have.

    Dask does a lost worker's tasks again elsewhere. But where no worker is left it waits for ever,
    in case one comes: hence the watch. A worker may join at any time, with whatever packages it has:
    hence each task looks at them first.
    """
    import asyncio

    where = f"--dask_scheduler {address}"
    try:
        import cloudpickle
        import distributed
    except ImportError:
        raise Problem(
            "--dask_scheduler takes one more package: pip install 'distributed>=2026.8'"
        ) from None
    logging.disable()  # what distributed says of an error is long, and ours follows
    warnings.filterwarnings("ignore", module="distributed")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers do not have this file
    keys = distributed.Security().get_connection_args("client")
    try:
        # First without a client: it would wait for ever where something else listens in silence, and
        # for long to close a connection that it never had.
        knock = distributed.comm.connect(address, timeout=5, **keys)
        asyncio.run(asyncio.wait_for(knock, timeout=5)).abort()
        client = distributed.Client(address, timeout=5, set_as_default=False)
    except Exception as error:  # anything may answer at an address
        raise Problem(f"{where}: no Dask scheduler answers there ({one_line(error)}).") from None
    needed, over = versions(), threading.Event()

    def as_here(function, *args):  # in a worker
        if (found := versions()) != needed:
            raise ImportError(f"it has {listed(found)}")
        return function(*args)

    def watch():
        looks_in_vain = 0
        while looks_in_vain < 10:
            if over.wait(1):
                return
            looks_in_vain += 1
            with contextlib.suppress(Exception):
                if client.sync(client.scheduler.ncores, callback_timeout=5):
                    looks_in_vain = 0
        executor.shutdown(wait=False)  # cancels what is waited for

    with client:
        executor = client.get_executor(pure=False)
        try:
            client.wait_for_workers(1, timeout=5)
            pythons = client.run(platform.python_version)
        except OSError as error:
            raise Problem(f"{where}: no workers answer there ({one_line(error)}).") from None
        for worker, python in pythons.items():  # between these, functions do not travel
            if python.split(".")[:2] != platform.python_version().split(".")[:2]:
                here = platform.python_version()
                raise Problem(f"{where}: worker {worker} has Python {python}, and here is {here}.")
        submit = executor.submit
        executor.submit = lambda *task: submit(as_here, *task)
        threading.Thread(target=watch, daemon=True).start()
        try:
            yield executor, sum(client.nthreads().values())
        except ImportError as error:
            raise Problem(f"{where}: a worker needs {listed(needed)} ({one_line(error)}).") from None
        except distributed.KilledWorker:
            raise Problem(f"{where}: workers died, perhaps as their memory was full.") from None
        except CancelledError:
            raise Problem(f"{where}: the scheduler, or the last of its workers, is gone.") from None
        finally:
            over.set()


@contextlib.contextmanager
def simulating_processes(run, n_tasks):
    """The executor that is asked for, and how many tasks to hand it ahead."""
    if run.dask_scheduler:
        with dask_cluster(run.dask_scheduler) as (executor, n_threads):
            yield executor, 4 * n_threads
    else:
        n_workers = min(run.workers or usable_cores(), n_tasks)
        with worker_pool(n_workers) as executor:
            yield executor, 4 * n_workers


# ========================================== 11. Files ==========================================


@contextlib.contextmanager
def only_writer(folder, name):
    """Keep other runs from writing the same set of files."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / f".{name}.lock", timeout=1):
            yield
    except Timeout:
        raise Problem(
            f"another run is at work in {folder}: wait for it, or use another --data_dir."
        ) from None


@contextlib.contextmanager
def staging(folder, name, resume=False):
    """A hidden folder whose files appear in `folder` when the block ends: all together, or not at all.

    The step that counts is to rename the complete set. Should anything stop the moves after it,
    the next run finishes them. With `resume`, an incomplete set is kept for another try.
    """
    partial, complete = folder / f".{name}.partial", folder / f".{name}.complete"
    with only_writer(folder, name):
        if not resume:
            shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(exist_ok=resume)
        try:
            yield partial
            for path in partial.iterdir():
                if (folder / path.name).is_dir():
                    raise Problem(f"{folder / path.name} is a folder: move it out of the way.")
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
            partial.rename(complete)
        except BaseException:
            if not resume:
                shutil.rmtree(partial, ignore_errors=True)
            raise
        move_out(complete)


def move_out(complete):
    """Move the files of a complete set to where they belong."""
    for path in complete.iterdir():
        path.replace(complete.parent / path.name)
    complete.rmdir()


def finish_moves(folder):
    """Do what is left of moves that a stopped run began."""
    for complete in folder.glob(".*.complete"):
        with only_writer(folder, complete.name.split(".")[1]):
            if complete.is_dir():  # still, after waiting
                move_out(complete)


def checksums(*paths):
    """The SHA-256 of each file, by its name."""
    sums = {}
    for path in paths:
        with path.open("rb") as file:
            sums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def save_dataset(settings, branch, folder, name, run):
    """Simulate a dataset and write its four files, or go on with those that an earlier try left.

    The spectra go to the disk as they come, behind a header that already states how many they
    will be. So memory does not grow with the dataset, and the file's length says how far it came.
    """
    n_rows = 2 * settings.n_reps
    shape = (n_rows, 2 * settings.sample_size.a + 1, 2 * settings.sample_size.b + 1, 1)
    sfs_path, responses_path = folder / f"{name}_sfs.npy", folder / f"{name}_responses.npy"
    settings_path = folder / f"{name}_settings.json"
    about = json.loads(json.dumps(asdict(settings) | {"versions": versions()}))  # as it will be read
    needed = 4 * math.prod(shape) - (sfs_path.stat().st_size if sfs_path.exists() else 0)
    if needed > shutil.disk_usage(folder).free:
        raise Problem(f"{folder.parent}: the disk has no room for {needed / 1e6:,.0f} MB of spectra.")
    with simulating_processes(run, math.ceil(n_rows / ROWS_PER_TASK)) as (executor, ahead):
        discard_others(folder, settings_path, about)
        save_json(settings_path, about)
        with open_rows(sfs_path, shape) as (file, done), progress(n_rows, done) as bar:
            for spectra in simulate_dataset(settings, branch, executor, ahead, done):
                file.write(spectra.astype("<i4").tobytes())
                file.flush()
                bar.update(len(spectra))
    save_array(responses_path, np.arange(n_rows, dtype=np.int32) % 2)
    parameters = (draw_row(settings, branch, row)[0] for row in range(n_rows))
    save_array(folder / f"{name}_parameters.npy", np.fromiter(parameters, PARAMETERS, n_rows))
    save_json(settings_path, about | {"sha256": checksums(sfs_path, responses_path)})


def discard_others(folder, settings_path, about):
    """Empty a folder, unless it holds what is left of a try with the same settings."""
    unfinished = {}
    with contextlib.suppress(Problem):
        unfinished = load_json(settings_path)
        unfinished.pop("sha256", None)
    if unfinished != about:
        if unfinished:
            print("Discarding the unfinished simulations of other settings.")
        for path in folder.iterdir():
            path.unlink()


@contextlib.contextmanager
def open_rows(path, shape):
    """Open a file to append int32 rows to the array it will be; also tell how many it has."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<i4", "fortran_order": False, "shape": shape}
    )
    row_bytes = 4 * math.prod(shape[1:])
    with path.open("ab") as file:
        done = max(0, file.tell() - header.tell()) // row_bytes
        file.truncate(header.tell() + done * row_bytes if done else 0)
        if done:
            print(f"Going on after the {done:,} spectra that an interrupted run left.")
        else:
            file.write(header.getvalue())
        yield file, done


def save_array(path, array):
    """Like `numpy.save`, which does not name a full disk as the cause."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    path.write_bytes(buffer.getbuffer())


class Dataset(NamedTuple):
    """Spectra to learn from.

    Attributes
    ----------
    sfs : numpy.memmap, shape (N, a, b, 1)
    responses : numpy.memmap of int, shape (N,)
    checksums : dict of str to str
    settings : SimulationSettings or None
        None where there is no settings file, or one that belongs to other arrays.
    """

    sfs: np.ndarray
    responses: np.ndarray
    checksums: dict
    settings: SimulationSettings | None


def load_dataset(folder):
    """The `Dataset` in a folder, checked; a `Problem` if there is nothing to learn from."""
    sfs_path, responses_path = folder / "simulated_sfs.npy", folder / "simulated_responses.npy"
    before = [path.exists() and path.stat().st_ino for path in (sfs_path, responses_path)]
    sfs, responses = load_array(sfs_path), load_array(responses_path)
    if sfs.ndim != 4 or sfs.shape[3] != 1 or not all(n > 2 and n % 2 for n in sfs.shape[1:3]):
        raise Problem(f"{sfs_path}: shape {sfs.shape} is not (N, 2 * n_A + 1, 2 * n_B + 1, 1).")
    if responses.shape != sfs.shape[:1]:
        raise Problem(f"{responses_path}: shape {responses.shape} does not fit {len(sfs)} spectra.")
    for counts in pieces(sfs):
        if not (np.isfinite(counts).all() and (counts >= 0).all()):
            raise Problem(f"{sfs_path}: some counts are negative or no numbers.")
    if not np.isin(responses, (0, 1)).all():
        raise Problem(
            f"{responses_path}: responses are 0, divergence, and 1, gene flow; these are others."
        )
    if min((responses == 0).sum(), (responses == 1).sum()) < 5:
        raise Problem(f"{responses_path}: learning takes at least 5 spectra of each model.")
    settings, settings_path = None, folder / "simulated_settings.json"
    sums = checksums(sfs_path, responses_path)
    if before != [path.stat().st_ino for path in (sfs_path, responses_path)]:
        raise Problem(f"{folder}: another run replaced the data while they were read: run this again.")
    if settings_path.exists():
        saved = load_json(settings_path)
        if saved.get("sha256") == sums:
            settings = saved_settings(SimulationSettings, saved, settings_path)
        else:
            print(f"{settings_path} belongs to other arrays. How these were simulated is not known.")
    return Dataset(sfs, responses, sums, settings)


def load_array(path):
    """Memory-map an array of numbers; a pickle is refused, not run."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
            raise ValueError(f"its type is {array.dtype}")
    except FileNotFoundError:
        raise Problem(f"{path} is missing: run runml --simulate first.") from None
    except Exception as error:  # a broken file can make NumPy raise anything
        raise Problem(
            f"{path} is no array of numbers ({one_line(error)}): run runml --simulate anew."
        ) from None
    return array


def save_json(path, content):
    """Write a dictionary, in one step, for people and programs to read."""
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    beside.replace(path)


def load_json(path):
    """Read a dictionary."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise Problem(f"{path} cannot be read ({one_line(error)}).") from None
    if not isinstance(content, dict):
        raise Problem(f"{path} holds no settings.")
    return content


def read_rows(path, numbers):
    """The rows of a table, as text, without those that are damaged.

    Parameters
    ----------
    path : pathlib.Path
        A CSV file; where there is none, there are no rows.
    numbers : tuple of str
        The columns that must hold a number, or several with blanks between.

    Returns
    -------
    list of dict of str to str
    """
    rows, damaged = [], False
    csv.field_size_limit(10**7)  # a run of very many epochs has long curves
    try:
        table = csv.DictReader(path.read_text(encoding="utf-8", errors="replace").splitlines())
        damaged = not {*numbers} <= {*(table.fieldnames or numbers)}
        for row in table:
            try:
                values = [float(word) for name in numbers for word in row[name].split() or [""]]
                if None in row or not np.isfinite(values).all():
                    raise ValueError("too long, or no numbers")
                rows.append(row)
            except (AttributeError, KeyError, ValueError):
                damaged = True
    except FileNotFoundError:
        pass
    except (OSError, csv.Error):
        damaged = True
    if damaged:
        print(f"{path}: what cannot be read of it is left out; the whole is kept as {path.stem}.old.")
        with contextlib.suppress(OSError):
            shutil.copyfile(path, path.with_suffix(".old"))
    return rows


def write_rows(path, rows):
    """Write a table with the columns of its last row."""
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        table = csv.DictWriter(file, rows[-1], extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def saved_settings(kind, saved, where):
    """Settings of a kind from what was saved, checked as if they were typed."""
    values = {}
    for setting in fields(kind):
        try:
            words = saved[setting.name]
            values[setting.name] = checked(setting, words if isinstance(words, list) else [words])
        except KeyError:
            raise Problem(f"{where}: {setting.name} is missing.") from None
        except (ValueError, TypeError) as error:
            raise Problem(f"{where}: {setting.name} {error}.") from None
    return kind(**values)


# A model is one file, replaced in one step: Keras's archive with our notes as one more member,
# which Keras passes over.
MODEL, NOTES = "trained_model.keras", "runml.json"


class Notes(NamedTuple):
    """What a model remembers.

    Attributes
    ----------
    training : TrainingSettings
        How it was trained.
    data : dict of str to str
        On which arrays, by their checksums.
    simulations : SimulationSettings or None
        How those were simulated, if that is known.
    learned : dict
        What else was learned from its training part, in plain numbers.
    """

    training: TrainingSettings
    data: dict
    simulations: SimulationSettings | None
    learned: dict


def save_model(path, model, notes):
    """Save a model, without its optimizer, and its `Notes`."""
    start_keras().Model(model.input, model.output).save(path)
    written = {
        "training": asdict(notes.training),
        "data": notes.data,
        "simulations": notes.simulations and asdict(notes.simulations),
        "learned": notes.learned,
    }
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(NOTES, json.dumps(written, indent=2))


def broken_model(path, error):
    """The `Problem` of a model file that something is wrong with."""
    return Problem(f"{path} is no model of this script ({one_line(error)}): run runml --train anew.")


def load_notes(path):
    """The `Notes` of a saved model, read without Keras."""
    try:
        with zipfile.ZipFile(path) as archive:
            notes = json.loads(archive.read(NOTES))
        training, data, simulations, learned = (notes[name] for name in Notes._fields)
        training = saved_settings(TrainingSettings, training, path)
        # What was learned is tried on an empty spectrum, here rather than after a test's simulations.
        empty = np.zeros((1, *np.array(learned["mean_input"], float).shape))
        with np.errstate(divide="raise", invalid="raise"):
            place(empty, learned["reference"], training.folded)
            baseline_verdicts(learned["baselines"], empty, training.folded)
    except Problem:
        raise
    except FileNotFoundError:
        raise Problem(f"{path} is missing: run runml --train first.") from None
    except Exception as error:  # a broken archive can make zipfile raise anything
        raise broken_model(path, error) from None
    simulations = simulations and saved_settings(SimulationSettings, simulations, path)
    return Notes(training, data, simulations, learned)


def load_model(path):
    """The saved Keras model. Keras's safe mode is on: code in a model file is not run."""
    keras = start_keras()
    try:
        model = keras.models.load_model(path)
        *_, rows, columns, channels = model.input_shape
        if not (rows % 2 and columns % 2 and channels == 1 and model.output_shape == (None, 2)):
            raise ValueError(f"it takes {model.input_shape} and returns {model.output_shape}")
    except Exception as error:  # and so can a broken model make Keras
        raise broken_model(path, error) from None
    return model


# ======================================== 12. Pictures ========================================
#
# They are drawn when the numbers are saved and printed. Purple and orange, or from dark to light:
# these can be told apart on a grey print, and by the colour-blind.

COLOURS = ("#542788", "#e08214")  # of the two models; the ends of the scale "PuOr_r"
FEW = 10  # spectra: of fewer, no share is drawn
ATTRIBUTED = 200  # spectra of each model


def save_picture(path, draw, *inputs):
    """Draw a picture in place of the last run's. If that fails, one line says so: numbers come first.

    Parameters
    ----------
    path : pathlib.Path
    draw : callable
        Takes an empty figure, then `inputs`.
    """
    beside = path.with_name(f".{path.name}")
    try:
        path.unlink(missing_ok=True)  # no old picture beside new numbers
        logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it talks about its font cache
        with warnings.catch_warnings(action="ignore"):
            from matplotlib.figure import Figure

            figure = Figure(layout="constrained")  # without pyplot, Agg draws: it needs no screen
            draw(figure, *inputs)
            figure.savefig(beside, dpi=100, bbox_inches="tight")
        beside.replace(path)
    except Exception as error:
        print(f"{path} could not be drawn ({one_line(error)}). The numbers are saved.", file=sys.stderr)
    else:
        print(f"See {path}.")


def draw_models(figure, settings):
    """The two models as tubes as wide as the populations are large, at the middle of the priors."""
    import demesdraw

    figure.set_size_inches(12, 5.5)
    priors = (settings.tdiv_prior, *[settings.ne_prior] * 3, settings.migration_prior)
    middle = np.array(tuple(sum(prior) / 2 for prior in priors), PARAMETERS)[()]
    divergence = middle["divergence_time"]
    contact = divergence * settings.gene_flow_fraction
    colours = {"A": "#0072b2", "B": "#56b4e9", "ancestor": "#999999"}
    for response, axes in enumerate(figure.subplots(1, 2)):
        parameters, times = middle.copy(), {0: "today", divergence: f"divergence\n{divergence:,.0f}"}
        parameters["migration_rate"] *= response
        graph = demographic_model(settings, parameters).to_demes()
        demesdraw.tubes(graph, axes, colours=colours, seed=1, scale_bar=True)
        for tube in axes.collections:
            tube.set_alpha(1)
        axes.set(title=MODELS[response], ylabel="generations before today")
        if response:
            axes.axhspan(0, contact, color=COLOURS[1], alpha=0.3, zorder=0)
            axes.set_title(f"gene flow: migration rate {middle['migration_rate']:.2g} per generation")
            times |= {contact: f"gene flow since\n{contact:,.0f}"} if contact < divergence else {}
        axes.set_yticks(list(times), times.values())


def show_sfs(figure, axes, table, label, alleles="derived alleles", **how):
    """One joint SFS, or another table of its shape, as an image."""
    image = axes.imshow(table, origin="lower", **how)
    axes.set(xlabel=f"{alleles} in B", ylabel=f"{alleles} in A")
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_major_locator().set_params(integer=True)
    figure.colorbar(image, ax=axes, label=label, shrink=0.8)


def draw_sfs(figure, sfs):
    """The mean joint SFS of the two models, and their log-ratio, which is where the signal is."""
    from matplotlib.colors import LogNorm

    figure.set_size_inches(15, 4.6)
    panels = figure.subplots(1, 3)
    tables = [np.ma.masked_equal(sfs[response::2].mean(axis=0)[..., 0], 0) for response in range(2)]
    scale = LogNorm(min(table.min() for table in tables), max(table.max() for table in tables))
    for axes, model, table in zip(panels, MODELS, tables, strict=False):
        show_sfs(figure, axes, table, "mean number of SNPs", norm=scale, cmap="viridis")
        axes.set_title(model)
    ratio = np.ma.log2(tables[1] / tables[0])
    limit = abs(ratio).max()
    show_sfs(
        figure, panels[2], ratio, "log2(gene flow / divergence)", cmap="PuOr_r", vmin=-limit, vmax=limit
    )
    panels[2].set_title("how much more under gene flow")


def draw_history(figure, history, earlier):
    """Loss and accuracy by epoch: this run bold, earlier ones on the same data faint."""
    figure.set_size_inches(12, 4.8)
    for axes, what in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for run in earlier:
            curve = [float(word) for word in run[f"validation_{what}_by_epoch"].split()]
            label = "validation, earlier runs" if run is earlier[0] else None
            axes.plot(range(1, len(curve) + 1), curve, ".-", color="0.75", linewidth=1, label=label)
        epochs = range(1, len(history[what]) + 1)
        axes.plot(epochs, history[what], "s--", color=COLOURS[0], linewidth=2.5, label="training")
        axes.plot(
            epochs, history[f"val_{what}"], "o-", color=COLOURS[1], linewidth=3, label="validation"
        )
        axes.set(xlabel="epoch", ylabel=what)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    figure.axes[0].set_yscale("log")


def calibration_bins(gene_flow):
    """Which tenth of [0, 1] each probability is in, and how many are in each of the ten."""
    bins = np.searchsorted(np.linspace(0, 1, 11)[1:-1], gene_flow)
    return bins, np.bincount(bins, minlength=10)


def accuracy_in_bins(values, right, n_bins=8):
    """Accuracy along a parameter, in bins that hold equally many replicates.

    Parameters
    ----------
    values : numpy.ndarray of float, shape (N,)
    right : numpy.ndarray of bool, shape (N,)
        Whether each verdict is right.
    n_bins : int
        At most; there are fewer where they would hold fewer than `FEW` replicates.

    Returns
    -------
    middles, n_right, n : numpy.ndarray
        A bin's mean value, right verdicts and replicates.
    """
    n_bins = min(n_bins, max(1, len(values) // FEW))
    edges = np.unique(np.quantile(values, np.linspace(0, 1, n_bins + 1)))
    bins = np.searchsorted(edges[1:-1], values, side="right")
    n = np.bincount(bins)
    return np.bincount(bins, values) / n, np.bincount(bins, right).astype(int), n


def draw_accuracies(axes, at, n_right, n, **how):
    """Accuracies of `n_right` out of `n`, as points with their 95% intervals."""
    accuracy = np.divide(n_right, n)
    intervals = np.transpose([wilson(*counts) for counts in zip(n_right, n, strict=True)])
    axes.errorbar(at, accuracy, abs(intervals - accuracy), capsize=4, **how)


def draw_probabilities(figure, cells, results, gene_flow):
    """The first row of the report: verdicts, and the probabilities behind them."""
    from sklearn.calibration import CalibrationDisplay
    from sklearn.metrics import ConfusionMatrixDisplay, RocCurveDisplay

    responses = np.arange(len(gene_flow)) % 2
    axes = figure.add_subplot(cells[0], title="confusion matrix: test replicates")
    matrix = ConfusionMatrixDisplay(np.array(results["confusion_matrix"]), display_labels=MODELS)
    matrix.plot(ax=axes, cmap="cividis", colorbar=False, values_format=",d")
    axes.set(xlabel="model predicted", ylabel="true model")

    axes = figure.add_subplot(cells[1], title="ROC curve")
    RocCurveDisplay.from_predictions(
        responses, gene_flow, name="network", plot_chance_level=True, ax=axes
    )
    axes.set(xlabel="divergence taken for gene flow", ylabel="gene flow recognised")

    axes = figure.add_subplot(cells[2], title="calibration, and spectra per bin")
    bins, counts = calibration_bins(gene_flow)
    drawn = counts[bins] >= FEW
    if drawn.any():
        CalibrationDisplay.from_predictions(
            responses[drawn], gene_flow[drawn], n_bins=len(counts), pos_label=1, name="network", ax=axes
        )
        axes.legend(loc="upper left")
    for tenth, count in enumerate(counts):
        axes.text(tenth / 10 + 0.05, -0.1, f"{count:,}", ha="center")
    if (counts < FEW).any():
        axes.text(0.55, 0.1, f"no points for bins of\nfewer than {FEW} spectra")
    axes.set(xlabel="probability of gene flow", ylabel="share with gene flow", ylim=(-0.15, 1.05))


def draw_mistakes(figure, cells, parameters, verdicts):
    """The second row: which pairs of species the network mistakes."""
    responses = np.arange(len(verdicts)) % 2
    right = verdicts == responses
    above, below = cells[0].subgridspec(2, 1, height_ratios=(4, 1)).subplots(sharex=True)
    age, rate = parameters["divergence_time"], parameters["migration_rate"]
    strip = np.random.default_rng(0).random(len(age))  # divergence has no migration rate
    for axes, response, heights in ((below, 0, strip), (above, 1, rate)):
        for verdict, marker, colour in ((True, ".", COLOURS[response]), (False, "X", "black")):
            some = (responses == response) & (right == verdict)
            axes.scatter(age[some], heights[some], marker=marker, color=colour)
    title = f"mistakes (black): {(~right).sum():,} of {len(right):,} replicates"
    above.set(yscale="log", ylabel="migration rate per generation", title=title)
    below.set(yticks=[], ylabel="divergence:\nnone", xlabel="divergence time, generations")

    by_time, by_rate = figure.add_subplot(cells[1]), figure.add_subplot(cells[2])
    by_rate.set_xscale("log" if np.ptp(rate[1::2]) else "linear")
    for axes, values, response in ((by_time, age, 0), (by_time, age, 1), (by_rate, rate, 1)):
        along = accuracy_in_bins(values[response::2], right[response::2])
        label = f"{MODELS[response]}, bins of {along[2].max():,}"
        look = {"color": COLOURS[response], "marker": "os"[response], "label": label}
        draw_accuracies(axes, *along, **look)
        axes.set_ylabel("accuracy, with its 95% interval")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    by_time.set_xlabel("divergence time, generations")
    by_rate.set_xlabel("migration rate per generation")


ATTRIBUTION_STEPS = 32


def first_rescaling(model):
    """The layer of a network that is the first to come after the square root."""
    keras = start_keras()
    return next(layer for layer in model.layers if isinstance(layer, keras.layers.Rescaling))


def mean_input(model, sfs):
    """The mean of spectra as the network sees them, after the square root; shape (a, b, 1)."""
    from keras import Model

    seen = Model(model.input, first_rescaling(model).input)
    return sum(seen(piece).numpy().sum(axis=0) for piece in pieces(sfs)) / len(sfs)


def attributions(model, sfs, baseline):
    """What each cell of spectra adds to the log-odds of gene flow: integrated gradients.

    On the straight way from the baseline to a spectrum, the gradient of the log-odds is averaged,
    then multiplied by the way. So the cells' attributions sum, up to the error of finite steps, to the
    difference in log-odds between the two ends (Sundararajan et al. 2017). The way begins behind the
    square root, whose gradient at 0 is infinite, and ends before the softmax, whose gradient vanishes
    where the network is sure.

    Parameters
    ----------
    model : keras.Model
    sfs : numpy.ndarray, shape (N, a, b, 1)
    baseline : numpy.ndarray, shape (a, b, 1)
        What they are compared with: the `mean_input` of the training part.

    Returns
    -------
    numpy.ndarray of float, shape (N, a, b)
    """
    import tensorflow as tf
    from keras import Model

    first, last = first_rescaling(model), model.layers[-1]
    seen, hidden = Model(model.input, first.input), Model(first.input, last.input)
    kernel, _ = last.get_weights()
    towards_gene_flow = (kernel[:, 1] - kernel[:, 0])[:, np.newaxis]
    way = seen(sfs) - baseline
    gradients = tf.zeros_like(way)
    for step in range(ATTRIBUTION_STEPS):
        point = baseline + (step + 0.5) / ATTRIBUTION_STEPS * way
        with tf.GradientTape() as tape:
            tape.watch(point)
            log_odds = hidden(point) @ towards_gene_flow  # up to a constant, the biases
        gradients += tape.gradient(log_odds, point)
    return (way * gradients / ATTRIBUTION_STEPS).numpy()[..., 0]


def draw_test(figure, results, probabilities, parameters, model, sfs, notes):
    """The report of a test: how good, where wrong, and why.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    results : dict
        From `evaluate`, with "baselines".
    probabilities : numpy.ndarray of float, shape (N, 2)
        What the network gave. The true models alternate.
    parameters : numpy.ndarray of PARAMETERS, shape (N,)
    model : keras.Model
    sfs : numpy.ndarray of int, shape (N, a, b, 1)
    notes : Notes
        Of the model.
    """
    figure.set_size_inches(16, 14)
    cells = figure.add_gridspec(3, 3)
    gene_flow = probabilities[:, 1] / probabilities.sum(axis=1, dtype=float)
    draw_probabilities(figure, [cells[0, column] for column in range(3)], results, gene_flow)
    draw_mistakes(figure, [cells[1, column] for column in range(3)], parameters, gene_flow > 0.5)

    baseline = np.array(notes.learned["mean_input"], np.float32)
    alleles = "rarer alleles" if notes.training.folded else "derived alleles"
    tables = [
        attributions(model, sfs[response : 2 * ATTRIBUTED : 2], baseline).mean(axis=0)
        for response in range(2)
    ]
    limit = np.abs(tables).max()
    for response, table in enumerate(tables):
        title = f"what speaks for (+) and against (-) gene flow,\nmean over true {MODELS[response]}"
        axes = figure.add_subplot(cells[2, response], title=title)
        label = "attribution, log-odds"
        show_sfs(figure, axes, table, label, alleles, cmap="PuOr_r", vmin=-limit, vmax=limit)

    axes = figure.add_subplot(cells[2, 2], title="with and without a network")
    accuracies = {"network": results["accuracy"]} | results["baselines"]
    n = [results["n_test"]] * len(accuracies)
    n_right = np.round(np.multiply([*accuracies.values()], n))
    draw_accuracies(axes, range(len(n)), n_right, n, fmt="o", color="black")
    axes.set_xticks(range(len(n)), [textwrap.fill(name, 11) for name in accuracies])
    axes.set(ylabel="accuracy on the test set, with its 95% interval", xlim=(-0.5, len(n) - 0.5))


# ======================================= 13. The screen =======================================


def one_line(error):
    """The first line of what an error says."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0]


def start_keras():
    """Keras on TensorFlow, made repeatable, without what TensorFlow prints when it starts."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # Operations on spectra are done before more threads have woken up to share them.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    with held_stderr() if "tensorflow" not in sys.modules else contextlib.nullcontext():
        import tensorflow as tf

        tf.config.list_physical_devices()  # says more, the first time
    tf.config.experimental.enable_op_determinism()
    import keras

    return keras


@contextlib.contextmanager
def held_stderr():
    """Hold back what goes to file descriptor 2, and show it only if the block fails."""
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def progress(total, done):
    """A bar that moves on a terminal; in a pipe or a log, a line a tenth, or a minute if slower."""
    from tqdm import tqdm

    class Lines(tqdm):
        tenth, time = 10 * done // total, time.monotonic()  # of the last line

        def display(self, msg=None, pos=None):
            tenth, now = 10 * self.n // total, time.monotonic()
            if msg is None and (tenth > self.tenth or (self.n > done and now > self.time + 60)):
                self.tenth, self.time = tenth, now
                print(self)

    if sys.stderr.isatty():
        return tqdm(total=total, initial=done, unit=" SFS")
    line = "{n_fmt} of {total_fmt} SFS, {rate_fmt}, {remaining} left"
    always = {"miniters": 1, "mininterval": 0, "smoothing": 0}
    return Lines(total=total, initial=done, unit=" SFS", leave=False, bar_format=line, **always)


def epoch_printer(n_epochs):
    """Callbacks that print one line an epoch where Keras's own bar could not move."""

    def show(epoch, logs):
        print(
            f"Epoch {epoch + 1}/{n_epochs}: loss {logs['loss']:.4f}, accuracy {logs['accuracy']:.4f}; "
            f"validation loss {logs['val_loss']:.4f}, accuracy {logs['val_accuracy']:.4f}"
        )

    return [] if sys.stdout.isatty() else [start_keras().callbacks.LambdaCallback(on_epoch_end=show)]


def print_network(model):
    """A line for each layer that has weights or a dropout rate."""
    print("The network, from raw counts to probabilities:")
    for layer in model.layers:
        weights, size = layer.count_params(), " x ".join(map(str, layer.output.shape[1:]))
        if weights or hasattr(layer, "rate"):
            about = f"{weights:>9,} weights" if weights else f"     rate {layer.rate:g}"
            print(f"  {type(layer).__name__:<8} {size:<12} {about}")
    print(f"  {'together':<21} {model.count_params():>9,} weights")


def unusual(places, row):
    """What is unusual, among the simulations, about a row of what `place` returned."""
    _, percentiles, outlier = places
    remarks = [
        f"{name}: {'more' if percentiles[name][row] > 0 else 'less'} than in any simulation. "
        f"It depends on {DEPENDS_ON[name]}."
        for name in percentiles
        if not np.isfinite(percentiles[name][row])
    ]
    if outlier[row]:
        remarks.append(
            "taken together, the summaries are unlike any simulation's. Are ancestral alleles known? "
            f"Do {SCALE} fit?"
        )
    return remarks


def print_place(places, row):
    """The summaries of one spectrum, and where they lie among the simulations."""
    values, percentiles, _ = places
    print(f"{'summary':<28}{'observed':>12}{'percentile':>12}")
    for name in percentiles:
        percentile = percentiles[name][row]
        among = f"{percentile:.0f}" if np.isfinite(percentile) else "outside"
        print(
            f"{name:<28}{values[name][row]:>12,.{3 if abs(values[name][row]) < 100 else 0}f}{among:>12}"
        )
    for remark in unusual(places, row):
        print(f"Warning: {remark}")


def print_simulated(sfs, n_all):
    """Median and range of what one would look at first, under each model."""
    print("" if len(sfs) == n_all else f"\nOf the first {len(sfs):,} spectra:")
    print(f"{'median (range)':<20}{MODELS[0]:>32}{MODELS[1]:>32}")
    found = summaries(sfs)
    for name, form in (("SNPs", ",.0f"), ("F_ST", ".3f"), ("polymorphic in both", ".3f")):
        ranges = []
        for response in range(2):
            low, median, high = np.quantile(found[name][response::2], [0, 0.5, 1])
            ranges.append(f"{median:{form}} ({low:{form}} to {high:{form}})")
        print(f"{name:<20}{ranges[0]:>32}{ranges[1]:>32}")
    print()


def print_runs(runs):
    """Rank the runs by validation loss, mark the last one, and tell in which settings they differ."""
    names = [setting.name for setting in fields(TrainingSettings)]
    columns = [name for name in names if len({run.get(name) for run in runs}) > 1]
    columns += ["weights", "validation_accuracy", "validation_loss", "seconds"]
    ranked = sorted(enumerate(runs), key=lambda run: float(run[1]["validation_loss"]))
    print("\nRuns on these data so far, by validation loss, with the settings in which they differ:")
    print("      " + "  ".join(columns))
    for rank, (number, run) in enumerate(ranked, start=1):
        last = number == len(runs) - 1
        if rank <= 10 or last:
            words = "  ".join(f"{run.get(name) or '?':>{len(name)}}" for name in columns)
            print(f"{rank:>4}. {words}{'  <- this run' * last}")
    print()


def print_test(results):
    """The confusion matrix, and the figures that go with it."""
    print(f"\n{'':18}{'predicted ' + MODELS[0]:>22}{'predicted ' + MODELS[1]:>22}")
    for model, (divergence, gene_flow) in zip(MODELS, results["confusion_matrix"], strict=True):
        print(f"true {model:<13}{divergence:>22,}{gene_flow:>22,}")
    low, high = results["accuracy_95ci"]
    print(f"\nAccuracy {results['accuracy']:.4f} (95% interval {low:.4f} to {high:.4f})")
    print(f"Log-loss {results['log_loss']:.4f}, ROC AUC {results['roc_auc']:.4f}")
    print("\nWithout a network, the accuracy on the same test set would be")
    for name, accuracy in results["baselines"].items():
        low, high = wilson(round(accuracy * results["n_test"]), results["n_test"])
        print(f"  {accuracy:.4f} (95% interval {low:.4f} to {high:.4f}) with a {name}")


# ===================================== 14. The commands =====================================


def chosen(kind, typed, saved=None):
    """Settings of a kind: what is typed beats what was saved, which beats the default."""
    own = {setting.name for setting in fields(kind)} & typed.keys()
    return replace(saved or kind(), **{name: typed[name] for name in own})


def simulate(folder, typed):
    """`runml --simulate`: from settings to a dataset in the folder."""
    settings, run = chosen(SimulationSettings, typed), chosen(RunSettings, typed)
    print(f"Simulating {settings.n_reps:,} replicates of each model.")
    start = time.perf_counter()
    with staging(folder, "simulated", resume=True) as partial:
        save_dataset(settings, SIMULATE, partial, "simulated", run)
    seconds = time.perf_counter() - start
    print(f"{2 * settings.n_reps:,} joint SFS saved in {folder} after {seconds:.0f} s.")
    sfs = load_array(folder / "simulated_sfs.npy")
    sfs = sfs[: 2 * max(1, ENOUGH // (2 * sfs[0].size))]
    print_simulated(sfs, 2 * settings.n_reps)
    save_picture(folder / "demographic_models.png", draw_models, settings)
    save_picture(folder / "simulated_sfs.png", draw_sfs, sfs)


def learn_beside(model, sfs, responses, settings):
    """What a model needs to remember of its training part beside the network's weights."""
    rows, _ = split_rows(len(sfs), settings.seed)
    rows = rows[:: math.ceil(len(rows) * sfs[0].size / ENOUGH)]
    sfs, responses = sfs[rows], responses[rows]
    return {
        "baselines": fit_baselines(sfs, responses, settings.folded),
        "reference": fit_reference(sfs, settings.folded),
        "mean_input": mean_input(model, sfs).tolist(),
    }


def fingerprint(data):
    """Twelve digits that tell files, weights or settings from others."""
    return hashlib.sha256(data).hexdigest()[:12]


# In experiments.csv: what a row must hold to be ranked and drawn.
RUN_NUMBERS = ("validation_accuracy", "validation_loss")
RUN_NUMBERS += tuple(f"{name}_by_epoch" for name in RUN_NUMBERS)


def run_row(settings, model, history, seconds, data):
    """The row of `experiments.csv` that tells of one training."""
    return {name: str(value) for name, value in asdict(settings).items()} | {
        "weights": str(model.count_params()),
        "validation_accuracy": f"{history['val_accuracy'][-1]:.4f}",
        "validation_loss": f"{history['val_loss'][-1]:.5f}",
        "seconds": f"{seconds:.1f}",
        "data": data,
        "validation_loss_by_epoch": " ".join(f"{loss:.4g}" for loss in history["val_loss"]),
        "validation_accuracy_by_epoch": " ".join(f"{share:.4f}" for share in history["val_accuracy"]),
    }


def train(folder, typed):
    """`runml --train`: from the dataset to a model."""
    start = time.perf_counter()
    data, path = load_dataset(folder), folder / MODEL
    saved = data.settings and TrainingSettings(seed=data.settings.seed)
    settings = chosen(TrainingSettings, typed, saved)
    training, _ = split_rows(len(data.sfs), settings.seed)
    if len(np.unique(data.responses[training])) < 2:
        raise Problem(f"{folder}: one model is so rare that none of its spectra is left to train on.")
    with staging(folder, "trained") as partial:
        with contextlib.suppress(Problem):
            if load_notes(path).data != data.checksums:
                print(f"{path} was trained on other data, and is to be replaced.")
        log_path = partial / "training_history.csv"
        model, history = train_network(data.sfs, data.responses, settings, log_path)
        if not math.isfinite(history["val_loss"][-1]):
            raise Problem(
                f"--learning_rate {settings.learning_rate:g}: too large, the loss is no number any more."
            )
        learned = learn_beside(model, data.sfs, data.responses, settings)
        save_model(partial / path.name, model, Notes(settings, data.checksums, data.settings, learned))
        seconds = time.perf_counter() - start
        runs = read_rows(folder / "experiments.csv", RUN_NUMBERS)
        runs.append(run_row(settings, model, history, seconds, data.checksums["simulated_sfs.npy"][:12]))
        write_rows(partial / "experiments.csv", runs)
    print(f"Validation accuracy {history['val_accuracy'][-1]:.4f}, loss {history['val_loss'][-1]:.4f}.")
    print(f"Model saved in {path} after {seconds:.0f} s.")
    comparable = [run for run in runs if run.get("data") == runs[-1]["data"]]
    print_runs(comparable)
    save_picture(folder / "training_history.png", draw_history, history, comparable[:-1])


def log_test(folder, partial, model, settings, results):
    """Add a row to `test_log.csv`; return how many models have now met this test set."""
    rows = read_rows(folder / "test_log.csv", ("n_test", "accuracy"))
    # More replicates under the same settings and seed are the same test set, longer.
    test_set = {name: value for name, value in asdict(settings).items() if name != "n_reps"}
    row = {
        "model": fingerprint(b"".join(weights.tobytes() for weights in model.get_weights())),
        "test_set": fingerprint(json.dumps(test_set).encode()),
        "seed": settings.seed,
        "n_test": results["n_test"],
        "accuracy": results["accuracy"],
    }
    write_rows(partial / "test_log.csv", [*rows, row])
    return len({each.get("model") for each in [*rows, row] if each.get("test_set") == row["test_set"]})


def test(folder, typed):
    """`runml --test`: from the model and a fresh dataset to a verdict."""
    notes, model = load_notes(folder / MODEL), load_model(folder / MODEL)
    if notes.simulations is None:
        print("The settings behind the model are not known: testing under those typed and the defaults.")
    sample_size = individuals(model.input_shape[1:3])
    run = chosen(RunSettings, typed)
    saved = notes.simulations or SimulationSettings(sample_size=sample_size)
    settings = replace(chosen(SimulationSettings, typed, saved), n_reps=run.n_test_reps)
    if settings.sample_size != sample_size:
        wanted, got = shown(sample_size), shown(settings.sample_size)
        raise Problem(f"--sample_size {got}: the model takes spectra of {wanted} diploid individuals.")
    if reason := why_senseless(settings):
        raise Problem(reason)
    for name, value in asdict(settings).items():
        before = asdict(saved)[name]
        if name not in ("n_reps", "seed") and value != before:
            print(f"Testing under --{name} {shown(value)}; the model was trained under {shown(before)}.")
    print(f"Simulating {settings.n_reps:,} fresh replicates of each model.")
    with staging(folder, "test") as partial:
        save_dataset(settings, TEST, partial, "test", run)
        sfs, responses = np.load(partial / "test_sfs.npy"), np.load(partial / "test_responses.npy")
        parameters = np.load(partial / "test_parameters.npy")
        probabilities = model.predict(
            batches(sfs, responses, np.arange(len(sfs)), at_once(sfs)), verbose=0
        )
        results = evaluate(probabilities, responses) | {"seed": settings.seed}
        verdicts = baseline_verdicts(notes.learned["baselines"], sfs, notes.training.folded)
        results["baselines"] = {name: float((v == responses).mean()) for name, v in verdicts.items()}
        save_json(partial / "test_results.json", results)
        n_models = log_test(folder, partial, model, settings, results)
    print_test(results)
    if n_models > 1:
        print(f"\n{n_models} different models have now met this test set. Choosing by this number makes")
        print("it optimistic: validation is for choosing. A new --seed draws a new test set.")
    print()
    inputs = results, probabilities, parameters, model, sfs, notes
    save_picture(folder / "test_report.png", draw_test, *inputs)


def check_fit(observations, sample_size, folded):
    """Refuse observed spectra that are not of a model's sample size, or folded where it is not."""
    for file, observed in observations.items():
        own_size = individuals(observed.counts.shape)
        if own_size != sample_size:
            got, wanted = (f"{2 * size.a} + {2 * size.b}" for size in (own_size, sample_size))
            raise Problem(
                f"{file}: {got} chromosomes, the model takes {wanted}: project to that (easySFS: "
                f"--proj; moments: project), or simulate with --sample_size {shown(own_size)} and train."
            )
        if observed.folded and not folded:
            raise Problem(f"{file}: folded, but the model takes unfolded spectra: train with --folded.")


def predict(folder, typed):
    """`runml --predict FILE...`: from the model and observed spectra to verdicts."""
    observations = typed["predict"]
    notes, model = load_notes(folder / MODEL), load_model(folder / MODEL)
    folded = notes.training.folded
    check_fit(observations, individuals(model.input_shape[1:3]), folded)
    sfs = np.stack([observed.counts for observed in observations.values()])[..., np.newaxis]
    probabilities = model.predict_on_batch(sfs.astype(np.float32))
    verdicts = [MODELS[response] for response in probabilities.argmax(axis=1)]
    places = place(sfs, notes.learned["reference"], folded)
    with staging(folder, "predictions") as partial:
        rows = [
            {
                "file": file,
                "divergence": probabilities[row, 0],
                "gene_flow": probabilities[row, 1],
                "verdict": verdicts[row],
                "within_training_range": "no" if unusual(places, row) else "yes",
            }
            for row, file in enumerate(observations)
        ]
        write_rows(partial / "predictions.csv", rows)
    for row, (file, observed) in enumerate(observations.items()):
        print(f"\n{file}" + (f" ({observed.remark})" if observed.remark else ""))
        print_place(places, row)
        divergence, gene_flow = probabilities[row]
        print(f"Divergence {divergence:.4f}, gene flow {gene_flow:.4f}: {verdicts[row]}.")
    print("\nThese are posterior probabilities if both models, with the priors that were simulated, are")
    print(f"equally probable beforehand, and nothing else is. Saved in {folder / 'predictions.csv'}.")


# ==================================== 15. The command line ====================================

MODES = {"simulate": simulate, "train": train, "test": test, "predict": predict}
KINDS = (SimulationSettings, TrainingSettings, RunSettings)
OPTIONS = {setting.name: setting for kind in KINDS for setting in fields(kind)}
USES = {  # the options that each mode has a use for
    "simulate": {setting.name for setting in fields(SimulationSettings)} | {"workers", "dask_scheduler"},
    "train": {setting.name for setting in fields(TrainingSettings)},
}
USES["test"] = USES["simulate"] - {"n_reps"} | {"n_test_reps"}
USES["predict"] = set()


def is_number(word):
    """Whether a word, or a saved value, can be read as a number."""
    try:
        float(word)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def lies_within(number, interval):
    """Whether a number lies in an interval such as "(0, 1]", whose round end is left out."""
    low, high = map(float, interval[1:-1].split(","))
    return low <= number <= high and not (
        (interval[0] == "(" and number == low) or (interval[-1] == ")" and number == high)
    )


def checked(setting, words):
    """The value of a setting from its words, typed or saved.

    Parameters
    ----------
    setting : dataclasses.Field
    words : list of str or of numbers

    Raises
    ------
    ValueError
        If they are not what the setting takes; the text goes behind the setting's name.
    """
    if setting.type is str:
        if not words[0]:
            raise ValueError("must not be empty")
        return words[0]
    if setting.type is PerSpecies and len(words) == 1:
        words = words * 2  # one number serves both species
    if len(words) != (2 if issubclass(setting.type, tuple) else 1):
        raise ValueError(f"{words}: wrong number of values")
    for word in words:
        if not is_number(word):
            raise ValueError(f"{word}: not a number")
        if not lies_within(float(word), setting.metadata["within"]):
            raise ValueError(f"{word}: must lie in {setting.metadata['within']}")
        if setting.type in (int, PerSpecies) and not float(word).is_integer():
            raise ValueError(f"{word}: must be a whole number")
    numbers = [float(word) for word in words]
    if setting.type is Prior and numbers[0] > numbers[1]:
        raise ValueError(f"{words[0]} {words[1]}: the low end comes first")
    if setting.type is PerSpecies:
        numbers = map(int, numbers)
    return setting.type(*numbers)


def shown(value):
    """A setting's value as one would type it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, str):
        return value or "none"
    return " ".join(f"{number:.10g}" for number in (value if isinstance(value, tuple) else [value]))


class CommandLine(argparse.ArgumentParser):
    """An argument parser whose errors take one line."""

    def error(self, message):
        """Say what is wrong with what was typed, and end with status 2."""
        self.exit(2, f"runml: error: {' '.join(message.split())}\n")


def command_line():
    """The parser: a group of options for each mode, every default taken from the settings."""
    parser = CommandLine(
        prog="runml",
        description="Do two sister species have a history of gene flow? Simulate, train, then test.",
        epilog="What is typed beats what was saved with the data or the model, which beats the default.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    modes = parser.add_argument_group("what to do; together they run in this order")
    modes.add_argument("--simulate", action="store_true", help="simulate joint SFS under both models")
    modes.add_argument("--train", action="store_true", help="train the network on what was simulated")
    modes.add_argument("--test", action="store_true", help="test it, once, on a fresh set")
    modes.add_argument(
        "--predict", nargs="+", type=Path, metavar="FILE", help="apply it to observed joint SFS"
    )
    everywhere = parser.add_argument_group("every mode")
    everywhere.add_argument(
        "--data_dir", metavar="FOLDER", type=Path, help="where files are (default: data)"
    )
    groups = {
        "simulate": parser.add_argument_group("what is simulated (--simulate)"),
        "train": parser.add_argument_group("the network and how it learns (--train)"),
        "test": parser.add_argument_group("how much is tested (--test)"),
    }
    groups["simulate"].add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help="take what is not typed here from a saved settings file",
    )
    for name, setting in OPTIONS.items():
        owners = [mode for mode in MODES if name in USES[mode]]
        shared = name in ("seed", "workers", "dask_scheduler")
        group = everywhere if shared else groups[owners[0]]
        default = "all usable cores" if name == "workers" else shown(setting.default)
        form = {"nargs": 1, "metavar": {int: "N", str: "ADDRESS"}.get(setting.type, "X")}
        if setting.type is Prior:
            form = {"nargs": 2, "metavar": ("LOW", "HIGH")}
        elif setting.type is PerSpecies:
            form = {"nargs": "+", "metavar": ("A", "B")}
        elif setting.type is bool:
            form = {"action": "store_const", "const": ["1"]}
        group.add_argument(
            f"--{name}", help=f"{setting.metadata['meaning']} (default: {default})", **form
        )
    return parser


def parse(argv):
    """What was typed: modes, data folder, checked options and observed spectra.

    A usage error ends with status 2.
    """
    parser = command_line()
    # argparse takes "-1e-5" for the name of an option, unless a blank stands before it.
    words = [f" {word}" if word.startswith("-") and is_number(word) else word for word in argv]
    arguments = vars(parser.parse_args(words))
    modes = [mode for mode in MODES if mode in arguments]
    folder = arguments.get("data_dir", Path("data"))
    if not modes:
        parser.error("say what to do: --simulate, --train, --test or --predict (see runml --help)")
    typed = {}
    for name in OPTIONS.keys() & arguments.keys():
        try:
            typed[name] = checked(OPTIONS[name], [word.strip() for word in arguments[name]])
        except ValueError as error:
            parser.error(f"--{name} {error}")
    what_for = " ".join(f"--{mode}" for mode in modes)
    if path := arguments.get("settings"):
        if "simulate" not in modes:
            parser.error(f"--settings has no use in {what_for}")
        typed = asdict(saved_settings(SimulationSettings, load_json(path), path)) | typed
    if {"workers", "dask_scheduler"} <= typed.keys():
        parser.error("--workers has no use with --dask_scheduler")
    if "simulate" in modes and (reason := why_senseless(chosen(SimulationSettings, typed))):
        parser.error(reason)
    if {"simulate", "train"} <= set(modes) and chosen(SimulationSettings, typed).n_reps < 5:
        parser.error(f"--n_reps {typed['n_reps']}: learning takes at least 5 replicates of each model")
    finish_moves(folder)
    useless = typed.keys() - set().union(*(USES[mode] for mode in modes))
    # What does not fit is refused here, not after an hour of simulation.
    look = useless or not {"test", "predict"}.isdisjoint(modes)
    what, saved = saved_beside(folder, modes) if look else ("", {})
    if "train" not in modes:
        useless |= {"sample_size"} & typed.keys() & saved.keys()  # which a model cannot change
    for name in sorted(useless):
        if name not in saved:
            parser.error(f"--{name} has no use in {what_for}")
        if saved[name] != typed[name]:
            parser.error(f"--{name} {shown(typed[name])}: {what} with {shown(saved[name])}")
    typed["predict"] = {file: read_observed(file) for file in arguments.get("predict", [])}
    if "sample_size" in (expected := saved | typed):
        check_fit(typed["predict"], expected["sample_size"], expected.get("folded", False))
    return modes, folder, typed


def why_senseless(settings):
    """What is wrong with settings that are each possible, but not together; None if nothing is."""
    if not settings.migration_prior.high:
        return "--migration_prior 0 0: without migrants the two models are one"
    sites = settings.n_loci * settings.sequence_length
    # To an order of magnitude, the length of a genealogy: two species since the split, their ancestor.
    length = 2 * (settings.tdiv_prior.high + 4 * settings.ne_prior.high)
    snps = settings.mutation_rate * sites * length
    if snps < 1:
        return f"--mutation_rate, --sequence_length, --n_loci: {snps:.0e} SNPs are nothing to look at"
    if snps > 1e8:
        return f"--mutation_rate, --sequence_length, --n_loci: together {snps:.0e} SNPs are too many"
    if snps / sites > MOST_MUTATIONS_A_SITE:
        return (
            f"--mutation_rate: {snps / sites:.1f} mutations a site, under these priors; more than "
            f"{MOST_MUTATIONS_A_SITE} hide each other"
        )
    return None


def saved_beside(folder, modes):
    """How what the modes start from, a model or data, was made, and with which settings."""
    if "train" not in modes and not {"test", "predict"}.isdisjoint(modes):
        notes = load_notes(folder / MODEL)
        simulations = asdict(notes.simulations) if notes.simulations else {}
        return "the model was trained", simulations | asdict(notes.training)
    if "train" in modes and "simulate" not in modes:
        settings = load_dataset(folder).settings
        return "the data were simulated", asdict(settings) if settings else {}
    return "", {}


def main(argv=None):
    """Run the command line; return the exit status."""
    try:
        modes, folder, typed = parse(sys.argv[1:] if argv is None else argv)
        if "simulate" in modes:
            folder.mkdir(parents=True, exist_ok=True)
        for mode in modes:
            MODES[mode](folder, typed)
    except BrokenPipeError:  # nobody reads on; nor shall Python try to write at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Problem, OSError, MemoryError) as error:
        print(f"runml: error: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    # A log shows each line as it is printed, whatever the letters in a file's name.
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    status = main()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # all is done; Python may leave in peace
    sys.exit(status)
