"""Logs that are already split into files for training, validation and test."""

import glob
from pathlib import Path

from recoach.data.dataset import Dataset
from recoach.data.ingest import read_interactions
from recoach.data.split import from_parts
from recoach.errors import DataError


def read_benchmark(source: str | Path) -> Dataset:
    """Read a log that is already split into train, valid (optional) and test files.

    Args:
        source: a folder, or a path up to the name of the log (`data/baby` for `baby.train.inter`).
            The files are RecBole's `X.train.inter` or LightGCN's `train.txt`, plain, .gz or .zst.

    Raises:
        DataError: a part is missing or occurs twice, or a file is bad.
    """
    source = Path(source)
    folder, prefix = (source, "") if source.is_dir() else (source.parent, source.name)
    train, valid, test = (_find_part(folder, prefix, part) for part in ("train", "valid", "test"))
    if train is None or test is None:
        missing = "test" if train else "train"
        raise DataError(
            f"{source}: there is no {missing} file. Name it {prefix or 'NAME'}.{missing}.inter "
            f"or {missing}.txt, plain or compressed."
        )
    name = prefix or train.name.split(".")[0]
    return from_parts(
        read_interactions(train),
        None if valid is None else read_interactions(valid),
        read_interactions(test),
        folder.name if name == "train" else name,
    )


def _find_part(folder: Path, prefix: str, part: str) -> Path | None:
    stem = f"{glob.escape(prefix)}." if prefix else ""
    patterns = [f"{stem or '*.'}{part}.inter", f"{stem}{part}.txt"]
    names = [name + suffix for name in patterns for suffix in ("", ".gz", ".zst")]
    paths = sorted(path for name in names for path in folder.glob(name))
    if len(paths) > 1:
        raise DataError(
            f"{folder}: {paths[0].name} and {paths[1].name} could both be the {part} part. "
            "Name the log by its prefix, such as data/baby."
        )
    return paths[0] if paths else None
