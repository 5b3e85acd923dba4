"""The consoles of the command line: `console` writes to stdout, `errors` to stderr.

Text is printed as it is: square brackets are no markup, `:man:` is no emoji, and characters that
would move the cursor or start a new line are shown escaped.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, JustifyMethod
from rich.progress import TextColumn
from rich.table import Table
from rich.text import Text

from recoach.errors import escape_controls


class PlainConsole(Console):
    """A console whose strings, also those in tables, titles and rules, are one line of plain text.

    Styled text is a `rich.text.Text`, for example from `bold`; its strings go through
    `escape_controls`.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, soft_wrap=True, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 - options of rich
        """Return a string as rich renders it, in one line and without markup or emoji codes."""
        plain = {"markup": False, "emoji": False, "highlight": False, "highlighter": None}
        return super().render_str(escape_controls(text), **options | plain)

    def print_document(self, text: str) -> None:
        """Print a text of several lines, such as a Markdown table."""
        for line in text.split("\n"):
            self.print(line)


console = PlainConsole()
errors = PlainConsole(stderr=True)


class _Formatter(logging.Formatter):
    """Writes the message of a record in one line; a traceback follows on its own lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name of logging
        record.message = escape_controls(record.message)
        return super().formatMessage(record)


class _Handler(logging.Handler):
    """Prints log records to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        errors.print_document(self.format(record))


@contextmanager
def print_warnings() -> Iterator[None]:
    """Print the warnings that the library logs, in the `with` block."""
    _handler.setLevel(logging.WARNING)
    _handler.setFormatter(_Formatter("Warning: %(message)s"))
    logger = logging.getLogger("recoach")
    logger.addHandler(_handler)
    try:
        yield
    finally:
        logger.removeHandler(_handler)


def print_service_log() -> None:
    """Print also what a service logs, with the time of each record."""
    _handler.setLevel(logging.INFO)
    _handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("recoach").setLevel(logging.INFO)
    access = logging.getLogger("recoach.access")  # each record is a line of JSON
    access.handlers, access.propagate = [logging.StreamHandler(sys.stderr)], False


_handler = _Handler()


def bold(text: str, rest: str = "", *, style: str = "bold") -> Text:
    """Return a text in bold and the rest of its line."""
    return Text.assemble((escape_controls(text), style), escape_controls(rest))


def text_table(*columns: str, justify: JustifyMethod = "left", **options: Any) -> Table:  # noqa: ANN401
    """Return an empty table that wraps long values instead of cutting them."""
    table = Table(**options)
    for name in columns:
        table.add_column(name, justify=justify, overflow="fold")
    return table


def task_column() -> TextColumn:
    """Return the column of a progress bar that shows the name of the task."""
    return TextColumn("{task.description}", markup=False)


def example_line(command: str) -> str:
    """Return the line of a command's help that shows an example."""
    return f"Example: `{command}`"
