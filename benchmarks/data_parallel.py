"""Time distributed training: `torchrun --nproc-per-node N data_parallel.py [ITEMS [parts]]`.

Prints the median seconds of a supervised step, of a GRPO step, of the all-reduce of the gradients
and of ranking, and the size of the gradients in bytes. With `parts`, the item table is sharded over
the ranks, and the output is the median seconds of the two steps and the peak memory of rank 0
before training and after the supervised steps.
"""

import resource
import sys
import time

import numpy as np
from recoach_run import SEED, median_seconds, training_step
from scale import random_log

from recoach import distributed
from recoach.evaluation.evaluator import evaluate
from recoach.experiments.trainer import GRPOTrainer
from recoach.models.registry import build_model
from recoach.models.sharded_embedding import gather_embedding
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.supervised import SupervisedTrainer

_N_RANKED_USERS = 8192


def measure(items: int) -> dict[str, float]:
    """Return the figures of data-parallel training."""
    data = random_log(20_000, items, 12)
    model = build_model("sasrec", data, seed=SEED, dropout=0.0)
    trainer = SupervisedTrainer(model, PretrainConfig(batch_size=512), data)
    result = {"processes": float(distributed.data_world_size())}
    result["supervised_step_s"] = median_seconds(training_step(trainer), 20)
    parameters = list(model.parameters())
    result["gradient_bytes"] = 4.0 * sum(p.numel() for p in parameters)
    result["sum_gradients_s"] = median_seconds(
        lambda: distributed.all_reduce_gradients(parameters), 20
    )
    tuner = GRPOTrainer(
        model,
        args=GRPOConfig(temperature=1.0, batch_size=512, reward_smoothing=0),
        train_dataset=data,
    )
    result["grpo_step_s"] = median_seconds(training_step(tuner), 20)
    start = time.perf_counter()
    evaluate(model, data, "test", users=np.arange(_N_RANKED_USERS))
    result[f"rank_{_N_RANKED_USERS}_users_s"] = time.perf_counter() - start
    return result


def measure_sharded(items: int) -> dict[str, float]:
    """Return the figures of training with a sharded item table."""
    data = random_log(max(20_000, items // 12), items, 12)
    result = {"processes": float(distributed.world_size()), "items": float(data.n_items)}
    result["before_mb"] = _peak_mb()
    model = build_model("sasrec", data, seed=SEED, dropout=0.0)
    with distributed.replicated_batches():
        trainer = SupervisedTrainer(model, PretrainConfig(batch_size=512, shard_items=True), data)
        result["supervised_step_s"] = median_seconds(training_step(trainer), 5)
        result["peak_mb"] = _peak_mb()
        del trainer
        gather_embedding(model)
        args = GRPOConfig(temperature=1.0, batch_size=512, shard_items=True, reward_smoothing=0)
        tuner = GRPOTrainer(model, args=args, train_dataset=data)
        result["grpo_step_s"] = median_seconds(training_step(tuner), 5)
    return result


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    with distributed.process_group():
        task = measure_sharded if "parts" in sys.argv else measure
        figures = task(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
        if distributed.is_main_process():
            print({name: round(value, 4) for name, value in figures.items()})
