"""Points of fronts: lists of one setting of one method, and what is computed from many of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from recoach.evaluation.fronts import (
    hypervolume,
    interval,
    nondominated,
    normalised,
    resampled_coverage,
    resampled_means,
    resampled_weights,
)
from recoach.experiments.list_values import ListValues

SAMPLES = 500
MATCH = 0.01
"""Relative difference of NDCG on validation up to which two settings count as equally accurate."""


@dataclass(frozen=True, eq=False)
class Point:
    """The lists of one value of a method's knob."""

    knob: float
    valid: dict[str, float]
    """Metrics on validation."""
    test: ListValues
    lists: np.ndarray
    """int[B, k], the lists of the test states."""


class Axes(NamedTuple):
    """The two metrics of a front and their scale."""

    accuracy: str
    objective: str
    sign: int
    """1 if a larger objective is better, else -1."""
    nadir: np.ndarray
    """float64[2], oriented so that larger is better; becomes 0."""
    ideal: np.ndarray
    """float64[2], becomes 1."""

    def of(self, means: Mapping[str, float]) -> np.ndarray:
        """Return float64[2], the two metrics, oriented so that larger is better."""
        return np.array([means[self.accuracy], self.sign * means[self.objective]])


@dataclass(frozen=True, eq=False)
class Front:
    """The points of one method with the base, those that validation does not dominate, and HV."""

    points: Sequence[Point]
    on_front: np.ndarray
    """bool[n], by validation."""
    valid_hypervolume: float
    value: float
    """Hypervolume of the test points that are on the front of validation."""
    samples: np.ndarray
    """float64[S], the same in each resample of the users."""


def joint_samples(
    points: Sequence[Point], axes: Axes, users: np.ndarray, n_items: int
) -> dict[int, np.ndarray]:
    """Return float64[S, 2] of each point by its id, with the same resamples of users for all.

    Coverage is recomputed in each resample, of half of the users.
    """
    is_coverage = axes.objective.startswith("coverage")
    scheme, samples = ("half", SAMPLES // 2) if is_coverage else ("bootstrap", SAMPLES)
    weights = resampled_weights(users, samples, scheme=scheme)  # type: ignore[arg-type]
    found = {}
    for point in points:
        accuracy = resampled_means(point.test.per_state[axes.accuracy], weights)
        if is_coverage:
            objective = resampled_coverage(point.lists, n_items, weights)
        else:
            objective = resampled_means(point.test.per_state[axes.objective], weights)
        found[id(point)] = np.stack([accuracy, axes.sign * objective], axis=1)
    return found


def front_of(points: Sequence[Point], axes: Axes, samples: Mapping[int, np.ndarray]) -> Front:
    """Return the front of a method's points."""
    on_front = nondominated(np.stack([axes.of(point.valid) for point in points]))
    chosen = [point for point, is_on in zip(points, on_front, strict=True) if is_on]
    scale = axes.nadir, axes.ideal
    test = np.stack([axes.of(point.test.means()) for point in chosen])
    resampled = np.stack([samples[id(point)] for point in chosen], axis=1)
    areas = [hypervolume(normalised(of_sample, *scale)) for of_sample in resampled]
    return Front(
        points,
        on_front,
        valid_hypervolume(points, axes),
        hypervolume(normalised(test, *scale)),
        np.array(areas),
    )


def valid_hypervolume(points: Sequence[Point], axes: Axes) -> float:
    """Return the hypervolume of points on validation."""
    valid = np.stack([axes.of(point.valid) for point in points])
    return hypervolume(normalised(valid[nondominated(valid)], axes.nadir, axes.ideal))


def difference(ours: Front, theirs: Front) -> dict[str, float]:
    """Return the difference of two hypervolumes with its 95 % interval over users."""
    value = ours.value - theirs.value
    low, high = interval(value, ours.samples - theirs.samples)
    return {"difference": value, "low": low, "high": high}


def matched(
    ours: Front,
    others: Mapping[str, Front],
    axes: Axes,
    samples: Mapping[int, np.ndarray],
) -> list[dict[str, Any]]:
    """Compare each setting of a front with the best equally accurate setting of other methods.

    On validation the other setting is at most 1 % less or more accurate, and the best of these in
    the objective. Differences are those on test, with 95 % intervals over users.
    """
    entries = []
    candidates = [(name, point) for name, front in others.items() for point in front.points]
    for point in np.array(ours.points, dtype=object)[ours.on_front]:
        accuracy = axes.of(point.valid)[0]
        close = [
            (name, other)
            for name, other in candidates
            if abs(axes.of(other.valid)[0] - accuracy) <= MATCH * accuracy
        ]
        if not close:
            continue
        name, other = max(close, key=lambda pair: float(axes.of(pair[1].valid)[1]))
        values = axes.of(point.test.means()) - axes.of(other.test.means())
        resampled = samples[id(point)] - samples[id(other)]
        entry: dict[str, Any] = {"knob": point.knob, "reranker": name, "reranker_knob": other.knob}
        for place, metric in enumerate((axes.accuracy, axes.objective)):
            sign = axes.sign if place else 1
            ends = sorted(sign * end for end in interval(values[place], resampled[:, place]))
            entry[metric] = [float(sign * values[place]), *ends]
        entries.append(entry)
    return entries
