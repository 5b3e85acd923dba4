"""A RecBole checkpoint becomes a run, and a run's weights go back into the checkpoint."""

import hashlib
import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

from recoach.data.prepared import load_dataset, save_dataset
from recoach.data.split import Dataset
from recoach.errors import ModelError, RunError
from recoach.evaluation.evaluator import MaskSeen, evaluate
from recoach.experiments.config import ExperimentConfig, resolve
from recoach.experiments.recbole.checkpoint import Checkpoint, read_checkpoint
from recoach.experiments.recbole.log import read_log
from recoach.experiments.recbole.settings import convert_settings, valid_metric
from recoach.experiments.recbole.weights import load_weights, to_recbole
from recoach.experiments.run_folder import RunFolder
from recoach.models.base import Recommender
from recoach.models.checkpoint import load_model
from recoach.models.registry import build_from_config, model_entry
from recoach.training.loop import save_trained

ORIGIN = "recbole.json"
"""What a run keeps of where it came from."""


class Verification(NamedTuple):
    """RecBole's validation value beside ours."""

    metric: str
    stored: float
    measured: float
    agrees: bool


def import_run(
    checkpoint: Path,
    log: Path,
    output: Path,
    *,
    mask_seen: MaskSeen | None = None,
    unverified: bool = False,
) -> tuple[ExperimentConfig, Verification]:
    """Make a run whose trained base is a model of RecBole's.

    Args:
        checkpoint: RecBole's `.pth`.
        log: the `.inter` file it was trained on.
        output: the run folder; not there yet, or empty.
        mask_seen: how the run judges and tunes; as RecBole does where not given.
        unverified: take the model even if its validation value cannot be found again.

    Raises:
        ModelError: the checkpoint cannot be read or does not fit, or ranks otherwise than stored.
        DataError: the log cannot be read or be split as RecBole did.
        RunError: there is something in the folder.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise RunError(f"{output} is there already; choose another --output for the run.")
    source = read_checkpoint(checkpoint)
    config = _run_config(source, log, output)
    dataset = read_log(log, source.config)
    model = _empty(config, dataset)
    load_weights(model, source, _name(source))
    verified = _verified(model.eval(), dataset, source, config)
    if not verified.agrees and not unverified:
        raise ModelError(
            f"{checkpoint} was saved with {source.config.get('valid_metric')} = "
            f"{verified.stored}, on {log} its {verified.metric} is {verified.measured:.4f}: it is "
            "another log, or a protocol that is not known here. --unverified takes the model as it "
            "is."
        )
    if mask_seen is not None:  # from here on: the stored value is measured as RecBole did
        config = _run_config(source, log, output, mask_seen)
    folder = RunFolder(output)
    with folder.lock():
        save_dataset(dataset, folder.dataset)
        save_trained(folder.checkpoints("base"), model, verified.measured)
        folder.write_json(
            ORIGIN, {"model": _name(source), "sha256": _sha256(checkpoint), **verified._asdict()}
        )
        folder.begin(config, dataset)
    return config, verified


def export_run(
    run: Path, checkpoint: Path, output: Path, stage: Literal["base", "tuned", "control"] | None
) -> str:
    """Write a run's weights into a copy of the checkpoint they came from.

    Args:
        run: a run folder made by `import_run`.
        checkpoint: the checkpoint it was made from.
        output: the file to write.
        stage: whose weights; the tuned ones where there are any, otherwise the base's.

    Returns:
        The stage whose weights were written.

    Raises:
        RunError: no such run, or the stage is not finished.
        ModelError: another checkpoint, or a model RecBole would score otherwise.
    """
    folder = RunFolder(run)
    folder.config()
    origin = folder.read_json(ORIGIN)
    chosen = stage or ("tuned" if folder.has_checkpoint("tuned") else "base")
    if not folder.is_complete(chosen):
        raise RunError(f"{run} has no finished {chosen} model; finish the run first.")
    source = read_checkpoint(checkpoint)
    if origin.get("sha256") != _sha256(checkpoint):
        raise ModelError(f"{run} was not imported from {checkpoint}; give the checkpoint it was.")
    if output.exists() and output.samefile(checkpoint):
        raise RunError(f"{output} is the original; choose another --output.")
    dataset = load_dataset(folder.dataset)
    model = load_model(folder.checkpoints(chosen), dataset)
    if model.config != folder.config().model:
        raise ModelError(
            f"The {chosen} model of {run} is of another form than the base (grpo.level = 'final'); "
            "RecBole has no place for it."
        )
    source.write(output, to_recbole(model, source, _name(source)))
    return chosen


def _run_config(
    source: Checkpoint, log: Path, output: Path, mask_seen: MaskSeen | None = None
) -> ExperimentConfig:
    where = str(source.path)
    tables: dict[str, Any] = convert_settings(source.config, where).tables
    if mask_seen is not None:
        tables["evaluation"]["mask_seen"] = mask_seen
    # The run's own copy is what can be split so again; the filters are in it.
    data = {"path": str(output / "dataset"), "name": log.name.split(".")[0], "k_core": 0}
    return resolve(tables | {"data": data, "finetune": False}, where)


def _empty(config: ExperimentConfig, dataset: Dataset) -> Recommender:
    entry = model_entry(config.model_name)
    return build_from_config(entry, config.model, dataset.train, dataset.n_items, seed=config.seed)


def _verified(
    model: Recommender, dataset: Dataset, source: Checkpoint, config: ExperimentConfig
) -> Verification:
    """Rank as RecBole did and compare, to as many places as were stored, four at the most."""
    metric, stored = valid_metric(source.config), source.best_valid_score
    mode = source.config["eval_args"].get("mode", "full")
    mode = mode.get("valid") if isinstance(mode, dict) else mode
    k = int(metric.partition("@")[2]) if metric else 10
    found = evaluate(model, dataset, "valid", ks=[k], mask_seen=config.evaluation.mask_seen)
    measured = found.means()[metric or "ndcg@10"]
    places = min(4, int(source.config.get("metric_decimal_place") or 4))
    near = math.isclose(measured, stored, rel_tol=0, abs_tol=0.5 * 10**-places + 1e-9)
    return Verification(
        metric or "ndcg@10", stored, measured, near and metric is not None and mode == "full"
    )


def _name(source: Checkpoint) -> str:
    return str(source.config["model"])


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
