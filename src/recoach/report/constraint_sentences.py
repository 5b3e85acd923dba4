"""Sentences about the constraints of a fine-tuning."""

from collections.abc import Mapping
from typing import Any, Final

_BOUNDS: Final = {
    "at_least": "at least",
    "at_most": "at most",
    "max_fall": "a fall of at most",
}


def constraint_sentences(results: Mapping[str, Any]) -> list[str]:
    """Return for each constraint its value on the test lists, and whether its bound is kept.

    Args:
        results: the content of results.json.
    """
    return [_sentence(row) for row in results.get("constraints", ())]


def _sentence(row: Mapping[str, Any]) -> str:
    tuned, base = row["models"]["tuned"], row["models"]["base"]
    (bound,) = (f"{words} {100 * row[name]:g} %" for name, words in _BOUNDS.items() if name in row)
    # Where every value of a column is bounded, the one that violates the bound most is named.
    is_any_member = "column" in row and "member" not in row
    group = f" ({tuned['group']})" if is_any_member else ""
    value, low, high = (f"{100 * tuned[name]:.1f}" for name in ("value", "low", "high"))
    return (
        f"Constraint {row['name']}, {bound}: {tuned['status']} on test with {value} %{group}, "
        f"95 % interval {low} to {high} % (base: {100 * base['value']:.1f} %)."
    )
