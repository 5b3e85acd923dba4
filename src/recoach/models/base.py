"""The contract every recommender keeps: two sets of vectors, whose products are the scores."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, NamedTuple, final

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from recoach import distributed
from recoach.data.batches import Batch, Queries
from recoach.data.split import RaggedArray
from recoach.errors import ConfigError

GroupName = Literal["item", "user", "position", "encoder"]
GROUP_NAMES: tuple[GroupName, ...] = ("item", "user", "position", "encoder")


class Embeddings(NamedTuple):
    """What a model makes of queries."""

    users: Tensor
    """float[B, D] a vector for each state."""
    items: Tensor
    """float[I, D] a vector for each item of the catalogue, no padding."""


class TrainingBatch(NamedTuple):
    """What a model's own loss may look at; a model names what it needs in `needs`."""

    states: Batch | None = None
    """Places in histories with their next items."""
    edges: Batch | None = None
    """(user, item) pairs."""


class Recommender(nn.Module, ABC):
    """A model that scores items by products of vectors; `score` is final.

    A subclass is built from its config, the training histories and the size of the catalogue. It
    owns weights; it knows no optimiser, device, seed or evaluation.
    """

    needs: ClassVar[tuple[Literal["states", "edges"], ...]] = ()
    """Kinds of training batches; empty for a model that has nothing to learn by steps."""
    regularises: ClassVar[bool] = False
    """Whether `loss` shapes the vectors beyond raising what was taken: GRPO then carries it on."""

    def __init__(self, config: BaseModel, train: RaggedArray, n_items: int) -> None:
        super().__init__()
        self.config = config
        self.n_users, self.n_items = len(train), n_items

    @property
    def shardable(self) -> bool:
        """Whether `items` is an embedding that is read and scored and no more (see `divided`)."""
        return False

    @property
    def history_length(self) -> int:
        """Number of last items the model reads; 0 where it reads none."""
        return 0

    def extra_repr(self) -> str:
        return f"{self.n_users:,} users, {self.n_items:,} items"

    @abstractmethod
    def embed(self, queries: Queries) -> Embeddings:
        """Return vectors for B states and for all items."""

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the model's own supervised loss, a scalar.

        Args:
            batch: holds the kinds of batches named in `needs`.
            generator: draws negatives.
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss: it is not trained by steps")

    @abstractmethod
    def tables(self) -> dict[GroupName, list[Tensor]]:
        """Return every parameter under the name of the table it belongs to."""

    def materialize_propagation(self) -> None:
        """Make the propagated vectors the tables, free to move on their own from now on.

        Raises:
            ConfigError: the model propagates nothing, or needs its tables as they are.
        """
        raise ConfigError(
            f"level = 'final' is for models that do nothing but propagate; "
            f"{type(self).__name__} takes 'ego'."
        )

    @final
    def score(self, queries: Queries) -> Tensor:
        """Return float[B, I], the scores of all items; seen ones are not masked here."""
        users, items = self.embed(queries)
        return users @ items.T

    @final
    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        tensor: Any = next(self.parameters(), None)
        if tensor is None:
            tensor = next(self.buffers())
        device: torch.device = tensor.device
        return device


@contextmanager
def eval_mode(model: Recommender) -> Iterator[None]:
    """Put a model into evaluation mode and back into the mode it was in, whatever happens."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def frozen_copy(model: Recommender) -> Recommender:
    """Return a copy without dropout and without gradients."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def draw_negatives(
    known: Tensor, users: Tensor, n_items: int, count: int, generator: torch.Generator
) -> Tensor:
    """Draw items uniformly among those a user has not taken.

    Args:
        known: int64[m] sorted keys `user * n_items + item` of what was taken.
        users: int64[B].
        n_items: size of the catalogue.
        count: items for each user.
        generator: source of randomness (on the CPU), the same in all processes.

    Returns:
        int64[B, count]. After ten rounds a user who has taken nearly everything may keep a
        taken item.
    """
    generator = distributed.rank_generator(generator)
    drawn = torch.randint(n_items, (len(users), count), generator=generator).to(users.device)
    for _ in range(10):
        taken = _contains(known, users[:, None] * n_items + drawn)
        n_taken = int(taken.sum())
        if n_taken == 0:
            break
        again = torch.randint(n_items, (n_taken,), generator=generator)
        drawn[taken] = again.to(users.device)
    return drawn


def interaction_keys(train: RaggedArray, n_items: int) -> Tensor:
    """Return the sorted distinct keys `user * n_items + item` of the training interactions."""
    users = np.repeat(np.arange(len(train), dtype=np.int64), train.lengths)
    return torch.from_numpy(np.unique(users * n_items + train.values))


def _contains(known: Tensor, keys: Tensor) -> Tensor:
    place = torch.searchsorted(known, keys).clamp(max=len(known) - 1)
    taken: Tensor = known[place] == keys
    return taken
