"""The contract of models: a recommender scores items; a dot product of vectors is the fast case."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, final

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from recoach import distributed
from recoach.data.batches import Batch
from recoach.data.dataset import Dataset, IdsFingerprint, RaggedArray
from recoach.data.queries import Queries
from recoach.data.transfer import to_device
from recoach.errors import ConfigError, ModelError
from recoach.models.distribution import Workspace

GroupName = Literal["item", "user", "position", "encoder"]
Model = TypeVar("Model", bound="Recommender")
GROUP_NAMES: tuple[GroupName, ...] = ("item", "user", "position", "encoder")


class Embeddings(NamedTuple):
    """The vectors whose dot products are the scores."""

    users: Tensor
    """float[B, D] a vector for each state."""
    items: Tensor
    """float[I, D] a vector for each item of the catalogue, no padding."""


Draws = tuple[Any, ...]
"""Random numbers of a loss: tensors on its device, or numbers of Python."""


class TrainingBatch(NamedTuple):
    """Input of a model's own loss; a model lists the kinds it needs in `needs`."""

    states: Batch | None = None
    """Places in histories with their next items."""
    edges: Batch | None = None
    """(user, item) pairs."""
    host: "TrainingBatch | None" = None
    """The same batches on the host, where the loss draws what is random."""
    draws: Draws | None = None
    """What the loss draws (`Recommender.draw`), on the device; None where nothing is drawn yet."""

    @property
    def parts(self) -> list[Batch]:
        """The batches of all kinds."""
        return [part for part in (self.states, self.edges) if part is not None]

    @property
    def on_host(self) -> "TrainingBatch":
        """The same batches on the host."""
        if self.host is not None:
            return self.host
        host = torch.device("cpu")
        return TrainingBatch(
            self.states and self.states.to(host), self.edges and self.edges.to(host)
        )

    def part(self, kind: Literal["states", "edges"], model: str) -> Batch:
        """Return the batch of a kind; ValueError, which names the model, if there is none."""
        batch: Batch | None = getattr(self, kind)
        if batch is None:
            raise ValueError(f"{model} learns from {kind}; the batch has none.")
        return batch


class Origin(NamedTuple):
    """From what a model was built; a run folder stores it, and no code."""

    name: str
    """See `recoach.models.registry.model_entry`."""
    config: BaseModel
    """The settings."""


class Recommender(nn.Module, ABC):
    """A model that scores items for states.

    A subclass is built from its config, the training histories and the size of the catalogue. It
    holds weights only: no optimiser, seed or evaluation. Every layer above the
    models relies on `score` alone; what needs vectors asks for a `DotProductRecommender`.
    """

    needs: tuple[Literal["states", "edges"], ...] = ()
    """Kinds of training batches; empty for a model without a loss."""
    reads: tuple[str, ...] = ()
    """Columns of the log that the model reads in `queries.columns`, where the log has them."""
    takes_weights: bool = False
    """Whether `loss` multiplies the loss of each state by `Batch.weights`."""
    regularises: bool = False
    """Whether `loss` shapes the vectors beyond raising observed items: GRPO then keeps it."""
    scores_at_once: ClassVar[int] = 2**17
    """(state, item) pairs that `score` is asked for in one call while a policy is trained; what
    `score` holds for each pair decides the memory of a step."""
    knows_users: bool = True
    """Whether users are known by their numbers; otherwise by what they read only."""
    origin: Origin | None = None
    """From what the model was built, where the registry built it."""
    ids: IdsFingerprint | None = None
    """The users and items that the model's numbers stand for, where they are known."""

    def __init__(self, config: BaseModel, train: RaggedArray, n_items: int) -> None:
        super().__init__()
        self.config = config
        self.n_users, self.n_items = len(train), n_items

    def bind(self, dataset: Dataset) -> None:
        """Compute what the loss needs beside the training histories; most models need nothing.

        Called where a model is built for a dataset, before weights are loaded.
        """

    @property
    def history_length(self) -> int:
        """Number of last items the model reads; 0 where it reads none."""
        return 0

    def extra_repr(self) -> str:
        return f"{self.n_users:,} users, {self.n_items:,} items"

    @abstractmethod
    def score(self, queries: Queries, items: Tensor | None = None) -> Tensor:
        """Return the scores of items for B states, differentiable; seen items are not masked.

        Args:
            queries: the states.
            items: int64[C] candidates that all states share, or int64[B, C] candidates of each
                state; None scores the catalogue.

        Returns:
            float[B, C], or float[B, I] for the catalogue.
        """

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the model's own supervised loss, a scalar.

        Args:
            batch: holds the kinds of batches named in `needs`.
            generator: draws negatives.
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss: it is not trained by steps")

    def draw(self, batch: TrainingBatch, generator: torch.Generator) -> Draws:
        """Return what the loss draws, such as negatives, on the host; nothing by default.

        Args:
            batch: that of `loss`, on the host.
            generator: that of `loss`.
        """
        del batch, generator
        return ()

    @final
    def draws_of(self, batch: TrainingBatch, generator: torch.Generator) -> Draws:
        """Return the draws of a batch, or draw now; they are on the model's device."""
        if batch.draws is not None:
            return batch.draws
        draws, device = self.draw(batch.on_host, generator), self.device
        return tuple(to_device(d, device) if isinstance(d, Tensor) else d for d in draws)

    def prepare_queries(self, queries: Queries) -> Queries:
        """Return states with what the model computes of them on the host, such as graphs.

        It is called where a batch is built. A model computes the same for states that come without,
        and then may not be traced by `torch.compile`.
        """
        return queries

    @abstractmethod
    def parameter_groups(self) -> dict[GroupName, list[Tensor]]:
        """Return every parameter under the name of its group; `trainable` selects among them."""

    def materialize_propagation(self) -> None:
        """Replace the tables by the propagated vectors, which are not propagated from then on.

        Raises:
            ConfigError: the model propagates nothing, or needs its tables as they are.
        """
        raise ConfigError(
            f"level = 'final' is for models that do nothing but propagate; "
            f"{type(self).__name__} takes 'ego'."
        )

    @final
    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        tensor: Any = next(self.parameters(), None)
        if tensor is None:
            tensor = next(self.buffers())
        device: torch.device = tensor.device
        return device


