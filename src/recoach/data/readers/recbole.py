"""RecBole's atomic files (.inter, .item): tabs, a type behind each column name, no quotes."""

import re

from recoach.data.readers.delimited import open_delimited
from recoach.data.readers.table import Table
from recoach.data.readers.text import LogFile


def open_inter(file: LogFile) -> Table:
    """Open an atomic file; the types in its header are ignored."""
    return open_delimited(file, "\t", typed_header=True)


def is_atomic_header(line: str) -> bool:
    """Return whether each name in a line has one of RecBole's types behind it."""
    return bool(_TYPED_NAMES.fullmatch(line.strip()))


_TYPED_NAMES = re.compile(r"[^\t:]+:(token|float)(_seq)?(\t[^\t:]+:(token|float)(_seq)?)+")
