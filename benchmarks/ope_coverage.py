"""Coverage of off-policy intervals, and choices from logs, in the simulated shop.

`ope_coverage.py coverage OUT [REPETITIONS]` counts how often intervals contain the true value;
`ope_coverage.py choices OUT [REPETITIONS]` serves lists, writes the exposure log, evaluates two
policies from it, chooses one and asks the shop which one earns more.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import polars as pl
import torch

from recoach.data.split import leave_last_out
from recoach.errors import OffPolicyError
from recoach.models.registry import build_model
from recoach.ope import FunctionPolicy, difference, evaluate_policy
from recoach.ope.evaluate import OffPolicyConfig
from recoach.ope.files import read_rewarded_exposures
from recoach.ope.log import OffPolicyLog, from_frame
from recoach.ope.served import ServedRun
from recoach.serving.exploration import ServedPolicy
from recoach.serving.exposures import Exposure, ExposureLog
from recoach.serving.snapshot import ModelSnapshot
from recoach.simulation.shop import Shop, shop

N_USERS, N_ITEMS, N_CATEGORIES = 300, 60, 6
NO_CLICK_LOGIT = 1.5
"""An item's logit is the log of its click probability relative to a random item's, as in
`recoach.simulation.environment`."""
ESTIMATORS = ("ips", "snips", "dr", "sndr", "clipped_ips")
VISITS, PER_VISIT = 1000, 3
K, POSITION_FACTOR = 2, 0.7
LOGIT_SCALE = 0.5
LISTS = 4000
"""Fewer than wait for the disk without being dropped."""


def logits_and_clicks(simulated: Shop) -> tuple[np.ndarray, np.ndarray]:
    """Return float64[U, I], the log of each item's lift (-4 and up) and its click probability."""
    lift = simulated.click_probabilities(simulated.user_states()) * N_ITEMS
    return np.log(np.maximum(lift, np.exp(-4.0))), lift / (lift + np.exp(NO_CLICK_LOGIT))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


# --- coverage -------------------------------------------------------------------------------


def coverage(repetitions: int) -> dict[str, object]:
    """Return how often the intervals of each estimator contain the true value, by policy."""
    simulated = shop(N_USERS, N_ITEMS, seed=0, n_categories=N_CATEGORIES)
    logits, clicks = logits_and_clicks(simulated)
    rng = np.random.default_rng(0)
    logging = softmax(0.4 * logits + 0.3 * rng.normal(size=logits.shape))
    policies = {
        "near": softmax(0.6 * logits),
        "far": softmax(1.2 * logits),
        "other": softmax(0.3 * logits + 0.8 * rng.normal(size=logits.shape)),
    }
    return {name: _cover(logging, p, clicks, repetitions) for name, p in policies.items()}


def _cover(
    logging: np.ndarray, policy: np.ndarray, clicks: np.ndarray, repetitions: int
) -> dict[str, object]:
    truth = float((policy * clicks).sum(axis=1).mean())
    covered, above, sizes, refused = dict.fromkeys(ESTIMATORS, 0), 0, [], 0
    errors: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    config = OffPolicyConfig(estimators=ESTIMATORS, samples=500)
    for seed in range(repetitions):
        log = _visits(logging, clicks, seed)
        order = [int(item_id) for item_id in log.item_ids]

        def function(states: pl.DataFrame, order: list[int] = order) -> np.ndarray:
            return policy[states["user"].to_numpy()][:, order]

        report = evaluate_policy(log, FunctionPolicy(function), config=config, force=True)
        refused += bool(report.refusals)
        sizes.append(report.diagnostics.ess if report.diagnostics else 0.0)
        above += (report.estimates["clipped_ips"].lower_bound or 0.0) <= truth
        for name in ESTIMATORS:
            estimate = report.estimates[name]
            errors[name].append(estimate.value - truth)
            if estimate.interval is not None:
                covered[name] += estimate.interval[0] <= truth <= estimate.interval[1]
    return {
        "truth": truth,
        "logged": float((logging * clicks).sum(axis=1).mean()),
        "ess": float(np.mean(sizes)),
        "refused": refused,
        "repetitions": repetitions,
        "covered": {name: count / repetitions for name, count in covered.items()},
        "rmse": {name: float(np.sqrt(np.mean(np.square(e)))) for name, e in errors.items()},
        "bound_below": above / repetitions,
    }


def _visits(logging: np.ndarray, clicks: np.ndarray, seed: int) -> OffPolicyLog:
    """Return a log of visits of random users, each with some impressions; a visit is a unit."""
    rng = np.random.default_rng([1, seed])
    users = np.repeat(rng.integers(len(logging), size=VISITS), PER_VISIT)
    cumulative = logging.cumsum(axis=1)[users]
    items = (cumulative < rng.random((len(users), 1)) * cumulative[:, -1:]).sum(axis=1)
    frame = pl.DataFrame(
        {
            "user": users,
            "visit": np.repeat(np.arange(VISITS), PER_VISIT),
            "item_id": items,
            "reward": (rng.random(len(users)) < clicks[users, items]).astype(float),
            "propensity": logging[users, items],
        }
    )
    return from_frame(frame, unit="visit")


# --- choices --------------------------------------------------------------------------------


