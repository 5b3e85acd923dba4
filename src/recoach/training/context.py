"""The schedule of a training and the context that it runs in."""

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from recoach.data.dataset import Dataset
from recoach.data.targets import Repeats, accept_mask_seen
from recoach.models.base import Recommender
from recoach.training.callbacks import Callback, TrainResult
from recoach.training.optimizer_step import SchedulerType
from recoach.training.trackers import TrackerName

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
ValidationMetric = Callable[[Recommender, Dataset], float]


def accept_former_names(
    **names: str,
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Return a decorator that accepts keyword arguments by former names, with a warning.

    Args:
        names: the present name for each former one.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        @functools.wraps(function)
        def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            for former, name in names.items():
                if former in kwargs:
                    warnings.warn(
                        f"the argument {former} is now called {name}; the old name will be "
                        "removed.",
                        DeprecationWarning,
                        stacklevel=2,
                    )
                    kwargs[name] = kwargs.pop(former)
            return function(*args, **kwargs)

        return call

    return decorate


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long to train and what to keep."""

    epochs: int
    metric: str
    """Validation metric that selects, higher is better."""
    patience: int
    """Evaluations in a row that do not improve on an earlier step before stopping; 0 never does."""
    max_steps: int = 0
    """Maximum number of steps; 0 leaves it to `epochs`."""
    eval_steps: int = 0
    """Steps between evaluations; 0 evaluates after each epoch."""
    select: Literal["best", "last"] = "best"
    """Which weights to return."""
    start_is_candidate: bool = False
    """Whether the weights before the first step may be returned as the best."""
    interpolate: bool = False
    """Whether to evaluate weights between these and the best."""
    ema_decay: float = 0.0
    """Decay of the moving average that is evaluated and kept instead of the model; 0 has none."""
    lr_scheduler_type: SchedulerType | Literal["step"] = "constant"
    """How the learning rate changes over the maximum number of steps, or (`step`) after epochs."""
    lr_step_epochs: int = 3
    """Epochs between two changes with `step`."""
    lr_gamma: float = 0.1
    """Factor of such a change."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0."""
    share: float | None = None
    """With `select = "last"`: position of the returned weights between the start (0) and the last
    (1); None returns the last."""

    def total_steps(self, epoch_steps: int) -> int:
        """Return the maximum number of steps, given those of an epoch."""
        total = epoch_steps * self.epochs
        return min(total, self.max_steps) if self.max_steps else total

    def scheduled_steps(self, epoch_steps: int) -> int:
        """Return the steps over which the learning rate is scheduled, see `TrainResult`."""
        if self.lr_scheduler_type == "step":
            return epoch_steps * self.lr_step_epochs
        return self.total_steps(epoch_steps)


@dataclass(frozen=True, slots=True)
class RunContext:
    """Seed, folder and callback of a training."""

    seed: int = 0
    """Seed of batches, dropout and draws."""
    repeats: Repeats = "new"
    """Protocol of the validation ranking."""
    folder: Path | str | None = None
    """Folder of the checkpoints; None keeps the best weights in memory."""
    callback: Callback = field(default_factory=Callback)
    """Called at every step and evaluation."""
    resume: bool = False
    """Continue from the folder's last checkpoint, if there is one."""
    progress: bool = True
    """Show a progress bar, where there is a terminal or a notebook."""
    report_to: TrackerName | Sequence[TrackerName] = ()
    """Trackers to log to: `tensorboard`, `mlflow`, `wandb`; local ones write into the folder."""
    eval_dataset: Dataset | None = None
    """The dataset whose validation events select the weights, with the same users and items; None
    takes those of the dataset that is trained on."""
    validation_metric: ValidationMetric | None = None
    """Selects the weights in place of the `metric` of the settings: (model, validation dataset) ->
    a number, higher is better. It is logged under the name of the function."""
    decay_steps: int = 0
    """Steps over which the learning rate is scheduled, see `TrainResult.total_steps`; 0 stands for
    those of the training."""
    selected: TrainResult | None = None
    """The result of an earlier training whose selection is repeated, for training again on train
    and validation (`recoach.data.dataset.merge_valid`): exactly its `best_step` steps, with its
    moving average and its `share`. Nothing is evaluated, and patience has no effect."""
    targets: npt.NDArray[np.bool_] | None = None
    """bool[m], which events of train are learned as next items or as interactions; None: all. All
    of them remain in the histories and in the graph."""

    @property
    def trackers(self) -> tuple[TrackerName, ...]:
        """The names of `report_to`."""
        return (self.report_to,) if isinstance(self.report_to, str) else tuple(self.report_to)

    @property
    def scheduled_steps(self) -> int:
        """Steps over which the learning rate is scheduled; 0 if the training itself says so."""
        return self.decay_steps or (self.selected.total_steps if self.selected else 0)

    def schedule(self, schedule: Schedule) -> Schedule:
        """Return the schedule of this training, which an earlier selection replaces."""
        if self.selected is None:
            return schedule
        return replace(
            schedule,
            epochs=max(1, self.selected.best_step),
            max_steps=self.selected.best_step,
            eval_steps=0,
            patience=0,
            select="last",
            start_is_candidate=False,
            interpolate=False,
            share=self.selected.share,
        )


RunContext.__init__ = accept_mask_seen(  # type: ignore[method-assign]
    accept_former_names(observer="callback")(RunContext.__init__)
)
