"""The network, its training and the figures of the test."""

import json

import numpy as np
import pytest
from conftest import runml
from sklearn import metrics

keras = runml.start_keras()


@pytest.fixture(scope="module")
def toy_data():
    """Spectra that differ where two species share polymorphism; shape (200, 7, 7, 1)."""
    rng = np.random.default_rng(1)
    responses = np.arange(200, dtype=np.int32) % 2
    sfs = rng.poisson(20, size=(200, 7, 7, 1)).astype(np.int32)
    sfs[responses == 1, 2:5, 2:5] += 10
    return sfs, responses


def weights(model):
    return np.concatenate([array.ravel() for array in model.get_weights()])


def test_network_has_what_was_asked_for():
    model = runml.build_network((7, 9), runml.TrainingSettings(layers=3, dropout=0.35))
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("Conv2D") == 1
    hidden = [layer.units for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    assert hidden == [runml.UNITS, runml.UNITS // 2, runml.UNITS // 4, 2]
    assert [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)] == [
        0.35
    ] * 3
    assert model.input_shape == (None, 7, 9, 1)


def test_gain_leaves_the_starting_function_as_it_is(monkeypatch):
    def hidden_output(gain):
        monkeypatch.setattr(runml, "GAIN", gain)
        keras.utils.set_random_seed(1)
        model = runml.build_network((7, 7), runml.TrainingSettings())
        until_last_hidden = keras.Model(model.input, model.layers[-3].output)
        return np.asarray(until_last_hidden(np.arange(98.0).reshape(2, 7, 7, 1)))

    np.testing.assert_allclose(hidden_output(runml.GAIN), hidden_output(1), rtol=1e-3)


def test_network_starts_undecided():
    model = runml.build_network((7, 7), runml.TrainingSettings())
    counts = np.random.default_rng(1).poisson(30, (5, 7, 7, 1))
    np.testing.assert_allclose(model(counts), 0.5)


def test_monomorphic_corners_do_not_count(toy_data):
    sfs, responses = toy_data
    model, _ = runml.train_network(sfs, responses, runml.TrainingSettings(epochs=1, learning_rate=1e-3))
    with_invariant_sites = sfs.copy()
    with_invariant_sites[:, 0, 0] = 90_000
    with_invariant_sites[:, -1, -1] = 500
    np.testing.assert_array_equal(
        model.predict(sfs, verbose=0), model.predict(with_invariant_sites, verbose=0)
    )


def test_training_is_the_same_twice_and_follows_its_settings(toy_data):
    def run(**changes):
        settings = {"epochs": 2, "learning_rate": 1e-4, "batch_size": 32}
        return runml.train_network(*toy_data, runml.TrainingSettings(**settings | changes))

    model, history = run()
    again, _ = run()
    np.testing.assert_array_equal(weights(model), weights(again))
    assert len(history["val_loss"]) == 2
    assert model.optimizer.learning_rate.numpy() == pytest.approx(1e-4)
    steps_an_epoch = -(-(2 * 160) // 32)
    assert model.optimizer.iterations.numpy() == 2 * steps_an_epoch
    for changes in (
        {"seed": 2},
        {"learning_rate": 1e-3},
        {"dropout": 0.5},
        {"epochs": 3},
        {"batch_size": 64},
    ):
        other, _ = run(**changes)
        assert not np.array_equal(weights(model), weights(other)), changes


def test_reported_validation_is_that_of_the_model_returned(toy_data):
    sfs, responses = toy_data
    settings = runml.TrainingSettings(epochs=3, learning_rate=1e-4)
    model, history = runml.train_network(sfs, responses, settings)
    _, validation = runml.split_rows(len(sfs), settings.seed)
    probabilities = model.predict(sfs[validation], verbose=0).astype(float)
    assert history["val_loss"][-1] == pytest.approx(
        -np.log(probabilities[np.arange(len(validation)), responses[validation]]).mean(), rel=1e-4
    )
    right = probabilities.argmax(axis=1) == responses[validation]
    assert history["val_accuracy"][-1] == pytest.approx(right.mean())


def test_split_parts_every_row_once():
    training, validation = runml.split_rows(1_000, seed=3)
    assert len(validation) == 200
    assert sorted([*training, *validation]) == list(range(1_000))
    other, _ = runml.split_rows(1_000, seed=4)
    assert not np.array_equal(training, other)


def test_swapped_copies_double_the_training_part_and_nothing_else(toy_data):
    sfs, responses = toy_data
    rows = np.array([3, 8, 100])

    def collect(**how):
        parts = [(x.numpy(), y.numpy()) for x, y in runml.batches(sfs, responses, rows, 2, **how)]
        return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])

    counts, answers = collect()
    np.testing.assert_array_equal(counts, sfs[rows])
    np.testing.assert_array_equal(answers, responses[rows])

    counts, answers = collect(swapped_copies=True)
    np.testing.assert_array_equal(counts, np.concatenate([sfs[rows], sfs[rows].transpose(0, 2, 1, 3)]))
    np.testing.assert_array_equal(answers, np.tile(responses[rows], 2))

    shuffled, answers = collect(swapped_copies=True, shuffle_seed=1)
    pairs = {(x.tobytes(), int(y)) for x, y in zip(shuffled, answers, strict=True)}
    assert pairs == {
        (x.tobytes(), int(y)) for x, y in zip(counts, np.tile(responses[rows], 2), strict=True)
    }


@pytest.mark.parametrize(("shape", "copies"), [((7, 7), 2), ((7, 5), 1)])
def test_copies_are_made_only_where_species_are_exchangeable(toy_data, monkeypatch, shape, copies):
    sfs, responses = toy_data
    seen = []
    monkeypatch.setattr(
        runml,
        "batches",
        lambda *args, _batches=runml.batches, **how: seen.append(how) or _batches(*args, **how),
    )
    model, _ = runml.train_network(
        sfs[:, : shape[0], : shape[1]], responses, runml.TrainingSettings(epochs=1, batch_size=16)
    )
    assert model.optimizer.iterations.numpy() == copies * 160 / 16
    assert not seen[1].get("swapped_copies")  # validation


def test_a_saved_model_predicts_the_same_anywhere(tmp_path, toy_data):
    sfs, responses = toy_data
    model, _ = runml.train_network(sfs, responses, runml.TrainingSettings(epochs=1))
    path = tmp_path / "trained_model.keras"
    learned = runml.learn_beside(model, sfs, responses, runml.TrainingSettings())
    notes = runml.Notes(
        runml.TrainingSettings(layers=3), {"a": "b"}, runml.SimulationSettings(seed=5), learned
    )
    runml.save_model(path, model, notes)
    reloaded = keras.models.load_model(path, safe_mode=True)  # plain Keras, raw counts
    np.testing.assert_array_equal(model.predict(sfs, verbose=0), reloaded.predict(sfs, verbose=0))
    assert reloaded.predict(sfs, verbose=0).shape == (200, 2)
    assert runml.load_notes(path) == notes


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
