"""Encode the histories of queries with a causal encoder, shared by all sequence models."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from recoach.data.queries import Queries
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


def _length_groups(queries: Queries) -> Iterator[tuple[slice | Tensor, int]]:
    """Yield (rows, width) of the groups to encode.

    One group with all rows if there is little padding, else one group per power of two of the
    length.
    """
    lengths, width = queries.lengths, queries.history.shape[1]
    if torch.compiler.is_compiling():  # a traced graph must not depend on the lengths
        yield slice(None), width
        return
    if width <= _SHORTEST_GROUP or width * len(lengths) <= _MAX_PADDING * int(lengths.sum()):
        yield slice(None), width
        return
    lower, upper = 0, _SHORTEST_GROUP
    while lower < width:
        rows = torch.nonzero((lengths > lower) & (lengths <= upper))[:, 0]
        if len(rows):
            yield rows, min(upper, width)
        lower, upper = upper, 2 * upper
