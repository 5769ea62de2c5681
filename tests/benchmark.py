"""How good, how fast and how large the three commands are, each against its reference in the same run.

    python tests/benchmark.py                    # everything, about 40 minutes on two cores
    python tests/benchmark.py startup memory     # only these parts
    python tests/benchmark.py --work FOLDER      # keep what was simulated, and use it next time

Each part prints rows of one Markdown table as it ends. Times are wall-clock seconds of whole
commands, start-up and TensorFlow's import included, or until a command prints that its results are
saved, before it draws pictures, where simulating or fitting is compared with a reference. Where a
median is printed, program and reference ran in turn. Accuracy is measured on three sets of 10,000
spectra with finite-sites mutations (`msprime.sim_mutations` as it comes, SFS by sites), which no
training sees. One set is not enough: the same networks differed by 0.002 from one set to another.

What was tried for the network, at the lesson's settings: mean accuracy and log-loss of five training
sets of 8,000, on 40,000 spectra (half by finite sites, half by branches), and the seconds of `fit`
alone, some of them on a busy machine.

    filters 8, gain 15                                          0.9973   0.0095    5.8
    filters 8, gain 25                                          0.9973   0.0099    5.8
    filters 12, gain 20                                         0.9974   0.0094    6.6
    filters 12, gain 25                                         0.9974   0.0105    6.8
    filters 16, gain 10, last layer random                      0.9971   0.0101   11.4
    filters 16, gain 15                     (chosen)            0.9975   0.0091   12.2
    filters 16, gain 20                                         0.9974   0.0095    9.1
    filters 32, gain 10                                         0.9975   0.0089   15.5
    filters 8, gain 25, 128 and 64 units                        0.9974   0.0108    8.4
    ... 9,000 training spectra                                  0.9974   0.0097   10.5
    ... weight decay of 1                                       0.9974   0.0098    5.9
    ... dropout before the first hidden layer too               0.9973   0.0094    8.8
    ... Gaussian noise of 0.5 on the square roots               0.9971   0.0108    6.5
    ... log(1 + x) for the square root, tripled                 0.9636   0.0932    5.7
    ... x^0.35 for the square root, times 1.5                   0.9783   0.0556    6.5
    ... second channel that tells 0 from more, gain 20          0.9972   0.0109    6.1
    filters 12, gain 20, averaging the last fifth               0.9974   0.0093    6.8
    filters 12, gain 20, averaging the last third               0.9973   0.0093    6.9

Transformations that look harder at small counts fail where sites mutate twice, which makes a few
shared SNPs without gene flow (0.93 on the finite-sites half). Three networks of 8 filters together
reached 0.9979 and 0.0083, so little is left to gain from 8,000 training spectra. Averaging what the
network says of a spectrum and of its swapped copy: 0.9977 in place of 0.9976, at twice the time.

Before that, single networks on one set of 10,000, with TensorFlow's import in the seconds; the usual
small CNN took 8.7 with batches of 128:

    filters 16, gain 10, last layer random                      0.9980   0.0057   13.6
    ... batches of 256                                          0.9976   0.0078   10.5
    ... stride 2                                                0.9967   0.0099    8.6
    ... stride 3                                                0.9933   0.0235    6.8
    ... dense 32, 16                                            0.9974   0.0077    9.5
    filters 8, gain 10, last layer random                       0.9970   0.0085    9.8
    ... 5x5 convolution                                         0.9970   0.0091    9.5
    ... steps_per_execution 125 in place of 25                  0.9970   0.0085    9.1
    filters 4, gain 10, last layer random                       0.9970   0.0101    8.5
    filters 8, gain 20, not averaged; four seeds         0.9963-0.9983   0.0055-0.0114   9.3
    filters 8, gain 20, averaged; four seeds             0.9978-0.9986   0.0054-0.0078   9.9
    filters 8, gain 20, cosine decay, not averaged              0.9974   0.0077    9.0

Why the seconds of `fit` jumped: while tf.data tunes itself, a thread of it sleeps 10, 20, 40, ... ms
between looks, and the end of an epoch waits for it to wake. So an epoch took 0.65 or 1.27 seconds,
whatever the network. Without tuning, ten epochs took 7.7 (12 filters), 8.9 (16) and 12.2 (24), with
one thread for an operation; with two threads 8.5, 9.8 and 12.7, and more of the processor.

Averaged weights vary least between seeds and cost next to nothing. With 1,600 training spectra an
average over a fixed 100 steps is too long (0.985 to 0.990, over 25 steps 0.992 to 0.994), hence the
last tenth of however many there are. A last layer that starts at zero costs nothing in ten epochs and
shows a learning rate that is too small (log-loss 0.2 to 0.3 at 1e-7, where random weights give 0.06).
Batches by tf.data from a memory-mapped file take about half a second longer than arrays in memory;
determinism costs nothing measurable.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import distributed
import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import Machine_Learning_for_Population_Genetics_V2 as runml  # noqa: E402

SCRIPT = [sys.executable, str(ROOT / "Machine_Learning_for_Population_Genetics_V2.py")]
LESSON = ["--layers", "2", "--dropout", "0.2", "--epochs", "10", "--learning_rate", "1e-05"]
SEEDS = (1, 2, 3, 4, 5)
TEST_SEEDS = (20_000, 20_001, 20_002)
N_WORKERS = 2
FINITE_SITES = 99  # a branch of the seed's tree that no command uses


def row(what, measured, reference, target):
    print(f"| {what} | {measured} | {reference} | {target} |", flush=True)


def timed(command, **kwargs):
    """Run a command; return its seconds and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=True, **kwargs
    )
    return time.perf_counter() - start, done.stdout


