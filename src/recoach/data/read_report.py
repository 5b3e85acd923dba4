"""What was read from a log: rows, columns, times, and what was left out and why."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from recoach.errors import clipped, listed

SECONDS = "seconds"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ReadReport:
    """How a log was read.

    Attributes:
        source: the name of the file, or "frame".
        layout: what a file without a header was taken for; "" for other logs.
        rows: number of rows in the source.
        dropped: what a filter drops, such as "outside the 5-core" -> its number of rows.
        columns: Recoach's name of a column -> the source's.
        left_aside: the source's other columns -> why a column under a usual name is not used, ""
            where nothing is expected of the column.
        time_span: the first and the last time in milliseconds; None where file order is taken.
        time_format: how times are written where it is not obvious, such as "YYYYMMDD"; "seconds"
            for numbers too small for dates since 1973.
        event_types: the event types in their order.
        negative_types: those by which a user rejects an item.
        duplicates: rows that equal an earlier row in all columns read.
        ties: share of the rows whose user and time another row has too; None without times.
        notes: sentences about unusual values that were read nevertheless.
    """

    source: str
    rows: int
    columns: Mapping[str, str]
    layout: str = ""
    dropped: Mapping[str, int] = field(default_factory=dict)
    left_aside: Mapping[str, str] = field(default_factory=dict)
    time_span: tuple[int, int] | None = None
    time_format: str = ""
    event_types: tuple[str, ...] = ()
    negative_types: tuple[str, ...] = ()
    duplicates: int = 0
    ties: float | None = None
    notes: tuple[str, ...] = ()

    def line(self) -> str:
        """Return the report as one line of text."""
        parts = [f"{self.rows:,} rows read"]
        if self.layout:
            parts.append(f"taken for {self.layout}")
        else:
            names = [
                ours if ours == name else f"{ours}={name}" for ours, name in self.columns.items()
            ]
            parts.append(listed(names))
        parts += [f"{count:,} rows dropped: {reason}" for reason, count in self.dropped.items()]
        parts.append(self._times())
        if self.event_types:
            names = [
                listed([name]) + " (negative)" * (name in self.negative_types)
                for name in self.event_types
            ]
            parts.append(f"event types {' < '.join(names)}")
        parts += [reason for reason in self.left_aside.values() if reason]
        parts += self.notes
        return f"{self.source}: {'; '.join(clipped(part, 400) for part in parts)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as values that JSON has."""
        return {
            "source": self.source,
            "layout": self.layout,
            "rows": self.rows,
            "dropped": dict(self.dropped),
            "columns": dict(self.columns),
            "left_aside": dict(self.left_aside),
            "time_span": None if self.time_span is None else list(self.time_span),
            "time_format": self.time_format,
            "event_types": list(self.event_types),
            "negative_types": list(self.negative_types),
            "duplicates": self.duplicates,
            "ties": self.ties,
            "notes": list(self.notes),
        }

    def _times(self) -> str:
        if self.time_span is None:
            others = f" (other columns: {listed(self.left_aside)})" if self.left_aside else ""
            return f"no times: file order is taken{others}"
        first, last = self.time_span
        if self.time_format == SECONDS:
            return f"times {first / 1000:g} to {last / 1000:g}, taken for seconds since 1970"
        form = f" (written as {self.time_format})" if self.time_format else ""
        return f"{utc_day(first)} to {utc_day(last)}{form}"


def utc_day(milliseconds: int) -> date:
    """Return the UTC day of a time in milliseconds since 1970."""
    return (_EPOCH + timedelta(milliseconds=milliseconds)).date()
