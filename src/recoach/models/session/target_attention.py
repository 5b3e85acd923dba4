"""Target attention over the catalogue (TAGNN, Yu et al. 2020), computed in blocks.

The score of item t in a state with vector s, whose distinct items (nodes) i have vectors h_i,
queries q_i and counts c_i, is

    score_t = (s + sum_i beta_{t,i} h_i) · e_t,    beta_{t,i} = softmax_i(q_i · e_t + log c_i)

so that the softmax is one over positions. The sum over nodes is a sum of products v_{t,i} =
h_i · e_t: no tensor has both the catalogue and the dimension. A softmax does not change if the same
value is subtracted from all logits, and its weights add up to 1. With the last node r of a state
as its reference,

    score_t = (s + h_r) · e_t + sum_{i != r} beta_{t,i} (h_i - h_r) · e_t
    beta_{t,i} = exp(l_{t,i}) / (1 + sum_{j != r} exp(l_{t,j}))
    l_{t,i} = (q_i - q_r) · e_t + log(c_i / c_r)

which takes 1 + 2 (n - 1) products for a state of n nodes. With G_t = d loss / d score_t the
gradient of a product h_i · e_t is G_t beta_{t,i}, that of a logit is G_t beta_{t,i} (v_{t,i} -
sum_j beta_{t,j} v_{t,j}). States with equal numbers of nodes are computed together, as dense
tensors, for a range of items that fits into the cache.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from recoach import distributed
from recoach.data import transfer
from recoach.data.transfer import to_device
from recoach.models.products import product_dtype

_BLOCK_BYTES = {"cpu": 2**26, "cuda": 2**30}
"""Products and scores of a block of states and all items."""
_CHUNK_BYTES = {"cpu": 2**23, "cuda": 2**28}
"""Products of a block of states with a range of items."""
_LARGEST_EXPONENT = 60.0
"""Logits up to it need no subtraction of the maximum: the sum of their exponentials is finite."""


class AttentionStates(NamedTuple):
    """B states and their N nodes."""

    states: Tensor
    """float[B, D] vector s of each state."""
    values: Tensor
    """float[N, D] vector h of each node."""
    queries: Tensor
    """float[N, D] vector q of each node."""
    node_states: Tensor
    """int64[N] state of each node, sorted; a state may have none."""
    counts: Tensor
    """int64[N] positions of the node, at least 1."""
    host_node_states: Tensor | None = None
    """`node_states` on the host, by which states are grouped; None reads them."""


def attention_scores(states: AttentionStates, items: Tensor) -> Tensor:
    """Return the scores of items for all states, differentiable.

    Args:
        states: B states.
        items: float[C, D] vectors that all states share, or float[B, C, D].

    Returns:
        float[B, C], in the precision of the vectors; the gradient of shared items has products in
        bfloat16 where these are faster (`product_dtype`).
    """
    rows, others = _relative_rows(states)
    if items.ndim == 2:
        scores: Tensor = _Scores.apply(rows, items, others)  # type: ignore[no-untyped-call]
        return scores
    return _scores_of_own_items(rows, items, others)


def attention_cross_entropy(states: AttentionStates, items: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of the targets under the softmax over all items.

    Args:
        states: B states.
        items: float[I, D] vectors of the catalogue.
        targets: int64[B].
    """
    rows, others = _relative_rows(states)
    loss: Tensor = _CrossEntropy.apply(rows, items, others, targets)  # type: ignore[no-untyped-call]
    return loss / distributed.data_sum(len(targets))


def _relative_rows(states: AttentionStates) -> tuple[Tensor, Tensor]:
    """Return what the items are multiplied with, relative to the reference node of each state.

    Returns:
        float[B + 2 M, D + 1]: a row s + h_r of each state, then rows q_i - q_r and rows h_i - h_r
        of the M nodes that are no reference, by state; the last column is log(c_i / c_r) in the
        rows q_i - q_r, else 0. And int64[B] on the host, the number of those nodes of each state.
    """
    vectors, values, queries, node_states, counts, host = states
    host = node_states.cpu() if host is None else host
    sizes = host.bincount(minlength=len(vectors))
    last = sizes.cumsum(0) - 1
    references = last[host]  # of each node
    other = (references != torch.arange(len(references))).nonzero()[:, 0]
    present = (sizes > 0).nonzero()[:, 0]
    references, other, last, present = (
        to_device(index, vectors.device)
        for index in (references[other], other, last[present], present)
    )
    base = vectors.index_add(0, present, values[last])
    logs = counts.to(vectors.dtype).log()
    rows = torch.cat(
        [base, queries[other] - queries[references], values[other] - values[references]]
    )
    bias = torch.cat(
        [rows.new_zeros(len(base)), logs[other] - logs[references], rows.new_zeros(len(other))]
    )
    return torch.cat([rows, bias[:, None]], dim=1), (sizes - 1).clamp(min=0)


class _Group(NamedTuple):
    """States of a block with the same number of nodes."""

    states: slice
    """Their places among the states of the block."""
    rows: slice
    """Their rows among the products of the block: those of the states, of the logits, of values."""
    others: int
    """Nodes of each state beside the reference."""


