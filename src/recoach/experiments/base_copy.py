"""Copy trained stages of a run into another one, such as its base for another fine-tuning."""

import json
import os
import shutil
from pathlib import Path

from recoach import distributed
from recoach.data.lock import lock_folder
from recoach.errors import RunError
from recoach.experiments.run_folder import RETRAINED, RunFolder

_BASES = ("base", f"base{RETRAINED}")
_FILES = ("env.json", "config.toml", "recbole.json", "titles.parquet")
"""Files of the run that describe its base and its data; recbole.json is that of an import."""


def copy_base(run: Path, output: Path, *, resume: bool = False) -> RunFolder:
    """Copy dataset and trained base of a run into a new folder, as hard links where possible.

    The copy is written next to `output` and renamed, so that a killed process leaves no half copy.
    Files of a run are replaced and never changed in place; the copy therefore shares them safely.
    Under torchrun the main process copies and the others wait.

    Args:
        run: a run folder whose base is trained; it is only read.
        output: the new run folder; it must not exist or be empty.
        resume: whether `output` may be an earlier copy of the same base, which is then used.

    Raises:
        RunError: the run has no trained base, or `output` holds something else.
    """
    if not distributed.is_main_process():
        distributed.barrier()
        return RunFolder(output)
    source, target = RunFolder(run), RunFolder(output)
    source.config()
    if not source.is_complete("base"):
        raise RunError(f"{run} has no trained base yet; run `recoach pretrain` to its end first.")
    with lock_folder(output, output.with_name(f".{output.name}.lock")):
        if not output.exists() or (output.is_dir() and not any(output.iterdir())):
            _copy(source, output)
        else:
            _check_is_copy(source, target, resume=resume)
    distributed.barrier()
    return target


def copy_stage(source: RunFolder, target: RunFolder, stage: str) -> None:
    """Copy a trained stage and its rows of metrics.jsonl into a run that has it not, or not whole.

    Args:
        source: a run whose stage is trained.
        target: a run with the same dataset and the same settings of the stage.
        stage: its name.
    """
    # Rows come before weights: without weights, resuming writes the rows again.
    for row in source.metrics():
        if row["stage"] == stage:
            target.append_metrics(stage, {k: v for k, v in row.items() if k != "stage"})
    folder = target.checkpoints(stage)
    temporary = folder.with_name(f".{stage}.part")
    for incomplete in (temporary, folder):
        shutil.rmtree(incomplete, ignore_errors=True)
    shutil.copytree(source.checkpoints(stage), temporary)
    temporary.rename(folder)


def _copy(source: RunFolder, output: Path) -> None:
    part = output.with_name(f".{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        shutil.copytree(source.dataset, part / "dataset", copy_function=_link)
        for stage in _BASES:
            if source.is_complete(stage):
                folder = part / "checkpoints" / stage
                shutil.copytree(source.checkpoints(stage), folder, copy_function=_link)
        for name in _FILES:
            if (source.path / name).exists():
                _link(str(source.path / name), str(part / name))
        rows = [row for row in source.metrics() if row["stage"] in _BASES]
        RunFolder(part).write_text("metrics.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
        part.replace(output)
    except (OSError, shutil.Error) as error:
        raise RunError(
            f"{output} cannot be written ({getattr(error, 'strerror', None) or error}). Make room "
            "or choose another --output."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _link(source: str, target: str) -> str:
    """Make a hard link, or a copy on file systems without them."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def _check_is_copy(source: RunFolder, target: RunFolder, *, resume: bool) -> None:
    if source.path.resolve() == target.path.resolve():
        raise RunError(f"{target.path} is the run itself; choose another --output.")
    if not resume or not (target.path / "config.toml").exists():
        raise RunError(
            f"{target.path} is not empty; choose another --output, or add --resume to continue a "
            "fine-tuning that was started there."
        )
    files = [run.checkpoints("base") / "best.safetensors" for run in (source, target)]
    if not files[1].exists() or files[0].read_bytes() != files[1].read_bytes():
        raise RunError(
            f"{target.path} is a run with another base than {source.path}; choose another --output."
        )
