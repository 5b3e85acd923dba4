"""Read users and the histories of new users for recommendations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recoach.data.columns import has_id_columns
from recoach.data.config import PrepareConfig
from recoach.data.dataset import Dataset
from recoach.data.files import read_text
from recoach.data.ingest import read_interactions
from recoach.data.ordered_log import chronological
from recoach.data.readers.registry import open_table
from recoach.errors import DataError, clipped


@dataclass(frozen=True, slots=True)
class NewHistories:
    """Histories of new users and how much of them a catalogue holds."""

    histories: Mapping[str, Sequence[str]]
    """User id -> item ids, oldest first; only users with an item of the catalogue."""
    n_users: int
    """Number of users in the file."""
    n_items: int
    """Number of distinct items in the file."""
    n_unknown_items: int
    """Number of distinct items that are not in the catalogue."""

    def line(self) -> str:
        """Return one sentence about the users and items left out; empty if there are none."""
        cold = self.n_users - len(self.histories)
        if not cold and not self.n_unknown_items:
            return ""
        return (
            f"{cold:,} of {self.n_users:,} users have no item of the catalogue and get no list; "
            f"{self.n_unknown_items:,} of {self.n_items:,} items are not in the catalogue."
        )


def read_histories(path: Path, dataset: Dataset, config: PrepareConfig) -> NewHistories:
    """Read a log of new users.

    Args:
        path: the log.
        dataset: has the catalogue.
        config: columns and format of the log.

    Raises:
        DataError: the log cannot be read, or no item of it is in the catalogue.
    """
    log = read_interactions(
        path, columns=config.columns, format=config.format, header=config.header
    )
    is_known = log.item_ids.is_in(dataset.item_ids.implode()).to_numpy()
    item_ids, user_ids = log.item_ids.to_list(), log.user_ids.to_list()
    histories: dict[str, list[str]] = {}
    for row in chronological(log):
        if is_known[log.items[row]]:
            histories.setdefault(user_ids[log.users[row]], []).append(item_ids[log.items[row]])
    if not histories:
        raise DataError(
            f"{path.name}: no item is in the catalogue of {dataset.name or 'the dataset'} (user "
            f"{clipped(repr(user_ids[0]))} has {clipped(repr(item_ids[0]))}). Use the ids of its "
            "log."
        )
    order = [user_id for user_id in user_ids if user_id in histories]
    return NewHistories(
        {user_id: histories[user_id] for user_id in order},
        len(user_ids),
        len(item_ids),
        int((~is_known).sum()),
    )


def layout_of_histories(
    path: Path, source: Path | None, of_run: PrepareConfig, given: PrepareConfig
) -> PrepareConfig:
    """Return columns and format of a log of new users, from those of the run's own log.

    What the caller gives goes first. The run's format and header hold for a file with the suffix
    of the run's log, a column name of the run for a file with that column.

    Args:
        path: the log of new users.
        source: the run's log; None for the embedded shop.
        of_run: the settings with which the run's log was read.
        given: the settings that the caller gives; `auto` and empty ones are not given.

    Raises:
        DataError: the file cannot be opened.
    """
    format_name, header = given.format, given.header
    is_given = format_name != "auto" or bool(header)
    if not is_given and source is not None and _suffixes(path) == _suffixes(source):
        format_name, header = of_run.format, of_run.header
    table = open_table(
        path,
        format_name,
        lambda names: has_id_columns(names, _present(of_run.columns, names) | given.columns),
        header,
        mapped=bool(of_run.columns or given.columns),
    )
    columns = _present(of_run.columns, table.names) | given.columns
    return given.model_copy(
        update={"columns": columns, "format": format_name, "header": list(header)}
    )


def _present(columns: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    return {column: name for column, name in columns.items() if name in names}


def _suffixes(path: Path) -> list[str]:
    return [suffix.lower() for suffix in path.suffixes]


def read_user_ids(values: Sequence[str], known: pl.Series) -> list[str]:
    """Return the distinct user ids among `values`, which are ids and names of text files.

    A value that ends with .txt is a file with an id on each line, unless there is no such file and
    it is a known id. Blank lines are skipped, and blanks around an id that is not known as it is.

    Args:
        values: ids and files.
        known: the ids of the dataset.

    Raises:
        DataError: a file is missing or is not UTF-8 text, or it holds no id.
    """
    known_ids = set(known.to_list())
    ids: list[str] = []
    for value in values:
        path = Path(value)
        if not value.lower().endswith(".txt") or (value in known_ids and not path.exists()):
            ids.append(value)
            continue
        if not path.exists():
            raise DataError(
                f"--users {value}: there is no such file, and no user of the log has this id. "
                "Check the path."
            )
        lines = [
            line if line in known_ids else line.strip()
            for line in read_text(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        ]
        if not any(lines):
            raise DataError(f"--users {value}: the file holds no user id. Write one on each line.")
        ids += filter(None, lines)
    return list(dict.fromkeys(ids))
