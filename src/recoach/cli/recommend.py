"""`recoach recommend`: recommendations from a run, with the ids of the log."""

from pathlib import Path
from typing import Final

import polars as pl

from recoach.cli.console import console, text_table
from recoach.cli.options import Count, Layout, Run, Stage, Words
from recoach.cli.reranking import rerank_config
from recoach.data.dataset import Dataset
from recoach.errors import ConfigError, clipped
from recoach.experiments.run_folder import RunFolder, check_table_suffix, write_frame
from recoach.experiments.served import open_model
from recoach.serving.histories import (
    NewHistories,
    layout_of_histories,
    read_histories,
    read_user_ids,
)
from recoach.serving.recommend import recommend as recommend_items
from recoach.serving.reranking import ListReranker, recommend_reranked

_DETECTED: Final = Layout()


def recommend(
    path: Run,
    *,
    users: Words = None,
    histories: Path | None = None,
    k: Count = 10,
    stage: Stage = None,
    exclude_seen: bool = True,
    rerank: Words = None,
    output: Path | None = None,
    layout: Layout = _DETECTED,
) -> None:
    """Recommend items to users of a run, or to new users from their histories.

    Args:
        users: User ids of the log, or NAME.txt with one id per line. Default: all users of the log.
        histories: A log with the interactions of new users, in any format of `data describe`.
            Columns and format are those of the run's log; --column, --columns and --format
            replace them.
        k: Number of items per user.
        exclude_seen: Leave out items that the user has already interacted with.
        rerank: Choose each list with a re-ranker, like by=mmr knob=0.3; see `recoach rerank`.
        output: The file to write (.parquet, .csv, .jsonl). Default: print a table.
    """
    if users and histories:
        raise ConfigError("--users and --histories cannot be combined. Give one of them.")
    if histories is None and layout != _DETECTED:
        raise ConfigError("--column, --columns and --format belong to --histories. Give both.")
    if output is not None:
        check_table_suffix(output)
    config = rerank_config(rerank)
    selected, model, dataset = open_model(RunFolder(path), stage)
    new = None if histories is None else _read_new(path, histories, dataset, layout)
    queries = new.histories if new else _known_users(users, dataset)
    if config is None:
        frame = recommend_items(model, dataset, queries, k=k, exclude_seen=exclude_seen)
    else:
        reranker = ListReranker(config, model, dataset)
        frame = recommend_reranked(
            model, dataset, queries, reranker, k=k, exclude_seen=exclude_seen
        )
        console.print(f"{reranker.name} adds {reranker.milliseconds:.2f} ms to a list (median).")
    _show(frame, selected, output)
    if new and new.line():
        console.print(new.line())


def _read_new(run: Path, file: Path, dataset: Dataset, layout: Layout) -> NewHistories:
    data = RunFolder(run).config().data
    source = None if data.path is None else Path(data.path)
    config = layout_of_histories(file, source, data, layout.layout())
    return read_histories(file, dataset, config)


def _known_users(users: list[str] | None, dataset: Dataset) -> list[str] | None:
    if users is None:
        return None
    ids = read_user_ids(users, dataset.user_ids)
    unknown = sorted(set(ids) - set(dataset.user_ids.to_list()), key=ids.index)
    if unknown:
        hint = " It is a file; files of users end with .txt." if Path(unknown[0]).is_file() else ""
        raise ConfigError(
            f"--users: {clipped(repr(unknown[0]))} is no user of the log ({len(unknown):,} of "
            f"{len(ids):,} are not).{hint} Give new users with --histories."
        )
    return ids


def _show(frame: pl.DataFrame, stage: str, output: Path | None) -> None:
    if output is not None:
        write_frame(output, frame)
        console.print(f"{frame.height:,} rows of the {stage} model written to {output}")
        return
    table = text_table(*frame.columns)
    for row in frame.head(200).iter_rows():
        table.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row))
    console.print(table)
    if frame.height > 200:
        console.print(f"... {frame.height - 200:,} more rows. Write all of them with --output.")
