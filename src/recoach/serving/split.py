"""Deterministic assignment of users to the runs of an A/B test."""

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence

from recoach.errors import ConfigError


def keyed_hash(salt: str, text: str) -> str:
    """Return 32 hexadecimal digits that depend on a salt and a text (BLAKE2b with the salt as key).

    Without the salt nobody can find the text by trying.
    """
    key = hashlib.blake2b(salt.encode()).digest()
    return hashlib.blake2b(text.encode(), key=key, digest_size=16).hexdigest()


def history_hash(salt: str, history: Sequence[str]) -> str:
    """Return the salted hash of a history; histories with the same items in one order share it."""
    return keyed_hash(salt, "".join(f"{len(item)}:{item}" for item in history))


class Split:
    """Assigns each user to one arm, always the same, with given probabilities.

    Args:
        shares: arm -> its share of the users; the shares add up to 1.
        salt: another salt gives another, independent assignment.

    Raises:
        ConfigError: a share is negative or not a number, or the sum is not 1.
    """

    def __init__(self, shares: Mapping[str, float], salt: str) -> None:
        values = list(shares.values())
        if not values or not all(value >= 0 for value in values):
            raise ConfigError(f"--split must be shares of at least 0, not {_listed(values)}.")
        if not math.isclose(sum(values), 1, abs_tol=1e-6):
            raise ConfigError(
                f"--split {_listed(values)} adds up to {sum(values):g}. Shares must add up to 1."
            )
        self._arms = [arm for arm, share in shares.items() if share > 0]
        positive = [share for share in values if share > 0]
        self._upper_bounds = list(itertools.accumulate(positive))
        self._salt = salt

    def arm_of(self, user: str) -> str:
        """Return the arm of a user id, or of another text that stands for a user."""
        uniform = int(keyed_hash(self._salt, user)[:13], 16) / 16**13  # in [0, 1), 52 bits
        pairs = zip(self._arms, self._upper_bounds, strict=True)
        return next((arm for arm, bound in pairs if uniform < bound), self._arms[-1])


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
