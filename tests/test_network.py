"""The network, its training, what it is compared with, and the figures of the test."""

import functools
import json

import numpy as np
import pytest
from conftest import runml, spectra
from sklearn import metrics

keras = runml.start_keras()
FOLDED = pytest.mark.parametrize("folded", [False, True], ids=["unfolded", "folded"])


@functools.cache
def toy_data():
    """Spectra that differ where two species share polymorphism; shape (200, 7, 7, 1)."""
    rng = np.random.default_rng(1)
    responses = np.arange(200, dtype=np.int32) % 2
    sfs = rng.poisson(20, size=(200, 7, 7, 1)).astype(np.int32)
    sfs[responses == 1, 2:5, 2:5] += 10
    return sfs, responses


def train(**changes):
    settings = {"epochs": 2, "learning_rate": 1e-4, "batch_size": 32}
    return runml.train_network(*toy_data(), runml.TrainingSettings(**settings | changes))


trained_on_toy_data = functools.cache(train)


def weights(model):
    return np.concatenate([array.ravel() for array in model.get_weights()])


def decided(shape, settings, gain=1):
    """A network that has learned nothing, but whose last layer has random weights, not zeros."""
    keras.utils.set_random_seed(1)
    model = runml.build_network(shape, settings)
    rng = np.random.default_rng(1)
    last = [rng.normal(size=array.shape) for array in model.layers[-1].get_weights()]
    model.layers[-1].set_weights([last[0] / gain, last[1]])
    return model


# The network.


