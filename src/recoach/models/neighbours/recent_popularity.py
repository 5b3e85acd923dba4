"""Recent popularity: the number of training interactions in the last days of train."""

import logging

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from recoach.config import StrictConfig
from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries
from recoach.models.base import DotProductRecommender, Embeddings, GroupName
from recoach.models.neighbours.history_model import (
    interaction_times,
    is_meta,
    popularity_scores,
)

_DAY = 86_400_000
_LOG = logging.getLogger(__name__)


class RecentPopularityConfig(StrictConfig):
    """Settings of RecentPopularity."""

    days: float = Field(default=7.0, gt=0)
    """Days before the last training interaction that are counted."""
    half_life: float | None = Field(default=None, gt=0)
    """Days after which an interaction counts half; None counts all of them as one."""
    share: float = Field(default=0.1, gt=0, le=1)
    """Share of the training interactions, the last of the file, that is counted where the log has
    no times."""


class RecentPopularity(DotProductRecommender):
    """Score an item by its training interactions in the last `days` days of train.

        score(i) = sum of 2^(-age / half_life) over the interactions with i, age <= days

    The age is the time before the last training interaction, in days. Without a half-life every
    interaction counts one. Items with equal scores, such as those without a recent interaction,
    are ranked by all their training interactions.

    For a log without times a warning is logged, and the last `share` of the training interactions,
    with the users in file order, is counted instead, without decay. That is recent popularity only
    where users, or sessions, are in the order of time.
    """

    config: RecentPopularityConfig

    def __init__(self, config: RecentPopularityConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        weights = np.zeros(len(train.values)) if is_meta() else _weights(train, config)
        counts = np.bincount(train.values, weights=weights, minlength=n_items)
        # Half of the smallest difference between two counts of whole numbers, or 1e-6 of them.
        tie_break = popularity_scores(train, n_items) * (0.5 if config.half_life is None else 1e-6)
        scores = torch.from_numpy((counts + tie_break).astype(np.float32))
        self.register_buffer("scores", scores, persistent=False)

    def embed(self, queries: Queries) -> Embeddings:
        """Return a one for each state and the scores of the items, each as float[..., 1]."""
        scores = self.get_buffer("scores")
        return Embeddings(scores.new_ones(len(queries), 1), scores[:, None])

    def parameter_groups(self) -> dict[GroupName, list[Tensor]]:
        """Return an empty dictionary: there are no parameters."""
        return {}


def _weights(train: RaggedArray, config: RecentPopularityConfig) -> npt.NDArray[np.float64]:
    """Return float64[m], the weight of each training interaction, 0 for those before the window."""
    times = interaction_times(train)
    if times is None:
        _LOG.warning(
            "The log has no times: recent_popularity counts the last %.0f %% of the training "
            "interactions, with the users in file order. Name the time column "
            "(--column timestamp=NAME), or use the model popularity.",
            100 * config.share,
        )
        first = len(train.values) - round(config.share * len(train.values))
        return (np.arange(len(train.values)) >= first).astype(np.float64)
    ages = (times.max(initial=0) - times) / _DAY
    decay = np.ones(len(ages)) if config.half_life is None else 0.5 ** (ages / config.half_life)
    return np.where(ages <= config.days, decay, 0.0)