def timed_until(saved, command):
    """Seconds until a command prints that its results are saved, and until it has drawn its pictures."""
    start, until = time.perf_counter(), None
    with subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if saved in line:
                until = time.perf_counter() - start
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
        while not ready.exists() or not ready.read_text():
            time.sleep(0.1)
        address = json.loads(ready.read_text())["address"]
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(N_WORKERS, timeout=60)
        yield address
    finally:
        for process in processes:
            process.kill()
            process.wait()


def genealogies(settings, index):
    """The bare `sim_ancestry` call of one replicate, and the seed for its mutations."""
    import msprime

    parameters, rng = runml.draw_row(settings, FINITE_SITES, index)
    trees = msprime.sim_ancestry(
        samples={"A": settings.sample_size.a, "B": settings.sample_size.b},
        demography=runml.demographic_model(settings, parameters),
        sequence_length=settings.sequence_length,
        recombination_rate=settings.recombination_rate,
        random_seed=rng.integers(1, 2**32),
    )
    return trees, rng.integers(1, 2**32)


def finite_sites_sfs(settings, index):
    """One SFS by the plain pipeline: ancestry, finite-sites mutations, spectrum by sites."""
    import msprime

    trees, seed = genealogies(settings, index)
    trees = msprime.sim_mutations(trees, rate=settings.mutation_rate, random_seed=seed)
    samples = [trees.samples(population=0), trees.samples(population=1)]
    sfs = trees.allele_frequency_spectrum(samples, polarised=True, span_normalise=False)
    sfs[0, 0] = sfs[-1, -1] = 0
    return sfs.astype(np.int32)


def spend(kind, indices):
    """Seconds that a process spends on the plain pipeline, or on its `sim_ancestry` calls alone."""
    import msprime  # noqa: F401

    settings = runml.SimulationSettings()
    start = time.perf_counter()
    for index in indices:
        finite_sites_sfs(settings, index) if kind == "plain" else genealogies(settings, index)
    return time.perf_counter() - start


def finite_sites_set(work, seed, n_sfs=10_000):
    """Spectra and responses that accuracy is measured on, simulated once."""
    path = work / f"finite_sites_{seed}.npz"
    if not path.exists():
        settings = runml.SimulationSettings(seed=seed)
        with ProcessPoolExecutor(N_WORKERS, multiprocessing.get_context("spawn")) as pool:
            spectra = list(pool.map(finite_sites_sfs, [settings] * n_sfs, range(n_sfs), chunksize=50))
        np.savez(path, sfs=np.stack(spectra)[..., np.newaxis], responses=np.arange(n_sfs) % 2)
    with np.load(path) as arrays:
        return arrays["sfs"], arrays["responses"]


def scores(folder, work):
    """Accuracy and log-loss of a folder's model on each finite-sites set, shape (sets, 2)."""
    model = runml.load_model(folder / "trained_model.keras")
    found = []
    for seed in TEST_SEEDS:
        sfs, responses = finite_sites_set(work, seed)
        probabilities = model.predict(
            runml.batches(sfs, responses, np.arange(len(sfs)), 1000), verbose=0
        )
        results = runml.evaluate(probabilities, responses)
        found.append((results["accuracy"], results["log_loss"]))
    return np.array(found)


def simulated(work, seed, n_reps=5_000):
    """A folder with the data of one seed."""
    folder = work / f"seed_{seed}_{n_reps}"
    if not (folder / "simulated_sfs.npy").exists():
        timed([*SCRIPT, "--simulate", "--seed", seed, "--n_reps", n_reps, "--data_dir", folder])
    return folder


