#!/usr/bin/env python3
"""Do two sister species have a history of gene flow?

Three commands answer, and the second is there to be played with:

    runml --simulate
    runml --train --layers 2 --dropout 0.2 --epochs 10 --learning_rate 1e-05
    runml --test

`--simulate` draws populations from priors and simulates their genomes under two demographic models,
with and without gene flow; each data set is summarised as a joint site frequency spectrum (SFS).
`--train` teaches a convolutional neural network to tell the two models apart. `--test` simulates a
fresh set, which the network has never met, and counts its mistakes.

The file reads in the order in which the data flow. The lesson: 1 settings, 2 demographic models,
3 one joint SFS, 4 a dataset, 5 the network's input, 6 the network, 7 training, 8 evaluation, 9 the
commands. What serves it: 10 Keras, recurrent mutation, summaries, baselines, 11 goodness of fit,
12 observed spectra, 13 files, 14 workers, 15 the command line, 16 the screen, 17 pictures, 18 main.
What is typed goes from `main` through `parse_options` and `prepare` to the command of its name.
"""

# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = [
#     "demesdraw>=0.4", "joblib>=1.4", "keras>=3.15.1", "matplotlib>=3.10", "msprime>=1.3.4",
#     "numpy>=2.0", "scikit-learn>=1.6", "scipy>=1.14", "tensorflow>=2.21", "tqdm>=4.66",
# ]
# ///

import importlib.util
import os
import signal
import sys

PACKAGES = "demesdraw joblib keras matplotlib msprime numpy scipy sklearn tensorflow tqdm".split()
# Under a notebook's %run, signals, streams and the process are the notebook's.
STANDALONE = __name__ == "__main__" and "IPython" not in sys.modules

if STANDALONE:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports leaves no traceback
    os.environ["OMP_NUM_THREADS"] = "1"  # for matrices as small as ours, more threads take longer
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if sys.version_info < (3, 11) or missing:
        here = f"{sys.executable} is Python {sys.version_info[0]}.{sys.version_info[1]}, "
        here += "without " + ", ".join(missing) if missing else "which is too old"
        advice = "start the script as README.md says, by .venv/bin/python or the alias runml."
        sys.exit("runml: error: " + here + ": " + advice)

# ruff: noqa: E402
import argparse
import contextlib
import csv
import functools
import gzip
import hashlib
import io
import json
import logging
import math
import mmap
import multiprocessing
import multiprocessing.resource_tracker
import platform
import re
import shutil
import textwrap
import threading
import time
import traceback
import warnings
import zipfile
from collections import deque
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np

# ======================================= 1. Settings =======================================
#
# The default of every option, what it means, and the limits of its numbers.


@dataclass(frozen=True)
class Prior:
    """A prior between two ends, uniform or log-uniform; equal ends fix the value."""

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


@dataclass(frozen=True)
class PerSpecies:
    """A number for each of the two sister species."""

    a: int
    b: int


def option(default, meaning, low=None, high=None, exclude=None):
    """A setting: its default, what it means, and the limits of its numbers, both included."""
    limits = {"low": low, "high": high, "exclude": exclude}
    return field(default=default, metadata={"meaning": meaning, "limits": limits})


SEED = 1234, "one number fixes every result", 0, 2**32 - 1  # of simulation and training both


@dataclass(frozen=True)
class SimulationSettings:
    """What is simulated. Times are in generations, sizes in diploid individuals."""

    sample_size: PerSpecies = option(PerSpecies(10, 10), "diploid individuals per species", 1, 250)
    sequence_length: int = option(100_000, "base pairs of one locus", 1, 1e9)
    n_loci: int = option(1, "independent loci, whose spectra are added up", 1, 1e6)
    mutation_rate: Prior = option(Prior(1e-7, 1e-7), "per bp per generation", 0, 0.01, exclude=0)
    recombination_rate: Prior = option(Prior(1e-8, 1e-8), "per bp per generation", 0, 0.5)
    tdiv_prior: Prior = option(Prior(5e4, 5e5), "divergence time, generations", 0, 1e9, exclude=0)
    ne_prior: Prior = option(Prior(1e4, 1e5), "diploid individuals in ancestor, A, B", 1, 1e9)
    size_change_prior: Prior = option(
        Prior(1, 1), "factor by which each of them changed in size once", 0, 1000, exclude=0
    )
    migration_prior: Prior = option(Prior(1e-6, 1e-4), "proportion of migrants a generation", 0, 1)
    gene_flow_start: Prior = option(Prior(0.5, 0.5), "its onset, in divergence times", 0, 1)
    gene_flow_stop: Prior = option(Prior(0, 0), "its end, likewise; 0 is today", 0, 1)
    asymmetric: bool = option(False, "draw migration from A to B and from B to A independently")
    seed: int = option(*SEED)

    @property
    def n_sites(self):
        """The base pairs of all loci together."""
        return self.n_loci * self.sequence_length


@dataclass(frozen=True)
class TrainingSettings:
    """The hyperparameters: the network and how it learns, which the class experiments with."""

    layers: int = option(2, "fully connected layers, each half as wide as the one before", 1, 6)
    dropout: float = option(0.2, "proportion of the last hidden layer silenced", 0, 1, exclude=1)
    epochs: int = option(10, "passes through the training spectra", 1, 100_000)
    learning_rate: float = option(1e-5, "about the largest step of a weight", 0, 10, exclude=0)
    batch_size: int = option(64, "spectra in a mini-batch, for one step", 1, 100_000)
    folded: bool = option(False, "fold the spectra, for when ancestral alleles are not known")
    seed: int = option(*SEED)


@dataclass(frozen=True)
class RunSettings:
    """How much is simulated, and where. None of it changes what a replicate is."""

    n_reps: int = option(5_000, "training replicates per model", 1, 1e7)
    n_test_reps: int = option(1_000, "test replicates per model", 1, 1e7)
    workers: int = option(None, "processes that simulate", 1, 4096)
    dask_scheduler: str = option(None, "address of a Dask scheduler to simulate on instead")


# ==================================== 2. Demographic models ====================================

MODELS = ("divergence", "gene flow")  # the labels 0 and 1
POPULATIONS = ("ancestor", "a", "b")
PARAMETERS = np.dtype(
    [("divergence_time", float)]
    + [(f"size_{name}", float) for name in POPULATIONS]
    + [("migration_a_to_b", float), ("migration_b_to_a", float)]
    + [("gene_flow_start", float), ("gene_flow_stop", float)]
    + [(f"size_change_{name}", float) for name in POPULATIONS]
    + [(f"size_change_time_{name}", float) for name in POPULATIONS]
    + [("mutation_rate", float), ("recombination_rate", float)]
)
# When sizes change, in divergence times: the ancestor's before the divergence, A's and B's since.
SIZE_CHANGE_TIMES = {"ancestor": Prior(1, 5, "log"), "a": Prior(0.005, 1, "log")}
SIZE_CHANGE_TIMES["b"] = SIZE_CHANGE_TIMES["a"]


def draw_parameters(settings, label, rng):
    """Draw one pair of species from the priors, each parameter independently.

    Parameters
    ----------
    settings : SimulationSettings
    label : int
        0 for divergence, 1 for gene flow. The first model is the second with no migration.
    rng : numpy.random.Generator

    Returns
    -------
    numpy.void
        A record of `PARAMETERS`. Times are generations before today, the onset of gene flow being
        the older one; sizes are diploid individuals before the change of size, which multiplies
        them by its factor; "migration_a_to_b" is, forwards in time, the proportion of B that are
        migrants from A, per generation; rates are per base pair per generation.
    """
    drawn = {"divergence_time": settings.tdiv_prior.draw(rng)}
    for name in POPULATIONS:
        drawn[f"size_{name}"] = settings.ne_prior.draw(rng)
    a_to_b = drawn["migration_a_to_b"] = settings.migration_prior.draw(rng) * label
    b_to_a = settings.migration_prior.draw(rng) * label if settings.asymmetric else a_to_b
    drawn["migration_b_to_a"] = b_to_a
    window = settings.gene_flow_start.draw(rng), settings.gene_flow_stop.draw(rng)
    drawn["gene_flow_start"] = max(window) * drawn["divergence_time"]
    drawn["gene_flow_stop"] = min(window) * drawn["divergence_time"]
    for name in POPULATIONS:
        factor = drawn[f"size_change_{name}"] = settings.size_change_prior.draw(rng)
        when = SIZE_CHANGE_TIMES[name].draw(rng) if factor != 1 else 0
        drawn[f"size_change_time_{name}"] = when * drawn["divergence_time"]
    drawn["mutation_rate"] = settings.mutation_rate.draw(rng)
    drawn["recombination_rate"] = settings.recombination_rate.draw(rng)
    return np.void(tuple(drawn[name] for name in PARAMETERS.names), PARAMETERS)


def demographic_model(parameters):
    """An ancestor that splits into A and B, which may exchange migrants for some of the time since.

    From one record of `PARAMETERS`; returns a `msprime.Demography`.
    """
    import msprime

    demography = msprime.Demography()
    for population, name in (("A", "a"), ("B", "b"), ("ancestor", "ancestor")):
        size, factor = parameters[f"size_{name}"], parameters[f"size_change_{name}"]
        demography.add_population(name=population, initial_size=size * factor)
        if factor != 1:
            change = {"population": population, "initial_size": size}
            when = parameters[f"size_change_time_{name}"]
            demography.add_population_parameters_change(when, **change)
    # Time runs backwards from today. A lineage of B that is traced back to A came from there.
    for source, dest, rate in (("B", "A", "migration_a_to_b"), ("A", "B", "migration_b_to_a")):
        demography.add_migration_rate_change(
            time=parameters["gene_flow_stop"], source=source, dest=dest, rate=parameters[rate]
        )
    demography.add_migration_rate_change(time=parameters["gene_flow_start"], rate=0)
    demography.add_population_split(
        time=parameters["divergence_time"], derived=["A", "B"], ancestral="ancestor"
    )
    demography.sort_events()
    return demography


# ============================ 3. One joint site frequency spectrum ============================


def simulate_sfs(settings, parameters, rng):
    """Simulate the genealogies of both samples, and the SNPs on them as a joint SFS.

    msprime gives the genealogies along the sequence. On each branch, mutations are Poisson, with a
    mean of mutation rate x length of the branch x span of sequence (Hudson 1990). So the mutations
    in a cell of the SFS are Poisson too; their mean is the mutation rate x the area of all branches
    with as many descendants in A and in B (Ralph, Thornton and Kelleher 2020). To draw them takes a
    twentieth of the time of placing each. Last, some fall on one site: `add_recurrent_mutations`.

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
        recombination_rate=parameters["recombination_rate"],
        num_replicates=settings.n_loci,  # what msprime calls replicates are our loci
        random_seed=rng.integers(1, 2**32),
        record_provenance=False,
    )
    style = {"mode": "branch", "polarised": True, "span_normalise": False}
    branch_area = 0
    for trees in loci:
        of_a_and_b = [trees.samples(population=0), trees.samples(population=1)]
        branch_area += trees.allele_frequency_spectrum(of_a_and_b, **style)
    mutations = rng.poisson(parameters["mutation_rate"] * branch_area)
    return add_recurrent_mutations(mutations, settings.n_sites, rng).astype(np.int32)


# ======================================== 4. A dataset ========================================

# Each use of the seed has a stream of random numbers of its own. A replicate's stream appends its
# row, (0, row) or (1, row), which is neither (2, 0) nor (2, 1): no two streams meet.
TRAINING_SET, TEST_SET, SPLIT, WEIGHTS = (0,), (1,), (2, 0), (2, 1)


def random_stream(seed, stream, *replicate):
    """The random numbers of one use of the seed, or of one replicate in it."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(*stream, *replicate)))


def simulate_block(settings, stream, rows):
    """Some rows of a dataset: always the same for the same settings, stream and rows.

    Returns a dictionary of arrays by the names of their files: "sfs", shape (rows, 2 * n_A + 1,
    2 * n_B + 1, 1), with one channel, like a picture in grey; the labels; and the parameters.
    """
    spectra, labels, parameters = [], [], []
    for row in rows:
        rng = random_stream(settings.seed, stream, row)
        labels.append(row % len(MODELS))  # they take turns, so a dataset of any size is balanced
        parameters.append(draw_parameters(settings, labels[-1], rng))
        spectra.append(simulate_sfs(settings, parameters[-1], rng))
    return {
        "sfs": np.stack(spectra)[..., np.newaxis],
        "responses": np.array(labels, np.int32),
        "parameters": np.array(parameters, PARAMETERS),
    }


ROWS_PER_BLOCK = 25  # under a second: with more, workers wait at the end; fewer cost a cluster time


def simulate_dataset(specification, stream, folder, name, run):
    """Simulate a dataset into a folder, or go on with the blocks that an earlier try left there.

    Each block is a file as soon as it is done, so memory does not grow. `stream` is `TRAINING_SET`
    or `TEST_SET`; `run` says where it is done, and the result is the same anywhere.
    """
    from tqdm import tqdm

    n_rows = 2 * specification.n_reps
    blocks = {
        folder / f"block_{first}.npz": range(first, min(first + ROWS_PER_BLOCK, n_rows))
        for first in range(0, n_rows, ROWS_PER_BLOCK)
    }
    todo = {path: rows for path, rows in blocks.items() if not is_whole(path)}
    n_done = n_rows - sum(map(len, todo.values()))
    if n_done:
        print(f"Going on after the {n_done:,} spectra that an interrupted run left.")
    tasks = [(specification.settings, stream, rows) for rows in todo.values()]
    tqdm.monitor_interval = 0  # no thread: it would get signals that are blocked for a moment
    style = {"initial": n_done, "unit": " SFS", "file": sys.stdout, "mininterval": 1}
    with tqdm(total=n_rows, **style) as bar:
        for path, block in zip(todo, in_parallel(simulate_block, tasks, run), strict=True):
            np.savez_compressed(path, **block)
            bar.update(len(block["sfs"]))
    save_dataset(blocks, specification, folder, name)


# ==================================== 5. The network's input ====================================


def snp_mask(shape):
    """1 for each cell of a joint SFS, but 0 for the two of alleles that none or all carry."""
    mask = np.ones(shape, np.float32)
    mask[0, 0] = mask[-1, -1] = 0
    return mask


def fold(sfs):
    """Fold joint SFS, shape (N, n_A + 1, n_B + 1, 1), where ancestral alleles are not known.

    Each SNP moves to the count of its minor allele, the rarer one in both samples together; where
    both are as common, half of it moves. The same as `moments.Spectrum.fold`.
    """
    n_a, n_b = sfs.shape[1] - 1, sfs.shape[2] - 1
    total = np.add.outer(np.arange(n_a + 1), np.arange(n_b + 1))[..., np.newaxis]
    weight = np.select([2 * total < n_a + n_b, 2 * total == n_a + n_b], [1, 0.5], 0)
    return (sfs + sfs[:, ::-1, ::-1]) * weight.astype(np.float32)


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
    """From raw counts to the network's input: the square roots of the counts in bins.

    The root makes the sampling error of small and of large Poisson counts equal.

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


def network_inputs(sfs, folded):
    """The network's input for many spectra, memory-mapped or not."""
    return np.concatenate([preprocess(piece, folded).astype(np.float32) for piece in pieces(sfs)])


