"""Encode the histories of queries with a causal encoder, shared by all sequence models."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recoach.data.queries import Queries
from recoach.data.transfer import to_device
from recoach.models.sequence.event_types import EventEmbedding

_SHORTEST_GROUP = 8
_MAX_PADDING = 1.5
"""Padded positions per item above which rows are encoded in groups of similar length."""


def encode_queries(
    encoder: nn.Module,
    embedding: nn.Embedding,
    queries: Queries,
    events: EventEmbedding | None = None,
) -> Tensor:
    """Return the encoder state after the last item of each query.

    Rows of similar length are encoded together, so that one long history does not pad all others.

    Args:
        encoder: causal, called with float[R, T, D] vectors and int64[R] lengths; returns
            float[R, T, D].
        embedding: the item embedding, whole or sharded (`ShardedEmbedding`).
        queries: B states; a state with an empty history gets a zero vector.
        events: adds the vector of an item's event type to that of the item.

    Returns:
        float[B, D].
    """
    if queries.history.shape[1] == 0:
        return embedding.weight.new_zeros(len(queries), embedding.embedding_dim)
    offsets = torch.zeros_like(queries.lengths)  # of each row within the concatenated states
    parts, count = [], 0
    for rows, width in _length_groups(queries):
        vectors = embedding(queries.history[rows, :width])
        if events is not None:
            vectors = vectors + events(queries, rows, width)
        states = encoder(vectors, queries.lengths[rows])
        offsets[rows] = count + torch.arange(len(states), device=offsets.device) * width
        parts.append(states.flatten(0, 1))
        count += len(parts[-1])
    last_states = torch.cat(parts)[offsets[queries.rows] + (queries.ends - 1).clamp(min=0)]
    return last_states * (queries.ends > 0)[:, None]


class LengthGroups(NamedTuple):
    """Groups of rows that are encoded together; none stands for one group with all rows."""

    rows: tuple[Tensor, ...] = ()
    """int64[r], the rows of each group."""
    widths: tuple[int, ...] = ()
    """Positions that are encoded in each group."""

    def to(self, device: torch.device) -> "LengthGroups":
        """Return the same groups on a device."""
        return LengthGroups(tuple(to_device(rows, device) for rows in self.rows), self.widths)


def length_groups(queries: Queries) -> LengthGroups:
    """Return the groups to encode, on the host.

    One group with all rows if there is little padding, else one group per power of two of the
    length.
    """
    lengths, width = queries.on_host.lengths, queries.history.shape[1]
    if width <= _SHORTEST_GROUP or width * len(lengths) <= _MAX_PADDING * int(lengths.sum()):
        return LengthGroups()
    groups: dict[int, Tensor] = {}
    lower, upper = 0, _SHORTEST_GROUP
    while lower < width:
        rows = torch.nonzero((lengths > lower) & (lengths <= upper))[:, 0]
        if len(rows):
            groups[min(upper, width)] = rows
        lower, upper = upper, 2 * upper
    return LengthGroups(tuple(groups.values()), tuple(groups))


def with_length_groups(queries: Queries) -> Queries:
    """Return states with the groups in which their histories are encoded."""
    return replace(queries, prepared=length_groups(queries))


def _length_groups(queries: Queries) -> Iterator[tuple[slice | Tensor, int]]:
    """Yield (rows, width) of the groups to encode."""
    groups = queries.prepared
    if not isinstance(groups, LengthGroups):
        # A traced graph must not depend on the lengths.
        is_traced = torch.compiler.is_compiling()
        groups = LengthGroups() if is_traced else length_groups(queries).to(queries.rows.device)
    if not groups.rows:
        yield slice(None), queries.history.shape[1]
    yield from zip(groups.rows, groups.widths, strict=True)
