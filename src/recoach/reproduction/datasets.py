"""Where the logs of a reproduction are."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from recoach.data.config import PrepareConfig
from recoach.data.filters import apply_filters
from recoach.data.ingest import read_benchmark, read_interactions
from recoach.data.prepared import MANIFEST, load_dataset
from recoach.data.statistics import describe
from recoach.errors import ConfigError, DataError
from recoach.reproduction.paper_cells import Source
from recoach.reproduction.paper_results import CATEGORIES

_ENDINGS = (".jsonl.gz", ".jsonl", ".csv.gz", ".csv")


class Sizes(NamedTuple):
    """A row of table 1."""

    users: int
    items: int
    interactions: int
    average_length: float


def find_sources(folder: Path | None, named: Sequence[str], k_core: int = 5) -> tuple[Source, ...]:
    """Return the paper's categories found in a folder, and the logs named NAME=PATH.

    Raises:
        ConfigError: nothing is given, nothing is found, an entry is not NAME=PATH, or `k_core` is
            negative.
        DataError: the folder or a named path does not exist.
    """
    if k_core < 0:
        raise ConfigError(f"--k-core must be at least 0, not {k_core}.")
    sources = [] if folder is None else _in_folder(folder)
    for entry in named:
        name, sign, path = entry.partition("=")
        if not sign or not name or not path or "/" in name:
            raise ConfigError(f"--dataset takes NAME=PATH, like shop=data/shop.csv, not {entry!r}.")
        if not Path(path).exists():
            raise DataError(f"--dataset {name}: there is no {path}; check the path.")
        sources.append(Source(name, path, ready_split=_is_ready_split(Path(path))))
    names = [source.name for source in sources]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ConfigError(f"two data sets are called {twice}; give one another name.")
    if not sources:
        raise ConfigError(
            "no data set: give --data DIR with Amazon's files, or --dataset NAME=PATH."
        )
    return tuple(source._replace(k_core=k_core) for source in sources)


def missing_categories(folder: Path | None, sources: Iterable[Source]) -> tuple[str, ...]:
    """Return the paper's categories that a folder was searched for and that are not among these."""
    found = {source.name for source in sources}
    return () if folder is None else tuple(name for name in CATEGORIES if name not in found)


def category_of(name: str) -> str | None:
    """Return the paper's category whose first word a name begins with, or None."""
    for category in CATEGORIES:
        if name.lower().startswith(category.split("_")[0].lower()):
            return category
    return None


def statistics_of_sources(sources: Iterable[Source]) -> dict[str, Sizes]:
    """Return table 1's row of every log: its iterated core, nothing de-duplicated.

    Prepared and split folders are counted as they are.
    """
    return {source.name: _sizes(source) for source in sources}


def _in_folder(folder: Path) -> list[Source]:
    if not folder.exists():
        raise DataError(f"--data: there is no {folder}; check the path.")
    if not folder.is_dir():
        raise ConfigError(
            f"--data takes a folder with Amazon's files and {folder} is a file; name a log with "
            f"--dataset NAME={folder}."
        )
    files = {name: [folder / f"{name}{ending}" for ending in _ENDINGS] for name in CATEGORIES}
    there = {name: [path for path in paths if path.exists()] for name, paths in files.items()}
    found = [Source(name, str(paths[0])) for name, paths in there.items() if paths]
    if not found:
        raise ConfigError(
            f"{folder} holds none of {', '.join(CATEGORIES)} as .jsonl.gz or .csv.gz; "
            "`recoach data fetch amazon-2023` gets them, or name logs with --dataset NAME=PATH."
        )
    return found


def _is_ready_split(path: Path) -> bool:
    return path.is_dir() and not (path / MANIFEST).exists()


def _sizes(source: Source) -> Sizes:
    if Path(source.path).is_dir():
        path = Path(source.path)
        data = read_benchmark(path) if source.ready_split else load_dataset(path)
        rows = sum(len(part.values) for part in (data.train, data.valid, data.test))
        return Sizes(data.n_users, data.n_items, rows, rows / data.n_users)
    found = describe(
        apply_filters(read_interactions(source.path), PrepareConfig(k_core=source.k_core))
    )
    return Sizes(found.users, found.items, found.interactions, found.average_length)
