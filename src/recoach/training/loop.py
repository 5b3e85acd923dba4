"""The training loop: steps, evaluation, selection, early stopping, checkpoints and resuming.

Every random draw is derived from the seed and the step, so that a resumed run ends with exactly
the weights of an uninterrupted one.
"""

import itertools
import math
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Generic

import torch
from torch import Tensor, nn

from recoach import distributed
from recoach.errors import ModelError
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
from recoach.training.allocator import keep_freed_memory
from recoach.training.callbacks import Callback, TrainResult
from recoach.training.context import RunContext, Schedule
from recoach.training.contract import Batch, Trainer
from recoach.training.health import divergence, last_good, non_finite_groups
from recoach.training.multiply_adds import run_step
from recoach.training.optimizer_state import fill_optimiser, optimiser_tensors
from recoach.training.optimizer_step import learning_rate_factor, update_average
from recoach.training.progress import Progress
from recoach.training.work import Work

_SAVE_SECONDS = 120.0
_SHARES = (0.25, 0.5, 0.75)
"""Positions between the start (0) and the best weights (1) that interpolation evaluates."""


def stream(seed: int, name: str, number: int = 0) -> torch.Generator:
    """Return the generator of one named stream of randomness."""
    return torch.Generator().manual_seed(derive(seed, name, number))


def derive(seed: int, name: str, number: int = 0) -> int:
    """Return the seed of one named stream, so that a new stream leaves the others unchanged."""
    return zlib.crc32(f"{seed}/{name}/{number}".encode()) + (number << 32)


