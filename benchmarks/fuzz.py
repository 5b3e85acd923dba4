"""Coverage-guided fuzzing of the file readers with atheris (the `fuzz` extra).

    python benchmarks/fuzz.py TARGET [SECONDS]

Targets are csv, tsv, jsonl, parquet, inter, sequence, gzip, config and checkpoint. A reader must
accept its input or raise a RecoachError; anything else ends the program with a traceback, and the
input is saved as `crash-*` in the working directory.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "1")

import atheris

with atheris.instrument_imports(include=["recoach", "csv", "json", "tomllib"]):
    import torch

    from recoach.data.ingest import read_interactions
    from recoach.data.statistics import describe
    from recoach.errors import RecoachError
    from recoach.experiments.config import read_config
    from recoach.models.checkpoint import load_tensors, save_tensors
    from recoach.simulation.shop import shop

SUFFIXES = {
    "csv": ".csv",
    "tsv": ".tsv",
    "jsonl": ".jsonl",
    "parquet": ".parquet",
    "inter": ".inter",
    "sequence": ".txt",
    "gzip": ".csv.gz",
}


def read_log(path: Path) -> None:
    log = read_interactions(path)
    describe(log)
    log.frame()


def write_seed_inputs(target: str, folder: Path) -> None:
    """Write a valid file from which the mutations start."""
    rows = shop(n_users=4, n_items=40).interactions.frame().head(6)
    path = folder / f"valid{SUFFIXES.get(target, '')}"
    if target in ("csv", "gzip"):
        rows.write_csv(path, compression="gzip" if target == "gzip" else "uncompressed")
    elif target in ("tsv", "inter"):
        rows.write_csv(path, separator="\t")
    elif target == "jsonl":
        rows.write_ndjson(path)
    elif target == "parquet":
        rows.write_parquet(path)
    elif target == "sequence":
        path.write_text("ann 1 2 3\nbob 2 4\n")
    elif target == "config":
        path.write_text(read_config(None).toml())
    else:
        save_tensors(path, {"a": torch.ones(2, 3)}, {"step": 7})


def main() -> None:
    target, seconds = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "120"
    readers: dict[str, Callable[[Path], object]] = dict.fromkeys(SUFFIXES, read_log)
    readers |= {"config": read_config, "checkpoint": load_tensors}
    read = readers[target]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"input{SUFFIXES.get(target, '')}"
        corpus = Path(name) / "corpus"
        corpus.mkdir()
        write_seed_inputs(target, corpus)

        def read_input(content: bytes) -> None:
            path.write_bytes(content)
            try:
                read(path)
            except RecoachError as error:
                message = str(error)
                if len(message) > 1000 or (target in SUFFIXES and "\n" in message):
                    raise AssertionError(message) from error

        options = [f"-max_total_time={seconds}", "-max_len=65536", "-rss_limit_mb=4096"]
        atheris.Setup([sys.argv[0], *options, str(corpus)], read_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
