"""RecBole's atomic files (.inter, .item): tabs, a type behind each column name, no quotes."""

from recoach.data.readers.delimited import open_delimited
from recoach.data.readers.table import Table
from recoach.data.readers.text import LogFile


def open_inter(file: LogFile) -> Table:
    """Open an atomic file; the types in its header are ignored."""
    return open_delimited(file, "\t", typed_header=True)
