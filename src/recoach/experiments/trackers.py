"""Experiment trackers: what metrics.jsonl holds, in TensorBoard, MLflow or Weights & Biases."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from recoach.errors import ConfigError
from recoach.experiments.config import ExperimentConfig
from recoach.experiments.run_folder import RunFolder
from recoach.training.callbacks import Callback, TrainResult

TrackerName = Literal["tensorboard", "mlflow", "wandb"]

_AT_START: Final = ("step", "epoch")


class TensorBoard(Callback):
    """Writes event files to `tensorboard/STAGE` of the run's folder."""

    def __init__(self, config: ExperimentConfig, folder: Path, stage: str) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (an extra)

        self._writer: Any = SummaryWriter(str(folder / "tensorboard" / stage))
        self._writer.add_text("config", f"```toml\n{config.toml()}\n```")

    def on_row(self, row: dict[str, float]) -> None:
        """Write every figure of an evaluation."""
        for name, value in _figures(row).items():
            self._writer.add_scalar(name, value, int(row["step"]))
        self._writer.flush()

    def on_end(self, outcome: TrainResult) -> None:
        """Close the file."""
        self._writer.close()


class MLflow(Callback):
    """Logs to the sqlite store `mlflow.db` of the run's folder, a run for each stage.

    MLFLOW_TRACKING_URI, where it is set, names another store.
    """

    def __init__(self, config: ExperimentConfig, folder: Path, stage: str) -> None:
        import mlflow  # noqa: PLC0415 (an extra)

        self._client = mlflow.MlflowClient(_store(folder))
        name = folder.resolve().name
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        wanted = f"attributes.run_name = '{stage}'"
        found = self._client.search_runs([experiment], filter_string=wanted, max_results=1)
        # A resumed stage goes on in its own run.
        run = found[0] if found else self._client.create_run(experiment, run_name=stage)
        self._id = run.info.run_id
        if not found:
            for key, value in _flat(config.tables()).items():
                self._client.log_param(self._id, key, str(value)[:500])

    def on_row(self, row: dict[str, float]) -> None:
        """Log every figure of an evaluation."""
        for name, value in _figures(row).items():
            key = name.replace("@", "_at_")  # a name may not hold it
            self._client.log_metric(self._id, key, value, step=int(row["step"]))

    def on_end(self, outcome: TrainResult) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._id)


class WandB(Callback):
    """Logs to Weights & Biases, offline into the run's folder unless WANDB_MODE says otherwise."""

    def __init__(self, config: ExperimentConfig, folder: Path, stage: str) -> None:
        import wandb  # noqa: PLC0415 (an extra)

        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project="recoach",
            group=folder.resolve().name,
            name=f"{folder.resolve().name}-{stage}",
            job_type=stage,
            dir=str(folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=config.tables(),
            reinit="create_new",
        )

    def on_row(self, row: dict[str, float]) -> None:
        """Log every figure of an evaluation."""
        self._run.log(_figures(row), step=int(row["step"]))

    def on_end(self, outcome: TrainResult) -> None:
        """Finish the run."""
        self._run.finish()


_TRACKERS: Final[dict[str, type[TensorBoard | MLflow | WandB]]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Raise a ConfigError where a tracker is not installed, before anything is trained."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"--report-to {name}: it is not installed; pip install 'recoach[trackers]'."
            )


def trackers(
    names: Sequence[TrackerName], config: ExperimentConfig, folder: RunFolder, stage: str
) -> list[Callback]:
    """Return the callbacks that log a stage.

    Args:
        names: which trackers, `check_trackers` having been asked.
        config: logged as the run's parameters.
        folder: local stores lie in it.
        stage: base, control or tuned.
    """
    return [_TRACKERS[name](config, folder.path, stage) for name in names]


def _figures(row: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if name not in _AT_START}


def _flat(tables: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tables.items():
        inner = _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else None
        found |= {f"{before}{key}": value} if inner is None else inner
    return found


def _store(folder: Path) -> str | None:
    folder.mkdir(parents=True, exist_ok=True)
    named = os.environ.get("MLFLOW_TRACKING_URI")
    return named or f"sqlite:///{(folder / 'mlflow.db').resolve()}"
