"""`recoach import recbole`, `recoach export recbole` and `recoach convert-config`."""

from pathlib import Path
from typing import Literal

import tomli_w
from cyclopts import App

from recoach.cli.console import console, shown
from recoach.cli.runs import execute_and_show
from recoach.errors import ConfigError
from recoach.evaluation.evaluator import MaskSeen
from recoach.experiments.config import resolve
from recoach.experiments.recbole.exchange import export_run, import_run
from recoach.experiments.recbole.settings import convert_settings
from recoach.models.checkpoint import write_atomically

imports = App(name="import", help="Make a run of a model trained elsewhere.")


@imports.command(
    name="recbole",
    help_epilogue=shown(
        "recoach import recbole saved/model.pth --data log.inter --output runs/mine"
    ),
)
def import_recbole(
    checkpoint: Path,
    *,
    data: Path,
    output: Path,
    mask_seen: MaskSeen | None = None,
    unverified: bool = False,
) -> None:
    """Make a run of a RecBole checkpoint (SASRec, LightGCN, GRU4Rec, BPR, GSAU's fork).

    Parameters
    ----------
    checkpoint
        RecBole's .pth file; nothing in it is executed.
    data
        The .inter file it was trained on.
    output
        The run folder.
    mask_seen
        Judge and tune with every history masked (all), none, or as RecBole does: only of models
        that read none.
    unverified
        Take the model even if its stored validation value cannot be found again.
    """
    config, verified = import_run(
        checkpoint, data, output, mask_seen=mask_seen, unverified=unverified
    )
    console.print(
        f"{checkpoint}: valid {verified.metric} {verified.measured:.4f}, stored {verified.stored}"
        f"{'' if verified.agrees else ' (NOT VERIFIED)'}",
        highlight=False,
        soft_wrap=True,
    )
    execute_and_show(config, output, resume=True)


def export_recbole(
    path: Path,
    *,
    checkpoint: Path,
    output: Path,
    stage: Literal["base", "tuned", "control"] | None = None,
) -> None:
    """Write a run's weights into a copy of the RecBole checkpoint the run was imported from.

    Parameters
    ----------
    path
        A run folder made by `recoach import recbole`.
    checkpoint
        The checkpoint it was imported from.
    output
        The .pth file to write.
    stage
        Whose weights; the fine-tuned model's where there is one, otherwise the base's.
    """
    chosen = export_run(path, checkpoint, output, stage)
    console.print(
        f"{output}: the weights of the {chosen} model of {path}", highlight=False, soft_wrap=True
    )


def convert_config(path: Path, /, *, output: Path | None = None) -> None:
    """Turn RecBole's YAML settings into ours; what has no counterpart is listed.

    Parameters
    ----------
    path
        RecBole's YAML file; what it leaves out has RecBole's default.
    output
        The TOML file to write; printed where not given.
    """
    tables, dropped = convert_settings(_yaml(path), str(path))
    resolve(tables, str(path))
    lines = [f"# dropped: {key} ({why})" for key, why in sorted(dropped.items())]
    text = "\n".join([*lines, tomli_w.dumps(tables)])
    if output is None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        return
    write_atomically(output, text.encode())
    console.print(
        f"{output} written; dropped: {', '.join(sorted(dropped)) or 'nothing'}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _yaml(path: Path) -> dict[str, object]:
    try:
        import yaml  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError("Reading YAML needs PyYAML: pip install 'recoach[recbole]'.") from error
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read {path}: {error}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no settings (KEY: VALUE on each line).")
    return {str(key): value for key, value in content.items()}
