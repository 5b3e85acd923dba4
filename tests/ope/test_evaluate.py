"""Evaluation of policies: intervals, refusals, bounds, bands, lists, differences."""

import json
import math

import numpy as np
import polars as pl
import pytest

from ope_logs import ITEMS, ListPolicy, ranked_lists, sampled_lists, sampled_rows, table
from recoach.errors import ConfigError, DataError, OffPolicyError
from recoach.ope import FunctionPolicy, ItemMeans, TablePolicy, difference, evaluate_policy
from recoach.ope.diagnostics import diagnose, refusals
from recoach.ope.estimators import mean_of
from recoach.ope.evaluate import OffPolicyConfig
from recoach.ope.intervals import bernstein_lower_bound, percentile_interval, resampled_values
from recoach.ope.log import from_frame
from recoach.ope.report import sentence
from recoach.ope.reward_models import cross_fit

WEIGHTS, RATES = (5, 3, 2), (0.1, 0.3, 0.6)
POLICY = (2, 3, 5)
TRUTH = float(np.dot(POLICY, RATES) / 10)
LOG = from_frame(sampled_rows(4000, WEIGHTS, RATES))
QUICK = OffPolicyConfig(samples=200)


def evaluated(log=LOG, weights=POLICY, **options):
    options = {"config": QUICK} | options
    return evaluate_policy(log, TablePolicy(table(weights)), **options)


def test_the_value_of_a_known_policy_is_in_all_intervals():
    report = evaluated()
    for name in ("ips", "snips", "dr", "sndr"):
        low, high = report.estimates[name].interval
        assert low < TRUTH < high
        assert high - low < 0.06
    low, high = report.interval
    assert report.main == "dr"
    assert low < report.value < high
    assert report.estimates["logged"].value == LOG.rewards.mean()
    assert 0 < report.estimates["clipped_ips"].lower_bound < low
    assert report.diagnostics.mean_weight == pytest.approx(1, abs=0.05)
    assert report.diagnostics.support_gap is None
    assert report.refusals == report.warnings == ()


def test_the_logging_policy_has_the_logged_value():
    report = evaluated(weights=WEIGHTS, logging_policy=TablePolicy(table(WEIGHTS)))
    assert report.diagnostics.support_gap == 0
    assert report.diagnostics.ess == pytest.approx(len(LOG))
    assert report.estimates["ips"].value == pytest.approx(LOG.rewards.mean())
    assert report.estimates["snips"].value == pytest.approx(LOG.rewards.mean())
    assert difference(report, report, "logged").verdict == "no difference"


def test_the_difference_of_two_policies_is_paired():
    better, worse = evaluated(), evaluated(weights=(8, 1, 1))
    found = difference(better, worse)
    assert found.value == pytest.approx(better.value - worse.value)
    assert found.verdict == "better"
    assert difference(worse, better).verdict == "worse"
    # Two almost equal policies differ by less than the intervals of their values.
    near = difference(better, evaluated(weights=(2, 3.1, 4.9)))
    assert near.interval[1] - near.interval[0] < (better.interval[1] - better.interval[0]) / 5
    said = sentence(better, "runs/next", difference(better, better, "logged"))
    assert said.startswith(f"runs/next: {better.value:.4g} (95% interval ")
    assert "better than the policy that wrote the log" in said
    with pytest.raises(ConfigError, match="samples"):
        difference(better, evaluated(config=OffPolicyConfig(samples=10)))


def test_a_function_of_the_states_is_a_policy():
    frame = sampled_rows(2000, WEIGHTS, RATES).with_columns(is_new=pl.int_range(pl.len()) % 2 == 0)
    log = from_frame(frame)
    order = [ITEMS.index(item_id) for item_id in log.item_ids]

    def function(states):
        rows = np.where(states["is_new"].to_numpy()[:, None], POLICY, WEIGHTS) / 10
        return rows[:, order]

    report = evaluate_policy(log, FunctionPolicy(function), config=QUICK)
    weights = np.where(np.arange(2000) % 2 == 0, function(frame)[np.arange(2000), log.items], 0)
    weights = weights / log.propensities + (np.arange(2000) % 2 == 1)
    assert report.estimates["ips"].value == pytest.approx((weights * log.rewards).mean())
    for wrong, message in (
        (lambda states: np.ones((len(states), 3)), "sum of 3"),
        (lambda states: np.ones((len(states), 2)), "shape"),
    ):
        with pytest.raises(DataError, match=message):
            evaluate_policy(log, FunctionPolicy(wrong), config=QUICK)


