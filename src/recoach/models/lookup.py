"""Rows of a table, without a gradient of its size for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn


@contextmanager
def sparse_gradients(model: nn.Module, *, enabled: bool = True) -> Iterator[None]:
    """Within this context the look-ups of a model's embeddings have sparse gradients.

    A table that is also used as a whole has a dense gradient, the sum of both.

    Args:
        model: its `nn.Embedding` modules are switched, and switched back on exit.
        enabled: False leaves them as they are.
    """
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    before = [table.sparse for table in tables]
    for table in tables:
        table.sparse = table.sparse or enabled
    try:
        yield
    finally:
        for table, sparse in zip(tables, before, strict=True):
            table.sparse = sparse


def table_and_rows(table: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return a table and some of its rows, for a model that reads items and scores all of them.

    `functional.embedding` has a gradient of the size of the table, which is zero except in the rows
    that were read, and autograd adds it to the gradient of the scores. Here the gradient of the
    rows is sparse and added to that of the scores in place, where no other tensor shares it. A
    table whose returned value is not used gets a dense gradient.

    Args:
        table: float[I, D].
        index: int64[N] in 0..I - 1.

    Returns:
        The table, and float[N, D]. Use the returned table in place of `table`.
    """
    if torch.compiler.is_compiling():  # a compiler adds gradients itself, and traces no sparse ones
        return table, nn.functional.embedding(index, table)
    return cast(tuple[Tensor, Tensor], _TableAndRows.apply(table, table, index))  # type: ignore[no-untyped-call]


class _TableAndRows(torch.autograd.Function):
    """Gets the table twice, so that autograd adds the two gradients."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, table: Tensor, same: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(index)
        ctx.shape = same.shape  # type: ignore[attr-defined]
        return table.view_as(table), same[index]

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, d_table: Tensor | None, d_rows: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None]:
        (index,) = ctx.saved_tensors  # type: ignore[attr-defined]
        shape: torch.Size = ctx.shape  # type: ignore[attr-defined]
        if d_rows is None:
            return d_table, None, None
        if d_table is None:
            return d_rows.new_zeros(shape).index_add_(0, index, d_rows), None, None
        # In this order: autograd adds to a dense gradient in place if it follows a sparse one.
        d_sparse = torch.sparse_coo_tensor(index[None], d_rows, shape, check_invariants=False)
        return d_sparse, d_table, None
