"""The served policy: what is sampled and with which propensities."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from recoach.errors import ConfigError
from recoach.serving.exploration import POOL_SIZE, ServedPolicy
from recoach.serving.snapshot import Recommendation, RecommendQuery

RANKING = Recommendation(np.array([7, 3, 5]), [2.0, 1.0, 0.5])
TEMPERATURE = 0.8


def plackett_luce(items):
    """Return the probability of each item given those above it, from the definition."""
    scores = dict(zip(RANKING.items.tolist(), RANKING.scores, strict=True))
    left, probabilities = dict(scores), []
    for item in items:
        total = sum(math.exp(score / TEMPERATURE) for score in left.values())
        probabilities.append(math.exp(left.pop(item) / TEMPERATURE) / total)
    return probabilities


def test_the_best_items_have_propensity_1():
    served = ServedPolicy().choose(RANKING, 3, "r")
    assert served.recommendation is RANKING
    assert served.propensities == [1.0, 1.0, 1.0]
    query = RecommendQuery(0, np.array([1]), 5, True, None)
    assert ServedPolicy().ranked_query(query) is query
    assert ServedPolicy(1.0).ranked_query(query).k == POOL_SIZE
    assert ServedPolicy(1.0).ranked_query(query._replace(k=500)).k == 500


def test_propensities_are_those_of_the_plackett_luce_model():
    policy = ServedPolicy(TEMPERATURE)
    for seed in range(50):
        served = policy.choose(RANKING, 2, str(seed))
        items = served.recommendation.items.tolist()
        assert served.propensities == pytest.approx(plackett_luce(items), rel=1e-12)
        scores = dict(zip(RANKING.items.tolist(), RANKING.scores, strict=True))
        assert served.recommendation.scores == [scores[item] for item in items]


def test_lists_are_as_frequent_as_their_propensities_say():
    policy, n = ServedPolicy(TEMPERATURE), 20_000
    counts = Counter(
        tuple(policy.choose(RANKING, 2, f"r{seed}").recommendation.items.tolist())
        for seed in range(n)
    )
    for items in itertools.permutations(RANKING.items.tolist(), 2):
        probability = math.prod(plackett_luce(items))
        deviation = 4 * math.sqrt(probability * (1 - probability) / n)
        assert counts[items] / n == pytest.approx(probability, abs=deviation)


def test_the_same_request_gets_the_same_list_and_scores_of_any_size_are_finite():
    policy = ServedPolicy(0.01)
    ranking = Recommendation(np.arange(100), np.linspace(1e4, -1e4, 100).tolist())
    first, second = (policy.choose(ranking, 10, "r1") for _ in range(2))
    assert first.recommendation.items.tolist() == second.recommendation.items.tolist()
    assert np.isfinite(first.propensities).all()
    assert max(first.propensities) <= 1
    empty = policy.choose(Recommendation(np.array([], dtype=int), []), 10, "r1")
    assert (len(empty.recommendation.items), empty.propensities) == (0, [])


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_of_zero_is_refused(temperature):
    with pytest.raises(ConfigError, match="--explore must be above 0"):
        ServedPolicy(temperature)
