"""Options that several commands have, and how numbers on the command line are read."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn

from cyclopts import Parameter, Token

from recoach.data.config import PrepareConfig
from recoach.data.readers.registry import Format
from recoach.errors import ConfigError, clipped

_LARGEST: Final = 1_000_000_000
_DIGITS: Final = re.compile(r"[+-]?[0-9]{1,30}")
_DECIMAL: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,3})?", re.IGNORECASE)


def whole_number(lowest: int, highest: int = _LARGEST) -> Parameter:
    """Return the parameter of an option that takes a whole number, without a fraction or `_`."""

    def convert(_: Any, tokens: Sequence[Token]) -> int:  # noqa: ANN401 - the type of the option
        text = tokens[0].value
        if not _DIGITS.fullmatch(text):
            _refuse(tokens[0], f"must be a whole number of at least {lowest}")
        if not lowest <= int(text) <= highest:
            limit = f"least {lowest}" if int(text) < lowest else f"most {highest:,}"
            raise ConfigError(f"{tokens[0].keyword} must be at {limit}, not {int(text)}.")
        return int(text)

    return Parameter(converter=convert)


def _decimal(_: Any, tokens: Sequence[Token]) -> float:  # noqa: ANN401 - the type of the option
    text = tokens[0].value
    if not _DECIMAL.fullmatch(text) or abs(float(text)) > 1e300:
        _refuse(tokens[0], "must be a finite number")
    return float(text)


def _refuse(token: Token, reason: str) -> NoReturn:
    raise ConfigError(f"{token.keyword} {reason}, not {clipped(token.value, 40)!r}.")


Words = Annotated[list[str] | None, Parameter(consume_multiple=(1, None), negative="")]
Count = Annotated[int, whole_number(1)]
CountOrZero = Annotated[int, whole_number(0)]
Port = Annotated[int, whole_number(0, 65_535)]
Decimal = Annotated[float, Parameter(converter=_decimal)]
Run = Annotated[Path, Parameter(help="A run folder.")]
Stage = Annotated[
    Literal["base", "tuned", "control"] | None,
    Parameter(help="Which model to use. Default: the best of them on validation."),
]
Resume = Annotated[bool, Parameter(help="Continue an interrupted run.")]


@Parameter(name="*")
@dataclass(frozen=True)
class Layout:
    """How to read the columns of a log."""

    column: Words = None
    """NAME=COLUMN for other column names, like user_id=visitor; NAME= leaves a column out; may be
    repeated."""
    columns: str | None = None
    """Columns of a file without a header, in its order, like user_id,item_id,timestamp; - skips a
    column."""
    format: Format = "auto"
    """The file format. Default: recognised by name and content."""

    def layout(self) -> PrepareConfig:
        """Return the settings for reading, without filters.

        Raises:
            ConfigError: a column is not NAME=COLUMN.
        """
        return PrepareConfig(
            k_core=0,
            columns=column_names(self.column),
            format=self.format,
            header=[name.strip() for name in self.columns.split(",")] if self.columns else [],
        )

    def changes(self) -> list[str]:
        """Return the settings of `[data]` for reading, as --set takes them; none by default."""
        config = self.layout()
        named = {f"columns.{name}": column for name, column in config.columns.items()}
        values = named | {"header": config.header, "format": config.format}
        return [
            f"data.{key}={json.dumps(value, ensure_ascii=False)}"
            for key, value in values.items()
            if value not in ([], "auto")
        ]


def column_names(columns: list[str] | None) -> dict[str, str]:
    """Return NAME -> COLUMN of the values of --column.

    Raises:
        ConfigError: one is not NAME=COLUMN, or a name is given twice.
    """
    names: dict[str, str] = {}
    for entry in columns or []:
        name, sign, column = entry.partition("=")
        if not sign or not name:
            raise ConfigError(
                f"--column must be NAME=COLUMN, like user_id=visitor, or NAME= to leave a column "
                f"out, not {entry!r}."
            )
        if names.get(name, column) != column:
            raise ConfigError(f"--column gives {name} twice: {names[name]!r} and {column!r}.")
        names[name] = column
    return names
