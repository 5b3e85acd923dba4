"""A model whose item table lies with several processes, each of which holds some of its rows.

All go through the same batches (`distributed.replicated_batches`): histories are looked up by a sum
over the
processes, items scored by `shards`, and all the rest of the model is the same in each. Files, and
what is judged, have the whole table.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from recoach import distributed
from recoach.errors import ConfigError
from recoach.models.base import Recommender
from recoach.models.sharded_softmax import local_rows

_TABLE = "items.weight"


class OwnRows(nn.Module):
    """The own rows of an item table, in the place of the whole one.

    Padding, the row after the last item's, is zero and nobody's.
    """

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.n_items, self.embedding_dim = table.num_embeddings - 1, table.embedding_dim
        here = local_rows(self.n_items)
        self.start = here.start
        self.weight = nn.Parameter(table.weight.detach()[here].clone())
        self.weight.requires_grad_(table.weight.requires_grad)

    def forward(self, items: Tensor) -> Tensor:
        """Return float[..., D], the vectors of any items; zeros for padding."""
        own = items - self.start
        here = (own >= 0) & (own < len(self.weight))
        vectors = functional.embedding(own.where(here, 0), self.weight) * here[..., None]
        everybodys: Tensor = _Sum.apply(vectors)  # type: ignore[no-untyped-call]
        return everybodys

    def whole(self) -> nn.Embedding:
        """Return the table with the rows of all processes."""
        weight = _joined(self.weight)
        rows, dim = weight.shape
        table = nn.Embedding(rows, dim, padding_idx=self.n_items, _weight=weight)
        table.weight.requires_grad_(self.weight.requires_grad)
        return table


def sharded_table(model: nn.Module) -> OwnRows | None:
    """Return a model's rows of its item table; None where it holds all of them."""
    table = getattr(model, "items", None)
    return table if isinstance(table, OwnRows) else None


def first_local_item(model: nn.Module) -> int | None:
    """Return the number of the first row a model holds; None where it holds all of them."""
    table = sharded_table(model)
    return None if table is None else table.start


def shard_embedding(model: Recommender) -> None:
    """Leave a model the own rows of its item table; one process keeps them all.

    Raises:
        ConfigError: the model does more with its items than read and score them.
        RunError: the processes hold different weights.
    """
    table = getattr(model, "items", None)
    if not (model.shardable and isinstance(table, nn.Embedding)):
        raise ConfigError(
            f"shard_items is for SASRec and GRU4Rec with loss = 'ce'; this {type(model).__name__} "
            "needs all items at once."
        )
    count = distributed.world_size()
    if count == 1:
        return
    if model.n_items < count:
        raise ConfigError(f"{model.n_items} items cannot be divided among {count} processes.")
    distributed.check_same_weights(model)
    model.items = OwnRows(table)


@contextmanager
def gathered_embedding(model: Recommender) -> Iterator[None]:
    """Have a model whole in every process, each with its share of the rows, for a while."""
    own = sharded_table(model)
    if own is None:
        yield
        return
    gather_embedding(model)
    try:
        with distributed.replicated_batches(enabled=False):
            yield
    finally:
        model.items = own


def gather_embedding(model: Recommender) -> None:
    """Give a model its whole item table back."""
    own = sharded_table(model)
    if own is not None:
        model.items = own.whole()


def gather_rows(own: Tensor) -> Tensor:
    """Return the rows of all processes, in the first one's main memory; none in the others."""
    rows = _joined(own)
    return rows.cpu() if distributed.is_main_process() else own.new_zeros(0)


def gathered_state(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of a model as the first process writes them, with everybody's rows."""
    divided = sharded_table(model) is not None
    return {
        name: gather_rows(tensor) if divided and name == _TABLE else tensor
        for name, tensor in weights.items()
    }


def local_state(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of the whole model with the own rows alone."""
    table = sharded_table(model)
    return {
        name: tensor[local_rows(table.n_items)].clone() if table and name == _TABLE else tensor
        for name, tensor in weights.items()
    }


def global_square_sum(model: nn.Module, parameter: Tensor, square: Tensor) -> Tensor:
    """Return the sum of squares over all rows of a parameter, given that over those here."""
    table = sharded_table(model)
    return distributed.all_reduce_sum(square) if table and parameter is table.weight else square


def _joined(own: Tensor) -> Tensor:
    """Return the rows of all processes and padding's, which the last one adds to its own."""
    last = distributed.rank() == distributed.world_size() - 1
    return distributed.all_gather(functional.pad(own.detach(), (0, 0, 0, int(last))))


class _Sum(torch.autograd.Function):
    """A sum over processes that all go on with the same: each has its whole gradient."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, vectors: Tensor) -> Tensor:
        del ctx
        return distributed.all_reduce_sum(vectors)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> Tensor:
        del ctx
        return upstream
