"""Learning curves with early stopping, one JSON line per epoch; interrupted runs resume."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import EpochTimer

PATIENCE, MAX_EPOCHS = 10, 200


def ndcg_at_10(states: torch.Tensor, items: torch.Tensor, target: torch.Tensor) -> float:
    """Return NDCG@10 of one target per row among all items; a target of -1 counts as a miss."""
    target = target.to(states.device)
    gains = torch.zeros(len(states), device=states.device)
    for rows in torch.arange(len(states), device=states.device).split(512):
        scores = states[rows] @ items.T
        target_scores = scores.gather(1, target[rows].clamp(min=0)[:, None])
        rank = (scores >= target_scores).sum(1)
        hit = (rank <= 10) & (target[rows] >= 0)
        gains[rows] = torch.where(hit, 1 / torch.log2(rank + 1.0), 0.0)
    return float(gains.double().mean())


class Curve:
    """A learning curve stored as the lines of a file, with a checkpoint in the same folder."""

    def __init__(self, out: Path) -> None:
        self.out, self.checkpoint = out, out.with_suffix(".pth")
        lines = out.read_text().splitlines() if self.checkpoint.exists() else []
        self.values = [json.loads(line)["ndcg@10"] for line in lines]

    @property
    def is_complete(self) -> bool:
        """Whether training has stopped early or reached the last epoch."""
        best = self.values.index(max(self.values)) if self.values else 0
        return len(self.values) >= MAX_EPOCHS or len(self.values) - 1 - best >= PATIENCE

    def add(self, times: dict[str, float], value: float) -> None:
        self.values.append(value)
        line = {"epoch": len(self.values)} | times | {"ndcg@10": value}
        rounded = {key: round(number, 6) for key, number in line.items()}
        with self.out.open("a" if len(self.values) > 1 else "w") as lines:
            lines.write(json.dumps(rounded) + "\n")


class Stopwatch:
    """Wall-clock and CPU seconds since it was created."""

    def __init__(self) -> None:
        self.start, self.cpu_start = time.perf_counter(), time.process_time()

    def read(self, name: str) -> dict[str, float]:
        return {
            f"{name}_s": time.perf_counter() - self.start,
            f"{name}_cpu_s": time.process_time() - self.cpu_start,
        }


class CurveCallback(Curve):
    """A curve of a Lightning trainer; a mixin for Lightning's `Callback`."""

    def __init__(self, out: Path, ndcg: Callable[[torch.nn.Module], float]) -> None:
        super().__init__(out)
        self.ndcg, self.resume = ndcg, bool(self.values)

    def on_train_epoch_start(self, trainer, module) -> None:
        if self.resume:
            saved = torch.load(self.checkpoint, map_location="cpu")
            module.load_state_dict(saved["module"])
            trainer.optimizers[0].load_state_dict(saved["optimizer"])
            torch.set_rng_state(saved["rng"])
            torch.cuda.set_rng_state_all(saved.get("cuda_rng", []))
            self.resume = False
        self.watch = Stopwatch()

    def on_train_epoch_end(self, trainer, module) -> None:
        times = self.watch.read("train")
        loss = next(v for k, v in trainer.callback_metrics.items() if k.startswith("train_loss"))
        watch = Stopwatch()
        module.eval()
        with torch.no_grad():
            value = self.ndcg(module)
        module.train()
        times |= watch.read("valid") | {"loss": float(loss)}
        weights = {"module": module.state_dict(), "optimizer": trainer.optimizers[0].state_dict()}
        rngs = {"rng": torch.get_rng_state(), "cuda_rng": torch.cuda.get_rng_state_all()}
        torch.save(weights | rngs, self.checkpoint)
        self.add(times, value)
        trainer.should_stop = self.is_complete


class TimerCallback:
    """Times epochs or steps of a Lightning trainer; a mixin for Lightning's `Callback`."""

    def __init__(self, epochs: int, steps: int) -> None:
        self.timer = EpochTimer(epochs, steps)

    def on_train_epoch_start(self, trainer, module) -> None:
        self.timer.begin_epoch(trainer.num_training_batches)

    def on_train_batch_end(self, trainer, *_: object) -> None:
        trainer.should_stop = self.timer.end_step()

    def on_train_epoch_end(self, trainer, module) -> None:
        trainer.should_stop = self.timer.end_epoch()