# --- refusals -------------------------------------------------------------------------------


def refused(**options):
    with pytest.raises(OffPolicyError) as caught:
        evaluated(**options)
    return caught.value.reasons


def test_a_log_without_propensities_is_refused_and_forced_to_the_reward_model():
    log = from_frame(sampled_rows(500, WEIGHTS, RATES).drop("propensity"))
    assert "no propensities" in " ".join(refused(log=log))
    report = evaluated(log=log, force=True)
    assert set(report.estimates) == {"logged", "dm"}
    assert report.diagnostics is None
    assert report.refusals
    assert "no value can be told" in sentence(report, "x", difference(report, report, "logged"))


def test_wrong_propensities_are_refused_by_the_mean_weight():
    frame = sampled_rows(4000, WEIGHTS, RATES).with_columns(pl.col("propensity") * 0.8)
    assert "mean weight is 1.2" in refused(log=from_frame(frame))[0]


def test_items_that_are_never_shown_are_refused_and_bounded():
    frame = sampled_rows(4000, (5, 5, 0.0001), RATES)
    log = from_frame(frame.filter(pl.col("item_id") != "c"))
    logger = TablePolicy(table((5, 5, 0)))
    reasons = refused(log=log, weights=(5, 4.5, 0.5), logging_policy=logger)
    assert "shows with probability 5.0% what the logging policy never shows" in reasons[-1]
    report = evaluated(log=log, weights=(5, 4.95, 0.05), logging_policy=logger)
    ips = report.estimates["ips"].value
    assert report.diagnostics.support_gap == pytest.approx(0.005)
    assert report.bounds == pytest.approx((ips, ips + 0.005))
    assert "between the bounds" in report.warnings[0]
    larger = OffPolicyConfig(samples=50, max_reward=4.0)
    report = evaluated(log=log, weights=(5, 4.95, 0.05), logging_policy=logger, config=larger)
    assert report.bounds[1] == pytest.approx(ips + 0.02)


def test_a_log_of_best_items_supports_nothing_else():
    frame = sampled_rows(1000, (1, 0.0001, 0.0001), (0.4, 0, 0)).filter(pl.col("item_id") == "a")
    frame = frame.with_columns(propensity=pl.lit(1.0))
    reasons = refused(log=from_frame(frame), weights=(7, 2, 1))
    assert any("30.0% what the logging policy never shows" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean_weight": 1.04}, "mean weight"),
        ({"mean_weight": 3.13, "mean_weight_se": 2.17}, "mean weight"),
        ({"mean_weight": 0.6, "mean_weight_se": 0.5}, "mean weight"),
        ({"ess": 99.0}, "effective sample size"),
        ({"n": 20_000, "ess": 150.0}, "effective sample size"),
        ({"top_share": 0.051}, "of all weight"),
        ({"support_gap": 0.011}, "never shows"),
        ({"weighted_positives": 29}, "Only 29 decisions"),
    ],
)
def test_each_rule_refuses_alone(changes, words):
    weights, units = np.ones(2000), np.arange(2000)
    good = diagnose(weights, weights, units, 0.0)._replace(mean_weight_se=0.01)
    assert refusals(good, {}) == []
    (reason,) = refusals(good._replace(**changes), {})
    assert words in reason


def test_estimators_must_agree():
    good = diagnose(np.ones(2000), np.ones(2000), np.arange(2000), None)
    assert refusals(good, {"ips": (1.0, 2.0), "dr": (1.9, 3.0), "snips": None}) == []
    (reason,) = refusals(good, {"ips": (1.0, 2.0), "snips": (1, 3), "dr": (2.1, 3.0)})
    assert "ips and dr do not overlap" in reason
    assert len(refusals(good, {"ips": (2.1, 3.0), "dr": (1.0, 2.0)})) == 1


