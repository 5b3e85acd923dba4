"""Off-policy evaluation in the demonstration: forecasts from logged lists, and the truth."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from recoach.errors import OffPolicyError
from recoach.experiments.run_folder import write_frame
from recoach.ope.evaluate import OffPolicyConfig, evaluate_policy
from recoach.ope.files import read_rewarded_exposures, read_table
from recoach.ope.log import OffPolicyLog, from_frame
from recoach.ope.served import ServedRun
from recoach.serving.exploration import ServedPolicy
from recoach.serving.exposures import Exposure, ExposureLog
from recoach.serving.snapshot import ModelSnapshot, RecommendQuery
from recoach.simulation.purchases import UserResponse

EXPOSURES: Final = "exposures"
REWARDS: Final = "rewards.parquet"
_START_MS: Final = 1_735_689_600_000
"""Time of the first logged list, 2025-01-01."""
_DRAWS: Final = 40
"""Lists of each user over which the truth of an exploring policy is averaged."""


@dataclass(frozen=True, slots=True)
class ForecastPlan:
    """How lists are logged and evaluated."""

    folder: Path
    """The run folder; the log is written into it."""
    temperature: float = 0.4
    """Of the exploration, as `recoach serve --explore`."""
    visits: int = 25
    """Lists that each user is shown."""
    length: int = 1
    """Items of a list."""
    seed: int = 0


def forecast(
    plan: ForecastPlan, snapshot: ModelSnapshot, response: UserResponse, logger: str
) -> list[dict[str, Any]]:
    """Log lists of one model and forecast the revenue of all models from them.

    Args:
        plan: the settings.
        snapshot: the models by stage.
        response: how users respond.
        logger: the stage that writes the log.

    Returns:
        A row for each stage: `model`, the `truth`, and `forecast`, `low`, `high` and
        `is_inside` (whether the 95 % interval contains the truth), or `reasons` of a refusal.
    """
    policy = ServedPolicy(plan.temperature)
    write_log(plan, snapshot, response, logger)
    table = read_rewarded_exposures(plan.folder / EXPOSURES, read_table(plan.folder / REWARDS))
    log = from_frame(table.frame).with_items(snapshot.dataset.item_ids)
    writer = ServedRun(snapshot, policy, logger)
    rows = []
    for stage in snapshot.models:
        truth = _true_revenue(plan, snapshot, response, stage)
        row: dict[str, Any] = {"model": stage, "truth": truth}
        rows.append(row | _forecast(log, ServedRun(snapshot, policy, stage), writer, truth))
    return rows


def _forecast(
    log: OffPolicyLog, policy: ServedRun, writer: ServedRun, truth: float
) -> dict[str, Any]:
    config = OffPolicyConfig(samples=500)
    try:
        report = evaluate_policy(log, policy, logging_policy=writer, config=config)
    except OffPolicyError as error:
        return {"reasons": list(error.reasons)}
    low, high = report.interval or (-np.inf, np.inf)
    found = {"forecast": report.value, "low": low, "high": high}
    return found | {"is_inside": bool(low <= truth <= high)}


def write_log(
    plan: ForecastPlan, snapshot: ModelSnapshot, response: UserResponse, logger: str
) -> None:
    """Write the exposure log of one model, as the service would, and the revenue of its lists."""
    folder, rng = plan.folder / EXPOSURES, np.random.default_rng(plan.seed)
    shutil.rmtree(folder, ignore_errors=True)
    policy = ServedPolicy(plan.temperature)
    rankings = snapshot.recommend(logger, _queries(plan, snapshot, policy))
    users = np.tile(np.arange(len(rankings)), plan.visits)
    ids = [f"visit-{number}" for number in range(len(users))]
    served = [
        policy.choose(rankings[user], plan.length, seed=f"{plan.seed}-{one}")
        for user, one in zip(users.tolist(), ids, strict=True)
    ]
    lists = np.stack([one.recommendation.items for one in served])
    clicked, outcome = response.sample(users, lists, rng)
    user_ids, item_ids = snapshot.dataset.user_ids.to_list(), snapshot.item_ids
    log = ExposureLog(folder, queue_size=len(users) + 1)
    about = ("simulated shop", logger, snapshot.version, policy.name)
    for number, (user, one) in enumerate(zip(users.tolist(), served, strict=True)):
        shown = [item_ids[item] for item in one.recommendation.items]
        scores, propensities = one.recommendation.scores, one.propensities
        who = (ids[number], _START_MS + number, user_ids[user], None)
        log.write(Exposure(*who, *about, shown, scores, propensities))
    log.close()
    bought = np.flatnonzero(outcome.purchases)
    rewards = {
        "impression_id": [ids[number] for number in bought],
        "item_id": [item_ids[item] for item in clicked[bought]],
        "reward": outcome.revenue[bought],
    }
    write_frame(plan.folder / REWARDS, pl.DataFrame(rewards))


def _true_revenue(
    plan: ForecastPlan, snapshot: ModelSnapshot, response: UserResponse, stage: str
) -> float:
    """Return the expected revenue of a list that the model of a stage samples."""
    policy, rng = ServedPolicy(plan.temperature), np.random.default_rng(plan.seed)
    rankings = snapshot.recommend(stage, _queries(plan, snapshot, policy))
    items = np.stack([ranking.items for ranking in rankings])
    logits = np.array([ranking.scores for ranking in rankings]) / plan.temperature
    users, means = np.arange(len(items)), []
    for _ in range(_DRAWS):
        order = np.argsort(-(logits + rng.gumbel(size=logits.shape)), axis=1)[:, : plan.length]
        lists = np.take_along_axis(items, order, axis=1)
        means.append(response.expected(users, lists).revenue.mean())
    return float(np.mean(means))


def _queries(
    plan: ForecastPlan, snapshot: ModelSnapshot, policy: ServedPolicy
) -> list[RecommendQuery]:
    return [
        policy.ranked_query(
            snapshot.build_query(
                user=user, history=None, k=plan.length, exclude_seen=True, candidates=None
            )
        )
        for user in snapshot.dataset.user_ids
    ]
