"""Served runs as policies: the probabilities of the service, read from its own log."""

import numpy as np
import polars as pl
import pytest

from recoach.data.ingest import read_interactions
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError, DataError
from recoach.models.registry import build_model
from recoach.ope import evaluate_policy
from recoach.ope.evaluate import OffPolicyConfig
from recoach.ope.files import is_exposure_log, read_log, read_rewarded_exposures, read_table
from recoach.ope.log import from_frame
from recoach.ope.policies import logged_probabilities
from recoach.ope.served import ServedRun
from recoach.serving.exploration import ServedPolicy
from recoach.serving.exposures import Exposure, ExposureLog
from recoach.serving.snapshot import ModelSnapshot

LOGGER, QUICK = ServedPolicy(0.1), OffPolicyConfig(samples=50)
K = 3


@pytest.fixture(scope="module")
def snapshot():
    rng = np.random.default_rng(0)
    rows = [(f"u{user}", f"i{item}") for user in range(30) for item in rng.permutation(20)[:7]]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    dataset = leave_last_out(read_interactions(frame), name="small")
    models = {
        stage: build_model("sasrec", dataset, seed=seed, dim=8, layers=1).eval()
        for stage, seed in (("base", 0), ("tuned", 1))
    }
    return ModelSnapshot(dataset, models, list(dataset.item_ids), "v")


def serve(snapshot, folder, n, policy=LOGGER, users=30):
    """Write an exposure log of n lists of the base, as the service does."""
    log = ExposureLog(folder)
    for number in range(n):
        user = f"u{number % users}"
        query = snapshot.build_query(
            user=user, history=None, k=K, exclude_seen=True, candidates=None
        )
        (ranking,) = snapshot.recommend("base", [policy.ranked_query(query)])
        served = policy.choose(ranking, K, seed=f"r{number}")
        log.write(
            Exposure(
                f"r{number}",
                number,
                user,
                None,
                "run",
                "popularity" if query.is_cold else "base",
                "v",
                policy.name,
                [snapshot.item_ids[item] for item in served.recommendation.items],
                served.recommendation.scores,
                served.propensities,
            )
        )
    log.close()
    return folder


REWARDS = pl.DataFrame(
    {"impression_id": ["r0", "r1", "r1"], "item_id": ["", "", ""], "reward": [1.0, 2.0, 0.5]}
)


@pytest.fixture(scope="module")
def exposures(snapshot, tmp_path_factory):
    """Return the folder of an exposure log and rewards of the first item of every other list."""
    folder = serve(snapshot, tmp_path_factory.mktemp("log"), 300)
    shown = pl.read_ndjson(next(folder.iterdir()))
    first = shown.select("impression_id", item_id=pl.col("item_ids").list.first(), reward=1.0)
    return folder, first[::2]


@pytest.fixture(scope="module")
def log(exposures):
    return from_frame(read_rewarded_exposures(*exposures).frame)


def test_the_run_that_wrote_the_log_has_its_propensities(log, snapshot):
    run = ServedRun(snapshot, LOGGER, "base")
    choices = run.choices(log, np.arange(len(log)))
    probabilities = logged_probabilities(log.items, choices)
    assert probabilities == pytest.approx(log.propensities, rel=1e-5)
    assert choices.probabilities.sum(axis=1) == pytest.approx(np.ones(len(log)))
    assert log.propensities.std() > 0.01
    report = evaluate_policy(log, run, logging_policy=run, config=QUICK)
    assert report.value == pytest.approx(0.5, abs=1e-4)
    assert report.diagnostics.n == 300
    assert report.diagnostics.n_units == 30
    assert report.diagnostics.ess == pytest.approx(300, abs=0.01)


def test_another_temperature_and_another_model_have_other_weights(log, snapshot):
    for run in (ServedRun(snapshot, ServedPolicy(0.2), "base"), ServedRun(snapshot, LOGGER)):
        report = evaluate_policy(log, run, config=QUICK, force=True)
        assert report.diagnostics.ess < 299
        assert report.diagnostics.mean_weight == pytest.approx(1, abs=0.2)


def test_the_best_items_have_probability_1(log, snapshot):
    run = ServedRun(snapshot, ServedPolicy(), "base")
    rows = np.flatnonzero(log.positions == 1)
    probabilities = logged_probabilities(log.items[rows], run.choices(log, rows))
    users = log.states["user_id"].gather(rows).to_list()
    for row, user in zip(range(30), users[:30], strict=True):
        query = snapshot.build_query(
            user=user, history=None, k=1, exclude_seen=True, candidates=None
        )
        (best,) = snapshot.recommend("base", [query])
        logged = log.item_ids[int(log.items[rows[row]])]
        assert probabilities[row] == (snapshot.item_ids[best.items[0]] == logged)


