"""Warns where a policy gains by showing everybody the same items."""

import warnings
from typing import Final

from recoach.training.callbacks import Callback

COVERAGE_SHARE: Final = 0.2
"""Fraction of the first coverage below which the policy has collapsed."""


def coverage_alarm(row: dict[str, float], first: dict[str, float]) -> str:
    """Return a sentence where the coverage has collapsed, or "".

    Args:
        row: an evaluation, with `valid/return` and `valid/coverage`.
        first: the evaluation before training.
    """
    now, before = row["valid/coverage"], first["valid/coverage"]
    if now >= COVERAGE_SHARE * before:
        return ""
    change = "rose" if row["valid/return"] > first["valid/return"] else "did not rise"
    return (
        f"The return {change} ({first['valid/return']:.4g} to {row['valid/return']:.4g}) while the "
        f"share of the catalogue that is shown fell from {before:.3g} to {now:.3g}: the policy "
        "shows everybody the same few items. Compare the return without repetitions "
        "(valid/no_repeat_return), raise entropy_coef, or lower learning_rate."
    )


class CoverageMonitor(Callback):
    """Warns once of a collapsed coverage."""

    def __init__(self) -> None:
        self._first: dict[str, float] = {}
        self._has_warned = False

    def on_row(self, row: dict[str, float]) -> None:
        """Compare an evaluation with the first one."""
        self._first = self._first or dict(row)
        alarm = coverage_alarm(row, self._first)
        if alarm and not self._has_warned:
            self._has_warned = True
            warnings.warn(f"Step {row['step']:.0f}: {alarm}", stacklevel=2)
