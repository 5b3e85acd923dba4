"""Check and repair the ids of users and items: missing markers, blanks, numbers, structures.

The checks look at the distinct ids and how often each occurs, not at all rows.
"""

import json
from dataclasses import dataclass

import polars as pl

from recoach.data.timestamps import Conversion

MISSING_MARKERS = (
    *("na", "n/a", "<na>", "#n/a", "nan", "null", "none", "nil", "nat", "\\n", "(null)"),
    *("(not set)", "undefined", "#na", "#n/a n/a", "#null!", "#value!", "-nan", "<null>", "[null]"),
    *("1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan", "?", "-", "--"),
)
"""Text in lower case that other programs write where there is no value."""
_MAX_EXACT_FLOAT = 2**53
_MARKER_SHARE = 1e-3
"""A marker among ids of text may be a real id if it has at most this share of the rows."""
_DECIMAL = r"^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$"
_WHOLE = r"^[+-]?\d+$"


@dataclass(frozen=True, slots=True)
class IdProblem:
    """Ids that cannot be used.

    Attributes:
        ids: which ids; the error message names the first row with one of them.
        reason: what is wrong, to follow "column user_id is 'x'".
        remedy: what to do; "" to write an id.
    """

    ids: pl.Series
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class IdRepair:
    """Ids that are the same under another spelling.

    Attributes:
        convert: ids as text -> repaired ids.
        note: what is done, for the report.
    """

    convert: Conversion
    note: str


def id_conversion(dtype: pl.DataType) -> Conversion | None:
    """Return how to read ids of a type, as text or whole numbers; None if it cannot be an id.

    Floats become whole numbers, null where they have a fraction or are above 2^53 and so not exact.
    """
    if dtype.is_float():
        return _whole_numbers
    if dtype.is_integer():
        return lambda column: column
    if dtype.is_decimal():
        return lambda column: _if_equal(column.cast(pl.Int128, strict=False), column)
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return lambda column: column.cast(pl.String)
    return None


def source_type(dtype: pl.DataType) -> pl.DataType:
    """Return the type that ids get back, of a column that `id_conversion` has converted."""
    return dtype if dtype.is_integer() and dtype != pl.Int128 else pl.String()


def _whole_numbers(column: pl.Expr) -> pl.Expr:
    exact = pl.when(column.cast(pl.Float64).abs() <= _MAX_EXACT_FLOAT).then(column)
    return _if_equal(exact.cast(pl.Int64, strict=False), column)


def _if_equal(whole: pl.Expr, column: pl.Expr) -> pl.Expr:
    return pl.when(whole == column).then(whole)


def find_repair(ids: pl.Series) -> IdRepair | None:
    """Return how to repair distinct ids; None where they are right as they are.

    Blanks around ids are removed. If all ids are numbers and some are written like `12.0`, as
    programs do that read a column with missing values, `.0` is removed.
    """
    stripped = ids.str.strip_chars()
    n_blanks = int((stripped != ids).sum())
    numbers = stripped.str.contains(_DECIMAL)
    is_float = stripped.str.contains(r"^[+-]?\d+\.0*$")
    ends_in_zero = bool(is_float.any()) and bool((numbers | (stripped == "")).all())
    if not n_blanks and not ends_in_zero:
        return None
    notes = []
    if n_blanks:
        notes.append(f"blanks around {n_blanks:,} ids removed")
    if ends_in_zero:
        notes.append(f".0 at the end of {int(is_float.sum()):,} ids removed")

    def convert(column: pl.Expr) -> pl.Expr:
        column = column.str.strip_chars()
        return column.str.replace(r"\.0*$", "") if ends_in_zero else column

    return IdRepair(convert, " and ".join(notes))


def find_problem(ids: pl.Series, counts: pl.Series) -> IdProblem | None:
    """Return the first kind of problem of distinct, repaired ids; None without a problem.

    `counts` is the number of rows of each id.
    """
    empty = ids.filter(ids == "")
    if len(empty):
        return IdProblem(empty, "", "")
    damaged = ids.filter(ids.str.contains("\0", literal=True))  # as is half a surrogate pair
    if len(damaged):
        return IdProblem(damaged, ", which is damaged text", "")
    missing = _missing_ids(ids, counts)
    if len(missing):
        return IdProblem(
            missing,
            ", a marker of a missing value",
            "Remove the rows without an id, or rename the id if it is one.",
        )
    return _structured_ids(ids) or _decimal_ids(ids)


def _missing_ids(ids: pl.Series, counts: pl.Series) -> pl.Series:
    """Return the ids that mark missing values.

    Among numbers each marker is one. Among text, a marker of a single row or of few rows may be an
    id. -1 is a marker where no other id is negative.
    """
    marked = ids.str.to_lowercase().is_in(MISSING_MARKERS)
    others = ids.filter(~marked)
    all_numbers = bool(others.str.contains(_DECIMAL).all())
    frequent = (counts > 1) & (counts / counts.sum() > _MARKER_SHARE)
    missing = marked if all_numbers else marked & frequent
    minus_one = ids == "-1"
    if len(others) > 1 and not (all_numbers and others.str.starts_with("-").sum() > 1):
        missing |= minus_one if all_numbers else minus_one & frequent
    return ids.filter(missing)


def _structured_ids(ids: pl.Series) -> IdProblem | None:
    if bool(ids.str.to_lowercase().is_in(["true", "false"]).all()):
        return IdProblem(ids, ", true or false", "Name a column with ids of text or numbers.")
    bracketed = ids.filter(ids.str.contains(r"^(?:\[.*\]|\{.*\}|\(.*\))$"))
    is_structure = pl.Series([_is_structure(text) for text in bracketed], dtype=pl.Boolean)
    structures = bracketed.filter(is_structure)
    if 2 * len(structures) > len(ids):
        return IdProblem(structures, ", a list or an object", "")
    return None


def _decimal_ids(ids: pl.Series) -> IdProblem | None:
    if not ids.str.contains(_DECIMAL).all():
        return None
    decimals = ids.filter(~ids.str.contains(_WHOLE))
    if not len(decimals):
        return None
    return IdProblem(
        decimals,
        ", a decimal number",
        "Write ids as text or whole numbers; scientific notation has lost their digits.",
    )


def find_notes(ids: pl.Series) -> list[str]:
    """Return what is unusual about distinct ids that are used as they are."""
    notes = []
    markers = ids.filter(ids.str.to_lowercase().is_in(MISSING_MARKERS))
    if len(markers):
        notes.append(f"{markers[0]!r} is read as an id, not as a missing value")
    padded = ids.filter(ids.str.contains(r"^0\d+$"))
    same = padded.filter(padded.str.strip_chars_start("0").is_in(ids.implode()))
    if len(same):
        short = same[0].lstrip("0")
        notes.append(f"{same[0]!r} and {short!r} are different ids")
    return notes


def _is_structure(text: str) -> bool:
    """Return whether text is a JSON list or object, or a Python list, tuple or dict of text."""
    if text.startswith("("):
        text = f"[{text[1:-1].strip().removesuffix(',')}]" if "," in text else ""
    try:
        return isinstance(json.loads(text.replace("'", '"')), list | dict)
    except (ValueError, RecursionError):
        return False