# ======================================= 6. The network =======================================

FILTERS = 16  # of the convolution
UNITS = 128  # in the first hidden layer

# Adam moves a weight by about the learning rate a step, however steep the loss is. At the lesson's
# 1e-5 a usual network hardly leaves its starting point in ten epochs. Hence the learning rate is
# equalised (Karras et al. 2018): each layer's input is multiplied by a gain, its initial weights
# are divided by it. The network starts as the same function, but a step of Adam changes it fifteen
# times as much, so that 1e-5 does here what 1.5e-4 does in a usual network.
GAIN = 15
FIRST_GAIN = "first_gain"  # the layer before which nothing learns


def build_network(shape, settings):
    """The convolutional network, from raw counts to the probabilities of the two models.

    An SFS is no photograph: where a cell stands is what it means. Hence, beyond the bins, no
    pooling of neighbours, which would blur it.

    Parameters
    ----------
    shape : tuple of int
        (2 * n_A + 1, 2 * n_B + 1), the shape of a joint SFS.
    settings : TrainingSettings

    Returns
    -------
    keras.Model
        Takes counts, shape (N, 2 * n_A + 1, 2 * n_B + 1, 1), folded ones too if it folds, and
        returns estimates of the posterior probabilities of divergence and gene flow under equal
        prior weights, shape (N, 2).
    """
    keras = start_keras()
    from keras import layers

    keras.utils.set_random_seed(int(random_stream(settings.seed, WEIGHTS).integers(2**31)))

    def he_weights():  # He et al. 2015, divided by the gain
        return keras.initializers.VarianceScaling(2 / GAIN**2, mode="fan_in")

    counts = keras.Input(shape=(*shape, 1), name="joint_sfs")
    x = preprocess(counts, settings.folded, keras.ops)
    x = layers.Rescaling(GAIN, name=FIRST_GAIN)(x)
    style = {"padding": "same", "activation": "relu"}
    x = layers.Conv2D(FILTERS, 3, kernel_initializer=he_weights(), **style)(x)
    x = layers.Flatten()(x)
    for layer in range(settings.layers):
        x = layers.Rescaling(GAIN)(x)
        x = layers.Dense(UNITS // 2**layer, activation="relu", kernel_initializer=he_weights())(x)
    x = layers.Dropout(settings.dropout)(x)  # once: after each layer it cost accuracy
    x = layers.Rescaling(GAIN)(x)
    # Weights of zero: before it learns, the network gives both models one half.
    logits = layers.Dense(2, kernel_initializer="zeros")(x)
    return keras.Model(counts, layers.Softmax()(logits))


def learning_part(model):
    """The same network without its preprocessing, from its input on; both share their weights."""
    return start_keras().Model(model.get_layer(FIRST_GAIN).input, model.output)


# ========================================= 7. Training =========================================

VALIDATION_SHARE = 0.2
STEPS_AT_ONCE = 100  # that TensorFlow takes before Python looks at it again


def split_rows(labels, seed):
    """Part a dataset's rows at random, each model alike: some to train on, some for validation."""
    from sklearn.model_selection import train_test_split

    random_state = int(random_stream(seed, SPLIT).integers(2**32))
    share = {"test_size": VALIDATION_SHARE, "stratify": labels, "random_state": random_state}
    return [np.sort(rows) for rows in train_test_split(np.arange(len(labels)), **share)]


def augment(inputs, labels, shape):
    """Data augmentation: where nothing tells A from B, a spectrum with its axes swapped is as good.

    One prior serves both species; it remains that their samples, by `shape`, are equal too.
    """
    if shape[0] != shape[1]:
        return inputs, labels
    return np.concatenate([inputs, inputs.swapaxes(1, 2)]), np.concatenate([labels, labels])


def train_network(model, inputs, labels, split, settings, log_path=None):
    """Train a network in place.

    Parameters
    ----------
    model : keras.Model
        From `build_network`. Only what is behind its preprocessing learns.
    inputs : numpy.ndarray of float32, shape (N, bins of A, bins of B, 1)
        From `network_inputs`.
    labels : numpy.ndarray of int32, shape (N,)
    split : list of two numpy.ndarray
        The rows to train on, and those for validation.
    settings : TrainingSettings
    log_path : pathlib.Path, optional
        Where Keras keeps the history, epoch by epoch, as a table.

    Returns
    -------
    dict of str to list of float
        Loss and accuracy of the training and of the validation part, one value an epoch.
    """
    keras = start_keras()
    training, validation = split
    augmented = augment(inputs[training], labels[training], model.input_shape[1:3])
    n_steps = math.ceil(len(augmented[0]) / settings.batch_size)
    swapped = " and as many with A and B swapped" if len(augmented[0]) > len(training) else ""
    print(f"Training on {len(training):,} spectra{swapped}, validating on {len(validation):,}.")
    learner, momentum = learning_part(model), 1 - 1 / n_steps
    learner.compile(
        # What is validated and kept is an exponential moving average of the weights over about the
        # last epoch: it has less noise than the weights after the last step.
        keras.optimizers.Adam(settings.learning_rate, use_ema=True, ema_momentum=momentum),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=min(STEPS_AT_ONCE, n_steps),
    )
    callbacks = [keras.callbacks.SwapEMAWeights(), epoch_lines()]
    if log_path:
        callbacks.append(keras.callbacks.CSVLogger(log_path))
    history = learner.fit(
        *augmented,
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        validation_data=(inputs[validation], labels[validation]),
        validation_batch_size=1000,
        callbacks=callbacks,
        verbose=0,
    )
    return history.history


# ======================================== 8. Evaluation ========================================

CHANCE_LOSS = math.log(2)  # of giving both models one half
MAX_ERROR = 0.05  # a model is told where the other one's probability is below this, else undecided


def predict_probabilities(model, sfs):
    """The probabilities of divergence and gene flow that a network gives, shape (N, 2)."""
    return np.concatenate([model.predict_on_batch(piece) for piece in pieces(sfs)]).astype(float)


def evaluate(probabilities, labels):
    """How well a classifier does on spectra that it has never met.

    From what it gives, shape (N, 2), and the true labels, shape (N,).

    Returns
    -------
    dict
        `accuracy` with Wilson's interval, `log_loss` (the cross-entropy, in natural logarithms),
        `roc_auc`, `confusion_matrix` (a row for each true, a column for each predicted model), how
        many verdicts are `told` and `told_wrongly` (see `MAX_ERROR`), `undecided`, and `n_test`.
    """
    from sklearn import metrics

    predicted, told = probabilities.argmax(axis=1), probabilities.min(axis=1) < MAX_ERROR
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)  # float32: not quite 1
    n_right = int((predicted == labels).sum())
    return {
        "accuracy": n_right / len(labels),
        "accuracy_95ci": wilson_interval(n_right, len(labels)),
        "log_loss": metrics.log_loss(labels, probabilities, labels=[0, 1]),
        "roc_auc": metrics.roc_auc_score(labels, probabilities[:, 1]),
        "confusion_matrix": metrics.confusion_matrix(labels, predicted, labels=[0, 1]).tolist(),
        "told": int(told.sum()),
        "told_wrongly": int((told & (predicted != labels)).sum()),
        "undecided": int((~told).sum()),
        "n_test": len(labels),
    }


# ======================================= 9. The commands =======================================
#
# Each gets what `prepare` has found and checked before the first of them began; what an earlier one
# makes is read from the folder. The fourth, `predict`, stands with the observed spectra (12).


def simulate(folder, specification, run):
    """`runml --simulate`: from the priors to a dataset of joint SFS in the folder."""
    start = time.perf_counter()
    print(f"Simulating {specification.n_reps:,} replicates of each model.")
    print_wrapped(format_size(specification.settings))
    with new_files(folder, "simulated", fingerprint(specification.as_saved())) as staging:
        simulate_dataset(specification, TRAINING_SET, staging, "simulated", run)
    seconds = time.perf_counter() - start
    print(f"{2 * specification.n_reps:,} joint SFS saved in {folder} after {seconds:.0f} s.")

    dataset = load_dataset(folder).first()
    print_simulated(dataset)
    save_picture(folder / "demographic_models.png", draw_models, specification.settings)
    save_picture(folder / "simulated_sfs.png", draw_sfs, dataset)
    print("Next: runml --train")


def train(folder, settings, runs, dataset=None):
    """`runml --train`: from the dataset to a network."""
    start = time.perf_counter()
    dataset = dataset or load_dataset(folder)
    model = build_network(dataset.sfs.shape[1:3], settings)
    print_network(model)
    inputs = network_inputs(dataset.sfs, settings.folded)
    split = split_rows(dataset.labels, settings.seed)
    with new_files(folder, "trained") as staging:
        log_path = staging / "training_history.csv"
        history = train_network(model, inputs, dataset.labels, split, settings, log_path)
        if not math.isfinite(history["val_loss"][-1]):
            rate = f"--learning_rate {settings.learning_rate:g}"
            raise UserError(f"{rate}: too large, the loss overflows.")
        table = make_reference_table(dataset, inputs, split, model, settings.folded)
        network = Network(model, settings, dataset.specification, dataset.checksums, table)
        save_network(staging / MODEL, network)
        seconds = time.perf_counter() - start
        runs.append(row_of_run(network, history, seconds))
        save_table(staging / "experiments.csv", runs)
    accuracy, loss = history["val_accuracy"][-1], history["val_loss"][-1]
    print(f"Validation accuracy {accuracy:.4f}, loss {loss:.4f}.")
    regression_learns = functools.partial(has_regression_learned, network)
    print_wrapped(describe_curves(history["loss"], history["val_loss"], regression_learns))
    print(f"Model saved in {folder / MODEL} after {seconds:.0f} s.")

    comparable = [run for run in runs if run.get("data") == runs[-1]["data"]]
    print_runs(comparable)
    save_picture(folder / "training_history.png", draw_history, comparable)
    print("Next: runml --train with other settings or, when you have chosen, runml --test")


def test(folder, name, specification, log, run, network=None):
    """`runml --test`: from the network and a test set of its own to how often it is right."""
    network = network or load_network(folder / MODEL)
    print_test_settings(specification, network.specification)
    met_before = {row["model"] for row in log if row["test_set"] == specification.test_set}
    kind = "known" if met_before else "fresh"
    print(f"Simulating {specification.n_reps:,} {kind} replicates of each model.")
    with new_files(folder, name) as staging:
        simulate_dataset(specification, TEST_SET, staging, name, run)
        dataset = load_dataset(staging, name)
        probabilities = predict_probabilities(network.model, dataset.sfs)
        results = evaluate(probabilities, dataset.labels) | {
            "recognised_by_migration_rate": power_by_migration(dataset, probabilities),
            "baselines": baseline_accuracies(network, dataset),
            "seed": specification.settings.seed,
            "test_set": specification.test_set,
            "model": network.fingerprint,
        }
        (staging / f"{name}_results.json").write_text(json.dumps(results, indent=2) + "\n")
        row = {column: results[column] for column in TEST_COLUMNS}
        save_table(staging / f"{name}_log.csv", [*log, row])
        # The picture needs no more of them, and Windows moves no file that is mapped to memory.
        dataset = replace(dataset, sfs=np.array(dataset.sfs[:N_ATTRIBUTED]))
    print_test(results, len(met_before | {network.fingerprint}))
    report = folder / f"{name}_report.png"
    save_picture(report, draw_test, name, results, probabilities, dataset, network)
    if name == "test":
        print("Next: runml --predict FILE with the spectrum of two species of your own")
    else:
        print(f"Its files begin with {name}_; test_results.json is as it was.")


# The lesson ends here. What follows serves it; the first lines of this file say what is where.

# ============= 10. Behind the lesson: Keras, recurrent mutation, summaries, baselines =============


@functools.cache
def start_keras():
    """Keras on TensorFlow, made repeatable, without what TensorFlow prints when it starts."""
    cpu = Path("/proc/cpuinfo")  # on Linux; without AVX, TensorFlow would kill the process
    if platform.machine() == "x86_64" and cpu.exists() and "avx" not in cpu.read_text():
        raise UserError("this machine has no AVX, which TensorFlow needs: use another")
    os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}  # 3: silent
    # Operations on spectra are done before more threads have woken up to share them.
    os.environ |= {"TF_ENABLE_ONEDNN_OPTS": "1", "TF_NUM_INTRAOP_THREADS": "1"}
    screen = os.dup(2)
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        import keras
        import tensorflow as tf

        tf.config.list_physical_devices()  # says more, the first time
    finally:
        os.dup2(screen, 2)
    tf.config.experimental.enable_op_determinism()
    keras.config.set_floatx("float32")  # whatever a user's keras.json says
    keras.config.set_image_data_format("channels_last")
    return keras


MAX_MUTATIONS_PER_SITE = 0.5  # beyond, recurrent mutation would have to be simulated site by site