def test_a_column_of_histories_takes_the_place_of_users(log, snapshot):
    user = log.states["user_id"][0]
    history = snapshot.user_histories.row(snapshot.user_index[user])
    ids = [snapshot.item_ids[item] for item in history]
    rows = log.states.filter(pl.col("user_id") == user)
    for column in (pl.lit(" ".join(ids)), pl.lit(ids, dtype=pl.List(pl.String))):
        other = from_frame(rows.with_columns(history=column))
        run = ServedRun(snapshot, LOGGER, "base")
        found = logged_probabilities(other.items, run.choices(other, np.arange(len(other))))
        assert found == pytest.approx(other.propensities, rel=1e-5)


def test_unknown_users_are_refused_and_can_be_left_out(log, snapshot):
    states = log.states.with_columns(
        user_id=pl.when(pl.col("user_id") == "u3").then(pl.lit("new")).otherwise("user_id")
    )
    other, run = from_frame(states), ServedRun(snapshot, LOGGER, "base")
    with pytest.raises(DataError, match="knows nothing of 'new'"):
        run.choices(other, np.arange(len(other)))
    kept = other.select(run.known(other))
    assert len(kept) == len(other) - 30
    assert run.choices(kept, np.arange(len(kept))).items.shape[0] == len(kept)
    with pytest.raises(DataError, match="no control model"):
        ServedRun(snapshot, LOGGER, "control")
    with pytest.raises(DataError, match="some rows have no user"):
        run.known(from_frame(states.drop("user_id")))


def test_policies_are_made_from_their_names():
    for policy in (ServedPolicy(), ServedPolicy(0.25)):
        assert ServedPolicy.from_name(policy.name).temperature == policy.temperature
    with pytest.raises(ConfigError, match="'best' is not the name"):
        ServedPolicy.from_name("best")


def test_scores_of_any_size_give_probabilities():
    scores, is_left = np.array([[1e6, 1e6 - 1, -1e6]]), np.ones((1, 3), dtype=bool)
    probabilities = ServedPolicy(1e-3).next_probabilities(scores, is_left)
    assert probabilities.tolist() == [[1.0, 0.0, 0.0]]
    assert ServedPolicy(1.0).next_probabilities(scores, ~is_left).tolist() == [[0.0, 0.0, 0.0]]


# --- files ----------------------------------------------------------------------------------


def test_rewards_are_joined_and_lists_without_a_policy_are_left_out(snapshot, tmp_path):
    folder = serve(snapshot, tmp_path, 40, users=31)  # u30 is unknown
    file = next(folder.iterdir())
    lines = file.read_text().splitlines()
    lines.append(lines[0])  # the same request again
    lines.append(lines[1].replace('"r1"', '"h"').replace('"u1"', "null"))
    file.write_text("\n".join(lines) + "\n")
    shown = pl.read_ndjson(file)["item_ids"]
    rewards = REWARDS.with_columns(item_id=pl.Series([shown[0][0], shown[1][2], shown[1][2]]))
    frame, notes = read_rewarded_exposures(folder, rewards)
    log = from_frame(frame)
    assert log.n_lists == 39
    assert log.rewards.tolist()[:6] == [1, 0, 0, 0, 0, 2.5]
    assert notes[0].startswith("1 lists of unknown users")
    assert notes[1].startswith("1 lists of requests with a history")
    with pytest.raises(DataError, match="no reward belongs to a list"):
        read_rewarded_exposures(folder, REWARDS.with_columns(item_id=pl.lit("x")))
    with pytest.raises(DataError, match="reward: the rewards have no such column"):
        read_rewarded_exposures(folder, rewards.drop("reward"))
    assert is_exposure_log(folder)
    assert is_exposure_log(file)
    assert not is_exposure_log(tmp_path / "log.jsonl")


def test_a_table_is_read_with_the_names_of_its_columns(tmp_path):
    frame = pl.DataFrame({"item": ["a", "b"], "click": [1, 0], "item_id": [1, 2]})
    columns = {"item_id": "item", "reward": "click"}
    for suffix, write in ((".csv", "write_csv"), (".parquet", "write_parquet")):
        path = tmp_path / f"log{suffix}"
        getattr(frame, write)(path)
        log = read_log(path, columns)
        assert log.item_ids.to_list() == ["a", "b"]
        assert log.rewards.tolist() == [1, 0]
        assert log.propensities is None
    for wrong, message in (
        (tmp_path / "none.csv", "no such file"),
        (tmp_path / "log.txt", "must end in"),
    ):
        with pytest.raises(DataError, match=message):
            read_table(wrong)
    with pytest.raises(DataError, match="there is no column 'clicks'"):
        read_table(path, {"reward": "clicks"})
    with pytest.raises(DataError, match=r"log\.parquet: reward: the log has no such column"):
        read_log(path)
