"""Why two models show the same user different lists, in figures and in words."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from recoach.data.batches import Queries, user_queries
from recoach.data.split import RaggedArray
from recoach.evaluation.ranking import target_ranks
from recoach.models.base import Embeddings, eval_mode
from recoach.serving.schemas import Compared, Comparison, Side
from recoach.serving.snapshot import ModelSnapshot, Recommendation, RecommendQuery

_SHOWN = 20
"""Last items of a history that are shown and searched for reasons."""


def explanation(shelf: ModelSnapshot, ask: RecommendQuery) -> Comparison:
    """Answer a wish by the first and the last model of a shelf and tell the lists apart.

    With one model only there is one list and nothing to tell.
    """
    names = list(dict.fromkeys((next(iter(shelf.models)), shelf.served)))
    lists = {name: shelf.best(name, [ask])[0] for name in names}
    vectors = {name: _embedded(shelf, name, ask) for name in names}
    sides = []
    for name in names:
        other = names[1 - names.index(name)] if len(names) > 1 else name
        ranks = _ranks(vectors[other], lists[name])
        because = _nearest(vectors[name][1].items, lists[name], ask)
        sides.append(_side(shelf, name, lists[name], ranks, because))
    shown = ask.history[-_SHOWN:]
    words = _words(shelf, [lists[name] for name in names]) if len(names) > 1 else []
    return Comparison(history=[shelf.titles[item] for item in shown], sides=sides, words=words)


@torch.no_grad()
def _embedded(shelf: ModelSnapshot, name: str, ask: RecommendQuery) -> tuple[Queries, Embeddings]:
    model = shelf.models[name]
    past = RaggedArray(np.array([0, len(ask.history)]), ask.history)
    length = model.history_length or len(ask.history)
    queries = user_queries(
        past, np.zeros(1, dtype=np.int64), length, model.n_items, mask_seen=ask.exclude_seen
    )
    queries = replace(queries, users=torch.tensor([ask.user])).to(model.device)
    with eval_mode(model):
        return queries, model.embed(queries)


def _ranks(asked: tuple[Queries, Embeddings], best: Recommendation) -> list[int]:
    queries, vectors = asked
    items = torch.from_numpy(best.items).to(vectors.items.device)
    ranks = target_ranks(
        vectors.users, vectors.items, (torch.zeros_like(items), items), queries.seen
    )
    return [int(rank) for rank in ranks]


def _nearest(items: Tensor, best: Recommendation, ask: RecommendQuery) -> list[int]:
    """Return, for each item of a list, the item of the history with the most similar vector."""
    past = torch.from_numpy(ask.history[-_SHOWN:].astype(np.int64)).to(items.device)
    listed = torch.from_numpy(best.items).to(items.device)
    alike = (
        torch.nn.functional.normalize(items[listed], dim=1)
        @ torch.nn.functional.normalize(items[past], dim=1).T
    )
    if not alike.shape[1]:
        return [-1] * len(listed)
    alike = alike.masked_fill(listed[:, None] == past[None, :], -torch.inf)
    return [int(item) for item in past[alike.argmax(dim=1)]]


def _side(
    shelf: ModelSnapshot,
    name: str,
    best: Recommendation,
    ranks: Sequence[int],
    because: Sequence[int],
) -> Side:
    rows = zip(best.items.tolist(), ranks, because, strict=True)
    return Side(
        model=name,
        items=[
            Compared(
                rank=place,
                item_id=shelf.item_ids[item],
                title=shelf.titles[item],
                other_rank=rank,
                taken=int(shelf.taken[item]),
                because=shelf.titles[near] if near >= 0 else "",
            )
            for place, (item, rank, near) in enumerate(rows, start=1)
        ],
    )


def _words(shelf: ModelSnapshot, lists: Sequence[Recommendation]) -> list[str]:
    base, tuned = (set(best.items.tolist()) for best in lists)
    if not base or not tuned:
        return []
    both, new = base & tuned, tuned - base
    if not new:
        same = lists[0].items.tolist() == lists[1].items.tolist()
        return ["Both show the same items" + (" in the same order." if same else ", reordered.")]
    told = [f"{len(both)} of {len(tuned)} items are in both lists."]
    gone = base - tuned
    before, after = (float(np.median(shelf.taken[list(part)])) for part in (gone or base, new))
    turn = "as often taken" if before == after else ("rarer" if after < before else "more popular")
    told.append(
        f"What came in is {turn}: taken {after:,.0f} times in the log (median), "
        f"what left {before:,.0f} times."
    )
    return told
