"""What is said of loss curves, on recorded ones (curves.json; its classes were given by eye).

A class is given after so many epochs of a run, in view of what happened in the later ones.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import runml

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


def classify(curve, epochs):
    losses = curve["training"][:epochs], curve["validation"][:epochs]
    words = runml.describe_curves(*losses, lambda: curve["regression_learns"])
    [found] = [name for part, name in CLASSES.items() if part in words]
    return found


def test_curves_are_classed_as_by_eye():
    judged = [
        (name, classify(curve, int(epochs)), classes)
        for name, curve in CURVES.items()
        for epochs, classes in curve["classes"].items()
    ]
    wrong = [each for each in judged if each[1] not in each[2]]
    assert len(wrong) < 0.08 * len(judged)
    for name, found, classes in wrong:  # that a curve levels off may be told late, nothing else
        assert name in WANDERING or (found, classes) == ("falling", ["settled"])


@pytest.mark.parametrize("name", sorted(set(CURVES) - WANDERING))
def test_statements_of_a_run_cut_short_do_not_contradict(name):
    told = [classify(CURVES[name], epochs) for epochs in (5, 10, 15, 20, 30, 40, 60)]
    ranks = [LATER.index(each) for each in told if each in LATER]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize("name", sorted(set(CURVES) - WANDERING))
def test_settled_is_not_said_before_a_fall_or_after_a_rise(name):
    losses = CURVES[name]["validation"]
    means = np.convolve(losses, np.full(3, 1 / 3), "valid")  # [i]: of the epochs i + 1 to i + 3
    for epochs in range(5, len(losses) - 2):
        if classify(CURVES[name], epochs) == "settled":
            now = means[epochs - 3]
            assert means[epochs - 2 :].min() > 0.97 * now and now < 1.05 * means[: epochs - 2].min()


def test_one_hiccup_is_no_leap():
    losses = np.geomspace(0.6, 0.003, 60)
    assert not runml.leaps(losses)
    losses[56] = 0.05
    assert not runml.leaps(losses)
    losses[52:] = 0.6931  # a network that died
    assert runml.leaps(losses)


def test_regression_is_asked_only_near_chance():
    losses = np.geomspace(0.6, 0.1, 10)
    assert "falling" in runml.describe_curves(losses, losses, regression_learns=None)
