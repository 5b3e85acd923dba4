"""Comparison of the lists of two models for the same user, as figures and as sentences."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries, user_queries
from recoach.evaluation.model_scores import model_scores
from recoach.evaluation.ranking import ranks_of_scores
from recoach.models.base import DotProductRecommender, Recommender, eval_mode
from recoach.serving.schemas import ComparedItem, ComparedList, Comparison
from recoach.serving.snapshot import ModelSnapshot, Recommendation, RecommendQuery

_MAX_HISTORY = 20
"""Number of last history items that are shown and compared with the recommended items."""


def compare_models(snapshot: ModelSnapshot, query: RecommendQuery) -> Comparison:
    """Return the lists of the first and the default model for one query, and their differences.

    A snapshot with one model gives one list and no sentences. Similar history items are given for
    a `DotProductRecommender` only, because they are found by item vectors.
    """
    names = list(dict.fromkeys((next(iter(snapshot.models)), snapshot.default_model)))
    lists = {name: snapshot.recommend(name, [query])[0] for name in names}
    queries = {name: _model_queries(snapshot.models[name], query) for name in names}
    sides = []
    for name in names:
        other = names[1 - names.index(name)] if len(names) > 1 else name
        other_ranks = _ranks(snapshot.models[other], queries[other], lists[name])
        similar_items = _most_similar(snapshot.models[name], queries[name], lists[name], query)
        sides.append(_compared_list(snapshot, name, lists[name], other_ranks, similar_items))
    history = [snapshot.titles[item] for item in query.history[-_MAX_HISTORY:]]
    words = _summarize(snapshot, [lists[name] for name in names]) if len(names) > 1 else []
    return Comparison(history=history, sides=sides, words=words)


def _model_queries(model: Recommender, query: RecommendQuery) -> Queries:
    """Return a query as the model reads it: one state."""
    past = RaggedArray(np.array([0, len(query.history)]), query.history)
    length = model.history_length or len(query.history)
    queries = user_queries(
        past, np.zeros(1, dtype=np.int64), length, model.n_items, mask_seen=query.exclude_seen
    )
    return replace(queries, users=torch.tensor([query.user])).to(model.device)


def _ranks(model: Recommender, queries: Queries, recommendation: Recommendation) -> list[int]:
    """Return the rank of each recommended item in a model's full ranking."""
    items = torch.from_numpy(recommendation.items).to(model.device)
    with eval_mode(model):
        scores = model_scores(model, queries)
        ranks = ranks_of_scores(scores, (torch.zeros_like(items), items), queries.seen)
    return [int(rank) for rank in ranks]


@torch.no_grad()
def _most_similar(
    model: Recommender, queries: Queries, recommendation: Recommendation, query: RecommendQuery
) -> list[int]:
    """Return for each recommended item the history item with the highest cosine; -1 for none.

    A model without item vectors gives -1 for all items.
    """
    if not isinstance(model, DotProductRecommender) or not len(query.history):
        return [-1] * len(recommendation.items)
    with eval_mode(model):
        item_vectors = model.embed(queries).items
    history = torch.from_numpy(query.history[-_MAX_HISTORY:].astype(np.int64)).to(model.device)
    recommended = torch.from_numpy(recommendation.items).to(model.device)
    cosine = (
        functional.normalize(item_vectors[recommended], dim=1)
        @ functional.normalize(item_vectors[history], dim=1).T
    )
    cosine = cosine.masked_fill(recommended[:, None] == history[None, :], -torch.inf)
    return [int(item) for item in history[cosine.argmax(dim=1)]]


def _compared_list(
    snapshot: ModelSnapshot,
    name: str,
    recommendation: Recommendation,
    other_ranks: Sequence[int],
    similar_items: Sequence[int],
) -> ComparedList:
    rows = zip(recommendation.items.tolist(), other_ranks, similar_items, strict=True)
    return ComparedList(
        model=name,
        items=[
            ComparedItem(
                rank=rank,
                item_id=snapshot.item_ids[item],
                title=snapshot.titles[item],
                other_rank=other_rank,
                taken=int(snapshot.item_counts[item]),
                because=snapshot.titles[similar] if similar >= 0 else "",
            )
            for rank, (item, other_rank, similar) in enumerate(rows, start=1)
        ],
    )


def _summarize(snapshot: ModelSnapshot, lists: Sequence[Recommendation]) -> list[str]:
    """Return sentences on the overlap of two lists and the popularity of the items that differ."""
    first, second = (set(recommendation.items.tolist()) for recommendation in lists)
    if not first or not second:
        return []
    common, added, removed = first & second, second - first, first - second
    if not added:
        same_order = lists[0].items.tolist() == lists[1].items.tolist()
        order = "the same order" if same_order else "a different order"
        return [f"Both lists contain the same items in {order}."]
    before, after = (
        float(np.median(snapshot.item_counts[list(items)])) for items in (removed or first, added)
    )
    comparison = "as" if before == after else ("less" if after < before else "more")
    conjunction = "as" if before == after else "than"
    reference = "the removed items" if removed else "the items of the first list"
    return [
        f"{len(common)} of {len(second)} items are in both lists.",
        f"The added items are {comparison} popular {conjunction} {reference}: "
        f"{after:,.0f} and {before:,.0f} interactions in the log (median).",
    ]
