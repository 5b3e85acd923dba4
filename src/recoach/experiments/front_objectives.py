"""The objectives of fronts: their metric, their re-rankers, and the reward of fine-tuning."""

from typing import Any, Final, Literal, NamedTuple

import numpy as np
from torch import Tensor

from recoach.data.dataset import Dataset
from recoach.policy.list_rewards import calibration, diversity
from recoach.policy.reward_funcs import RewardFunc, future, log_reward, novelty
from recoach.rerank.config import RerankName
from recoach.rerank.features import ItemFeatures

FrontObjective = Literal["diversity", "coverage", "calibration", "novelty", "value"]


class Objective(NamedTuple):
    """What lists are judged by beside NDCG."""

    metric: str
    """Name without cut-off."""
    sign: int
    """1 if larger is better, else -1."""
    rewards_lists: bool = False
    """Whether the reward of fine-tuning is that of a whole list (estimator `slate`)."""
    optimum: str = ""
    """Why no fine-tuning can be better than an offset, where theory says so."""


_ITEMWISE: Final = (
    "The objective is a sum over items: an offset of the scores is its optimum, and fine-tuning "
    "can only store it in the weights."
)
OBJECTIVES: Final[dict[FrontObjective, Objective]] = {
    "diversity": Objective("vector_diversity", 1, rewards_lists=True),
    "coverage": Objective(
        "coverage",
        1,
        optimum="Coverage counts items over all users: its gradient is an offset for each item, "
        "which exposure_cap fits.",
    ),
    "calibration": Objective("miscalibration", -1, rewards_lists=True),
    "novelty": Objective("novelty", 1, optimum=_ITEMWISE),
    "value": Objective("hit_value", 1, optimum=_ITEMWISE),
}


def rerankers_for(objective: FrontObjective, features: ItemFeatures) -> tuple[RerankName, ...]:
    """Return the re-rankers of a front: all that the data allow."""
    names: tuple[RerankName, ...] = ("popularity", "exposure_cap")
    if features.has_vectors:
        names = ("mmr", "dpp", "xquad", "calibration", *names)
    return (*names, "value") if objective == "value" else names


def list_settings(objective: FrontObjective, k: int) -> dict[str, Any]:
    """Return the settings of GRPO that the reward of an objective needs.

    Rewards are normalised before they are weighted, so that a weight has the same meaning for
    all; the last weights are kept, as validation would select those of the base.
    """
    settings: dict[str, Any] = {
        "select": "last",
        "patience": 0,
        "multi_objective_aggregation": "normalize_then_sum",
    }
    if OBJECTIVES[objective].rewards_lists:
        settings |= {"estimator": "slate", "loss_type": "grpo", "slate_length": k}
    return settings


def reward_of(
    objective: FrontObjective, dataset: Dataset, features: ItemFeatures, column: str | None
) -> RewardFunc:
    """Return the reward function that is added to that of the log.

    Diversity and calibration reward lists; coverage and novelty reward rare items; value rewards
    the item's value where the log rewards the item.

    Args:
        objective: the objective of the front.
        dataset: the training histories.
        features: of the items.
        column: see `ItemFeatures.values`.
    """
    if objective == "diversity":
        return diversity(features.vectors)
    if objective == "calibration":
        return calibration(features.shares, dataset)
    if objective == "value":
        return _hit_value(features.values(column))
    return novelty(dataset)


def _hit_value(values: Tensor) -> RewardFunc:
    """Return the `future` reward times the value of the item over the mean value."""
    relative = values / values.mean()
    later = future()

    @log_reward
    def hit_value(prompts: Tensor, completions: Tensor, ahead: Tensor, **_: Tensor) -> Tensor:
        reward: Tensor = later(prompts=prompts, completions=completions, ahead=ahead)
        return reward * relative.to(completions.device)[completions]

    return hit_value


def random_lists(n_states: int, n_items: int, k: int) -> np.ndarray:
    """Return int64[B, k], lists of distinct items drawn from the catalogue."""
    generator = np.random.default_rng(0)
    keys = generator.random((n_states, min(n_items, 4 * k)))
    first = generator.integers(n_items, size=(n_states, 1))
    # Distinct places of a window that begins anywhere in a shuffled catalogue.
    places = (first + keys.argsort(axis=1)[:, :k]) % n_items
    lists: np.ndarray = generator.permutation(n_items)[places]
    return lists
