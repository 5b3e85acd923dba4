"""The policy that `recoach serve` would have followed with another run or temperature."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from recoach.errors import DataError
from recoach.ope.log import OffPolicyLog
from recoach.ope.policies import Choices
from recoach.serving.exploration import ServedPolicy
from recoach.serving.snapshot import ModelSnapshot, Recommendation, RecommendQuery

Longs = npt.NDArray[np.int64]

_QUERIES = 256
"""Queries that are ranked in one call."""


class ServedRun:
    """A model of a run, served by top-k or with exploration, as a policy to be evaluated.

    The state of a row is its `user_id`, with the history that the run has of this user, or, where
    there is a column `history`, the list of item IDs in it (oldest first; instead of a list, text
    with spaces between the IDs). Seen items are excluded and the whole catalogue is ranked, which
    are the defaults of a request.

    Args:
        snapshot: models and histories of the run.
        policy: top-k or Plackett-Luce with a temperature.
        stage: "base", "tuned" or "control"; None for the default model of the run.

    Raises:
        DataError: the run has no such model.
    """

    def __init__(
        self, snapshot: ModelSnapshot, policy: ServedPolicy, stage: str | None = None
    ) -> None:
        self._snapshot, self._policy = snapshot, policy
        self._stage = stage or snapshot.default_model
        if self._stage not in snapshot.models:
            names = ", ".join(snapshot.models)
            raise DataError(f"The run has no {self._stage} model. Choose one of {names}.")
        self._log: OffPolicyLog | None = None
        self._rankings = Choices(np.empty((0, 0), dtype=np.int64), np.empty((0, 0)))
        self._state_of_row = np.empty(0, dtype=np.int64)

    @property
    def item_ids(self) -> pl.Series:
        """The items of the run."""
        return self._snapshot.dataset.item_ids

    def known(self, log: OffPolicyLog) -> npt.NDArray[np.bool_]:
        """Return bool[N], the rows whose user or history the run knows.

        The service answers others with the most popular items, whatever the model is.
        """
        states, state_of_row = self._states(log.states)
        is_known = np.array([not self._query(state, 1).is_cold for state in states])
        known: npt.NDArray[np.bool_] = is_known[state_of_row]
        return known

    def choices(self, log: OffPolicyLog, rows: Longs) -> Choices:
        """Return the distribution of the item at each row, given the items above it in its list.

        Raises:
            DataError: a user or history is unknown to the run, see `known`.
        """
        if self._log is not log:  # all states are ranked once
            self._rank(log)
            self._log = log
        state = self._state_of_row[rows]
        items, scores = self._rankings.items[state], self._rankings.probabilities[state]
        is_left = np.isfinite(scores)
        for above in range(1, int(log.positions.max()) if log.lists is not None else 1):
            has_above = log.positions[rows] > above
            shown = log.items[np.maximum(rows - above, 0)]
            is_left &= ~((items == shown[:, None]) & has_above[:, None])
        return Choices(items, self._policy.next_probabilities(scores, is_left))

    def _rank(self, log: OffPolicyLog) -> None:
        states, self._state_of_row = self._states(log.states)
        depth = 1 if log.lists is None else int(log.positions.max())
        queries = [self._query(state, depth) for state in states]
        unknown = [state for state, query in zip(states, queries, strict=True) if query.is_cold]
        if unknown:
            raise DataError(
                f"The run knows nothing of {unknown[0]!r} ({len(unknown):,} of {len(states):,} "
                "states are unknown). Leave out their rows: they get the most popular items."
            )
        ranked_queries = [self._policy.ranked_query(query) for query in queries]
        rankings: list[Recommendation] = []
        for start in range(0, len(queries), _QUERIES):
            part = ranked_queries[start : start + _QUERIES]
            rankings += self._snapshot.recommend(self._stage, part)
        self._rankings = _as_table(rankings, self._items_in(log))

    def _items_in(self, log: OffPolicyLog) -> Longs:
        """Return int64[n_items], the number of each item of the run in the log, or -1."""
        number_of = {item_id: number for number, item_id in enumerate(log.item_ids)}
        return np.array([number_of.get(item_id, -1) for item_id in self._snapshot.item_ids])

    def _states(self, table: pl.DataFrame) -> tuple[list[str | Sequence[str]], Longs]:
        """Return the different states and the state of each row."""
        name = "history" if "history" in table.columns else "user_id"
        if name not in table.columns or table[name].has_nulls():
            raise DataError(
                "user_id: some rows have no user. The log of the service has no histories: join "
                "them as a column `history`, or keep the rows with a user."
            )
        distinct = table.select(name).unique(maintain_order=True).with_row_index("state")
        states = table.join(distinct, on=name, how="left", maintain_order="left")["state"]
        values = distinct[name].to_list()
        if name == "history":
            values = [one.split() if isinstance(one, str) else one for one in values]
        else:
            values = [str(one) for one in values]
        return values, states.to_numpy().astype(np.int64)

    def _query(self, state: str | Sequence[str], depth: int) -> RecommendQuery:
        user, history = (state, None) if isinstance(state, str) else (None, state)
        return self._snapshot.build_query(
            user=user, history=history, k=depth, exclude_seen=True, candidates=None
        )


def _as_table(rankings: Sequence[Recommendation], item_of: Longs) -> Choices:
    """Return items int64[n, S] and scores float64[n, S], filled with item -1 and score -inf."""
    width = max(len(ranking.items) for ranking in rankings)
    items = np.full((len(rankings), width), -1, dtype=np.int64)
    scores = np.full((len(rankings), width), -np.inf)
    for row, ranking in enumerate(rankings):
        items[row, : len(ranking.items)] = item_of[ranking.items]
        scores[row, : len(ranking.items)] = ranking.scores
    return Choices(items, scores)