def choices(repetitions: int) -> dict[str, object]:
    """Return how often the policy that is chosen from the log earns more in the shop."""
    rows = [full_loop(seed) for seed in range(repetitions)]
    decided = [row for row in rows if row["chosen"] is not None]
    clear = [row for row in decided if row["verdict"] != "no difference"]
    return {
        "repetitions": repetitions,
        "refused": repetitions - len(decided),
        "right": sum(row["chosen"] == row["best"] for row in decided),
        "clear": len(clear),
        "clear_and_right": sum(row["chosen"] == row["best"] for row in clear),
        "covered": sum(row["covered"] for row in decided),
        "mean_difference": float(np.mean([abs(row["difference"]) for row in rows])),
        "rows": rows,
    }


def full_loop(seed: int) -> dict[str, object]:
    """Serve lists, read the exposure log, choose one of two runs, and ask the shop.

    All three runs are factorisations of the shop's logits with different errors. The log is that of
    the first one; the other two are evaluated from it.
    """
    simulated = shop(N_USERS, N_ITEMS, seed=seed, n_categories=N_CATEGORIES)
    logits, clicks = logits_and_clicks(simulated)
    dataset = leave_last_out(simulated.interactions)
    rng = np.random.default_rng([2, seed])
    policy = ServedPolicy(1.0)
    snapshots = {}
    errors = {"logger": 0.2, "a": rng.uniform(0.2, 1.5), "b": rng.uniform(0.2, 1.5)}
    for name, error in errors.items():
        model = build_model("bprmf", dataset, dim=8).eval()
        left, values, right = np.linalg.svd(LOGIT_SCALE * logits, full_matrices=False)
        root = np.sqrt(values[:8])
        item_vectors = right[:8].T * root
        noise = item_vectors.std() * rng.normal(size=item_vectors.shape)
        with torch.no_grad():
            model.users.weight.copy_(torch.from_numpy(left[:, :8] * root))
            model.items.weight.copy_(torch.from_numpy(item_vectors + error * noise))
        snapshots[name] = ModelSnapshot(dataset, {"base": model}, list(dataset.item_ids), name)
    with tempfile.TemporaryDirectory() as folder:
        rewards = _serve(snapshots["logger"], policy, clicks, Path(folder), rng)
        log = from_frame(read_rewarded_exposures(Path(folder), rewards).frame)
    truths = {name: _value(snapshot, policy, clicks) for name, snapshot in snapshots.items()}
    row: dict[str, object] = {
        "truths": truths,
        "logged": float(log.rewards.sum() / log.n_lists),
        "best": "a" if truths["a"] > truths["b"] else "b",
        "difference": truths["a"] - truths["b"],
        "chosen": None,
    }
    config = OffPolicyConfig(samples=500)
    try:
        a, b = (
            evaluate_policy(log, ServedRun(snapshots[name], policy), config=config) for name in "ab"
        )
    except OffPolicyError as error:
        return row | {"reasons": error.reasons}
    found = difference(a, b)
    low, high = found.interval or (-np.inf, np.inf)
    return row | {
        "chosen": "a" if found.value > 0 else "b",
        "verdict": found.verdict,
        "estimate": found.value,
        "values": [a.value, b.value],
        "covered": bool(low <= truths["a"] - truths["b"] <= high),
    }


def _serve(
    snapshot: ModelSnapshot,
    policy: ServedPolicy,
    clicks: np.ndarray,
    folder: Path,
    rng: np.random.Generator,
) -> pl.DataFrame:
    """Serve lists to random users as the service does, log them, and return the clicks."""
    log, rewards = ExposureLog(folder), []
    users = rng.integers(N_USERS, size=LISTS)
    queries = _queries(snapshot)
    rankings = snapshot.recommend("base", [policy.ranked_query(query) for query in queries])
    for number, user in enumerate(users.tolist()):
        served = policy.choose(rankings[user], K, seed=f"r{number}")
        items = served.recommendation.items
        ids = [snapshot.item_ids[item] for item in items]
        about = (f"r{number}", number, f"u{user:04d}", None, "logger", "base", "1", policy.name)
        log.write(Exposure(*about, ids, served.recommendation.scores, served.propensities))
        chance = clicks[user, items] * POSITION_FACTOR ** np.arange(len(items))
        rewards += [
            (f"r{number}", ids[k], 1.0) for k in np.flatnonzero(rng.random(len(items)) < chance)
        ]
    log.close()
    return pl.DataFrame(rewards, schema=["impression_id", "item_id", "reward"], orient="row")


def _queries(snapshot: ModelSnapshot) -> list:
    return [
        snapshot.build_query(
            user=f"u{user:04d}", history=None, k=K, exclude_seen=True, candidates=None
        )
        for user in range(N_USERS)
    ]


def _value(snapshot: ModelSnapshot, policy: ServedPolicy, clicks: np.ndarray) -> float:
    """Return the expected clicks of a list of two, summed over all lists of each user."""
    queries = [policy.ranked_query(query) for query in _queries(snapshot)]
    values = []
    for user, ranking in enumerate(snapshot.recommend("base", queries)):
        p = softmax(np.array(ranking.scores) / policy.temperature)
        c = clicks[user, ranking.items]
        second = (p / (1 - p)) @ (p @ c - p * c)
        values.append(p @ c + POSITION_FACTOR * second)
    return float(np.mean(values))


def main() -> None:
    """Run one of the two studies and write its result as JSON."""
    study, out, *rest = sys.argv[1:]
    repetitions = int(rest[0]) if rest else 100
    result = {"coverage": coverage, "choices": choices}[study](repetitions)
    Path(out).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
