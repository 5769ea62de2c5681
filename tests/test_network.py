"""The network, its training and evaluation, and what is compared with it and stored beside it."""

import functools
import json
from pathlib import Path

import moments
import numpy as np
import pytest
from conftest import runml
from sklearn import linear_model, metrics

keras = runml.start_keras()
FEW = {"epochs": 2, "learning_rate": 1e-4, "batch_size": 32}
FOLDED = pytest.mark.parametrize("folded", [False, True], ids=["unfolded", "folded"])


@functools.cache
def toy_data(n=200, shape=(7, 7)):
    """Spectra that differ where two species share polymorphism, and their labels."""
    rng, labels = np.random.default_rng(1), np.arange(n, dtype=np.int32) % 2
    sfs = rng.poisson(20, size=(n, *shape, 1)).astype(np.int32)
    sfs[labels == 1, 2:-2, 2:-2] += 10
    return sfs, labels


def fit(sfs, labels, **changes):
    """A network trained on spectra, and the history."""
    settings = runml.TrainingSettings(**FEW | changes)
    model = runml.build_network(sfs.shape[1:3], settings)
    split = runml.split_rows(labels, settings.seed)
    inputs = runml.network_inputs(sfs, settings.folded)
    return model, runml.train_network(model, inputs, labels, split, settings)


fit_to_toy_data = functools.cache(lambda: fit(*toy_data()))


def weights(model):
    return np.concatenate([array.ravel() for array in model.get_weights()])


def decided(shape, settings):
    """A network that has learned nothing, but whose last layer has random weights, not zeros."""
    model, rng = runml.build_network(shape, settings), np.random.default_rng(1)
    last = model.layers[-2]  # before the softmax
    last.set_weights([rng.normal(scale=0.01, size=x.shape) for x in last.get_weights()])
    return model


@functools.cache
def learned(folded=False):
    """A `Network` of simulated spectra, and a test `Dataset`; if folded, of unequal samples."""
    size = runml.PerSpecies(4, 4 - folded)
    settings, sets = runml.SimulationSettings(sample_size=size, sequence_length=5_000), []
    for stream in (runml.TRAINING_SET, runml.TEST_SET):
        block = runml.simulate_block(settings, stream, range(300))
        specification = runml.DatasetSpecification(settings, 150)
        sets.append(runml.Dataset(*block.values(), {"a": "b"}, specification))
    training = runml.TrainingSettings(epochs=5, learning_rate=1e-3, layers=3, folded=folded)
    model, _ = fit(sets[0].sfs, sets[0].labels, **vars(training))
    return network_of(model, training, sets[0]), sets[1]


def network_of(model, training, dataset):
    inputs = runml.network_inputs(dataset.sfs, training.folded)
    split = runml.split_rows(dataset.labels, training.seed)
    table = runml.make_reference_table(dataset, inputs, split, model, training.folded)
    return runml.Network(model, training, dataset.specification, dataset.checksums, table)


@pytest.mark.parametrize("shape", [(5, 5), (7, 13), (21, 21)])
def test_folding_is_that_of_moments(shape):
    counts = np.random.default_rng(1).poisson(5, shape) * 1.0
    counts[0, 0] = counts[-1, -1] = 0
    ours = runml.fold(counts[np.newaxis, ..., np.newaxis])
    assert np.array_equal(ours[0, ..., 0], moments.Spectrum(counts).fold().filled(0))
    assert np.array_equal(runml.fold(ours), ours)


