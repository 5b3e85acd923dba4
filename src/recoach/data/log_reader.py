"""Read the columns of a table: convert, check every value, and collect what to report.

The first pass streams the file and converts its values; `final_columns` gives the columns their
final types. Only a bad value needs another pass, which finds its line.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

import polars as pl

from recoach.data.bad_values import BadValue, first_bad_value
from recoach.data.columns import ID_COLUMNS, find_columns, time_candidates
from recoach.data.event_types import MAX_DETECTED_TYPES, check_negative_events, ordered_types
from recoach.data.ids import find_notes, find_problem, find_repair, id_conversion
from recoach.data.optional_columns import NUMBER_COLUMNS, OPTIONAL_COLUMNS, conversion, reading
from recoach.data.read_report import SECONDS
from recoach.data.readers.table import Table, check_row_count
from recoach.data.time_column import choose_time_column
from recoach.data.time_units import TimeUnit, find_unit
from recoach.data.timestamps import Conversion, TimeReading, time_readings
from recoach.errors import DataError, clipped, listed

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)
_TIME_REMEDY = (
    "Write seconds, milliseconds or ISO dates, or pass --column timestamp= to take the file order."
)


class LogReader:
    """Reads one table; the attributes hold what was found so far.

    Args:
        table: the source.
        mapping: the columns that the user names; they are read or rejected. A detected column that
            cannot be read is left aside, except for times and ratings.
        events: the declared event types.
        negative_events: the event types that count as negative feedback.
        required: detected columns that are read or rejected, too.
    """

    def __init__(
        self,
        table: Table,
        mapping: Mapping[str, str],
        events: Sequence[str],
        negative_events: Sequence[str],
        required: Collection[str] = (),
    ) -> None:
        self._table, self._mapping = table, mapping
        self._required = {"rating", *mapping, *required}
        self._events, self._negative_events = tuple(events), tuple(negative_events)
        self.columns = find_columns(table, mapping)
        self.not_used: dict[str, str] = {}
        self.notes: list[str] = []
        self.event_types: tuple[str, ...] = ()
        self.negative_types: tuple[str, ...] = ()
        self._conversions: dict[str, Conversion] = {}
        self._marked: set[str] = set()
        self._time_reading: TimeReading | None = None
        self._unit: TimeUnit | None = None

    @property
    def time_format(self) -> str:
        """How times are written, see `ReadReport`."""
        if self._unit is None or self._time_reading is None:
            return ""
        if self._unit.from_values and not self._unit.digits and not self._unit.has_epoch:
            return SECONDS
        return self._unit.name or self._time_reading.name

    @property
    def is_finer_than_milliseconds(self) -> bool:
        """Whether different times can become the same millisecond."""
        return self._unit is not None and self._unit.finer_than_milliseconds

    def read(self, collect: Callable[[pl.LazyFrame], Frame]) -> Frame:
        """Return the converted rows; all their values but ids and event types are checked."""
        self._choose_times()
        self._check_used()
        self._find_conversions()
        readings = []
        if "timestamp" in self.columns:
            readings = time_readings(self._raw(), self._where("timestamp"))
        rows, bad_columns = self._convert(readings, collect)
        for column in ID_COLUMNS:
            if column in bad_columns:
                is_bad = self._conversions[column](pl.col(column)).is_null()
                self._reject(BadValue(column, is_bad, self._id_remedy(column)))
        for column in OPTIONAL_COLUMNS:
            if column in bad_columns:
                self._refuse_optional(column)
        if "timestamp" in bad_columns:
            is_bad = _is_no_time(self._conversions["timestamp"](pl.col("timestamp")))
            self._reject(BadValue("timestamp", is_bad, _TIME_REMEDY))
        if "timestamp" in self.columns:
            self._check_times(rows)
        return rows

    def check_ids(self, column: str, ids: pl.Series, counts: pl.Series) -> Conversion | None:
        """Check distinct ids and the number of their rows; return a repair that they need.

        DataError for the first bad id. After a repair the repaired ids have to be checked.
        """
        if column == "user_id" and ids.str.starts_with(self.columns[column]).any():
            self._reject_repeated_header()
        repair = find_repair(ids)
        if repair is not None:
            self.notes.append(f"{column}: {repair.note}")
            before = self._conversions[column]
            self._conversions[column] = lambda values: repair.convert(
                before(values).cast(pl.String)
            )
            return repair.convert
        problem = find_problem(ids, counts)
        if problem is not None:
            bad_ids = problem.ids.head(1000).implode()
            is_bad = self._conversions[column](pl.col(column)).cast(pl.String).is_in(bad_ids)
            remedy = problem.remedy or self._id_remedy(column)
            self._reject(BadValue(column, is_bad, remedy, problem.reason))
        if bool(ids.str.contains(r"^(?:-?\d|true$|false$|\[|\{)").any()):
            self._table.check_types(self.columns[column])
        self.notes += [f"{column}: {note}" for note in find_notes(ids)]
        return None

    def order_event_types(self, found: Sequence[str]) -> None:
        """Decide the order of the event types; `found` are those of the log by first appearance.

        DataError for an event that is not declared, or a negative one that does not occur.
        """
        if "event_type" not in self.columns:
            if self._events or self._negative_events:
                setting = "events" if self._events else "negative_events"
                raise DataError(
                    f"{self._table.label}: {setting} is set, but there is no column of event "
                    "types. Pass --column event_type=NAME."
                )
            return
        if len(found) > MAX_DETECTED_TYPES and "event_type" not in self._required:
            name = self.columns.pop("event_type")
            self.not_used[name] = f"{name} is not used: {len(found):,} values are no event types"
            return
        rejections = [n for n in found if n in self._negative_events and n not in self._events]
        declared = (*rejections, *self._events) if self._events else ()
        unknown = [name for name in found if name not in declared] if declared else []
        if unknown:
            value = self._conversions["event_type"](pl.col("event_type"))
            remedy = f"Add it to events, which lists {listed(self._events)}, or to negative_events."
            self._reject(BadValue("event_type", value == unknown[0], remedy))
        schema = self._table.frame.collect_schema()
        dtype = schema[self.columns["event_type"]]
        categories = dtype.categories.to_list() if isinstance(dtype, pl.Enum) else ()
        self.event_types = ordered_types(found, declared or categories)
        check_negative_events(self._negative_events, self.event_types)
        self.negative_types = tuple(n for n in self.event_types if n in self._negative_events)

    def final_columns(self) -> dict[str, pl.Expr]:
        """Return the columns of the log but the ids in their final types; see `log_columns`.

        They are expressions over the rows that `read` returns.
        """
        final: dict[str, pl.Expr] = {}
        if self._unit is not None and "timestamp" in self.columns:
            final["timestamp"] = self._unit.to_milliseconds(pl.col("timestamp"))
        for column in OPTIONAL_COLUMNS:
            if column in self.columns:
                final[column] = reading(column).finish(pl.col(column))
        if "event_type" in final:
            if self._negative_events:
                is_negative = pl.col("event_type").is_in(self._negative_events)
                final["negative"] = is_negative | final.get("negative", pl.lit(value=False))
            final["event_type"] = pl.col("event_type").cast(pl.Enum(self.event_types))
        return final

    def _raw(self) -> pl.LazyFrame:
        return self._table.frame.select(
            **{ours: pl.col(name) for ours, name in self.columns.items()}
        )

    def _where(self, column: str) -> str:
        return f"{self._table.label}: column {clipped(repr(self.columns[column]))}"

    def _choose_times(self) -> None:
        if "timestamp" in self._mapping or "timestamp" not in self.columns:
            return
        chosen = choose_time_column(self._table, time_candidates(self._table.names, self.columns))
        self.columns["timestamp"] = chosen.name
        self.not_used.update(chosen.left_aside)

    def _check_used(self) -> None:
        """Leave aside detected columns that the source does not give; DataError for others."""
        if self._unusable(list(self.columns.values())) is None:
            return
        for column, name in list(self.columns.items()):
            problem = self._unusable([name])
            if problem is not None and column in (*ID_COLUMNS, "timestamp"):
                raise DataError(problem)
            if problem is not None:
                self._leave_aside(column, problem)

    def _unusable(self, names: list[str]) -> str | None:
        """Return why the source cannot give these columns; None where it can."""
        try:
            self._table.check_used(names)
        except DataError as error:
            return str(error)
        return None

    def _find_conversions(self) -> None:
        """Find how to convert each column but the times; leave aside those of a type of no use."""
        schema = self._table.frame.collect_schema()
        for column, name in list(self.columns.items()):
            if column == "timestamp":
                continue
            dtype = schema[name]
            convert = id_conversion(dtype) if column in ID_COLUMNS else conversion(column, dtype)
            if convert is None and column in ID_COLUMNS:
                raise DataError(
                    f"{self._where(column)} holds {dtype}, which cannot be an id. Use text or "
                    "whole numbers."
                )
            if convert is None:
                self._leave_aside(column, f"{self._where(column)} holds {dtype}")
            else:
                self._conversions[column] = convert

    def _convert(
        self, readings: list[TimeReading], collect: Callable[[pl.LazyFrame], Frame]
    ) -> tuple[Frame, set[str]]:
        """Return the converted rows and the columns with bad values.

        Times are read in the first way that fits.
        """
        raw, ways = self._raw(), iter(readings)
        self._time_reading = next(ways, None)
        while True:
            if self._time_reading is not None:
                self._conversions["timestamp"] = self._time_reading.convert
            columns = {name: to(pl.col(name)) for name, to in self._conversions.items()}
            rows = collect(raw.select(**columns))
            counts = self._count_bad_values(rows)
            check_row_count(self._table, counts["rows"])
            if not counts["rows"]:
                raise DataError(
                    f"{self._table.label}: there is a header but no interactions. Add at least "
                    "one row."
                )
            bad_columns = {name for name, count in counts.items() if count} - {"rows"}
            way = next(ways, None) if "timestamp" in bad_columns else None
            if not self._read_markers(bad_columns) and way is None:
                return rows, bad_columns
            self._time_reading = way or self._time_reading

    def _read_markers(self, bad_columns: set[str]) -> bool:
        """Read bad numbers as missing where they mark this; return whether that is new."""
        new = [name for name in bad_columns if name in NUMBER_COLUMNS and name not in self._marked]
        schema = self._table.frame.collect_schema()
        for column in new:
            convert = conversion(column, schema[self.columns[column]], markers=True)
            if convert is not None:
                self._conversions[column] = convert
        self._marked.update(new)
        return bool(new)

    def _count_bad_values(self, rows: Frame) -> dict[str, int]:
        checks = {"rows": pl.len()}
        for name in rows.lazy().collect_schema().names():
            value = pl.col(name)
            if name in ID_COLUMNS:
                is_bad = value.is_null()
            else:
                is_bad = _is_no_time(value) if name == "timestamp" else reading(name).is_bad(value)
            checks[name] = is_bad.sum()
        return rows.lazy().select(**checks).collect(engine="streaming").row(0, named=True)

    def _check_times(self, rows: Frame) -> None:
        """Find the unit of the times; DataError for a time in another unit or form."""
        if self._time_reading is None:
            return
        self._check_zones(self._time_reading.has_zone)
        self._unit = find_unit(
            rows.lazy().select("timestamp"), self._time_reading.unit, self._where("timestamp")
        )
        problems = self._unit.problems(pl.col("timestamp"))
        found = rows.lazy().select(**{reason: bad.any() for reason, bad in problems.items()})
        occurs = found.collect(engine="streaming").row(0, named=True)
        value = self._conversions["timestamp"](pl.col("timestamp"))
        for reason, is_bad in self._unit.problems(value).items():
            if occurs[reason]:
                self._reject(BadValue("timestamp", is_bad, _TIME_REMEDY, reason))

    def _check_zones(self, has_zone: Conversion | None) -> None:
        if has_zone is None:
            return
        is_zoned = has_zone(pl.col("timestamp"))
        share = self._raw().select(is_zoned.mean()).collect(engine="streaming").item()
        if 0 < share < 1:
            minority = is_zoned if share < 0.5 else ~is_zoned
            reason = "with" if share < 0.5 else "without"
            reason = f", {reason} a time zone, unlike most times"
            remedy = "Write all times with a zone (2022-04-21T15:30:00Z), or none."
            self._reject(BadValue("timestamp", minority, remedy, reason))

    def _reject_repeated_header(self) -> None:
        """Raise a DataError for a row whose ids are the names of their columns, as in joined files.

        Names may have RecBole's types (`user_id:token`).
        """
        names = [
            pl.col(column).cast(pl.String).str.strip_chars().str.replace(r":[a-z_]+$", "")
            == self.columns[column]
            for column in ID_COLUMNS
        ]
        reason = ", the name of the column: the header is repeated"
        remedy = "Remove the line."
        self._reject(BadValue("user_id", pl.all_horizontal(names), remedy, reason))

    def _refuse_optional(self, column: str) -> None:
        is_bad = reading(column).is_bad(self._conversions[column](pl.col(column)))
        remedy = f"{reading(column).remedy}, or pass --column {column}= to leave the column out."
        message = first_bad_value(self._table, self.columns, BadValue(column, is_bad, remedy))
        if message is not None:
            self._leave_aside(column, message)

    def _id_remedy(self, column: str) -> str:
        session = self.columns.get("session_id")
        if column == "user_id" and session is not None:
            return f"Write an id, or pass --column user_id={session} to take sessions for users."
        return "Write an id, text or a whole number."

    def _leave_aside(self, column: str, problem: str) -> None:
        """Leave out a detected column; DataError for a column that is mapped or that matters."""
        if column in self._required:
            if "--column" not in problem:
                problem += f". Pass --column {column}= to leave the column out."
            raise DataError(problem)
        name = self.columns.pop(column)
        self._conversions.pop(column, None)
        place = problem.removesuffix(".").split(". ")[0].removeprefix(f"{self._table.label}: ")
        self.not_used[name] = f"{name} is not used as {column} ({place})"

    def _reject(self, bad: BadValue) -> None:
        message = first_bad_value(self._table, self.columns, bad)
        if message is not None:
            raise DataError(message)


def _is_no_time(value: pl.Expr) -> pl.Expr:
    return value.is_null() | value.cast(pl.Float64).is_infinite() | value.cast(pl.Float64).is_nan()