def validation(printed):
    """Accuracy and loss from what `--train` prints at its end."""
    return [
        float(number)
        for number in re.search(r"Validation accuracy (\S+), loss (\S+)\.", printed).groups()
    ]


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


def part_simulation(work, n_reps=2_500, n_plain=400, n_rounds=3):
    n_sfs = 2 * n_reps
    plain, floor, ours = [], [], []
    halves = [range(0, n_sfs, 2), range(1, n_sfs, 2)]
    context = multiprocessing.get_context("spawn")
    for _ in range(n_rounds):
        with ProcessPoolExecutor(1, context) as pool:
            plain.append(n_plain / pool.submit(spend, "plain", range(n_plain)).result())
        with ProcessPoolExecutor(N_WORKERS, context) as pool:
            floor.append(max(pool.map(spend, ["floor"] * N_WORKERS, halves)))
        command = [*SCRIPT, "--simulate", "--n_reps", n_reps, "--workers", N_WORKERS]
        with tempfile.TemporaryDirectory(dir=work) as folder:
            ours.append(timed_until("joint SFS saved", [*command, "--data_dir", folder])[0])
    rates = [n_sfs / seconds for seconds in ours]
    ratio = statistics.median(rate / reference for rate, reference in zip(rates, plain, strict=True))
    over = statistics.median(seconds / reference for seconds, reference in zip(ours, floor, strict=True))
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


def part_accuracy(work):
    found, saved, whole, references = [], [], [], []
    for seed in SEEDS:
        folder = simulated(work, seed)
        references.append(timed([sys.executable, __file__, "--reference_fit", folder])[0])
        command = [*SCRIPT, "--train", *LESSON, "--data_dir", folder]
        for times, seconds in zip((saved, whole), timed_until("Model saved", command), strict=True):
            times.append(seconds)
        found.append(scores(folder, work))
    found = np.array(found)  # shape (seeds, sets, 2)
    by_set, by_seed = found.mean(axis=0), found.mean(axis=1)
    mean, loss = found.mean(axis=(0, 1))
    row(
        "accuracy at the lesson's settings, mean of five seeds (lowest seed)",
        f"{mean:.4f} ({by_seed[:, 0].min():.4f})",
        f"standard error of a set of 10,000: {(mean * (1 - mean) / 10_000) ** 0.5:.4f}; "
        f"the three sets: {', '.join(f'{accuracy:.4f}' for accuracy in by_set[:, 0])}",
        "at least 0.997 (0.9955)",
    )
    row(
        "log-loss, mean of five seeds (highest seed)",
        f"{loss:.4f} ({by_seed[:, 1].max():.4f})",
        f"the three sets: {', '.join(f'{each:.4f}' for each in by_set[:, 1])}",
        "at most 0.011",
    )
    for what, seconds, target in (
        ("`--train`, lesson's settings, until the model is saved", saved, "at most 1.5 times"),
        ("the same, until the ranking is printed and the picture drawn", whole, ""),
    ):
        ratio = statistics.median(
            ours / reference for ours, reference in zip(seconds, references, strict=True)
        )
        row(
            f"{what}, median of five",
            f"{statistics.median(seconds):.1f} s, {ratio:.2f} times",
            f"the usual small CNN: {statistics.median(references):.1f} s",
            target,
        )


def part_small(work):
    folder = work / "from_nothing"
    simulating, _ = timed([*SCRIPT, "--simulate", "--n_reps", 1000, "--data_dir", folder])
    training, _ = timed([*SCRIPT, "--train", *LESSON, "--data_dir", folder])
    accuracies = scores(folder, work)[:, 0]
    sets = ", ".join(f"{accuracy:.4f}" for accuracy in accuracies)
    row(
        "from nothing, `--n_reps 1000`: accuracy",
        f"{accuracies.mean():.4f}",
        f"the three sets: {sets}",
        "at least 0.99",
    )
    row("the same, time", f"{simulating + training:.0f} s", "", "under 40 s")


def part_memory(work):
    folder = work / "memory"
    simulating = peak_memory([*SCRIPT, "--simulate", "--data_dir", folder])
    training = peak_memory([*SCRIPT, "--train", *LESSON, "--data_dir", folder])
    row("largest process of `--simulate`", f"{simulating:.0f} MB", "", "at most 400 MB")
    row("largest process of `--train`", f"{training:.0f} MB", "", "at most 2,000 MB")


