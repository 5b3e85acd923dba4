"""Experiment trackers: log the rows of metrics.jsonl to TensorBoard, MLflow or W&B."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import tomli_w

from recoach.errors import ConfigError, suggestion
from recoach.training.callbacks import Callback, TrainResult

TrackerName = Literal["tensorboard", "mlflow", "wandb"]

_NOT_METRICS: Final = ("step", "epoch")


class TensorBoard(Callback):
    """Writes event files to `tensorboard/STAGE` in the run's folder."""

    def __init__(self, settings: Mapping[str, Any], folder: Path, stage: str) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (an extra)

        self._writer: Any = SummaryWriter(str(folder / "tensorboard" / stage))
        self._writer.add_text("config", f"```toml\n{tomli_w.dumps(settings)}\n```")

    def on_row(self, row: dict[str, float]) -> None:
        """Write every metric of a row."""
        for name, value in _metrics(row).items():
            self._writer.add_scalar(name, value, int(row["step"]))
        self._writer.flush()

    def on_end(self, outcome: TrainResult) -> None:
        """Close the event file."""
        self._writer.close()


class MLflow(Callback):
    """Logs to the SQLite store `mlflow.db` in the run's folder, with one MLflow run per stage.

    The environment variable MLFLOW_TRACKING_URI selects another store.
    """

    def __init__(self, settings: Mapping[str, Any], folder: Path, stage: str) -> None:
        import mlflow  # noqa: PLC0415 (an extra)

        self._client = mlflow.MlflowClient(_store(folder))
        name = folder.resolve().name
        existing = self._client.get_experiment_by_name(name)
        experiment = existing.experiment_id if existing else self._client.create_experiment(name)
        query = f"attributes.run_name = '{stage}'"
        runs = self._client.search_runs([experiment], filter_string=query, max_results=1)
        # A resumed stage continues its MLflow run.
        run = runs[0] if runs else self._client.create_run(experiment, run_name=stage)
        self._id = run.info.run_id
        if not runs:
            for key, value in _flatten(settings).items():
                self._client.log_param(self._id, key, str(value)[:500])

    def on_row(self, row: dict[str, float]) -> None:
        """Log every metric of a row."""
        for name, value in _metrics(row).items():
            key = name.replace("@", "_at_")  # MLflow does not allow @ in names
            self._client.log_metric(self._id, key, value, step=int(row["step"]))

    def on_end(self, outcome: TrainResult) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._id)


class WandB(Callback):
    """Logs to Weights & Biases; offline in the run's folder unless WANDB_MODE is set."""

    def __init__(self, settings: Mapping[str, Any], folder: Path, stage: str) -> None:
        import wandb  # noqa: PLC0415 (an extra)

        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project="recoach",
            group=folder.resolve().name,
            name=f"{folder.resolve().name}-{stage}",
            job_type=stage,
            dir=str(folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=dict(settings),
            reinit="create_new",
        )

    def on_row(self, row: dict[str, float]) -> None:
        """Log every metric of a row."""
        self._run.log(_metrics(row), step=int(row["step"]))

    def on_end(self, outcome: TrainResult) -> None:
        """Finish the run."""
        self._run.finish()


_TRACKERS: Final[dict[str, type[TensorBoard | MLflow | WandB]]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Raise a ConfigError if a tracker is unknown or not installed; called before training."""
    for name in names:
        if name not in _TRACKERS:
            near = suggestion(name, _TRACKERS)
            raise ConfigError(f"report_to: there is no tracker {name!r}. {near}")
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"--report-to {name}: it is not installed; pip install 'recoach[trackers]'."
            )


def trackers(
    names: Sequence[TrackerName], settings: Mapping[str, Any], folder: Path, stage: str
) -> list[Callback]:
    """Return the callbacks that log a stage.

    Args:
        names: installed trackers, see `check_trackers`.
        settings: tables of settings, which are logged too.
        folder: local stores are written into it.
        stage: the name of the stage.
    """
    return [_TRACKERS[name](settings, folder, stage) for name in names]


def _metrics(row: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if name not in _NOT_METRICS}


def _flatten(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _store(folder: Path) -> str | None:
    folder.mkdir(parents=True, exist_ok=True)
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    return uri or f"sqlite:///{(folder / 'mlflow.db').resolve()}"
