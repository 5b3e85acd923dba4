"""The candidates of states: the best items of a model, from which re-rankers choose."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recoach.data.dataset import Dataset, RaggedArray
from recoach.data.queries import Queries
from recoach.data.targets import Targets
from recoach.evaluation.evaluator import queries_of
from recoach.evaluation.model_scores import model_scores
from recoach.evaluation.ranking import BLOCK_SIZE, ScoreMatrix, TopItems, top_of_scores
from recoach.models.base import Recommender, check_ids, eval_mode

_STATES_AT_ONCE = 1024


class Candidates(NamedTuple):
    """M candidates of each of B states, on the CPU."""

    items: Tensor
    """int64[B, M], best first; -1 where a state has fewer than M items left."""
    scores: Tensor
    """float[B, M], the scores of the model; -inf where there is no item."""
    profiles: Tensor | None = None
    """float[B, C], distribution of categories in the history of each state, 0 without any; see
    `ItemFeatures.profiles`."""

    @property
    def is_item(self) -> Tensor:
        """bool[B, M], where there is a candidate."""
        return self.items >= 0

    @property
    def item_index(self) -> Tensor:
        """int64[B, M], the items, 0 where there is none: an index into tables of items."""
        return self.items.clamp(min=0)

    def rows(self, start: int, stop: int) -> "Candidates":
        """Return the states start..stop-1."""
        profiles = None if self.profiles is None else self.profiles[start:stop]
        return Candidates(self.items[start:stop], self.scores[start:stop], profiles)

    def top(self, k: int) -> TopItems:
        """Return the model's own lists."""
        return TopItems(self.items[:, :k], self.scores[:, :k])

    def relevance(self) -> Tensor:
        """Return float[B, M], the scores scaled to 0..1 over the candidates of each state.

        1 is the best candidate, 0 the worst; all are 0 if their scores are equal, and where there
        is no item. Without a common scale a weight would mean something else for each user.
        """
        highest = self.scores.max(dim=1, keepdim=True).values
        lowest = self.scores.masked_fill(~self.is_item, torch.inf).min(dim=1, keepdim=True).values
        scaled = (self.scores - lowest) / (highest - lowest).clamp(min=1e-12)
        return torch.where(self.is_item, scaled, 0.0)


@torch.no_grad()
def candidates_of(model: Recommender, dataset: Dataset, targets: Targets, depth: int) -> Candidates:
    """Return the best items of a model for each state of an evaluation, without profiles.

    Args:
        model: any recommender; in evaluation mode during the call, restored afterwards.
        dataset: the split log.
        targets: the states, see `targets_of`.
        depth: number M of candidates; at most the size of the catalogue.

    Raises:
        ModelError: the model was built for other users or items, or returns non-finite scores.
    """
    tops = [
        top_of_scores(matrix, depth, queries.seen)
        for _, queries, matrix in _scored(model, dataset, targets, _STATES_AT_ONCE)
    ]
    return Candidates(*(torch.cat(parts).cpu() for parts in zip(*tops, strict=True)))


@torch.no_grad()
def rescored(
    model: Recommender, dataset: Dataset, targets: Targets, candidates: Candidates
) -> Candidates:
    """Return the same candidates in the order of another model, with its scores.

    Args:
        model: the other model.
        dataset: the split log.
        targets: the states of the candidates.
        candidates: of the B states.

    Raises:
        ModelError: the model was built for other users or items, or returns non-finite scores.
    """
    parts = [
        matrix.block(0, BLOCK_SIZE)[: len(queries)].cpu().gather(1, candidates.item_index[places])
        for places, queries, matrix in _scored(model, dataset, targets, BLOCK_SIZE)
    ]
    scores = torch.cat(parts).masked_fill(~candidates.is_item, -torch.inf)
    order = scores.sort(dim=1, descending=True, stable=True)
    items = candidates.items.gather(1, order.indices)
    return Candidates(items, order.values, candidates.profiles)


def _scored(
    model: Recommender, dataset: Dataset, targets: Targets, count: int
) -> Iterator[tuple[slice, Queries, ScoreMatrix]]:
    """Yield the places, the queries and the scores of `count` states at a time."""
    check_ids(model, dataset)
    with eval_mode(model):
        for start in range(0, len(targets.users), count):
            places = slice(start, min(start + count, len(targets.users)))
            queries = queries_of(model, dataset, targets, np.arange(places.start, places.stop))
            yield places, queries, model_scores(model, queries, check_finite=True)


def state_histories(targets: Targets) -> RaggedArray:
    """Return the whole history of each state of an evaluation, without columns."""
    starts = targets.past.offsets[targets.users]
    index = np.repeat(starts - np.cumsum(targets.ends) + targets.ends, targets.ends)
    values = targets.past.values[index + np.arange(len(index))]
    return RaggedArray.from_lengths(targets.ends, values)
