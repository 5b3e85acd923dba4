"""`recoach recommend`: lists from a run, with external ids."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.table import Table

from recoach.cli.console import console
from recoach.data.ingest import read_interactions
from recoach.data.prepared import load_dataset
from recoach.data.split import Dataset, chronological
from recoach.errors import ConfigError, RunError
from recoach.experiments.run_folder import RunFolder, write_frame
from recoach.models.base import Recommender
from recoach.models.checkpoint import load_model
from recoach.serving import recommend as lists


def recommend(
    path: Path,
    *,
    users: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    histories: Path | None = None,
    k: int = 10,
    stage: Literal["base", "tuned", "control"] | None = None,
    exclude_seen: bool = True,
    output: Path | None = None,
) -> None:
    """Recommend items to users of a run, or to new users by their histories.

    Parameters
    ----------
    path
        A run folder.
    users
        Ids of users in the log; a file NAME.txt is read as one id a line. Everybody where neither
        users nor histories are given.
    histories
        A log of new users (any format that `data describe` reads).
    k
        Length of the lists.
    stage
        Which model; the fine-tuned one where there is one, otherwise the base.
    exclude_seen
        Leave out what a user has taken.
    output
        Where to write the lists (.parquet, .csv, .jsonl); printed where not given.
    """
    if users and histories:
        raise ConfigError("Give --users or --histories, not both.")
    chosen, model, dataset = open_model(path, stage)
    asked = _histories(histories) if histories else _users(users)
    frame = lists.recommend(model, dataset, asked, k=k, exclude_seen=exclude_seen)
    if output is not None:
        write_frame(output, frame)
        console.print(f"{frame.height:,} rows by the {chosen} model written to {output}")
        return
    table = Table(*frame.columns)
    for row in frame.head(200).iter_rows():
        table.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row))
    console.print(table)
    if frame.height > 200:
        console.print(f"... {frame.height - 200:,} more rows; write them with --output.")


def open_model(path: Path, stage: str | None) -> tuple[str, Recommender, Dataset]:
    """Return the stage, the model and the data of a run; tuned or else base by itself.

    Raises:
        RunError: it is no run, or that stage has not been trained.
    """
    folder = RunFolder(path)
    folder.config()
    chosen = stage or ("tuned" if folder.has_checkpoint("tuned") else "base")
    if not folder.has_checkpoint(chosen):
        raise RunError(f"{path} has no {chosen} model yet; finish the run first.")
    dataset = load_dataset(folder.dataset)
    return chosen, load_model(folder.checkpoints(chosen), dataset), dataset


def _users(given: list[str] | None) -> list[str] | None:
    if given is None:
        return None
    ids: list[str] = []
    for entry in given:
        file = Path(entry)
        if file.suffix == ".txt" and file.exists():
            ids += [line.strip() for line in file.read_text().splitlines() if line.strip()]
        else:
            ids.append(entry)
    return ids


def _histories(path: Path) -> dict[str, list[str]]:
    log = read_interactions(path)
    items, users = log.item_ids.to_list(), log.user_ids.to_list()
    taken: dict[str, list[str]] = {user: [] for user in users}
    for row in chronological(log):
        taken[users[log.users[row]]].append(items[log.items[row]])
    return taken