@pytest.mark.parametrize("n", [2, 4, 6, 8, 14, 20, 24, 100, 500])
def test_bins_part_the_counts_alike_from_both_ends(n):
    starts = runml.allele_bins(n)
    widths = np.diff([*starts, n + 1])
    assert starts[0] == 0 < widths.min()
    assert widths.sum() == n + 1
    assert widths.tolist() == widths[::-1].tolist()
    assert widths[:2].tolist() == [1, 1]  # none, and a single one, are kept apart
    assert (np.diff(widths[: len(widths) // 2]) >= 0).all()  # the commoner, the wider
    if n == 20:
        assert starts == [0, 1, 2, 4, 8, 13, 17, 19, 20]


@FOLDED
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i8", "f4", "f8"])
def test_what_the_network_sees_is_roots_of_sums_in_bins(folded, kind):
    sfs = np.random.default_rng(3).poisson(75, (3, 21, 9, 1)).astype(kind)  # some sums are no "u1"
    counts = (runml.fold(sfs * 1.0) if folded else sfs * 1.0)[..., 0]
    counts[:, 0, 0] = counts[:, -1, -1] = 0
    of_a, of_b = (np.split(np.arange(n + 1), runml.allele_bins(n)[1:]) for n in (20, 8))
    by_hand = [[[table[np.ix_(a, b)].sum() for b in of_b] for a in of_a] for table in counts]
    seen = runml.network_inputs(sfs, folded)
    np.testing.assert_allclose(seen[..., 0], np.sqrt(by_hand), rtol=1e-6)
    inside = runml.preprocess(keras.ops.convert_to_tensor(sfs.astype("f4")), folded, keras.ops)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(inside), seen, rtol=1e-5)
    exact = runml.summarise(sfs * 1.0, folded).tolist()
    np.testing.assert_allclose(runml.summarise(sfs, folded).tolist(), exact, rtol=1e-6)


def test_network_has_what_was_asked_for():
    model = runml.build_network((7, 9), runml.TrainingSettings(layers=3, dropout=0.35))
    *hidden, last = [each.units for each in model.layers if isinstance(each, keras.layers.Dense)]
    assert (len(hidden), last) == (3, 2)
    assert hidden[0] == 2 * hidden[1] == 4 * hidden[2]
    assert {x.rate for x in model.layers if isinstance(x, keras.layers.Dropout)} == {0.35}
    counts = np.random.default_rng(1).poisson(30, (5, 7, 9, 1))
    np.testing.assert_allclose(runml.predict_probabilities(model, counts), 0.5)  # at first


@FOLDED
@pytest.mark.parametrize(("n_a", "n_b"), [(1, 1), (3, 4), (1, 250), (250, 250)])
def test_any_sample_size_whatever_is_in_the_corners(n_a, n_b, folded):
    shape = (4, 2 * n_a + 1, 2 * n_b + 1, 1)
    sfs = np.random.default_rng(1).poisson(1_000 / np.prod(shape), shape).astype(np.int32)
    model = decided(sfs.shape[1:3], runml.TrainingSettings(folded=folded))
    found = runml.predict_probabilities(model, sfs)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    assert np.ptp(found[:, 0]) > 1e-3
    sfs[:, 0, 0], sfs[:, -1, -1] = 90_000, 500  # invariant sites
    np.testing.assert_array_equal(runml.predict_probabilities(model, sfs), found)


def test_split_parts_every_row_once_and_each_model_alike():
    labels = np.repeat([0, 1], [700, 300])
    training, validation = runml.split_rows(labels, seed=3)
    assert sorted([*training, *validation]) == list(range(1_000))
    assert np.bincount(labels[validation]).tolist() == [140, 60]
    assert not np.array_equal(training, runml.split_rows(labels, seed=4)[0])


@pytest.mark.parametrize(
    "changes",
    [{}, {"seed": 2}, {"learning_rate": 1e-3}, {"dropout": 0.5}, {"batch_size": 64}, {"epochs": 3}],
    ids=lambda changes: next(iter(changes), "the same"),
)
def test_training_follows_its_settings_and_nothing_else(changes):
    (model, history), (other, changed) = fit_to_toy_data(), fit(*toy_data(), **changes)
    assert np.array_equal(weights(model), weights(other)) == (not changes)
    assert len(changed["val_loss"]) == changes.get("epochs", 2)
    if changes.keys() <= {"epochs"}:  # few epochs are the beginning of many
        assert all(values == changed[name][:2] for name, values in history.items())


def test_reported_validation_is_that_of_the_model_returned():
    (sfs, labels), (model, history) = toy_data(), fit_to_toy_data()
    rows = runml.split_rows(labels, runml.TrainingSettings().seed)[1]
    results = runml.evaluate(runml.predict_probabilities(model, sfs[rows]), labels[rows])
    assert history["val_loss"][-1] == pytest.approx(results["log_loss"], rel=1e-4)
    assert history["val_accuracy"][-1] == pytest.approx(results["accuracy"])


def test_weights_are_the_moving_average_of_those_of_adam():
    """By hand, on equal rows, whose order does not matter: five batches an epoch, two epochs."""
    settings = runml.TrainingSettings(dropout=0, batch_size=8, epochs=2, learning_rate=1e-4)
    inputs = np.repeat(runml.network_inputs(toy_data(shape=(7, 9))[0][:1], False), 50, axis=0)
    labels, split = np.ones(50, np.int32), [np.arange(40), np.arange(40, 50)]
    model, by_hand = (runml.build_network((7, 9), settings) for _ in range(2))
    runml.train_network(model, inputs, labels, split, settings)
    learner, average = runml.learning_part(by_hand), None
    learner.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
    for _ in range(10):
        learner.train_on_batch(inputs[:8], labels[:8])
        now = weights(by_hand)
        average = now if average is None else 0.8 * average + 0.2 * now
    np.testing.assert_allclose(weights(model), average, rtol=1e-4, atol=1e-7)
    assert abs(now - average).max() > 1e-5


@pytest.mark.parametrize(("shape", "copies"), [((7, 7), True), ((7, 5), False), ((9, 11), False)])
def test_swapped_copies_are_made_where_species_are_exchangeable(shape, copies):
    """Then which of the two species it is, and nothing else, cannot be learned."""
    sfs, labels = np.random.default_rng(1).poisson(5, (200, *shape, 1)), np.arange(200) % 2
    sfs[::2, 1, 3] += 20
    sfs[1::2, 3, 1] += 20
    _, history = fit(sfs, labels, epochs=6, learning_rate=1e-3, batch_size=16, dropout=0)
    assert (min(history["val_loss"]) > 0.5) == copies
    assert (history["val_accuracy"][-1] > 0.9) != copies


def test_log_odds_of_the_network_are_those_of_exact_likelihoods():
    """Where both models are known Poisson spectra, whose log-odds are 2 or -2 in the mean."""
    rng = np.random.default_rng(1)
    without = rng.gamma(2, 1, (5, 3))
    log_ratio = rng.normal(0, 0.3, (5, 3))
    without[0, 0] = without[-1, -1] = 0
    with_flow = without * np.exp(log_ratio)
    scale = 4 / ((with_flow - without) * log_ratio).sum()
    without, with_flow = scale * without, scale * with_flow

    def draw(n_rows):
        labels = np.arange(n_rows) % 2
        sfs = rng.poisson(np.where(labels[:, None, None] == 1, with_flow, without))
        return sfs[..., np.newaxis], labels

    training = {"layers": 1, "dropout": 0, "learning_rate": 3e-4, "epochs": 8, "batch_size": 1024}
    model, _ = fit(*draw(40_000), **training)
    sfs, labels = draw(4_000)
    found = np.diff(np.log(runml.predict_probabilities(model, sfs)))[:, 0]
    exact = (sfs[..., 0] * log_ratio).sum(axis=(1, 2)) - (with_flow - without).sum()
    middle = abs(exact) < 3
    slope, intercept = np.polyfit(exact[middle], found[middle], 1)
    assert 0.85 < slope < 1.15
    assert abs(intercept) < 0.2
    losses = [np.logaddexp(0, np.where(labels == 1, -odds, odds)).mean() for odds in (found, exact)]
    assert losses[0] < losses[1] + 0.02  # nobody does better than the exact odds


@FOLDED
def test_a_saved_network_is_the_same_anywhere(tmp_path, folded):
    """In plain Keras, in its safe mode, on raw counts, and here with all that it remembers."""
    network, dataset = learned(folded)
    path, sfs = tmp_path / runml.MODEL, dataset.sfs
    runml.save_network(path, network)
    found = runml.predict_probabilities(network.model, sfs)
    assert np.ptp(found) > 0.01
    plain = keras.models.load_model(path, safe_mode=True)
    np.testing.assert_array_equal(runml.predict_probabilities(plain, sfs), found)
    loaded = runml.load_network(path)
    np.testing.assert_array_equal(runml.predict_probabilities(loaded.model, sfs), found)
    for name in ("settings", "specification", "checksums", "fingerprint", "simulations"):
        assert getattr(loaded, name) == getattr(network, name), name
    assert loaded.table.dtype == network.table.dtype
    assert loaded.table.tobytes() == network.table.tobytes()
    for other in (sfs[:, ::-1, ::-1], runml.fold(sfs)):
        assert np.allclose(runml.predict_probabilities(plain, other), found, atol=1e-4) == folded


def test_evaluate_against_hand_and_library():
    labels, gene_flow = np.repeat([0, 1], 50), np.random.default_rng(2).beta(1, 1, 100)
    gene_flow[50:] = np.clip(gene_flow[50:] + 0.3, 0, 0.999)
    probabilities = np.column_stack([1 - gene_flow, gene_flow]).astype(np.float32)
    results, predicted = runml.evaluate(probabilities, labels), gene_flow > 0.5
    assert results["accuracy"] == metrics.accuracy_score(labels, predicted)
    assert results["confusion_matrix"] == metrics.confusion_matrix(labels, predicted).tolist()
    loss = -np.log(np.where(labels == 1, gene_flow, 1 - gene_flow)).mean()
    assert results["log_loss"] == pytest.approx(loss, rel=1e-5)
    wins = (gene_flow[50:, None] > gene_flow[None, :50]).mean()  # Mann-Whitney
    assert results["roc_auc"] == pytest.approx(wins)
    assert results["accuracy_95ci"] == runml.wilson_interval((predicted == labels).sum(), 100)
    sure = abs(gene_flow - 0.5) > 0.45
    assert results["told"] == sure.sum() > results["told_wrongly"] > 0
    assert results["told_wrongly"] == (sure & (predicted != labels)).sum()
    assert results["undecided"] == results["n_test"] - sure.sum() == 100 - sure.sum()


def test_wilson_intervals_are_those_of_newcombe_1998():
    known = [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)]
    for n_right, n, *interval in [*known, (1, 29, 0.0061, 0.1718)]:
        assert runml.wilson_interval(n_right, n) == pytest.approx(interval, abs=6e-5)


def test_power_by_migration_by_hand():
    rng = np.random.default_rng(1)
    rates, seen = rng.permutation(np.geomspace(1e-7, 1e-3, 1_000)), rng.random(1_000) < 0.7
    parameters = np.zeros(2_000, runml.PARAMETERS)
    parameters["migration_a_to_b"][1::2], parameters["migration_b_to_a"][1::2] = rates, 3 * rates
    dataset = runml.Dataset(None, np.arange(2_000) % 2, parameters, {}, None)
    given = np.zeros((2_000, 2))
    given[1::2, 1] = seen
    bins = runml.power_by_migration(dataset, given, 5)
    assert [each["n"] for each in bins] == [200] * 5
    for each in bins:
        within = (2 * rates >= each["lowest"]) & (2 * rates <= each["highest"])
        assert within.sum() == each["n"]
        assert seen[within].sum() == each["recognised"]


def best_threshold(values, labels):
    """The threshold on a summary that leaves the least Gini impurity, by trying them all."""

    def impurity(cut):
        return sum(len(x) * x.var() for x in (labels[values > cut], labels[values <= cut]))

    cut = min(np.unique(values)[:-1], key=impurity)
    return cut, labels[values > cut].mean() > 0.5


@FOLDED
def test_baselines_are_the_best_thresholds_and_regression(folded):
    network, dataset = learned(folded)
    training, validation = runml.parts(network.table)
    accuracies = runml.baseline_accuracies(network, dataset)
    summaries = runml.summarise(dataset.sfs, folded)
    for name in ("F_ST", "shared"):
        cut, above = best_threshold(training["summaries"][name], training["labels"])
        right = ((summaries[name] > cut) == above) == dataset.labels
        assert accuracies.pop(f"threshold on {name}") == pytest.approx(right.mean(), abs=0.01)
    x, y = training["inputs"], training["labels"]
    if not folded:  # of equal samples
        x, y = np.concatenate([x, x.swapaxes(1, 2)]), np.tile(y, 2)
    x, exact = x.reshape(len(x), -1).astype(float), {"tol": 1e-8, "max_iter": 10_000}
    regressions = [linear_model.LogisticRegression(C=c, **exact) for c in (0.001, 0.01, 0.1)]
    fits = [regression.fit(x, y) for regression in regressions]
    unseen = validation["inputs"].reshape(len(validation), -1)
    losses = [metrics.log_loss(validation["labels"], each.predict_proba(unseen)) for each in fits]
    inputs = runml.network_inputs(dataset.sfs, folded)
    accuracy = fits[np.argmin(losses)].score(inputs.reshape(len(inputs), -1), dataset.labels)
    assert accuracies == {"logistic regression": pytest.approx(accuracy, abs=0.01)}


def test_attributions_sum_to_the_log_odds():
    network, dataset = learned()
    inputs = runml.network_inputs(dataset.sfs[:50], False)
    baseline = network.table["inputs"].mean(axis=0)
    found = runml.attributions(network.model, inputs, baseline)
    learner = runml.learning_part(network.model)
    given = runml.predict_probabilities(learner, np.stack([*inputs, baseline]))
    log_odds = np.diff(np.log(np.maximum(given, 1e-300)))[:, 0]
    expected, sums = log_odds[:-1] - log_odds[-1], found.sum(axis=(1, 2))
    sure = given[:-1].min(axis=1) == 0  # beyond what a probability of 32 bits can tell
    assert sure.mean() < 0.2
    np.testing.assert_allclose(sums[~sure], expected[~sure], atol=0.02 * np.ptp(expected[~sure]))


@pytest.mark.parametrize("n", [200, 24_000])
def test_a_reference_table_is_a_fair_part_of_the_simulations(n):
    sfs = np.random.default_rng(1).poisson(5, (n, 3, 5, 1))
    labels = (np.arange(n) // (n // 2)).astype(np.int32)  # one model after the other
    parameters = np.zeros(n, runml.PARAMETERS)
    parameters["divergence_time"] = np.arange(n)
    settings = runml.TrainingSettings()
    model = decided((3, 5), settings)
    table = network_of(model, settings, runml.Dataset(sfs, labels, parameters, {}, None)).table
    rows = table["parameters"]["divergence_time"].astype(int)
    assert min(n, 9_990) <= len(rows) == len(set(rows)) <= 10_000
    assert table["is_validation"].mean() == pytest.approx(0.2, abs=0.001)
    for part in runml.parts(table):
        assert part["labels"].mean() == pytest.approx(0.5, abs=0.03)
    assert np.array_equal(table["labels"], labels[rows])
    assert np.array_equal(table["is_validation"], np.isin(rows, runml.split_rows(labels, 1234)[1]))
    assert np.array_equal(table["inputs"], runml.network_inputs(sfs[rows], False))
    assert np.array_equal(table["summaries"], runml.summarise(sfs[rows]))
    given = runml.predict_probabilities(model, sfs[rows])
    np.testing.assert_allclose(table["probabilities"], given, rtol=1e-5)


def table_of(n, seed):
    """A reference table of one model, in which the size of A makes all SNPs more frequent."""
    rng, parameters = np.random.default_rng(seed), np.zeros(n, runml.PARAMETERS)
    size, mean = rng.gamma(20, 1, n), np.linspace(0.2, 2, 49).reshape(7, 7, 1)
    sfs, parameters["size_a"] = rng.poisson(size[:, None, None, None] * mean), size
    table = np.zeros(n, runml.reference_dtype((5, 5, 1), False))
    table["inputs"], table["summaries"] = runml.network_inputs(sfs, False), runml.summarise(sfs)
    table["parameters"], table["is_validation"] = parameters, np.arange(n) % 5 == 0
    return table


model_fit = functools.cache(lambda: runml.ModelFit(table_of(2_500, seed=1)))


def test_as_many_spectra_are_taken_for_outliers_as_are_said_to_be():
    fit, n, n_fresh = model_fit(), 2_500, 6_000
    fresh, striped, young = table_of(n_fresh, seed=2), table_of(20, seed=3), table_of(20, seed=4)
    striped["inputs"][:, 2:4] *= 2  # as no simulation is
    young["inputs"][:, 1] *= 2  # with many singletons in A
    before = [fit.p_value(each) for each in (fresh, striped)]
    misfits = [fit.misfit(each) for each in (fresh, young)]
    level = fit.false_alarms
    error = (level * (1 - level) * (1 / n + 1 / n_fresh)) ** 0.5
    for own, alien in (before, [runml.proportion_beyond(each, fit.misfits) for each in misfits]):
        assert abs((own <= level).mean() - level) < 4 * error < level
        assert (alien <= level).all()


def test_the_nearest_simulations_are_the_nearest():
    fit, fresh = model_fit(), table_of(200, seed=2)
    places, nearest = fit.nearest(fresh)
    for place, rows in zip(places, nearest, strict=True):
        squares = ((fit.places - place) ** 2).sum(axis=1)
        assert np.sort(squares[rows]) == pytest.approx(np.sort(squares)[: len(rows)])
    sizes = fit.table["parameters"]["size_a"]
    off = sizes[nearest].mean(axis=1) - fresh["parameters"]["size_a"]
    assert off.std() < sizes.std() / 4
    n = len(nearest[0])  # between which are equally probable gaps
    assert fit.coverage("size_a") == pytest.approx(0.9 * (n - 1) / (n + 1), abs=0.03)


# ------------------------------ what is said of loss curves ------------------------------
#
# The classes of recorded curves were given by eye, after so many epochs of a run, in view of what
# happened in the later ones.

CURVES = json.loads((Path(__file__).parent / "curves.json").read_text())
CLASSES = {  # by the words that tell them
    "cannot tell the models apart": "cannot be told apart",
    "leaps": "leaping",
    "Fewer than five": "too few epochs",
    "still near 0.69": "too little training",
    "still falling": "falling",
    "hardly changes": "settled",
    "risen since": "risen",
}
LATER = ["too few epochs", "too little training", "falling", "settled", "risen"]  # the way it goes
WANDERING = {  # 200 validation spectra at a loss below 0.04: a few of them make the curve
    "easy n_reps=500 learning_rate=1e-05 dropout=0 seed=2",
    "easy n_reps=500 learning_rate=0.0001 dropout=0.2 seed=5",
}


def classify(training, validation, regression_learns=None):
    """The class of two curves; a regression is asked only where the network has learned nothing."""
    words = runml.describe_curves(training, validation, regression_learns)
    [found] = [name for part, name in CLASSES.items() if part in words]
    return found


def classify_recorded(curve, n):
    """The class after so many epochs."""
    losses = curve["training"][:n], curve["validation"][:n]
    return classify(*losses, lambda: curve["regression_learns"])


def test_curves_are_classed_as_by_eye():
    judged = [
        (name, classify_recorded(curve, int(epochs)), classes)
        for name, curve in CURVES.items()
        for epochs, classes in curve["classes"].items()
    ]
    wrong = [each for each in judged if each[1] not in each[2]]
    assert len(wrong) < 0.08 * len(judged)
    for name, found, classes in wrong:  # that a curve levels off may be told late, nothing else
        assert name in WANDERING or (found, classes) == ("falling", ["settled"])


@pytest.mark.parametrize("name", sorted(set(CURVES) - WANDERING))
def test_what_is_said_of_a_run_cut_short_is_not_taken_back(name):
    told = [classify_recorded(CURVES[name], epochs) for epochs in (5, 10, 15, 20, 30, 40, 60)]
    ranks = [LATER.index(each) for each in told if each in LATER]
    assert ranks == sorted(ranks)
    # "Settled" is not said before a fall, or after a rise.
    losses = CURVES[name]["validation"]
    means = np.convolve(losses, np.full(3, 1 / 3), "valid")  # [i]: of the epochs i + 1 to i + 3
    for epochs in range(5, len(losses) - 2):
        if classify_recorded(CURVES[name], epochs) == "settled":
            now = means[epochs - 3]
            assert means[epochs - 2 :].min() > 0.97 * now and now < 1.05 * means[: epochs - 2].min()


def test_one_hiccup_is_no_leap():
    losses = np.geomspace(0.6, 0.003, 60)
    assert classify(losses, losses) == "falling"
    losses[56] = 0.05
    assert classify(losses, losses) != "leaping"
    losses[52:] = 0.6931  # a network that died
    assert classify(losses, losses) == "leaping"
