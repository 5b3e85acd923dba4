"""How several processes share a step: `torchrun --nproc-per-node N together.py [ITEMS]`.

Prints, for this number of processes, median seconds of a supervised step, of a GRPO step, of
summing the gradients alone and of ranking, and how many bytes the gradients have.
"""

import sys
import time

import numpy as np
from ours import SEED, median_seconds, steps_of
from scale import random_log

from recoach import parallel
from recoach.evaluation.evaluator import evaluate
from recoach.models.registry import build_model
from recoach.training.config import GRPOConfig
from recoach.training.grpo import GRPOTrainer
from recoach.training.pretrain import PretrainConfig, SupervisedTrainer

_USERS = 8192


def measure(items: int) -> dict[str, float]:
    """Return the figures of this number of processes."""
    data = random_log(20_000, items, 12)
    model = build_model("sasrec", data, seed=SEED, dropout=0.0)
    trainer = SupervisedTrainer(model, PretrainConfig(batch_size=512), data)
    found = {"processes": float(parallel.size())}
    found["supervised_step_s"] = median_seconds(steps_of(trainer), 20)
    parameters = list(model.parameters())
    found["gradient_bytes"] = 4.0 * sum(p.numel() for p in parameters)
    found["sum_gradients_s"] = median_seconds(lambda: parallel.add_gradients(parameters), 20)
    tuner = GRPOTrainer(model, args=GRPOConfig(temperature=1.0), train_dataset=data)
    found["grpo_step_s"] = median_seconds(steps_of(tuner), 20)
    started = time.perf_counter()
    evaluate(model, data, "test", users=np.arange(_USERS))
    found[f"rank_{_USERS}_users_s"] = time.perf_counter() - started
    return found


if __name__ == "__main__":
    with parallel.joined():
        figures = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
        if parallel.first():
            print({name: round(value, 4) for name, value in figures.items()})
