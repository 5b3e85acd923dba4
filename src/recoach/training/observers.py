"""The former place of `recoach.training.callbacks`; its names give a DeprecationWarning."""

from recoach.training import callbacks


def __getattr__(name: str) -> object:
    """Return the callback class with this former name."""
    return getattr(callbacks, name)
