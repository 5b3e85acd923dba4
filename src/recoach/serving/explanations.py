"""Comparison of the lists of two models for the same user, as figures and as sentences."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from recoach.data.batches import Queries, user_queries
from recoach.data.split import RaggedArray
from recoach.evaluation.ranking import target_ranks
from recoach.models.base import DotProductRecommender, Embeddings, eval_mode
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
    embedded = {name: _embed(snapshot, name, query) for name in names}
    sides = []
    for name in names:
        other = names[1 - names.index(name)] if len(names) > 1 else name
        other_ranks = _ranks(embedded[other], lists[name])
        similar_items = [-1] * len(lists[name].items)
        if isinstance(snapshot.models[name], DotProductRecommender):
            similar_items = _most_similar(embedded[name][1].items, lists[name], query)
        sides.append(_compared_list(snapshot, name, lists[name], other_ranks, similar_items))
    history = [snapshot.titles[item] for item in query.history[-_MAX_HISTORY:]]
    words = _summarize(snapshot, [lists[name] for name in names]) if len(names) > 1 else []
    return Comparison(history=history, sides=sides, words=words)


@torch.no_grad()
def _embed(snapshot: ModelSnapshot, name: str, query: RecommendQuery) -> tuple[Queries, Embeddings]:
    """Return the query as the model reads it, and vectors whose dot products are its scores."""
    model = snapshot.models[name]
    past = RaggedArray(np.array([0, len(query.history)]), query.history)
    length = model.history_length or len(query.history)
    queries = user_queries(
        past, np.zeros(1, dtype=np.int64), length, model.n_items, mask_seen=query.exclude_seen
    )
    queries = replace(queries, users=torch.tensor([query.user])).to(model.device)
    with eval_mode(model):
        if isinstance(model, DotProductRecommender):
            return queries, model.embed(queries)
        scores = model.score(queries)
        return queries, Embeddings(users=scores.new_ones(1, 1), items=scores.T)


def _ranks(embedded: tuple[Queries, Embeddings], recommendation: Recommendation) -> list[int]:
    """Return the rank of each recommended item in a model's full ranking."""
    queries, vectors = embedded
    items = torch.from_numpy(recommendation.items).to(vectors.items.device)
    ranks = target_ranks(
        vectors.users, vectors.items, (torch.zeros_like(items), items), queries.seen
    )
    return [int(rank) for rank in ranks]


def _most_similar(
    item_vectors: Tensor, recommendation: Recommendation, query: RecommendQuery
) -> list[int]:
    """Return for each recommended item the history item with the highest cosine; -1 for none."""
    history = torch.from_numpy(query.history[-_MAX_HISTORY:].astype(np.int64))
    history = history.to(item_vectors.device)
    recommended = torch.from_numpy(recommendation.items).to(item_vectors.device)
    cosine = (
        torch.nn.functional.normalize(item_vectors[recommended], dim=1)
        @ torch.nn.functional.normalize(item_vectors[history], dim=1).T
    )
    if not cosine.shape[1]:
        return [-1] * len(recommended)
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
