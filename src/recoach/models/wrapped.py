"""Any PyTorch module as a recommender, by functions that return its vectors or its scores."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from recoach.config import StrictConfig
from recoach.data.dataset import Dataset
from recoach.data.queries import Queries
from recoach.errors import ConfigError
from recoach.models.base import (
    DotProductRecommender,
    Embeddings,
    GroupName,
    Recommender,
    TrainingBatch,
    eval_mode,
)

Module = TypeVar("Module", bound=nn.Module)
Query = Callable[[Module, Tensor, Tensor], Tensor]
"""(module, users int64[B], histories int64[B, T]) -> float[B, D]; histories are padded on the
right with n_items, users who are not in the dataset are -1."""
Items = Callable[[Module], Tensor]
"""(module) -> float[I, D], a row for each item of the dataset, in its order."""
Score = Callable[[Module, Tensor, Tensor, Tensor], Tensor]
"""(module, users int64[B], histories int64[B, T], items int64[C] or int64[B, C]) -> float[B, C],
the scores of items that all states share, or of the items of each state."""
Loss = Callable[[Module, Tensor, Tensor, Tensor, torch.Generator], Tensor]
"""(module, users int64[B], histories int64[B, T], targets int64[B], generator) -> float[], the mean
loss of the next items; negatives are drawn from the generator, which is on the CPU, so that a
resumed training is the same."""


_USERS_TO_CHECK = 8


class WrappedConfig(StrictConfig):
    """Settings of a wrapped module."""

    history_length: int = 0
    """Number of last items of a history that the functions receive; 0 where they read none."""


class _WrappedModule(Recommender):
    """A module with its loss; the base class of the two kinds of wrapped modules.

    The functions receive the module, because copies of the model hold a module of their own.
    """

    config: WrappedConfig

    def __init__(
        self, module: nn.Module, dataset: Dataset, config: WrappedConfig, loss: Loss[Any] | None
    ) -> None:
        super().__init__(config, dataset.train, dataset.n_items)
        self.module, self.ids, self._loss = module, dataset.ids, loss
        if loss is not None:
            # Single interactions also train users with one item, whom states leave out.
            self.needs = ("states",) if config.history_length else ("edges",)

    @property
    def history_length(self) -> int:
        """Number of last items of a history that the module reads."""
        return self.config.history_length

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the loss of the function for each state and its next item."""
        part = batch.states or batch.edges
        if self._loss is None or part is None:
            return super().loss(batch, generator)
        users, histories = _users_and_histories(part.queries, self.n_items)
        return self._loss(self.module, users, histories, part.targets, generator)

    def parameter_groups(self) -> dict[GroupName, list[Tensor]]:
        """Return all parameters as "encoder": which of them are embeddings is not known."""
        return {"encoder": list(self.parameters())}


class Wrapped(_WrappedModule, DotProductRecommender):
    """A module whose scores are dot products of the vectors that two functions return."""

    def __init__(
        self,
        module: nn.Module,
        dataset: Dataset,
        config: WrappedConfig,
        loss: Loss[Any] | None,
        functions: tuple[Query[Any], Items[Any]],
    ) -> None:
        super().__init__(module, dataset, config, loss)
        self._functions = functions

    def embed(self, queries: Queries) -> Embeddings:
        """Return the vectors of the functions for each state's user and history."""
        query, items = self._functions
        users, histories = _users_and_histories(queries, self.n_items)
        return Embeddings(query(self.module, users, histories), items(self.module))


class WrappedScorer(_WrappedModule):
    """A module whose scores are those that a function returns."""

    def __init__(
        self,
        module: nn.Module,
        dataset: Dataset,
        config: WrappedConfig,
        loss: Loss[Any] | None,
        function: Score[Any],
    ) -> None:
        super().__init__(module, dataset, config, loss)
        self._function = function

    def score(self, queries: Queries, items: Tensor | None = None) -> Tensor:
        """Return the scores of the function, see `Recommender`."""
        if items is None:
            items = torch.arange(self.n_items, device=queries.rows.device)
        return self._function(self.module, *_users_and_histories(queries, self.n_items), items)