def test_forced_values_are_flagged_and_without_interval_if_one_weight_dominates():
    propensities = np.full(400, 0.5)
    propensities[0] = 1e-4
    frame = pl.DataFrame(
        {"item_id": ["a"] * 400, "reward": [1.0, 0.0] * 200, "propensity": propensities}
    )
    report = evaluated(log=from_frame(frame), weights=(5, 5, 0), force=True)
    assert report.refusals
    assert all(estimate.interval is None for estimate in report.estimates.values())
    assert json.dumps(report.to_dict())


# --- intervals ------------------------------------------------------------------------------


def test_units_widen_the_interval_if_their_rows_are_alike():
    values, users = np.repeat([0.0, 1.0] * 20, 50), np.repeat(np.arange(40), 50)
    widths = []
    for units in (np.arange(2000), users):
        values_of = resampled_values([[mean_of(values)]], units, samples=500, seed=0)[:, 0]
        low, high = percentile_interval(values_of, 0.95)
        widths.append(high - low)
    assert widths[0] == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(2000), rel=0.15)
    assert widths[1] == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(40), rel=0.15)


def test_resamples_in_blocks_are_the_same(monkeypatch):
    terms, units = [[mean_of(np.arange(5.0))]], np.arange(5)
    whole = resampled_values(terms, units, samples=7, seed=1)
    monkeypatch.setattr("recoach.ope.intervals._MAX_COUNTS", 10)
    assert resampled_values(terms, units, samples=7, seed=1).tolist() == whole.tolist()


def test_the_bernstein_bound_by_hand():
    values = np.array([0.0, 1.0, 1.0, 2.0] * 50)
    log_term = math.log(2 / 0.05)
    expected = 1 - math.sqrt(2 * values.var(ddof=1) * log_term / 200) - 14 * log_term / (3 * 199)
    bound = bernstein_lower_bound(values, np.arange(200), largest=2.0, level=0.95)
    assert bound == pytest.approx(expected)
    pairs = bernstein_lower_bound(values, np.repeat(np.arange(100), 2), largest=2.0, level=0.95)
    assert 0 < pairs < bound
    assert math.isnan(bernstein_lower_bound(-values, np.arange(200), largest=2.0, level=0.95))


def test_estimated_propensities_have_a_band():
    frame = sampled_rows(4000, WEIGHTS, RATES)
    report = evaluated(log=from_frame(frame, estimated=True))
    for name in ("ips", "snips", "dr"):
        low, high = report.estimates[name].band
        assert low < report.estimates[name].value < high
    assert report.estimates["logged"].band is None
    assert "estimates" in report.warnings[-1]
    weights = np.array(POLICY)[[ITEMS.index(item) for item in frame["item_id"]]] / 10
    largest = (weights / frame["propensity"].to_numpy() ** 1.2 * frame["reward"].to_numpy()).mean()
    assert report.estimates["ips"].band[1] == pytest.approx(largest)


# --- reward models --------------------------------------------------------------------------


def test_item_means_are_smoothed_and_learned_from_other_units():
    log = from_frame(
        pl.DataFrame(
            {"item_id": list("aabab"), "reward": [1.0, 0, 3, 5, 7], "user_id": list("xyxyz")}
        )
    )
    predict = cross_fit(ItemMeans(prior=2), log, 2)  # folds: x and z, y
    values = predict(np.arange(5), np.tile([0, 1, -1], (5, 1)))
    without_xz = [(0 + 5 + 2 * 2.5) / 4, 2.5, 2.5]
    mean = 11 / 3
    without_y = [(1 + 2 * mean) / 3, (10 + 2 * mean) / 4, mean]
    assert values[[0, 2, 4]] == pytest.approx(np.tile(without_xz, (3, 1)))
    assert values[[1, 3]] == pytest.approx(np.tile(without_y, (2, 1)))


def test_item_means_by_position():
    log = from_frame(
        pl.DataFrame({"item_id": list("abab"), "reward": [1.0, 0, 0, 4], "position": [1, 1, 2, 2]})
    )
    predict = ItemMeans(prior=1, by_position=True).fit(log, np.arange(4))
    values = predict(np.array([0, 2]), np.array([[0, 1], [0, 1]]))
    assert values == pytest.approx(np.array([[0.75, 0.25], [1.0, 3.0]]))


