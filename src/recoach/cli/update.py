"""`recoach update`: take the events of new days into a run, and list or change its versions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter
from pydantic import ValidationError

from recoach.cli.console import console, text_table
from recoach.cli.options import Layout, Run
from recoach.cli.progress import StageProgress
from recoach.cli.runs import Changes
from recoach.config import validation_message
from recoach.data.config import PrepareConfig
from recoach.errors import ConfigError
from recoach.experiments.config import toml_value
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.update import UpdateResult
from recoach.experiments.update import update as update_run
from recoach.experiments.update_config import UpdateConfig
from recoach.experiments.versions import read_history, rollback
from recoach.models.registry import model_entry

_DETECTED: Final = Layout()
_TABLE = "update."


def update(
    path: Run,
    *,
    data: Path | None = None,
    items: Path | None = None,
    back: Annotated[bool, Parameter(name="--rollback", negative="")] = False,
    changes: Changes = None,
    layout: Layout = _DETECTED,
) -> None:
    """Extend the log of a run by new events, train its model on them, and serve it if it is better.

    Without --data and --rollback the versions of the run are listed.

    Args:
        data: The log of the new days. Rows that the run's log has are recognised and left out.
            Columns and format are those of the run's log; --column, --columns and --format replace
            them.
        items: A table of items that replaces the stored one, with the new items in it.
        back: Serve the version before the served one again.
        changes: Settings of the update, like update.replay=0.3; may be repeated.
    """
    folder = RunFolder(path)
    config = folder.config()
    _check_options(data, items, changes, layout, back=back)
    if back:
        with folder.lock():
            number = rollback(folder)
        console.print(f"{path} serves version {number} again.")
        return
    if data is None:
        _list_versions(path)
        return
    model_entry(config.model_name)  # a missing package is one sentence, before anything is read
    result = update_run(
        path,
        data,
        _settings(changes or []),
        layout=_layout(config.data, layout),
        items=items,
        make_callback=StageProgress,
    )
    _show(path, result)


def _check_options(
    data: Path | None,
    items: Path | None,
    changes: list[str] | None,
    layout: Layout,
    *,
    back: bool,
) -> None:
    if data is None and (items or changes or layout != _DETECTED):
        raise ConfigError("--items, --set, --column, --columns and --format belong to --data.")
    if back and data is not None:
        raise ConfigError("--rollback and --data cannot be combined. Give one of them.")


def _layout(stored: PrepareConfig, given: Layout) -> PrepareConfig | None:
    """Return how to read the new log: as the run's log, or as the options say."""
    if given == _DETECTED:
        return None
    chosen = given.layout()
    events = {"events": stored.events, "negative_events": stored.negative_events}
    return chosen.model_copy(update=events)


def _settings(changes: Sequence[str]) -> UpdateConfig:
    values: dict[str, Any] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key.startswith(_TABLE):
            raise ConfigError(
                f"--set takes update.KEY=VALUE, like update.replay=0.3, not {change!r}."
            )
        value = toml_value(text)
        name = key.removeprefix(_TABLE)
        is_several = name in ("replay", "methods") and not isinstance(value, list)
        values[name] = (value,) if is_several else value
    try:
        return UpdateConfig.model_validate(
            {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        )
    except ValidationError as error:
        raise ConfigError(
            validation_message(error, UpdateConfig, values, "--set: update")
        ) from error


def _show(path: Path, result: UpdateResult) -> None:
    console.print(result.counts.line())
    if result.outcome == "nothing new":
        console.print(f"{result.reason.capitalize()} {path} serves version {result.served}.")
        return
    record = read_history(RunFolder(path)).record(result.version or 0)
    tried = record["settings_tried"]
    console.print(
        f"Version {result.version}: {result.reason} {tried} "
        f"{'setting was' if tried == 1 else 'settings were'} tried."
    )
    if result.outcome == "better":
        console.print(f"{path} serves version {result.version}.")
    else:
        console.print(
            f"{path} still serves version {result.served}, because version {result.version} is not "
            "better. The events are part of the log: the next update learns them."
        )


def _list_versions(path: Path) -> None:
    history = read_history(RunFolder(path))
    table = text_table(
        "version", "served", "rows added", "metric", "value", "served then", "seconds"
    )
    table.add_row("0", "yes" if not history.served else "", "", "", "", "", "")
    for entry in history.versions:
        number = entry["version"]
        table.add_row(
            str(number),
            "yes" if number == history.served else "",
            f"{entry['rows']['new']:,}",
            str(entry.get("metric", "")),
            *(f"{entry[key]:.4f}" if key in entry else "" for key in ("value", "served_value")),
            f"{entry['seconds']:.0f}",
        )
    console.print(table)