def add_recurrent_mutations(mutations, n_sites, rng):
    """Let some mutations fall on sites that have mutated before (finite sites).

    `mutations` counts them by their carriers in A and in B, as if each were alone at its site; what
    is returned counts derived alleles likewise, of which a site may have several, as in tskit.

    With k mutations a site, k - 1 + exp(-k) of them meet an earlier one. Which two meet is drawn
    from the spectrum; one time in three they make the same nucleotide (Jukes and Cantor 1969). Two
    are apart, on different branches, if both sets of carriers fit into the sample: of the same
    nucleotide, they become one allele (homoplasy). If not, and one has no more carriers in either
    species, it arose within the other: its carriers lose the older allele for it or, of the same
    nucleotide, mutate back. The rest stay as they are or, of the same nucleotide, lose the rarer.

    Beside `msprime.sim_mutations`, at 0.18 mutations a site (the lesson's mean), this makes 1% more
    SNPs and up to 2% more shared polymorphisms; at 0.5 4% and 6% more, at 1 9% and 12% more.
    """
    per_site = mutations.sum() / n_sites
    n_meetings = rng.poisson(n_sites * (per_site + np.expm1(-per_site)))
    n_meetings = min(n_meetings, mutations.sum() // 2)
    meeting = rng.multivariate_hypergeometric(mutations.ravel(), 2 * n_meetings)
    pairs = rng.permutation(np.repeat(np.arange(mutations.size), meeting)).reshape(2, n_meetings)
    carriers = np.stack(np.unravel_index(pairs, mutations.shape), axis=1)
    larger_first = np.argsort(-carriers.sum(axis=1, keepdims=True), axis=0, kind="stable")
    large, small = np.take_along_axis(carriers, larger_first, axis=0)  # each (species, meetings)

    n_chromosomes = np.subtract(mutations.shape, 1)[:, np.newaxis]
    apart = (large + small <= n_chromosomes).all(axis=0)
    within = (small <= large).all(axis=0) & ~apart
    same_nucleotide = rng.random(n_meetings) < 1 / 3
    # Apart, two alleles become one or stay two; within, the older loses the younger's carriers.
    gained = (apart & same_nucleotide).astype(int) - within
    alleles = np.append(large + gained * small, small[:, ~same_nucleotide], axis=1)
    cells = np.ravel_multi_index(tuple(alleles), mutations.shape)
    sfs = mutations.ravel() - meeting + np.bincount(cells, minlength=mutations.size)
    return sfs.reshape(mutations.shape) * snp_mask(mutations.shape).astype(int)


def wilson_interval(n_right, n):
    """The 95% interval of a proportion of `n_right` out of `n` (Wilson 1927)."""
    from scipy.stats import binomtest

    return list(binomtest(int(n_right), int(n)).proportion_ci(0.95, method="wilson"))


def parameters_at(settings, label, quantile):
    """Parameters at a quantile of every prior (0.5: the median): drawn by a fixed "chance"."""
    rng = SimpleNamespace(uniform=lambda low, high: low + quantile * (high - low))
    return draw_parameters(settings, label, rng)


def mean_migration(parameters):
    """The migration rate, the mean of both ways."""
    return (parameters["migration_a_to_b"] + parameters["migration_b_to_a"]) / 2


def power_by_migration(dataset, probabilities, n_bins=5):
    """How much gene flow is recognised (the power), in bins of equally many migration rates."""
    rows = dataset.labels == 1
    rates = mean_migration(dataset.parameters[rows])
    recognised, bins = probabilities[rows].argmax(axis=1), []
    for some in np.array_split(np.argsort(rates, kind="stable"), min(n_bins, len(rates))):
        ends = {"lowest": float(rates[some].min()), "highest": float(rates[some].max())}
        bins.append(ends | {"recognised": int(recognised[some].sum()), "n": len(some)})
    return bins


SCALE = "--mutation_rate, --sequence_length, --n_loci and missing genotypes"
DIVERSITY = f"--ne_prior, {SCALE}"
HISTORY = "--tdiv_prior, --ne_prior, --migration_prior and when gene flow took place"
ANCESTRY = "which alleles are ancestral (if that is not known, --train --folded)"
# What one would look at without a network: its unit, its format, and what it depends on.
SUMMARIES = {
    "SNPs": ("", ",.0f", f"--tdiv_prior, {DIVERSITY}"),
    "pi in A": (", per bp", ".3g", DIVERSITY),
    "pi in B": (", per bp", ".3g", DIVERSITY),
    "d_XY": (", per bp", ".3g", f"--tdiv_prior, --migration_prior, {DIVERSITY}"),
    "shared": (", proportion", ".3f", HISTORY),
    "private to A": (", proportion", ".3f", HISTORY),
    "private to B": (", proportion", ".3f", HISTORY),
    "fixed differences": (", proportion", ".3f", HISTORY),
    "singletons per doubleton": ("", ".2f", "coverage, filters on frequency, changes of size"),
    "derived allele major": (", proportion", ".3f", ANCESTRY),
    "F_ST": ("", ".3f", HISTORY),
}


def summary_dtype(folded):
    """The type of the records of `summarise`: of folded spectra, nothing that takes ancestry."""
    names = [name for name, (*_, cause) in SUMMARIES.items() if not (folded and cause == ANCESTRY)]
    return np.dtype([(name, float) for name in names])


def summarise(sfs, folded=False):
    """The summaries of joint SFS, shape (N, n_A + 1, n_B + 1, 1): records, shape (N,).

    Pi and d_XY, the mean numbers of differences between two chromosomes of one species and of each,
    are sums over the sequence; F_ST is Hudson's, 1 - mean(pi) / d_XY (Bhatia et al. 2013).
    """
    n_a, n_b = sfs.shape[1] - 1, sfs.shape[2] - 1
    a, b = np.ogrid[: n_a + 1, : n_b + 1]
    in_a, in_b = (a > 0) & (a < n_a), (b > 0) & (b < n_b)  # polymorphic there
    carriers = np.minimum(a + b, n_a + n_b - a - b) if folded else a + b
    weights = {  # what a SNP adds
        "SNPs": a >= 0,
        "pi in A": 2 * a * (n_a - a) / (n_a * (n_a - 1)),
        "pi in B": 2 * b * (n_b - b) / (n_b * (n_b - 1)),
        "d_XY": (a * (n_b - b) + b * (n_a - a)) / (n_a * n_b),
        "shared": in_a & in_b,
        "private to A": in_a & ~in_b,
        "private to B": in_b & ~in_a,
        "fixed differences": ~in_a & ~in_b,
        "derived allele major": 2 * (a + b) > n_a + n_b,
        "singletons": carriers == 1,
        "doubletons": carriers == 2,
    }
    table = np.stack([(each * snp_mask((n_a + 1, n_b + 1))).ravel() for each in weights.values()])
    sums = np.concatenate([piece.reshape(len(piece), -1) @ table.T for piece in pieces(sfs)])
    sums = dict(zip(weights, sums.T, strict=True))
    sums["singletons per doubleton"] = sums["singletons"] / np.maximum(sums["doubletons"], 1)
    pi, d_xy = (sums["pi in A"] + sums["pi in B"]) / 2, sums["d_XY"]
    sums["F_ST"] = 1 - np.divide(pi, d_xy, out=np.ones(len(sfs)), where=d_xy > 0)
    values = np.empty(len(sfs), summary_dtype(folded))
    for name in values.dtype.names:
        of_snps = SUMMARIES[name][0] == ", proportion"
        values[name] = sums[name] / np.maximum(sums["SNPs"], 1) if of_snps else sums[name]
    return values


def flat(inputs):
    """A row for each spectrum, shape (N, bins)."""
    return inputs.reshape(len(inputs), -1)


def fit_logistic_regression(network):
    """A logistic regression on the network's input; validation chooses the penalty's strength."""
    from sklearn import linear_model, metrics

    training, validation = parts(network.table)
    shape = network.model.input_shape[1:3]
    inputs, labels = augment(training["inputs"], training["labels"], shape)
    losses = {}
    for c in (0.001, 0.01, 0.1):
        fit = linear_model.LogisticRegression(C=c, solver="newton-cg").fit(flat(inputs), labels)
        given = fit.predict_proba(flat(validation["inputs"]))
        losses[fit] = metrics.log_loss(validation["labels"], given)
    return min(losses, key=losses.get)


def baseline_accuracies(network, dataset):
    """The accuracies on a dataset of classifiers that learn from the network's reference table."""
    from sklearn.tree import DecisionTreeClassifier

    training, folded = parts(network.table)[0], network.settings.folded
    summaries, accuracies = summarise(dataset.sfs, folded), {}
    for name in ("F_ST", "shared"):  # on which one could set a threshold: a tree of one node
        known, new = (each[name][:, np.newaxis] for each in (training["summaries"], summaries))
        tree = DecisionTreeClassifier(max_depth=1).fit(known, training["labels"])
        accuracies[f"threshold on {name}"] = tree.score(new, dataset.labels)
    regression = fit_logistic_regression(network)
    inputs = flat(network_inputs(dataset.sfs, folded))
    return accuracies | {"logistic regression": regression.score(inputs, dataset.labels)}


# ===================================== 11. Goodness of fit =====================================

MAX_REFERENCES = 10_000  # simulations in a reference table


def reference_dtype(input_shape, folded):
    """The type of the reference table in a model file, a row for each of some simulations."""
    columns = [
        ("inputs", np.float32, input_shape),  # of the network, (bins of A, bins of B, 1)
        ("summaries", summary_dtype(folded)),
        ("parameters", PARAMETERS),  # NaN where they are not known
        ("labels", np.int32),
        ("is_validation", bool),  # whether the network has not learned from it
        ("probabilities", float, 2),  # what the network gives
    ]
    return np.dtype(columns)


def make_reference_table(dataset, inputs, split, model, folded):
    """The reference table of a network, with as much of the training as of the validation part."""
    share = min(1, MAX_REFERENCES / len(inputs))
    kept = [np.linspace(0, len(part) - 1, int(share * len(part)), dtype=int) for part in split]
    rows = np.concatenate([part[evenly] for part, evenly in zip(split, kept, strict=True)])
    table = np.empty(len(rows), reference_dtype(inputs.shape[1:], folded))
    table["inputs"] = inputs[rows]
    table["summaries"] = summarise(dataset.sfs, folded)[rows]
    table["parameters"] = dataset.parameters[rows]
    table["labels"] = dataset.labels[rows]
    table["is_validation"] = np.isin(rows, split[1])
    table["probabilities"] = predict_probabilities(learning_part(model), inputs[rows])
    return table


def parts(table):
    """The training and the validation part of a reference table."""
    return table[~table["is_validation"]], table[table["is_validation"]]


N_COMPONENTS = 8  # principal components of the network's input
N_MIXTURE = 12  # components of the density model: a single normal would fill what is bent
N_NEAREST = 50  # simulations of a model: more make the ranges of parameters wider
FALSE_ALARMS = 0.01  # proportion of a model's own spectra that a check takes for outliers, at least
LOG_SUMMARIES = ("SNPs", "pi in A", "pi in B", "d_XY", "shared", "derived allele major")


class ModelFit:
    """What one model's simulations, N rows of a reference table, say about other spectra.

    Before inference: how dense are they around a spectrum, by a mixture of normal distributions?
    After inference: has each species as many singletons as the nearest simulations let expect,
    which shows changes of size (Fu and Li 1993)? Each simulation is judged by the others in the
    same way: a p-value is the proportion of them that are as extreme. The nearest simulations have
    nearly the same estimates of the parameters (semi-automatic ABC, Fearnhead and Prangle 2012).
    `spectra` are rows of such a table, or a dictionary of "inputs" and "summaries".
    """

    def __init__(self, table):
        from scipy.stats import norm, rankdata
        from sklearn import decomposition, linear_model, model_selection, preprocessing
        from sklearn.mixture import GaussianMixture
        from sklearn.neighbors import NearestNeighbors

        n, inputs = len(table), flat(table["inputs"])
        self.table, self.false_alarms = table, max(FALSE_ALARMS, 1 / (n + 1))
        n_components = min(N_COMPONENTS, 1 + n // 20, inputs.shape[1] // 3)
        self.components = decomposition.PCA(n_components, random_state=0).fit(inputs)
        self.scaler = preprocessing.StandardScaler()
        own = self.scaler.fit_transform(self.features(table))
        self.density = GaussianMixture(min(N_MIXTURE, 1 + n // 200), reg_covar=0.1, random_state=0)
        self.rarities = np.empty(n)
        for most, rest in model_selection.KFold(5, shuffle=True, random_state=0).split(own):
            self.rarities[rest] = -self.density.fit(own[most]).score_samples(own[rest])
        self.density.fit(own)

        parameters = np.column_stack([table["parameters"][name] for name in PARAMETERS.names])
        scaled = norm.ppf((rankdata(parameters, axis=0) - 0.5) / n)  # each prior as a normal one
        targets = own if np.isnan(parameters).any() else scaled
        self.axes = linear_model.RidgeCV(np.logspace(-1, 4, 8)).fit(own, targets)
        self.places = self.axes.predict(own)
        self.neighbours = NearestNeighbors(n_neighbors=min(N_NEAREST, n // 4)).fit(self.places)
        self.nearest_of_own = self.neighbours.kneighbors(return_distance=False)  # of the others
        self.misfits = self.misfit(table)

    def features(self, spectra):
        """What describes spectra, shape (N, features), before it is scaled."""
        inputs, summaries = flat(spectra["inputs"]), spectra["summaries"]
        scores = self.components.transform(inputs)
        residual = inputs - self.components.inverse_transform(scores)
        # Logarithms make stand out what is missing, as derived major alleles in folded spectra.
        logs = [np.log(summaries[x] + 1e-6) for x in LOG_SUMMARIES if x in summaries.dtype.names]
        return np.column_stack([scores, np.log((residual**2).sum(axis=1) + 0.01), *logs])

    def p_value(self, spectra):
        """The proportion of the simulations that are as far out as each spectrum, shape (N,)."""
        scaled = self.scaler.transform(self.features(spectra))
        return proportion_beyond(-self.density.score_samples(scaled), self.rarities)

    def nearest(self, spectra):
        """Places of spectra among the simulations, and the rows of the nearest (rejection ABC)."""
        if spectra is self.table:  # whose nearest are others, not themselves
            return self.places, self.nearest_of_own
        places = self.axes.predict(self.scaler.transform(self.features(spectra)))
        return places, self.neighbours.kneighbors(places, return_distance=False)

    def deviations(self, spectra, describe, least):
        """By how many standard deviations, of `least` or more, spectra are off what is expected.

        What `describe` makes of inputs, (M, V), is expected by a linear regression on the nearest
        simulations, as these may lie on one side of a place (Beaumont et al. 2002).
        """
        places, nearest = self.nearest(spectra)
        off = np.insert(self.places[nearest] - places[:, np.newaxis], 0, 1, axis=2)
        gram = off.swapaxes(1, 2) @ off + 0.01 * np.eye(off.shape[2])
        near = describe(self.table["inputs"])[nearest]
        mean = near.mean(axis=1, keepdims=True)
        coefficients = np.linalg.solve(gram, off.swapaxes(1, 2) @ (near - mean))
        expected = mean[:, 0] + coefficients[:, 0]
        deviation = np.maximum((near - off @ coefficients).std(axis=1), least)
        return (describe(spectra["inputs"]) - expected) / deviation

    def misfit(self, spectra):
        """The sum of squares of both species' singletons off what is expected, shape (N,)."""
        return (self.deviations(spectra, singletons, 1e-3) ** 2).sum(axis=1)

    def coverage(self, name):
        """How often a parameter lies within 5% and 95% of the nearest simulations' (validation)."""
        values = self.table["parameters"][name]
        low, high = np.quantile(values[self.nearest_of_own], [0.05, 0.95], axis=1)
        return ((low <= values) & (values <= high))[self.table["is_validation"]].mean()


def singletons(inputs):
    """Of the SNPs in each species, the proportion that one chromosome alone carries, (N, 2)."""
    counts = inputs[..., 0] ** 2  # the second bin has the count 1 alone
    of_each = [counts.sum(axis=axis)[:, 1:-1] for axis in (2, 1)]
    return np.column_stack([own[:, 0] / np.maximum(own.sum(axis=1), 1) for own in of_each])


def proportion_beyond(values, simulated):
    """The proportion of a model's spectra expected to be as extreme as values, shape (N,)."""
    return (1 + (simulated >= values[:, np.newaxis]).sum(axis=1)) / (1 + len(simulated))


def has_learned(table, probabilities):
    """Whether `probabilities` of a table's rows beat a coin in validation by 2 standard errors."""
    rows = table["is_validation"]
    losses = -np.log(np.maximum(probabilities[rows, table["labels"][rows]], 1e-7))
    return losses.mean() + 2 * losses.std() / math.sqrt(len(losses)) < CHANCE_LOSS


def has_regression_learned(network):
    """The same of a logistic regression on a network's input."""
    given = fit_logistic_regression(network).predict_proba(flat(network.table["inputs"]))
    return has_learned(network.table, given)


# ===================================== 12. Observed spectra =====================================

MAX_SPECTRUM_BYTES = 8_000_000  # of 250 + 250 individuals, in text, it has a few million
MAX_SNPS = 1e12  # in a cell: no genome has so many


@dataclass(frozen=True)
class Observed:
    """A joint SFS from nature."""

    counts: np.ndarray  # (n_A + 1, n_B + 1) by chromosomes; after a projection, fractions of SNPs
    folded: bool
    names: tuple = ()  # of the species, if the file tells
    remark: str = ""  # what there is to say about it


def individuals(shape):
    """The sample size behind a joint SFS of shape (2 * n_A + 1, 2 * n_B + 1)."""
    return PerSpecies(*(n // 2 for n in shape))


def sfs_shape(sample_size):
    """The shape of a joint SFS: 0 to 2 * n copies of an allele in each species."""
    return (2 * sample_size.a + 1, 2 * sample_size.b + 1)


def of_diploids(shape):
    """Whether a joint SFS of some shape is of even numbers of chromosomes, and not of none."""
    return all(n >= 3 and n % 2 for n in shape)


def read_observed(path):
    """Read an observed joint SFS, of whichever of the `SPECTRUM_KINDS` the file is."""
    with naming_file(path, "joint SFS"):
        with path.open("rb") as file:
            data = file.read(MAX_SPECTRUM_BYTES + 1)
        if data.startswith(b"\x1f\x8b"):
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MAX_SPECTRUM_BYTES + 1)
        beginning = data[:1000].removeprefix(b"\xef\xbb\xbf")
        read = next(read for pattern, read in SPECTRUM_KINDS if re.match(pattern, beginning))
        if isinstance(read, str):
            raise ValueError(read)
        if not 0 < len(data) <= MAX_SPECTRUM_BYTES:
            raise ValueError("it is empty, or larger than any")
        observed = read(data, path.name)
        check_counts(observed.counts)
    return observed


ALLEL_ADVICE = (
    "If scikit-allel made it: joint_sfs(..., n1=..., n2=...) with the numbers of chromosomes, and "
    "never joint_sfs_folded, which folds each species by itself"
)


def check_counts(counts):
    """Refuse what is no joint SFS of two species; the corners, which hold no SNPs, become 0."""
    chromosomes = " + ".join(str(n - 1) for n in counts.shape)
    if counts.ndim != 2:
        raise ValueError(f"{counts.ndim} populations, not two: moments' marginalize sums over some")
    if not of_diploids(counts.shape):
        advice = "an individual has two: project down to even numbers (moments: project)"
        raise ValueError(f"{chromosomes} chromosomes, but {advice}. {ALLEL_ADVICE}")
    counts[0, 0] = counts[-1, -1] = 0
    if n_bad := (~((counts >= 0) & (counts <= MAX_SNPS))).sum():
        bad = f"{n_bad:,} cells are negative, NaN, or so many SNPs that no genome has them"
        raise ValueError(f"{bad}: make masked ones 0")
    if counts.sum() < 1.001:
        raise ValueError("no SNPs, or proportions: multiply these by the number of SNPs")


def read_numpy(data, name):
    """An array of shape (n_A + 1, n_B + 1), perhaps with a channel behind."""
    try:
        counts = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (MemoryError, ValueError) as error:  # without the advice to run what is in pickles
        raise ValueError(str(error).partition(" when allow_pickle")[0]) from None
    if counts.ndim == 3 and counts.shape[2] == 1:
        counts = counts[..., 0]
    if counts.dtype.kind not in "iuf" or counts.ndim != 2:
        raise ValueError(f"{counts.dtype} of shape {counts.shape}, not counts (n_A + 1, n_B + 1)")
    return folded_if_filled(counts.astype(float))


def read_winsfs(data, name):
    """The text of winsfs and sfs: `#SHAPE=<n_A + 1/n_B + 1>`, then all numbers."""
    header, _, numbers = data.decode().partition("\n")
    shape = [int(word) for word in re.findall(r"\d+", header[:100])]
    return folded_if_filled(np.array(numbers.split(), float).reshape(shape))


def folded_if_filled(counts):
    """A spectrum, folded if just the half that folding empties is filled with NaN or -1."""
    counts.flat[[0, -1]] = 0  # the corners may hold anything
    unused, half = ~np.isfinite(counts) | (counts == -1), beyond_half(counts.shape)
    folded = unused.any() and not unused[~half].any() and not counts[half & ~unused].any()
    return Observed(np.where(unused & folded, 0, counts), folded)


def beyond_half(shape):
    """Where an allele is on more than half of all chromosomes: empty in a folded spectrum."""
    return 2 * sum(np.ogrid[tuple(map(slice, shape))]) > sum(shape) - len(shape)


def lines_of(data):
    """The lines of a text that are neither blank nor comments."""
    lines = data.decode("utf-8-sig").splitlines()
    return [line for line in lines if line.partition("#")[0].strip()]


def read_dadi(data, name):
    """Text as dadi and moments write it: comments, sizes, data and, perhaps, a mask."""
    header, *rest = lines_of(data) or [""]
    sizes, words = re.match(r"([\d\s]*)(.*)", header[:1000]).groups()
    shape, numbers = [int(word) for word in sizes.split()], np.array(" ".join(rest).split(), float)
    n_cells, larger = math.prod(shape), [n + 1 for n in shape]
    if len(numbers) not in (n_cells, 2 * n_cells):
        advice = "a size is the number of chromosomes + 1"
        if len(numbers) in (math.prod(larger), 2 * math.prod(larger)):
            advice += f", {' '.join(map(str, larger))}?"
        raise ValueError(f"{len(numbers)} numbers below the sizes {header[:60]!r}: {advice}")
    counts, mask = numbers[:n_cells].reshape(shape), numbers[n_cells:]
    if not np.isin(mask, (0, 1)).all():
        raise ValueError("a mask holds 0 and 1, this second half does not: are they 2 spectra?")
    masked = np.isnan(counts) | (mask.reshape(shape) == 1 if len(mask) else False)
    counts[masked] = 0
    folded = words.split()[:1] == ["folded"]
    masked.flat[[0, -1]] = False
    n_masked = (masked & ~beyond_half(shape)).sum() if folded else masked.sum()
    remark = f"{n_masked} masked cells beside the two corners count as 0" if n_masked else ""
    return Observed(counts, folded, tuple(re.findall('"([^"]*)"', words)[:2]), remark)


def read_fastsimcoal(data, name):
    """fastsimcoal2's joint spectrum of two populations; A is the one of the lower number."""
    (n, *_), columns, *rows = [line.split() for line in lines_of(data)]
    folded = "jointMAF" in name
    if folded == ("jointDAF" in name):
        own = "_jointDAFpop1_0.obs (derived alleles) or _jointMAFpop1_0.obs (minor alleles)"
        raise ValueError(f"of fastsimcoal2's spectra, take the joint one by its own name, {own}")
    if n != "1":
        raise ValueError(f"fastsimcoal2's {n} observations: which one? Give a file of it alone")
    counts = np.array([row[1:] for row in rows], float).reshape(len(rows), len(columns))
    of_columns, of_rows = (int(re.match(r"d(\d+)_0", x)[1]) for x in (columns[0], rows[0][0]))
    if of_columns < of_rows:
        counts = counts.T
    if folded and counts[beyond_half(counts.shape)].any():
        raise ValueError("its name says minor alleles (MAF), its numbers that some are major")
    return Observed(counts, folded)


REALSFS_ADVICE = (
    "it looks like realSFS's: keep one line of numbers, one spectrum, and write a line above it, "
    "(n_A + 1) (n_B + 1) unfolded, as 21 21 unfolded of 20 + 20 chromosomes"
)
FROM_VCF = "of which data/own_species/vcf_to_spectrum.py makes a spectrum"
# What a file is, by how it begins, and what reads its bytes (and name), or else why nothing can.
SPECTRUM_KINDS = (
    (rb"\x93NUMPY", read_numpy),
    (rb"PK", "an .npz or another zip archive: save its array with numpy.save"),
    (rb"\x80", "a saved Python object, which could run code: write it with to_file"),
    (rb"\xff\xfe|\xfe\xff", "UTF-16 text: save it as UTF-8"),
    (rb"##fileformat=VCF", f"a VCF file, {FROM_VCF}"),
    (rb"BCF", f"a BCF file: bcftools view makes a VCF file of it, {FROM_VCF}"),
    (rb"#SHAPE=<", read_winsfs),
    (rb"\s*\d+ +observation", read_fastsimcoal),
    (rb"\s*d\d+_0\s", "fastsimcoal2's without its first line, 1 observation"),
    (rb"\s*([-+.\deE]+[ \t]+){8}", REALSFS_ADVICE),
    (rb"[^\s#]*[A-Za-z][^\s#]*[ \t]+\S+[ \t]*\r?\n", f"a list of individuals, {FROM_VCF}"),
    (rb"", read_dadi),
)

VERDICTS = {
    "divergence": "divergence; no gene flow of the kind that was simulated.",
    "gene flow": "gene flow of the kind that was simulated, between these two species or from a "
    "third, unsampled one.",
    "undecided": "undecided; both models remain possible.",
    "neither": "neither; the model that the network favours makes no such spectra.",
    "out of range": "out of range; the spectrum lies outside what was simulated.",
}
MAX_SCREENS = 10  # of more spectra only the verdicts are printed, and nothing drawn
MIN_DEVIATION = 0.25  # of a bin's root; that of a Poisson count is one half


class Prediction:
    """What a network and both models' `ModelFit` say about one observed spectrum."""

    def __init__(self, path, observed, network, fits):
        sfs, folded = observed.counts[np.newaxis, ..., np.newaxis], network.settings.folded
        self.path, self.observed = path, observed
        self.inputs, self.summaries = network_inputs(sfs, folded), summarise(sfs, folded)
        spectrum = {"inputs": self.inputs, "summaries": self.summaries}
        self.probabilities = predict_probabilities(network.model, sfs)[0]
        self.has_learned = has_learned(network.table, network.table["probabilities"])
        self.percentiles = {}  # of each summary, under each model
        for name in self.summaries.dtype.names:
            own, tables = self.summaries[name], [each.table["summaries"][name] for each in fits]
            self.percentiles[name] = [50 * ((x < own).mean() + (x <= own).mean()) for x in tables]
        beyond = [0, 0], [100, 100]
        self.outside = [name for name, ranks in self.percentiles.items() if ranks in beyond]
        self.p_values = [each.p_value(spectrum)[0] for each in fits]  # before inference

        self.favoured = int(self.probabilities.argmax())  # a label; what follows is of this model
        fit = self.fit = fits[self.favoured]
        _, (nearest,) = fit.nearest(spectrum)
        self.nearest = fit.table[nearest]
        self.p_after = proportion_beyond(fit.misfit(spectrum), fit.misfits)[0]
        residual = fit.deviations(spectrum, flat, MIN_DEVIATION)
        self.residual = residual.reshape(self.inputs.shape[1:3])  # in standard deviations
        self.verdict = self.verdict_at(self.probabilities)

    def verdict_at(self, probabilities):
        """Which of the `VERDICTS` it is, or would be, had the network given other probabilities."""
        if self.outside:
            return "out of range"
        if self.p_values[probabilities.argmax()] <= self.fit.false_alarms:
            return "neither"
        is_told = probabilities.min() < MAX_ERROR and self.has_learned
        return MODELS[probabilities.argmax()] if is_told else "undecided"


def predict(folder, spectra, bootstrap, rows, network=None):
    """`runml --predict FILE...`: from the network and observed spectra to verdicts."""
    network = network or load_network(folder / MODEL)
    table = network.table
    fits = [ModelFit(table[table["labels"] == label]) for label in range(2)]
    predictions = [Prediction(path, each, network, fits) for path, each in spectra.items()]
    resampled = [Prediction(path, each, network, fits) for path, each in bootstrap.items()]
    rows += [row_of_prediction(each, network) | {"bootstrap_of": ""} for each in predictions]
    of = {"bootstrap_of": str(predictions[0].path)}
    rows += [row_of_prediction(each, network) | of for each in resampled]
    with new_files(folder, "predictions") as staging:
        save_table(staging / "predictions.csv", rows)
    shown = predictions if len(predictions) <= MAX_SCREENS else []
    for each in predictions:
        if shown:
            print_prediction(each, network)
        else:
            given = f"probability of gene flow {format_probability(each.probabilities[1])}"
            print_wrapped(f"{each.path}: {given}; verdict: {VERDICTS[each.verdict]}")
        print_ensemble(each, network, rows)
    if resampled:
        print_bootstrap(resampled)
    print_assumptions(table, fits, predictions[0].has_learned)
    print(f"Saved in {folder / 'predictions.csv'}.")
    are_alike = len({each.path.stem for each in shown}) < len(shown)
    for number, each in enumerate(shown, start=1):
        name = f"{number}_{each.path.stem}" if are_alike else each.path.stem
        save_picture(folder / f"prediction_{name}.png", draw_prediction, each, network)


# ========================================= 13. Files =========================================

MODEL = "trained_model.keras"
DATASET = ("sfs.npy", "responses.npy", "parameters.npy", "settings.json")  # behind a dataset's name


@contextlib.contextmanager
def only_command_in(folder):
    """Keep other commands out of a folder, and finish the moves that a stopped one began."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:  # for as long as the process lives
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another command is at work in {folder}: wait for it") from None
        except (ImportError, OSError):
            print(f"({folder} is on a system without locks: one command at a time, please.)")
        try:
            finish_moves(folder)
            yield
        finally:
            if is_new and [path.name for path in folder.iterdir()] == [".lock"]:
                shutil.rmtree(folder, ignore_errors=True)  # as it has come to nothing


@contextlib.contextmanager
def new_files(folder, name, unfinished=""):
    """A hidden folder whose files appear in `folder` when the block ends: all together, or none.

    The step that counts is to rename the complete set: the next command would finish the moves.
    `unfinished` is a fingerprint under which half a set is kept for later.
    """
    partial = folder / f".{name}-{unfinished}.partial"
    for other in folder.glob(f".{name}-*.partial"):
        if other != partial or not unfinished:
            shutil.rmtree(other)
    partial.mkdir(exist_ok=True)
    yield partial
    for path in partial.iterdir():
        if (folder / path.name).is_dir():
            shutil.rmtree(partial)
            raise UserError(f"{folder / path.name} is a folder: move it out of the way")
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    partial.rename(folder / f".{name}.complete")
    finish_moves(folder)


def finish_moves(folder):
    """Move the files of complete sets to where they belong."""
    for complete in folder.glob(".*.complete"):
        for path in complete.iterdir():
            path.replace(folder / path.name)
        complete.rmdir()


@contextlib.contextmanager
def naming_file(path, what, remedy=""):
    """Whatever goes wrong in the block is told as a `UserError` that names a file."""
    try:
        yield
    except (UserError, ImportError, MemoryError):  # not the file's fault
        raise
    except FileNotFoundError:
        raise UserError(f"{path} is missing in {Path.cwd() / path.parent}{remedy}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({one_line(error)})") from error
    except Exception as error:  # a file may hold anything, and what reads it may raise anything
        with path.open("rb") as file:
            is_pointer = file.read(19) == b"version https://git"
        why = "a Git-LFS pointer: git lfs pull fetches it" if is_pointer else one_line(error)
        raise UserError(f"{path} is no {what} ({why}){remedy}") from error


def fingerprint(data):
    """Twelve digits that tell bytes, or what can be written as JSON, from others."""
    data = data if isinstance(data, bytes) else json.dumps(data, default=words_of).encode()
    return hashlib.sha256(data).hexdigest()[:12]


def load_table(path, numbers):
    """The rows of a CSV file, if there is one, texts by column; `numbers` must hold numbers."""
    if not path.exists():
        return []
    csv.field_size_limit(10**7)  # a training of very many epochs has long curves
    with naming_file(path, "table of this script", ": move it away"):
        lines = path.read_text(encoding="utf-8-sig")  # Excel puts a mark at the beginning
        rows = list(csv.DictReader(io.StringIO(lines, newline=""), strict=True))
        for row in rows:
            values = [float(word) for name in numbers for word in row[name].split() or [""]]
            if None in row or None in row.values() or not np.isfinite(values).all():
                raise ValueError("cells too many or too few, or no numbers")
    return rows


def save_table(path, rows):
    """Write rows, dictionaries by column, as a CSV file."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        table = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def words_of(value):
    """A setting's value as JSON holds it: the word that one would type, or a list of several."""
    if isinstance(value, PerSpecies):
        return [value.a, value.b]
    if isinstance(value, Prior):
        ends = [value.low, value.high] if value.low < value.high else value.low
        return [*ends, "log"] if value.scale == "log" else ends
    return value


def simulation_versions():
    """The versions on which a dataset's bytes depend, and which Dask's workers must share."""
    packages = {package: version(package) for package in ("msprime", "tskit", "numpy")}
    return packages | {"Python": platform.python_version().rpartition(".")[0]}


@dataclass(frozen=True)
class DatasetSpecification:
    """How a dataset is simulated, and with which versions of which packages."""

    settings: SimulationSettings
    n_reps: int
    versions: dict = field(default_factory=simulation_versions)

    def as_saved(self):
        """As a file holds it."""
        return vars(self.settings) | {"n_reps": self.n_reps, "versions": self.versions}

    @property
    def test_set(self):
        """Twelve digits of its settings alone: more replicates are the same test set, longer."""
        return fingerprint(vars(self.settings))


def saved_specification(saved):
    """A `DatasetSpecification` from what was saved."""
    values = converted(saved)
    # A setting that is missing is younger than the file, and was as its default is.
    settings = choose(SimulationSettings, values)
    return DatasetSpecification(settings, values["n_reps"], dict(**saved["versions"]))


def load_specification(path):
    """The `DatasetSpecification` in a settings file, and the checksums of the arrays it is of."""
    with naming_file(path, "file of settings"):
        saved = json.loads(path.read_text(encoding="utf-8-sig"))
        return saved_specification(saved), saved.get("sha256")


@dataclass(frozen=True)
class Dataset:
    """Joint SFS with their labels."""

    sfs: np.ndarray  # of numbers, shape (N, n_A + 1, n_B + 1, 1), memory-mapped where that can be
    labels: np.ndarray  # int32, shape (N,)
    parameters: np.ndarray  # of PARAMETERS, shape (N,); NaN where they are not known
    checksums: dict  # of the files of spectra and labels, by name
    specification: DatasetSpecification | None  # None without a settings file

    def first(self):
        """Its first rows, in memory: as many as tables and pictures need."""
        rows = slice(max(2, 5 * CELLS_AT_ONCE // self.sfs[0].size))
        sfs = np.array(self.sfs[rows])
        return replace(self, sfs=sfs, labels=self.labels[rows], parameters=self.parameters[rows])


CELLS_AT_ONCE = 2_000_000  # of spectra that are in memory at a time


def pieces(sfs):
    """Spectra in pieces of about `CELLS_AT_ONCE`."""
    step = max(1, CELLS_AT_ONCE // math.prod(sfs.shape[1:]))
    for first in range(0, len(sfs), step):
        yield sfs[first : first + step]
        if isinstance(sfs.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            sfs.base.madvise(mmap.MADV_DONTNEED)  # a memory map need not stay in memory


def is_whole(path):
    """Whether an archive of arrays is there and as it was written, by its CRCs."""
    with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:
        return archive.testzip() is None and set(archive.namelist()) == set(DATASET[:3])
    return False


def save_dataset(blocks, specification, folder, name):
    """Put the blocks of a dataset together to its files, and remove them."""
    paths = [folder / f"{name}_{part}" for part in DATASET]
    for path in paths[:3]:
        with path.open("wb") as file:
            for block in blocks:
                with np.load(block) as arrays:
                    rows = arrays[path.stem.removeprefix(f"{name}_")]
                if not file.tell():
                    header = np.lib.format.header_data_from_array_1_0(rows)
                    header["shape"] = (2 * specification.n_reps, *rows.shape[1:])
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(rows.tobytes())
    saved = specification.as_saved() | {"sha256": checksums(paths[:2])}
    paths[3].write_text(json.dumps(saved, indent=2, default=words_of) + "\n")
    for block in blocks:
        block.unlink()


def checksums(paths):
    """The SHA-256 of each file, by its name."""
    sums = {}
    for path in paths:
        with path.open("rb") as file:
            sums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def load_array(path):
    """An array, memory-mapped where that can be; a pickle is refused, not run."""
    with naming_file(path, "array of numbers", ": run runml --simulate first"):
        try:
            return np.lib.format.open_memmap(path, mode="r")
        except OSError:  # some shared folders know no memory maps
            with path.open("rb") as file:
                return np.lib.format.read_array(file, allow_pickle=False)


def load_dataset(folder, name="simulated"):
    """The `Dataset` in a folder, checked; a `UserError` if nothing can be learned from it."""
    paths = [folder / f"{name}_{part}" for part in DATASET]
    (sfs, labels), specification = map(load_array, paths[:2]), None
    if sfs.dtype.kind not in "iuf" or sfs.shape[3:] != (1,) or not of_diploids(sfs.shape[1:3]):
        wanted = "counts (N, 2 * n_A + 1, 2 * n_B + 1, 1)"
        raise UserError(f"{paths[0]}: {sfs.dtype} of shape {sfs.shape}, not {wanted}")
    if not all(((counts >= 0) & (counts < MAX_SNPS)).all() for counts in pieces(sfs)):
        raise UserError(f"{paths[0]}: some counts are negative, no numbers, or above a genome's")
    if labels.shape != sfs.shape[:1] or not np.isin(labels, (0, 1)).all():
        raise UserError(f"{paths[1]}: not a label for each of {len(sfs)} spectra, 0 or 1")
    parameters, sums = np.full(len(sfs), np.nan, PARAMETERS), checksums(paths[:2])
    if paths[3].exists():
        saved, of_arrays = load_specification(paths[3])
        if of_arrays == sums:
            specification = saved
        else:
            print_wrapped(f"{paths[3]} is of other arrays: how these were made is not known.")
    if specification and paths[2].exists():
        saved = load_array(paths[2])
        if saved.dtype == PARAMETERS and saved.shape == labels.shape:
            parameters = np.array(saved)
    return Dataset(sfs, labels.astype(np.int32), parameters, sums, specification)


# A model is one file: Keras's archive, with members of our own, which Keras passes over. This
# script reads none but these: a stranger's HDF5, which Keras's are, can do harm, but not plain
# arrays whose type and shape must be the expected ones before anything is read.
OWN_MEMBERS = "runml/"
MAX_MODEL = 3 * 10**7  # bytes


@dataclass(frozen=True)
class Network:
    """A trained network, and what its file remembers."""

    model: object  # keras.Model
    settings: TrainingSettings  # how it was trained
    specification: DatasetSpecification | None  # how its spectra were simulated, if that is known
    checksums: dict  # of the arrays that it was trained on
    table: np.ndarray  # of `reference_dtype`

    @property
    def fingerprint(self):
        """Twelve digits that tell its weights from others."""
        return fingerprint(b"".join(weights.tobytes() for weights in self.model.get_weights()))

    @property
    def simulations(self):
        """Twelve digits that tell the arrays that it was trained on from others."""
        return fingerprint(sorted(self.checksums.items()))


def save_network(path, network):
    """Save a network: for `keras.models.load_model`, and for `load_network`."""
    model = network.model
    start_keras().Model(model.input, model.output).save(path)  # without an optimizer
    notes = {
        "sample_size": individuals(model.input_shape[1:3]),
        "training": vars(network.settings),
        "simulations": network.specification and network.specification.as_saved(),
        "checksums": network.checksums,
        "versions": {name: version(name) for name in ("keras", "tensorflow", "scikit-learn")},
    }
    notes = json.dumps(notes, default=words_of).encode()
    arrays = {"notes": np.frombuffer(notes, np.uint8), "reference_table": network.table}
    arrays |= {f"weights_{number}": array for number, array in enumerate(model.get_weights())}
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{OWN_MEMBERS}{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def read_member(archive, name, dtype, *shape):
    """A member's array, if it is of this type and shape, by default of one axis of any length."""
    member = archive.getinfo(f"{OWN_MEMBERS}{name}.npy")
    if member.compress_type != zipfile.ZIP_STORED:  # it could unpack to more than the file holds
        raise ValueError(f"{name} is compressed")
    with archive.open(member) as file:
        np.lib.format.read_magic(file)
        own, is_fortran, own_dtype = np.lib.format.read_array_header_1_0(file)
        if (own, is_fortran, own_dtype) != (shape or own[:1], False, dtype):
            raise ValueError(f"{name} is {own_dtype} of shape {own}")
        return np.frombuffer(file.read(math.prod(own) * dtype.itemsize), dtype).reshape(own)


def load_network(path):
    """A saved network: built from its notes, its weights and table read as plain arrays."""
    with naming_file(path, "model of this script", ": run runml --train first"):
        if path.stat().st_size > MAX_MODEL:
            raise ValueError("it is larger than any")
        with zipfile.ZipFile(path) as archive:
            notes = json.loads(read_member(archive, "notes", np.dtype(np.uint8)).tobytes())
            settings = choose(TrainingSettings, converted(notes["training"]))
            specification = notes["simulations"] and saved_specification(notes["simulations"])
            model = build_network(sfs_shape(converted(notes)["sample_size"]), settings)
            weights = [
                read_member(archive, f"weights_{number}", own.dtype, *own.shape)
                for number, own in enumerate(model.get_weights())
            ]
            dtype = reference_dtype(learning_part(model).input_shape[1:], settings.folded)
            table = read_member(archive, "reference_table", dtype)
        if not all(np.bincount(part["labels"], minlength=2).min() > 0 for part in parts(table)):
            raise ValueError("its reference table lacks a model")
        numbers = [*weights, table["inputs"], table["probabilities"], table["summaries"].tolist()]
        if not all(np.isfinite(array).all() for array in numbers):
            raise ValueError("some of it is no number")
        model.set_weights(weights)
        return Network(model, settings, specification, dict(**notes["checksums"]), table)


# ======================================== 14. Workers ========================================

STOPPING = (signal.SIGINT, signal.SIGTERM)
SECONDS_BETWEEN_LOOKS = 15  # at whether a cluster still has workers


def in_parallel(function, tasks, run):
    """What a function returns for each task, a tuple of its arguments, in their order."""
    from joblib import cpu_count  # of the cores that this process may use

    n_workers = min(run.workers or cpu_count(), max(1, len(tasks)))
    places = dask_workers(run.dask_scheduler) if run.dask_scheduler else local_workers(n_workers)
    with places as (submit, n_ahead, result):
        waiting = deque()  # only some at a time, so memory does not grow with their number
        for task in tasks:
            waiting.append(submit(function, *task))
            if len(waiting) > n_ahead:
                yield result(waiting.popleft())
        yield from map(result, waiting)


@contextlib.contextmanager
def local_workers(n_workers):
    """Processes on this machine: how to submit a task, how many ahead, how to get its result."""
    spawn = multiprocessing.get_context("spawn")  # no fork: TensorFlow may run threads
    if os.name == "posix":  # signals are the parent's alone: workers inherit what is blocked now
        multiprocessing.resource_tracker.ensure_running()  # which would lift the mask
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    executor = ProcessPoolExecutor(n_workers, mp_context=spawn, initializer=follow_parent)
    for _ in range(n_workers):
        executor.submit(os.getpid)  # starts one
    if os.name == "posix":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    with executor:
        try:
            yield executor.submit, 4 * n_workers, Future.result
        except BrokenProcessPool:
            advice = "perhaps as the memory was full: try fewer --workers"
            raise UserError(f"a simulating process was killed, {advice}") from None
        except BaseException:
            for worker in list(executor._processes.values()):  # kill_workers, in Python 3.14
                worker.kill()
            raise


def follow_parent():
    """In a worker: go when the parent is gone, however it went."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


@contextlib.contextmanager
def dask_workers(address):
    """Those of a Dask scheduler: how to submit a task, how many ahead, how to get its result."""
    where = f"--dask_scheduler {address}"
    try:
        import cloudpickle
        import distributed
    except ImportError:
        raise UserError("Dask is missing: pip install 'distributed>=2026.8'") from None
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers do not have this file
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # our own line follows

    def by_value(function, *args):  # being local it travels by value, with all that it is given
        return function(*args)

    def result(task):  # Dask does a lost worker's tasks elsewhere, but waits for ever for a worker
        while not wait([task], SECONDS_BETWEEN_LOOKS).done:
            if not client.scheduler_info()["workers"]:
                raise CancelledError
        return task.result()

    try:
        with distributed.Client(address, timeout=5, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=5)
            here = simulation_versions()
            for worker, there in client.run(simulation_versions).items():
                if there != here:
                    raise UserError(f"{where}: worker {worker} has {there}, not {here}")
            submit = functools.partial(client.get_executor(pure=False).submit, by_value)
            yield submit, 4 * sum(client.nthreads().values()), result
    except distributed.KilledWorker:
        raise UserError(f"{where}: workers died, perhaps as their memory was full") from None
    except CancelledError:
        raise UserError(f"{where}: the scheduler, or the last of its workers, is gone") from None
    except (OSError, ValueError) as error:  # anything may answer at an address
        nobody = f"{where}: no Dask scheduler with workers answers"
        raise UserError(f"{nobody} ({one_line(error)})") from None


# ===================================== 15. The command line =====================================

VERSION = "3.0"
KINDS = (SimulationSettings, TrainingSettings, RunSettings)
SETTINGS = {setting.name: setting for kind in KINDS for setting in fields(kind)}
SIMULATION, TRAINING = ({setting.name for setting in fields(kind)} for kind in KINDS[:2])
RUN = {"workers", "dask_scheduler"}
USES = {  # the settings that each command has a use for; in this order they run
    "simulate": SIMULATION | RUN | {"n_reps"},
    "train": TRAINING,
    "test": SIMULATION - {"sample_size"} | RUN | {"n_test_reps"},  # its size is the network's
    "predict": set(),
}
MIN_REPS = 5  # of each model, to learn from
EPILOG = """\
A prior is one number, which fixes the value, two (uniform), or two and the word log. What
is typed beats what was saved with the data or the model, which beats the default.

examples:
  runml --simulate
  runml --train --layers 2 --dropout 0.2 --epochs 10 --learning_rate 1e-05
  runml --test
"""


class UserError(Exception):
    """Something that the user can put right. Its text says what is wrong and what to do."""


class UsageError(UserError):
    """What was typed makes no sense."""


def converted(values):
    """The settings among values by name, each from its words as typed or saved."""
    return {name: convert(SETTINGS[name], values[name]) for name in SETTINGS if name in values}


def convert(setting, words):
    """The value of a setting, a `dataclasses.Field`, from its words, or a `ValueError`."""
    kind, number = setting.type, functools.partial(convert_number, setting)
    words = words if isinstance(words, list) else [words]
    wrong = f"{setting.name}: {' '.join(map(str, words))}"
    if len(words) == 1 and kind in (int, float):
        return number(kind, words[0])
    if len(words) == 1 and kind in (bool, str) and isinstance(words[0], kind) and words[0] != "":
        return words[0]
    if len(words) == 1 and kind in (PerSpecies, Prior):  # one for both
        return convert(setting, words * 2)
    if len(words) == 2 and kind is PerSpecies:
        return PerSpecies(number(int, words[0]), number(int, words[1]))
    if kind is Prior and (len(words) == 2 or words[2:] == ["log"]):
        low, high = number(float, words[0]), number(float, words[1])
        if low > high or (words[2:] and not low):
            raise ValueError(f"{wrong}: the low end first, above 0 if log-uniform")
        return Prior(low, high, *words[2:]) if low < high else Prior(low, low)
    takes = {Prior: "X, or LOW HIGH, or LOW HIGH log", PerSpecies: "one number, or two"}
    raise ValueError(f"{wrong}: takes {takes.get(kind, 'one value')}")


def convert_number(setting, kind, word):
    """A whole number (`int`) or any (`float`), within a setting's limits, from a word."""
    low, high, exclude = setting.metadata["limits"].values()
    with contextlib.suppress(ValueError):
        value = float(str(word))  # so that JSON's true is not 1
        if low <= value <= high and value != exclude and value == kind(value):
            return kind(value)
    what = "a whole number" if kind is int else "a number"
    without = "" if exclude is None else f", without {exclude:g}"
    raise ValueError(f"{setting.name}: {word}: must be {what} in [{low:g}, {high:.10g}]{without}")


class CommandLine(argparse.ArgumentParser):
    """An argument parser that raises its errors."""

    def error(self, message):
        """Raise what is wrong with what was typed."""
        raise UsageError(" ".join(message.removeprefix("argument ").split()))


def command_line():
    """The parser: a group of options for each command, every default taken from the settings."""
    parser = CommandLine(
        prog="runml",
        description="Do two sister species have a history of gene flow? Simulate, train, test.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    # A negative number is a value out of its limits, not the name of an option.
    parser._negative_number_matcher = re.compile(r"-(\.?\d|inf|nan)", re.IGNORECASE)
    do = parser.add_argument_group("what to do; together they run in this order")
    every = parser.add_argument_group("more than one command")
    groups = {command: parser.add_argument_group(f"with --{command}") for command in USES}
    files = {"nargs": "+", "action": "extend", "metavar": "FILE", "type": Path, "default": []}
    do.add_argument("--simulate", action="store_true", help="simulate joint SFS of both models")
    do.add_argument("--train", action="store_true", help="train the network on them")
    do.add_argument("--test", action="store_true", help="test it, once, on a fresh set")
    do.add_argument("--predict", help="ask it about observed joint SFS", **files)
    groups["predict"].add_argument("--bootstrap", help="resampled from the observed one", **files)
    text = "simulate under a saved settings file, but for what is typed"
    groups["simulate"].add_argument("--settings", metavar="FILE", type=Path, help=text)
    folder = {"default": Path("data"), "metavar": "FOLDER", "type": Path}
    every.add_argument("--data_dir", help="where files are (default: data)", **folder)
    every.add_argument("--version", action="version", version=f"runml {VERSION}")
    metavars = {Prior: ("LOW", "HIGH log"), PerSpecies: ("A", "B"), int: "N", float: "X"}
    unset = {"workers": "all usable cores", "dask_scheduler": "none"}
    for name, setting in SETTINGS.items():
        first = next(command for command in USES if name in USES[command])
        group = every if name in RUN | {"seed"} else groups[first]
        default = unset.get(name) or format_setting(setting.default)
        form = {"action": "store_true"}
        if setting.type is not bool:
            nargs = "+" if setting.type in (Prior, PerSpecies) else 1
            form = {"nargs": nargs, "metavar": metavars.get(setting.type, "ADDRESS")}
        text = f"{setting.metadata['meaning']} (default: {default})"
        group.add_argument(f"--{name}", help=text, default=argparse.SUPPRESS, **form)
    return parser


def parse_options(argv):
    """Read what was typed, but no file: adds `commands`, in order, and `typed` settings by name."""
    options = command_line().parse_args(argv)
    try:
        options.typed = converted(vars(options))
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    options.commands = [command for command in USES if getattr(options, command)]
    if not options.commands:
        raise UsageError("say what to do: --simulate, --train, --test or --predict (see --help)")
    if options.typed.keys() >= RUN:
        raise UsageError("--workers has no use with --dask_scheduler")
    if options.settings and not options.simulate:
        raise UsageError("--settings has no use without --simulate")
    if options.bootstrap and len(options.predict) != 1:
        raise UsageError("--bootstrap has its use beside one --predict FILE")
    return options


def choose(kind, values):
    """The settings of a kind among values by name; what is missing is as its default is."""
    return kind(**{each.name: values[each.name] for each in fields(kind) if each.name in values})


def prepare(options):
    """The commands, in their order, with all that they need: found, completed and checked."""
    jobs, folder, typed = [], options.data_dir, options.typed
    run, dataset, network = choose(RunSettings, typed), None, None
    if options.simulate:
        saved = load_specification(options.settings)[0].as_saved() if options.settings else {}
        settings = choose(SimulationSettings, saved | typed)
        check_simulation(settings)
        shape = sfs_shape(settings.sample_size)
        specification = DatasetSpecification(settings, choose(RunSettings, saved | typed).n_reps)
        jobs.append(functools.partial(simulate, folder, specification, run))
    elif options.train:
        dataset = load_dataset(folder)
        specification, shape = dataset.specification, dataset.sfs.shape[1:3]
    if (options.test or options.predict) and not options.train:
        network = load_network(folder / MODEL)
        specification, shape = network.specification, network.model.input_shape[1:3]

    # Now specification and shape are those of the network, if one is trained, tested or asked.
    known = specification.as_saved() if specification else {"sample_size": individuals(shape)}
    training = network.settings if network else choose(TrainingSettings, known | typed)
    check_useless(options, known, network)
    if options.train:
        n_reps = min(np.bincount(dataset.labels, minlength=2)) if dataset else specification.n_reps
        if n_reps < MIN_REPS:
            raise UsageError(f"--n_reps {n_reps}: learning takes {MIN_REPS} or more of each model")
        runs = load_table(folder / "experiments.csv", RUN_NUMBERS)
        jobs.append(functools.partial(train, folder, training, runs, dataset))
    if options.test:
        settings = choose(SimulationSettings, vars(training) | known | typed)
        check_simulation(settings)
        tested = DatasetSpecification(settings, run.n_test_reps)
        # A test under other settings must not replace the honest one.
        own = specification and replace(specification.settings, seed=settings.seed)
        name = "test_elsewhere" if own and own != settings else "test"
        log = load_table(folder / f"{name}_log.csv", ("n_test", "accuracy"))
        jobs.append(functools.partial(test, folder, name, tested, log, run, network))
    if options.predict:
        files = options.predict, options.bootstrap
        spectra = [{path: read_observed(path) for path in paths} for paths in files]
        for path, observed in (spectra[0] | spectra[1]).items():
            check_fits(path, observed, shape, training.folded)
        rows = load_table(folder / "predictions.csv", ("gene_flow",))
        jobs.append(functools.partial(predict, folder, *spectra, rows, network))
    return jobs


def check_useless(options, known, network):
    """Refuse options that no command has a use for, unless they agree with what is known."""
    commands = options.commands
    useful = set().union(*(USES[command] for command in commands))
    if network:  # whatever is simulated, it takes spectra of its own size
        known, useful = known | vars(network.settings), useful - {"sample_size"}
    for name, typed in options.typed.items():
        if name not in useful | known.keys():
            raise UsageError(f"--{name} has no use in --{' --'.join(commands)}")
        if name not in useful and typed != known[name]:
            made = "the data were simulated" if "train" in commands else "the model was trained"
            typed, saved = format_setting(typed), format_setting(known[name])
            raise UsageError(f"--{name} {typed}: {made} with {saved}")


def check_simulation(settings):
    """Refuse settings that are each possible, but not together."""
    if not settings.migration_prior.high:
        raise UsageError("--migration_prior 0: without migrants the two models are one")
    start, stop = settings.gene_flow_start, settings.gene_flow_stop
    if start.low == start.high == stop.low == stop.high:
        raise UsageError("--gene_flow_start, --gene_flow_stop: gene flow has no time to take place")
    snps, most = expected_snps(settings), expected_snps(settings, quantile=1)
    scale, per_site = "--mutation_rate, --sequence_length, --n_loci", snps / settings.n_sites
    if snps < 1:
        raise UsageError(f"{scale}: {snps:.0e} SNPs are nothing to look at")
    if snps > 1e8 or most > 3e8:  # ten standard errors below what NumPy can draw from
        raise UsageError(f"{scale}: together up to {most:.0e} SNPs are too many")
    if per_site > MAX_MUTATIONS_PER_SITE:
        raise UsageError(f"--mutation_rate: {per_site:.1f} mutations a site hide each other")


def expected_snps(settings, quantile=0.5):
    """About how many SNPs a spectrum has at a quantile of every prior, if sizes never change."""
    at = parameters_at(settings, 0, quantile)
    n_lineages = np.arange(1, 2 * max(settings.sample_size.a, settings.sample_size.b))
    within = 4 * at["size_a"] * ((1 / n_lineages).sum() - 0.5)
    length = 2 * (at["divergence_time"] + within)  # of two genealogies, and from there back
    return at["mutation_rate"] * settings.n_sites * length


def check_fits(path, observed, shape, folded):
    """Refuse an observed spectrum that is not of a model's sample size, or wrongly folded."""
    own = observed.counts.shape
    if own != shape:
        chromosomes, takes = (f"{n_a - 1} + {n_b - 1}" for n_a, n_b in (own, shape))
        advice = f"simulate with --sample_size {format_setting(individuals(own))} and train"
        if own[::-1] == shape:
            advice = "the other way round? The first species of the file is A"
        elif min(np.subtract(own, shape)) >= 0:
            advice = f"project down to that (moments: project), or {advice}"
        advice += f". {ALLEL_ADVICE}" if path.suffix == ".npy" else ""
        raise UserError(f"{path}: {chromosomes} chromosomes, the model takes {takes}: {advice}")
    if observed.folded and not folded:
        raise UserError(f"{path}: folded, the model takes unfolded ones: train with --folded")


# ======================================== 16. The screen ========================================

TEST_COLUMNS = ("model", "test_set", "seed", "n_test", "accuracy")  # of test_log.csv
# In experiments.csv: what a row must hold to be ranked and drawn.
RUN_NUMBERS = ("validation_accuracy", "validation_loss")
RUN_NUMBERS += tuple(f"{name}_by_epoch" for name in RUN_NUMBERS)


def printable(text):
    """A text without what a terminal could act on."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))


def print_wrapped(text):
    """Print a text, whatever its own lines are, in lines that fit a screen."""
    words = printable(" ".join(text.split()))
    print(textwrap.fill(words, 80, break_on_hyphens=False, break_long_words=False))


def print_error(text):
    """Print a line on the standard error, if anybody reads it."""
    with contextlib.suppress(OSError, ValueError):
        print(printable(text), file=sys.stderr, flush=True)


def one_line(error):
    """The first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(".")


def format_setting(value):
    """A setting's value as one would type it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    words = words_of(value)
    words = words if isinstance(words, list) else [words]
    return " ".join(word if isinstance(word, str) else f"{word:.10g}" for word in words)


def format_proportion(proportion, n):
    """A proportion of n, and its 95% interval."""
    low, high = wilson_interval(round(proportion * n), n)
    return f"{proportion:.4f} (95% interval {low:.4f} to {high:.4f})"


def format_range(values, form):
    """The median, and between which values 90% of them lie."""
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95])
    return f"{median:{form}} ({low:{form}} to {high:{form}})"


def format_probability(probability):
    """An estimated probability as it can be printed."""
    if 0.001 <= probability <= 0.999:
        return f"{probability:.3f}"
    return ">0.999" if probability > 0.5 else "<0.001"


def format_size(settings):
    """What will be simulated, in numbers that catch a slip of the pen."""
    size, length, n_kb = settings.sample_size, settings.sequence_length, settings.n_sites / 1000
    loci = "1 locus" if settings.n_loci == 1 else f"{settings.n_loci:,} loci"
    snps = float(f"{expected_snps(settings):.1e}")  # two digits of it
    return f"""Each: {loci} of {length:,} bp = {n_kb:,.10g} kb, {size.a} + {size.b} individuals,
        about {snps:,.0f} SNPs."""


def print_simulated(dataset):
    """What one would look at first, under each model."""
    columns = "{:<20}{:>29}{:>29}"
    print("\n" + columns.format("median (5% to 95%)", *MODELS))
    of_models = [summarise(dataset.sfs[dataset.labels == label]) for label in range(2)]
    for name in ("SNPs", "F_ST", "shared"):
        ranges = [format_range(each[name], SUMMARIES[name][1]) for each in of_models]
        print(columns.format(name, *ranges))
    print()


def print_network(model):
    """A line for each layer that has weights or a dropout rate."""
    bins = " x ".join(str(len(allele_bins(n - 1))) for n in model.input_shape[1:3])
    print(f"The network, from raw counts to probabilities:\n  {'Bins':<8} {bins}")
    for layer in model.layers:
        name, size = type(layer).__name__, " x ".join(map(str, layer.output.shape[1:]))
        if weights := layer.count_params():
            print(f"  {name:<8} {size:<12} {weights:>9,} weights")
        elif hasattr(layer, "rate"):
            print(f"  {name:<8} {size:<12}      rate {layer.rate:g}")
    print(f"  {'together':<21} {model.count_params():>9,} weights")


def epoch_lines():
    """A callback that prints a line an epoch."""
    measures = f"{'loss  accuracy':>20}{'loss  accuracy':>22}"
    heading = f"{'training':>25}{'validation':>22}\nepoch{measures}"
    columns = "{:>5}{loss:>10.4f}{accuracy:>10.4f}{val_loss:>12.4f}{val_accuracy:>10.4f}"
    return start_keras().callbacks.LambdaCallback(
        on_train_begin=lambda logs: print(heading),
        on_epoch_end=lambda epoch, logs: print(columns.format(epoch + 1, **logs)),
    )


def describe_curves(training, validation, regression_learns):
    """What the losses, epoch by epoch, say about the settings.

    Trends are those of means over a share of the epochs, so that a run and its beginning are not
    said to do opposite things. `regression_learns()` is asked only if the network hardly learns.
    """
    validation, n = np.asarray(validation), len(validation)
    fifth, third = math.ceil(n / 5), math.ceil(n / 3)
    levels = np.convolve(validation, np.full(fifth, 1 / fifth), "valid")  # moving means
    near_chance, risen = levels.min() > 0.95 * CHANCE_LOSS, levels[-1] > 1.02 * levels.min()
    if near_chance and not regression_learns():
        return "This network cannot tell the models apart, nor can a regression: try more --n_loci."
    if leaps(training):
        return "The loss leaps, its steps are too long: try a smaller --learning_rate."
    if n < 5:
        return "Fewer than five epochs show no trend: try more --epochs."
    if near_chance and not risen:
        return "Loss is still near 0.69, a coin's: try a larger --learning_rate or more --epochs."
    has_fallen = validation[-third:].mean() < 0.985 * validation[-2 * third : -third].mean()
    # The noise of a fall, from second differences, which are 0 in a straight line.
    noise = np.diff(validation[-max(2 * fifth, 4) :], 2).std() / math.sqrt(3 * fifth)
    if has_fallen and levels[-1 - fifth] - levels[-1] + 2.5 * noise > 0.01 * levels[-1]:
        return "Validation loss was still falling: try more --epochs, or a larger --learning_rate."
    if risen:
        lowest = levels.argmin() + (fifth + 1) // 2
        since = f"Validation loss was lowest about epoch {lowest} and has risen since"
        return f"{since}: try fewer --epochs, more --dropout or more simulations."
    return "Validation loss hardly changes any more: more --epochs would not help."


def leaps(training):
    """Whether a training loss begins above a coin's, or is thrown back in over 1 of 20 epochs."""
    lowest = np.minimum.accumulate(training)
    thrown_back = training > lowest + np.maximum(0.01, 0.1 * lowest)
    return bool(training[0] > 1.1 * CHANCE_LOSS or thrown_back.mean() > 1 / 20)


def row_of_run(network, history, seconds):
    """The row of `experiments.csv` that tells of one training."""
    row = vars(network.settings) | {
        "weights": network.model.count_params(),
        "validation_accuracy": f"{history['val_accuracy'][-1]:.4f}",
        "validation_loss": f"{history['val_loss'][-1]:.5f}",
        "seconds": f"{seconds:.1f}",
        "data": network.simulations,
        "data_seed": network.specification.settings.seed if network.specification else "",
        "leaps": "yes" if leaps(history["loss"]) else "no",
    }
    for name, curve in history.items():  # loss and accuracy, val_loss and val_accuracy
        column = f"training_{name}_by_epoch".replace("training_val", "validation")
        row[column] = " ".join(f"{value:.4g}" for value in curve)
    return {name: str(value) for name, value in row.items()}


def format_run(run):
    """The settings of a row of `experiments.csv` that are not the defaults, as typed."""
    defaults = {name: str(value) for name, value in vars(TrainingSettings()).items()}
    defaults["seed"] = run.get("data_seed") or defaults["seed"]
    words = [f"--{name} {run.get(name)}" for name in defaults if run.get(name) != defaults[name]]
    return printable(" ".join(words)).replace("--folded True", "--folded") or "the defaults"


def print_runs(runs):
    """Rank the runs by validation loss, equal ones once, and mark the last."""
    distinct = {(float(run["validation_loss"]), format_run(run)): run for run in runs}
    print("\nRuns on these data so far, by validation loss; > is this run")
    print("         loss  accuracy  seconds  settings")
    for rank, (loss, words) in enumerate(sorted(distinct), start=1):
        run = distinct[loss, words]
        mark, accuracy = ">" if run is runs[-1] else " ", float(run["validation_accuracy"])
        seconds = printable(run.get("seconds", "?"))
        leaping = " (the loss leaps)" if run.get("leaps") == "yes" else ""
        print(f"{mark}{rank:>3}. {loss:.5f}    {accuracy:.4f}  {seconds:>7}  {words}{leaping}")
    print()


def print_test_settings(tested, trained):
    """Under which settings a test is made, where these are not those of the training."""
    if trained is None:
        print_wrapped("How the model's spectra were made is not known: tested under these options.")
    for name in vars(trained.settings) if trained else ():
        own, known = (format_setting(getattr(x.settings, name)) for x in (tested, trained))
        if own != known and name != "seed":
            print_wrapped(f"Testing under --{name} {own}; the model was trained under {known}.")


def print_test(results, n_models):
    """The confusion matrix, and the figures that go with it; `n_models` have met the test set."""
    print(f"\n{'':18}{'predicted ' + MODELS[0]:>22}{'predicted ' + MODELS[1]:>22}")
    for model, (divergence, gene_flow) in zip(MODELS, results["confusion_matrix"], strict=True):
        print(f"true {model:<13}{divergence:>22,}{gene_flow:>22,}")
    n_test, told, wrongly = results["n_test"], results["told"], results["told_wrongly"]
    print(f"\nAccuracy {format_proportion(results['accuracy'], n_test)}")
    print(f"Loss {results['log_loss']:.4f}, ROC AUC {results['roc_auc']:.4f}")
    print(f"Verdicts: {told:,} of {n_test:,} (other model below {MAX_ERROR:g}), {wrongly:,} wrong")
    print(f"Undecided: {results['undecided']:,}")
    print("\nGene flow recognised, by migration rate:")
    for some in results["recognised_by_migration_rate"]:
        power = some["recognised"] / some["n"]
        print(f"  {some['lowest']:.1e} to {some['highest']:.1e}  {power:7.1%} of {some['n']:,}")
    print("\nWithout a network, the accuracy on the same test set would be")
    for name, accuracy in results["baselines"].items():
        print(f"  {format_proportion(accuracy, n_test)} with a {name}")
    print()
    if n_models > 1:
        print_wrapped(f"""{n_models} models have now met this test set. Choosing by it makes it
            optimistic: validation is for choosing. A new --seed draws a new test set.""")


def row_of_prediction(prediction, network):
    """The row of `predictions.csv` of one spectrum."""
    row = {
        "file": prediction.path,
        "divergence": prediction.probabilities[0],
        "gene_flow": prediction.probabilities[1],
        "verdict": prediction.verdict,
        "within_training_range": "yes" if prediction.verdict in (*MODELS, "undecided") else "no",
        "p_divergence": f"{prediction.p_values[0]:.4f}",
        "p_gene_flow": f"{prediction.p_values[1]:.4f}",
        "p_after_inference": f"{prediction.p_after:.4f}",
        "spectrum": fingerprint(prediction.observed.counts.tobytes()),
        "model": network.fingerprint,
        "training": fingerprint(vars(replace(network.settings, seed=0))),
        "simulations": network.simulations,
    }
    for name, ranks in prediction.percentiles.items():
        for model, rank in zip(MODELS, ranks, strict=True):
            row[f"{name}, percentile under {model}"] = f"{rank:.1f}"
    return row


def print_prediction(prediction, network):
    """What a spectrum looks like among the simulations of each model, and the verdict."""
    names, specification = prediction.observed.names, network.specification
    of = f" (A: {', B: '.join(names)})" if names else ""
    print("\n" + printable(f"{prediction.path}{of}"))
    if prediction.observed.remark:
        print(f"({prediction.observed.remark})")
    columns = "{:<36}{:>12}{:>14}{:>12}"
    print(f"{'percentile under':>70}")
    print(columns.format("summary", "observed", *MODELS))
    n_sites = specification.settings.n_sites if specification else 1
    for name, ranks in prediction.percentiles.items():
        (unit, form, _), value = SUMMARIES[name], prediction.summaries[name][0]
        if unit == ", per bp":
            value, unit = value / n_sites, unit if specification else ", in all"
        ranks = [f"{rank:.0f}" if 0 < rank < 100 else "outside" for rank in ranks]
        print(columns.format(name + unit, f"{value:{form}}", *ranks))
    p_values = [f"{p_value:.3f}" for p_value in prediction.p_values]
    print(columns.format("proportion of simulations as far out", "", *p_values))
    after = ["", ""]
    after[prediction.favoured] = f"{prediction.p_after:.3f}"
    print(columns.format("... in singletons, after inference", "", *after))
    for name, ranks in prediction.percentiles.items():
        if ranks[prediction.favoured] in (0, 100):
            whose = "all" if name in prediction.outside else "the favoured model's"
            cause = SUMMARIES[name][2]
            print_wrapped(f"Warning: {name} outside {whose} simulations. Check {cause}.")
    print_nearest(prediction)
    print_verdict(prediction, network.table)


def print_nearest(prediction):
    """From which parameters the nearest simulations of the favoured model come."""
    tables = prediction.nearest, prediction.fit.table
    heading = f"Rejection ABC: the {len(tables[0])} nearest of {MODELS[prediction.favoured]}"
    print(f"\n{heading:<44}{'median (5% to 95%)':>20}  prior (5% to 95%); covers the truth in")
    for name in PARAMETERS.names:
        values, prior = (table["parameters"][name] for table in tables)
        (low, high), (least, most) = (np.quantile(x, [0.05, 0.95]) for x in (values, prior))
        has_no_effect = name.startswith("gene_flow") and not prediction.favoured
        if has_no_effect or not least < most:  # fixed, or NaN, as it is not known
            continue
        edge = max((values < least).mean(), (values > most).mean()) >= 0.25  # 0.05 by the prior
        as_wide = ((low <= prior) & (prior <= high)).mean() >= 0.8
        remark = ", AT THE PRIOR'S EDGE" if edge else ", nothing learnt" if as_wide else ""
        form, covered = ".2g" if np.median(prior) < 100 else ",.0f", prediction.fit.coverage(name)
        ranges = f"{format_range(values, form):>36}  {least:{form}} to {most:{form}}"
        print(f"  {name.replace('_', ' '):<26}{ranges}; {covered:.0%}{remark}")


def print_verdict(prediction, table):
    """The verdict, and how reliable it is."""
    favoured, gene_flow = prediction.favoured, prediction.probabilities[1]
    print_wrapped(f"Verdict: {VERDICTS[prediction.verdict]}")
    if prediction.verdict == "neither":
        print_wrapped(f"""A history that is in neither model? Priors that do not cover the truth?
            Are ancestral alleles known? Do {SCALE} fit?""")
    if prediction.p_after <= prediction.fit.false_alarms:
        print_wrapped("""Warning: singletons unlike the nearest simulations': a change of size,
            which --size_change_prior would allow for, or lost singletons?""")
    odds = gene_flow / max(1 - gene_flow, 1e-9)
    factor = "above 1,000" if odds > 1000 else "below 0.001" if odds < 0.001 else f"{odds:.3g}"
    validation = parts(table)[1]
    alike = validation["probabilities"][:, favoured] >= prediction.probabilities[favoured]
    n_right = (validation["labels"][alike] == favoured).sum()
    print_wrapped(f"""Estimated probability of gene flow: {format_probability(gene_flow)} (Bayes
        factor, to multiply with other prior odds: {factor}). Of the {alike.sum():,} validation
        spectra given as much or more for {MODELS[favoured]}, {n_right:,} had it.""")


def print_ensemble(prediction, network, rows):
    """What networks that differ in the seed of their training alone say together of a spectrum."""
    own, same = row_of_prediction(prediction, network), ("spectrum", "training", "simulations")
    alike = [row for row in rows if all(row.get(name) == own[name] for name in same)]
    given = list({row["model"]: float(row["gene_flow"]) for row in alike}.values())
    if len(given) > 1:
        verdict = prediction.verdict_at(np.array([1 - np.mean(given), np.mean(given)]))
        low, mean, high = map(format_probability, (min(given), np.mean(given), max(given)))
        print_wrapped(f"""{len(given)} networks of different seeds: mean probability of gene flow
            {mean} ({low} to {high}); verdict of the mean: {verdict}.""")


def print_bootstrap(resampled):
    """How often the spectra that were resampled from an observed one get which verdict."""
    verdicts = [each.verdict for each in resampled]
    counts = ", ".join(f"{x} in {verdicts.count(x)}" for x in VERDICTS if x in verdicts)
    ends = np.quantile([each.probabilities[1] for each in resampled], [0.025, 0.975])
    low, high = map(format_probability, ends)
    print()
    print_wrapped(f"""{len(resampled)} bootstrap spectra: {counts}; probability of gene flow
        {low} to {high} (95%).""")


def print_assumptions(table, fits, can_tell):
    """What the answers take for granted, and what this design can say at best."""
    by_chance, validation = max(fit.false_alarms for fit in fits), parts(table)[1]
    # A new value is the lowest or the highest of a summary.
    outside = min(1, len(table["summaries"].dtype.names) * 2 / (len(table) + 1))
    best = np.quantile(validation["probabilities"][validation["labels"] == 0, 0], 0.95)
    hence = "" if best > 1 - MAX_ERROR else ": hardly any spectrum could get that verdict"
    print()
    if not can_tell:
        print_wrapped("No model can be told: the loss in validation is no better than a coin's.")
    print_wrapped(f"""These estimate posterior probabilities if both models, with the priors that
        were simulated, are equally probable beforehand, and nothing else is. Of the models' own
        spectra {by_chance:.1%} are taken for neither's, as many get a warning about singletons, and
        at most {outside:.1%} are out of range.""")
    print_wrapped(f"95% of true divergence is given less than {best:.3f} for divergence{hence}.")


# ========================================= 17. Pictures =========================================
#
# Purple and orange, or dark to light, are told apart on a grey print, and by the colour-blind.

COLOURS = ("#542788", "#e08214")  # of the two models; the ends of the scale "PuOr_r"
OTHER_COLOURS = "#0072b2 #009e73 #cc79a7 #56b4e9 #000000 #999999".split()  # Okabe and Ito's
ATTRIBUTION_STEPS = 32
N_ATTRIBUTED = 400  # spectra, half of them of each model


def save_picture(path, draw, *inputs):
    """Draw a picture in place of the last one; where that fails, a line says so."""
    try:
        path.unlink(missing_ok=True)  # no old picture beside new numbers
        logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it talks about its font cache
        from matplotlib.figure import Figure

        figure = Figure(layout="constrained")  # without pyplot, Agg draws: it needs no screen
        draw(figure, *inputs)
        figure.savefig(path, dpi=100, bbox_inches="tight")
        print(f"See {printable(path)}.")
    except Exception as error:
        print_error(f"{path} could not be drawn ({one_line(error)}). The numbers are saved.")


def draw_models(figure, settings):
    """The two models as tubes as wide as populations are large, at the medians of the priors."""
    import demesdraw

    figure.set_size_inches(12, 5.5)
    change = settings.size_change_prior
    if change.low < 1 < change.high:  # whose median may be no change
        settings = replace(settings, size_change_prior=Prior(change.low, change.low))
        figure.suptitle(f"changes of size to {change.low:g} times, the low end of their prior")
    colours = {"A": "#0072b2", "B": "#56b4e9", "ancestor": "#999999"}
    for label, axes in enumerate(figure.subplots(1, 2)):
        parameters = parameters_at(settings, label, 0.5)
        graph = demographic_model(parameters).to_demes()
        demesdraw.tubes(graph, axes, colours=colours, seed=1, scale_bar=True)
        for tube in axes.collections:
            tube.set_alpha(1)
        times, title = {0: "today", parameters["divergence_time"]: "divergence"}, MODELS[label]
        if label:
            start, stop = parameters["gene_flow_start"], parameters["gene_flow_stop"]
            axes.axhspan(stop, start, color=COLOURS[1], alpha=0.3, zorder=0)
            times = {stop: "gene flow to", start: "gene flow from"} | times
            title += f": migration rate {mean_migration(parameters):.2g} per generation"
        axes.set(title=title, ylabel="generations before today")
        axes.set_yticks(list(times), [f"{what}\n{time:,.0f}" for time, what in times.items()])


def show_tables(cells, tables, titles, label, signed=False, folded=False, bins_of=()):
    """Joint SFS, or tables of bins of spectra of shape `bins_of`, on one scale of colours."""
    from matplotlib.colors import CenteredNorm, LogNorm

    tables = np.ma.array(tables) if signed else np.ma.masked_less_equal(tables, 0)
    most, cmap = abs(tables).max(), "PuOr_r" if signed else "viridis"
    norm = CenteredNorm(0, most) if signed else LogNorm(max(tables.min(), most / 1e4), most)
    alleles, bins = "minor" if folded else "derived", " (where a bin begins)" if bins_of else ""
    for axes, table, title in zip(cells, tables, titles, strict=True):
        image = axes.imshow(table, origin="lower", norm=norm, cmap=cmap)
        axes.figure.colorbar(image, ax=axes, label=label, shrink=0.8)
        axes.set(xlabel=f"{alleles} alleles in B{bins}", ylabel=f"{alleles} alleles in A{bins}")
        axes.set_title(title)
        axes.locator_params(integer=True)
        for axis, n in zip((axes.yaxis, axes.xaxis), bins_of, strict=False):
            starts = allele_bins(n - 1)
            axis.set_ticks(range(len(starts)), starts)


def draw_sfs(figure, dataset):
    """The mean joint SFS of the two models, and their log-ratio, which is where the signal is."""
    figure.set_size_inches(15, 4.6)
    *cells, last = figure.subplots(1, 3)
    means = [dataset.sfs[dataset.labels == label].mean(axis=0)[..., 0] for label in range(2)]
    show_tables(cells, means, MODELS, "mean number of SNPs")
    ratio = np.ma.log2(np.ma.masked_equal(means[1], 0) / np.ma.masked_equal(means[0], 0))
    title = "how much more under gene flow"
    show_tables([last], ratio[np.newaxis], [title], "log2(gene flow / divergence)", signed=True)


def draw_history(figure, runs):
    """Loss and accuracy by epoch: this run, the last of `runs`, bold; the best others thin."""
    figure.set_size_inches(13, 6)
    own, distinct = format_run(runs[-1]), {format_run(run): run for run in runs}
    others = [words for words in distinct if words != own]
    others.sort(key=lambda words: float(distinct[words]["validation_loss"]))
    styles = [{"color": COLOURS[1], "linewidth": 2.5, "marker": "o"}]
    styles += [{"color": colour, "linewidth": 1} for colour in OTHER_COLOURS]
    for axes, measure in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.set(xlabel="epoch", ylabel=measure)
        if measure == "loss":
            axes.axhline(CHANCE_LOSS, color="0.6", linestyle=":", label="ln 2: tossing a coin")
            axes.set_ylabel("loss (logarithmic)")
            axes.set_yscale("log", subs=(2, 3, 5, 7))
            axes.yaxis.set(major_formatter="{x:g}", minor_formatter="{x:g}")
        for rank, (words, style) in enumerate(zip([own, *others], styles, strict=False)):
            label = words if rank else f"this run, {words}"
            dashed = {"linestyle": "--", "marker": ""}
            for part, line in (("training", dashed), ("validation", {"label": label})):
                curve = distinct[words].get(f"{part}_{measure}_by_epoch", "").split()
                axes.plot(range(1, len(curve) + 1), np.array(curve, float), **style | line)
            if rank <= len(others) / 2:  # the worse end: a run that leaps would squash the rest
                worst = axes.get_ylim()[measure == "loss"]
        axes.set(ylim=(None, worst) if measure == "loss" else (worst, None))
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    lines = figure.axes[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=3, title="validation; training dashed")


def draw_test(figure, name, results, probabilities, dataset, network):
    """The report of a test: how good the probabilities are, shape (N, 2), where wrong, and why."""
    from sklearn.metrics import ConfusionMatrixDisplay, RocCurveDisplay

    figure.set_size_inches(16.5, 14)
    if name == "test_elsewhere":
        figure.suptitle("UNDER OTHER SETTINGS THAN THOSE OF THE TRAINING")
    cells = figure.subplots(3, 3)
    (matrix, roc, calibration), (mistakes, by_time, by_rate), (*attributed, beside) = cells
    gene_flow, labels, parameters = probabilities[:, 1], dataset.labels, dataset.parameters
    right, accuracy = (gene_flow > 0.5) == labels, "accuracy, with its 95% interval"

    confusion = ConfusionMatrixDisplay(np.array(results["confusion_matrix"]), display_labels=MODELS)
    confusion.plot(ax=matrix, cmap="cividis", colorbar=False, values_format=",d")
    matrix.set(title="confusion matrix", xlabel="model predicted", ylabel="true model")
    style = {"name": "network", "plot_chance_level": True}
    RocCurveDisplay.from_predictions(labels, gene_flow, ax=roc, **style)
    roc.set(title="ROC curve", xlabel="false positives", ylabel="power")
    calibration.plot([0, 1], [0, 1], ":", color="0.5", label="calibrated")
    draw_binned(calibration, gene_flow, labels, "network", color="black")
    calibration.set(title="calibration", xlabel="probability of gene flow", ylabel="how often true")

    rates, times = mean_migration(parameters), parameters["divergence_time"]
    draw_mistakes(mistakes, rates, times, labels, right)
    for axes, values, label in ((by_time, times, 0), (by_time, times, 1), (by_rate, rates, 1)):
        rows, style = labels == label, {"color": COLOURS[label], "marker": ("o", "s")[label]}
        draw_binned(axes, values[rows], right[rows], MODELS[label], **style)
    by_time.set(xlabel="divergence time, generations", ylabel=accuracy)
    by_time.locator_params(axis="x", nbins=4)
    by_rate.set(xlabel="migration rate per generation", ylabel=accuracy)
    by_rate.set_xscale("log", subs=(2, 5))
    by_rate.xaxis.set(major_formatter="{x:.0e}", minor_formatter="{x:.0e}")
    for axes in (calibration, mistakes, by_time, by_rate):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3, frameon=False)

    draw_attributions(attributed, network, dataset)
    accuracies = {"network": results["accuracy"]} | results["baselines"]
    counts = [(round(each * results["n_test"]), results["n_test"]) for each in accuracies.values()]
    draw_proportions(beside, range(len(counts)), counts, color="black")
    beside.set_xticks(range(len(counts)), [textwrap.fill(name, 11) for name in accuracies])
    beside.set(title="with and without a network", ylabel=accuracy)


def draw_proportions(axes, at, counts, **style):
    """Proportions k / n, of pairs (k, n), as points with their 95% intervals."""
    proportions = np.array([k / n for k, n in counts])
    intervals = np.transpose([wilson_interval(k, n) for k, n in counts])
    style = {"marker": "o", "linestyle": "none", "capsize": 4} | style
    axes.errorbar(at, proportions, abs(intervals - proportions), **style)


def draw_binned(axes, values, hits, label, **style):
    """How often something is so along a value, in up to 8 bins of equally many replicates."""
    bins = np.array_split(np.argsort(values, kind="stable"), min(8, 1 + len(values) // 10))
    means = [values[rows].mean() for rows in bins]
    counts = [(hits[rows].sum(), len(rows)) for rows in bins]
    draw_proportions(axes, means, counts, label=f"{label}, bins of {len(bins[0]):,}", **style)


def draw_mistakes(axes, rates, times, labels, right):
    """Which pairs of species the network mistakes; divergence, which has no rate, is below."""
    below = rates[labels == 1].min() * np.random.default_rng(0).uniform(0.1, 0.6, len(rates))
    heights = np.where(labels == 1, rates, below)
    for label, model in enumerate(MODELS):
        rows = right & (labels == label)
        axes.scatter(times[rows], heights[rows], marker=".", color=COLOURS[label], label=model)
    axes.scatter(times[~right], heights[~right], marker="x", color="black", label="mistaken")
    axes.set(title=f"mistakes: {(~right).sum():,} of {len(right):,} replicates", yscale="log")
    axes.set(xlabel="divergence time, generations", ylabel="migration rate (divergence: none)")


def draw_attributions(cells, network, dataset):
    """What each bin adds to the log-odds of gene flow, in the mean over each model's spectra."""
    sfs, labels = dataset.sfs[:N_ATTRIBUTED], dataset.labels[:N_ATTRIBUTED]
    baseline, folded = parts(network.table)[0]["inputs"].mean(axis=0), network.settings.folded
    found = attributions(network.model, network_inputs(sfs, folded), baseline)
    tables = [found[labels == label].mean(axis=0) for label in range(2)]
    titles = [f"what speaks for (+) and against (-) gene flow,\ntrue {model}" for model in MODELS]
    style = {"signed": True, "folded": folded, "bins_of": sfs.shape[1:3]}
    show_tables(cells, tables, titles, "mean attribution, log-odds", **style)


def attributions(model, inputs, baseline):
    """What each bin of spectra adds to the log-odds of gene flow, shape (N, bins of A, bins of B).

    Integrated gradients (Sundararajan et al. 2017): on the straight way from the baseline to each
    of the inputs, the gradient is averaged, then multiplied by the way; they sum to the difference
    in log-odds. The way begins behind the square root, whose gradient at 0 is infinite.
    """
    import tensorflow as tf

    logits = start_keras().Model(model.get_layer(FIRST_GAIN).input, model.layers[-1].input)
    way = tf.constant(inputs - baseline, tf.float32)
    gradients = tf.zeros_like(way)
    for step in range(ATTRIBUTION_STEPS):
        point = baseline + (step + 0.5) / ATTRIBUTION_STEPS * way
        with tf.GradientTape() as tape:
            tape.watch(point)
            log_odds = logits(point) @ [[-1.0], [1.0]]
        gradients += tape.gradient(log_odds, point)
    return (way * gradients / ATTRIBUTION_STEPS).numpy()[..., 0]


def draw_prediction(figure, prediction, network):
    """An observed spectrum beside the nearest simulations of the model that the network favours."""
    from sklearn.decomposition import PCA

    figure.set_size_inches(12, 10)
    title = printable(", ".join([prediction.path.stem, *prediction.observed.names]))
    title += f": probability of gene flow {format_probability(prediction.probabilities[1])}"
    figure.suptitle(f"{title}\nVerdict: {VERDICTS[prediction.verdict]}")
    *cells, below, scatter = figure.subplots(2, 2).flat
    near, table = prediction.nearest["inputs"], network.table
    style = {"folded": network.settings.folded, "bins_of": prediction.observed.counts.shape}
    counts = [prediction.inputs[0, ..., 0] ** 2, near.mean(axis=0)[..., 0] ** 2]
    nearest = f"mean of the {len(near)} nearest simulations\nof {MODELS[prediction.favoured]}"
    show_tables(cells, counts, ["observed, in bins", nearest], "SNPs (white: none)", **style)
    label = "residual standard deviations of the nearest"
    title = "observed less expected\n(by a regression on the nearest simulations)"
    show_tables([below], [prediction.residual], [title], label, signed=True, **style)
    pca = PCA(2, random_state=0).fit(flat(table["inputs"]))
    for label, model in enumerate(MODELS):
        points = pca.transform(flat(table["inputs"][table["labels"] == label][:1000]))
        scatter.scatter(*points.T, s=6, alpha=0.4, color=COLOURS[label], label=model)
    at = pca.transform(flat(prediction.inputs))[0]
    scatter.scatter(*at, marker="*", s=300, color="black", label="observed")
    scatter.set(xlabel="first axis", ylabel="second axis", title="principal components")
    scatter.legend()


# ========================================= 18. main =========================================


def run_alone():
    """`main` in a process that what surrounds it does not change; signals end it with one line."""
    for stream in (sys.stdout, sys.stderr):  # a log shows lines as they come, whatever they hold
        stream.reconfigure(line_buffering=True, errors="backslashreplace")
    os.environ["MPLBACKEND"] = "agg"  # a notebook's terminal asks for one that may be missing
    os.environ["PYTHONWARNINGS"] = "ignore"  # of the workers
    warnings.simplefilter("ignore")
    screen = os.dup(2)  # stays the screen while TensorFlow starts

    def stop(number, _frame):
        # Nothing to tidy up: unfinished files are hidden, and workers go when their parent is gone.
        with contextlib.suppress(OSError):
            line = b"runml: stopped; what was not finished has replaced nothing.\n"
            os.write(screen, b"\n" * os.isatty(screen) + line)
        os._exit(128 + number)

    for number in STOPPING:
        signal.signal(number, stop)
    status = main()
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)  # all is done; Python may leave in peace
    return status


def main(argv=None):
    """Run the command line; return the exit status."""
    try:
        options = parse_options(sys.argv[1:] if argv is None else argv)
        with only_command_in(options.data_dir):
            for job in prepare(options):
                job()
    except UserError as error:
        print_error(f"runml: error: {error}")
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:  # whoever read the output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nor shall Python try to write at its end
        return 1
    except Exception as error:
        if os.environ.get("RUNML_TRACEBACK"):
            traceback.print_exc()
        kind = type(error).__name__
        print_error(f"runml: error: {kind}, {one_line(error)} (RUNML_TRACEBACK=1 shows where).")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_alone() if STANDALONE else main())
