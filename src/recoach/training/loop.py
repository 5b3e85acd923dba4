"""The loop around a step: evaluate, keep the best, stop early, save, resume.

Every random draw is derived from the seed and the step, so a run resumed from any saved step
ends bit for bit where the uninterrupted one does.
"""

import itertools
import math
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from recoach import distributed
from recoach.errors import ModelError
from recoach.evaluation.evaluator import MaskSeen
from recoach.models.base import Recommender, frozen_copy
from recoach.models.checkpoint import (
    EXTRA_MODULE,
    load_tensors,
    model_weights,
    save_description,
    save_tensors,
)
from recoach.models.sharded_embedding import (
    gather_embedding,
    gathered_embedding,
    gathered_state,
    local_state,
    sharded_table,
)
from recoach.training.callbacks import Callback, TrainResult
from recoach.training.health import divergence, last_good, non_finite_groups
from recoach.training.optimizer_state import fill_optimiser, optimiser_tensors

_SAVE_SECONDS = 120.0
_SHARES = (0.25, 0.5, 0.75)
"""How far from the start to the best the weights are looked at."""

Batch = TypeVar("Batch")


class Trainer(Protocol[Batch]):
    """What the loop drives: batches and a step that moves the weights."""

    model: Recommender
    optimiser: torch.optim.Optimizer

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield the batches of one epoch."""

    def step(self, batch: Batch, generator: torch.Generator) -> dict[str, float]:
        """Learn from one batch and return what to log, `loss` among it."""

    def users(self, batch: Batch) -> list[str]:
        """Return the first users of a batch, for messages."""

    def refresh(self, step: int) -> None:
        """Prepare for the step after `step` steps."""

    def checkpointed_modules(self) -> dict[str, nn.Module]:
        """Return what else changes in training; checkpoints keep it by its name."""

    def diagnostics(self) -> dict[str, float]:
        """Return what is worth knowing at each evaluation."""

    def __len__(self) -> int:
        """Return the number of batches in an epoch, near enough for a progress bar."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long to train and what to keep."""

    epochs: int
    metric: str
    """Validation metric that selects, higher is better."""
    patience: int
    """Evaluations in a row no better than an earlier step's before stopping; 0 never stops."""
    max_steps: int = 0
    """Steps at the most; 0 leaves it to `epochs`."""
    eval_steps: int = 0
    """Steps between evaluations; 0 evaluates after each epoch."""
    select: Literal["best", "last"] = "best"
    """Which weights to return."""
    start_is_candidate: bool = False
    """Whether the weights before the first step may be returned as the best."""
    interpolate: bool = False
    """Whether to look between them and the best for something better."""
    ema_decay: float = 0.0
    """Memory of the average that is judged and kept in the model's place; 0 keeps the model."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """Where a training runs and who watches."""

    seed: int = 0
    """Of batches, dropout and draws."""
    mask_seen: MaskSeen = "all"
    """Protocol of the validation ranking."""
    folder: Path | None = None
    """Where checkpoints go; None keeps the best in memory."""
    callback: Callback = field(default_factory=Callback)
    """Told of every step and evaluation."""
    resume: bool = False
    """Go on from the folder's last checkpoint, if there is one."""


@dataclass(slots=True)
class _Progress:
    step: int = 0
    epoch: int = 0
    batch: int = 0
    best_step: int = 0
    best_value: float = -math.inf
    top: float = -math.inf
    """Best value of a step: what is below the start may still be rising."""
    start_value: float | None = None
    bad: int = 0
    seconds: float = 0.0
    evaluated: int = -1
    finished: bool = False
    share: float | None = None


def stream(seed: int, name: str, number: int = 0) -> torch.Generator:
    """Return the generator of one named stream of randomness."""
    return torch.Generator().manual_seed(derive(seed, name, number))


def derive(seed: int, name: str, number: int = 0) -> int:
    """Return the seed of one named stream, so that adding a draw moves no other."""
    return zlib.crc32(f"{seed}/{name}/{number}".encode()) + (number << 32)


