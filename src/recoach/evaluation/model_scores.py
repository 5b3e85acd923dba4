"""The scores of any recommender as a matrix that the ranking kernels go through in blocks."""

import torch
from torch import Tensor

from recoach.data.queries import Queries
from recoach.errors import ModelError
from recoach.evaluation.ranking import DotProducts, ScoreMatrix
from recoach.models.base import DotProductRecommender, Recommender
from recoach.models.dense_softmax import catalogue_scores


def model_scores(
    model: Recommender,
    queries: Queries,
    items: Tensor | None = None,
    *,
    check_finite: bool = False,
) -> ScoreMatrix:
    """Return the scores of a model for the ranking kernels, which compute them in blocks.

    Vectors are computed at once and multiplied block by block; any other model is called for each
    block of states and chunk of items, as large as its `scores_at_once` allows.

    Args:
        model: any recommender, in evaluation mode from this call until the kernel returns.
        queries: B states, on the device of the model.
        items: int64[C] candidates, the columns of the matrix; None for the catalogue.
        check_finite: whether to look for NaN and infinity.

    Raises:
        ModelError: with `check_finite`, a vector or a score is not finite. Scores are checked when
            the kernel asks for them.
    """
    if not isinstance(model, DotProductRecommender):
        return _ScoredBlocks(model, queries, items, check_finite=check_finite)
    with torch.no_grad():
        users, table = model.embed(queries)
        # One non-finite element makes the sum non-finite: checked in one pass, without masks.
        if check_finite and not bool(torch.isfinite(users.sum() + table.sum())):
            raise _diverged(model, "vectors")
    return DotProducts(users, table if items is None else table[items])


class _ScoredBlocks:
    """The scores of a model that has no vectors, see `ScoreMatrix`."""

    def __init__(
        self, model: Recommender, queries: Queries, items: Tensor | None, *, check_finite: bool
    ) -> None:
        self._model, self._queries, self._items = model, queries, items
        self._check_finite = check_finite

    @property
    def shape(self) -> tuple[int, int]:
        """(B, I), or (B, C) for candidates."""
        n_items = self._model.n_items if self._items is None else len(self._items)
        return len(self._queries), n_items

    @property
    def device(self) -> torch.device:
        """The device of the states."""
        return self._queries.rows.device

    def block(self, start: int, rows: int) -> Tensor:
        """Return float[n, I], the scores of the states from `start` on, see `ScoreMatrix`."""
        which = slice(start, min(start + rows, len(self._queries)))
        scores = catalogue_scores(self._model, self._queries.select(which), self._items)
        if self._check_finite and not bool(torch.isfinite(scores.sum())):
            raise _diverged(self._model, "scores")
        return scores


def _diverged(model: Recommender, what: str) -> ModelError:
    return ModelError(
        f"{type(model).__name__} yields non-finite {what}: training has diverged. Lower the "
        "learning rate and restart from an earlier checkpoint."
    )