class _Block(NamedTuple):
    """States whose products are computed together, sorted by their numbers of nodes."""

    states: Tensor
    """int64[b]"""
    rows: Tensor
    """int64[R] rows of the products, see `_Group.rows`."""
    gradient_rows: Tensor
    """int64[R] rows of the gradients that `_Products.differentiate` writes over the products."""
    groups: list[_Group]


def _blocks(others: Tensor, most_rows: int, device: torch.device) -> Iterator[_Block]:
    """Yield blocks of states.

    Args:
        others: int64[B] nodes of each state beside the reference, on the host.
        most_rows: rows of a block, of products in bfloat16 and of scores in float32 that take
            twice the bytes; exceeded by less than those of a state.
        device: of the index tensors.
    """
    n_states, n_others = len(others), int(others.sum())
    firsts = others.cumsum(0) - others + n_states
    sizes, order = others.sort(stable=True)
    block_of = ((2 * sizes + 3).cumsum(0) - 1) // max(1, most_rows)  # scores take twice the bytes
    n_states_of = torch.unique_consecutive(block_of, return_counts=True)[1].tolist()
    for states in torch.split(order, n_states_of):
        groups, rows, gradient_rows, start, n_rows = [], [], [], 0, 0
        numbers, counts = torch.unique_consecutive(others[states], return_counts=True)
        for m, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            group = slice(start, start + count)
            nodes = firsts[states[group]] + torch.arange(m)[:, None]
            logits, values = nodes.flatten(), nodes.flatten() + n_others
            rows += [states[group], logits, values]
            gradient_rows += [states[group], values, logits]
            groups.append(_Group(group, slice(n_rows, n_rows + (2 * m + 1) * count), m))
            start, n_rows = start + count, groups[-1].rows.stop
        on_device, all_rows, all_gradient_rows = (
            to_device(index, device)
            for index in (states, torch.cat(rows), torch.cat(gradient_rows))
        )
        yield _Block(on_device, all_rows, all_gradient_rows, groups)


