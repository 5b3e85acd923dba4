"""How several processes share a step: `torchrun --nproc-per-node N together.py [ITEMS [parts]]`.

Prints, for this number of processes, median seconds of a supervised step, of a GRPO step, of
summing the gradients alone and of ranking, and how many bytes the gradients have. With `parts` each
process holds a part of the item table; printed are the steps and the first process's peak memory
before them and after the supervised ones.
"""

import resource
import sys
import time

import numpy as np
from ours import SEED, median_seconds, steps_of
from scale import random_log

from recoach import distributed
from recoach.evaluation.evaluator import evaluate
from recoach.models.registry import build_model
from recoach.models.sharded_embedding import gather_embedding
from recoach.training.config import GRPOConfig
from recoach.training.supervised import PretrainConfig, SupervisedTrainer
from recoach.training.trainer import GRPOTrainer

_USERS = 8192


def measure(items: int) -> dict[str, float]:
    """Return the figures of this number of processes."""
    data = random_log(20_000, items, 12)
    model = build_model("sasrec", data, seed=SEED, dropout=0.0)
    trainer = SupervisedTrainer(model, PretrainConfig(batch_size=512), data)
    found = {"processes": float(distributed.data_world_size())}
    found["supervised_step_s"] = median_seconds(steps_of(trainer), 20)
    parameters = list(model.parameters())
    found["gradient_bytes"] = 4.0 * sum(p.numel() for p in parameters)
    found["sum_gradients_s"] = median_seconds(
        lambda: distributed.all_reduce_gradients(parameters), 20
    )
    tuner = GRPOTrainer(
        model,
        args=GRPOConfig(temperature=1.0, batch_size=512, reward_smoothing=0),
        train_dataset=data,
    )
    found["grpo_step_s"] = median_seconds(steps_of(tuner), 20)
    started = time.perf_counter()
    evaluate(model, data, "test", users=np.arange(_USERS))
    found[f"rank_{_USERS}_users_s"] = time.perf_counter() - started
    return found


def measure_parts(items: int) -> dict[str, float]:
    """Return the figures of this number of processes that divide the catalogue."""
    data = random_log(max(20_000, items // 12), items, 12)
    found = {"processes": float(distributed.world_size()), "items": float(data.n_items)}
    found["before_mb"] = _peak_mb()
    model = build_model("sasrec", data, seed=SEED, dropout=0.0)
    with distributed.replicated_batches():
        trainer = SupervisedTrainer(model, PretrainConfig(batch_size=512, shard_items=True), data)
        found["supervised_step_s"] = median_seconds(steps_of(trainer), 5)
        found["peak_mb"] = _peak_mb()
        del trainer
        gather_embedding(model)
        args = GRPOConfig(temperature=1.0, batch_size=512, shard_items=True, reward_smoothing=0)
        tuner = GRPOTrainer(model, args=args, train_dataset=data)
        found["grpo_step_s"] = median_seconds(steps_of(tuner), 5)
    return found


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    with distributed.process_group():
        chosen = measure_parts if "parts" in sys.argv else measure
        figures = chosen(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
        if distributed.is_main_process():
            print({name: round(value, 4) for name, value in figures.items()})