class Loop(Generic[Batch]):
    """Runs one trainer to its end."""

    def __init__(
        self,
        trainer: Trainer[Batch],
        schedule: Schedule,
        evaluate: Callable[[Recommender], dict[str, float]],  # {} without validation events
        context: RunContext,
    ) -> None:
        self.trainer, self.evaluate = trainer, evaluate
        self.schedule = schedule = context.schedule(schedule)
        self.context, self.seed = context, context.seed
        self.folder = None if context.folder is None else Path(context.folder)
        self._decay_steps = context.scheduled_steps or schedule.scheduled_steps(len(trainer))
        self._base_rates = [group["lr"] for group in trainer.optimiser.param_groups]
        self.callback = context.callback if distributed.is_main_process() else Callback()
        self._sharded = sharded_table(trainer.model) is not None
        self.progress = Progress()
        self._evaluated_model = frozen_copy(trainer.model) if schedule.ema_decay else trainer.model
        self.start = self._best = self._copy()
        """The weights before the first step."""
        self._stopped = False
        self._sums: dict[str, float] = {}
        self._count = 0
        self._saved_at = self._began = time.monotonic()

    def run(self) -> TrainResult:
        """Train to the end and leave the selected weights in the model, gathered.

        Raises:
            ModelError: the loss is not finite, or a checkpoint is damaged.
        """
        keep_freed_memory()
        with distributed.replicated_batches(enabled=self._sharded):
            result = self._run()
        gather_embedding(self.trainer.model)
        self.callback.on_end(result)
        distributed.barrier()  # the next stage reads files that the main process has written
        return result

    def _run(self) -> TrainResult:
        if self.folder is not None:
            save_description(self.folder, self.trainer.model)
            if self.context.resume and (self.folder / "last.safetensors").exists():
                self._restore(self.folder)
        distributed.check_same_weights(self.trainer.model)
        progress = self.progress
        self.callback.on_begin(self.schedule.total_steps(len(self.trainer)), progress.step)
        self._began = time.monotonic() - progress.seconds
        with torch.random.fork_rng(devices=[]):
            if progress.step == 0 and self.schedule.start_is_candidate and progress.evaluated < 0:
                self._evaluate()
            if self.context.selected is not None and not self.context.selected.best_step:
                self._evaluate(last=True)
            while not (progress.finished or self._stopped):
                self._epoch()
            if self.schedule.interpolate and progress.share is None and not self._stopped:
                self._interpolate()
        # A training that is stopped early may have evaluated no weights.
        is_best = self.schedule.select == "best" and progress.best_value > -math.inf
        self.trainer.model.load_state_dict(self._best if is_best else self._last())
        return TrainResult(
            progress.step,
            progress.seconds,
            progress.best_step if is_best else progress.step,
            progress.best_value,
            progress.start_value,
            progress.share if is_best else self.schedule.share,
            self._decay_steps,
            progress.known_work,
        )

    def _epoch(self) -> None:
        progress, schedule = self.progress, self.schedule
        batches = self.trainer.epoch(stream(self.seed, "batches", progress.epoch))
        for batch in itertools.islice(batches, progress.batch, None):
            self._step(batch)
            last = bool(schedule.max_steps) and progress.step >= schedule.max_steps
            evaluates = last or bool(
                schedule.eval_steps and progress.step % schedule.eval_steps == 0
            )
            if evaluates:
                self._evaluate(last=last)
            if progress.finished:
                return
            self._stopped = distributed.broadcast_bool(self.callback.stops())
            if not evaluates and (self._stopped or self._due()):
                self._save()
            if self._stopped:
                return
        progress.epoch, progress.batch = progress.epoch + 1, 0
        last = progress.epoch >= schedule.epochs
        if last or not schedule.eval_steps:
            self._evaluate(last=last)
            self._stopped = distributed.broadcast_bool(self.callback.stops())

    def _due(self) -> bool:
        """Return whether to save between evaluations; rank 0 decides where all ranks take part."""
        due = time.monotonic() - self._saved_at > _SAVE_SECONDS
        return distributed.broadcast_bool(due) if self._sharded else due

    def _schedule_learning_rate(self) -> dict[str, float]:
        """Set the learning rate of the next step and return it for the log, if it is scheduled."""
        schedule, step = self.schedule, self.progress.step
        kind, warmup = schedule.lr_scheduler_type, schedule.warmup_steps
        if kind == "constant" and not warmup:
            return {}
        factor = learning_rate_factor(kind, step, warmup, self._decay_steps, schedule.lr_gamma)
        for group, rate in zip(self.trainer.optimiser.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * factor
        return {"learning_rate": self._base_rates[0] * factor}

    def _step(self, batch: Batch) -> None:
        progress = self.progress
        self.trainer.before_step(progress.step)
        name = f"dropout {distributed.data_rank()}" if distributed.data_rank() else "dropout"
        torch.manual_seed(derive(self.seed, name, progress.step))
        rate = self._schedule_learning_rate()
        draws = stream(self.seed, "draws", progress.step)
        logs = run_step(self.trainer, batch, draws, progress.work) | rate
        if self._evaluated_model is not self.trainer.model:
            # The decay grows with the steps, so that the start does not dominate early averages.
            decay = min(self.schedule.ema_decay, (1 + progress.step) / (10 + progress.step))
            update_average(self._evaluated_model, self.trainer.model, decay)
        progress.step, progress.batch = progress.step + 1, progress.batch + 1
        if not math.isfinite(logs["loss"]):
            users, model = self.trainer.users(batch), self.trainer.model
            raise ModelError(divergence(logs["loss"], progress.step, model, users, self.folder))
        self._count += 1
        for name, value in logs.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self.callback.on_step(progress.step, logs)

    def _extra_modules(self) -> dict[str, nn.Module]:
        """Return everything beside the model that a checkpoint must hold."""
        is_average = self._evaluated_model is not self.trainer.model
        average = {"average": self._evaluated_model} if is_average else {}
        return dict(self.trainer.checkpointed_modules()) | average

    def _evaluate(self, *, last: bool = False) -> None:
        """Evaluate, keep the best weights, decide whether to stop, report and save."""
        progress, schedule = self.progress, self.schedule
        if progress.evaluated == progress.step:  # the last epoch ended on an evaluation
            progress.finished = progress.finished or last
            self._save()
            return
        try:
            metrics = self._metrics()
        except ModelError as error:
            groups = ", ".join(non_finite_groups(self.trainer.model)) or "none"
            raise ModelError(
                f"Step {progress.step}: {error} {last_good(self.folder)}Parameter groups with "
                f"non-finite numbers: {groups}."
            ) from error
        if metrics:
            self._compare(metrics[schedule.metric])
        progress.evaluated = progress.step
        progress.finished = last or bool(schedule.patience and progress.bad >= schedule.patience)
        progress.seconds = time.monotonic() - self._began
        row: dict[str, float] = {
            "step": progress.step,
            "epoch": progress.epoch,
            "seconds": round(progress.seconds, 3),
        }
        row |= {name: total / self._count for name, total in self._sums.items()}
        row |= {f"valid/{name}": number for name, number in metrics.items()}
        row |= self.trainer.diagnostics()
        # Reported before it is saved: a process killed in between evaluates and reports it again.
        self.callback.on_row(row)
        self._sums, self._count = {}, 0
        self._save(best=progress.best_step == progress.step)

    def _compare(self, value: float) -> None:
        """Keep the weights if their validation value is the best, and count those that are not."""
        progress = self.progress
        if progress.step == 0:
            progress.start_value = value
        if value > progress.best_value:
            progress.best_value, progress.best_step = value, progress.step
            self._best = self._copy()
        if progress.step:
            progress.bad = 0 if value > progress.top else progress.bad + 1
            progress.top = max(value, progress.top)

    def _metrics(self) -> dict[str, float]:
        with gathered_embedding(self._evaluated_model):
            metrics = self.evaluate(self._evaluated_model)
        self.progress.work.validations += bool(metrics)
        return metrics

    def _interpolate(self) -> None:
        """Select the best weights between the start and the best (WiSE-FT, Wortsman et al. 2022).

        Where no step improved on the start, weights between the start and the last are evaluated.
        """
        progress, last = self.progress, self._copy()
        end_weights = self._best if progress.best_step else last
        progress.share = 1.0
        for share in _SHARES if progress.step else ():
            between = self._between(end_weights, share)
            self._evaluated_model.load_state_dict(between)
            value = self._metrics()[self.schedule.metric]
            if value > progress.best_value:
                progress.best_value, progress.share, self._best = value, share, between
                progress.best_step = progress.best_step or progress.step
        self._evaluated_model.load_state_dict(last)
        self._save(best=True)

    def _last(self) -> dict[str, Tensor]:
        """Return the weights of `select = "last"`."""
        share = self.schedule.share
        return self._copy() if share is None else self._between(self._copy(), share)

    def _between(self, weights: dict[str, Tensor], share: float) -> dict[str, Tensor]:
        """Return the weights at a position between the start (0) and these (1)."""
        return {
            name: torch.lerp(self.start[name], end, share) if end.is_floating_point() else end
            for name, end in weights.items()
        }

    def _copy(self) -> dict[str, Tensor]:
        state = self._evaluated_model.state_dict()
        return {name: tensor.detach().clone() for name, tensor in state.items()}

    def _save(self, *, best: bool = False) -> None:
        self._saved_at = time.monotonic()
        if self.progress.finished and self.schedule.select == "last":
            self._best, best = self._last(), True  # best.safetensors is what the training returns
        if self.folder is None or not (distributed.is_main_process() or self._sharded):
            return
        self.progress.seconds = self._saved_at - self._began
        state, model = asdict(self.progress), self.trainer.model
        if best:
            tensors = gathered_state(model, self._best)
            save_tensors(self.folder / "best.safetensors", tensors, state, model.ids)
        tensors = self._tensors()
        state["sums"], state["count"] = self._sums, self._count
        save_tensors(self.folder / "last.safetensors", tensors, state, model.ids)

    def _tensors(self) -> dict[str, Tensor]:
        """Return the weights, the state of the optimiser and the extra modules."""
        model = self.trainer.model
        tensors = gathered_state(model, model.state_dict())
        tensors |= optimiser_tensors(self.trainer.optimiser, model)
        for name, module in self._extra_modules().items():
            module_state = gathered_state(module, module.state_dict())
            tensors |= {f"{EXTRA_MODULE}{name}.{key}": v for key, v in module_state.items()}
        return tensors

    def save_result(self, folder: Path) -> None:
        """Write the model as it is now into a folder, as the result of a finished training."""
        model = self.trainer.model
        state = asdict(self.progress) | {"finished": True, "share": self.progress.share or 1.0}
        save_description(folder, model)
        save_tensors(folder / "best.safetensors", model.state_dict(), state, model.ids)
        state |= {"sums": {}, "count": 0}
        save_tensors(folder / "last.safetensors", self._tensors(), state, model.ids)

    def _restore(self, folder: Path) -> None:
        path = folder / "last.safetensors"
        tensors, state, _ = load_tensors(path)
        try:
            self._sums, self._count = dict(state.pop("sums")), int(state.pop("count"))
            self.progress = Progress(**state)
            model = self.trainer.model
            model.load_state_dict(local_state(model, model_weights(tensors)))
            for name, module in self._extra_modules().items():
                prefix = f"{EXTRA_MODULE}{name}."
                module_state = {
                    n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)
                }
                module.load_state_dict(local_state(module, module_state))
            fill_optimiser(self.trainer.optimiser, model, tensors)
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"{path} does not belong to this training ({str(error).splitlines()[0]}). Restore "
                f"it, or remove {folder} to start again."
            ) from error
        if (folder / "best.safetensors").exists():
            self._restore_best(folder / "best.safetensors")

    def _restore_best(self, path: Path) -> None:
        """Read the best weights, whose file may be newer than that of the last weights.

        The best of a later step is reached again by training. Interpolated weights are not,
        because they are the end of the training: their progress is taken from their own file.
        """
        best, state, _ = load_tensors(path)
        self._best = local_state(self.trainer.model, best)
        progress = self.progress
        if progress.finished and progress.share is None and state.get("share") is not None:
            saved = Progress(**state)
            for name in ("share", "best_value", "best_step", "work"):
                setattr(progress, name, getattr(saved, name))
            self._began = time.monotonic() - progress.seconds
            self._save()


def save_trained(
    folder: Path, model: Recommender, value: float, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write a model that was trained elsewhere as the result of a finished training.

    Args:
        folder: receives the description and both weights files.
        model: the model.
        value: its validation value.
        weights: the weights to write; None stands for those of the model.
    """
    unknown = Work(steps=-1)
    state = asdict(Progress(finished=True, best_value=value, work=unknown))
    tensors = model.state_dict() if weights is None else weights
    save_description(folder, model)
    save_tensors(folder / "best.safetensors", tensors, state, model.ids)
    state |= {"sums": {}, "count": 0}
    save_tensors(folder / "last.safetensors", tensors, state, model.ids)
