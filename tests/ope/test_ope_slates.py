"""Estimators of lists: identities, and expectations over all lists of a small policy."""

import numpy as np
import pytest

from ope_logs import conditional, ranked_lists
from recoach.ope import estimators, slates
from recoach.ope.estimators import Impressions, value_of
from recoach.ope.slates import Lists

RNG = np.random.default_rng(3)
SHAPE = (50, 3)


def random_lists(shape=SHAPE):
    return Lists(*(RNG.random(shape) for _ in range(5)))


LOGGING, POLICY = (0.5, 0.3, 0.2), (0.2, 0.2, 0.6)
N_ITEMS = 3
NO_MODEL = np.zeros((2, N_ITEMS))


def enumerated(reward_of, model=NO_MODEL):
    """Return all lists of two of three items, their probabilities, and the policy's value.

    Args:
        reward_of: (items, position) -> reward.
        model: [position, item], a reward model.
    """
    logged, policy = ranked_lists(LOGGING, 2), ranked_lists(POLICY, 2)
    rewards = np.array([[reward_of(items, k) for k in range(2)] for items in logged])
    weights = np.array([np.array(policy[items]) / logged[items] for items in logged])
    values = np.array([[model[k, item] for k, item in enumerate(items)] for items in logged])
    expected = np.array(
        [[conditional(POLICY, items[:k]) @ model[k] for k in range(2)] for items in logged]
    )
    below = np.tile([0.7, 0.0], (len(logged), 1))
    probabilities = np.array([np.prod(p) for p in logged.values()])
    value = sum(
        np.prod(p) * sum(reward_of(items, k) for k in range(2)) for items, p in policy.items()
    )
    return Lists(rewards, weights, values, expected, below), probabilities, value


def expectation(terms, probabilities):
    (ratio,) = terms
    return probabilities @ ratio.numerators


def test_in_lists_of_one_item_all_estimators_are_those_of_single_items():
    lists = random_lists((40, 1))._replace(values_below=np.zeros((40, 1)))
    rows = Impressions(*(column[:, 0] for column in lists[:4]))
    for ours, theirs in (
        (slates.sips, estimators.ips),
        (slates.rips, estimators.ips),
        (slates.snsips, estimators.snips),
        (slates.snrips, estimators.snips),
        (slates.cascade_dr, estimators.doubly_robust),
        (slates.direct, estimators.direct),
    ):
        assert value_of(ours(lists)) == pytest.approx(value_of(theirs(rows)), abs=1e-12)
    for function in (slates.iips, slates.pseudo_inverse):
        terms = function(lists.rewards, lists.weights)
        assert value_of(terms) == pytest.approx(value_of(estimators.ips(rows)), abs=1e-12)


def test_with_the_logging_policy_all_are_the_mean_reward():
    lists = random_lists()._replace(weights=np.ones(SHAPE))
    lists = lists._replace(policy_values=lists.logged_values)
    mean = lists.rewards.sum(axis=1).mean()
    for name in set(slates.ESTIMATORS) - {"dm"}:
        assert value_of(slates.ESTIMATORS[name](lists)) == pytest.approx(mean), name
    for function in (slates.iips, slates.pseudo_inverse):
        assert value_of(function(lists.rewards, lists.weights)) == pytest.approx(mean)


def test_cascade_dr_without_a_reward_model_is_rips():
    zero = np.zeros(SHAPE)
    lists = random_lists()._replace(logged_values=zero, policy_values=zero, values_below=zero)
    assert value_of(slates.cascade_dr(lists)) == pytest.approx(value_of(slates.rips(lists)))


def of_whole_list(items, position):
    return [items[1] + 1.0, items[0] * items[1]][position]


def of_cascade(items, position):
    return [items[0] + 1.0, items[0] * 3.0 + items[1] ** 2][position]


def of_position(items, position):
    return [2.0, 5.0][position] * (items[position] + 1)


def test_sips_is_unbiased_for_any_reward_and_rips_is_not():
    lists, probabilities, value = enumerated(of_whole_list)
    assert expectation(slates.sips(lists), probabilities) == pytest.approx(value)
    assert expectation(slates.rips(lists), probabilities) != pytest.approx(value, rel=0.01)


def test_rips_and_cascade_dr_are_unbiased_if_rewards_depend_on_the_items_above():
    model = np.array([[0.5, 2.0, 1.0], [3.0, 0.1, 0.7]])
    lists, probabilities, value = enumerated(of_cascade, model)
    for function in (slates.sips, slates.rips, slates.cascade_dr):
        assert expectation(function(lists), probabilities) == pytest.approx(value)


def test_cascade_dr_has_no_variance_if_the_model_is_right():
    """Rewards and values below that are exact at each state leave nothing to correct."""
    model = np.array([[1.0, 2.0, 3.0], [0.5, 0.5, 0.5]])
    lists, _, value = enumerated(lambda items, k: model[k, items[k]], model)
    exact = lists._replace(values_below=np.tile([0.5, 0.0], (len(lists.rewards), 1)))
    (ratio,) = slates.cascade_dr(exact)
    assert ratio.numerators == pytest.approx(np.full(len(lists.rewards), value))


def test_iips_is_unbiased_with_marginal_weights_if_rewards_depend_on_the_position():
    lists, probabilities, value = enumerated(of_position)
    logged, policy = ranked_lists(LOGGING, 2), ranked_lists(POLICY, 2)
    marginals = []
    for ranked in (logged, policy):
        table = np.zeros((2, N_ITEMS))
        for items, p in ranked.items():
            table[[0, 1], list(items)] += np.prod(p)
        marginals.append(table)
    weights = np.array([marginals[1][[0, 1], items] for items in map(list, logged)])
    weights /= np.array([marginals[0][[0, 1], items] for items in map(list, logged)])
    terms = slates.iips(lists.rewards, weights)
    assert expectation(terms, probabilities) == pytest.approx(value)
    # The weights given the items above are not those.
    biased = slates.iips(lists.rewards, lists.weights)
    assert expectation(biased, probabilities) != pytest.approx(value, rel=0.01)


def test_the_pseudo_inverse_is_unbiased_for_independent_positions_and_sums_of_rewards():
    pairs = [(first, second) for first in range(3) for second in range(3)]
    logging, policy = np.array(LOGGING), np.array(POLICY)
    probabilities = np.array([logging[a] * logging[b] for a, b in pairs])
    weights = np.array([[policy[a] / logging[a], policy[b] / logging[b]] for a, b in pairs])
    rewards = np.array([[a + 1.0, 3.0 * b] for a, b in pairs])
    value = sum(policy[a] * policy[b] * (a + 1 + 3 * b) for a, b in pairs)
    terms = slates.pseudo_inverse(rewards, weights)
    assert expectation(terms, probabilities) == pytest.approx(value)
