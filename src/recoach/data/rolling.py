"""Rolling windows: one log split by time at several moments, to evaluate over time."""

from recoach.data.dataset import Dataset
from recoach.data.interactions import Interactions
from recoach.data.ordered_log import order_log
from recoach.data.protocol import Rolling
from recoach.data.split import split_ordered_log


def rolling(
    interactions: Interactions, split: Rolling | None = None, name: str = ""
) -> list[Dataset]:
    """Return one dataset for each window of time, the earliest first.

    All have the users and items of the whole log, with the same numbers. Train and validation of a
    window are the events before it.

    Args:
        interactions: the log.
        split: the windows, and which of their events are targets.
        name: the name of the datasets.

    Raises:
        DataError: the log has no times, or a part of a window would be empty.
    """
    split = split or Rolling()
    log = order_log(interactions)
    return [split_ordered_log(log, window, name) for window in split.splits()]