def wrap(  # noqa: PLR0913 - the parts of a model
    module: Module,
    dataset: Dataset,
    *,
    query: Query[Module] | None = None,
    items: Items[Module] | None = None,
    score: Score[Module] | None = None,
    loss: Loss[Module] | None = None,
    history_length: int = 0,
) -> Wrapped | WrappedScorer:
    """Return your own module as a recommender that can be evaluated, fine-tuned and served.

    Pass `query` and `items` where a score is a dot product of two vectors, which is faster and has
    vectors to export, or else `score`. A module wrapped in a function `build(dataset)` can also be
    trained in a run folder, see `recoach.run`.

    Args:
        module: trained by your own code, or to be trained by `loss`; its parameters are changed in
            place.
        dataset: the log it was trained on; users and items are numbered as in it.
        query: returns a vector for each user and history, see `Query`.
        items: returns a vector for each item, see `Items`.
        score: returns the scores of items, see `Score`.
        loss: returns the module's own loss, see `Loss`; without one it cannot be pre-trained, and
            its fine-tuning has no control that continues ordinary training.
        history_length: number of last items of a history that the functions receive.

    Raises:
        ConfigError: neither or both ways are given, a function returns another shape, or the loss
            is no finite scalar or another one with the same generator.
    """
    if history_length < 0:
        raise ConfigError(f"history_length is {history_length}; it must be 0 or more.")
    config = WrappedConfig(history_length=history_length)
    if score is not None and query is None and items is None:
        scorer = WrappedScorer(module, dataset, config, loss, score)
        _check_scores(scorer, score)
        _check_loss(scorer, dataset, loss)
        return scorer
    if score is None and query is not None and items is not None:
        model = Wrapped(module, dataset, config, loss, (query, items))
        _check_vectors(model, query, items)
        _check_loss(model, dataset, loss)
        return model
    functions = {"query": query, "items": items, "score": score}
    passed = [f"{name}=" for name, function in functions.items() if function is not None]
    raise ConfigError(
        f"recoach.wrap takes query= and items=, or score=; it got {' and '.join(passed) or 'none'}."
        " Pass query= and items= where a score is a dot product, else score= alone."
    )


def _users_and_histories(queries: Queries, n_items: int) -> tuple[Tensor, Tensor]:
    """Return int64[B] users and int64[B, T] histories, the later items of a row padded."""
    history = queries.history[queries.rows]
    places = torch.arange(history.shape[1], device=history.device)
    return queries.state_users, history.masked_fill(places >= queries.ends[:, None], n_items)


def _two_empty_histories(model: Wrapped | WrappedScorer) -> tuple[Tensor, Tensor]:
    users = torch.zeros(2, dtype=torch.int64, device=model.device)
    return users, torch.full((2, model.history_length), model.n_items, device=model.device)


def _check_vectors(model: Wrapped, query: Query[Any], items: Items[Any]) -> None:
    with torch.no_grad():
        users = query(model.module, *_two_empty_histories(model))
        table = items(model.module)
    if table.ndim != 2 or len(table) != model.n_items or users.shape != (2, table.shape[1]):
        raise ConfigError(
            f"for 2 users and {model.n_items} items, query returned shape {tuple(users.shape)} "
            f"and items {tuple(table.shape)}; they must be [2, D] and [{model.n_items}, D]."
        )


def _check_scores(model: WrappedScorer, score: Score[Any]) -> None:
    shared = torch.arange(3, device=model.device) % model.n_items
    for items in (shared, shared.expand(2, 3)):
        with torch.no_grad():
            scores = score(model.module, *_two_empty_histories(model), items)
        if scores.shape != (2, 3):
            raise ConfigError(
                f"for 2 users and items of shape {tuple(items.shape)}, score returned shape "
                f"{tuple(scores.shape)}; it must be [2, 3], a score for each user and item."
            )


def _check_loss(model: Wrapped | WrappedScorer, dataset: Dataset, loss: Loss[Any] | None) -> None:
    """Call a loss on the second items of a few users, twice with the same generator."""
    users = np.flatnonzero(dataset.train.lengths >= 2)[:_USERS_TO_CHECK]
    if loss is None or not len(users):
        return
    starts = dataset.train.offsets[users]
    first, second = (
        torch.from_numpy(dataset.train.values[starts + place].astype(np.int64)).to(model.device)
        for place in (0, 1)
    )
    histories = torch.full((len(users), model.history_length), model.n_items, device=model.device)
    histories[:, :1] = first[:, None]
    values: list[float] = []
    for _ in range(2):
        with eval_mode(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            value = loss(
                model.module,
                torch.from_numpy(users).to(model.device),
                histories,
                second,
                torch.Generator().manual_seed(0),
            )
        if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
            what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise ConfigError(
                f"for {len(users)} users, loss returned {what}; it must return a tensor with one "
                "number, such as loss.mean()."
            )
        values.append(float(value))
    if not np.isfinite(values).all():
        raise ConfigError(
            f"for users {users.tolist()} with one item each, loss returned {values[0]}; it must "
            "be finite."
        )
    if not np.isclose(values[0], values[1], rtol=1e-3):
        raise ConfigError(
            f"loss returned {values[0]:.6g} and then {values[1]:.6g} with the same generator. Draw "
            "random numbers from the generator, so that a resumed training is the same."
        )
