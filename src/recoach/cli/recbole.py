"""`recoach import recbole`, `recoach export recbole` and `recoach convert-config`."""

from pathlib import Path

import tomli_w
from cyclopts import App

from recoach.cli.console import console, example_line
from recoach.cli.options import Stage
from recoach.cli.runs import execute_and_show
from recoach.data.files import read_text
from recoach.data.prepared import read_lines
from recoach.data.targets import Repeats
from recoach.errors import ConfigError, DataError
from recoach.experiments.config import resolve
from recoach.experiments.recbole.exchange import export_run, import_run
from recoach.experiments.recbole.settings import convert_settings
from recoach.experiments.run_folder import RETRAINED, RunFolder
from recoach.models.checkpoint import write_atomically

imports = App(
    name="import",
    help="Import a model trained elsewhere as a run.",
    help_format="markdown",
)


@imports.command(
    name="recbole",
    help_epilogue=example_line(
        "recoach import recbole saved/model.pth --data log.inter --output runs/mine"
    ),
)
def import_recbole(
    checkpoint: Path,
    *,
    data: Path,
    output: Path,
    ids: Path | None = None,
    repeats: Repeats | None = None,
    unverified: bool = False,
) -> None:
    """Import a RecBole checkpoint as a run (SASRec, LightGCN, GRU4Rec, BPR, and GSAU's fork).

    Args:
        checkpoint: RecBole's .pth file. It is read without executing code from it.
        data: The .inter file that the model was trained on; for benchmark_filename one of the
            files.
        output: The run folder.
        ids: The ids as RecBole numbered them, for logs with equal times and rm_dup_inter: the
            dataset that RecBole saved (.pth), or the JSON file of the script in the documentation.
        repeats: Items of the history: new (masked, and no targets), all (nothing is masked), repeat
            (the only targets) or recbole (masked for models that do not read histories).
        unverified: Import the model even if its stored validation value is not reproduced.
    """
    config, verified = import_run(
        checkpoint, data, output, ids=ids, repeats=repeats, unverified=unverified
    )
    for line in read_lines(RunFolder(output).dataset):
        console.print(line)
    console.print(
        f"{checkpoint}: validation {verified.metric} {verified.measured:.4f}, "
        f"stored {verified.stored}"
        f"{'' if verified.agrees else ' (NOT VERIFIED)'}",
    )
    if verified.incomparable:
        console.print(verified.incomparable)
    execute_and_show(config, output, resume=True, stored=True)


def export_recbole(path: Path, *, checkpoint: Path, output: Path, stage: Stage = None) -> None:
    """Write the weights of a run into a copy of the RecBole checkpoint that it was imported from.

    They are the weights that validation selected, not those retrained on train and validation.

    Args:
        path: A run folder made by `recoach import recbole`.
        checkpoint: The checkpoint that the run was imported from.
        output: The .pth file to write.
    """
    selected = export_run(path, checkpoint, output, stage)
    console.print(f"{output}: weights of the {selected} model of {path}, selected on validation")
    if RunFolder(path).has_checkpoint(f"{selected}{RETRAINED}"):
        console.print(
            "The weights retrained on train and validation are not exported: RecBole trains on "
            "train only."
        )


def convert_config(path: Path, /, *, output: Path | None = None) -> None:
    """Convert RecBole's YAML settings to TOML and list the settings without a counterpart.

    Args:
        path: RecBole's YAML file. Settings that it leaves out have RecBole's defaults.
        output: The TOML file to write. Default: print it.
    """
    tables, dropped = convert_settings(_yaml(path), str(path))
    if "k_core" not in tables["data"]:
        raise ConfigError(
            f"{path}: user_inter_num_interval and item_inter_num_interval cannot be converted: "
            "data.k_core is one lower bound for both users and items. Filter the log first and "
            'leave both out, or give both the same "[k,inf)".'
        )
    resolve(tables, str(path))
    lines = [f"# dropped: {key} ({why})" for key, why in sorted(dropped.items())]
    text = "\n".join([*lines, tomli_w.dumps(tables)])
    if output is None:
        console.print_document(text)
        return
    write_atomically(output, text.encode())
    names = ", ".join(sorted(dropped)) or "nothing"
    console.print(f"{output} written; dropped: {names}")


def _yaml(path: Path) -> dict[str, object]:
    try:
        import yaml  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError("Reading YAML needs PyYAML: pip install 'recoach[recbole]'.") from error
    try:
        content = yaml.safe_load(read_text(path))
    except DataError as error:
        raise ConfigError(str(error)) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}. Correct the file.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} has no settings. Write KEY: VALUE on each line.")
    return {str(key): value for key, value in content.items()}
