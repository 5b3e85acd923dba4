"""Triton kernels of the catalogue softmax: no matrix of states × items is ever written.

A program keeps a tile of states (or of items) and goes through tiles of the other side. It computes
their scores in registers, uses them and drops them; each kernel computes the scores anew. A sweep
may be divided among programs: each writes a partial result, and the caller adds them up. Nothing is
added atomically, so that results are the same in every run.

With B states, I items, D dimensions, E bytes for an element of the vectors, tiles of M states × N
items and S programs to a sweep, in units of B·I·D multiply-adds:

| kernel | products | bytes read (most of it from the L2 cache) and written |
|---|---:|---|
| `log_normaliser` | 1 | E·D·(B + I·B/M), 4·B·S |
| `mean` | 1, of a log-ratio 2 | the same, for a log-ratio twice |
| `state_gradient` | 2, of a log-ratio 3 | the same and 4·B·D·S |
| `item_gradient` | 2, of a log-ratio 3 | E·D·(I + B·I/N), 4·I·D·S |
| `pair_scores` | D per pair | 2·E·D per pair, 4 per pair |

A step of cross-entropy has 5 products instead of the 3 of a softmax that keeps its logits, and
none of their 4·B·I bytes and more. Each kernel except the last computes B·I exponentials and reads
B·I/8 bytes of `mask`, if there is one.

Arguments that kernels share:
    states, items: [B, dim] and [I, dim], contiguous, bfloat16 or float32.
    bias: float32[I] added to the scores, or None.
    mask: int32[B, ceil(I / 32)], a bit for each item that is masked for a state, or None.
    row_values: float32[4, B]: log Z, the other policy's log Z, offset, weight.
    item_values: float32[I], the value that a mean is of, or None.
    other_states, other_items: the vectors of the other policy of a log-ratio, or None.
    of_log_p: whether the value that a mean is of is log p.
    per_split: items (or states) of each part of a sweep, a multiple of the tile.
    padded_dim: `dim` rounded up to a power of two, 16 or more.
    upcast: whether products convert to float32 first: the interpreter takes bfloat16 for integers.
"""

import triton
import triton.language as tl


@triton.jit
def _vectors(matrix, rows, n_rows, dim: tl.constexpr, padded_dim: tl.constexpr):
    columns = tl.arange(0, padded_dim)
    inside = (rows < n_rows)[:, None] & (columns < dim)[None, :]
    places = rows.to(tl.int64)[:, None] * dim + columns[None, :]
    return tl.load(matrix + places, mask=inside, other=0.0)


@triton.jit
def _product(left, right, upcast: tl.constexpr):
    if upcast:
        left, right = left.to(tl.float32), right.to(tl.float32)
    # Three products in TensorFloat32, an error of 2^-21; "ieee" has no tensor cores and spills.
    return tl.dot(left, right, input_precision="tf32x3")


