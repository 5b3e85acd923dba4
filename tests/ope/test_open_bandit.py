"""Values on the Open Bandit Data and on Coat; skipped without the data.

The values of Open Bandit agree with those of the Open Bandit Pipeline's own classes.
"""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recoach.errors import OffPolicyError
from recoach.ope import TablePolicy, evaluate_policy
from recoach.ope.estimators import Impressions, ips, snips, value_of
from recoach.ope.evaluate import OffPolicyConfig
from recoach.ope.files import read_table
from recoach.ope.intervals import percentile_interval, resampled_values
from recoach.ope.log import from_frame

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason="no real logs in ../shared/data"),
]

ESTIMATORS = ("ips", "snips", "clipped_ips(2)", "clipped_ips(5)", "clipped_ips(10)", "dm", "dr")
ESTIMATORS += ("sndr", "switch_dr(2)", "switch_dr(5)", "switch_dr(10)")
ESTIMATORS += ("dros(1)", "dros(10)", "dros(100)", "mips")
VALUES = {
    ("men", "random", "bts"): (
        *(0.005656, 0.005740, 0.003494, 0.005556, 0.005656, 0.005259, 0.005738, 0.005745),
        *(0.005114, 0.006069, 0.005738, 0.005229, 0.005446, 0.005747, 0.004965),
    ),
    ("men", "bts", "random"): (
        *(0.003009, 0.003189, 0.002448, 0.003009, 0.003009, 0.006540, 0.003404, 0.003215),
        *(0.005812, 0.006174, 0.005268, 0.006263, 0.005864, 0.005159, 0.005735),
    ),
    ("men", "bts", "bts"): (
        *(0.006447, 0.006643, 0.004661, 0.005629, 0.006447, 0.007269, 0.006729, 0.006713),
        *(0.006496, 0.005629, 0.007426, 0.006998, 0.006422, 0.006704, 0.006900),
    ),
    ("women", "random", "bts"): (
        *(0.005806, 0.005833, 0.004531, 0.005806, 0.005806, 0.005179, 0.005825, 0.005828),
        *(0.005240, 0.006367, 0.005825, 0.005323, 0.005729, 0.005860, 0.004897),
    ),
    ("women", "bts", "random"): (
        *(0.007438, 0.002373, 0.002334, 0.003311, 0.004384, 0.004512, -0.002507, 0.002272),
        *(0.004297, 0.004089, 0.004151, 0.004478, 0.004427, 0.004713, 0.003780),
    ),
    ("women", "bts", "bts"): (
        *(0.007435, 0.005831, 0.003664, 0.004804, 0.005804, 0.004716, 0.006272, 0.005937),
        *(0.004512, 0.004845, 0.004453, 0.004686, 0.004694, 0.005308, 0.004600),
    ),
}
"""(campaign, logging policy, evaluated policy) -> the value of each of `ESTIMATORS`."""
WEIGHTS = {
    ("men", "random", "bts"): (2869.3, 7.484, 0.985, 0.016, 0.001),
    ("men", "bts", "random"): (655.7, 178.25, 0.943, 0.036, 0.019),
    ("men", "bts", "bts"): (1458.8, 125.11, 0.971, 0.024, 0.013),
    ("women", "random", "bts"): (3492.0, 6.366, 0.995, 0.014, 0.001),
    ("women", "bts", "random"): (2.1, 21739, 3.13, 2.17, 0.69),
    ("women", "bts", "bts"): (18.2, 2976, 1.27, 0.30, 0.23),
}
"""The same -> ESS, largest weight, mean weight, its standard error, share of the largest."""
COLUMNS = {"reward": "click", "propensity": "propensity_score"}


def bandit_log(campaign, policy):
    frame = read_table(DATA / "open-bandit" / f"{policy}-{campaign}.csv.gz", COLUMNS)
    return frame.sort("timestamp", maintain_order=True)


def policy_of(campaign, name):
    if name == "random":
        items = read_table(DATA / "open-bandit" / f"items-{campaign}.csv.gz")
        return TablePolicy(items.select("item_id", probability=1 / pl.len()))
    frame = bandit_log(campaign, name)
    counts = frame.group_by("item_id", "position").agg(probability=pl.len())
    share = pl.col("probability") / pl.col("probability").sum().over("position")
    return TablePolicy(counts.with_columns(share))


def evaluated(campaign, logging, policy, samples=50):
    items = read_table(DATA / "open-bandit" / f"items-{campaign}.csv.gz")
    categories = dict(zip(items["item_id"].cast(pl.String), items["item_feature_2"], strict=True))
    config = OffPolicyConfig(estimators=ESTIMATORS, categories=categories, samples=samples)
    known = {} if logging == "bts" else {"logging_policy": policy_of(campaign, "random")}
    log, evaluated_policy = from_frame(bandit_log(campaign, logging)), policy_of(campaign, policy)
    return evaluate_policy(log, evaluated_policy, config=config, force=True, **known)