class Loop(Generic[Batch]):
    """Drives one trainer to its end."""

    def __init__(
        self,
        trainer: Trainer[Batch],
        schedule: Schedule,
        evaluate: Callable[[Recommender], dict[str, float]],
        context: RunContext,
    ) -> None:
        self.trainer, self.schedule, self.evaluate = trainer, schedule, evaluate
        self.context, self.folder, self.seed = context, context.folder, context.seed
        self.callback = context.callback if distributed.is_main_process() else Callback()
        self._divided = sharded_table(trainer.model) is not None
        self.progress = _Progress()
        self._judged = frozen_copy(trainer.model) if schedule.ema_decay else trainer.model
        self._start = self._best = self._copy()
        self._sums: dict[str, float] = {}
        self._count = 0
        self._saved_at = self._began = time.monotonic()

    def run(self) -> TrainResult:
        """Train to the end and leave the selected weights in the model, whole.

        Raises:
            ModelError: the loss is not finite, or a checkpoint is damaged.
        """
        with distributed.replicated_batches(enabled=self._divided):
            outcome = self._run()
        gather_embedding(self.trainer.model)
        self.callback.on_end(outcome)
        distributed.barrier()  # what comes next reads what the first has written
        return outcome

    def _run(self) -> TrainResult:
        if self.folder is not None:
            save_description(self.folder, self.trainer.model)
            if self.context.resume and (self.folder / "last.safetensors").exists():
                self._restore(self.folder)
        distributed.check_same_weights(self.trainer.model)
        progress = self.progress
        self.callback.on_begin(self._total_steps(), progress.step)
        self._began = time.monotonic() - progress.seconds
        with torch.random.fork_rng(devices=[]):
            if progress.step == 0 and self.schedule.start_is_candidate and progress.evaluated < 0:
                self._evaluate()
            while not progress.finished:
                self._epoch()
            if self.schedule.interpolate and progress.share is None:
                self._interpolate()
        chosen = self._best if self.schedule.select == "best" else self._copy()
        self.trainer.model.load_state_dict(chosen)
        return TrainResult(
            progress.step,
            progress.seconds,
            progress.best_step if self.schedule.select == "best" else progress.step,
            progress.best_value,
            progress.start_value,
            progress.share,
        )

    def _epoch(self) -> None:
        progress, schedule = self.progress, self.schedule
        batches = self.trainer.epoch(stream(self.seed, "batches", progress.epoch))
        for batch in itertools.islice(batches, progress.batch, None):
            self._step(batch)
            last = bool(schedule.max_steps) and progress.step >= schedule.max_steps
            if last or (schedule.eval_steps and progress.step % schedule.eval_steps == 0):
                self._evaluate(last=last)
            elif self._due():
                self._save()
            if progress.finished:
                return
            if self.callback.stops():
                raise KeyboardInterrupt
        progress.epoch, progress.batch = progress.epoch + 1, 0
        last = progress.epoch >= schedule.epochs
        if last or not schedule.eval_steps:
            self._evaluate(last=last)

    def _due(self) -> bool:
        """Return whether to save between evaluations; the first decides where all must help."""
        due = time.monotonic() - self._saved_at > _SAVE_SECONDS or self.callback.stops()
        return distributed.broadcast_bool(due) if self._divided else due

    def _step(self, batch: Batch) -> None:
        progress = self.progress
        self.trainer.refresh(progress.step)
        name = f"dropout {distributed.data_rank()}" if distributed.data_rank() else "dropout"
        torch.manual_seed(derive(self.seed, name, progress.step))
        logs = self.trainer.step(batch, stream(self.seed, "draws", progress.step))
        self._average()
        progress.step, progress.batch = progress.step + 1, progress.batch + 1
        if not math.isfinite(logs["loss"]):
            users, model = self.trainer.users(batch), self.trainer.model
            raise ModelError(divergence(logs["loss"], progress.step, model, users, self.folder))
        self._count += 1
        for name, value in logs.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self.callback.on_step(progress.step, logs)

    @torch.no_grad()
    def _average(self) -> None:
        """Move the average towards the model, where they are two."""
        model, step = self.trainer.model, self.progress.step
        if self._judged is model:
            return
        # A young average would hold the start for long: its memory grows with the steps taken.
        memory = min(self.schedule.ema_decay, (1 + step) / (10 + step))
        for kept, moved in zip(self._judged.parameters(), model.parameters(), strict=True):
            if moved.requires_grad:
                kept.lerp_(moved, 1 - memory)

    def _companions(self) -> dict[str, nn.Module]:
        average = {} if self._judged is self.trainer.model else {"average": self._judged}
        return self.trainer.checkpointed_modules() | average

    def _evaluate(self, *, last: bool = False) -> None:
        """Measure, remember the best, decide whether to go on, save, report."""
        progress, schedule = self.progress, self.schedule
        if progress.evaluated == progress.step:  # the last epoch ended on an evaluation
            progress.finished = progress.finished or last
            self._save()
            return
        try:
            measured = self._measured()
        except ModelError as error:
            tables = ", ".join(non_finite_groups(self.trainer.model)) or "none"
            raise ModelError(
                f"Step {progress.step}: {error} {last_good(self.folder)}Tables with numbers that "
                f"are not finite: {tables}."
            ) from error
        value = measured[schedule.metric]
        if progress.step == 0:
            progress.start_value = value
        if value > progress.best_value:
            progress.best_value, progress.best_step = value, progress.step
            self._best = self._copy()
        if progress.step:
            progress.bad = 0 if value > progress.top else progress.bad + 1
            progress.top = max(value, progress.top)
        progress.evaluated = progress.step
        progress.finished = last or bool(schedule.patience and progress.bad >= schedule.patience)
        progress.seconds = time.monotonic() - self._began
        row: dict[str, float] = {
            "step": progress.step,
            "epoch": progress.epoch,
            "seconds": round(progress.seconds, 3),
        }
        row |= {name: total / self._count for name, total in self._sums.items()}
        row |= {f"valid/{name}": number for name, number in measured.items()}
        row |= self.trainer.diagnostics()
        # Told before it is saved: a process killed in between measures again and tells it anew.
        self.callback.on_row(row)
        self._sums, self._count = {}, 0
        self._save(best=progress.best_step == progress.step)

    def _measured(self) -> dict[str, float]:
        with gathered_embedding(self._judged):
            return self.evaluate(self._judged)

    def _interpolate(self) -> None:
        """Take the best weights between the start and the best (Wortsman et al. 2022).

        Where no weights were better than the start, those between it and the last may be.
        """
        progress, ended = self.progress, self._copy()
        far = self._best if progress.best_step else ended
        progress.share = 1.0
        for share in _SHARES if progress.step else ():
            between = {
                name: torch.lerp(self._start[name], end, share) if end.is_floating_point() else end
                for name, end in far.items()
            }
            self._judged.load_state_dict(between)
            value = self._measured()[self.schedule.metric]
            if value > progress.best_value:
                progress.best_value, progress.share, self._best = value, share, between
                progress.best_step = progress.best_step or progress.step
        self._judged.load_state_dict(ended)
        self._save(best=True)

    def _total_steps(self) -> int:
        total = len(self.trainer) * self.schedule.epochs
        return min(total, self.schedule.max_steps) if self.schedule.max_steps else total

    def _copy(self) -> dict[str, Tensor]:
        state = self._judged.state_dict()
        return {name: tensor.detach().clone() for name, tensor in state.items()}

    def _save(self, *, best: bool = False) -> None:
        self._saved_at = time.monotonic()
        if self.progress.finished and self.schedule.select == "last":
            self._best, best = self._copy(), True  # the folder keeps what the training returns
        if self.folder is None or not (distributed.is_main_process() or self._divided):
            return
        self.progress.seconds = self._saved_at - self._began
        state, model = asdict(self.progress), self.trainer.model
        if best:
            save_tensors(self.folder / "best.safetensors", gathered_state(model, self._best), state)
        tensors = gathered_state(model, model.state_dict())
        tensors |= optimiser_tensors(self.trainer.optimiser, model)
        for name, other in self._companions().items():
            own = gathered_state(other, other.state_dict())
            tensors |= {f"{EXTRA_MODULE}{name}.{key}": value for key, value in own.items()}
        state["sums"], state["count"] = self._sums, self._count
        save_tensors(self.folder / "last.safetensors", tensors, state)

    def _restore(self, folder: Path) -> None:
        path = folder / "last.safetensors"
        tensors, state = load_tensors(path)
        try:
            self._sums, self._count = dict(state.pop("sums")), int(state.pop("count"))
            self.progress = _Progress(**state)
            model = self.trainer.model
            model.load_state_dict(local_state(model, model_weights(tensors)))
            for name, other in self._companions().items():
                before = f"{EXTRA_MODULE}{name}."
                own = {
                    n.removeprefix(before): t for n, t in tensors.items() if n.startswith(before)
                }
                other.load_state_dict(local_state(other, own))
            fill_optimiser(self.trainer.optimiser, model, tensors)
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"{path} does not belong to this training ({str(error).splitlines()[0]}); restore "
                f"it, or remove {folder} to train anew."
            ) from error
        if (folder / "best.safetensors").exists():
            self._take_best(folder / "best.safetensors")

    def _take_best(self, path: Path) -> None:
        """Take the best weights, which are written before the last: what they are ahead of.

        A best of a later step is met again on the way. Weights drawn back towards the start are
        not: they are the end of the training.
        """
        best, state = load_tensors(path)
        self._best = local_state(self.trainer.model, best)
        progress = self.progress
        if progress.finished and progress.share is None and state.get("share") is not None:
            for name in ("share", "best_value", "best_step"):
                setattr(progress, name, state[name])
            self._began = time.monotonic() - progress.seconds
            self._save()


def save_trained(folder: Path, model: Recommender, value: float) -> None:
    """Put a model trained elsewhere where a finished training leaves its own.

    Args:
        folder: gets the description and both weights files.
        model: its weights are the selected ones.
        value: what it reached on validation.
    """
    state = asdict(_Progress(finished=True, best_value=value))
    save_description(folder, model)
    save_tensors(folder / "best.safetensors", model.state_dict(), state)
    state |= {"sums": {}, "count": 0}
    save_tensors(folder / "last.safetensors", model.state_dict(), state)
