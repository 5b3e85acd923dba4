"""What a server answers from: models, ids, histories and titles of one state of a run, frozen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from recoach.data.batches import histories
from recoach.data.interactions import IntArray, LongArray
from recoach.data.split import Dataset, RaggedArray
from recoach.errors import DataError
from recoach.models.base import Recommender
from recoach.serving.index import Index
from recoach.serving.recommend import Asked, known_items, ranked

BLOCK_SIZE = 8
"""States scored together: few ask at once, and a block is filled up. Who asks at the same time
moves a score by a rounding at most, when the model reads histories of several lengths."""


class RecommendQuery(NamedTuple):
    """One wish for a list, in the numbers of the dataset."""

    user: int
    """-1 for somebody the model has never met."""
    history: IntArray
    k: int
    exclude_seen: bool
    candidates: LongArray | None


class Recommendation(NamedTuple):
    """The answer to a wish: at most k items, best first."""

    items: LongArray
    scores: list[float]


@dataclass(frozen=True, slots=True, eq=False)
class ModelSnapshot:
    """Everything a server answers from; a change of the run makes another one."""

    dataset: Dataset
    models: Mapping[str, Recommender]
    """By stage; the last one is the one to serve."""
    titles: Sequence[str]
    """What to call each item."""
    version: str
    """Of the weights."""
    indexes: Mapping[str, Index] = field(default_factory=dict)
    """By stage; where there is one, lists from the whole catalogue are looked up in it."""
    past: RaggedArray = field(init=False)
    """Everything known of each user."""
    item_ids: Sequence[str] = field(init=False)
    """Of the dataset, as a list: quick to look up one by one."""
    users: Mapping[str, int] = field(init=False)
    items: Mapping[str, int] = field(init=False)
    taken: LongArray = field(init=False)
    """int64[n_items], how often each item was taken."""

    def __post_init__(self) -> None:
        past, item_ids = histories(self.dataset, "future"), self.dataset.item_ids.to_list()
        known = {
            "past": past,
            "item_ids": item_ids,
            "users": {name: row for row, name in enumerate(self.dataset.user_ids.to_list())},
            "items": {name: row for row, name in enumerate(item_ids)},
            "taken": np.bincount(past.values, minlength=self.dataset.n_items),
        }
        for name, value in known.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return (
            f"ModelSnapshot({', '.join(self.models)} on {self.dataset!r}, version {self.version})"
        )

    @property
    def served(self) -> str:
        """The model that answers where nobody says which."""
        return list(self.models)[-1]

    def ask(
        self,
        *,
        user: str | None,
        history: Sequence[str] | None,
        k: int,
        exclude_seen: bool,
        candidates: Sequence[str] | None,
    ) -> RecommendQuery:
        """Return a wish in the numbers of the dataset; either a user or a history is given.

        Raises:
            KeyError: the user is unknown.
            DataError: no item of the history, or no candidate, is in the catalogue.
        """
        if user is not None:
            number = self.users[user]
            taken = self.past.row(number)
        else:
            number, taken = -1, self._numbers(history or ())
        among = None if candidates is None else known_items(self.dataset, candidates)
        return RecommendQuery(number, taken, k, exclude_seen, among)

    def find_items(self, text: str, limit: int) -> list[int]:
        """Return the items whose title or id holds a text in any case, the most taken first."""
        names = pl.DataFrame({"id": self.item_ids, "title": self.titles})
        held = pl.any_horizontal(
            pl.col("id", "title").str.to_lowercase().str.contains(text.lower(), literal=True)
        )
        fits = np.flatnonzero(names.select(held).to_series().to_numpy())
        best = fits[np.argsort(-self.taken[fits], kind="stable")][:limit]
        return [int(item) for item in best]

    def find_users(self, text: str, limit: int) -> list[str]:
        """Return the first users whose id begins with a text."""
        ids = self.dataset.user_ids
        return ids.filter(ids.str.starts_with(text)).head(limit).to_list()

    def best(self, model: str, asks: Sequence[RecommendQuery]) -> list[Recommendation]:
        """Answer wishes by one model; those with the same candidates are answered together."""
        groups: dict[bytes | None, list[int]] = {}
        for place, ask in enumerate(asks):
            key = None if ask.candidates is None else ask.candidates.tobytes()
            groups.setdefault(key, []).append(place)
        answers: dict[int, Recommendation] = {}
        for places in groups.values():
            found = self._ranked(model, [asks[place] for place in places])
            answers |= zip(places, found, strict=True)
        return [answers[place] for place in range(len(asks))]

    def _ranked(self, model: str, asks: Sequence[RecommendQuery]) -> list[Recommendation]:
        lengths = [len(ask.history) for ask in asks]
        past = RaggedArray(
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.concatenate([ask.history for ask in asks]),
        )
        users = np.array([ask.user for ask in asks], dtype=np.int64)
        top = ranked(
            self.models[model],
            Asked(past, np.arange(len(asks)), users, np.array([ask.exclude_seen for ask in asks])),
            max(ask.k for ask in asks),
            asks[0].candidates,
            block_size=BLOCK_SIZE,
            index=self.indexes.get(model),
        )
        return [
            _cut(items, scores, ask.k)
            for items, scores, ask in zip(top.items.cpu(), top.scores.cpu(), asks, strict=True)
        ]

    def _numbers(self, history: Sequence[str]) -> IntArray:
        known = [self.items[item] for item in history if item in self.items]
        if not known:
            raise DataError(
                f"none of the {len(history)} items of the history is in the catalogue; check that "
                "the ids are those of the log"
            )
        return np.array(known, dtype=np.int32)


def _cut(items: torch.Tensor, scores: torch.Tensor, k: int) -> Recommendation:
    kept = items[:k] >= 0
    return Recommendation(items[:k][kept].numpy(), scores[:k][kept].tolist())
