"""Anybody's PyTorch module as a recommender."""

from collections.abc import Callable

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from recoach.data.batches import Queries
from recoach.data.split import Dataset, RaggedArray
from recoach.errors import ConfigError
from recoach.models.base import DotProductRecommender, Embeddings, GroupName

Query = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(module, users int64[B], histories int64[B, T]) -> float[B, D]; histories are padded on the
right with n_items, users whom the dataset does not know are -1."""
Items = Callable[[nn.Module], Tensor]
"""(module) -> float[I, D], a row for each item of the dataset, in its order."""


class WrappedConfig(BaseModel):
    """What a wrapped module reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    history_length: int = 0
    """Last items of a history that `query` is given; 0 where it reads none."""


class Wrapped(DotProductRecommender):
    """A module whose scores are products of what two functions make of it.

    The functions are handed the module, because copies of the model hold a module of their own.
    """

    def __init__(
        self,
        config: WrappedConfig,
        train: RaggedArray,
        n_items: int,
        module: nn.Module,
        functions: tuple[Query, Items],
    ) -> None:
        super().__init__(config, train, n_items)
        self._history_length = config.history_length
        self.module, self._functions = module, functions

    @property
    def history_length(self) -> int:
        """Number of last items the module reads."""
        return self._history_length

    def embed(self, queries: Queries) -> Embeddings:
        """Return what the functions make of each state's user and own history."""
        query, items = self._functions
        history = queries.history[queries.rows]
        places = torch.arange(history.shape[1], device=history.device)
        history = history.masked_fill(places >= queries.ends[:, None], self.n_items)
        return Embeddings(query(self.module, queries.state_users, history), items(self.module))

    def parameter_groups(self) -> dict[GroupName, list[Tensor]]:
        """Return all parameters under "encoder": which are tables only their author knows."""
        return {"encoder": list(self.parameters())}


def wrap(
    module: nn.Module, dataset: Dataset, *, query: Query, items: Items, history_length: int = 0
) -> Wrapped:
    """Return your own module as a recommender that can be judged, tuned and asked for lists.

    Args:
        module: trained by your own code; tuning moves its parameters in place.
        dataset: the log it was trained on; users and items are numbered as in it.
        query: what makes a vector of each user and history.
        items: what makes a vector of each item.
        history_length: last items of a history to hand to `query`; 0 hands none.

    Raises:
        ConfigError: the functions return other shapes than products need.
    """
    config = WrappedConfig(history_length=history_length)
    model = Wrapped(config, dataset.train, dataset.n_items, module, (query, items))
    width = max(1, history_length)
    none = torch.full((2, width if history_length else 0), dataset.n_items)
    with torch.no_grad():
        parameter = next(module.parameters())
        users = query(module, torch.zeros(2).long().to(parameter.device), none.to(parameter.device))
        table = items(module)
    if table.ndim != 2 or len(table) != dataset.n_items or users.shape != (2, table.shape[1]):
        raise ConfigError(
            f"for 2 users and {dataset.n_items} items, query returned shape {tuple(users.shape)} "
            f"and items {tuple(table.shape)}; they must be [2, D] and [{dataset.n_items}, D]."
        )
    return model
