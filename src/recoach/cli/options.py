"""Options that several commands have, and how numbers on the command line are read."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn

from cyclopts import Parameter, Token

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
        if int(text) < lowest:
            _refuse(tokens[0], f"must be at least {lowest}")
        if int(text) > highest:
            _refuse(tokens[0], f"must be at most {highest}")
        return int(text)

    return Parameter(converter=convert)


def _decimal(_: Any, tokens: Sequence[Token]) -> float:  # noqa: ANN401 - the type of the option
    text = tokens[0].value
    if not _DECIMAL.fullmatch(text) or abs(float(text)) > 1e300:
        _refuse(tokens[0], "must be a finite number")
    return float(text)


def _refuse(token: Token, reason: str) -> NoReturn:
    raise ConfigError(f"{token.keyword} {reason}, not {clipped(token.value, 40)!r}.")


def check_no_empty_values(arguments: Sequence[str]) -> None:
    """Raise a ConfigError if an argument of the command line is empty or blank."""
    option = "The command line"
    for argument in arguments:
        name, equals, value = argument.partition("=")
        is_option = name.startswith("--")
        option = name if is_option else option
        if not argument.strip() or (is_option and equals and not value.strip()):
            raise ConfigError(f"{option}: a value is empty. Give a value, or leave the option out.")


Words = Annotated[list[str] | None, Parameter(consume_multiple=(1, None), negative="")]
Count = Annotated[int, whole_number(1)]
CountOrZero = Annotated[int, whole_number(0)]
Port = Annotated[int, whole_number(0, 65_535)]
Decimal = Annotated[float, Parameter(converter=_decimal)]
Run = Annotated[Path, Parameter(help="A run folder.")]
Stage = Annotated[
    Literal["base", "tuned", "control"] | None,
    Parameter(
        help="Which model to use. Default: the fine-tuned one if there is one, otherwise the base."
    ),
]
Resume = Annotated[bool, Parameter(help="Continue an interrupted run.")]
