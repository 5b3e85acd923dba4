"""What became of the rows of a file of new events."""

from collections.abc import Sequence
from dataclasses import dataclass

from recoach.errors import listed


@dataclass(frozen=True, slots=True)
class RowCounts:
    """What became of the rows of a file of new events."""

    rows: int
    """Rows of the file."""
    new: int
    """Rows that were added."""
    known: int
    """Rows that the log has already."""
    filtered: int
    """Rows that the filters of the run leave out: rated too low, repeated, or not later than the
    end of a log that was filtered."""
    late: int
    """Rows among the new ones that are earlier than the last event of their user."""
    new_users: int
    new_items: int
    missing_columns: Sequence[str] = ()
    """Optional columns of the log that the file has not; the added rows have no value in them."""
    unused_columns: Sequence[str] = ()
    """Optional columns of the file that the log has not; they are left out."""

    def line(self) -> str:
        """Return the counts as a sentence."""
        parts = [f"{self.new:,} new", f"{self.known:,} already in the log"]
        if self.filtered:
            parts.append(f"{self.filtered:,} left out by the filters of the run")
        line = f"{self.rows:,} rows: {', '.join(parts)}"
        line += f"; {self.new_users:,} new users, {self.new_items:,} new items"
        if self.late:
            line += f"; {self.late:,} of the new rows are earlier than the last event of their user"
        if self.missing_columns:
            line += f"; no values of {listed(self.missing_columns)}: missing in the new rows"
        if self.unused_columns:
            line += f"; {listed(self.unused_columns)} left out: the log of the run has no values"
        return f"{line}."
