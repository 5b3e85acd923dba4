"""Import a RecBole checkpoint as a run, and export a run's weights into the checkpoint."""

import hashlib
import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

from recoach.data.dataset import Dataset
from recoach.data.prepared import save_dataset
from recoach.data.targets import Repeats
from recoach.errors import ModelError, RunError
from recoach.evaluation.evaluator import evaluate
from recoach.evaluation.metrics import cutoff
from recoach.experiments.config import ExperimentConfig, resolve
from recoach.experiments.recbole.checkpoint import Checkpoint, read_checkpoint
from recoach.experiments.recbole.log import read_log, reading_line
from recoach.experiments.recbole.settings import convert_settings, valid_metric
from recoach.experiments.recbole.weights import load_weights, to_recbole
from recoach.experiments.run_folder import RunFolder
from recoach.models.base import Recommender
from recoach.models.checkpoint import load_model
from recoach.models.registry import build_from_config
from recoach.training.loop import save_trained

ORIGIN = "recbole.json"
"""The file of an imported run that describes its checkpoint."""


class Verification(NamedTuple):
    """RecBole's validation metric compared with ours."""

    metric: str
    """Our name of it, such as "ndcg@10"."""
    stored: float
    """The value in the checkpoint."""
    measured: float
    """The value of the imported model."""
    agrees: bool
    """Whether the two are equal to as many decimals as RecBole stored."""


def import_run(
    checkpoint: Path,
    log: Path,
    output: Path,
    *,
    repeats: Repeats | None = None,
    unverified: bool = False,
) -> tuple[ExperimentConfig, Verification]:
    """Create a run whose base model is a trained RecBole model.

    Args:
        checkpoint: RecBole's `.pth`.
        log: the `.inter` file it was trained on.
        output: the run folder; it must not exist or be empty.
        repeats: items of the history as targets; None for RecBole's protocol.
        unverified: import the model even if its validation metric is not reproduced.

    Returns:
        The configuration of the run, and the comparison of the validation metrics.

    Raises:
        ModelError: the checkpoint cannot be read or does not match the log, or its validation
            metric is not reproduced.
        DataError: the log cannot be read, or cannot be split as RecBole did.
        RunError: the folder is not empty.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise RunError(f"{output} exists and is not an empty folder; choose another --output.")
    source = read_checkpoint(checkpoint)
    config = _run_config(source, log, output)
    dataset = read_log(log, source.config)
    model = _build_model(config, dataset)
    load_weights(model, source, _name(source))
    verification = _verify(model.eval(), dataset, source, config)
    if not verification.agrees and not unverified:
        raise ModelError(
            f"{checkpoint} was saved with {source.config.get('valid_metric')} = "
            f"{verification.stored}, but on {log} its {verification.metric} is "
            f"{verification.measured:.4f}; give the log it was trained on. If its evaluation "
            "protocol is not supported, --unverified imports it without this check."
        )
    if repeats is not None:  # the stored metric was measured with RecBole's masking
        config = _run_config(source, log, output, repeats)
    folder = RunFolder(output)
    with folder.lock():
        line = reading_line(log, source.config, dataset)
        save_dataset(dataset, folder.dataset, origin={"report": {"line": line}})
        save_trained(folder.checkpoints("base"), model, verification.measured)
        folder.write_json(
            ORIGIN,
            {"model": _name(source), "sha256": _sha256(checkpoint), **verification._asdict()},
        )
        folder.begin(config, dataset)
    return config, verification


def export_run(
    run: Path, checkpoint: Path, output: Path, stage: Literal["base", "tuned", "control"] | None
) -> str:
    """Write a run's weights into a copy of the RecBole checkpoint it was imported from.

    Without a stage these are the tuned weights if there are any, else those of the base; the stage
    is returned.

    Raises:
        RunError: the folder is not a run, or the stage is not finished.
        ModelError: the run was imported from another checkpoint, or RecBole cannot represent the
            model.
    """
    folder = RunFolder(run)
    folder.config()
    origin = folder.read_json(ORIGIN)
    selected = stage or ("tuned" if folder.has_checkpoint("tuned") else "base")
    if not folder.is_complete(selected):
        raise RunError(f"{run} has no finished {selected} model; finish the run first.")
    source = read_checkpoint(checkpoint)
    if origin.get("sha256") != _sha256(checkpoint):
        raise ModelError(
            f"{run} was not imported from {checkpoint}; give the checkpoint of its import."
        )
    if output.exists() and output.samefile(checkpoint):
        raise RunError(f"{output} is the original checkpoint; choose another --output.")
    dataset = folder.load_dataset()
    model = load_model(folder.checkpoints(selected), dataset)
    if model.config != folder.config().model:
        raise ModelError(
            f"The {selected} model of {run} has another architecture than the base "
            "(finetune.level = 'final'), which RecBole does not have; fine-tune with another "
            "finetune.level."
        )
    source.write(output, to_recbole(model, source, _name(source)))
    return selected


def _run_config(
    source: Checkpoint, log: Path, output: Path, repeats: Repeats | None = None
) -> ExperimentConfig:
    where = str(source.path)
    tables: dict[str, Any] = convert_settings(source.config, where).tables
    if repeats is not None:
        tables["evaluation"]["repeats"] = repeats
    # The run reads its own copy, which is filtered and split already.
    data = {"path": str(output / "dataset"), "name": log.name.split(".")[0], "k_core": 0}
    finetune = tables.get("finetune", {}) | {"enabled": False}
    return resolve(tables | {"data": data, "finetune": finetune}, where)


def _build_model(config: ExperimentConfig, dataset: Dataset) -> Recommender:
    return build_from_config(config.model_name, config.model, dataset, seed=config.seed)


def _verify(
    model: Recommender, dataset: Dataset, source: Checkpoint, config: ExperimentConfig
) -> Verification:
    """Evaluate as RecBole did and compare to the stored number of decimals, at most four."""
    metric, stored = valid_metric(source.config), source.best_valid_score
    mode = source.config["eval_args"].get("mode", "full")
    mode = mode.get("valid") if isinstance(mode, dict) else mode
    k = cutoff(metric or "") or 10
    evaluation = evaluate(model, dataset, "valid", ks=[k], repeats=config.evaluation.repeats)
    measured = evaluation.means()[metric or "ndcg@10"]
    decimals = min(4, int(source.config.get("metric_decimal_place") or 4))
    is_close = math.isclose(measured, stored, rel_tol=0, abs_tol=0.5 * 10**-decimals + 1e-9)
    return Verification(
        metric or "ndcg@10", stored, measured, is_close and metric is not None and mode == "full"
    )


def _name(source: Checkpoint) -> str:
    return str(source.config["model"])


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