def test_a_reward_model_of_ones_own_is_cross_fitted():
    seen = []

    class Constant:
        def fit(self, log, rows):
            seen.append(rows)
            return lambda at, items: np.full(items.shape, 0.25)

    report = evaluated(reward_model=Constant())
    assert report.estimates["dm"].value == pytest.approx(0.25)
    assert [len(rows) for rows in seen] == [2666, 2667, 2667]
    with pytest.raises(DataError, match="single unit"):
        cross_fit(Constant(), from_frame(pl.DataFrame({"item_id": ["a"], "reward": [1.0]})), 2)


# --- lists ----------------------------------------------------------------------------------


def earned(items, position):
    return float(items[0] == 2) if position == 0 else float(items == (2, 1) or items[1] == 0)


def test_lists_are_evaluated_with_the_items_above_them():
    log = sampled_lists(1500, WEIGHTS, earned)
    policy = ListPolicy(np.array(POLICY) / 10)
    truth = sum(
        np.prod(p) * (earned(items, 0) + earned(items, 1))
        for items, p in ranked_lists(policy.weights, 2).items()
    )
    report = evaluate_policy(
        log, policy, logging_policy=ListPolicy(np.array(WEIGHTS)), config=QUICK
    )
    assert report.main == "cascade_dr"
    assert report.diagnostics.n == 1500
    assert report.diagnostics.support_gap == 0
    for name in ("sips", "snsips", "rips", "snrips", "cascade_dr"):
        low, high = report.estimates[name].interval
        assert low < truth < high
    widths = {name: np.ptp(report.estimates[name].interval) for name in ("sips", "rips")}
    assert widths["rips"] < widths["sips"]
    top = evaluate_policy(log.top(1), policy, config=QUICK)
    assert top.diagnostics.ess > report.diagnostics.ess
    assert top.estimates["logged"].value == pytest.approx(log.rewards[log.positions == 1].mean())


def test_the_support_gap_of_lists_is_the_probability_of_unsupported_ones():
    log = sampled_lists(1000, (5, 4, 1e-9), lambda items, k: 1.0).with_items(pl.Series(ITEMS))
    logger, policy = ListPolicy(np.array([5, 4, 0])), ListPolicy(np.array([5, 4, 0.01]))
    report = evaluate_policy(log, policy, logging_policy=logger, config=QUICK, force=True)
    supported = sum(
        np.prod(p) for items, p in ranked_lists((5, 4, 0.01), 2).items() if 2 not in items
    )
    assert report.diagnostics.support_gap == pytest.approx(1 - supported, rel=0.01)


def test_rows_of_a_list_are_sorted_and_must_be_complete():
    frame = pl.DataFrame(
        {
            "impression_id": list("yxyx"),
            "position": [2, 1, 1, 2],
            "item_id": list("abcd"),
            "reward": [0.0, 1, 2, 3],
            "propensity": [0.5] * 4,
        }
    )
    log = from_frame(frame)
    assert log.item_ids.gather(log.items).to_list() == list("cabd")
    assert log.lists.tolist() == log.units.tolist() == [0, 0, 1, 1]
    assert log.top(1).lists is not None
    with pytest.raises(DataError, match="one of its positions"):
        from_frame(frame.with_columns(position=pl.Series([2, 1, 3, 2])))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"propensity": [0.0, 0.5]}, "above 0 and at most 1"),
        ({"propensity": [0.5, 1.1]}, "above 0 and at most 1"),
        ({"propensity": [0.5, None]}, "propensity: some rows have no value"),
        ({"reward": [float("inf"), 0.0]}, "reward: not all values are finite"),
        ({"reward": ["yes", "no"]}, "reward: not all values are numbers"),
    ],
)
def test_unusable_values_are_refused(changes, message):
    columns = {"item_id": ["a", "b"], "reward": [1.0, 0.0], "propensity": [0.5, 0.5]}
    with pytest.raises(DataError, match=message):
        from_frame(pl.DataFrame(columns | changes))
    with pytest.raises(DataError, match="reward: the log has no such column"):
        from_frame(pl.DataFrame({"item_id": ["a"]}))
