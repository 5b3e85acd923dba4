"""The logs that a suite runs on: arguments of the command line, and their sizes."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from recoach.data.benchmark import read_benchmark
from recoach.data.config import PrepareConfig
from recoach.data.filters import apply_filters
from recoach.data.ingest import read_interactions
from recoach.data.prepared import MANIFEST, load_dataset
from recoach.data.statistics import describe
from recoach.errors import ConfigError, DataError
from recoach.reproduction.paper_cells import Source
from recoach.reproduction.paper_results import CATEGORIES

_SUFFIXES = (".jsonl.gz", ".jsonl", ".csv.gz", ".csv")


class Sizes(NamedTuple):
    """The size of a log, a row of table 1."""

    users: int
    items: int
    interactions: int
    average_length: float


def find_sources(folder: Path | None, named: Sequence[str], k_core: int = 5) -> tuple[Source, ...]:
    """Return the logs of the command line, sources from the folder first.

    Args:
        folder: holds the paper's categories as files; None: only `named`.
        named: further logs as NAME=PATH.
        k_core: for all of them.

    Raises:
        ConfigError: there is no log, an entry is not NAME=PATH, two logs have the same name, or
            `k_core` is negative.
        DataError: the folder or a path does not exist.
    """
    if k_core < 0:
        raise ConfigError(f"--k-core must be at least 0, not {k_core}; 0 keeps everything.")
    sources = [] if folder is None else _in_folder(folder)
    for entry in named:
        name, sign, path = entry.partition("=")
        if not sign or not name or not path or "/" in name:
            raise ConfigError(
                f"--dataset: {entry!r} is not NAME=PATH. Write it like shop=data/shop.csv."
            )
        if not Path(path).exists():
            raise DataError(f"--dataset {name}: there is no {path}. Check the path.")
        sources.append(Source(name, path, ready_split=_is_ready_split(Path(path))))
    names = [source.name for source in sources]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated:
        raise ConfigError(f"--dataset: two logs are called {repeated}. Rename one of them.")
    if not sources:
        raise ConfigError(
            "There is no data set. Give --data DIR with Amazon's files, or --dataset NAME=PATH."
        )
    return tuple(source._replace(k_core=k_core) for source in sources)


def missing_categories(folder: Path | None, sources: Iterable[Source]) -> tuple[str, ...]:
    """Return the paper's categories that the folder has no file of; none without a folder."""
    if folder is None:
        return ()
    names = {source.name for source in sources}
    return tuple(name for name in CATEGORIES if name not in names)


def category_of(name: str) -> str | None:
    """Return the paper's category whose first word the name of a log begins with, or None."""
    for category in CATEGORIES:
        if name.lower().startswith(category.split("_")[0].lower()):
            return category
    return None


def statistics_of_sources(sources: Iterable[Source]) -> dict[str, Sizes]:
    """Return the sizes of every log after its k-core, repeated interactions kept.

    Folders that are prepared or split already are counted as they are.
    """
    return {source.name: _sizes(source) for source in sources}


def _in_folder(folder: Path) -> list[Source]:
    if not folder.exists():
        raise DataError(f"--data: there is no {folder}. Check the path.")
    if not folder.is_dir():
        raise ConfigError(
            f"--data: {folder} is a file, not a folder with Amazon's files. Name a single log with "
            f"--dataset NAME={folder}."
        )
    files = {name: [folder / f"{name}{suffix}" for suffix in _SUFFIXES] for name in CATEGORIES}
    existing = {name: [path for path in paths if path.exists()] for name, paths in files.items()}
    sources = [Source(name, str(paths[0])) for name, paths in existing.items() if paths]
    if not sources:
        raise ConfigError(
            f"--data: {folder} has none of {', '.join(CATEGORIES)} as .jsonl.gz or .csv.gz. Get "
            "them with `recoach data fetch amazon-2023`, or name logs with --dataset NAME=PATH."
        )
    return sources


def _is_ready_split(path: Path) -> bool:
    return path.is_dir() and not (path / MANIFEST).exists()


def _sizes(source: Source) -> Sizes:
    if Path(source.path).is_dir():
        path = Path(source.path)
        data = read_benchmark(path) if source.ready_split else load_dataset(path)
        rows = sum(len(part.values) for part in (data.train, data.valid, data.test))
        return Sizes(data.n_users, data.n_items, rows, rows / data.n_users)
    log = apply_filters(read_interactions(source.path), PrepareConfig(k_core=source.k_core))
    size = describe(log)
    return Sizes(size.users, size.items, size.interactions, size.average_length)
