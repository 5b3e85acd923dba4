"""Simulated shops: a synthetic interaction log, a Gymnasium environment and bandits."""

import warnings


def warn_renamed(old: str, new: str) -> None:
    """Warn the caller of the calling function that a name has changed."""
    warnings.warn(
        f"{old} is now called {new}; the old name will be removed.",
        DeprecationWarning,
        stacklevel=3,
    )
