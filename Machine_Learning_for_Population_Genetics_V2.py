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

The file reads in the order in which the data flow. The lesson: 1 settings, 2 demography, 3 one
simulated SFS, 4 a dataset, 5 what the network looks at, 6 the network, 7 its training, 8 its
evaluation, 9 the three commands. Behind it: 10 sites that mutate twice, 11 what stands beside the
network, such as whether a model could have made a spectrum, 12 observed spectra, 13 files, 14
processes, 15 options and the plan, 16 the screen, 17 pictures, 18 main. What is typed goes from
`main` through `parse` and `make_plan` to the command of its name.
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports leaves no traceback

import argparse
import contextlib
import csv
import difflib
import functools
import hashlib
import io
import itertools
import json
import logging
import math
import mmap
import multiprocessing
import os
import platform
import re
import select
import shlex
import shutil
import stat
import sys
import tempfile
import textwrap
import threading
import time
import warnings
import zipfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

# ==================================== 1. Settings ====================================
#
# The default of every option, the interval it must lie in, and what it means.


class Prior(NamedTuple):
    """A prior between two ends, uniform or log-uniform; low = high fixes the value."""

    low: float
    high: float
    scale: str = "uniform"

    def draw(self, rng):
        """Draw one value."""
        if self.low == self.high:
            return self.low
        if self.scale == "log":
            return math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return rng.uniform(self.low, self.high)

    @property
    def middle(self):
        """The median."""
        low, high = self.low, self.high
        return math.sqrt(low * high) if self.scale == "log" else (low + high) / 2


class PerSpecies(NamedTuple):
    """A number for each of the two sister species."""

    a: int
    b: int


def option(default, meaning, interval=None):
    """A setting: its default, what it means, and the interval in which its numbers must lie."""
    return field(default=default, metadata={"meaning": meaning, "interval": interval})


@dataclass(frozen=True)
class SimulationSettings:
    """What is simulated. Times are in generations, sizes in diploid individuals."""

    sample_size: PerSpecies = option(
        PerSpecies(10, 10), "diploid individuals per species: one number, or two for A and B", "[1, 250]"
    )
    sequence_length: int = option(100_000, "base pairs of one locus", "[1, 1e9]")
    n_loci: int = option(1, "independent loci, whose spectra are added up", "[1, 1e6]")
    mutation_rate: float = option(1e-7, "per base pair per generation", "(0, 0.01]")
    recombination_rate: float = option(1e-8, "per base pair per generation", "[0, 0.5]")
    tdiv_prior: Prior = option(Prior(50_000.0, 500_000.0), "divergence time, generations", "(0, 1e9]")
    ne_prior: Prior = option(
        Prior(10_000.0, 100_000.0),
        "size of the ancestor, of A and of B, diploid individuals",
        "[1, 1e9]",
    )
    migration_prior: Prior = option(
        Prior(1e-6, 1e-4),
        "share of a species that are migrants from the other, per generation",
        "[0, 1]",
    )
    gene_flow_start: Prior = option(
        Prior(0.5, 0.5), "when gene flow began, in shares of the time since divergence", "[0, 1]"
    )
    gene_flow_stop: Prior = option(Prior(0.0, 0.0), "when it ended, likewise; 0 is today", "[0, 1]")
    asymmetric: bool = option(False, "draw migration from A to B and from B to A independently")
    seed: int = option(1234, "one number fixes every result", "[0, 4294967295]")

    @property
    def n_sites(self):
        """The base pairs of all loci together."""
        return self.n_loci * self.sequence_length


@dataclass(frozen=True)
class TrainingSettings:
    """The network and how it learns: what the class experiments with."""

    layers: int = option(2, "hidden layers, each half as wide as the one before", "[1, 6]")
    dropout: float = option(0.2, "share of the last hidden layer's units silenced at random", "[0, 1)")
    epochs: int = option(10, "passes through the training spectra", "[1, 100000]")
    learning_rate: float = option(1e-5, "size of Adam's steps", "(0, 10]")
    batch_size: int = option(64, "spectra per step", "[1, 100000]")
    folded: bool = option(False, "fold the spectra, for when ancestral alleles are not known")
    seed: int = option(1234, "one number fixes every result", "[0, 4294967295]")


@dataclass(frozen=True)
class WorkSettings:
    """How much is simulated, and where. None of it changes what a replicate is."""

    n_reps: int = option(5_000, "training replicates per model", "[1, 1e7]")
    n_test_reps: int = option(1_000, "test replicates per model", "[1, 1e7]")
    workers: int = option(None, "processes that simulate", "[1, 4096]")
    dask_scheduler: str = option(None, "address of a Dask scheduler to simulate on instead")


# =============================== 2. Two demographic models ===============================