class _Products:
    """Products of states and items in a dtype, and the gradients of both.

    Args:
        rows: float[B + 2 M, D + 1], see `_relative_rows`.
        items: float[I, D].
        others: int64[B], see `_relative_rows`.
        dtype: of the products.
    """

    def __init__(self, rows: Tensor, items: Tensor, others: Tensor, dtype: torch.dtype) -> None:
        self.others, self.dtype = others, dtype
        self.rows = rows.to(dtype)
        self.items = torch.ones(len(items), rows.shape[1], dtype=dtype, device=items.device)
        self.items[:, :-1] = items
        self.d_rows, self.d_items = torch.zeros_like(rows), torch.zeros_like(items)
        logit_rows = rows[len(others) : (len(others) + len(rows)) // 2]
        self._is_large = bool(len(logit_rows)) and (
            not transfer.is_read_free(rows)  # the maximum costs less than to wait for its size
            or bool(_largest_norm(logit_rows) * _largest_norm(self.items) > _LARGEST_EXPONENT)
        )

    def blocks(self) -> Iterator[_Block]:
        """Yield blocks of all states whose products with all items fit into the memory allowed."""
        size, device = max(1, len(self.items)) * self.items.element_size(), self.items.device
        yield from _blocks(self.others, _BLOCK_BYTES[device.type] // size, device)

    def chunks(self, block: _Block) -> Iterator[slice]:
        """Yield ranges of items whose products with a block fit into the cache."""
        size = len(block.rows) * self.items.element_size()
        width = max(1, _CHUNK_BYTES[self.items.device.type] // size // 256) * 256
        for start in range(0, len(self.items), width):
            yield slice(start, min(start + width, len(self.items)))

    def attend(self, block: _Block, chunk: slice, products: Tensor, scores: Tensor) -> None:
        """Compute the products of a block with some items, and their scores.

        Args:
            block: the states.
            chunk: c items.
            products: [R, c]; in states of several nodes the weights beta replace the logits, and
                the sums over nodes sum_i beta_i v_i the products of the states.
            scores: [b, c].
        """
        torch.mm(self.rows[block.rows], self.items[chunk].T, out=products)
        for group in block.groups:
            base, weights, values = _parts(products, group)
            scores[group.states].copy_(base)
            if group.others == 0:
                continue
            reference: Tensor | float = 1.0
            if self._is_large:
                highest = weights.amax(0)
                weights.sub_(highest)
                reference = highest.neg_().exp_()
            weights.exp_()
            total = weights[0] + reference
            for weight in weights[1:]:
                total.add_(weight)
            weights.mul_(total.reciprocal_())
            torch.mul(weights[0], values[0], out=base)
            for weight, value in zip(weights[1:], values[1:], strict=True):
                base.addcmul_(weight, value)
            scores[group.states].add_(base)

    def differentiate(self, block: _Block, chunk: slice, products: Tensor, slopes: Tensor) -> None:
        """Add the gradients of rows and items, given those of the scores.

        Args:
            block: the states.
            chunk: c items.
            products: [R, c], what `attend` leaves there; overwritten.
            slopes: [b, c] gradients of the scores.
        """
        for group in block.groups:
            base, weights, values = _parts(products, group)
            slope = slopes[group.states].to(self.dtype)
            if group.others:
                weights.mul_(slope)
                values.sub_(base).mul_(weights)
            base.copy_(slope)
        self.d_rows.index_add_(
            0, block.gradient_rows, (products @ self.items[chunk]).to(self.d_rows.dtype)
        )
        self.d_items[chunk] += products.T @ self.rows[block.gradient_rows, :-1]


def _parts(products: Tensor, group: _Group) -> tuple[Tensor, Tensor, Tensor]:
    """Return views [g, c], [m, g, c], [m, g, c] of the products of states, queries and values."""
    m = group.others
    slots = products[group.rows].view(2 * m + 1, -1, products.shape[1])
    return slots[0], slots[1 : m + 1], slots[m + 1 :]


def _largest_norm(vectors: Tensor) -> Tensor:
    return vectors.float().square().sum(dim=1).max().sqrt()


_Context = torch.autograd.function.FunctionCtx


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, rows: Tensor, items: Tensor, others: Tensor) -> Tensor:
        ctx.save_for_backward(rows, items, others)
        products = _Products(rows, items, others, items.dtype)
        scores = items.new_empty(len(others), len(items))
        for block in products.blocks():
            for chunk in products.chunks(block):
                width = chunk.stop - chunk.start
                part = items.new_empty(len(block.states), width)
                products.attend(block, chunk, items.new_empty(len(block.rows), width), part)
                scores[:, chunk].index_copy_(0, block.states, part)
        return scores

    @staticmethod
    def backward(ctx: _Context, upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        rows, items, others = ctx.saved_tensors  # type: ignore[attr-defined]
        products = _Products(rows, items, others, product_dtype(items))
        for block in products.blocks():
            for chunk in products.chunks(block):
                width = chunk.stop - chunk.start
                buffer = products.items.new_empty(len(block.rows), width)
                unused = products.items.new_empty(len(block.states), width)
                products.attend(block, chunk, buffer, unused)
                products.differentiate(block, chunk, buffer, upstream[:, chunk][block.states])
        return products.d_rows, products.d_items, None


class _CrossEntropy(torch.autograd.Function):
    """The sum of the cross-entropy over states, with the gradient computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: _Context, rows: Tensor, items: Tensor, others: Tensor, targets: Tensor
    ) -> Tensor:
        products = _Products(rows, items, others, product_dtype(items))
        total, blocks = items.new_zeros(()), list(products.blocks())
        # The blocks share their memory: fresh memory takes time.
        n_rows = max((len(block.rows) for block in blocks), default=0)
        n_states = max((len(block.states) for block in blocks), default=0)
        memory = products.items.new_empty(n_rows * len(items))
        all_scores = items.new_empty(n_states, len(items))
        for block in blocks:
            scores = all_scores[: len(block.states)]
            parts, log_zs, n_rows = [], [], len(block.rows)
            for chunk in products.chunks(block):
                part = memory[n_rows * chunk.start : n_rows * chunk.stop].view(n_rows, -1)
                products.attend(block, chunk, part, scores[:, chunk])
                log_zs.append(scores[:, chunk].logsumexp(dim=1))
                parts.append((chunk, part))
            log_z, target = torch.stack(log_zs).logsumexp(dim=0), targets[block.states, None]
            total += (log_z - scores.gather(1, target)[:, 0]).sum()
            slopes = scores.sub_(log_z[:, None]).exp_()
            slopes.scatter_add_(1, target, slopes.new_full(target.shape, -1.0))
            for chunk, part in parts if any(ctx.needs_input_grad[:2]) else ():  # type: ignore[attr-defined]
                products.differentiate(block, chunk, part, slopes[:, chunk])
        ctx.gradients = (products.d_rows, products.d_items)  # type: ignore[attr-defined]
        return total

    @staticmethod
    def backward(ctx: _Context, upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_rows, d_items = ctx.gradients  # type: ignore[attr-defined]
        return d_rows * upstream, d_items * upstream, None, None


def _scores_of_own_items(rows: Tensor, items: Tensor, others: Tensor) -> Tensor:
    """Return float[B, C], the scores of float[B, C, D] items of each state."""
    items = torch.cat([items, items.new_ones(*items.shape[:2], 1)], dim=2)
    parts, states = (
        [items.new_empty(0, items.shape[1])],
        [torch.empty(0, dtype=torch.int64, device=rows.device)],
    )
    for block in _blocks(others, 2 * len(rows) + len(others), rows.device):
        for group in block.groups:
            which = block.states[group.states]
            vectors = rows[block.rows[group.rows]].view(2 * group.others + 1, len(which), -1)
            products = torch.einsum("kgd,gcd->kgc", vectors, items[which])
            base, logits, values = products.tensor_split([1, group.others + 1])
            weights = torch.cat([torch.zeros_like(base), logits]).softmax(dim=0)[1:]
            parts.append(base[0] + (weights * values).sum(dim=0))
            states.append(which)
    return torch.cat(parts)[torch.cat(states).argsort()]
