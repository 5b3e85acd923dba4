"""Estimators of single impressions: values by hand, identities, enumerated expectations."""

import numpy as np
import pytest

from recoach.errors import ConfigError
from recoach.ope.estimators import ESTIMATORS, Impressions, parse_estimator, value_of

ROWS = Impressions(
    rewards=np.array([1.0, 0.0, 1.0, 2.0]),
    weights=np.array([0.5, 2.0, 4.0, 0.5]),
    logged_values=np.array([0.5, 0.25, 1.0, 1.0]),
    policy_values=np.array([0.75, 0.5, 0.5, 1.25]),
    embedding_weights=np.array([1.0, 3.0, 0.5, 0.25]),
)


def value(name, parameter=0.0, rows=ROWS):
    return value_of(ESTIMATORS[name](rows, parameter))


@pytest.mark.parametrize(
    ("name", "parameter", "expected"),
    [
        ("ips", 0, 5.5 / 4),
        ("clipped_ips", 2, 3.5 / 4),
        ("snips", 0, 5.5 / 7),
        ("dm", 0, 3 / 4),
        ("dr", 0, (3 + 0.25 - 0.5 + 0 + 0.5) / 4),
        ("sndr", 0, 3 / 4 + 0.25 / 7),
        ("switch_dr", 1, (3 + 0.25 + 0.5) / 4),
        # 4 w / (w² + 4): 2 / 4.25, 8 / 8, 16 / 20
        ("dros", 4, (3 + 2 / 4.25 * 0.5 - 0.25 + 2 / 4.25) / 4),
        ("mips", 0, (1 + 0.5 + 0.5) / 4),
    ],
)
def test_values_by_hand(name, parameter, expected):
    assert value(name, parameter) == pytest.approx(expected, abs=1e-12)


def test_limits_of_the_parameters():
    for name in ("switch_dr", "dros"):
        assert value(name, 0.0) == pytest.approx(value("dm"))
        assert value(name, 1e12) == pytest.approx(value("dr"))
    assert value("clipped_ips", 4) == pytest.approx(value("ips"))


def test_with_weights_of_1_all_weighted_estimators_are_the_mean_reward():
    ones = np.ones(4)
    rows = ROWS._replace(weights=ones, embedding_weights=ones, policy_values=ROWS.logged_values)
    for name in ("ips", "snips", "dr", "sndr", "mips"):
        assert value(name, rows=rows) == pytest.approx(1.0)
    assert value("clipped_ips", 1, rows) == pytest.approx(1.0)
    assert value("switch_dr", 1, rows) == pytest.approx(1.0)


def test_a_reward_model_of_zero_leaves_ips():
    zero = np.zeros(4)
    rows = ROWS._replace(logged_values=zero, policy_values=zero)
    assert value("dr", rows=rows) == pytest.approx(value("ips"))
    assert value("sndr", rows=rows) == pytest.approx(value("snips"))


def test_snips_moves_with_a_constant_that_is_added_to_the_rewards():
    shifted = ROWS._replace(rewards=ROWS.rewards + 3)
    assert value("snips", rows=shifted) == pytest.approx(value("snips") + 3)
    assert value("ips", rows=shifted) != pytest.approx(value("ips") + 3)


def test_ips_and_dr_are_unbiased_over_all_logged_items():
    logging, policy = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.2, 0.7])
    rewards, model = np.array([1.0, 0.0, 2.0]), np.array([0.3, 0.9, 1.1])
    rows = Impressions(rewards, policy / logging, model, np.full(3, policy @ model))
    for name in ("ips", "dr"):
        (ratio,) = ESTIMATORS[name](rows, 0.0)
        assert logging @ ratio.numerators == pytest.approx(policy @ rewards)
    (clipped,) = ESTIMATORS["clipped_ips"](rows, 2.0)
    assert logging @ clipped.numerators < policy @ rewards


def test_mips_is_unbiased_if_items_of_a_category_earn_the_same():
    logging, policy = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.2, 0.7])
    rewards = np.array([1.0, 1.0, 2.0])
    weights = np.array([0.3 / 0.8, 0.3 / 0.8, 0.7 / 0.2])
    rows = Impressions(rewards, policy / logging, rewards, rewards, weights)
    (ratio,) = ESTIMATORS["mips"](rows, 0.0)
    assert logging @ ratio.numerators == pytest.approx(policy @ rewards)
    with pytest.raises(ConfigError, match="categories"):
        ESTIMATORS["mips"](ROWS._replace(embedding_weights=None), 0.0)


def test_names_and_parameters_are_read():
    assert parse_estimator("dr", ESTIMATORS) == ("dr", 0.0)
    assert parse_estimator("clipped_ips", ESTIMATORS) == ("clipped_ips", 10.0)
    assert parse_estimator("clipped_ips(2.5)", ESTIMATORS) == ("clipped_ips", 2.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [("ipz", "Did you mean 'ips'"), ("dr(3)", "parentheses"), ("dros(-1)", "at least 0")],
)
def test_wrong_names_and_parameters_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_estimator(text, ESTIMATORS)
