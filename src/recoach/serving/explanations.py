"""Comparison of the lists of two models for the same user, as figures and as sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch.nn import functional

from recoach.data.interactions import IntArray, LongArray
from recoach.data.queries import Queries, join_pairs, seen_before, user_queries
from recoach.evaluation.model_scores import model_scores
from recoach.evaluation.ranking import ranks_of_scores
from recoach.models.base import DotProductRecommender, Recommender, eval_mode
from recoach.serving.schemas import ComparedItem, ComparedList, Comparison, HeldOutItem
from recoach.serving.snapshot import ModelSnapshot, Recommendation, RecommendQuery

_MAX_HISTORY = 20
"""Number of last history items that are shown and compared with the recommended items."""
_MAX_HELD_OUT = 20
NO_ITEMS: Final = np.empty(0, dtype=np.int32)


def hold_out(
    snapshot: ModelSnapshot, user: str, query: RecommendQuery
) -> tuple[RecommendQuery, IntArray]:
    """Return the query of a user of the log without the test items, and these items.

    The history is then what the evaluation on test reads: the training and validation items. Items
    that the user rejected later are not masked. At most the first 20 distinct items are returned.
    """
    row = snapshot.user_index[user]
    test_items = snapshot.dataset.test.row(row)
    history = query.history[: len(query.history) - len(test_items)]
    columns = {name: values.head(len(history)) for name, values in query.columns.items()}
    negatives, rejected = snapshot.dataset.negatives, query.rejected
    if negatives is not None:
        rows = slice(*negatives.offsets[row : row + 2])
        rejected = rejected[negatives.columns["after"][rows].to_numpy() <= len(history)]
    is_cold = query.user < 0 and not len(history)
    places = np.sort(np.unique(test_items, return_index=True)[1])[:_MAX_HELD_OUT]
    held_out = query._replace(history=history, columns=columns, rejected=rejected, is_cold=is_cold)
    return held_out, test_items[places]


def compare_models(
    snapshot: ModelSnapshot, query: RecommendQuery, held_out: IntArray = NO_ITEMS
) -> Comparison:
    """Return the lists of the first and the default model for one query, and their differences.

    A snapshot with one model gives one list and no sentences. Similar history items are given for
    a `DotProductRecommender` only, because they are found by item vectors.

    Args:
        snapshot: the models.
        query: a query that is not cold.
        held_out: items to look for in the lists, see `hold_out`.
    """
    names = list(dict.fromkeys((next(iter(snapshot.models)), snapshot.default_model)))
    lists = {name: snapshot.recommend(name, [query])[0] for name in names}
    queries = {name: _model_queries(snapshot.models[name], query) for name in names}
    sides = []
    for name in names:
        other = names[1 - names.index(name)] if len(names) > 1 else name
        other_ranks = _ranks(snapshot.models[other], queries[other], lists[name].items)
        similar_items = _most_similar(snapshot.models[name], queries[name], lists[name], query)
        results = (lists[name], other_ranks, similar_items)
        sides.append(_compared_list(snapshot, name, results, held_out))
    history = [snapshot.titles[item] for item in query.history[-_MAX_HISTORY:]]
    words = _summarize(snapshot, [lists[name] for name in names]) if len(names) > 1 else []
    return Comparison(
        history=history,
        sides=sides,
        words=words,
        held_out=_held_out_items(snapshot, query, held_out, queries),
    )


def _held_out_items(
    snapshot: ModelSnapshot,
    query: RecommendQuery,
    items: IntArray,
    queries: Mapping[str, Queries],
) -> list[HeldOutItem]:
    """Return the ranks of items by each model; none of an item that is masked."""
    masked = set(query.rejected.tolist())
    if query.exclude_seen:
        masked |= set(query.history.tolist())
    if not len(items):
        return []
    ranks = [_ranks(snapshot.models[name], queries[name], items) for name in queries]
    return [
        HeldOutItem(
            item_id=snapshot.item_ids[item],
            title=snapshot.titles[item],
            ranks=[] if item in masked else list(ranks_of_item),
        )
        for item, *ranks_of_item in zip(items.tolist(), *ranks, strict=True)
    ]


def _model_queries(model: Recommender, query: RecommendQuery) -> Queries:
    """Return a query as the model reads it: one state."""
    length, first = model.history_length or len(query.history), np.zeros(1, dtype=np.int64)
    queries = user_queries(query.past, first, length, model.n_items, mask_seen=query.exclude_seen)
    rejected = seen_before(query.rejected, np.array([0]), np.array([len(query.rejected)]))
    seen = rejected if queries.seen is None else join_pairs(queries.seen, rejected)
    return replace(queries, users=torch.tensor([query.user]), seen=seen).to(model.device)


def _ranks(model: Recommender, queries: Queries, ranked_items: IntArray | LongArray) -> list[int]:
    """Return the rank of each item in a model's full ranking."""
    items = torch.from_numpy(ranked_items.astype(np.int64)).to(model.device)
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
    results: tuple[Recommendation, Sequence[int], Sequence[int]],
    held_out: IntArray,
) -> ComparedList:
    """Return a list with the ranks in the other model and the most similar history items."""
    recommendation, other_ranks, similar_items = results
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
                held_out=item in held_out,
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
