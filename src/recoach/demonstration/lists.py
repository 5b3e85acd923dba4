"""The lists of models and re-rankers of the demonstration: their metrics and their true value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from recoach.data.dataset import Dataset, RaggedArray
from recoach.data.queries import histories
from recoach.data.targets import Part
from recoach.experiments.list_values import ListMeasure, ListValues, States, states_of
from recoach.models.base import Recommender
from recoach.rerank.base import Reranker
from recoach.rerank.candidates import Candidates
from recoach.rerank.config import KNOBS, RerankConfig
from recoach.rerank.features import ItemFeatures
from recoach.rerank.registry import build_reranker
from recoach.serving.recommend import UserBatch, rank_items
from recoach.simulation.purchases import UserResponse

K: Final = 10
ACCURACY: Final = f"ndcg@{K}"
VALUE: Final = f"value@{K}"
"""What validation sees of the revenue: the prices of the held-out purchases that are in a list."""
REVENUE: Final = "true_revenue"
"""The true expected revenue of a list."""
DEPTH: Final = 100
"""Number of best items that re-rankers choose from."""
_N_KNOBS: Final = 8
_PARTS: Final[tuple[Part, ...]] = ("valid", "test")
_BLOCK_SIZE: Final = 256

Entry = dict[str, Any]
"""A setting: its knob, and its metrics on "valid" and on "test", beside which stand the true values
of the lists after the log: true_clicks, true_purchases, true_revenue, true_ndcg."""


@dataclass(frozen=True, slots=True)
class RankedUsers:
    """The candidates of one model, in the order of its scores."""

    model: Recommender
    parts: Mapping[Part, States]
    """For the states of validation and of test."""
    after: Candidates
    """For all users after the log, where the truth is known."""


class ListJudge:
    """Measures lists on validation, on test and by the truth.

    Args:
        dataset: the split log of the shop; users and items are numbered as in the shop.
        base: gives item vectors to re-rankers.
        response: how users respond.
    """

    def __init__(self, dataset: Dataset, base: Recommender, response: UserResponse) -> None:
        self.dataset, self.response = dataset, response
        self.features = ItemFeatures(dataset, base)
        self._measure = ListMeasure(dataset, self.features, ["ndcg", "value"])

    def rank(self, model: Recommender) -> RankedUsers:
        """Return the candidates of a model for all states."""
        parts = {
            part: states_of(model, self.dataset, (part, "new"), self.features, DEPTH)
            for part in _PARTS
        }
        past = histories(self.dataset, "all", model.reads)
        top = rank_items(model, _all_users(past), DEPTH, block_size=_BLOCK_SIZE)
        return RankedUsers(model, parts, Candidates(top.items.cpu(), top.scores.cpu()))

    def own(self, ranked: RankedUsers, knob: float = 0.0) -> Entry:
        """Return the metrics of a model's own lists."""
        lists = {
            part: states.candidates.top(K).items.numpy() for part, states in ranked.parts.items()
        }
        return self._entry(knob, ranked, lists, ranked.after.top(K).items.numpy())

    def reranked(self, ranked: RankedUsers, reranker: Reranker) -> Entry:
        """Return the metrics of re-ranked lists."""
        lists = {
            part: reranker(states.candidates, K).items.numpy()
            for part, states in ranked.parts.items()
        }
        after = reranker(ranked.after, K).items.numpy()
        return self._entry(reranker.config.knob, ranked, lists, after)

    def rerankers(self, ranked: RankedUsers, config: RerankConfig) -> list[Reranker]:
        """Return a re-ranker for each value of the knob, in units of the model's scores."""
        candidates = ranked.parts["valid"].candidates
        unit = build_reranker(config, self.features).unit(candidates, K)
        knobs = [value * unit for value in KNOBS[config.by].values[:_N_KNOBS]]
        configs = [config.model_copy(update={"knob": knob}) for knob in knobs]
        return [build_reranker(one, self.features) for one in configs]

    def _entry(
        self, knob: float, ranked: RankedUsers, lists: Mapping[Part, np.ndarray], after: np.ndarray
    ) -> Entry:
        values: dict[Part, ListValues] = {
            part: self._measure(lists[part], states) for part, states in ranked.parts.items()
        }
        users = np.arange(len(after))
        truth = self.response.expected(users, after)._asdict()
        truth["ndcg"] = self.response.expected_ndcg(users, after)
        test = values["test"].means()
        return {
            "knob": knob,
            "valid": values["valid"].means(),
            "test": test | {f"true_{name}": float(found.mean()) for name, found in truth.items()},
        }


def select(base: Entry, entries: Sequence[Entry], tolerance: float) -> Entry:
    """Return the entry of the highest value on validation whose accuracy there has fallen little.

    Where accuracy falls by more than the tolerance for all, it is the most accurate one.

    Args:
        base: the lists from which accuracy may fall.
        entries: to choose from.
        tolerance: relative fall.
    """
    kept = [entry for entry in entries if keeps(base, entry, tolerance)]
    if not kept:
        return max(entries, key=lambda entry: float(entry["valid"][ACCURACY]))
    return max(kept, key=lambda entry: float(entry["valid"][VALUE]))


def keeps(base: Entry, entry: Entry, tolerance: float) -> bool:
    """Return whether the accuracy of an entry on validation has fallen by at most the tolerance."""
    least = (1 - tolerance) * float(base["valid"][ACCURACY])
    return float(entry["valid"][ACCURACY]) >= least


def _all_users(past: RaggedArray) -> UserBatch:
    users = np.arange(len(past))
    return UserBatch(past, users, users, exclude_seen=True)