@pytest.mark.parametrize("case", VALUES, ids="-".join)
def test_values_and_weights_of_the_open_bandit_data(case):
    report = evaluated(*case)
    values = [report.estimates[name].value for name in ESTIMATORS]
    assert [round(value, 6) for value in values] == list(VALUES[case])
    found = report.diagnostics
    ess, largest, mean, se, share = WEIGHTS[case]
    assert found.ess == pytest.approx(ess, abs=0.051)
    assert found.max_weight == pytest.approx(largest, rel=2e-4)
    assert found.mean_weight == pytest.approx(mean, abs=0.0051)
    assert found.mean_weight_se == pytest.approx(se, abs=0.0051)
    assert found.top_share == pytest.approx(share, abs=0.0051)
    assert (report.refusals != ()) == (case[:2] == ("women", "bts"))


def test_the_random_log_contains_the_truth_of_the_other_policy():
    for campaign, clicks in (("men", 69), ("women", 46)):
        report = evaluated(campaign, "random", "bts", samples=500)
        for name in ("ips", "snips", "dr", "sndr"):
            low, high = report.estimates[name].interval
            assert low < clicks / 10_000 < high


def test_from_the_bts_log_of_women_the_random_policy_is_refused():
    log = from_frame(bandit_log("women", "bts"))
    with pytest.raises(OffPolicyError) as caught:
        evaluate_policy(log, policy_of("women", "random"), config=OffPolicyConfig(samples=50))
    text = "\n".join(caught.value.reasons)
    assert len(caught.value.reasons) == 3
    assert "mean weight is 3.13 ± 2.2" in text  # within 3 standard errors of 1, and yet refused
    assert "effective sample size is 2.1 of 10,000" in text
    assert "One decision has 69% of all weight (21,739)" in text


def test_the_random_policy_has_its_own_value_in_its_log():
    report = evaluated("men", "random", "random")
    for name in ("ips", "snips", "clipped_ips(2)", "mips"):
        assert report.estimates[name].value == pytest.approx(0.0046, abs=1e-12)


# --- Coat -----------------------------------------------------------------------------------


def coat():
    """Return the self-selected ratings, their propensities, and the number of all pairs."""
    folder = DATA / "coat"
    chosen, given = (
        read_table(folder / f"{name}.csv.gz") for name in ("self_selected", "propensities")
    )
    return chosen.join(given, on=["user_id", "item_id"], maintain_order="left"), given.height


FUNCTIONS = {
    "mean rating": lambda rating: rating,
    "share of at least 4": lambda rating: (rating >= 4).astype(float),
    "share of at most 2": lambda rating: (rating <= 2).astype(float),
    "absolute error of 3": lambda rating: np.abs(rating - 3),
}
COAT = {
    "mean rating": (2.2289, 2.6115, 2.4242, 2.3308),
    "share of at least 4": (0.1853, 0.2737, 0.2202, 0.2117),
    "share of at most 2": (0.5987, 0.4796, 0.5949, 0.5720),
    "absolute error of 3": (1.2362, 1.1170, 1.2679, 1.2191),
}
"""Value of all pairs from the random ratings; from the chosen ones plain, by IPS, by SNIPS."""


@pytest.mark.parametrize("name", COAT)
def test_coat(name):
    """The weight of a rating is 1 / (pairs × propensity) times the number of ratings."""
    frame, pairs = coat()
    random = read_table(DATA / "coat" / "random_exposure.csv.gz")["rating"].to_numpy()
    function = FUNCTIONS[name]
    rewards = function(frame["rating"].to_numpy())
    weights = len(rewards) / (pairs * frame["propensity"].to_numpy())
    rows = Impressions(rewards, weights, rewards, rewards)
    values = (function(random).mean(), rewards.mean(), value_of(ips(rows)), value_of(snips(rows)))
    assert [round(float(value), 4) for value in values] == list(COAT[name])
    if name == "mean rating":
        assert weights.sum() ** 2 / (weights**2).sum() == pytest.approx(2211, abs=0.5)


def test_the_interval_of_coat_by_user_ends_near_the_truth():
    """The published propensities are estimates: SNIPS keeps a bias of about one standard error."""
    frame, pairs = coat()
    rewards = frame["rating"].to_numpy().astype(float)
    weights = len(rewards) / (pairs * frame["propensity"].to_numpy())
    terms = snips(Impressions(rewards, weights, rewards, rewards))
    values = resampled_values(
        [terms], frame["user_id"].cast(pl.Int64).to_numpy(), samples=1000, seed=0
    )
    low, high = percentile_interval(values[:, 0], 0.95)
    assert low == pytest.approx(2.2289, abs=0.02)
    assert high == pytest.approx(2.427, abs=0.02)