MODELS = ("divergence", "gene flow")  # the responses 0 and 1
PARAMETERS = np.dtype(
    [
        ("divergence_time", float),
        ("size_ancestor", float),
        ("size_a", float),
        ("size_b", float),
        ("migration_a_to_b", float),
        ("migration_b_to_a", float),
        ("gene_flow_start", float),
        ("gene_flow_stop", float),
    ]
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
        A record of `PARAMETERS`. Times are generations before today, the start of gene flow being
        the older one; sizes are diploid individuals; "migration_a_to_b" is, forwards in time, the
        share of B that are migrants from A, per generation.
    """
    divergence_time = settings.tdiv_prior.draw(rng)
    sizes = [settings.ne_prior.draw(rng) for _ in ("ancestor", "A", "B")]
    a_to_b = settings.migration_prior.draw(rng) * response
    b_to_a = settings.migration_prior.draw(rng) * response if settings.asymmetric else a_to_b
    shares = settings.gene_flow_start.draw(rng), settings.gene_flow_stop.draw(rng)
    start, stop = divergence_time * max(shares), divergence_time * min(shares)
    return np.array((divergence_time, *sizes, a_to_b, b_to_a, start, stop), PARAMETERS)[()]


def demographic_model(parameters):
    """An ancestor that splits into A and B, which may exchange migrants for some of the time since.

    Gene flow that goes on until today is secondary contact or, where it began with the divergence,
    isolation with migration.

    From one record of `PARAMETERS`; returns a `msprime.Demography`.
    """
    import msprime

    start, stop = parameters["gene_flow_start"], parameters["gene_flow_stop"]
    demography = msprime.Demography()
    demography.add_population(name="A", initial_size=parameters["size_a"])
    demography.add_population(name="B", initial_size=parameters["size_b"])
    demography.add_population(name="ancestor", initial_size=parameters["size_ancestor"])
    # Time runs backwards from today. A lineage of B that is traced back to A came from there.
    for source, dest, rate in (("B", "A", "migration_a_to_b"), ("A", "B", "migration_b_to_a")):
        demography.add_migration_rate_change(time=stop, source=source, dest=dest, rate=parameters[rate])
    demography.add_migration_rate_change(time=start, rate=0)
    demography.add_population_split(
        time=parameters["divergence_time"], derived=["A", "B"], ancestral="ancestor"
    )
    return demography


# =========================== 3. One joint site frequency spectrum ===========================


def simulate_sfs(settings, parameters, rng):
    """Simulate the genealogies of both samples, and the SNPs on them as a joint SFS.

    msprime gives the genealogies along the sequence. On each branch, mutations are Poisson, with a
    mean of mutation rate x length of the branch x span of sequence (Hudson 1990). So the mutations
    in a cell of the SFS are Poisson too, with the mutation rate x the area of all branches that have
    as many descendants in A and in B (Ralph, Thornton and Kelleher 2020). To draw that number takes
    a twentieth of the time of placing mutations one by one. Then some meet at the same site.

    Returns
    -------
    numpy.ndarray of int32, shape (2 * n_A + 1, 2 * n_B + 1)
        Entry [i, j] counts the SNPs whose derived allele is on i chromosomes of A and j of B.
    """
    import msprime

    loci = msprime.sim_ancestry(
        samples={"A": settings.sample_size.a, "B": settings.sample_size.b},
        demography=demographic_model(parameters),
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
    mutations = rng.poisson(settings.mutation_rate * branch_area)
    return let_mutations_meet(mutations, settings.n_sites, rng).astype(np.int32)


# ======================================= 4. A dataset =======================================

# Each use of the seed has a stream of random numbers of its own. A dataset's rows append their number,
# (0, row) or (1, row), which is neither (2, 0) nor (2, 1): so no two streams meet, whatever the seed.
TRAINING_SET, TEST_SET, SPLIT, WEIGHTS = (0,), (1,), (2, 0), (2, 1)


def seed_sequence(seed, stream, *replicate):
    """Where a stream of random numbers, or one replicate's part of it, springs from."""
    return np.random.SeedSequence(seed, spawn_key=(*stream, *replicate))


ROWS_PER_TASK = 25  # about a third of a second: more would unbalance, fewer cost a cluster time


def draw_row(settings, stream, row):
    """The parameters of one row of a dataset: always the same for the same settings, stream and row.

    The models alternate: even rows are divergence, odd rows gene flow.

    Returns
    -------
    parameters : numpy.void
        One record of `PARAMETERS`.
    rng : numpy.random.Generator
        The randomness left for genealogies and mutations.
    """
    rng = np.random.default_rng(seed_sequence(settings.seed, stream, row))
    return draw_parameters(settings, row % 2, rng), rng


def simulate_rows(settings, stream, rows):
    """The spectra of some rows of a dataset, shape (rows, 2 * n_A + 1, 2 * n_B + 1, 1)."""
    spectra = [simulate_sfs(settings, *draw_row(settings, stream, row)) for row in rows]
    return np.stack(spectra)[..., np.newaxis]  # one channel, like a picture in grey


def simulate_dataset(settings, stream, n_rows, processes, first_row=0):
    """Simulate a dataset and yield its spectra in order, a task's rows at a time.

    `stream` is `TRAINING_SET` or `TEST_SET`; `processes` are where the work is done, and the result is
    the same on any.

    Yields
    ------
    numpy.ndarray of int32, shape (rows, 2 * n_A + 1, 2 * n_B + 1, 1)
    """
    tasks = deque()
    for first in range(first_row, n_rows, ROWS_PER_TASK):
        rows = range(first, min(first + ROWS_PER_TASK, n_rows))
        tasks.append(processes.submit(simulate_rows, settings, stream, rows))
        if len(tasks) > processes.tasks_ahead:  # so memory does not grow with the dataset
            yield processes.result(tasks.popleft())
    while tasks:
        yield processes.result(tasks.popleft())


# ============================= 5. What the network looks at =============================


def snp_mask(shape):
    """1 for each cell of a joint SFS, but 0 for the two of alleles that none or all carry."""
    mask = np.ones(shape, np.float32)
    mask[0, 0] = mask[-1, -1] = 0
    return mask


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
    share = np.heaviside(total.max() - 2 * total, 0.5).astype(np.float32)  # 0.5 where equally frequent
    return sfs * share + sfs[:, ::-1, ::-1] * share


def allele_bins(n_chromosomes):
    """Where bins of allele counts begin: 0 and 1 alone, then each twice as wide, from either end.

    Rare and nearly fixed alleles are kept apart, since they tell; common ones are lumped, and the
    middle takes what is left. For 20 chromosomes: 0, 1, 2-3, 4-7, 8-12, 13-16, 17-18, 19, 20.
    """
    starts = [0, 1]
    while 2 * starts[-1] <= n_chromosomes / 2:
        starts.append(2 * starts[-1])
    return starts + [n_chromosomes + 1 - start for start in reversed(starts[1:])]


def bin_matrix(n_chromosomes):
    """1 where an allele count lies in a bin, or else 0, shape (n_chromosomes + 1, bins)."""
    each_count = np.eye(n_chromosomes + 1, dtype=np.float32)
    return np.add.reduceat(each_count, allele_bins(n_chromosomes), axis=1)


def preprocess(sfs, folded, ops=np):
    """What the network looks at: the square roots of the counts in bins.

    The root brings cells of very different size to one scale.

    Parameters
    ----------
    sfs : numpy.ndarray or keras.KerasTensor, shape (N, n_A + 1, n_B + 1, 1)
        Raw counts by chromosomes. Observed spectra may have invariant sites in the two corners.
    folded : bool
    ops : module
        `numpy`, or `keras.ops` for a part of a network.

    Returns
    -------
    numpy.ndarray or keras.KerasTensor, shape (N, bins of A, bins of B, 1)
    """
    sfs = sfs * snp_mask(sfs.shape[1:])
    if folded:
        sfs = fold(sfs)
    of_a, of_b = (bin_matrix(n - 1) for n in sfs.shape[1:3])
    in_bins = ops.matmul(ops.matmul(of_a.T, sfs[..., 0]), of_b)
    return ops.sqrt(in_bins)[..., np.newaxis]


def preprocess_all(sfs, folded):
    """What the network looks at of each of many spectra, memory-mapped or not."""
    return np.concatenate([preprocess(piece, folded).astype(np.float32) for piece in pieces(sfs)])


# ====================================== 6. The network ======================================

FILTERS = 16  # of the convolution
UNITS = 128  # in the first hidden layer

# Adam moves a weight by about the learning rate a step, however steep the loss is. At the lesson's
# 1e-5 a usual network hardly leaves its starting point in ten epochs. Hence each layer's input is
# multiplied by a gain and its initial weights are divided by it (as in Karras et al. 2018): the
# network starts as the same function, but a step of Adam changes it fifteen times as much, so that
# 1e-5 does here what 1.5e-4 does in a usual network.
GAIN = 15
FIRST_GAIN = "first_gain"  # what comes before it has nothing to learn


def build_network(shape, settings):
    """The convolutional network, from raw counts to the probabilities of the two models.

    An SFS is no photograph: where a cell stands is what it means. Hence, beyond the bins, no pooling
    of neighbours, which would blur it.

    Parameters
    ----------
    shape : tuple of int
        (2 * n_A + 1, 2 * n_B + 1), the shape of a joint SFS.
    settings : TrainingSettings

    Returns
    -------
    keras.Model
        Takes counts, shape (N, 2 * n_A + 1, 2 * n_B + 1, 1), folded ones too if it folds, and
        returns estimates of the posterior probabilities of divergence and gene flow, equally likely
        beforehand, shape (N, 2).
    """
    keras = start_keras()
    from keras import layers

    def he_weights():  # He et al. 2015, divided by the gain
        return keras.initializers.VarianceScaling(2 / GAIN**2, mode="fan_in")

    counts = keras.Input(shape=(*shape, 1), name="joint_sfs")
    x = preprocess(counts, settings.folded, keras.ops)
    x = layers.Rescaling(GAIN, name=FIRST_GAIN)(x)
    x = layers.Conv2D(FILTERS, 3, padding="same", activation="relu", kernel_initializer=he_weights())(x)
    x = layers.Flatten()(x)
    for layer in range(settings.layers):
        x = layers.Rescaling(GAIN)(x)
        x = layers.Dense(UNITS // 2**layer, activation="relu", kernel_initializer=he_weights())(x)
    x = layers.Dropout(settings.dropout)(x)  # once: after each layer it cost accuracy
    x = layers.Rescaling(GAIN)(x)
    # Weights of zero: before it learns, the network gives both models one half.
    probabilities = layers.Dense(2, activation="softmax", kernel_initializer="zeros")(x)
    return keras.Model(counts, probabilities)


# ======================================= 7. Training =======================================

VALIDATION_SHARE = 0.2
STEPS_AT_ONCE = 100  # that TensorFlow takes before Python looks at it again


def split_rows(n_rows, seed):
    """Part a dataset's rows at random: some to train on, some to validate with."""
    rows = np.random.default_rng(seed_sequence(seed, SPLIT)).permutation(n_rows)
    n_validation = max(1, round(n_rows * VALIDATION_SHARE))
    return np.sort(rows[n_validation:]), np.sort(rows[:n_validation])


def exchangeable(sfs):
    """Whether nothing tells A from B: then each spectrum with its axes swapped is as good.

    One prior serves both species; it remains that their samples are equal too.
    """
    return sfs.shape[1] == sfs.shape[2]


def batches(seen, responses, batch_size, shuffle_seed=None):
    """What the network looks at and the responses, batch by batch, a `tensorflow.data.Dataset`.

    With a `shuffle_seed`, each epoch comes in another order, which follows from it.
    """
    import tensorflow as tf

    # While tf.data tunes itself, it may sleep through half a second at the end of an epoch.
    untuned = tf.data.Options()
    untuned.autotune.enabled = False
    seen, responses = tf.constant(seen), tf.constant(responses)
    rows = tf.data.Dataset.range(len(responses))
    if shuffle_seed is not None:
        rows = rows.shuffle(len(responses), seed=shuffle_seed)

    def look_up(batch):
        return tf.gather(seen, batch), tf.gather(responses, batch)

    return rows.batch(batch_size).map(look_up).with_options(untuned)


def train_network(sfs, responses, settings, log_path=None):
    """Build a network, print what it is made of, and train it.

    Parameters
    ----------
    sfs : numpy.ndarray of int, shape (N, 2 * n_A + 1, 2 * n_B + 1, 1)
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
    random_seed = int(seed_sequence(settings.seed, WEIGHTS).generate_state(1)[0])
    keras.utils.set_random_seed(random_seed)

    # Up to the square roots of counts in bins there is nothing to learn. That is done once, beforehand.
    seen, responses = preprocess_all(sfs, settings.folded), np.int32(responses)
    training, validation = split_rows(len(sfs), settings.seed)
    examples, answers = seen[training], responses[training]
    copies = ""
    if exchangeable(sfs):
        copies = ", each also with A and B swapped"
        examples = np.concatenate([examples, examples.swapaxes(1, 2)])
        answers = np.concatenate([answers, answers])
    print_network(model := build_network(sfs.shape[1:3], settings))
    say(f"Training on {len(training):,} spectra{copies}; validating on {len(validation):,}.")

    steps = batches(examples, answers, settings.batch_size, random_seed)
    learner = keras.Model(model.get_layer(FIRST_GAIN).input, model.output)
    learner.compile(
        # What is validated and kept is a running mean of the weights over about the last epoch: it
        # has less noise than the weights after the last step.
        keras.optimizers.Adam(settings.learning_rate, use_ema=True, ema_momentum=1 - 1 / len(steps)),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=min(STEPS_AT_ONCE, len(steps)),
    )
    callbacks = [keras.callbacks.SwapEMAWeights(), epoch_lines()]
    if log_path:
        callbacks.append(keras.callbacks.CSVLogger(log_path))
    history = learner.fit(
        steps,
        epochs=settings.epochs,
        validation_data=batches(seen[validation], responses[validation], batch_size=1000),
        shuffle=False,  # the batches are shuffled already
        callbacks=callbacks,
        verbose=0,
    )
    return model, history.history


# ====================================== 8. Evaluation ======================================


def predict_probabilities(model, sfs):
    """The probabilities of divergence and gene flow that a network gives, shape (N, 2)."""
    return np.concatenate([model.predict_on_batch(piece) for piece in pieces(sfs)])


def wilson(n_right, n):
    """The 95% interval of an accuracy of `n_right` out of `n` (Wilson 1927)."""
    from scipy.stats import binomtest

    low, high = binomtest(int(n_right), int(n)).proportion_ci(0.95, method="wilson")
    return [float(low), float(high)]


def evaluate(probabilities, responses):
    """How well a classifier does on spectra that it has never met.

    From what it gives, shape (N, 2), and the true responses, shape (N,).

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


def test_network(network, folder):
    """Evaluate a network on the test set in a folder, beside classifiers that are no networks.

    Returns
    -------
    results : dict
        What `evaluate` and `gene_flow_recognised` return, and the accuracies of the `baselines`.
    probabilities : numpy.ndarray of float, shape (N, 2)
    parameters : numpy.ndarray of PARAMETERS, shape (N,)
    """
    sfs, responses, parameters = open_dataset(folder, "test")
    probabilities = predict_probabilities(network.model, sfs)
    results = evaluate(probabilities, responses)
    results |= gene_flow_recognised(parameters, probabilities)
    results["baselines"] = accuracy_without_network(network.notes, sfs, responses)
    return results, probabilities, np.array(parameters)


# ================================== 9. The three commands ==================================
#
# A plan says what to do. `make_plan` made it, of what was typed, or else saved, or else the default;
# what does not fit has been refused.


def simulate(plan):
    """`runml --simulate`: from settings to a dataset in the folder."""
    start = time.perf_counter()
    simulated = Simulated(plan.simulation, plan.work.n_reps, versions())
    print(f"Simulating {simulated.n_reps:,} replicates of each model.")
    say(size_in_words(simulated.settings))
    # By its fingerprint an interrupted simulation is found again.
    with new_files(plan.folder, "simulated", simulated.fingerprint) as staging:
        save_dataset(simulated, TRAINING_SET, staging, "simulated", plan.work)
        sfs = first_spectra(staging, "simulated")
    seconds = time.perf_counter() - start
    print(f"{2 * simulated.n_reps:,} joint SFS saved in {plan.folder} after {seconds:.0f} s.")

    print_simulated(sfs, 2 * simulated.n_reps)
    save_picture(plan.folder / "demographic_models.png", draw_models, simulated.settings)
    save_picture(plan.folder / "simulated_sfs.png", draw_sfs, sfs)


def train(plan):
    """`runml --train`: from the dataset to a network."""
    start = time.perf_counter()
    settings, path = plan.training, plan.folder / MODEL
    data = plan.data or load_dataset(plan.folder)
    if trained_on_other_data(path, data):
        print(f"{path} was trained on other data, and is to be replaced.")
    runs = Table(plan.folder / "experiments.csv", RUN_NUMBERS)
    with new_files(plan.folder, "trained") as staging:
        model, history = train_network(
            data.sfs, data.responses, settings, staging / "training_history.csv"
        )
        if not math.isfinite(history["val_loss"][-1]):
            raise Problem(
                f"--learning_rate {settings.learning_rate:g}: too large, the loss is no number any more."
            )
        learned = learn_without_network(data, settings)
        notes = Notes(settings, data.checksums, data.simulated, learned, learning_versions())
        save_model(staging / MODEL, model, notes)
        seconds = time.perf_counter() - start
        runs.append(row_of_run(settings, model, history, seconds, data))
        runs.save(staging)
    print(f"Validation accuracy {history['val_accuracy'][-1]:.4f}, loss {history['val_loss'][-1]:.4f}.")
    say(what_the_curves_say(history["loss"], history["val_loss"]))
    print(f"Model saved in {path} after {seconds:.0f} s.")

    comparable = [run for run in runs.rows if run.get("data") == runs.rows[-1]["data"]]
    print_runs(comparable)
    save_picture(plan.folder / "training_history.png", draw_history, history, comparable)


def test(plan):
    """`runml --test`: from the network and a test set of its own to a verdict."""
    network = plan.network or load_network(plan.folder / MODEL)
    simulated = Simulated(plan.testing, plan.work.n_test_reps, versions())
    test_set = fingerprint(as_saved(plan.testing))  # more replicates are the same test set, longer
    tests = Table(plan.folder / "test_log.csv", ("n_test", "accuracy"))
    before = {row.get("model") for row in tests.rows if row.get("test_set") == test_set}
    kind = "known" if before else "fresh"
    print(f"Simulating {simulated.n_reps:,} {kind} replicates of each model.")
    with new_files(plan.folder, "test") as staging:
        save_dataset(simulated, TEST_SET, staging, "test", plan.work)
        results, probabilities, parameters = test_network(network, staging)
        results |= {"seed": plan.testing.seed, "model": network.fingerprint, "test_set": test_set}
        save_json(staging / "test_results.json", results)
        tests.append({name: results[name] for name in TEST_COLUMNS})
        tests.save(staging)
        sfs = first_spectra(staging, "test")
    print_test(results)
    print_reuse(before | {network.fingerprint})
    report = plan.folder / "test_report.png"
    save_picture(report, draw_test, results, probabilities, parameters, network, sfs)


# The lesson ends here. What follows serves it; the first lines of this file say what is where.

# ============================== 10. Sites that mutate twice ==============================

MOST_MUTATIONS_A_SITE = 0.5  # with more of them, how they meet would have to be simulated exactly


def let_mutations_meet(mutations, n_sites, rng):
    """Let some mutations fall on sites that have mutated before.

    With k mutations a site, n_sites * (k - 1 + exp(-k)) of them meet an earlier one. Which two meet is
    drawn from the spectrum itself. If the carriers of both together are no more than the sample, they
    are taken to be apart, on different branches; one time in three (Jukes and Cantor 1969) both make
    the same nucleotide, and the two alleles become one. Otherwise, if the rarer one has no more
    carriers than the other in either species, it arose among these: they lose the older allele for it,
    or, one time in three, mutate back. The rest stay as they are, but that one time in three the rarer
    one is lost.

    The number that meets would be exact if all sites had the same genealogy; how genealogies differ
    along the sequence, and which branches lie within which, is not looked at. Beside
    `msprime.sim_mutations`, at 0.18 mutations a site (the lesson's mean), this makes 1% more SNPs and
    up to 2% more that are polymorphic in both species; at 0.5 it makes 4% and 6% more, at 1 it makes
    9% and 12% more.

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
    n_meetings = rng.poisson(n_sites * (per_site + np.expm1(-per_site)))
    n_meetings = min(n_meetings, mutations.sum() // 2)
    meeting = rng.multivariate_hypergeometric(mutations.ravel(), 2 * n_meetings)
    pairs = rng.permutation(np.repeat(np.arange(mutations.size), meeting)).reshape(2, n_meetings)
    carriers = np.array(np.unravel_index(pairs, mutations.shape))  # (species, of a pair, meetings)
    larger_first = np.argsort(-carriers.sum(axis=0), axis=0)
    (large_a, small_a), (large_b, small_b) = np.take_along_axis(carriers, larger_first[np.newaxis], 1)

    n_a, n_b = (n - 1 for n in mutations.shape)
    apart = (large_a + small_a <= n_a) & (large_b + small_b <= n_b)
    within = (small_a <= large_a) & (small_b <= large_b) & ~apart
    same_nucleotide = rng.random(n_meetings) < 1 / 3
    # Apart, the two alleles become one or stay two; within, the older one loses the younger's carriers.
    gained = (apart & same_nucleotide).astype(int) - within
    large_a, large_b = large_a + gained * small_a, large_b + gained * small_b
    stays = ~same_nucleotide
    alleles = [np.append(large_a, small_a[stays]), np.append(large_b, small_b[stays])]
    cells = np.ravel_multi_index(alleles, mutations.shape)
    sfs = mutations.ravel() - meeting + np.bincount(cells, minlength=mutations.size)
    return sfs.reshape(mutations.shape) * snp_mask(mutations.shape).astype(int)


# ================================= 11. Beside the network =================================
#
# Which gene flow is recognised; what population geneticists read off a joint SFS, and how far that
# alone would get them; and whether a spectrum is one that the simulations could have made.


def gene_flow_recognised(parameters, probabilities, n_bins=5):
    """How much gene flow is recognised, from few migrants to many.

    Parameters
    ----------
    parameters : numpy.ndarray of PARAMETERS, shape (N,)
        The models alternate.
    probabilities : numpy.ndarray of float, shape (N, 2)
    n_bins : int
        Of equally many replicates.

    Returns
    -------
    dict
        `recognised_by_migration_rate`, for each bin the `lowest` and `highest` rate (the mean of both
        ways), how many are `recognised`, and of how many, `n`. `half_missed_below`, the rate at which a
        logistic regression on its logarithm gives one half; None if that is none of them.
    """
    from sklearn.linear_model import LogisticRegression

    rates, recognised = mean_migration(parameters[1::2]), probabilities[1::2].argmax(axis=1)
    bins = np.array_split(np.argsort(rates), min(n_bins, len(rates)))
    half = None
    if 0 < recognised.sum() < len(rates) and np.ptp(rates):
        fit = LogisticRegression(C=1e6).fit(np.log(rates)[:, np.newaxis], recognised)
        slope, intercept = fit.coef_[0, 0], fit.intercept_[0]
        rate = math.exp(-intercept / slope) if slope > 0 else math.nan
        low, high = np.quantile(rates, [0.05, 0.95])  # at the very ends it would be a guess
        half = rate if low < rate < high else None
    return {
        "recognised_by_migration_rate": [
            {
                "lowest": float(rates[rows].min()),
                "highest": float(rates[rows].max()),
                "recognised": int(recognised[rows].sum()),
                "n": len(rows),
            }
            for rows in bins
        ],
        "half_missed_below": half,
    }


def mean_migration(parameters):
    """The migration rate, the mean of both ways."""
    return (parameters["migration_a_to_b"] + parameters["migration_b_to_a"]) / 2


SCALE = "--mutation_rate, --sequence_length, --n_loci and missing genotypes"
DIVERSITY = f"--ne_prior, {SCALE}"
HISTORY = "--tdiv_prior, --ne_prior, --migration_prior and when gene flow took place"
ANCESTRY = "which alleles are ancestral (if that is not known, --train --folded)"
MORE_COMMON = "derived allele more common"


class Summary(NamedTuple):
    """A number that one would look at without a network."""

    name: str
    kind: str  # "count", "per site", or "share" of the SNPs
    weight: Callable  # what a SNP adds that is on a of n_a chromosomes of A, and b of n_b of B
    depends_on: str  # where to look if it is unlike that of all simulations


def varies(count, n):
    """Whether alleles that `count` of n chromosomes carry are polymorphic in them."""
    return (count > 0) & (count < n)


def pairs_that_differ(count, n):
    """The share of pairs of n chromosomes in which one carries an allele that `count` carry."""
    return 2 * count * (n - count) / (n * (n - 1))


SUMMARIES = (
    Summary("SNPs", "count", lambda a, b, n_a, n_b: 1, f"--ne_prior, --tdiv_prior, {SCALE}"),
    Summary("pi in A", "per site", lambda a, b, n_a, n_b: pairs_that_differ(a, n_a), DIVERSITY),
    Summary("pi in B", "per site", lambda a, b, n_a, n_b: pairs_that_differ(b, n_b), DIVERSITY),
    Summary(
        "d_XY",
        "per site",
        lambda a, b, n_a, n_b: (a * (n_b - b) + b * (n_a - a)) / (n_a * n_b),
        f"--tdiv_prior, --ne_prior, --migration_prior, {SCALE}",
    ),
    *(
        Summary(name, "share", weight, HISTORY)
        for name, weight in {
            "polymorphic in both": lambda a, b, n_a, n_b: varies(a, n_a) & varies(b, n_b),
            "polymorphic in A only": lambda a, b, n_a, n_b: varies(a, n_a) & ~varies(b, n_b),
            "polymorphic in B only": lambda a, b, n_a, n_b: varies(b, n_b) & ~varies(a, n_a),
            "fixed differences": lambda a, b, n_a, n_b: ~varies(a, n_a) & ~varies(b, n_b),
        }.items()
    ),
    Summary(MORE_COMMON, "share", lambda a, b, n_a, n_b: 2 * (a + b) > n_a + n_b, ANCESTRY),
)
DEPENDS_ON = {summary.name: summary.depends_on for summary in SUMMARIES} | {"F_ST": HISTORY}


def summaries(sfs, folded=False):
    """Each of `SUMMARIES` of joint SFS, shape (N, n_A + 1, n_B + 1, 1), and F_ST.

    Returns
    -------
    dict of str to numpy.ndarray of float, shape (N,)
        Pi and d_XY, the mean numbers of differences between two chromosomes of one species and of
        each, are sums over the sequence. "F_ST" is Hudson's, 1 - mean(pi) / d_XY (Hudson, Slatkin
        and Maddison 1992, as in Bhatia et al. 2013). Of folded spectra, what only makes sense where
        derived alleles are known is left out.
    """
    n_a, n_b = sfs.shape[1] - 1, sfs.shape[2] - 1
    a, b = np.ogrid[: n_a + 1, : n_b + 1]
    snps = snp_mask((n_a + 1, n_b + 1)).astype(float)
    meaningful = [summary for summary in SUMMARIES if not (folded and summary.name == MORE_COMMON)]
    weights = [(summary.weight(a, b, n_a, n_b) * snps).ravel() for summary in meaningful]
    sums = [piece.reshape(len(piece), -1) @ np.stack(weights, axis=1) for piece in pieces(sfs)]
    values = {}
    for summary, column in zip(meaningful, np.concatenate(sums).T, strict=True):
        share = summary.kind == "share"
        values[summary.name] = column / np.maximum(values["SNPs"], 1) if share else column
    pi, d_xy = (values["pi in A"] + values["pi in B"]) / 2, values["d_XY"]
    return values | {"F_ST": 1 - np.divide(pi, d_xy, out=np.ones(len(sfs)), where=d_xy > 0)}


class Digest(NamedTuple):
    """Spectra as all that is not the network learns from them."""

    seen: np.ndarray  # what the network looks at, shape (N, bins of A, bins of B, 1)
    values: dict  # the summaries
    responses: np.ndarray  # shape (N,)
    exchangeable: bool  # whether swapped copies are as good

    def rows(self, rows):
        """The same of some rows."""
        values = {name: column[rows] for name, column in self.values.items()}
        return Digest(self.seen[rows], values, self.responses[rows], self.exchangeable)


def digest(sfs, responses, folded):
    """The `Digest` of spectra, shape (N, n_A + 1, n_B + 1, 1), read in pieces."""
    seen, values = preprocess_all(sfs, folded), summaries(sfs, folded)
    return Digest(seen, values, np.asarray(responses), exchangeable(sfs))


def learn_without_network(data, settings):
    """What a model remembers of its training part beside the network's weights.

    Returns
    -------
    dict
        "baselines", from `fit_baselines`; "reference", from `fit_reference`; "mean_input", the mean of
        what the network looks at, shape (bins of A, bins of B, 1).
    """
    from threadpoolctl import threadpool_limits

    whole = digest(data.sfs, data.responses, settings.folded)
    most = CELLS_FOR_STATISTICS // whole.seen[0].size
    training, validation = (
        whole.rows(balanced(rows, whole.responses, most))
        for rows in split_rows(len(data.sfs), settings.seed)
    )
    with threadpool_limits(1):  # for matrices as small as these, more threads take longer
        return {
            "baselines": fit_baselines(training, validation),
            "reference": fit_reference(training, validation),
            "mean_input": training.seen.mean(axis=0, dtype=float).tolist(),
        }


def balanced(rows, responses, most):
    """No more rows than `most`, evenly taken of each model, so that a rare one keeps its part."""
    of_model = [rows[responses[rows] == response] for response in range(2)]
    thinned = [part[:: max(1, math.ceil(len(part) * 2 / max(2, most)))] for part in of_model]
    return np.sort(np.concatenate(thinned))


THRESHOLDS = ("F_ST", "polymorphic in both")  # summaries on which one could set one
LOGISTIC = "logistic regression"
PENALTIES = (0.001, 0.01, 0.1)  # their inverse, as scikit-learn has it


def fit_baselines(training, validation):
    """Three classifiers that are no networks: two thresholds and a logistic regression.

    From two `Digest`s. The regression gets what the network gets: square roots of counts in bins,
    swapped copies where the species are exchangeable, and a penalty chosen by the validation part.

    Returns
    -------
    dict
        For each summary in `THRESHOLDS`, the "threshold" that parts the models best (the split of a
        decision tree of depth one) and the response "above" it; for `LOGISTIC`, "intercept" and
        "coefficients" of the log-odds of gene flow.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.tree import DecisionTreeClassifier

    seen, values, responses, swapped_copies = training
    baselines = {}
    for name in THRESHOLDS:
        tree = DecisionTreeClassifier(max_depth=1).fit(values[name][:, np.newaxis], responses).tree_
        above = int(tree.value[tree.children_right[0]].argmax()) if tree.node_count > 1 else 0
        baselines[name] = {"threshold": float(tree.threshold[0]), "above": above}

    if swapped_copies:
        seen, responses = np.concatenate([seen, seen.swapaxes(1, 2)]), np.tile(responses, 2)

    def validation_loss(fit):
        return log_loss(validation.responses, fit.predict_proba(flat(validation.seen)), labels=[0, 1])

    regressions = [LogisticRegression(C=penalty, solver="newton-cg") for penalty in PENALTIES]
    best = min([each.fit(flat(seen), responses) for each in regressions], key=validation_loss)
    coefficients = {"intercept": float(best.intercept_[0]), "coefficients": best.coef_[0].tolist()}
    return baselines | {LOGISTIC: coefficients}


def flat(seen):
    """What the network looks at, a row for each spectrum, shape (N, bins)."""
    return seen.reshape(len(seen), -1)


def accuracy_without_network(notes, sfs, responses):
    """The accuracy that each of the `fit_baselines` in a model's notes reaches, by its name."""
    baselines, folded = notes.learned["baselines"], notes.training.folded
    values, verdicts = summaries(sfs, folded), {}
    for name in THRESHOLDS:
        threshold, above = baselines[name]["threshold"], baselines[name]["above"]
        verdicts[f"threshold on {name}"] = np.where(values[name] > threshold, above, 1 - above)
    coefficients, intercept = baselines[LOGISTIC]["coefficients"], baselines[LOGISTIC]["intercept"]
    verdicts[LOGISTIC] = flat(preprocess_all(sfs, folded)) @ np.array(coefficients) + intercept > 0
    return {name: float(np.mean(each == responses)) for name, each in verdicts.items()}


MEASURES = ("SNPs", "pi in A", "pi in B", "d_XY", "polymorphic in both", MORE_COMMON)
AXES = 8  # principal components: with fewer, ghosts and crashes are seen less often
CLOUDS = 8  # normal distributions that make up a model's: a single one would fill what is bent
WITHIN = 99.2  # percent of a model's spectra that lie within its limit
MARGIN = 0.01  # of a summary's range: how far beyond it a value counts as outside


def fit_reference(training, validation):
    """What spectra look like that each of `MODELS` makes, in plain numbers that a model can carry.

    From two `Digest`s. For each model there is a dictionary of what `fit_cloud` returns, and of
    "percentiles", from 0 to 100, of each of the `summaries`.
    """
    reference = []
    for response in range(2):
        own_parts = []
        for part in (training, validation):
            own = part.responses == response
            own_parts.append(part.rows(own if own.any() else slice(None)))
        reference.append(fit_cloud(*own_parts) | {"percentiles": {}})
        for name in training.values:
            together = np.concatenate([part.values[name] for part in own_parts])
            reference[-1]["percentiles"][name] = np.percentile(together, range(101)).tolist()
    return reference


def fit_cloud(training, validation):
    """What spectra that one model makes look like, and how far off hardly any lie, from two `Digest`s.

    Returns
    -------
    dict
        "origin" and "axes" of the principal components; "mean" and "deviation" of the traits; weights,
        means and covariances of the "mixture"; the "limit" of the distances.
    """
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    def plain(array):  # numbers for JSON
        return np.round(np.asarray(array, float), 6).tolist()

    seen, n = flat(training.seen), len(training.seen)
    components = PCA(min(AXES, 1 + n // 20, seen.shape[1] // 3), random_state=0).fit(seen)
    cloud = {"origin": plain(components.mean_), "axes": plain(components.components_)}
    own_traits = traits(training.seen, training.values, cloud)
    cloud["mean"] = plain(own_traits.mean(axis=0))
    cloud["deviation"] = plain(np.maximum(own_traits.std(axis=0), 0.001))
    mixture = GaussianMixture(min(CLOUDS, 1 + n // 200), reg_covar=0.001, random_state=0)
    mixture.fit(standardised(own_traits, cloud))
    cloud["mixture"] = [plain(x) for x in (mixture.weights_, mixture.means_, mixture.covariances_)]
    off = distances(validation.seen, validation.values, cloud)
    return cloud | {"limit": max(1.0, float(np.percentile(off, WITHIN, method="weibull")))}


def traits(seen, values, cloud):
    """What spectra look like beside those of one model, shape (N, axes + 1 + measures).

    From what the network has `seen`, the `values` of summaries, and the axes of `fit_cloud`: their
    scores on the model's principal components, the logarithm of their distance from these, and the
    logarithms of `MEASURES`. Logarithms, as they make what is missing stand out: folded spectra have no
    derived alleles above one half.
    """
    axes = np.array(cloud["axes"])
    off = flat(seen) - np.array(cloud["origin"])
    scores = off @ axes.T
    beside = np.log(((off - scores @ axes) ** 2).sum(axis=1) + 0.01)
    logs = [np.log(values[name] + 1e-6) for name in MEASURES if name in values]
    return np.column_stack([scores, beside, *logs])


def standardised(own_traits, cloud):
    """Traits in standard deviations from a model's mean."""
    return (own_traits - cloud["mean"]) / np.array(cloud["deviation"])


def distances(seen, values, cloud):
    """How far spectra lie from those of one model, shape (N,), by what `fit_cloud` returned.

    From how much rarer their traits are than the commonest. Were the traits of a model's spectra
    normal, it would be their Mahalanobis distance.
    """
    from scipy.special import logsumexp
    from scipy.stats import multivariate_normal

    def log_density(points):
        of_each = [
            np.log(weight) + np.atleast_1d(multivariate_normal(mean, covariance).logpdf(points))
            for weight, mean, covariance in zip(*cloud["mixture"], strict=True)
        ]
        return logsumexp(of_each, axis=0)

    peak = log_density(np.array(cloud["mixture"][1])).max()
    points = standardised(traits(seen, values, cloud), cloud)
    return np.sqrt(2 * np.maximum(peak - log_density(points), 0))


class Comparison(NamedTuple):
    """Where spectra lie among the simulations of both models; arrays are of shape (N,)."""

    values: dict  # the `summaries`, by name
    percentiles: list  # for each model, by name; -inf or inf below or above all of its simulations
    fits: np.ndarray  # (N, 2), distances from each model in units of the limit
    outside: dict  # by name, -1 or 1 where a value is clearly below or above both models' ranges

    @property
    def out_of_range(self):
        """Whether a summary is outside the range of all simulations, shape (N,)."""
        return np.any([*self.outside.values()], axis=0)

    def unlike(self, models):
        """Whether spectra are unlike nearly all simulations of a model, given for each, shape (N,)."""
        return np.take_along_axis(self.fits, np.expand_dims(models, -1), -1)[..., 0] > 1

    def of_row(self, row):
        """The same of one spectrum, with numbers in place of arrays."""

        def at(arrays):
            return {name: array[row] for name, array in arrays.items()}

        of_models = [at(percentiles) for percentiles in self.percentiles]
        return Comparison(at(self.values), of_models, self.fits[row], at(self.outside))


def compare_with_simulations(sfs, notes):
    """Whether either model could have made spectra, shape (N, n_A + 1, n_B + 1, 1): a `Comparison`.

    `notes` are those of the model that was trained on the simulations.
    """
    reference, folded = notes.learned["reference"], notes.training.folded
    seen, values = preprocess_all(sfs, folded), summaries(sfs, folded)
    scales = [{name: np.array(cloud["percentiles"][name]) for name in values} for cloud in reference]
    outside = {}
    for name, value in values.items():
        low, high = (end([scale[name] for scale in scales]) for end in (np.min, np.max))
        margin = MARGIN * (high - low)
        outside[name] = (value > high + margin).astype(int) - (value < low - margin)
    return Comparison(
        values,
        [{name: percentile(values[name], scale[name]) for name in values} for scale in scales],
        np.transpose([distances(seen, values, cloud) / cloud["limit"] for cloud in reference]),
        outside,
    )


def percentile(values, scale):
    """Where values lie on a scale of percentiles; between two, or on several alike, in their middle."""
    left, right = (np.searchsorted(scale, values, side) for side in ("left", "right"))
    return np.select([values < scale[0], values > scale[-1]], [-np.inf, np.inf], (left + right - 1) / 2)


# ================================= 12. Observed spectra =================================

MOST_SNPS = 1e12  # in a cell: no genome has so many
MOST_PICTURES = 10


class Observed(NamedTuple):
    """A joint SFS from nature."""

    counts: np.ndarray  # (n_A + 1, n_B + 1) by chromosomes; after a projection, fractions of SNPs
    folded: bool
    remark: str = ""  # what there is to say about it


def individuals(shape):
    """The sample size behind a joint SFS of shape (2 * n_A + 1, 2 * n_B + 1)."""
    return PerSpecies(*(n // 2 for n in shape))


def of_diploids(shape):
    """Whether the numbers of chromosomes behind a joint SFS of some shape are even, and not zero."""
    return all(n >= 3 and n % 2 for n in shape)


def read_observed(path):
    """Read an observed joint SFS: `.npy`, fastsimcoal2's `.obs`, or else dadi's and moments' text.

    A `Problem` if it is none of two populations, each of an even number of chromosomes.
    """
    read = {".npy": read_numpy, ".obs": read_fastsimcoal}.get(path.suffix.lower(), read_dadi)
    with refusing_broken(path, "joint SFS"):
        refuse_no_spectrum(regular(path))
        observed = read(path)
        counts = observed.counts
        if counts.ndim != 2:
            raise ValueError(
                f"{counts.ndim} populations in place of two: choose A and B, or sum over the others "
                "(moments: marginalize)"
            )
        if not of_diploids(counts.shape):
            n_a, n_b = (n - 1 for n in counts.shape)
            raise ValueError(
                f"{n_a} + {n_b} chromosomes: project to even numbers, two an individual (moments: "
                "project)"
            )
        counts[0, 0] = counts[-1, -1] = 0  # no SNPs, whatever they hold
        if not np.isfinite(counts).all() or counts.min() < 0:
            raise ValueError("some counts are negative or infinite")
        if not counts.any():
            raise ValueError("there are no SNPs in it")
        if counts.max() > MOST_SNPS:
            raise ValueError("no genome has so many SNPs")
    return observed


def refuse_no_spectrum(path):
    """Tell what a spectrum is made from, where that is given in its place."""
    with path.open("rb") as file:
        start = file.read(4096)
    first_line = start.lstrip().split(b"\n")[0]
    two_words = rb"[^\s#\x80-\xff]*[A-Za-z][^\s#\x80-\xff]*[ \t]+[^\s#]+\s*"
    kinds = {
        "a VCF file": start.startswith(b"##fileformat=VCF"),
        "a compressed file": start.startswith(b"\x1f\x8b"),
        "a BCF file": start.startswith(b"BCF"),
        "a list of individuals and populations": re.fullmatch(two_words, first_line),
    }
    for kind, is_this in kinds.items():
        if is_this:
            raise ValueError(f"it is {kind}, of which the README's 'From a VCF to a spectrum' makes one")


def read_numpy(path):
    """An array of shape (n_A + 1, n_B + 1), perhaps with a channel behind; taken for unfolded."""
    counts = np.lib.format.open_memmap(path, mode="r")
    if counts.ndim == 3 and counts.shape[2] == 1:
        counts = counts[..., 0]
    if counts.dtype.kind not in "iuf" or counts.ndim != 2:
        raise ValueError(
            f"shape {counts.shape}, type {counts.dtype}: not one spectrum, (n_A + 1, n_B + 1) numbers"
        )
    return Observed(np.array(counts, float), folded=False)


def read_dadi(path):
    """Text as dadi and moments write it: comments, sizes, data and, perhaps, a mask."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    lines = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    header, *rest = lines or [""]
    words = shlex.split(header)
    shape = [int(word) for word in itertools.takewhile(str.isdigit, words)]
    folded = [word.lower() for word in words[len(shape) : len(shape) + 1]] == ["folded"]
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
    """fastsimcoal2's joint spectrum of two populations; A is the one of the lower number."""
    if ("jointDAF" in path.name) == ("jointMAF" in path.name):
        raise ValueError("the name must have jointDAF or jointMAF in it, for derived or minor alleles")
    lines = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if len(lines) < 3 or lines[0][0] != "1":
        raise ValueError("not a first line of 1 observations, then one spectrum")
    _, columns, *rows = lines
    populations = []
    for labels in (columns, [row[0] for row in rows]):
        name = labels[0].partition("_")[0]
        numbered = [f"{name}_{count}" for count in range(len(labels))]
        if labels != numbered or not name[1:].isdigit():
            raise ValueError(
                "columns and rows are not labelled d0_0, d0_1, ... and d1_0, d1_1, and so on"
            )
        populations.append(int(name[1:]))
    if any(len(row) != len(columns) + 1 for row in rows):
        raise ValueError("some rows are longer than others")
    counts = np.array([row[1:] for row in rows], float)
    in_columns, in_rows = populations
    return Observed(counts.T if in_columns < in_rows else counts, folded="jointMAF" in path.name)


class Prediction(NamedTuple):
    """What there is to say about one observed spectrum."""

    path: Path
    observed: Observed
    probabilities: np.ndarray  # (2,)
    comparison: Comparison  # of this spectrum alone

    @property
    def favoured(self):
        """The response that the network favours."""
        return int(self.probabilities.argmax())

    @property
    def verdict(self):
        """One of the `VERDICTS`: the favoured model, if it makes such spectra."""
        if self.comparison.out_of_range:
            return "out of range"
        return "neither" if self.comparison.unlike(self.favoured) else MODELS[self.favoured]


def predict(plan):
    """`runml --predict FILE...`: from the network and observed spectra to verdicts."""
    network = plan.network or load_network(plan.folder / MODEL)
    predictions = predictions_of(plan.observed, network)
    simulations = load_simulations(plan.folder, network)
    table = Table(plan.folder / "predictions.csv")
    pictures = {}
    with new_files(plan.folder, "predictions") as staging:
        for prediction in predictions:
            table.append(row_of_prediction(prediction, network))
            print_prediction(prediction, network.notes)
            if simulations:
                near = neighbours(simulations, network, prediction)
                print_neighbours(near)
                if len(pictures) < MOST_PICTURES:
                    pictures[unused_name(prediction.path, pictures)] = prediction, near
        table.save(staging)
        (staging / "methods.txt").write_text(methods(network, plan.folder), encoding="utf-8")
    say(
        "\nThese estimate posterior probabilities if both models, with the priors that were simulated, "
        "are equally probable beforehand, and nothing else is."
    )
    print(f"Saved in {plan.folder / 'predictions.csv'}; methods.txt says it as a paper would.")
    for name, inputs in pictures.items():
        save_picture(plan.folder / name, draw_prediction, *inputs, network.notes.training.folded)
    if simulations and len(predictions) > len(pictures):
        print(f"(Of {len(predictions):,} spectra, the first {len(pictures)} are drawn.)")


def predictions_of(observed, network):
    """The `Prediction` of each observed spectrum, a dictionary of `Observed` by path."""
    sfs = np.stack([each.counts for each in observed.values()])[..., np.newaxis]
    probabilities = predict_probabilities(network.model, sfs)
    comparison = compare_with_simulations(sfs, network.notes)
    return [
        Prediction(path, each, probabilities[row], comparison.of_row(row))
        for row, (path, each) in enumerate(observed.items())
    ]


def unused_name(path, used):
    """What to call the picture of a spectrum; others may be of the same name in other folders."""
    numbers = itertools.chain([""], (f"_{n}" for n in itertools.count(2)))
    names = (f"prediction_{path.stem}{number}.png" for number in numbers)
    return next(name for name in names if name not in used)


def print_prediction(prediction, notes):
    """What a spectrum looks like among the simulations of each model, and the verdict."""
    _, observed, probabilities, comparison = prediction
    simulated = notes.simulated and notes.simulated.settings
    base_pairs = simulated.n_sites if simulated else 1
    forms = {"count": ("", ",.0f"), "share": (", share", ",.3f"), "ratio": ("", ",.3f")}
    forms["per site"] = (", per bp", ".3g") if simulated else (", in all", ",.3f")
    kinds = {summary.name: summary.kind for summary in SUMMARIES} | {"F_ST": "ratio"}
    print(f"\n{prediction.path}" + (f" ({observed.remark})" if observed.remark else ""))
    print(f"{'':<36}{'':>12}  percentile under")
    print(f"{'summary':<36}{'observed':>12}{MODELS[0]:>14}{MODELS[1]:>12}")
    for name, value in comparison.values.items():
        unit, form = forms[kinds[name]]
        label, value = name + unit, value / (base_pairs if kinds[name] == "per site" else 1)
        ranks = [percentiles[name] for percentiles in comparison.percentiles]
        ranks = [f"{rank:.0f}" if np.isfinite(rank) else "outside" for rank in ranks]
        print(f"{label:<36}{value:>12{form}}{ranks[0]:>14}{ranks[1]:>12}")
    fits = [f"{fit:.2f}" for fit in comparison.fits]
    print(f"{'distance from the simulations':<36}{'':>12}{fits[0]:>14}{fits[1]:>12}")
    for name, side in comparison.outside.items():
        if side:
            more = "more" if side > 0 else "less"
            say(f"Warning: {name}: {more} than in any simulation. It depends on {DEPENDS_ON[name]}.")
    if comparison.unlike(prediction.favoured):
        all_of_them = comparison.fits.min() > 1
        favoured = f"{MODELS[prediction.favoured]}, which the network favours"
        say(
            f"Warning: taken as a whole, this is unlike {WITHIN}% of the simulations of "
            f"{'either model' if all_of_them else favoured} (a distance above 1). A history that is in "
            "neither? Priors that do not cover the truth? Are ancestral alleles known? Do "
            f"{SCALE} fit?"
        )
    print(VERDICTS[prediction.verdict])
    divergence, gene_flow = map(never_sure, probabilities)
    print(f"Estimated probabilities: divergence {divergence}, gene flow {gene_flow}.")


VERDICTS = {
    "divergence": "Verdict: no gene flow of the kind that was simulated.",
    "gene flow": "Verdict: gene flow of the kind that was simulated.",
    "neither": "Verdict: neither; the model that the network favours makes no such spectra.",
    "out of range": "Verdict: none, as the spectrum lies outside what was simulated.",
}


def never_sure(probability):
    """An estimated probability as it can be printed."""
    if 0.001 <= probability <= 0.999:
        return f"{probability:.3f}"
    return "more than 0.999" if probability > 0.5 else "less than 0.001"


def row_of_prediction(prediction, network):
    """The row of `predictions.csv` of one spectrum."""
    comparison, simulated = prediction.comparison, network.notes.simulated
    return {
        "file": prediction.path,
        "divergence": prediction.probabilities[0],
        "gene_flow": prediction.probabilities[1],
        "verdict": prediction.verdict,
        "within_training_range": "yes" if prediction.verdict in MODELS else "no",
        "fit_divergence": f"{comparison.fits[0]:.3f}",
        "fit_gene_flow": f"{comparison.fits[1]:.3f}",
        "model": network.fingerprint,
        "simulations": simulated and simulated.fingerprint,
    } | {
        f"{name}, percentile under {model}": percentiles[name]
        for name in comparison.values
        for model, percentiles in zip(MODELS, comparison.percentiles, strict=True)
    }


class Simulations(NamedTuple):
    """The N simulations that a network learned from, on the axes where they vary most."""

    sfs: np.ndarray  # (N, a, b, 1), memory-mapped
    parameters: np.ndarray  # of PARAMETERS
    axes: object  # sklearn.decomposition.PCA of what the network looks at
    scores: np.ndarray  # (N, axes)
    validation: np.ndarray  # of bool: whether the network has not learned from it


def load_simulations(folder, network):
    """The `Simulations` in a folder, if they are those that a network learned from; or else None."""
    from sklearn.decomposition import PCA

    notes = network.notes
    try:
        data = load_dataset(folder)
        parameters = np.load(regular(dataset_paths(folder, "simulated")[2]))
        known = data.simulated and data.checksums == notes.data and parameters.dtype == PARAMETERS
    except Exception:  # a broken file can make NumPy raise anything
        known = False
    if not known or len(parameters) != len(data.sfs):
        print(f"The simulations behind the model are not in {folder}: it is not said which are near.")
        return None
    sfs = first_spectra(folder, "simulated")
    seen = flat(preprocess_all(sfs, notes.training.folded))
    axes = PCA(min(AXES, *seen.shape), random_state=0).fit(seen)
    _, validation = split_rows(len(data.sfs), notes.training.seed)
    unseen = np.isin(np.arange(len(sfs)), validation)
    return Simulations(sfs, parameters[: len(sfs)], axes, axes.transform(seen), unseen)


class Neighbours(NamedTuple):
    """The simulations most like an observed spectrum."""

    n: int  # how many of each model
    mean_sfs: np.ndarray  # (a, b), of those of the favoured model
    parameters: list  # those of each model, arrays of PARAMETERS
    n_right: int  # of the nearest validation simulations, how many the network gets right,
    n_validation: int  # and of how many
    scatter: list  # for each model, simulations on the first two axes, (simulations, 2)
    at: np.ndarray  # (2,), where the spectrum is there


MOST_NEIGHBOURS, MOST_SCATTERED = 50, 1000  # simulations of each model


def neighbours(simulations, network, prediction):
    """The `Neighbours` of an observed spectrum, under both models."""
    folded = network.notes.training.folded
    sfs = prediction.observed.counts[np.newaxis, ..., np.newaxis]
    at = simulations.axes.transform(flat(preprocess(sfs, folded)))[0]
    by_distance = np.argsort(((simulations.scores - at) ** 2).sum(axis=1))
    nearest = [by_distance[by_distance % 2 == response][:MOST_NEIGHBOURS] for response in range(2)]
    unseen = np.sort(by_distance[simulations.validation[by_distance]][: 2 * MOST_NEIGHBOURS])
    verdicts = predict_probabilities(network.model, simulations.sfs[unseen]).argmax(axis=1)
    alike = simulations.sfs[nearest[prediction.favoured]].astype(float)
    return Neighbours(
        n=len(nearest[prediction.favoured]),
        mean_sfs=(fold(alike) if folded else alike).mean(axis=0)[..., 0],
        parameters=[simulations.parameters[rows] for rows in nearest],
        n_right=int((verdicts == unseen % 2).sum()),
        n_validation=len(unseen),
        scatter=[simulations.scores[response::2][:MOST_SCATTERED, :2] for response in range(2)],
        at=at[:2],
    )


def print_neighbours(near):
    """From which parameters the simulations come that are most like a spectrum."""
    print(f"The {near.n} simulations of each model that are most like it: median (range)")
    print(f"{'':<22}{MODELS[0]:>29}{MODELS[1]:>29}")
    for name in PARAMETERS.names:
        form = ".1e" if name.startswith("migration") else ",.0f"
        ranges = [median_and_range(parameters[name], form) for parameters in near.parameters]
        if name.startswith(("migration", "gene_flow")):
            ranges[0] = "none"
        print(f"{name.replace('_', ' '):<21} {ranges[0]:>29} {ranges[1]:>28}")
    print(
        f"Of the {near.n_validation} validation simulations most like it, the network is right about "
        f"{near.n_right}."
    )


def methods(network, folder):
    """What was simulated, from which priors, with what, in sentences for a methods section."""
    notes, training = network.notes, network.notes.training
    paragraphs = []

    def counted(n, what):
        return f"{n:,} {what}{'s' * (n != 1)}"

    def drawn(prior, unit=""):
        if prior.low == prior.high:
            return f"fixed at {prior.low:,.10g}{unit}"
        kind = "log-uniform" if prior.scale == "log" else "uniform"
        return f"{kind} between {prior.low:,.10g} and {prior.high:,.10g}{unit}"

    if notes.simulated:
        settings, n_reps, used = notes.simulated
        n_a, n_b = settings.sample_size
        loci = "one locus" if settings.n_loci == 1 else f"{settings.n_loci:,} independent loci"
        direction = "independently in each direction" if settings.asymmetric else "the same both ways"
        paragraphs += [
            f"""We simulated {n_reps:,} joint site frequency spectra under each of two models with
            msprime {used.get("msprime", "")} (Baumdicker et al. 2022): divergence without gene flow, and
            divergence with gene flow. Each spectrum is of {n_a} diploid individuals of species A and
            {n_b} of species B, at {loci} of {settings.sequence_length:,} base pairs, with a mutation
            rate of {settings.mutation_rate:g} and a recombination rate of
            {settings.recombination_rate:g} per base pair per generation; sites could mutate more than
            once.""",
            f"""The divergence time was {drawn(settings.tdiv_prior, " generations")}; the sizes of the
            ancestor and of both species were {drawn(settings.ne_prior, " diploid individuals")}; the
            migration rate per generation was {drawn(settings.migration_prior)}, {direction}. Gene flow
            began at a share of the time since divergence that was {drawn(settings.gene_flow_start)}, and
            ended at one that was {drawn(settings.gene_flow_stop)}; shares count back from today, and of
            the two the older is the start.""",
        ]
    paragraphs += [
        f"""A convolutional neural network of {counted(training.layers, "hidden layer")} (Keras
        {notes.versions.get("keras")}, TensorFlow {notes.versions.get("tensorflow")}) was trained on
        {1 - VALIDATION_SHARE:.0%} of the spectra, {"folded" if training.folded else "unfolded"}, for
        {counted(training.epochs, "epoch")}, with a dropout of {training.dropout:g}, Adam at a learning
        rate of {training.learning_rate:g}, batches of {training.batch_size} and seed {training.seed}."""
    ]
    with contextlib.suppress(Problem, KeyError, TypeError, ValueError, AttributeError):
        results = load_json(folder / "test_results.json")
        own = replace(notes.simulated.settings, seed=results["seed"])
        if (results["model"], results["test_set"]) == (network.fingerprint, fingerprint(as_saved(own))):
            paragraphs[-1] += f""" On {results["n_test"]:,} spectra simulated for the test alone, its
            accuracy was {with_interval(results["accuracy"], results["accuracy_95ci"])}."""
    paragraphs += [
        f"""An observed spectrum was taken for one that the model makes which the network favoured if it
        was no further from that model's simulations than {WITHIN}% of those held out, by a mixture of
        normal distributions over principal components of the roots of binned counts and over summary
        statistics (scikit-learn {notes.versions.get("sklearn")}), and if no summary statistic lay
        outside the range of all simulations. Probabilities are estimates of posterior probabilities,
        with both models equally probable beforehand."""
    ]
    paragraphs = [
        textwrap.fill(" ".join(each.split()), 80, break_on_hyphens=False) for each in paragraphs
    ]
    return "\n\n".join(paragraphs) + "\n"


# ========================================= 13. Files =========================================

MODEL = "trained_model.keras"
DATASET = ("sfs.npy", "responses.npy", "parameters.npy", "settings.json")  # behind the name of each
SETS = {  # the files that appear together
    "simulated": [f"simulated_{part}" for part in DATASET],
    "trained": [MODEL, "training_history.csv", "experiments.csv"],
    "test": [*(f"test_{part}" for part in DATASET), "test_results.json", "test_log.csv"],
    "predictions": ["predictions.csv", "methods.txt"],
}
SECONDS_FOR_A_LOCK = 1


def dataset_paths(folder, name):
    """Where the spectra, responses, parameters and settings of a dataset are."""
    return [folder / f"{name}_{part}" for part in DATASET]


@contextlib.contextmanager
def only_command_in(folder):
    """Keep other commands out of a folder, and finish the moves that a stopped one began."""
    from filelock import FileLock, Timeout

    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=SECONDS_FOR_A_LOCK):
            finish_moves(folder)
            yield
    except Timeout:
        raise Problem(
            f"another command is at work in {folder} (or its file system knows no locks): wait for it, "
            "or use another --data_dir."
        ) from None
    except Problem:
        if is_new:  # and has come to nothing
            with contextlib.suppress(OSError):
                (folder / ".lock").unlink(missing_ok=True)
                folder.rmdir()
        raise


@contextlib.contextmanager
def new_files(folder, name, unfinished=None):
    """A hidden folder whose files appear in `folder` when the block ends: all together, or not at all.

    The step that counts is to rename the complete set. Should anything stop the moves after it, the
    next command finishes them. `name` is that of one of the `SETS`; `unfinished` is a fingerprint of
    what is made, under which an incomplete set is kept for another try.
    """
    for file in SETS[name]:
        if (folder / file).is_dir():
            raise Problem(f"{folder / file} is a folder: move it out of the way.")
    partial = folder / f".{name}{f'-{unfinished}' if unfinished else ''}.partial"
    if not unfinished or partial.is_symlink() or not partial.is_dir():
        remove(partial)
    partial.mkdir(exist_ok=bool(unfinished))
    for path in partial.iterdir():  # a link or a pipe could lead anywhere
        if not stat.S_ISREG(path.lstat().st_mode):
            remove(path)
    try:
        yield partial
        for other in set(folder.glob(f".{name}*.partial")) - {partial}:
            print("Discarding the unfinished simulations of other settings.")
            remove(other)
        for path in partial.iterdir():
            if path.name not in SETS[name]:
                remove(path)
                continue
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        remove(folder / f".{name}.complete")
        partial.rename(folder / f".{name}.complete")
    except BaseException:
        if not unfinished:
            remove(partial)
        raise
    finish_moves(folder)


def finish_moves(folder):
    """Move the files of complete sets to where they belong, and nothing else that may be there."""
    for name, files in SETS.items():
        complete = folder / f".{name}.complete"
        if complete.is_dir() and not complete.is_symlink():
            for path in complete.iterdir():
                if path.name in files and stat.S_ISREG(path.lstat().st_mode):
                    path.replace(folder / path.name)
            remove(complete)


def remove(path):
    """Remove a file, or a folder with all in it; a link itself, not where it leads."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def regular(path, advice=""):
    """A path, if a regular file is there: a pipe would hang, a device might never end."""
    if not path.exists():
        raise Problem(f"{path} is missing in {Path.cwd() / path.parent}{advice}.")
    if not path.is_file():
        raise Problem(f"{path} is no regular file.")
    return path


def fingerprint(data):
    """Twelve digits that tell bytes, or what can be written as JSON, from others."""
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    return hashlib.sha256(data).hexdigest()[:12]


def checksums(*paths):
    """The SHA-256 of each file, by its name."""
    sums = {}
    for path in paths:
        with path.open("rb") as file:
            sums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def save_json(path, content):
    """Write a dictionary for people and programs to read."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_json(path):
    """Read a dictionary."""
    with refusing_broken(path, "file of settings"):
        content = json.loads(regular(path).read_text(encoding="utf-8-sig"))
        if not isinstance(content, dict):
            raise ValueError("it holds no names with values")
    return content


@contextlib.contextmanager
def refusing_broken(path, what, remedy=""):
    """Whatever goes wrong in the block is told as a `Problem` of a file: it may hold anything."""
    try:
        yield
    except Problem:
        raise
    except Exception as error:
        raise Problem(f"{path} is no {what} ({one_line(error)}){remedy}.") from None


def as_saved(settings):
    """Settings as a file holds them: numbers, flags and lists as one would type them."""
    return {name: value_as_saved(value) for name, value in asdict(settings).items()}


def saved_settings(kind, saved, path, only=()):
    """Settings of a kind, all or `only` some, from what was saved, checked as if they were typed."""
    values = {}
    for setting in [each for each in fields(kind) if not only or each.name in only]:
        try:
            words = saved[setting.name]
            values[setting.name] = checked(setting, words if isinstance(words, list) else [words])
        except KeyError:
            raise Problem(f"{path}: {setting.name} is missing.") from None
        except (ValueError, TypeError) as error:
            raise Problem(f"{path}: {setting.name} {error}.") from None
    return kind(**values)


class Simulated(NamedTuple):
    """How a dataset is simulated, and with which versions of which packages."""

    settings: SimulationSettings
    n_reps: int
    versions: dict

    @property
    def options(self):
        """As if all had been typed."""
        return vars(self.settings) | {"n_reps": self.n_reps}

    @property
    def fingerprint(self):
        """Twelve digits that tell it from others."""
        return fingerprint(self.as_saved())

    def as_saved(self):
        """As a file holds it."""
        return as_saved(self.settings) | {"n_reps": self.n_reps, "versions": self.versions}


def saved_simulation(saved, path):
    """How a dataset was simulated, from what was saved."""
    work = saved_settings(WorkSettings, saved, path, only=("n_reps",))
    settings = saved_settings(SimulationSettings, saved, path)
    with refusing_broken(path, "file of settings"):
        return Simulated(settings, work.n_reps, dict(saved.get("versions") or {}))


def save_dataset(simulated, stream, folder, name, work):
    """Simulate a dataset and write its four files, or go on with those that an earlier try left.

    The spectra go to the disk as they come, so memory does not grow with the dataset.
    """
    settings, n_rows = simulated.settings, 2 * simulated.n_reps
    shape = (n_rows, 2 * settings.sample_size.a + 1, 2 * settings.sample_size.b + 1, 1)
    sfs_path, responses_path, parameters_path, settings_path = dataset_paths(folder, name)
    needed = 4 * math.prod(shape) - (sfs_path.stat().st_size if sfs_path.is_file() else 0)
    if needed > shutil.disk_usage(folder).free:
        raise Problem(f"{folder.parent}: the disk has no room for {needed / 1e6:,.0f} MB of spectra.")
    with (
        simulating_processes(work, math.ceil(n_rows / ROWS_PER_TASK)) as processes,
        growing_array(sfs_path, shape) as (n_there, append),
        progress(n_rows, n_there) as bar,
    ):
        for spectra in simulate_dataset(settings, stream, n_rows, processes, n_there):
            append(spectra)
            bar.update(len(spectra))
    parameters = (draw_row(settings, stream, row)[0] for row in range(n_rows))
    save_array(parameters_path, np.fromiter(parameters, PARAMETERS, n_rows))
    save_array(responses_path, np.arange(n_rows, dtype=np.int32) % 2)
    sums = {"sha256": checksums(sfs_path, responses_path)}
    save_json(settings_path, simulated.as_saved() | sums)


@contextlib.contextmanager
def growing_array(path, shape):
    """An int32 array on the disk that grows by blocks of rows: how many it has, and how to append some.

    Its header states from the beginning what shape it will have. Beside it, a file holds a checksum for
    each block; what an earlier try left is kept up to the first block that is not as it was written.
    """
    buffer, description = io.BytesIO(), {"descr": "<i4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    header, row_bytes = buffer.getvalue(), 4 * math.prod(shape[1:])
    with path.open("a+b") as array, path.with_suffix(".sums").open("a+b") as sums:

        def append(rows):
            data = rows.astype("<i4").tobytes()
            array.write(data)
            array.flush()
            sums.write(f"{len(rows)} {fingerprint(data)}\n".encode())
            sums.flush()

        n_rows, vouched = 0, b""
        array.seek(0)
        sums.seek(0)
        for line in sums if array.read(len(header)) == header else ():
            n, _, digest = line.decode(errors="replace").partition(" ")
            if not n.isdecimal() or not 0 < int(n) <= ROWS_PER_TASK:
                break
            if digest != fingerprint(array.read(int(n) * row_bytes)) + "\n":
                break
            n_rows, vouched = n_rows + int(n), vouched + line
        sums.truncate(len(vouched))
        if n_rows:
            print(f"Going on after the {n_rows:,} spectra that an interrupted run left.")
            array.truncate(len(header) + n_rows * row_bytes)
        else:
            array.truncate(0)
            array.write(header)
        yield n_rows, append


def save_array(path, array):
    """Like `numpy.save`, which does not name a full disk as the cause."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    path.write_bytes(buffer.getbuffer())


def load_array(path):
    """Memory-map an array of numbers; a pickle is refused, not run."""
    regular(path, ": run runml --simulate first")
    with refusing_broken(path, "array of numbers", ": run runml --simulate anew"):
        array = np.lib.format.open_memmap(path, mode="r")
        if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
            raise ValueError(f"its type is {array.dtype}")
    return array


def open_dataset(folder, name):
    """The spectra, responses and parameters of a dataset, memory-mapped."""
    return [np.lib.format.open_memmap(path, mode="r") for path in dataset_paths(folder, name)[:3]]


CELLS_AT_ONCE = 2_000_000  # of spectra in memory, where no more are needed


def pieces(sfs):
    """Spectra, as many at a time as should be in memory where no more are needed."""
    step = max(1, CELLS_AT_ONCE // math.prod(sfs.shape[1:]))
    for first in range(0, len(sfs), step):
        yield sfs[first : first + step]
        if isinstance(sfs.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            sfs.base.madvise(mmap.MADV_DONTNEED)  # a memory map need not stay in memory


CELLS_FOR_STATISTICS = 10_000_000  # of spectra; more would fill the memory


def first_spectra(folder, name):
    """A copy of a dataset's first spectra, as many as statistics look at."""
    sfs = load_array(dataset_paths(folder, name)[0])
    return np.array(sfs[: 2 * max(1, CELLS_FOR_STATISTICS // (2 * sfs[0].size))])


class Dataset(NamedTuple):
    """Spectra to learn from."""

    sfs: np.ndarray  # (N, a, b, 1), memory-mapped
    responses: np.ndarray  # (N,) of int, memory-mapped
    checksums: dict  # of both files, by name
    simulated: Simulated | None  # None without a settings file, or with one of other arrays
    remark: str = ""  # what there is to say about it


def load_dataset(folder):
    """The `Dataset` in a folder, checked; a `Problem` if there is nothing to learn from."""
    sfs_path, responses_path, _, settings_path = dataset_paths(folder, "simulated")
    sfs, responses = load_array(sfs_path), load_array(responses_path)
    if sfs.ndim != 4 or sfs.shape[3] != 1 or not all(n > 2 and n % 2 for n in sfs.shape[1:3]):
        raise Problem(f"{sfs_path}: shape {sfs.shape} is not (N, 2 * n_A + 1, 2 * n_B + 1, 1).")
    if responses.shape != sfs.shape[:1]:
        raise Problem(f"{responses_path}: shape {responses.shape} does not fit {len(sfs)} spectra.")
    if not all(((counts >= 0) & (counts < MOST_SNPS)).all() for counts in pieces(sfs)):
        raise Problem(f"{sfs_path}: some counts are negative, no numbers, or more than any genome's.")
    if not np.isin(responses, (0, 1)).all():
        raise Problem(
            f"{responses_path}: responses are 0, divergence, and 1, gene flow; these are others."
        )
    if min((responses == 0).sum(), (responses == 1).sum()) < 5:
        raise Problem(f"{responses_path}: learning takes at least 5 spectra of each model.")
    simulated, remark = None, ""
    sums = checksums(sfs_path, responses_path)
    if settings_path.exists():
        saved = load_json(settings_path)
        if saved.get("sha256") == sums:
            simulated = saved_simulation(saved, settings_path)
        else:
            remark = f"{settings_path} belongs to other arrays. How these were simulated is not known."
    return Dataset(sfs, responses, sums, simulated, remark)


class Table:
    """A CSV file that grows by a row with each command. A user may add columns, which are kept.

    Where there is no file, there are no `rows`, dictionaries of text by column. One that cannot be
    read as what the script wrote, as where `numbers`, some columns, do not hold a number, or several
    with blanks between, is given another name, with a line that says so, and a new one begins.
    """

    def __init__(self, path, numbers=()):
        self.path, self.rows = path, []
        csv.field_size_limit(10**7)  # a training of very many epochs has long curves
        if not os.path.lexists(path):
            return
        try:
            text = regular(path).read_text(encoding="utf-8-sig")  # Excel puts a mark at the beginning
            rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
            for row in rows:
                values = [float(word) for name in numbers for word in row[name].split() or [""]]
                if None in row or None in row.values() or not np.isfinite(values).all():
                    raise ValueError("cells too many or too few, or no numbers")
            self.rows = rows
        except (Problem, ValueError, KeyError, AttributeError, csv.Error):
            names = (path.with_name(f"{path.stem}.old{n or ''}{path.suffix}") for n in itertools.count())
            aside = next(name for name in names if not os.path.lexists(name))
            path.rename(aside)
            print(f"{path} cannot be read as a table of this script: it is now {aside.name}.")

    def append(self, row):
        """Add a row, whose values become text."""
        self.rows.append({name: str(value) for name, value in row.items()})

    def save(self, folder):
        """Write the table, under its name, into a folder."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        (folder / self.path.name).write_bytes(text.getvalue().encode(errors="backslashreplace"))


# A model is one file, replaced in one step: Keras's archive with our notes as one more member,
# which Keras passes over.
NOTES = "runml.json"
BROKEN_MODEL = ("model of this script", ": run runml --train anew")
LARGEST = {NOTES: 10**8, "config.json": 10**7, "model.weights.h5": 2 * 10**9}  # bytes: no zip bombs


class Notes(NamedTuple):
    """What a model remembers."""

    training: TrainingSettings  # how it was trained
    data: dict  # on which arrays, by their checksums
    simulated: Simulated | None  # how those were simulated, if that is known
    learned: dict  # what else was learned from its training part, in plain numbers
    versions: dict  # of the packages that learned


class Network(NamedTuple):
    """A trained network with its notes."""

    model: object
    notes: Notes

    @property
    def fingerprint(self):
        """Twelve digits that tell its weights from others."""
        return fingerprint(b"".join(weights.tobytes() for weights in self.model.get_weights()))


def save_model(path, model, notes):
    """Save a model, without its optimizer, and its `Notes`."""
    start_keras().Model(model.input, model.output).save(path)
    written = {
        "training": as_saved(notes.training),
        "data": notes.data,
        "simulations": notes.simulated and notes.simulated.as_saved(),
        "learned": notes.learned,
        "versions": notes.versions,
    }
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(NOTES, json.dumps(written))


def read_archive(path):
    """What a model file holds, read once: its notes, Keras's description of it, and its weights."""
    with refusing_broken(path, *BROKEN_MODEL):
        data = regular(path, ": run runml --train first").read_bytes()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name, most in LARGEST.items():
                if archive.getinfo(name).file_size > most:
                    raise ValueError(f"{name} is too large")
            notes, config, weights = (archive.read(name) for name in LARGEST)
        saved, config = json.loads(notes), json.loads(config)
        simulations = saved["simulations"]
        notes = Notes(
            saved_settings(TrainingSettings, saved["training"], path),
            dict(saved["data"]),
            simulations and saved_simulation(simulations, path),
            dict(saved["learned"]),
            dict(saved["versions"]),
        )
    return notes, config, weights


def load_network(path):
    """A saved network. Only its weights are taken from the file; no code in it can run.

    The layers are built from its notes, so Keras never looks at the file's own description of them.
    One that describes other kinds of layers than ours is refused.
    """
    notes, config, weights = read_archive(path)
    with refusing_broken(path, *BROKEN_MODEL):
        shape = next(
            layer["config"]["batch_shape"][1:3]
            for layer in config["config"]["layers"]
            if layer["class_name"] == "InputLayer"
        )
        if any(type(n) is not int or not 3 <= n <= 501 or n % 2 == 0 for n in shape):
            raise ValueError(f"it takes spectra of shape {shape}")
        model = build_network(tuple(shape), notes.training)
        if foreign := kinds_of_layers(config) - kinds_of_layers(json.loads(model.to_json())):
            raise ValueError(f"it holds {min(foreign)}")
        with tempfile.TemporaryDirectory() as folder:
            weights_path = Path(folder) / "model.weights.h5"
            weights_path.write_bytes(weights)
            model.load_weights(weights_path)
        if not all(np.isfinite(array).all() for array in model.get_weights()):
            raise ValueError("some weights are no numbers")
        # What was learned is tried on an empty spectrum, here rather than after a test's simulations.
        empty = np.zeros((1, *shape, 1))
        with np.errstate(divide="raise", invalid="raise"):
            compare_with_simulations(empty, notes)
            accuracy_without_network(notes, empty, np.zeros(1))
        origin = np.array(notes.learned["mean_input"], float)
        if origin.shape != preprocess(empty, notes.training.folded).shape[1:]:
            raise ValueError(f"its mean input is of shape {origin.shape}")
    return Network(model, notes)


def kinds_of_layers(config):
    """Every class that a description of a model names, with the module it comes from."""
    if isinstance(config, list):
        return {kind for part in config for kind in kinds_of_layers(part)}
    if not isinstance(config, dict):
        return set()
    own = {f"{config.get('module')}.{config['class_name']}"} if "class_name" in config else set()
    return own | kinds_of_layers(list(config.values()))


def trained_on_other_data(path, data):
    """Whether there is a model already, and of other data."""
    with contextlib.suppress(Problem):
        return read_archive(path)[0].data != data.checksums
    return False


# ======================================== 14. Processes ========================================

MOST_WORKERS = 61 if os.name == "nt" else 4096  # Windows waits for no more
SECONDS_BETWEEN_LOOKS, LOOKS_IN_VAIN = 4, 3  # at whether workers are left, before giving up


class Processes(NamedTuple):
    """Where tasks are done."""

    submit: Callable  # that of an executor
    tasks_ahead: int  # how many to hand out before the oldest is waited for
    look: Callable[[], None] = lambda: None  # raises an error if nobody is left to do them

    def result(self, task):
        """Wait for what a task returns."""
        while not wait([task], SECONDS_BETWEEN_LOOKS).done:
            self.look()
        return task.result()


@contextlib.contextmanager
def simulating_processes(work, n_tasks):
    """The `Processes` that are asked for, no more than there are tasks."""
    if work.dask_scheduler:
        with silenced("distributed"), dask_cluster(work.dask_scheduler) as processes:
            yield processes
    else:
        n_workers = min(work.workers or usable_cores(), n_tasks, MOST_WORKERS)
        with worker_pool(n_workers) as executor:
            yield Processes(executor.submit, 4 * n_workers)


def usable_cores():
    """How many processor cores this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def worker_pool(n_workers):
    """An executor on this machine. Nothing is forked from here, where TensorFlow may run threads.

    Each worker imports msprime for itself: forked with it already there, it was 8% slower.
    """
    forkserver = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forkserver else "spawn")
    with ProcessPoolExecutor(n_workers, mp_context=context, initializer=follow_parent) as executor:
        try:
            start_workers(executor, n_workers, forkserver)
            yield executor
        except BrokenProcessPool:
            raise Problem(
                "a simulating process was killed, perhaps as the memory was full: try fewer --workers."
            ) from None
        except BaseException:
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise


def follow_parent():
    """In a worker: leave Ctrl-C to the parent, and go when it is gone, however it went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def start_workers(executor, n_workers, forkserver):
    """Start the processes of a pool, so that what keeps them from starting is told as such."""
    if getattr(sys.modules["__main__"], "__file__", "") == "<stdin>":
        raise Problem("processes that simulate cannot read a script from standard input: save it.")
    try:
        with held_stderr(show=False):
            if forkserver:
                from multiprocessing.forkserver import ensure_running

                # A mask is inherited from the first moment on. It is not enough here, where a thread of
                # NumPy's may take the signal, between a folder that is made and its name.
                with signals_wait():
                    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
                    try:
                        ensure_running()
                    finally:
                        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            for ready in [executor.submit(os.getpid) for _ in range(n_workers)]:
                ready.result()
    except (OSError, RuntimeError, EOFError) as error:
        raise Problem(
            f"no processes could be started to simulate in ({one_line(error)}): the number of processes "
            "or open files may be limited (ulimit -a), or TMPDIR be a long path."
        ) from None


@contextlib.contextmanager
def dask_cluster(address):
    """`Processes` on the workers of a Dask scheduler.

    Dask does a lost worker's tasks again elsewhere. But where no worker is left it waits for ever,
    in case one comes: hence the looks. A worker may join at any time, with whatever packages it has:
    hence each task checks them first.
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
    except Exception as error:  # a broken configuration can make it raise anything
        raise Problem(f"{where}: distributed cannot be imported ({one_line(error)}).") from None
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers do not have this file
    needed, looks_in_vain = versions(), 0

    def with_versions(function, *args):  # being local it travels by value, and all it is given
        if (found := versions()) != needed:
            raise ImportError(f"it has {listed(found)}")
        return function(*args)

    def look():
        nonlocal looks_in_vain
        looks_in_vain += 1
        with contextlib.suppress(Exception):
            if client.sync(client.scheduler.ncores, callback_timeout=SECONDS_BETWEEN_LOOKS):
                looks_in_vain = 0
        if looks_in_vain >= LOOKS_IN_VAIN:
            raise CancelledError

    keys = distributed.Security().get_connection_args("client")
    try:
        # First without a client: it would wait for ever where something else listens in silence, and
        # for long to close a connection that it never had.
        knock = distributed.comm.connect(address, timeout=5, **keys)
        asyncio.run(asyncio.wait_for(knock, timeout=5)).abort()
        client = distributed.Client(address, timeout=5, set_as_default=False)
    except Exception as error:  # anything may answer at an address
        raise Problem(f"{where}: no Dask scheduler answers there ({one_line(error)}).") from None
    with client:
        executor = client.get_executor(pure=False)
        try:
            client.wait_for_workers(1, timeout=5)
            pythons = client.run(platform.python_version, on_error="ignore")  # some may be dying
        except OSError as error:
            raise Problem(f"{where}: no workers answer there ({one_line(error)}).") from None
        here = platform.python_version()
        for worker, python in pythons.items():  # between these, functions do not travel
            if python.split(".")[:2] != here.split(".")[:2]:
                raise Problem(f"{where}: worker {worker} has Python {python}, and here is {here}.")
        submit = functools.partial(executor.submit, with_versions)
        try:
            yield Processes(submit, 4 * sum(client.nthreads().values()), look)
        except ImportError as error:
            raise Problem(f"{where}: a worker needs {listed(needed)} ({one_line(error)}).") from None
        except distributed.KilledWorker:
            raise Problem(f"{where}: workers died, perhaps as their memory was full.") from None
        except CancelledError:
            raise Problem(f"{where}: the scheduler, or the last of its workers, is gone.") from None


def versions():
    """The versions of the packages that each count depends on."""
    return {package: version(package) for package in ("msprime", "tskit", "numpy")}


def learning_versions():
    """The versions of the packages that have a part in what is learned, once they are there."""
    return {name: sys.modules[name].__version__ for name in ("keras", "tensorflow", "sklearn")}


def listed(packages):
    """Packages with their versions, in a line."""
    return ", ".join(f"{package} {number}" for package, number in packages.items())


@contextlib.contextmanager
def silenced(package):
    """Keep a package from logging and warning, for as long as the block: our own line follows."""
    disabled = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=package)
            yield
    finally:
        logging.disable(disabled)


# ==================================== 15. Options and the plan ====================================

COMMANDS = {"simulate": simulate, "train": train, "test": test, "predict": predict}  # in this order
KINDS = (SimulationSettings, TrainingSettings, WorkSettings)
OPTIONS = {setting.name: setting for kind in KINDS for setting in fields(kind)}
SIMULATION = {setting.name for setting in fields(SimulationSettings)}
USES = {  # the options that each mode has a use for
    "simulate": SIMULATION | {"n_reps", "workers", "dask_scheduler"},
    "train": {setting.name for setting in fields(TrainingSettings)},
    "test": SIMULATION | {"n_test_reps", "workers", "dask_scheduler"},
    "predict": set(),
}
# A negative number is a value out of its interval, not the name of an option.
NEGATIVE_NUMBER = re.compile(r"-(\.?\d|inf|nan)", re.IGNORECASE)


class CommandLine(argparse.ArgumentParser):
    """An argument parser that raises its errors."""

    def error(self, message):
        """Raise what is wrong with what was typed."""
        raise UsageError(" ".join(message.split()))


def command_line():
    """The parser: a group of options for each mode, every default taken from the settings."""
    parser = CommandLine(
        prog="runml",
        description="Do two sister species have a history of gene flow? Simulate, train, then test.",
        epilog="Priors are uniform between LOW and HIGH, or log-uniform with the word log behind. What "
        "is typed beats what was saved with the data or the model, which beats the default.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser._negative_number_matcher = NEGATIVE_NUMBER
    modes = parser.add_argument_group("what to do; together they run in this order")
    modes.add_argument("--simulate", action="store_true", help="simulate joint SFS under both models")
    modes.add_argument("--train", action="store_true", help="train the network on what was simulated")
    modes.add_argument("--test", action="store_true", help="test it, once, on a fresh set")
    modes.add_argument(
        "--predict", nargs="+", action="extend", metavar="FILE", help="apply it to observed joint SFS"
    )
    everywhere = parser.add_argument_group("every mode")
    everywhere.add_argument("--data_dir", metavar="FOLDER", help="where files are (default: data)")
    groups = {
        "simulate": parser.add_argument_group("what is simulated (--simulate)"),
        "train": parser.add_argument_group("the network and how it learns (--train)"),
        "test": parser.add_argument_group("how much is tested (--test)"),
    }
    groups["simulate"].add_argument(
        "--settings", metavar="FILE", help="take what is not typed here from a saved settings file"
    )
    forms = {
        bool: {"action": "store_const", "const": [True]},
        int: {"nargs": 1, "metavar": "N"},
        float: {"nargs": 1, "metavar": "X"},
        str: {"nargs": 1, "metavar": "ADDRESS"},
        Prior: {"nargs": "+", "metavar": ("LOW HIGH", "log")},
        PerSpecies: {"nargs": "+", "metavar": ("A", "B")},
    }
    unset = {"workers": "all usable cores", "dask_scheduler": "none"}
    for name, setting in OPTIONS.items():
        owner = next(mode for mode in COMMANDS if name in USES[mode])
        group = everywhere if name in ("seed", *unset) else groups[owner]
        default = unset.get(name) or shown(setting.default)
        text = f"{setting.metadata['meaning']} (default: {default})"
        group.add_argument(f"--{name}", help=text, **forms[setting.type])
    return parser


class Typed(NamedTuple):
    """What was typed, each word by itself checked."""

    modes: list  # of str
    folder: Path
    options: dict  # the values by name
    settings_file: Path | None
    observed: list  # of pathlib.Path


def parse(argv):
    """What a command line says, without a look at the disk; a `UsageError` if it makes no sense."""
    parser = command_line()
    arguments, unknown = parser.parse_known_args(argv)
    arguments = vars(arguments)
    if unknown:
        names = difflib.get_close_matches(unknown[0], parser._option_string_actions, 1)
        hint = f" (did you mean {names[0]}?)" if names else ""
        raise UsageError(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    modes = [mode for mode in COMMANDS if mode in arguments]
    if not modes:
        raise UsageError("say what to do: --simulate, --train, --test or --predict (see runml --help)")
    for name in ("data_dir", "settings"):
        if arguments.get(name) == "":
            raise UsageError(f"--{name} must not be empty")
    options = {}
    for name in OPTIONS.keys() & arguments.keys():
        try:
            options[name] = checked(OPTIONS[name], arguments[name])
        except ValueError as error:
            raise UsageError(f"--{name} {error}") from None
    if {"workers", "dask_scheduler"} <= options.keys():
        raise UsageError("--workers has no use with --dask_scheduler")
    if "settings" in arguments and "simulate" not in modes:
        raise UsageError(f"--settings has no use in {' '.join(f'--{mode}' for mode in modes)}")
    return Typed(
        modes,
        Path(arguments.get("data_dir", "data")),
        options,
        Path(arguments["settings"]) if "settings" in arguments else None,
        [Path(word) for word in dict.fromkeys(arguments.get("predict", []))],
    )


def checked(setting, words):
    """The value of a setting, a `dataclasses.Field`, from a list of its words, typed or saved.

    A `ValueError` if they are not what it takes; the text goes behind the setting's name.
    """
    kind, interval = setting.type, setting.metadata["interval"]
    scale = ["log"] if kind is Prior and words[2:] == ["log"] else []
    words = words[:2] if scale else words
    if kind is PerSpecies and len(words) == 1:
        words = words * 2  # one number serves both species
    if len(words) != (2 if issubclass(kind, tuple) else 1):
        takes = {Prior: "LOW HIGH, or LOW HIGH log", PerSpecies: "one number, or two"}
        raise ValueError(f"{' '.join(map(str, words))}: it takes {takes.get(kind, 'one value')}")
    if kind is bool:
        if not isinstance(words[0], bool):
            raise ValueError(f"{words[0]}: must be true or false")
        return words[0]
    if kind is str:
        if not words[0]:
            raise ValueError("must not be empty")
        return words[0]
    for word in words:
        if not is_number(word):
            raise ValueError(f"{word}: not a number")
        if not lies_within(float(word), interval):
            raise ValueError(f"{word}: must lie in {interval}")
        if kind in (int, PerSpecies) and not float(word).is_integer():
            raise ValueError(f"{word}: must be a whole number")
    numbers = [float(word) for word in words]
    if kind is Prior and numbers[0] > numbers[1]:
        raise ValueError(f"{words[0]} {words[1]}: the low end comes first")
    if scale and not numbers[0]:
        raise ValueError(f"{words[0]} {words[1]} log: a log-uniform prior begins above 0")
    return kind(*(map(int, numbers) if kind is PerSpecies else numbers), *scale)


def is_number(word):
    """Whether a word, or a saved value, can be read as a number."""
    try:
        float(word)
    except (TypeError, ValueError, OverflowError):
        return False
    return not isinstance(word, bool)


def lies_within(number, interval):
    """Whether a number lies in an interval such as "(0, 1]", whose round end is left out."""
    low, high = map(float, interval[1:-1].split(","))
    left_out = (interval[0] == "(" and number == low) or (interval[-1] == ")" and number == high)
    return low <= number <= high and not left_out


def value_as_saved(value):
    """A setting's value as a list of words, or as the only one."""
    if isinstance(value, Prior):
        return [value.low, value.high, *(["log"] if value.scale == "log" else [])]
    return list(value) if isinstance(value, tuple) else value


def shown(value):
    """A setting's value as one would type it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    value = value_as_saved(value)
    words = value if isinstance(value, list) else [value]
    return " ".join(word if isinstance(word, str) else f"{word:.10g}" for word in words)


@dataclass(frozen=True)
class Plan:
    """What the commands do, with every setting resolved and checked."""

    modes: list  # of str
    folder: Path
    simulation: SimulationSettings  # of the training set
    testing: SimulationSettings  # of the test set
    training: TrainingSettings
    work: WorkSettings
    data: Dataset | None  # what `--train` finds in the folder; None if `--simulate` comes first
    network: Network | None  # what `--test`, `--predict` find there; None if `--train` comes first
    observed: dict  # of pathlib.Path to Observed
    remarks: list  # of str: what there is to say before anything is done


class Found(NamedTuple):
    """What the first command starts from, and what is settled with it."""

    data: Dataset | None = None
    network: Network | None = None

    @property
    def origin(self):
        """How it came about, as text; empty if there is nothing yet."""
        if self.data:
            return "the data were simulated"
        return "the model was trained" if self.network else ""

    @property
    def simulated(self):
        """How the spectra were simulated, if there are some, and if that is known."""
        return self.data.simulated if self.data else self.network and self.network.notes.simulated

    @property
    def sample_size(self):
        """That of the spectra, which cannot change any more; None if there are none yet."""
        if self.data or self.network:
            shape = self.data.sfs.shape if self.data else self.network.model.input_shape
            return individuals(shape[1:3])
        return None

    @property
    def settled(self):
        """Every option that has been decided, by name."""
        own = {"sample_size": self.sample_size} if self.origin else {}
        simulated = self.simulated.options if self.simulated else {}
        return own | simulated | (vars(self.network.notes.training) if self.network else {})


def find(modes, folder):
    """What the first of some commands starts from: a `Found`, or a `Problem` if it is not there."""
    if "train" in modes:
        return Found() if "simulate" in modes else Found(data=load_dataset(folder))
    if {"test", "predict"} & set(modes):
        return Found(network=load_network(folder / MODEL))
    return Found()


def make_plan(typed):
    """Complete what was typed by what was saved, and refuse what does not fit: a `Plan`, or a `Problem`.

    Whatever can be known before the first command starts is checked here, and only here.
    """
    options = typed.options
    if typed.settings_file:
        saved = saved_simulation(load_json(typed.settings_file), typed.settings_file)
        options = saved.options | options
    observed = {path: read_observed(path) for path in typed.observed}
    found = find(typed.modes, typed.folder)
    refuse_useless(options, typed.modes, found)

    simulation = typed_over(SimulationSettings(), options)
    sample_size = found.sample_size or simulation.sample_size
    known = found.simulated.settings if found.simulated else SimulationSettings(sample_size=sample_size)
    training = typed_over(TrainingSettings(seed=known.seed), options)
    plan = Plan(
        modes=typed.modes,
        folder=typed.folder,
        simulation=simulation,
        testing=typed_over(known, options),
        training=found.network.notes.training if found.network else training,
        work=typed_over(WorkSettings(), options),
        data=found.data,
        network=found.network,
        observed=observed,
        remarks=remarks_on(found, typed.modes, typed_over(known, options)),
    )
    if "simulate" in plan.modes:
        refuse_senseless(plan.simulation)
    if "train" in plan.modes:
        refuse_too_few(plan)
        refuse_old_clock()
    if "test" in plan.modes:
        refuse_senseless(plan.testing)
    for path, spectrum in observed.items():
        refuse_unfit(path, spectrum, sample_size, plan.training.folded)
    return plan


def remarks_on(found, modes, testing):
    """What there is to say before anything is done, of what was found and of how it will be tested."""
    remarks = [found.data.remark] if found.data and found.data.remark else []
    if "test" not in modes or not found.origin:
        return remarks
    if not found.simulated:
        unknown = (
            "The settings behind the model are not known: testing under those typed and the defaults."
        )
        return [*remarks, unknown]
    known = vars(found.simulated.settings)
    return remarks + [
        f"Testing under --{name} {shown(value)}; the model was trained under {shown(known[name])}."
        for name, value in vars(testing).items()
        if name != "seed" and value != known[name]
    ]


def typed_over(settings, options):
    """Settings, with what was typed in their place."""
    own = {setting.name for setting in fields(settings)} & options.keys()
    return replace(settings, **{name: options[name] for name in own})


def refuse_useless(options, modes, found):
    """Refuse options that no mode has a use for, unless they agree with what is settled."""
    useless = options.keys() - set().union(*(USES[mode] for mode in modes))
    if found.origin:
        useless |= {"sample_size"} & options.keys()  # which cannot change any more
    for name in sorted(useless):
        if name not in found.settled:
            raise UsageError(f"--{name} has no use in {' '.join(f'--{mode}' for mode in modes)}")
        if (settled := found.settled[name]) != options[name]:
            raise UsageError(f"--{name} {shown(options[name])}: {found.origin} with {shown(settled)}")


def refuse_too_few(plan):
    """Refuse to learn from hardly anything."""
    if not plan.data:
        if plan.work.n_reps < 5:
            few = f"--n_reps {plan.work.n_reps}"
            raise UsageError(f"{few}: learning takes at least 5 replicates of each model")
    else:
        rows, _ = split_rows(len(plan.data.sfs), plan.training.seed)
        responses = plan.data.responses[rows]
        if min((responses == response).sum() for response in range(2)) < 2:
            raise Problem(f"{plan.folder}: one model is so rare that too few are left to train on.")


def refuse_senseless(settings):
    """Refuse settings that are each possible, but not together."""
    if not settings.migration_prior.high:
        raise UsageError("--migration_prior 0 0: without migrants the two models are one")
    start, stop = settings.gene_flow_start, settings.gene_flow_stop
    if start.low == start.high == stop.low == stop.high:
        raise UsageError("--gene_flow_start, --gene_flow_stop: gene flow has no time to take place")
    snps, most = expected_snps(settings), expected_snps(settings, "high")
    scale = "--mutation_rate, --sequence_length, --n_loci"
    if snps < 1:
        raise UsageError(f"{scale}: {snps:.0e} SNPs are nothing to look at")
    if snps > 1e8 or most > 3e8:  # ten standard errors below what NumPy can draw from
        raise UsageError(f"{scale}: together up to {most:.0e} SNPs are too many")
    if snps > MOST_MUTATIONS_A_SITE * settings.n_sites:
        raise UsageError(
            f"--mutation_rate {settings.mutation_rate:g}: {snps / settings.n_sites:.1f} mutations a "
            f"site under these priors; more than {MOST_MUTATIONS_A_SITE} hide each other"
        )


def refuse_old_clock():
    """Refuse to make a file that is older than its format."""
    if (year := time.localtime().tm_year) < 1980:
        raise Problem(f"the clock says {year}: set it, as a model file cannot be that old.")


def expected_snps(settings, at="middle"):
    """About how many SNPs a spectrum has: on two genealogies within species, and from there back.

    `at` is the "middle", the "low" or the "high" end of the priors.
    """
    n_lineages = np.arange(1, 2 * max(settings.sample_size))
    within = 4 * getattr(settings.ne_prior, at) * ((1 / n_lineages).sum() - 0.5)
    length = 2 * (getattr(settings.tdiv_prior, at) + within)
    return settings.mutation_rate * settings.n_sites * length


def refuse_unfit(path, observed, sample_size, folded):
    """Refuse an observed spectrum that is not of a model's sample size, or folded where it is not."""
    own_size = individuals(observed.counts.shape)
    if own_size != sample_size:
        got, wanted = (f"{2 * size.a} + {2 * size.b}" for size in (own_size, sample_size))
        raise Problem(
            f"{path}: {got} chromosomes, the model takes {wanted}: project to that (moments: project), "
            f"or simulate with --sample_size {shown(own_size)} and train."
        )
    if observed.folded and not folded:
        raise Problem(f"{path}: folded, but the model takes unfolded spectra: train with --folded.")


# ======================================= 16. The screen =======================================


class Problem(Exception):  # noqa: N818
    """Something that the user can put right. Its text says what is wrong and what to do."""

    status = 1


class UsageError(Problem):
    """What was typed makes no sense."""

    status = 2


def say(text):
    """Print a text in lines that fit a screen; a blank line comes first if it begins with one."""
    wrapped = textwrap.fill(text.strip(), 80, break_on_hyphens=False, break_long_words=False)
    print("\n" * text.startswith("\n") + wrapped)


def one_line(error):
    """The first line of what an error says."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0].rstrip(".")


def with_interval(accuracy, interval):
    """An accuracy and its 95% interval, as text."""
    low, high = interval
    return f"{accuracy:.4f} (95% interval {low:.4f} to {high:.4f})"


def start_keras():
    """Keras on TensorFlow, made repeatable, without what TensorFlow prints when it starts."""
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "tensorflow"
        # Operations on spectra are done before more threads have woken up to share them.
        os.environ["TF_NUM_INTRAOP_THREADS"] = "1"
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
        with held_stderr():
            import tensorflow as tf

            tf.config.list_physical_devices()  # says more, the first time
        tf.config.experimental.enable_op_determinism()
    import keras

    # Whatever a user's keras.json says.
    keras.config.set_floatx("float32")
    keras.config.set_image_data_format("channels_last")
    keras.config.set_epsilon(1e-7)
    return keras


@contextlib.contextmanager
def held_stderr(show=True):
    """Hold back what goes to file descriptor 2, and show it, if at all, only if the block fails."""
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            held.seek(0)
            if show:
                os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def size_in_words(settings):
    """What will be simulated, in numbers that catch a slip of the pen."""
    base_pairs = settings.n_loci * settings.sequence_length
    units = {"Gb": 1e9, "Mb": 1e6, "kb": 1e3, "b": 1}
    unit = next(unit for unit, size in units.items() if base_pairs >= size)
    loci = "1 locus" if settings.n_loci == 1 else f"{settings.n_loci:,} loci"
    snps = float(f"{expected_snps(settings):.0e}")
    return (
        f"Each: {loci} of {settings.sequence_length:,} bp = {base_pairs / units[unit]:.3g} {unit}, "
        f"{settings.sample_size.a} + {settings.sample_size.b} individuals, about {snps:,.0f} SNPs."
    )


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
    always = {"miniters": 1, "mininterval": 0, "smoothing": 0, "file": io.StringIO()}
    return Lines(total=total, initial=done, unit=" SFS", leave=False, bar_format=line, **always)


def print_simulated(sfs, n_all):
    """Median and range of what one would look at first, under each model."""
    print("" if len(sfs) == n_all else f"\nOf the first {len(sfs):,} spectra:")
    print(f"{'median (range)':<20}{MODELS[0]:>29}{MODELS[1]:>29}")
    values = summaries(sfs)
    for name, form in (("SNPs", ",.0f"), ("F_ST", ".3f"), ("polymorphic in both", ".3f")):
        ranges = [median_and_range(values[name][response::2], form) for response in range(2)]
        print(f"{name:<20}{ranges[0]:>29}{ranges[1]:>29}")
    print()


def median_and_range(values, form):
    """The median, the least and the greatest of some values, as text."""
    low, median, high = np.quantile(values, [0, 0.5, 1])
    return f"{median:{form}} ({low:{form}} to {high:{form}})"


def print_network(model):
    """A line for each layer that has weights or a dropout rate."""
    bins = " x ".join(str(len(allele_bins(n - 1))) for n in model.input_shape[1:3])
    print("The network, from raw counts to probabilities:")
    print(f"  {'Bins':<8} {bins}")
    for layer in model.layers:
        name, size = type(layer).__name__, " x ".join(map(str, layer.output.shape[1:]))
        if weights := layer.count_params():
            print(f"  {name:<8} {size:<12} {weights:>9,} weights")
        elif hasattr(layer, "rate"):
            print(f"  {name:<8} {size:<12}      rate {layer.rate:g}")
    print(f"  {'together':<21} {model.count_params():>9,} weights")


def epoch_lines():
    """A callback that prints a line an epoch and, while epochs take long on a terminal, a bar."""
    from tqdm import tqdm

    bar = None

    def begin(logs):
        print(f"{'':5}{'training':>20}{'validation':>22}")
        print(f"{'epoch':>5}{'loss':>10}{'accuracy':>10}{'loss':>12}{'accuracy':>10}")

    def begin_epoch(epoch, logs):
        nonlocal bar
        silent = not sys.stderr.isatty()
        bar = tqdm(desc=f"epoch {epoch + 1}", unit=" steps", delay=3, leave=False, disable=silent)

    def step(batch, logs):
        bar.update(batch + 1 - bar.n)

    def end_epoch(epoch, logs):
        bar.close()
        print(
            f"{epoch + 1:>5}{logs['loss']:>10.4f}{logs['accuracy']:>10.4f}"
            f"{logs['val_loss']:>12.4f}{logs['val_accuracy']:>10.4f}"
        )

    return start_keras().callbacks.LambdaCallback(
        on_train_begin=begin,
        on_epoch_begin=begin_epoch,
        on_train_batch_end=step,
        on_epoch_end=end_epoch,
    )


TOSSING_A_COIN = math.log(2)  # the loss of giving both models one half


def what_the_curves_say(training, validation):
    """What the losses, epoch by epoch, say about the settings, in a line or two."""
    if len(validation) == 1:
        return "One epoch makes no curve."
    best, last = int(np.argmin(validation)), validation[-1]
    recent = validation[-1 - max(1, len(validation) // 5)]
    leaps = any(
        after > before + max(0.01, 0.1 * before) for before, after in itertools.pairwise(training)
    )
    if leaps or max(training) > 1.1 * TOSSING_A_COIN:
        return (
            "The loss leaps, in training too: these steps are too long. A smaller --learning_rate helps."
        )
    if validation[best] > 0.95 * TOSSING_A_COIN:
        return (
            "Validation loss has hardly left 0.69, tossing a coin: more --epochs, a larger "
            "--learning_rate or more simulations would help."
        )
    if last > max(1.04 * validation[best], validation[best] + 0.003):  # more than chance makes of it
        return (
            f"Validation loss was lowest after epoch {best + 1} and has risen since: fewer --epochs, "
            "more --dropout or more simulations would help."
        )
    if last < min(0.99 * recent, recent - 0.002):
        return "Validation loss was still falling: more --epochs would help."
    return "Validation loss hardly changes any more."


# In experiments.csv: what a row must hold to be ranked and drawn.
RUN_NUMBERS = ("validation_accuracy", "validation_loss")
RUN_NUMBERS += tuple(f"{name}_by_epoch" for name in RUN_NUMBERS)


def row_of_run(settings, model, history, seconds, data):
    """The row of `experiments.csv` that tells of one training."""
    return as_saved(settings) | {
        "weights": model.count_params(),
        "validation_accuracy": f"{history['val_accuracy'][-1]:.4f}",
        "validation_loss": f"{history['val_loss'][-1]:.5f}",
        "seconds": f"{seconds:.1f}",
        "data": data.checksums["simulated_sfs.npy"][:12],
        "validation_loss_by_epoch": " ".join(f"{loss:.4g}" for loss in history["val_loss"]),
        "validation_accuracy_by_epoch": " ".join(f"{share:.4f}" for share in history["val_accuracy"]),
    }


def settings_that_differ(runs):
    """For each run, the settings in which runs differ and that are not the defaults, as typed."""
    defaults = {name: str(value) for name, value in as_saved(TrainingSettings()).items()}
    differ = [name for name in defaults if len({run.get(name) for run in runs}) > 1]
    words = [
        [f"--{name} {run.get(name) or '?'}" for name in differ if run.get(name) != defaults[name]]
        for run in runs
    ]
    same = "by default" if differ else ""
    return [" ".join(each).replace("--folded True", "--folded") or same for each in words]


def print_runs(runs, most=10):
    """Rank the runs by validation loss, equal ones once, and mark the last."""
    distinct = {}
    for words, run in zip(settings_that_differ(runs), runs, strict=True):
        distinct[words, run["validation_loss"]] = run  # of equal ones, the last
    ranked = sorted(distinct.items(), key=lambda item: float(item[0][1]))
    print("\nRuns on these data so far, by validation loss; > is this run")
    print("        loss  accuracy  seconds  settings in which they differ")
    left_out = 0
    for rank, ((words, loss), run) in enumerate(ranked, start=1):
        mark = ">" if run is runs[-1] else " "
        if rank > most and mark == " ":
            left_out += 1
            continue
        accuracy, seconds = float(run["validation_accuracy"]), run.get("seconds") or "?"
        first, *rest = textwrap.wrap(words, 46, break_on_hyphens=False) or [""]
        print(f"{mark}{rank:>3}. {float(loss):.4f}    {accuracy:.4f}  {seconds:>7}  {first}".rstrip())
        for line in rest:
            print(f"{'':33}{line}")
    if left_out:
        print(f"({left_out} more in experiments.csv)")
    print()


TEST_COLUMNS = ("model", "test_set", "seed", "n_test", "accuracy")  # of test_log.csv


def print_test(results):
    """The confusion matrix, and the figures that go with it."""
    print(f"\n{'':18}{'predicted ' + MODELS[0]:>22}{'predicted ' + MODELS[1]:>22}")
    for model, (divergence, gene_flow) in zip(MODELS, results["confusion_matrix"], strict=True):
        print(f"true {model:<13}{divergence:>22,}{gene_flow:>22,}")
    print(f"\nAccuracy {with_interval(results['accuracy'], results['accuracy_95ci'])}")
    print(f"Log-loss {results['log_loss']:.4f}, ROC AUC {results['roc_auc']:.4f}")
    print("\nGene flow recognised, by migration rate:")
    bins = results["recognised_by_migration_rate"]
    shares = [rates["recognised"] / rates["n"] for rates in bins]
    for rates, share in zip(bins, shares, strict=True):
        print(f"  {rates['lowest']:.1e} to {rates['highest']:.1e}  {share:7.1%} of {rates['n']:,}")
    if half := results["half_missed_below"]:
        print(f"  half of it is missed below {half:.1e}")
    elif min(shares) > 0.5:
        print("  more than half of it at every rate")
    print("\nWithout a network, the accuracy on the same test set would be")
    for name, accuracy in results["baselines"].items():
        interval = wilson(round(accuracy * results["n_test"]), results["n_test"])
        print(f"  {with_interval(accuracy, interval)} with a {name}")


def print_reuse(models):
    """What to think of a test set that several models have met."""
    if len(models) > 1:
        say(
            f"\n{len(models)} different models have now met this test set. Choosing by this number "
            "makes it optimistic: validation is for choosing. A new --seed draws a new test set."
        )
    print()


# ======================================= 17. Pictures =======================================
#
# They are drawn when the numbers are saved and printed. Purple and orange, or from dark to light:
# these can be told apart on a grey print, and by the colour-blind.

COLOURS = ("#542788", "#e08214")  # of the two models; the ends of the scale "PuOr_r"
OTHER_COLOURS = ("#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#000000", "#999999")  # Okabe and Ito's
MOST_CURVES = 8  # of earlier trainings, as many as the lesson suggests
FEW = 10  # spectra: of fewer, no share is drawn


def save_picture(path, draw, *inputs):
    """Draw a picture in place of the last one. If that fails, one line says so: numbers come first.

    `draw` takes an empty figure, then `inputs`.
    """
    beside = path.with_name(f".{path.name}")
    try:
        path.unlink(missing_ok=True)  # no old picture beside new numbers
        beside.unlink(missing_ok=True)
        logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it talks about its font cache
        os.environ["MPLBACKEND"] = "agg"  # a notebook may name one that is not here
        with warnings.catch_warnings(action="ignore"):
            from matplotlib.figure import Figure

            figure = Figure(layout="constrained")  # without pyplot, Agg draws: it needs no screen
            draw(figure, *inputs)
            figure.savefig(beside, dpi=100, bbox_inches="tight")
        beside.replace(path)
    except Exception as error:
        complain(f"{path} could not be drawn ({one_line(error)}). The numbers are saved.")
    else:
        print(f"See {path}.")


def draw_models(figure, settings):
    """The two models as tubes as wide as the populations are large, at the middle of the priors."""
    import demesdraw

    figure.set_size_inches(12, 5.5)
    divergence, rate = settings.tdiv_prior.middle, settings.migration_prior.middle
    rng = np.random.default_rng(0)  # the older and the younger of two draws have no simple median
    shares = [
        (settings.gene_flow_start.draw(rng), settings.gene_flow_stop.draw(rng)) for _ in range(999)
    ]
    stop, start = divergence * np.median(np.sort(shares, axis=1), axis=0)
    sizes = [settings.ne_prior.middle] * 3
    colours = {"A": "#0072b2", "B": "#56b4e9", "ancestor": "#999999"}
    for response, axes in enumerate(figure.subplots(1, 2)):
        rates = [rate * (response and stop < start)] * 2
        middle = np.array((divergence, *sizes, *rates, start, stop), PARAMETERS)[()]
        graph = demographic_model(middle).to_demes()
        demesdraw.tubes(graph, axes, colours=colours, seed=1, scale_bar=True)
        for tube in axes.collections:
            tube.set_alpha(1)
        axes.set(title=MODELS[response], ylabel="generations before today")
        times = {0: "today", divergence: f"divergence\n{divergence:,.0f}"}
        if response:
            axes.axhspan(stop, start, color=COLOURS[1], alpha=0.3, zorder=0)
            axes.set_title(f"gene flow: migration rate {rate:.2g} per generation")
            times |= {start: f"gene flow from\n{start:,.0f}"} if start < divergence else {}
            times |= {stop: f"to {stop:,.0f}"} if 0 < stop < start else {}
        axes.set_yticks(list(times), times.values())


def show_table(axes, table, title, label, folded=False, **scale):
    """One joint SFS, or another table of its shape, as an image."""
    alleles = "rarer alleles" if folded else "derived alleles"
    image = axes.imshow(table, origin="lower", **scale)
    axes.set(title=title, xlabel=f"{alleles} in B", ylabel=f"{alleles} in A")
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_major_locator().set_params(integer=True)
    axes.figure.colorbar(image, ax=axes, label=label, shrink=0.8)


def show_bins(axes, shape):
    """Name the bins of a table of them, for spectra of a shape (n_A + 1, n_B + 1)."""
    for axis, n in zip((axes.yaxis, axes.xaxis), shape, strict=True):
        starts = allele_bins(n - 1)
        ends = [start - 1 for start in starts[1:]] + [n - 1]
        names = [f"{s}" if s == e else f"{s}-{e}" for s, e in zip(starts, ends, strict=True)]
        axis.set_ticks(range(len(names)), names, fontsize="small")
    axes.tick_params(axis="x", rotation=90)


def logarithmic(tables, least=0):
    """The tables without what is zero, and a scale of colours on which they compare."""
    from matplotlib.colors import LogNorm

    tables = np.ma.masked_less_equal(tables, 0)
    return tables, {"norm": LogNorm(max(least, tables.min()), tables.max()), "cmap": "viridis"}


def around_zero(tables):
    """A scale of colours for tables of values of both signs."""
    limit = abs(tables).max()
    return {"cmap": "PuOr_r", "vmin": -limit, "vmax": limit}


def draw_sfs(figure, sfs):
    """The mean joint SFS of the two models, and their log-ratio, which is where the signal is."""
    figure.set_size_inches(15, 4.6)
    *panels, last = figure.subplots(1, 3)
    tables, scale = logarithmic([sfs[response::2].mean(axis=0)[..., 0] for response in range(2)])
    for axes, model, table in zip(panels, MODELS, tables, strict=True):
        show_table(axes, table, model, "mean number of SNPs", **scale)
    ratio = np.ma.log2(tables[1] / tables[0])
    title = "how much more under gene flow"
    show_table(last, ratio, title, "log2(gene flow / divergence)", **around_zero(ratio))


def draw_history(figure, history, runs):
    """Loss and accuracy by epoch: this run bold, the best of the earlier ones thin and named.

    `history` is from `train_network`; `runs` are the rows of `experiments.csv` on the same data, this
    run the last.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    figure.set_size_inches(13, 6)
    *earlier, own = settings_that_differ(runs)
    distinct = dict(zip(earlier, runs[:-1], strict=True))  # of equal ones, the last
    distinct.pop(own, None)
    styles = [{"color": c, "linestyle": line} for line in ("-", "--", ":") for c in OTHER_COLOURS]
    names = dict.fromkeys([*earlier, own])
    styles = dict(zip(names, itertools.cycle(styles)))  # by age, so that they stay the same
    best = sorted(distinct, key=lambda words: float(distinct[words]["validation_loss"]))
    best = best[:MOST_CURVES]
    for axes, measure in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        training, validation = history[measure], history[f"val_{measure}"]
        curves = {words: distinct[words][f"validation_{measure}_by_epoch"].split() for words in best}
        curves = {words: [float(value) for value in curve] for words, curve in curves.items()}

        def draw(curve, look, label, axes=axes, **style):
            axes.plot(range(1, len(curve) + 1), curve, look, label=label, **style)

        bold = {"linewidth": 2.5, "markersize": 6 if len(validation) <= 20 else 3}
        draw(training, "s--", "training", color=COLOURS[0], **bold)
        label = f"validation ({own})" if own else "validation"
        draw(validation, "o-", label, color=COLOURS[1], **bold)
        for words, curve in curves.items():  # above, as some begin alike
            draw(curve, ".", f"validation, {words}", linewidth=1, **styles[words])
        axes.set(xlabel="epoch", ylabel=measure)
        axes.xaxis.get_major_locator().set_params(integer=True)
        # The limits are those of this run and of the better half of the others: a bad run is cut.
        better_half = list(curves.values())[: (len(best) + 1) // 2]
        inside = [*training, *validation, *itertools.chain(*better_half)]
        low, high = min(inside), max(inside)
        if measure == "loss":
            axes.set(ylabel="loss (logarithmic)", yscale="log", ylim=(low / 1.1, high * 1.1))
            few_digits = MaxNLocator(6, steps=(1, 2, 5, 10))
            axes.yaxis.set_major_locator(few_digits if high < 4 * low else LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
            if low / 1.1 < TOSSING_A_COIN < high * 1.1:
                axes.axhline(TOSSING_A_COIN, color="0.6", linestyle=":", label="ln 2: tossing a coin")
        else:
            margin = 0.05 * (high - low) or 0.01
            axes.set_ylim(low - margin, min(high + margin, 1 + margin))
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


def draw_test(figure, results, probabilities, parameters, network, sfs):
    """The report of a test: how good, where wrong, and why.

    From the `results` as saved; what the network gave for N spectra whose true models alternate, shape
    (N, 2); records of PARAMETERS, shape (N,); the `Network`; and the first spectra, shape (_, a, b, 1).
    """
    figure.set_size_inches(16.5, 14)
    figure.set_layout_engine("constrained", wspace=0.06)
    cells = figure.add_gridspec(3, 3)
    gene_flow = probabilities[:, 1] / probabilities.sum(axis=1, dtype=float)
    draw_probabilities(figure, cells, results, gene_flow)
    draw_mistakes(figure, cells, parameters, gene_flow > 0.5)
    draw_attributions(figure, cells, network, sfs)

    axes = figure.add_subplot(cells[2, 2], title="with and without a network")
    accuracies = {"network": results["accuracy"]} | results["baselines"]
    n = [results["n_test"]] * len(accuracies)
    n_right = np.round(np.multiply([*accuracies.values()], n))
    draw_shares(axes, range(len(n)), n_right, n, fmt="o", color="black")
    axes.set_xticks(range(len(n)), [textwrap.fill(name, 11) for name in accuracies])
    axes.set(ylabel="accuracy on the test set, with its 95% interval", xlim=(-0.5, len(n) - 0.5))


def draw_shares(axes, at, n_of, n, **style):
    """Shares of `n_of` in `n`, as points with their 95% intervals."""
    share = np.divide(n_of, n)
    intervals = np.transpose([wilson(*counts) for counts in zip(n_of, n, strict=True)])
    axes.errorbar(at, share, abs(intervals - share), capsize=4, **style)


def draw_probabilities(figure, cells, results, gene_flow):
    """The first row of the report: verdicts, and the probabilities behind them."""
    from sklearn.metrics import ConfusionMatrixDisplay, RocCurveDisplay

    responses = np.arange(len(gene_flow)) % 2
    axes = figure.add_subplot(cells[0, 0], title="confusion matrix: test replicates")
    matrix = ConfusionMatrixDisplay(np.array(results["confusion_matrix"]), display_labels=MODELS)
    matrix.plot(ax=axes, cmap="cividis", colorbar=False, values_format=",d")
    axes.set(xlabel="model predicted", ylabel="true model")

    axes = figure.add_subplot(cells[0, 1], title="ROC curve")
    RocCurveDisplay.from_predictions(
        responses, gene_flow, name="network", plot_chance_level=True, ax=axes
    )
    axes.set(xlabel="divergence taken for gene flow", ylabel="gene flow recognised")

    axes = figure.add_subplot(cells[0, 2], title="calibration, and spectra per group")
    draw_calibration(axes, gene_flow, responses)


def draw_calibration(axes, gene_flow, responses):
    """Whether probabilities mean what they say, in bins of log-odds, which show the sure ones too."""
    from scipy.special import expit, logit

    edges = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
    clipped = np.clip(gene_flow, 1e-5, 1 - 1e-5)
    bins = np.searchsorted(edges, clipped)
    n, n_gene_flow, log_odds = (
        np.bincount(bins, weights, minlength=len(edges) + 1)
        for weights in (np.ones(len(bins)), responses, logit(clipped))
    )
    curve = expit(np.linspace(-12, 12, 200))
    axes.plot(curve, curve, ":", color="black", label="perfectly calibrated")
    middles = logit(np.array([1e-4, *np.sqrt(np.multiply(edges[:3], edges[1:4]))]))
    means = expit(np.divide(log_odds, n, where=n > 0, out=np.append(middles, -middles[::-1])))
    drawn = n >= FEW
    if drawn.any():
        style = {"fmt": "s", "color": COLOURS[1], "label": "network"}
        draw_shares(axes, means[drawn], n_gene_flow[drawn], n[drawn], **style)
    if not drawn.all():
        remark = f"no points for groups of\nfewer than {FEW} spectra"
        axes.text(0.97, 0.12, remark, ha="right", transform=axes.transAxes, fontsize="small")
    for mean, count in zip(means, n, strict=True):
        axes.text(mean, -0.1, f"{count:,.0f}", ha="center", fontsize="small")
    axes.set_xscale("logit")
    ticks = [0.0001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.9999]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="probability of gene flow, stretched at the ends", ylabel="share with gene flow")
    axes.set(xlim=(3e-6, 1 - 3e-6), ylim=(-0.15, 1.05))
    axes.legend(loc="upper left", fontsize="small")


def draw_mistakes(figure, cells, parameters, verdicts):
    """The second row: which pairs of species the network mistakes."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    responses = np.arange(len(verdicts)) % 2
    right = verdicts == responses
    above, below = cells[1, 0].subgridspec(2, 1, height_ratios=(4, 1)).subplots(sharex=True)
    age, rate = parameters["divergence_time"], mean_migration(parameters)
    strip = np.random.default_rng(0).random(len(age))  # divergence has no migration rate
    for axes, response, heights in ((below, 0, strip), (above, 1, rate)):
        for verdict, marker, colour in ((True, ".", COLOURS[response]), (False, "X", "black")):
            some = (responses == response) & (right == verdict)
            axes.scatter(age[some], heights[some], marker=marker, color=colour)
    title = f"mistakes (black): {(~right).sum():,} of {len(right):,} replicates"
    above.set(yscale="log", ylabel="migration rate per generation", title=title)
    below.set(yticks=[], ylabel="divergence:\nno rate", xlabel="divergence time, generations")
    if right.all():
        advice = (
            "no mistakes among these; more replicates,\nyounger species or fewer migrants bring some"
        )
        above.text(0.5, 0.5, advice, ha="center", transform=above.transAxes, backgroundcolor="white")

    by_time, by_rate = figure.add_subplot(cells[1, 1]), figure.add_subplot(cells[1, 2])
    for axes, values, response in ((by_time, age, 0), (by_time, age, 1), (by_rate, rate, 1)):
        middles, n_right, n = accuracy_in_bins(values[response::2], right[response::2])
        label = f"{MODELS[response]}, groups of {n.max():,}"
        style = {"color": COLOURS[response], "marker": "os"[response], "label": label}
        draw_shares(axes, middles, n_right, n, **style)
        axes.set_ylabel("accuracy, with its 95% interval")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    by_time.set_xlabel("divergence time, generations")
    by_time.xaxis.get_major_locator().set_params(nbins=4)
    by_rate.set_xlabel("migration rate per generation")
    if np.ptp(rate[1::2]):
        by_rate.set_xscale("log")
        wide = np.ptp(np.log10(rate[1::2])) > 0.5
        by_rate.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(3))
        by_rate.xaxis.set_major_formatter("{x:g}")
        by_rate.xaxis.set_minor_locator(NullLocator())


def accuracy_in_bins(values, right, n_bins=8):
    """Accuracy along a parameter, in bins that hold equally many replicates, but at least `FEW`.

    From the parameter's values and whether each verdict is right, both of shape (N,). Returns for each
    bin the mean value, how many verdicts are right, and of how many.
    """
    n_bins = min(n_bins, max(1, len(values) // FEW))
    edges = np.unique(np.quantile(values, np.linspace(0, 1, n_bins + 1)))
    bins = np.searchsorted(edges[1:-1], values, side="right")
    n = np.bincount(bins)
    return np.bincount(bins, values) / n, np.bincount(bins, right).astype(int), n


ATTRIBUTION_STEPS = 32
ATTRIBUTED = 200  # spectra of each model


def draw_attributions(figure, cells, network, sfs):
    """The third row: what each bin adds to the log-odds, in the mean over each model's spectra."""
    model, notes = network
    tables = []
    for response in range(2):
        seen = preprocess(sfs[response : 2 * ATTRIBUTED : 2], notes.training.folded)
        origin = np.array(notes.learned["mean_input"], np.float32)
        tables.append(attributions(model, seen, origin).mean(axis=0))
    scale = around_zero(np.array(tables))
    for response, table in enumerate(tables):
        axes = figure.add_subplot(cells[2, response])
        title = f"what speaks for (+) and against (-) gene flow,\nmean over true {MODELS[response]}"
        show_table(axes, table, title, "attribution, log-odds", notes.training.folded, **scale)
        show_bins(axes, sfs.shape[1:3])


def attributions(model, seen, origin):
    """What each bin of spectra adds to the log-odds of gene flow: integrated gradients.

    On the straight way from the origin to a spectrum, the gradient of the log-odds is averaged, then
    multiplied by the way. So the bins' attributions sum, up to the error of finite steps, to the
    difference in log-odds between the two ends (Sundararajan et al. 2017). The way begins behind the
    square root, whose gradient at 0 is infinite, and ends before the softmax, whose gradient vanishes
    where the network is sure.

    Parameters
    ----------
    model : keras.Model
    seen : numpy.ndarray, shape (N, bins of A, bins of B, 1)
        What the network looks at: spectra after `preprocess`.
    origin : numpy.ndarray, shape (bins of A, bins of B, 1)
        What they are compared with: the mean of the training part.

    Returns
    -------
    numpy.ndarray of float, shape (N, bins of A, bins of B)
    """
    import tensorflow as tf
    from keras import Model

    last = model.layers[-1]
    hidden = Model(model.get_layer(FIRST_GAIN).input, last.input)
    kernel, _ = last.get_weights()
    towards_gene_flow = (kernel[:, 1] - kernel[:, 0])[:, np.newaxis]
    way = tf.constant(seen - origin, tf.float32)
    gradients = tf.zeros_like(way)
    for step in range(ATTRIBUTION_STEPS):
        point = origin + (step + 0.5) / ATTRIBUTION_STEPS * way
        with tf.GradientTape() as tape:
            tape.watch(point)
            log_odds = hidden(point) @ towards_gene_flow  # up to a constant, the biases
        gradients += tape.gradient(log_odds, point)
    return (way * gradients / ATTRIBUTION_STEPS).numpy()[..., 0]


def draw_prediction(figure, prediction, near, folded):
    """An observed spectrum beside the `Neighbours`, simulations like it."""
    observed, favoured = prediction.observed.counts, MODELS[prediction.favoured]
    figure.suptitle(f"{prediction.path.stem}\n{VERDICTS[prediction.verdict]}")
    if folded:
        observed = fold(observed[np.newaxis, ..., np.newaxis])[0, ..., 0]
    figure.set_size_inches(12, 10)
    (left, right), (below, scatter) = figure.subplots(2, 2)
    tables, scale = logarithmic([observed, near.mean_sfs], least=0.1)
    show_table(left, tables[0], "observed", "SNPs", folded, **scale)
    title = f"mean of the {near.n} simulations of\n{favoured} that are most like it"
    show_table(right, tables[1], title, "SNPs", folded, **scale)
    # In standard deviations of Poisson counts, about: the difference of the roots (Anscombe 1948).
    residual = 2 * (np.sqrt(observed + 3 / 8) - np.sqrt(near.mean_sfs + 3 / 8))
    title, label = "observed less simulated", "Poisson standard deviations, about"
    show_table(below, residual, title, label, folded, **around_zero(residual))
    for model, points, colour in zip(MODELS, near.scatter, COLOURS, strict=True):
        scatter.scatter(*points.T, s=6, alpha=0.4, color=colour, label=model)
    scatter.scatter(*near.at, marker="*", s=300, color="black", label="observed")
    scatter.set(xlabel="first axis", ylabel="second axis", title="simulations, principal components")
    scatter.legend()


# ========================================= 18. main =========================================


def settle():
    """Make the process independent of what surrounds it."""
    for number in range(3):  # a stream that was closed would lend its number to the next file
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115
    # A log shows each line as it is printed, whatever the letters in a file's name.
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    sys.stderr.reconfigure(errors="backslashreplace")
    for name in [name for name in os.environ if name.startswith("TQDM_")]:
        del os.environ[name]
    os.environ["PYTHONWARNINGS"] = "ignore"  # of the workers
    warnings.simplefilter("ignore")
    threading.excepthook = lambda _: None  # the line of the main thread says what happened


def stop_at_signals():
    """From here on Ctrl-C and SIGTERM end a command with one line.

    There is nothing to tidy up: unfinished files are hidden until the next command, and the workers go
    when their parent is gone.
    """
    screen = os.dup(2)  # stays the screen while `held_stderr` holds 2

    def stop(signal_number, _frame):
        line = "runml: stopped; what was not finished has replaced nothing.\n"
        with contextlib.suppress(OSError):
            os.write(screen, ("\n" + line if os.isatty(screen) else line).encode())
        if "multiprocessing.util" in sys.modules:
            from multiprocessing import util

            shutil.rmtree(util.get_temp_dir(), ignore_errors=True)
        os._exit(128 + signal_number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


@contextlib.contextmanager
def signals_wait():
    """Let Ctrl-C and SIGTERM wait until the block is done."""
    came = []
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are none of its business
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def complain(text):
    """Print a line on the standard error, if anybody reads it."""
    with contextlib.suppress(OSError, ValueError):
        print(" ".join(text.split("\n")), file=sys.stderr, flush=True)


def nobody_reads():
    """Whether the reader of the standard output has left."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(1, 0)
    return bool(poll.poll(0))


def main(argv=None):
    """Run the command line; return the exit status."""
    try:
        typed = parse(sys.argv[1:] if argv is None else argv)
        with only_command_in(typed.folder):
            plan = make_plan(typed)
            for remark in plan.remarks:
                say(remark)
            for mode in plan.modes:
                COMMANDS[mode](plan)
    except BrokenPipeError as error:
        if nobody_reads():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nor shall Python try to write at its end
        else:
            complain(f"runml: error: {one_line(error)}")
        return 1
    except Problem as problem:
        complain(f"runml: error: {problem}")
        return problem.status
    except (OSError, MemoryError) as error:
        complain(f"runml: error: {one_line(error)}")
        return 1
    return 0


if __name__ == "__main__":
    settle()
    stop_at_signals()
    status = main()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # all is done; Python may leave in peace
    sys.exit(status)
