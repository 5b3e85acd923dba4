"""Differences of fronts and matched settings of made-up lists."""

import numpy as np
import pytest

from recoach.experiments.front_points import (
    Axes,
    Point,
    difference,
    front_of,
    joint_samples,
    matched,
)
from recoach.experiments.list_values import ListValues

pytest.importorskip("moocore")

AXES = Axes("ndcg@10", "novelty@10", 1, np.zeros(2), np.ones(2))
USERS = np.arange(300)


def point(knob, accuracy, objective, valid=None, seed=0):
    """Return a point whose values vary over users around two means."""
    noise = np.random.default_rng(seed).normal(scale=0.1, size=(2, len(USERS)))
    noise -= noise.mean(axis=1, keepdims=True)
    values = {"ndcg@10": accuracy + noise[0], "novelty@10": objective + noise[1]}
    means = dict(zip(values, valid or (accuracy, objective), strict=True))
    lists = (USERS[:, None] % (2 + int(10 * objective))) + np.arange(2)
    return Point(knob, means, ListValues(values, {}), lists)


BASE = point(0.0, 0.8, 0.1)
OURS = [BASE, point(1.0, 0.7, 0.5), point(2.0, 0.3, 0.4), point(3.0, 0.2, 0.9)]
THEIRS = [BASE, point(1.0, 0.698, 0.3, seed=1), point(2.0, 0.4, 0.6, seed=2)]


@pytest.fixture(scope="module")
def samples():
    return joint_samples([*OURS, *THEIRS[1:]], AXES, USERS, 20)


def test_a_front_leaves_out_what_validation_dominates(samples):
    front = front_of(OURS, AXES, samples)
    assert front.on_front.tolist() == [True, True, False, True]
    assert front.value == pytest.approx(0.8 * 0.1 + 0.7 * 0.4 + 0.2 * 0.4)
    assert front.valid_hypervolume == pytest.approx(front.value)
    assert front.samples.mean() == pytest.approx(front.value, abs=0.01)
    other = [BASE, point(1.0, 0.7, 0.5, valid=(0.1, 0.05))]
    assert front_of(other, AXES, joint_samples(other, AXES, USERS, 20)).value == pytest.approx(0.08)


def test_the_same_points_differ_by_0_in_every_resample(samples):
    front = front_of(OURS, AXES, samples)
    assert difference(front, front) == {"difference": 0, "low": 0, "high": 0}


def test_the_difference_has_an_interval_from_joint_resamples(samples):
    found = difference(front_of(OURS, AXES, samples), front_of(THEIRS, AXES, samples))
    exact = 0.8 * 0.1 + 0.7 * 0.4 + 0.2 * 0.4 - (0.8 * 0.1 + 0.698 * 0.2 + 0.4 * 0.3)
    assert found["difference"] == pytest.approx(exact)
    assert 0 < found["low"] < found["difference"] < found["high"] < found["difference"] + 0.03


def test_settings_of_equal_accuracy_are_compared(samples):
    ours, theirs = (front_of(points, AXES, samples) for points in (OURS, THEIRS))
    entries = {entry["knob"]: entry for entry in matched(ours, {"mmr": theirs}, AXES, samples)}
    assert sorted(entries) == [0.0, 1.0]  # nothing is as accurate as the last one
    assert (entries[1.0]["reranker"], entries[1.0]["reranker_knob"]) == ("mmr", 1.0)
    value, low, high = entries[1.0]["novelty@10"]
    assert value == pytest.approx(0.2)
    assert 0.17 < low < 0.2 < high < 0.23
    assert entries[0.0]["ndcg@10"] == [0, 0, 0]


def test_an_objective_that_should_be_small_is_turned_round(samples):
    axes = AXES._replace(sign=-1, nadir=np.array([0.0, -1.0]), ideal=np.array([1.0, 0.0]))
    points = [*OURS, THEIRS[1]]
    turned = joint_samples(points, axes, USERS, 20)
    front = front_of(OURS, axes, turned)
    assert front.on_front.tolist() == [True, False, False, False]
    assert front.value == pytest.approx(0.8 * 0.9)
    reranker = front_of([THEIRS[1]], axes, turned)
    (entry,) = matched(front_of([OURS[1]], axes, turned), {"mmr": reranker}, axes, turned)
    assert entry["novelty@10"][0] == pytest.approx(0.2)  # in the unit of the metric


def test_coverage_is_counted_in_halves_of_the_users():
    axes = AXES._replace(objective="coverage@10")
    few, many = (point(1.0, 0.5, objective) for objective in (0.1, 0.9))
    found = joint_samples([few, many], axes, USERS, 20)
    assert found[id(few)].shape == (250, 2)
    assert found[id(few)][:, 1] == pytest.approx(4 / 20)
    assert found[id(many)][:, 1] == pytest.approx(12 / 20)