def test_network_has_what_was_asked_for():
    model = runml.build_network((7, 9), runml.TrainingSettings(layers=3, dropout=0.35))
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("Conv2D") == 1
    hidden = [layer.units for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    assert hidden == [runml.UNITS, runml.UNITS // 2, runml.UNITS // 4, 2]
    rates = [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert set(rates) == {0.35}
    assert model.input_shape == (None, 7, 9, 1)


def test_gain_leaves_the_starting_function_as_it_is(monkeypatch):
    counts = np.random.default_rng(2).poisson(5, (20, 7, 7, 1))
    found = []
    for gain in (runml.GAIN, 1):
        monkeypatch.setattr(runml, "GAIN", gain)
        found.append(np.asarray(decided((7, 7), runml.TrainingSettings(), gain)(counts)))
    assert np.ptp(found[0]) > 0.1
    np.testing.assert_allclose(*found, rtol=1e-3)


def test_network_starts_undecided():
    model = runml.build_network((7, 7), runml.TrainingSettings())
    counts = np.random.default_rng(1).poisson(30, (5, 7, 7, 1))
    np.testing.assert_allclose(model(counts), 0.5)


@FOLDED
def test_monomorphic_corners_do_not_count(folded):
    sfs, _ = toy_data()
    with_invariant_sites = sfs[:9].copy()
    with_invariant_sites[:, 0, 0] = 90_000
    with_invariant_sites[:, -1, -1] = 500
    model = decided((7, 7), runml.TrainingSettings(folded=folded))
    np.testing.assert_array_equal(model(sfs[:9]), model(with_invariant_sites))


@pytest.mark.parametrize("n", [2, 4, 6, 8, 14, 20, 24, 100, 500])
def test_bins_part_the_counts_alike_from_both_ends(n):
    starts = runml.allele_bins(n)
    widths = np.diff([*starts, n + 1])
    assert starts[0] == 0
    assert (widths > 0).all()
    assert widths.sum() == n + 1
    assert widths.tolist() == widths[::-1].tolist()
    assert widths[:2].tolist() == [1, 1]  # none, and a single one, are kept apart
    before_the_middle = widths[: len(widths) // 2]
    assert (np.diff(before_the_middle) >= 0).all()  # the commoner, the wider
    assert len(starts) <= 30


def test_bins_of_the_lesson():
    assert 9 <= len(runml.allele_bins(20)) <= 11


@FOLDED
def test_what_the_network_sees_is_roots_of_sums_in_bins(folded):
    sfs = np.random.default_rng(3).poisson(4, (3, 21, 9, 1))
    seen = runml.preprocess(sfs, folded)
    counts = (runml.fold(sfs) if folded else sfs)[..., 0].astype(float)
    counts[:, 0, 0] = counts[:, -1, -1] = 0
    of_a, of_b = (np.split(np.arange(n + 1), runml.allele_bins(n)[1:]) for n in (20, 8))
    by_hand = [[[table[np.ix_(a, b)].sum() for b in of_b] for a in of_a] for table in counts]
    np.testing.assert_allclose(seen[..., 0], np.sqrt(by_hand), rtol=1e-6)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(
            runml.preprocess(keras.ops.convert_to_tensor(sfs.astype("f4")), folded, keras.ops)
        ),
        seen,
        rtol=1e-5,
    )


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int64, np.float32])
def test_folding_and_summing_take_any_kind_of_number(kind):
    sfs = np.full((1, 5, 7, 1), 100, kind)  # 100 + 100 is no int8, and 35 x 100 no uint8
    for each in (runml.fold, runml.summaries, lambda x: runml.preprocess(x, True)):
        found, exact = each(sfs), each(sfs.astype(float))
        if isinstance(found, dict):
            found, exact = (np.array([*values.values()]) for values in (found, exact))
        np.testing.assert_allclose(found, exact, rtol=1e-6)


@pytest.mark.parametrize(("n_a", "n_b"), [(1, 1), (1, 250), (50, 50)])
def test_any_sample_size_in_small_memory(n_a, n_b):
    shape = 2 * n_a + 1, 2 * n_b + 1
    model = decided(shape, runml.TrainingSettings())
    assert model.count_params() < 3e6  # 12 MB
    counts = np.random.default_rng(1).poisson(1, (5, *shape, 1)).astype(np.int32)
    found = runml.predict_probabilities(model, counts)
    assert found.shape == (5, 2)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


# Training.


def test_training_is_the_same_twice():
    model, history = trained_on_toy_data()
    again, same = train()
    np.testing.assert_array_equal(weights(model), weights(again))
    assert history == same
    assert len(history["val_loss"]) == 2


@pytest.mark.parametrize(
    "changes",
    [{"seed": 2}, {"learning_rate": 1e-3}, {"dropout": 0.5}, {"batch_size": 64}, {"epochs": 4}],
    ids=lambda changes: next(iter(changes)),
)
def test_training_follows_its_settings(changes):
    model, _ = trained_on_toy_data()
    other, history = trained_on_toy_data(**changes)
    assert not np.array_equal(weights(model), weights(other))
    assert len(history["val_loss"]) == changes.get("epochs", 2)


def test_few_epochs_are_the_beginning_of_many():
    """Nor does the mean of the weights depend on how many were asked for."""
    few, many = trained_on_toy_data()[1], trained_on_toy_data(epochs=4)[1]
    for name, values in few.items():
        assert values == many[name][:2], name


def test_reported_validation_is_that_of_the_model_returned():
    sfs, responses = toy_data()
    model, history = trained_on_toy_data()
    _, validation = runml.split_rows(len(sfs), runml.TrainingSettings().seed)
    probabilities = model.predict(sfs[validation], verbose=0).astype(float)
    assert history["val_loss"][-1] == pytest.approx(
        -np.log(probabilities[np.arange(len(validation)), responses[validation]]).mean(), rel=1e-4
    )
    right = probabilities.argmax(axis=1) == responses[validation]
    assert history["val_accuracy"][-1] == pytest.approx(right.mean())


@pytest.mark.parametrize(("shape", "copies"), [((7, 7), True), ((7, 5), False)])
def test_swapped_copies_are_made_where_species_are_exchangeable(capsys, shape, copies):
    """Then which of the two species it is, and nothing else, cannot be learned."""
    sfs = np.random.default_rng(1).poisson(5, (200, *shape, 1))
    sfs[::2, 1, 3] += 20
    sfs[1::2, 3, 1] += 20
    settings = runml.TrainingSettings(epochs=6, learning_rate=1e-3, batch_size=16, dropout=0)
    _, history = runml.train_network(sfs, np.arange(200) % 2, settings)
    assert ("each also with A and B swapped" in capsys.readouterr().out) == copies
    assert (min(history["val_loss"]) > 0.5) == copies
    assert (history["val_accuracy"][-1] > 0.9) != copies


def test_split_parts_every_row_once():
    training, validation = runml.split_rows(1_000, seed=3)
    assert len(validation) == 200
    assert sorted([*training, *validation]) == list(range(1_000))
    other, _ = runml.split_rows(1_000, seed=4)
    assert not np.array_equal(training, other)


# Saving.


@FOLDED
def test_a_saved_model_predicts_the_same_anywhere(tmp_path, folded):
    """Plain Keras, in its safe mode, on raw counts."""
    sfs = spectra(runml.SimulationSettings(sequence_length=2_000), 20)
    responses = np.arange(20) % 2
    data = runml.Dataset(sfs, responses, {"a": "b"}, None)
    settings = runml.TrainingSettings(layers=3, folded=folded)
    model = decided(sfs.shape[1:3], settings)
    simulated = runml.Simulated(runml.SimulationSettings(seed=5), 7, {"msprime": "1"})
    learned = runml.learn_without_network(data, settings)
    notes = runml.Notes(settings, data.checksums, simulated, learned, {"keras": "3"})
    path = tmp_path / "trained_model.keras"
    runml.save_model(path, model, notes)

    reloaded = keras.models.load_model(path, safe_mode=True)
    found = runml.predict_probabilities(model, sfs)
    assert np.ptp(found) > 0.01
    np.testing.assert_array_equal(reloaded.predict(sfs, verbose=0), model.predict(sfs, verbose=0))
    network = runml.load_network(path)
    np.testing.assert_array_equal(runml.predict_probabilities(network.model, sfs), found)
    assert network.notes == notes
    flipped = runml.predict_probabilities(model, sfs[:, ::-1, ::-1])
    assert np.allclose(flipped, found, atol=1e-4) == folded
    if folded:
        already = runml.predict_probabilities(model, runml.fold(sfs))
        np.testing.assert_allclose(already, found, atol=1e-4)


# Without a network.


@FOLDED
@pytest.mark.parametrize("shape", [(7, 7), (7, 5)])
def test_the_logistic_regression_is_that_of_scikit_learn(shape, folded):
    """On what the network sees, with swapped copies where it has them, and the best penalty."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(4)
    responses = np.arange(120) % 2
    sfs = rng.poisson(
        3 + 2 * responses[:, None, None, None] * (rng.random((*shape, 1)) < 0.1), (120, *shape, 1)
    )
    training, validation = (sfs[:80], responses[:80]), (sfs[80:], responses[80:])
    parts = [runml.digest(*part, folded) for part in (training, validation)]
    found = runml.fit_baselines(*parts)[runml.LOGISTIC]

    def seen(counts):
        return runml.preprocess(counts, folded).reshape(len(counts), -1).astype(float)

    x, y = seen(training[0]), training[1]
    if shape[0] == shape[1]:
        x, y = np.concatenate([x, seen(training[0].swapaxes(1, 2))]), np.tile(y, 2)
    unseen, losses, log_odds = seen(validation[0]), [], []
    for penalty in runml.PENALTIES:
        fit = LogisticRegression(C=penalty, tol=1e-10, max_iter=100_000).fit(x, y)
        losses.append(metrics.log_loss(validation[1], fit.predict_proba(unseen)))
        log_odds.append(fit.decision_function(unseen))
    best = int(np.argmin(losses))
    own = unseen @ np.array(found["coefficients"]) + found["intercept"]
    np.testing.assert_allclose(own, log_odds[best], rtol=0.02, atol=0.01)
    assert losses[best] < runml.TOSSING_A_COIN


def test_thresholds_part_the_models_best():
    sfs = spectra(runml.SimulationSettings(sequence_length=2_000), 60)
    responses = np.arange(60) % 2
    learned = runml.fit_baselines(*[runml.digest(sfs, responses, folded=False)] * 2)
    found = runml.summaries(sfs)
    for name in runml.THRESHOLDS:
        verdicts = np.where(found[name] > learned[name]["threshold"], 1, 0) == learned[name]["above"]
        right = (verdicts == responses).mean()
        every = [((found[name] > each) == responses).mean() for each in found[name]]
        assert right >= max(*every, *(1 - np.array(every))) - 0.05, name  # purest, not fewest mistakes


# Evaluation.


def test_evaluate_against_hand_and_library():
    responses = np.array([0] * 50 + [1] * 50)
    gene_flow = np.random.default_rng(2).beta(2, 2, 100)
    gene_flow[50:] = np.clip(gene_flow[50:] + 0.3, 0, 0.999)
    probabilities = np.column_stack([1 - gene_flow, gene_flow]).astype(np.float32)
    results = runml.evaluate(probabilities, responses)
    verdicts = gene_flow > 0.5
    assert results["n_test"] == 100
    assert results["accuracy"] == metrics.accuracy_score(responses, verdicts)
    assert results["confusion_matrix"] == metrics.confusion_matrix(responses, verdicts).tolist()
    own = np.where(responses == 1, gene_flow, 1 - gene_flow)
    assert results["log_loss"] == pytest.approx(-np.log(own).mean(), rel=1e-5)
    wins = (gene_flow[50:, None] > gene_flow[None, :50]).mean()  # Mann-Whitney
    assert results["roc_auc"] == pytest.approx(wins)
    p, z, n = results["accuracy"], 1.959964, 100
    centre, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    wilson = [(centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)]
    assert results["accuracy_95ci"] == pytest.approx(wilson, rel=1e-6)
    json.dumps(results)


def test_evaluate_stays_finite_when_the_network_is_certain():
    probabilities = np.array([[1, 0], [0, 1]], dtype=np.float32)
    assert runml.evaluate(probabilities, np.array([0, 1]))["accuracy_95ci"][1] == 1
    assert np.isfinite(runml.evaluate(probabilities, np.array([1, 0]))["log_loss"])


def recognised(rates, probability_of_gene_flow):
    """What is told of gene flow at some migration rates, of which divergence has none."""
    parameters = np.zeros(2 * len(rates), runml.PARAMETERS)
    parameters["migration_a_to_b"][1::2] = parameters["migration_b_to_a"][1::2] = rates
    gene_flow = np.zeros(2 * len(rates))
    gene_flow[1::2] = probability_of_gene_flow
    return runml.gene_flow_recognised(parameters, np.column_stack([1 - gene_flow, gene_flow]))


def test_gene_flow_recognised_by_hand():
    rates = np.geomspace(1e-7, 1e-3, 1_000)[np.random.default_rng(1).permutation(1_000)]
    chance = 1 / (1 + (2e-5 / rates) ** 2)  # one half at 2e-5
    seen = np.random.default_rng(2).random(1_000) < chance
    found = recognised(rates, seen)
    assert found["half_missed_below"] == pytest.approx(2e-5, rel=0.15)
    by_rate = found["recognised_by_migration_rate"]
    assert [each["n"] for each in by_rate] == [200] * 5
    assert sum(each["recognised"] for each in by_rate) == seen.sum()
    for each in by_rate:
        within = (rates >= each["lowest"]) & (rates <= each["highest"])
        assert within.sum() == each["n"]
        assert seen[within].sum() == each["recognised"]
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("rates", "share", "told"),
    [
        (np.geomspace(1e-6, 1e-4, 50), 1, "more than half of it at every rate"),
        (np.geomspace(1e-6, 1e-4, 50), 0, None),
        ([2e-5] * 50, 0.1, None),
        ([2e-5] * 50, 0.9, None),  # a bin of ten has recognised five
    ],
    ids=["all", "none", "few at one rate", "most at one rate"],
)
def test_what_is_said_of_half_of_the_gene_flow_is_true(capsys, rates, share, told):
    found = recognised(np.array(rates), np.arange(50) < share * 50)
    results = runml.evaluate(np.eye(2), np.arange(2)) | {"baselines": {}} | found
    runml.print_test(results)
    printed = capsys.readouterr().out
    if told:
        assert told in printed
    else:
        assert "more than half of it at every rate" not in printed


def test_gene_flow_that_is_recognised_less_the_more_there_is_has_no_half():
    rates = np.geomspace(1e-6, 1e-4, 50)
    found = recognised(rates, rates < 1e-5)
    assert found["half_missed_below"] is None or found["half_missed_below"] >= rates.max()
