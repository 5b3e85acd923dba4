"""V-SKNN as a plain Python loop over prefixes, sessions and items (Ludewig and Jannach 2018)."""

import math
from collections.abc import Sequence


class PlainVSKNN:
    """The formula of `recoach.models.neighbours.vsknn` with its default settings, in dictionaries.

    Args:
        sessions: items of each training session, the oldest session first.
        neighbours: most similar sessions whose items are scored.
        sample: most recent sessions with a common item that are compared.
        idf_weight: weight of the inverse document frequency of the scored item.
    """

    def __init__(
        self,
        sessions: Sequence[Sequence[int]],
        neighbours: int = 500,
        sample: int = 5000,
        idf_weight: float = 5.0,
    ) -> None:
        self.neighbours, self.sample = neighbours, sample
        self.sessions = [frozenset(session) for session in sessions]
        self.sessions_of: dict[int, list[int]] = {}
        for number, items in enumerate(self.sessions):
            for item in items:
                self.sessions_of.setdefault(item, []).append(number)
        self.factors = {
            item: 1 + idf_weight * math.log(len(sessions) / len(numbers))
            for item, numbers in self.sessions_of.items()
        }

    def scores(self, prefix: Sequence[int]) -> dict[int, float]:
        """Return the scores of the items of similar sessions; all other items have none."""
        length = len(prefix)
        places = {item: place for place, item in enumerate(prefix, start=1)}
        candidates = {number for item in places for number in self.sessions_of.get(item, ())}
        similar = []
        for number in sorted(candidates, reverse=True)[: self.sample]:
            common = [places[item] for item in places if item in self.sessions[number]]
            similarity = sum((place / length) ** 2 for place in common)
            similar.append((similarity, number, max(common)))
        similar.sort(reverse=True)  # of equal ones the more recent first
        scores: dict[int, float] = {}
        for similarity, number, last in similar[: self.neighbours]:
            weight = similarity / len(places) / (length - last + 1)
            for item in self.sessions[number]:
                scores[item] = scores.get(item, 0.0) + weight * self.factors[item]
        return scores

    def top(self, prefix: Sequence[int], k: int) -> list[int]:
        """Return the k items with the highest scores; of equal ones the lower number first."""
        scores = self.scores(prefix)
        return sorted(scores, key=lambda item: (-scores[item], item))[:k]
