"""Pictures show what they are given, and cost no numbers when they fail."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import rows, run, runml
from matplotlib import image
from matplotlib.figure import Figure


def drawn(draw, *inputs):
    """The figure that a function has drawn, and all that is written on it."""
    draw(figure := Figure(layout="constrained"), *inputs)
    figure.draw_without_rendering()
    found = figure.findobj(lambda each: hasattr(each, "get_text"))
    return figure, "\n".join(each.get_text() for each in found)


def titled(figure, word):
    """The axes whose title has a word in it."""
    return next(axes for axes in figure.axes if word in axes.get_title())


def table_of(axes):
    """The table that axes show as an image, with 0 where they show nothing."""
    return np.ma.filled(axes.images[0].get_array(), 0)


@pytest.fixture(scope="module")
def network(trained):
    return runml.load_network(trained[0] / runml.MODEL)


@pytest.fixture(scope="module")
def tested(trained):
    return runml.load_dataset(trained[0], "test")


def test_the_commands_draw(trained):
    for name in ("demographic_models", "simulated_sfs", "training_history", "test_report"):
        picture = image.imread(trained[0] / f"{name}.png")[..., :3]
        assert min(picture.shape[:2]) >= 400
        assert 0.02 < (picture.min(axis=2) < 0.9).mean() < 0.9
        assert f"See {trained[0] / name}.png." in trained[1]


MODELS = {  # priors that are points, the generations of gene flow, and what is written
    "the lesson's": ({}, (0, 137_500), "divergence\n275,000"),
    "early": ({"gene_flow_start": 1, "gene_flow_stop": 0.5}, (137_500, 275_000), "137,500"),
    "young": ({"tdiv_prior": 1e3}, (0, 500), "1,000"),
    "changes of size": ({"size_change_prior": 0.1}, (0, 137_500), "today"),
    "rare": ({"migration_prior": 1e-7}, (0, 137_500), "1e-07"),
}


@pytest.mark.parametrize("name", MODELS)
def test_demographic_models(name):
    points, window, word = MODELS[name]
    changes = {name: runml.Prior(value, value) for name, value in points.items()}
    figure, written = drawn(runml.draw_models, runml.SimulationSettings(**changes))
    divergence, gene_flow = figure.axes
    assert word in written
    assert not any(hasattr(each, "get_y") for each in divergence.patches)
    (band,) = (each for each in gene_flow.patches if hasattr(each, "get_y"))
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx(window, rel=0.05)
    assert all(axes.get_ylabel() == "generations before today" for axes in figure.axes)


def test_mean_spectra_and_their_ratio():
    sfs = np.random.default_rng(1).poisson(4, (40, 5, 7, 1)) * np.arange(1, 8).reshape(1, 1, 7, 1)
    sfs[:, 0, 0] = sfs[:, -1, -1] = 0
    labels = np.arange(40) % 2
    dataset = runml.Dataset(sfs, labels, None, {}, None)
    figure, _ = drawn(runml.draw_sfs, dataset)
    means = [sfs[labels == label].mean(axis=0)[..., 0] for label in range(2)]
    for axes, model, mean in zip(figure.axes, runml.MODELS, means, strict=False):
        assert axes.get_title() == model
        assert table_of(axes) == pytest.approx(mean)
        assert axes.get_xlabel() + axes.get_ylabel() == "derived alleles in Bderived alleles in A"
        assert axes.get_ylim()[0] < axes.get_ylim()[1]  # counts grow upwards
    inside = means[0] > 0
    ratio = np.log2(means[1][inside] / means[0][inside])
    assert table_of(titled(figure, "how much more"))[inside] == pytest.approx(ratio)


def a_run(losses, accuracies, **settings):
    """A row of experiments.csv, and the history that it is of."""
    history = {"loss": losses, "val_loss": [1.1 * loss for loss in losses]}
    history |= {"accuracy": accuracies, "val_accuracy": [x - 0.01 for x in accuracies]}
    model = SimpleNamespace(count_params=lambda: 9)
    network = runml.Network(model, runml.TrainingSettings(**settings), None, {}, None)
    return runml.row_of_run(network, history, 1), history


def test_curves_are_those_of_the_runs():
    runs = [
        a_run([0.5, 0.1, 0.05], [0.8, 0.97, 0.98]),
        a_run([0.6, 30.0, 40.0], [0.5, 0.5, 0.5], learning_rate=1.0),  # leaps
        a_run([0.55, 0.2, 0.08], [0.8, 0.96, 0.97], layers=3),
    ]
    figure, _ = drawn(runml.draw_history, [row for row, _ in runs])
    (legend,) = figure.legends  # one for both panels
    names = [each.get_text() for each in legend.get_texts()]
    assert len(names) == len(set(names))
    for axes, measure in zip(figure.axes, ("loss", "accuracy"), strict=True):
        lines = [line for line in axes.get_lines() if line.get_label() in names]
        assert axes.get_xlabel() == "epoch"
        assert axes.get_ylabel().startswith(measure)
        for words, (_, history) in zip(("the defaults", "rate 1.0", "layers 3"), runs, strict=True):
            (line,) = (line for line in lines if line.get_label().endswith(words))
            assert line.get_xdata().tolist() == [1, 2, 3]
            assert line.get_ydata() == pytest.approx(history[f"val_{measure}"], rel=1e-3)
        training = pytest.approx(runs[2][1][measure])
        assert any(list(line.get_ydata()) == training for line in axes.get_lines())
    low, high = figure.axes[0].get_ylim()
    assert low < 0.05 < high < 2  # the leaping run squashes no axis
    assert any(np.allclose(line.get_ydata(), np.log(2)) for line in figure.axes[0].get_lines())


def points(axes, label):
    """Proportions with their intervals, as arrays: at, proportions, low and high ends."""
    found = (x for x in axes.containers if (x.get_label() or "").startswith(label))
    line, _, (ends, *_) = next(found)
    return (*line.get_data(), *np.array(ends.get_segments())[:, :, 1].T)


def report(network, tested, gene_flow, name="test"):
    """The report of a test in which these probabilities of gene flow were given."""
    given = np.stack([1 - gene_flow, gene_flow], axis=1)
    results = runml.evaluate(given, tested.labels) | {"baselines": {"a threshold": 0.75}}
    return drawn(runml.draw_test, name, results, given, tested, network)


@pytest.mark.parametrize("name", ["test", "test_elsewhere"])
def test_the_report_says_where_the_test_was_made(network, tested, name):
    _, written = report(network, tested, np.linspace(0.1, 0.9, len(tested.labels)), name)
    assert ("OTHER SETTINGS" in written) == (name == "test_elsewhere")


def test_the_report_shows_what_was_tested(network, tested):
    rng, labels, n = np.random.default_rng(1), tested.labels, len(tested.labels)
    gene_flow = np.clip(0.5 + (labels - 0.5) * rng.uniform(-0.3, 1, n), 0.001, 0.999)
    figure, written = report(network, tested, gene_flow)
    right = (gene_flow > 0.5) == labels
    counts = [int(text.get_text()) for text in titled(figure, "confusion").texts]
    assert counts == [sum((labels == i) & ((gene_flow > 0.5) == j)) for i in (0, 1) for j in (0, 1)]
    assert f"mistakes: {sum(~right)} of {n}" in written
    ranks = gene_flow[labels == 1][:, np.newaxis] - gene_flow[labels == 0]
    assert f"AUC = {(ranks > 0).mean():.2f}" in written

    # Means and proportions in bins of equally many replicates, with Wilson's intervals.
    parameters, is_1 = tested.parameters, labels == 1
    for where, label, values, hits, some in (
        ("calibration", "network", gene_flow, is_1, labels >= 0),
        ("divergence time", "divergence", parameters["divergence_time"], right, ~is_1),
        ("migration rate", "gene flow", parameters["migration_a_to_b"], right, is_1),
    ):
        both = [x for x in figure.axes if where in x.get_title() + x.get_xlabel()]
        axes = next(x for x in both if x.containers)
        at, proportions, low, high = points(axes, label)
        bins = np.array_split(np.flatnonzero(some)[np.argsort(values[some])], len(at))
        assert len(at) > 2
        assert at == pytest.approx([values[rows].mean() for rows in bins])
        p, size = np.array([(hits[rows].mean(), len(rows)) for rows in bins]).T
        assert proportions == pytest.approx(p)
        half = 1.96 * np.sqrt(p * (1 - p) / size + (1.96 / size / 2) ** 2) / (1 + 1.96**2 / size)
        middle = (p + 1.96**2 / size / 2) / (1 + 1.96**2 / size)
        assert [*low, *high] == pytest.approx([*middle - half, *middle + half], abs=1e-3)

    lines = titled(figure, "calibration").lines
    (line,) = (line for line in lines if line.get_label() == "calibrated")
    assert line.get_xdata() == pytest.approx(line.get_ydata())
    _, shown, *_ = points(titled(figure, "without a network"), "")
    assert shown.tolist() == pytest.approx([right.mean(), 0.75])
    for model in runml.MODELS:
        assert titled(figure, f"true {model}").images


@pytest.mark.parametrize("names", [(), ("great tit", "blue tit"), ("great tit",)])
def test_a_prediction_beside_its_nearest_simulations(network, tested, names):
    counts = np.array(tested.sfs[1, ..., 0], float)
    fits = [runml.ModelFit(network.table[network.table["labels"] == label]) for label in range(2)]
    observed = runml.Observed(counts, False, names)
    prediction = runml.Prediction(Path("birds.fs"), observed, network, fits)
    figure, written = drawn(runml.draw_prediction, prediction, network)
    for word in ("birds", *names, runml.VERDICTS[prediction.verdict], "probability of gene flow"):
        assert word.lower() in written.lower()
    in_bins = runml.network_inputs(counts[np.newaxis, ..., np.newaxis], False)[0, ..., 0] ** 2
    assert table_of(titled(figure, "observed, ")) == pytest.approx(in_bins, rel=1e-5)
    assert in_bins.sum() == pytest.approx(counts.sum(), rel=1e-5)
    near = prediction.nearest["inputs"].mean(axis=0)[..., 0] ** 2
    assert table_of(titled(figure, "nearest")) == pytest.approx(near, rel=1e-5)
    assert titled(figure, "less").images
    assert {"divergence", "gene flow", "observed"} <= set(written.split("\n"))


def test_a_picture_that_fails_is_a_line_and_no_old_one_stays(copy, capsys, monkeypatch):
    def fail(*_):
        raise MemoryError("no\nmemory")

    monkeypatch.setattr(runml, "draw_history", fail)
    picture = copy / "training_history.png"
    status, out, error = run(capsys, "--train", "--epochs", 1, "--data_dir", copy)
    assert (status, error.count("\n"), "See " in out) == (0, 1, False)
    assert error.startswith(f"{picture} could not be drawn (no)")
    assert len(rows(copy / "experiments.csv")) == 2
    assert not picture.exists()
