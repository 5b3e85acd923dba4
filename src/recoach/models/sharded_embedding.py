"""Shard the item embedding of a model by rows over the processes.

All processes train on the same batches (`distributed.replicated_batches`). A lookup is an
all-reduce over the ranks, items are scored by `models/sharded_softmax.py`, and all other weights
are replicated. For evaluation and for checkpoints the rows are gathered into the whole embedding.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from recoach import distributed
from recoach.errors import ConfigError
from recoach.models.base import DotProductRecommender, Recommender
from recoach.models.sharded_softmax import local_rows

_SHARDED_KEY = "items.weight"


class ShardedEmbedding(nn.Module):
    """The rows of an item embedding that this rank holds, a replacement for nn.Embedding.

    The padding row, the last of the whole embedding, is zero and is owned by no rank.
    """

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.n_items = embedding.num_embeddings - 1
        self.embedding_dim = embedding.embedding_dim
        rows = local_rows(self.n_items)
        self.first_item: int = rows.start
        self.weight = nn.Parameter(embedding.weight.detach()[rows].clone())
        self.weight.requires_grad_(embedding.weight.requires_grad)

    def forward(self, items: Tensor) -> Tensor:
        """Return float[..., D], the vectors of any items of the catalogue; zeros for padding."""
        local_items = items - self.first_item
        is_local = (local_items >= 0) & (local_items < len(self.weight))
        vectors = functional.embedding(local_items.where(is_local, 0), self.weight)
        result: Tensor = _AllReduceSum.apply(vectors * is_local[..., None])  # type: ignore[no-untyped-call]
        return result

    def gather(self) -> nn.Embedding:
        """Return the whole embedding, with the rows of all ranks."""
        weight = _all_rows(self.weight)
        rows, dim = weight.shape
        table = nn.Embedding(rows, dim, padding_idx=self.n_items, _weight=weight)
        table.weight.requires_grad_(self.weight.requires_grad)
        return table


def sharded_table(model: nn.Module) -> ShardedEmbedding | None:
    """Return the sharded item embedding of a model; None if it is not sharded."""
    embedding = getattr(model, "items", None)
    return embedding if isinstance(embedding, ShardedEmbedding) else None


def first_local_item(model: nn.Module) -> int | None:
    """Return the index of the first item that this rank holds; None if the model is not sharded."""
    embedding = sharded_table(model)
    return None if embedding is None else embedding.first_item


def shard_embedding(model: Recommender) -> None:
    """Replace the item embedding of a model by this rank's rows; does nothing with one process.

    Raises:
        ConfigError: the model needs the whole item embedding, or there are fewer items than ranks.
        RunError: the weights differ between ranks.
    """
    embedding = getattr(model, "items", None)
    shardable = isinstance(model, DotProductRecommender) and model.shardable
    if not (shardable and isinstance(embedding, nn.Embedding)):
        raise ConfigError(
            f"shard_items is for SASRec and GRU4Rec with loss = 'ce'; this {type(model).__name__} "
            "needs all items at once."
        )
    count = distributed.world_size()
    if count == 1:
        return
    if model.n_items < count:
        raise ConfigError(
            f"shard_items: {model.n_items} items cannot be sharded over {count} processes. Start "
            f"at most {model.n_items} processes."
        )
    distributed.check_same_weights(model)
    model.items = ShardedEmbedding(embedding)


@contextmanager
def gathered_embedding(model: Recommender) -> Iterator[None]:
    """Within this context a model has its whole item embedding, and batches are sharded again."""
    sharded = sharded_table(model)
    if sharded is None:
        yield
        return
    gather_embedding(model)
    try:
        with distributed.replicated_batches(enabled=False):
            yield
    finally:
        model.items = sharded


def gather_embedding(model: Recommender) -> None:
    """Replace the sharded item embedding of a model by the whole one; does nothing without one."""
    sharded = sharded_table(model)
    if sharded is not None:
        model.items = sharded.gather()


def gather_rows(local: Tensor) -> Tensor:
    """Return the rows of all ranks on the CPU of the main process, an empty tensor elsewhere.

    Args:
        local: float[rows, ...] of this rank. All ranks must call this.
    """
    rows = _all_rows(local)
    return rows.cpu() if distributed.is_main_process() else local.new_zeros(0)


def gathered_state(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with the whole item embedding, for the main process to save."""
    is_sharded = sharded_table(model) is not None
    return {
        name: gather_rows(tensor) if is_sharded and name == _SHARDED_KEY else tensor
        for name, tensor in weights.items()
    }


def local_state(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with this rank's rows, given one with the whole item embedding."""
    sharded = sharded_table(model)
    if sharded is None:
        return dict(weights)
    rows = local_rows(sharded.n_items)
    return {
        name: tensor[rows].clone() if name == _SHARDED_KEY else tensor
        for name, tensor in weights.items()
    }


def global_square_sum(model: nn.Module, parameter: Tensor, square_sum: Tensor) -> Tensor:
    """Return the sum of squares of a whole parameter, given that of this rank's part of it."""
    sharded = sharded_table(model)
    if sharded is not None and parameter is sharded.weight:
        return distributed.all_reduce_sum(square_sum)
    return square_sum


def _all_rows(local: Tensor) -> Tensor:
    """Return the rows of all ranks and the padding row, which the last rank appends to its own."""
    is_last = distributed.rank() == distributed.world_size() - 1
    return distributed.all_gather(functional.pad(local.detach(), (0, 0, 0, int(is_last))))


class _AllReduceSum(torch.autograd.Function):
    """All-reduce whose gradient is passed on unchanged.

    All ranks compute the same from the sum, so that each has the whole gradient already.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, vectors: Tensor) -> Tensor:
        del ctx
        return distributed.all_reduce_sum(vectors)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> Tensor:
        del ctx
        return upstream