@triton.jit
def _scores(
    state_vectors,
    item_vectors,
    rows,
    columns,
    bias,
    mask,
    n_states,
    n_items,
    upcast: tl.constexpr,
):
    """Return a tile of scores, -inf for masked items and beyond the catalogue."""
    scores = _product(state_vectors, tl.trans(item_vectors), upcast)
    shown = (columns < n_items)[None, :]
    if bias is not None:
        scores += tl.load(bias + columns, mask=columns < n_items, other=0.0)[None, :]
    if mask is not None:
        places = rows.to(tl.int64)[:, None] * tl.cdiv(n_items, 32) + (columns // 32)[None, :]
        words = tl.load(mask + places, mask=(rows < n_states)[:, None] & shown, other=0)
        shown = shown & (((words >> (columns % 32)[None, :]) & 1) == 0)
    return tl.where(shown, scores, -float("inf"))


@triton.jit
def _terms(
    state_vectors,
    item_vectors,
    rows,
    columns,
    bias,
    mask,
    row_values,
    item_values,
    other_states,
    other_items,
    n_states,
    n_items,
    of_log_p: tl.constexpr,
    dim: tl.constexpr,
    padded_dim: tl.constexpr,
    upcast: tl.constexpr,
):
    """Return a tile of p (offset + weight · value), 0 where p is 0.

    The value is log p, that of the item, log p - log q, or nothing.
    """
    inside = rows < n_states
    scores = _scores(
        state_vectors, item_vectors, rows, columns, bias, mask, n_states, n_items, upcast
    )
    log_p = scores - tl.load(row_values + rows, mask=inside, other=0.0)[:, None]
    p = tl.exp(log_p)
    # Where p is 0 a logarithm may be -inf: 0 times 0, and not 0 times -inf, which is no number.
    log_p = tl.where(p > 0, log_p, 0.0)
    factor = tl.load(row_values + 2 * n_states + rows, mask=inside, other=0.0)[:, None]
    weight = tl.load(row_values + 3 * n_states + rows, mask=inside, other=0.0)[:, None]
    if of_log_p:
        factor += weight * log_p
    if item_values is not None:
        factor += weight * tl.load(item_values + columns, mask=columns < n_items, other=0.0)[None]
    if other_states is not None:
        other_scores = _scores(
            _vectors(other_states, rows, n_states, dim, padded_dim),
            _vectors(other_items, columns, n_items, dim, padded_dim),
            rows,
            columns,
            bias,
            mask,
            n_states,
            n_items,
            upcast,
        )
        log_z = tl.load(row_values + n_states + rows, mask=inside, other=0.0)[:, None]
        factor += weight * (log_p - tl.where(p > 0, other_scores - log_z, 0.0))
    return p * factor


@triton.jit
def log_normaliser(
    states,
    items,
    bias,
    mask,
    out,
    n_states,
    n_items,
    per_split,
    dim: tl.constexpr,
    padded_dim: tl.constexpr,
    tile_states: tl.constexpr,
    tile_items: tl.constexpr,
    upcast: tl.constexpr,
):
    """Write log of the sum of exp(score) of each state over a part of the items (online softmax).

    Args:
        out: float32[splits, B]; -inf where every item of the part is masked.
    """
    rows = tl.program_id(0) * tile_states + tl.arange(0, tile_states)
    state_vectors = _vectors(states, rows, n_states, dim, padded_dim)
    largest = tl.full([tile_states], -float("inf"), tl.float32)
    total = tl.zeros([tile_states], tl.float32)
    first = tl.program_id(1) * per_split
    for start in range(first, tl.minimum(first + per_split, n_items), tile_items):
        columns = start + tl.arange(0, tile_items)
        item_vectors = _vectors(items, columns, n_items, dim, padded_dim)
        scores = _scores(
            state_vectors, item_vectors, rows, columns, bias, mask, n_states, n_items, upcast
        )
        new_largest = tl.maximum(largest, tl.max(scores, 1))
        shift = tl.where(new_largest == -float("inf"), 0.0, new_largest)
        total = total * tl.exp(largest - shift) + tl.sum(tl.exp(scores - shift[:, None]), 1)
        largest = new_largest
    # The largest term is 1, or nothing is shown and the largest score is -inf.
    log_z = largest + tl.log(tl.maximum(total, 1.0))
    tl.store(out + tl.program_id(1) * n_states + rows, log_z, mask=rows < n_states)


@triton.jit
def mean(
    states,
    items,
    bias,
    mask,
    row_values,
    item_values,
    other_states,
    other_items,
    out,
    n_states,
    n_items,
    per_split,
    of_log_p: tl.constexpr,
    dim: tl.constexpr,
    padded_dim: tl.constexpr,
    tile_states: tl.constexpr,
    tile_items: tl.constexpr,
    upcast: tl.constexpr,
):
    """Write the sum of p (offset + weight · value) of each state over a part of the items.

    Args:
        out: float32[splits, B].
    """
    rows = tl.program_id(0) * tile_states + tl.arange(0, tile_states)
    state_vectors = _vectors(states, rows, n_states, dim, padded_dim)
    total = tl.zeros([tile_states], tl.float32)
    first = tl.program_id(1) * per_split
    for start in range(first, tl.minimum(first + per_split, n_items), tile_items):
        columns = start + tl.arange(0, tile_items)
        terms = _terms(
            state_vectors,
            _vectors(items, columns, n_items, dim, padded_dim),
            rows,
            columns,
            bias,
            mask,
            row_values,
            item_values,
            other_states,
            other_items,
            n_states,
            n_items,
            of_log_p,
            dim,
            padded_dim,
            upcast,
        )
        total += tl.sum(terms, 1)
    tl.store(out + tl.program_id(1) * n_states + rows, total, mask=rows < n_states)


@triton.jit
def state_gradient(
    states,
    items,
    bias,
    mask,
    row_values,
    item_values,
    other_states,
    other_items,
    out,
    n_states,
    n_items,
    per_split,
    of_log_p: tl.constexpr,
    dim: tl.constexpr,
    padded_dim: tl.constexpr,
    tile_states: tl.constexpr,
    tile_items: tl.constexpr,
    upcast: tl.constexpr,
):
    """Write the sum of p (offset + weight · value) times the item's vector, for each state.

    Args:
        out: float32[splits, B, dim], each over a part of the items.
    """
    rows = tl.program_id(0) * tile_states + tl.arange(0, tile_states)
    state_vectors = _vectors(states, rows, n_states, dim, padded_dim)
    total = tl.zeros([tile_states, padded_dim], tl.float32)
    first = tl.program_id(1) * per_split
    for start in range(first, tl.minimum(first + per_split, n_items), tile_items):
        columns = start + tl.arange(0, tile_items)
        item_vectors = _vectors(items, columns, n_items, dim, padded_dim)
        terms = _terms(
            state_vectors,
            item_vectors,
            rows,
            columns,
            bias,
            mask,
            row_values,
            item_values,
            other_states,
            other_items,
            n_states,
            n_items,
            of_log_p,
            dim,
            padded_dim,
            upcast,
        )
        total += _product(terms.to(item_vectors.dtype), item_vectors, upcast)
    dims = tl.arange(0, padded_dim)
    places = (tl.program_id(1) * n_states + rows).to(tl.int64)[:, None] * dim + dims[None, :]
    tl.store(out + places, total, mask=(rows < n_states)[:, None] & (dims < dim)[None, :])


@triton.jit
def item_gradient(
    states,
    items,
    bias,
    mask,
    row_values,
    item_values,
    other_states,
    other_items,
    out,
    n_states,
    n_items,
    per_split,
    add_to_out: tl.constexpr,
    of_log_p: tl.constexpr,
    dim: tl.constexpr,
    padded_dim: tl.constexpr,
    tile_states: tl.constexpr,
    tile_items: tl.constexpr,
    upcast: tl.constexpr,
):
    """Write the sum of p (offset + weight · value) times the state's vector, for each item.

    Args:
        out: float32[splits, I, dim], each over a part of the states.
        add_to_out: whether to add to what is there.
    """
    columns = tl.program_id(0) * tile_items + tl.arange(0, tile_items)
    item_vectors = _vectors(items, columns, n_items, dim, padded_dim)
    total = tl.zeros([tile_items, padded_dim], tl.float32)
    first = tl.program_id(1) * per_split
    for start in range(first, tl.minimum(first + per_split, n_states), tile_states):
        rows = start + tl.arange(0, tile_states)
        state_vectors = _vectors(states, rows, n_states, dim, padded_dim)
        terms = _terms(
            state_vectors,
            item_vectors,
            rows,
            columns,
            bias,
            mask,
            row_values,
            item_values,
            other_states,
            other_items,
            n_states,
            n_items,
            of_log_p,
            dim,
            padded_dim,
            upcast,
        )
        total += _product(tl.trans(terms.to(state_vectors.dtype)), state_vectors, upcast)
    dims = tl.arange(0, padded_dim)
    places = (tl.program_id(1) * n_items + columns).to(tl.int64)[:, None] * dim + dims[None, :]
    inside = (columns < n_items)[:, None] & (dims < dim)[None, :]
    if add_to_out:
        total += tl.load(out + places, mask=inside, other=0.0)
    tl.store(out + places, total, mask=inside)


@triton.jit
def pair_scores(
    states,
    items,
    bias,
    mask,
    pair_states,
    pair_items,
    out,
    n_pairs,
    n_items,
    dim: tl.constexpr,
    padded_dim: tl.constexpr,
    tile: tl.constexpr,
):
    """Write the scores of pairs, -inf for masked ones.

    Args:
        pair_states, pair_items: int64[n].
        out: float32[n].
    """
    pairs = tl.program_id(0) * tile + tl.arange(0, tile)
    inside = pairs < n_pairs
    rows = tl.load(pair_states + pairs, mask=inside, other=0)
    columns = tl.load(pair_items + pairs, mask=inside, other=0)
    dims = tl.arange(0, padded_dim)
    loaded = inside[:, None] & (dims < dim)[None, :]
    left = tl.load(states + rows[:, None] * dim + dims[None, :], mask=loaded, other=0.0)
    right = tl.load(items + columns[:, None] * dim + dims[None, :], mask=loaded, other=0.0)
    scores = tl.sum(left.to(tl.float32) * right.to(tl.float32), 1)
    if bias is not None:
        scores += tl.load(bias + columns, mask=inside, other=0.0)
    if mask is not None:
        words = tl.load(mask + rows * tl.cdiv(n_items, 32) + columns // 32, mask=inside, other=0)
        is_masked = ((words >> (columns % 32).to(tl.int32)) & 1) == 1
        scores = tl.where(is_masked, -float("inf"), scores)
    tl.store(out + pairs, scores, mask=inside)