def part_opinion(work):
    """How often spectra are said to be unlike those that the model was trained on."""
    training = np.load(simulated(work, SEEDS[0]) / "simulated_sfs.npy")
    training = training[runml.split_rows(len(training), SEEDS[0])[0]]
    fresh = np.load(simulated(work, SEEDS[1]) / "simulated_sfs.npy")
    other = {}
    for length, n_reps in ((1_000_000, 250), (10_000, 500)):
        folder = work / f"length_{length}"
        command = [*SCRIPT, "--simulate", "--sequence_length", length, "--n_reps", n_reps, "--seed", 7]
        timed([*command, "--data_dir", folder])
        other[length] = np.load(folder / "simulated_sfs.npy")
    for folded in (False, True):
        reference = runml.fit_reference(training, folded)
        known = {
            "fresh ones, as in training": (fresh, "fewer than 1%"),
            "ten times the sequence length": (other[1_000_000], "at least 95%"),
            "a tenth of the sequence length": (other[10_000], "at least 95%"),
        }
        if not folded:
            known["folded, passed off as unfolded"] = (runml.fold(fresh), "at least 95%")
            known["ancestral and derived alleles swapped"] = (fresh[:, ::-1, ::-1], "at least 95%")
        for name, (sfs, target) in known.items():
            _, percentiles, outlier = runml.place(sfs, reference, folded)
            within = np.isfinite(list(percentiles.values())).all(axis=0) & ~outlier
            what = "spectra flagged by a folded model" if folded else "spectra flagged"
            row(f"{what}: {name}", f"{1 - within.mean():.1%}", f"of {len(sfs):,}", target)


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
        ratio = statistics.median(
            ours / theirs for ours, theirs in zip(measured, reference, strict=True)
        )
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
        tiny = [*SCRIPT, "--simulate", "--sequence_length", 100, "--data_dir", folder, "--n_reps"]
        small, large = (peak_memory([*tiny, size], with_children=False) for size in sizes)
    row(
        f"parent of `--simulate --n_reps {sizes[1]}`, memory",
        f"{large:.0f} MB",
        f"`--n_reps {sizes[0]}`: {small:.0f} MB",
        "at most 100 MB more",
    )

    with tempfile.TemporaryDirectory(dir=work) as folder:
        whole, _ = timed_until("joint SFS saved", [*simulate, Path(folder) / "whole"])
        file = Path(folder) / "resumed" / ".simulated.partial" / "simulated_sfs.npy"
        process = subprocess.Popen(
            [str(word) for word in [*simulate, Path(folder) / "resumed"]], stdout=subprocess.DEVNULL
        )
        half = (Path(folder) / "whole" / "simulated_sfs.npy").stat().st_size / 2
        while not file.exists() or file.stat().st_size < half:
            time.sleep(0.01)
        process.kill()
        process.wait()
        done = 100 * file.stat().st_size / (2 * half)
        rest, _ = timed_until("joint SFS saved", [*simulate, Path(folder) / "resumed"])
    row(
        f"`--simulate`, killed after {done:.0f}%, run again",
        f"{rest:.1f} s",
        f"whole: {whole:.1f} s",
        "",
    )


def part_cost(work, n_sfs=60):
    """How the CPU time of one SFS, in one process, grows with what most decides it."""
    lesson = runml.SimulationSettings()
    grids = {
        "sample_size": [runml.PerSpecies(n, n) for n in (5, 10, 20, 40)],
        "sequence_length": [50_000, 100_000, 200_000, 400_000],
        "recombination_rate": [5e-9, 1e-8, 2e-8, 4e-8],
    }
    runml.simulate_rows(lesson, FINITE_SITES, range(2))  # imports msprime
    for name, values in grids.items():
        times = []
        for value in values:
            settings = replace(lesson, **{name: value})
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


def part_lesson(work):
    """The instructor's questions, one change at a time."""
    folder = simulated(work, 1234)
    questions = [("as in the lesson", [])] + [
        (f"`--{option} {value}`", [f"--{option}", value])
        for option, values in {
            "layers": (1, 3),
            "dropout": (0, 0.5),
            "learning_rate": ("1e-03", "1e-07"),
            "epochs": (5, 15),
        }.items()
        for value in values
    ]
    print("\n| what changes | validation accuracy | validation loss |\n|---|---|---|")
    for name, change in questions:
        _, printed = timed([*SCRIPT, "--train", *LESSON, *change, "--data_dir", folder])
        accuracy, loss = validation(printed)
        print(f"| {name} | {accuracy:.4f} | {loss:.4f} |", flush=True)


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
    versions = {name: runml.version(name) for name in ("msprime", "numpy", "tensorflow", "keras")}
    print(f"{os.cpu_count()} cores; {json.dumps(versions)}\n")
    print("| what | measured | reference in the same run | target |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for name in args.parts or PARTS:
            PARTS[name](work)


if __name__ == "__main__":
    main()
