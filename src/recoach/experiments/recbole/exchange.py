"""Import a RecBole checkpoint as a run, and export a run's weights into the checkpoint."""

import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from recoach.data.dataset import Dataset
from recoach.data.prepared import save_dataset
from recoach.data.targets import Repeats, targets_of
from recoach.errors import ModelError, RunError
from recoach.evaluation.evaluator import evaluate_targets
from recoach.evaluation.metrics import cutoff
from recoach.experiments.config import ExperimentConfig, resolve
from recoach.experiments.recbole.checkpoint import Checkpoint, read_checkpoint
from recoach.experiments.recbole.ids import read_ids
from recoach.experiments.recbole.log import has_unstable_order, read_log, reading_line
from recoach.experiments.recbole.settings import convert_settings, valid_metric
from recoach.experiments.recbole.split import eval_settings
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
    """Our name of it, such as "ndcg@10"; "ndcg@10" itself if RecBole selected by another one."""
    stored: float
    """The value in the checkpoint."""
    measured: float
    """The value of the imported model."""
    agrees: bool
    """Whether the two are equal to as many decimals as RecBole stored."""
    incomparable: str = ""
    """Why the two cannot be compared; empty if they can."""


def import_run(
    checkpoint: Path,
    log: Path,
    output: Path,
    *,
    ids: Path | None = None,
    repeats: Repeats | None = None,
    unverified: bool = False,
) -> tuple[ExperimentConfig, Verification]:
    """Create a run whose base model is a trained RecBole model.

    Args:
        checkpoint: RecBole's `.pth`.
        log: the `.inter` file it was trained on.
        output: the run folder; it must not exist or be empty.
        ids: the ids as RecBole numbered them, see `read_ids`; None numbers them as RecBole does.
        repeats: items of the history as targets; None for RecBole's protocol.
        unverified: import the model even if its validation metric is not reproduced.

    Returns:
        The configuration of the run, and the comparison of the validation metrics.

    Raises:
        ModelError: the checkpoint cannot be read or does not match the log, or its validation
            metric is not reproduced.
        DataError: the log or the ids cannot be read, or the log cannot be split as RecBole did.
        RunError: the folder is not empty.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise RunError(f"{output} exists and is not an empty folder; choose another --output.")
    source = read_checkpoint(checkpoint)
    config = _run_config(source, log, output)
    dataset = read_log(log, source.config, None if ids is None else read_ids(ids))
    model = build_from_config(config.model_name, config.model, dataset, seed=config.seed)
    load_weights(model, source, _name(source))
    verification = _verify(model.eval(), dataset, source, config)
    if not verification.agrees and not unverified:
        raise ModelError(_disagreement(source, log, verification, dataset, has_ids=ids is not None))
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


def _disagreement(
    source: Checkpoint, log: Path, verification: Verification, dataset: Dataset, *, has_ids: bool
) -> str:
    """Return the message for a validation metric that is not reproduced, with probable causes."""
    stored = f"{source.config.get('valid_metric')} = {verification.stored}"
    if verification.incomparable:
        return (
            f"{source.path} was saved with {stored}, which cannot be checked: "
            f"{verification.incomparable} --unverified imports it without this check."
        )
    causes = [f"{log} is not the log it was trained on, or has its rows in another order"]
    if not has_ids and has_unstable_order(log, source.config):
        causes.insert(
            0,
            "rm_dup_inter sorts rows with equal times in an order that depends on the machine, so "
            "that RecBole numbered the ids otherwise; give its ids by --ids",
        )
    if n_new := int(((dataset.train.lengths == 0) & (dataset.valid.lengths > 0)).sum()):
        causes.insert(
            0,
            f"{n_new:,} users of validation have no training rows; RecBole ranks for them by their "
            "initial weights, Recoach as for unknown users",
        )
    if eval_settings(source.config).shuffles:
        causes.append(
            "the random split was not the first use of RecBole's seed (a program of one's own that "
            "draws numbers before data_preparation)"
        )
    return (
        f"{source.path} was saved with {stored}, but on {log} its {verification.metric} is "
        f"{verification.measured:.4f}. Probable causes: {'; '.join(causes)}. --unverified imports "
        "it without this check."
    )


def export_run(
    run: Path, checkpoint: Path, output: Path, stage: Literal["base", "tuned", "control"] | None
) -> str:
    """Write a run's weights into a copy of the RecBole checkpoint it was imported from.

    Without a stage these are the tuned weights if there are any, else those of the base; the stage
    is returned. They are the weights that validation selected, not those trained again on train and
    validation: RecBole's graph and its evaluation have only train.

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


def _verify(
    model: Recommender, dataset: Dataset, source: Checkpoint, config: ExperimentConfig
) -> Verification:
    """Evaluate as RecBole did and compare to the stored number of decimals, at most four.

    RecBole also ranks items and users that do not occur in train, by their initial weights.
    """
    metric, stored = valid_metric(source.config), source.best_valid_score
    name = metric or "ndcg@10"
    k = cutoff(name) or 10
    everybody = dataset.split.model_copy(update={"min_history": 0})
    targets = targets_of(replace(dataset, split=everybody), "valid", config.evaluation.repeats)
    targets = replace(targets, cold=np.zeros_like(targets.cold))
    evaluation = evaluate_targets(model, dataset, targets, ks=[k])
    values = evaluation.metrics[name]
    if name.startswith("map@"):  # RecBole divides by min(k, number of targets)
        values = values * targets.counts / np.minimum(targets.counts, k)
    measured = float(values.mean())
    decimals = min(4, int(source.config.get("metric_decimal_place") or 4))
    is_close = math.isclose(measured, stored, rel_tol=0, abs_tol=0.5 * 10**-decimals + 1e-9)
    reason = _incomparable(source)
    return Verification(name, stored, measured, is_close and not reason, reason)


def _incomparable(source: Checkpoint) -> str:
    """Return why the stored metric cannot be measured again; empty if it can."""
    mode = eval_settings(source.config).mode
    if mode == "labeled":
        return (
            "RecBole measured it on labelled rows (mode: labeled), not on a ranking of all items."
        )
    if mode != "full":
        return (
            f"RecBole measured it against random items (mode: {mode}), which it drew during "
            "training and did not store."
        )
    if valid_metric(source.config) is None:
        return f"Recoach does not have the metric {source.config.get('valid_metric')}."
    return ""


def _name(source: Checkpoint) -> str:
    return str(source.config["model"])


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
