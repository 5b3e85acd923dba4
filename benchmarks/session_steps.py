"""Time training steps of Recoach's session models: `session_steps.py MODEL FOLDER OUT [KEY=VALUE]`.

FOLDER contains `train.txt.gz` (session item …). Only steps are timed, with the clock of the process
in one thread, as in `peers/official/run.py`.
"""

import itertools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from peers.common import EpochTimer
from recoach_run import SEED, training_step, write_result
from session_baselines import read_set

from recoach.data.dataset import Dataset
from recoach.models.losses import cross_entropy
from recoach.models.registry import build_model
from recoach.models.session.base import SessionModel
from recoach.models.session.graph import session_graph
from recoach.training.allocator import keep_freed_memory
from recoach.training.loop import stream
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.supervised import SupervisedTrainer

torch.set_num_threads(1)

SESSIONS = {"optim": "adam", "weight_decay": 1e-5, "rows": "prefix"}
WIDTH = {"dim": 100, "max_length": 69}
ORIGINAL = WIDTH | {"hidden_dim": 100, "architecture": "original", "negatives": 2048}
ORIGINAL |= {"dropout": 0.5, "hidden_dropout": 0.3}
SETTINGS: dict[str, tuple[str, dict[str, object], dict[str, object]]] = {
    "srgnn": ("srgnn", WIDTH, SESSIONS),
    "fgnn": ("fgnn", WIDTH, SESSIONS),
    "gag": ("gag", WIDTH | {"users": False}, SESSIONS),
    "gcegnn": ("gcegnn", WIDTH | {"dropout_gcn": 0.2, "dropout_global": 0.5}, SESSIONS),
    "gcegnn2": (
        "gcegnn",
        WIDTH | {"hops": 2, "dropout_gcn": 0.2, "dropout_global": 0.5},
        SESSIONS,
    ),
    "cotrec": ("cotrec", WIDTH | {"con": 0.1, "diff": 0.5, "eps": 0.5}, SESSIONS),
    "cotrec_base": ("cotrec", WIDTH, SESSIONS),
    "tagnn": ("tagnn", WIDTH, SESSIONS),
    "fgnn3": ("fgnn", WIDTH | {"layers": 3}, SESSIONS),
    "gru4rec_bprmax": (
        "gru4rec",
        ORIGINAL | {"loss": "bpr_max", "sampling_alpha": 0.3, "bpreg": 0.9, "elu": 1.0},
        {"optim": "adagrad", "learning_rate": 0.05, "momentum": 0.15},
    ),
    "gru4rec_ce": (
        "gru4rec",
        ORIGINAL | {"loss": "sampled_ce", "sampling_alpha": 0.5, "logq": 1.0},
        {"optim": "adagrad", "learning_rate": 0.05},
    ),
    "gru4rec": ("gru4rec", WIDTH | {"hidden_dim": 100}, SESSIONS),
}
"""Task -> model, its settings, settings of training."""


def measure(name: str, dataset: Dataset, steps: int, batch: int) -> dict[str, object]:
    """Return the CPU seconds of an epoch, from the mean of `steps` steps."""
    model, settings, training = SETTINGS[name]
    network = build_model(model, dataset, seed=SEED, **settings)
    config = PretrainConfig(batch_size=batch, **training)  # type: ignore[arg-type]
    trainer = SupervisedTrainer(network, config, dataset)
    step, timer = training_step(trainer), EpochTimer(0, steps, clock=time.process_time)
    timer.begin_epoch(len(trainer))
    while not timer.is_done:
        step()
        timer.end_step()
    return {"seconds_per_epoch": timer.result, "batches_per_epoch": len(trainer)}


def parts(name: str, dataset: Dataset, steps: int, batch: int) -> dict[str, object]:
    """Return the CPU seconds of an epoch for each part of a step of a session-graph model.

    The softmax is cross-entropy with its gradients, forward and backward; the encoder is everything
    else between the graph and the gradients of all weights.
    """
    model, settings, training = SETTINGS[name]
    network = build_model(model, dataset, seed=SEED, **settings)
    if not isinstance(network, SessionModel):
        raise SystemExit(f"{name}: parts are measured for session-graph models.")
    config = PretrainConfig(batch_size=batch, **training)  # type: ignore[arg-type]
    trainer = SupervisedTrainer(network, config, dataset)
    network.train()
    seconds = dict.fromkeys(("batch", "graph", "encoder", "softmax", "optimiser"), 0.0)
    clock = _Clock(seconds)
    batches = itertools.chain.from_iterable(
        trainer.epoch(stream(SEED, "batches", epoch)) for epoch in itertools.count()
    )
    for number in range(EpochTimer.warm_up_steps + steps):
        if number == EpochTimer.warm_up_steps:
            seconds.update(dict.fromkeys(seconds, 0.0))
        states = clock.add("batch", lambda: next(batches)).states
        clock.add("graph", lambda queries=states.queries: session_graph(queries, network.n_items))
        users, items = clock.add("encoder", lambda queries=states.queries: network.embed(queries))
        leaves = [tensor.detach().requires_grad_() for tensor in (users, items)]
        clock.add(
            "softmax",
            lambda leaves=leaves, targets=states.targets: cross_entropy(
                *leaves, targets, workspace=network.workspace
            ).backward(),
        )
        trainer.optimiser.zero_grad(set_to_none=True)
        gradients = [leaf.grad for leaf in leaves]
        clock.add(
            "encoder",
            lambda users=users, items=items, gradients=gradients: torch.autograd.backward(
                (users, items), gradients
            ),
        )
        clock.add("optimiser", trainer.optimiser.step)
    seconds["encoder"] -= seconds["graph"]  # `embed` builds the graph again
    epoch = {name: value / steps * len(trainer) for name, value in seconds.items()}
    total = sum(epoch.values())
    return {"parts": epoch, "ratio": total / (epoch["softmax"] + epoch["optimiser"])}


class _Clock:
    """Adds the CPU seconds of calls to the sums of their parts."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds

    def add(self, part: str, task: Callable[[], object]) -> object:
        start = time.process_time()
        result = task()
        self.seconds[part] += time.process_time() - start
        return result


def main() -> None:
    task, folder, out, *rest = sys.argv[1:]
    options = dict(option.split("=") for option in rest)
    steps, batch = int(options.get("steps", 64)), int(options.get("batch", 100))
    dataset = read_set(Path(folder)).dataset
    keep_freed_memory()  # as the training loop does
    program = parts if "parts" in options else measure
    write_result(Path(out), program(task, dataset, steps, batch))


if __name__ == "__main__":
    main()