class DotProductRecommender(Recommender):
    """A model whose scores are dot products of state and item vectors; `score` is final.

    Its softmax over the catalogue is computed blockwise with a gradient in closed form; its
    vectors can be exported, indexed and sharded.
    """

    scores_at_once = 2**24

    def __init__(self, config: BaseModel, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        self.workspace = Workspace()

    @property
    def shardable(self) -> bool:
        """Whether `items` is an embedding that is only read and scored."""
        return False

    @abstractmethod
    def embed(self, queries: Queries) -> Embeddings:
        """Return vectors for B states and for all items."""

    @final
    def score(self, queries: Queries, items: Tensor | None = None) -> Tensor:
        """Return the dot products, see `Recommender`."""
        users, table = self.embed(queries)
        if items is None:
            return users @ table.T
        if items.ndim == 1:
            return users @ table[items].T
        return torch.einsum("bd,bcd->bc", users, table[items])


def check_ids(model: Recommender, dataset: Dataset) -> None:
    """Check that a model was built for the users and items of a dataset, in the same order.

    Models refer to items and users by their numbers in the dataset, so that with other ids every
    score would be that of another item.

    Raises:
        ConfigError: one of them is not a model, or not a dataset.
        ModelError: it was built for others.
    """
    if not isinstance(model, Recommender):
        raise ConfigError(
            f"The model is {_described(model)}. Build the model with recoach.build_model, or wrap "
            "your module with recoach.wrap."
        )
    if not isinstance(dataset, Dataset):
        raise ConfigError(
            f"The data are {_described(dataset)}. Pass a dataset: recoach.leave_last_out(...) or "
            "recoach.split_log(...) make one of a log."
        )
    if model.n_items != dataset.n_items:
        raise ModelError(
            f"The model was built for {model.n_items:,} items, and {dataset.name or 'the dataset'} "
            f"has {dataset.n_items:,}. Use the dataset it was trained on."
        )
    if model.ids is None:
        return
    if model.ids.items != dataset.ids.items:
        what = "items"
    elif model.knows_users and model.ids.users != dataset.ids.users:
        what = "users"
    else:
        return
    raise ModelError(
        f"The model was built for other {what} than those of {dataset.name or 'the dataset'}, or "
        f"for the same {what} in another order: their numbers stand for other ids. Use the dataset "
        "it was trained on; the same log with its rows in another order numbers them otherwise."
    )


def _described(value: object) -> str:
    kind = type(value).__name__
    return repr(value)[:80] if isinstance(value, str) else f"of the type {kind}"


def dot_product(model: Recommender, what: str) -> DotProductRecommender:
    """Return the model as one whose scores are dot products.

    Args:
        model: any recommender.
        what: what needs vectors, the beginning of the message.

    Raises:
        ConfigError: the model's scores are no dot products.
    """
    if isinstance(model, DotProductRecommender):
        return model
    raise ConfigError(
        f"{what} needs a vector for each state and each item, and {type(model).__name__} scores "
        "them in another way; use a model whose scores are dot products."
    )


@contextmanager
def eval_mode(model: Recommender) -> Iterator[None]:
    """Put a model into evaluation mode, and back into its earlier mode on exit or error."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def frozen_copy(model: Model) -> Model:
    """Return a copy without dropout and without gradients."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def draw_negatives(
    interactions: Tensor, users: Tensor, n_items: int, count: int, generator: torch.Generator
) -> Tensor:
    """Draw items uniformly among those a user has not interacted with.

    Args:
        interactions: int64[m] sorted keys `user * n_items + item`, see `interaction_keys`.
        users: int64[B]; both are on the host, and so is the result.
        n_items: size of the catalogue.
        count: items for each user.
        generator: on the CPU, in the same state in all processes.

    Returns:
        int64[B, count]. After ten rounds a user with nearly all items may keep one of them.
    """
    generator = distributed.rank_generator(generator)
    negatives = torch.randint(n_items, (len(users), count), generator=generator)
    for _ in range(10):
        observed = _contains(interactions, users[:, None] * n_items + negatives)
        n_observed = int(observed.sum())
        if n_observed == 0:
            break
        negatives[observed] = torch.randint(n_items, (n_observed,), generator=generator)
    return negatives


def interaction_keys(train: RaggedArray, n_items: int) -> Tensor:
    """Return the sorted distinct keys `user * n_items + item` of the training interactions."""
    users = np.repeat(np.arange(len(train), dtype=np.int64), train.lengths)
    return torch.from_numpy(np.unique(users * n_items + train.values))


def _contains(sorted_keys: Tensor, keys: Tensor) -> Tensor:
    place = torch.searchsorted(sorted_keys, keys).clamp(max=len(sorted_keys) - 1)
    contained: Tensor = sorted_keys[place] == keys
    return contained
