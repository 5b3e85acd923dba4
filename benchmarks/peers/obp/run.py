"""Benchmark tasks run with the Open Bandit Pipeline."""

import sys
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from common import main, write_result
from obp.ope import DoublyRobust, InverseProbabilityWeighting, OffPolicyEvaluation
from obp.ope import SelfNormalizedInverseProbabilityWeighting as SelfNormalizedIPW

NAMES = {"ipw": "ips", "snipw": "snips", "dr": "dr"}
"""Estimators: the pipeline's name -> Recoach's."""
FOLDS, PRIOR = 3, 200.0
"""Of the reward model, as in Recoach."""


def item_means(item: np.ndarray, reward: np.ndarray, n_items: int) -> np.ndarray:
    """Return float64[n, I, 1], smoothed mean rewards of items from the other folds."""
    folds = np.arange(len(item)) % FOLDS
    means = np.empty((FOLDS, n_items))
    for fold in range(FOLDS):
        others = folds != fold
        counts = np.bincount(item[others], minlength=n_items)
        sums = np.bincount(item[others], reward[others], n_items)
        means[fold] = (sums + PRIOR * reward[others].mean()) / (counts + PRIOR)
    return means[folds][:, :, None]


def off_policy(folder: Path, out: Path, samples: int = 100) -> None:
    """Time IPS, SNIPS and DR with bootstrap intervals, from the columns of the log."""
    log = dict(np.load(folder / "log.npz"))
    start = time.process_time()
    action_dist = log["policy"][log["group"]][:, :, None]
    n_items = action_dist.shape[1]
    feedback = {
        "n_rounds": len(log["item"]),
        "n_actions": n_items,
        "context": log["group"][:, None],
        "action": log["item"],
        "reward": log["reward"],
        "pscore": log["propensity"],
        "position": None,
    }
    evaluation = OffPolicyEvaluation(
        bandit_feedback=feedback,
        ope_estimators=[InverseProbabilityWeighting(), SelfNormalizedIPW(), DoublyRobust()],
    )
    rewards = item_means(log["item"], log["reward"], n_items)
    inputs = {"action_dist": action_dist, "estimated_rewards_by_reg_model": rewards}
    values = evaluation.estimate_policy_values(**inputs)
    intervals = evaluation.estimate_intervals(**inputs, n_bootstrap_samples=samples, random_state=0)
    seconds = time.process_time() - start
    ends = {
        name: [intervals[name][f"95.0% CI ({end})"] for end in ("lower", "upper")] for name in NAMES
    }
    result = {NAMES[name]: [values[name], *ends[name]] for name in NAMES}
    write_result(out, {"seconds": seconds, "values": result}, "sb-obp")


if __name__ == "__main__":
    main({"off_policy": off_policy})
