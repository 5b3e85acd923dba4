"""`recoach recommend`: recommendations from a run, with the ids of the log."""

from pathlib import Path

from recoach.cli.console import console, text_table
from recoach.cli.options import Count, Run, Stage, Words
from recoach.data.dataset import Dataset
from recoach.data.ingest import read_interactions
from recoach.data.prepared import load_dataset
from recoach.data.split import chronological
from recoach.errors import ConfigError, RunError
from recoach.experiments.run_folder import RunFolder, write_frame
from recoach.models.base import Recommender
from recoach.models.checkpoint import load_model
from recoach.serving.recommend import recommend as recommend_items


def recommend(
    path: Run,
    *,
    users: Words = None,
    histories: Path | None = None,
    k: Count = 10,
    stage: Stage = None,
    exclude_seen: bool = True,
    output: Path | None = None,
) -> None:
    """Recommend items to users of a run, or to new users from their histories.

    Args:
        users: User ids of the log, or NAME.txt with one id per line. Default: all users of the log.
        histories: A log with the interactions of new users, in any format of `data describe`.
        k: Number of items per user.
        exclude_seen: Leave out items that the user has already interacted with.
        output: The file to write (.parquet, .csv, .jsonl). Default: print a table.
    """
    if users and histories:
        raise ConfigError("--users and --histories cannot be combined. Give one of them.")
    selected, model, dataset = open_model(path, stage)
    queries = _read_histories(histories) if histories else _read_users(users)
    frame = recommend_items(model, dataset, queries, k=k, exclude_seen=exclude_seen)
    if output is not None:
        write_frame(output, frame)
        console.print(f"{frame.height:,} rows of the {selected} model written to {output}")
        return
    table = text_table(*frame.columns)
    for row in frame.head(200).iter_rows():
        table.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row))
    console.print(table)
    if frame.height > 200:
        console.print(f"... {frame.height - 200:,} more rows. Write all of them with --output.")


def open_model(path: Path, stage: str | None) -> tuple[str, Recommender, Dataset]:
    """Return the stage, the model and the data set of a run.

    Args:
        path: the run folder.
        stage: the stage of the model; None selects "tuned" if it is trained, otherwise "base".

    Raises:
        RunError: the path is not a run folder, or the stage is not trained yet.
    """
    folder = RunFolder(path)
    folder.config()
    selected = stage or ("tuned" if folder.has_checkpoint("tuned") else "base")
    if not folder.has_checkpoint(selected):
        raise RunError(f"{path} has no {selected} model yet. Finish the run first.")
    dataset = load_dataset(folder.dataset)
    return selected, load_model(folder.checkpoints(selected), dataset), dataset


def _read_users(users: list[str] | None) -> list[str] | None:
    if users is None:
        return None
    ids: list[str] = []
    for entry in users:
        file = Path(entry)
        if file.suffix == ".txt" and file.exists():
            ids += [line.strip() for line in file.read_text().splitlines() if line.strip()]
        else:
            ids.append(entry)
    return ids


def _read_histories(path: Path) -> dict[str, list[str]]:
    log = read_interactions(path)
    item_ids, user_ids = log.item_ids.to_list(), log.user_ids.to_list()
    histories: dict[str, list[str]] = {user_id: [] for user_id in user_ids}
    for row in chronological(log):
        histories[user_ids[log.users[row]]].append(item_ids[log.items[row]])
    return histories
