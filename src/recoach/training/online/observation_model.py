"""A small network over observations that are vectors, with the interface of a recommender."""

from typing import Final

import torch
from pydantic import Field
from torch import Tensor, nn

from recoach.config import StrictConfig
from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries
from recoach.models.base import DotProductRecommender, Embeddings, GroupName, Origin

OBSERVATION: Final = "observation"
"""The column of `Queries.columns` that holds the observation, float[R, observation_size]."""


class ObservationModelConfig(StrictConfig):
    """Sizes of the network."""

    observation_size: int = Field(gt=0)
    """Length of an observation."""
    item_feature_size: int = Field(default=0, ge=0)
    """Length of the given vector of an item; 0 learns a vector for each item instead."""
    hidden_dim: int = Field(default=64, gt=0)
    """Width of the hidden layers."""
    dim: int = Field(default=32, gt=0)
    """Width of the vectors whose dot products are the scores."""


class ObservationModel(DotProductRecommender):
    """Scores items by the dot product of a network of the observation and a vector of the item.

    The network of the observation has two hidden layers; that of given item features has one. Each
    state also adds a learned number to the scores of all items, which a policy ignores and a value
    of actions needs.

    Args:
        config: sizes.
        train: not read; the interface of all recommenders.
        n_items: number of items.
    """

    config: ObservationModelConfig
    reads = (OBSERVATION,)
    knows_users = False

    def __init__(self, config: ObservationModelConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        hidden, dim, width = config.hidden_dim, config.dim, config.item_feature_size
        self.state = nn.Sequential(
            nn.Linear(config.observation_size, hidden),
            nn.Tanh(),
            nn.Linear(hidden, hidden),
            nn.Tanh(),
            nn.Linear(hidden, dim + 1),
        )
        self.register_buffer("item_features", torch.zeros(n_items, width))
        self.item: nn.Module = (
            nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, dim))
            if width
            else nn.Embedding(n_items, dim)
        )

    def embed(self, queries: Queries) -> Embeddings:
        """Return vectors for B states and for all items."""
        users = self.state(queries.columns[OBSERVATION][queries.rows])
        items = self.item(self.item_features) if self.config.item_feature_size else self._table
        return Embeddings(users, torch.cat([items, items.new_ones(len(items), 1)], dim=1))

    @property
    def _table(self) -> Tensor:
        table: Tensor = self.item.weight  # type: ignore[assignment]
        return table

    def parameter_groups(self) -> dict[GroupName, list[Tensor]]:
        """Return every parameter under the name of its group."""
        return {"encoder": list(self.state.parameters()), "item": list(self.item.parameters())}


def build_observation_model(
    observation_size: int,
    n_items: int,
    *,
    item_features: Tensor | None = None,
    seed: int = 0,
    **sizes: int,
) -> ObservationModel:
    """Build an untrained `ObservationModel`.

    Args:
        observation_size: length of an observation.
        n_items: number of items.
        item_features: float[n_items, F] what is known of the items; None learns their vectors.
        seed: of the initial weights; the global random state is not changed.
        sizes: further fields of `ObservationModelConfig`.
    """
    width = 0 if item_features is None else item_features.shape[1]
    config = ObservationModelConfig(
        observation_size=observation_size, item_feature_size=width, **sizes
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ObservationModel(config, RaggedArray.empty(0), n_items)
    if item_features is not None:
        model.item_features.copy_(item_features)  # type: ignore[operator]
    model.origin = Origin(f"{__name__}:{ObservationModel.__name__}", config)
    return model
