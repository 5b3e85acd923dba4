"""Settings of data preparation."""

from typing import Literal

from pydantic import Field

from recoach.config import StrictConfig
from recoach.data.protocol import Auto, LogSplit
from recoach.data.readers.registry import Format


class PrepareConfig(StrictConfig):
    """How a log becomes a prepared dataset; filters run in the order of the fields."""

    min_rating: float | None = None
    """Keep only interactions rated this or better; needs a rating column."""

    dedup: Literal["none", "first", "last"] = "none"
    """Which interaction of a repeated (user, item) pair to keep; none keeps all."""

    k_core: int = Field(default=5, ge=0)
    """Every user and item keeps at least this many interactions; 0 switches the filter off."""

    split: LogSplit = Field(default_factory=Auto)
    """How the log is split: `auto` (by time where the log has times, else leave-last-out), `time`,
    `leave_last_out`, `ratio`, `users`, or a table with one of these as `kind` and its settings."""

    events: tuple[str, ...] = ()
    """Event types from the weakest to the strongest, such as ["view", "cart", "purchase"]; empty:
    the usual order of known names, others by first appearance."""

    negative_events: tuple[str, ...] = ()
    """Event types by which a user rejects an item, such as ["dislike", "skip", "return"]."""

    columns: dict[str, str] = Field(default_factory=dict)
    """Column names of Recoach (user_id, item_id, rating, timestamp) -> names in the file."""

    format: Format = "auto"
    """The file's format; auto recognises it by name and content."""

    header: list[str] = Field(default_factory=list)
    """Columns of a file without a header, in the file's order: Recoach's names, - for a column to
    skip. The command line sets it with --columns user_id,item_id,timestamp."""
