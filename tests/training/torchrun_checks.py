"""What several processes do together, for `test_parallel.py`: run by it, one process each.

`python together.py OUT` joins the others as under torchrun; the first one writes what came out.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import torch

from recoach import distributed
from recoach.data.batches import EdgeBatches
from recoach.data.queries import Seen
from recoach.data.split import leave_last_out
from recoach.evaluation import evaluator
from recoach.evaluation.evaluator import evaluate, top_lists
from recoach.experiments.trainer import GRPOTrainer
from recoach.models import losses
from recoach.models.base import Embeddings
from recoach.models.distribution import Block
from recoach.models.registry import build_model
from recoach.models.sharded_softmax import ShardedDistribution, local_rows
from recoach.policy.objective import Clip, exact_surrogate, log_weight
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.registry import ALGORITHMS
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext
from recoach.training.crossfit import log_p_of_places
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from recoach.training.supervised import SupervisedTrainer
from toy_logs import block_graph, with_event_types

USERS, LENGTH = 37, 9
DATASET = leave_last_out(with_event_types(block_graph(USERS, 30, n_blocks=2, length=LENGTH)))
ENCODER = {"dim": 8, "layers": 1, "heads": 2, "inner_dim": 16, "max_length": 6, "dropout": 0.0}
ROUGH = {"batch_size": 40, "learning_rate": 0.02, "epochs": 2, "eval_steps": 3, "patience": 0}
SAMPLED_LOSS = {"dim": 8, "dropout": 0.0, "item_bias": True, "negatives": 12}
SPARSE = {"optim": "adagrad", "momentum": 0.4, "max_grad_norm": 0.3}
"""The look-ups of tables have sparse gradients."""
BASES = {
    "sasrec": ("sasrec", ENCODER),
    "gru4rec": ("gru4rec", {"dim": 8, "hidden_dim": 8, "dropout": 0.0}),
    "gru4rec, sampled_ce": ("gru4rec", SAMPLED_LOSS | {"loss": "sampled_ce"}),
    "gru4rec, bpr_max": ("gru4rec", SAMPLED_LOSS | {"loss": "bpr_max"}),
    "lightgcn, ce": ("lightgcn", {"dim": 8}),
    "lightgcn, sampled_ce": ("lightgcn", {"dim": 8, "loss": "sampled_ce", "negatives": 12}),
    "ngcf, ce": ("ngcf", {"dim": 8, "dropout": 0.0}),
    "prl": ("prl", ENCODER | {"prompt_dropout": 0.0, "event_embedding": True}),
    "gsau": ("gsau", ENCODER | {"user_item_uniformity": False, "cross_view": 0.2}),
}
PRETRAINED = {
    "gru4rec, bpr_max": SPARSE,
    "gru4rec, sampled_ce": SPARSE | {"momentum": 0.0},
    "prl": {"event_weights": {"view": 1, "buy": 3.5}},
}
"""Base -> settings of its training beside `ROUGH`."""
DRAWN = {"estimator": "sampled", "loss_type": "grpo", "num_generations": 4}
SLATES = {"estimator": "slate", "loss_type": "grpo", "num_generations": 4, "slate_length": 3}
BOTH = {"reward_funcs": ("future", "novelty")}
NEGATIVE = {
    "reward_funcs": ("future", "next"),
    "reward_weights": (1.0, -2.0),
    "loss_type": "grpo",
    "whitening": "state",
}
WEIGHTED = {"critic_warmup_steps": 3, "conservative_coef": 0.3}
TUNED = {
    "exact": {},
    "exact with all that is added": {"beta": 0.1, "entropy_coef": 0.1, "num_iterations": 2} | BOTH,
    "exact, rewards made alike": BOTH | {"multi_objective_aggregation": "normalize_then_sum"},
    "exact, plain weights": {"normalize_weights": False},
    "exact, rewards of both signs": NEGATIVE | {"num_iterations": 2, "beta": 0.1},
    "exact, own loss along": {"sft_coef": 0.5},
    "stratified": {"estimator": "stratified", "num_negatives": 8},
    "sampled": DRAWN | {"beta": 0.1, "num_iterations": 2},
    "sampled, scaled together": DRAWN | {"scale_rewards": "batch"},
    "slate": SLATES,
    "ppo": {"num_generations": 4},
    "top_k_off_policy": {},
    "top_k_off_policy, head": {"behaviour": "head", "horizon": 1, "reward_funcs": ("return",)},
    "sqn": {"target": "remaining", "conservative_coef": 0.1},
    "sqn_actor_critic": WEIGHTED | {"target": "sarsa"},
    "sa2c": WEIGHTED | {"num_negatives": 0},
    "mcrl": {"num_negatives": 0, "transition_coef": 0.3},
    "dqn": {"num_negatives": 0, "target_sync_steps": 2},
    "sft": {"label_smoothing": 0.1},
    "trpo": {"old_model_sync_steps": 3},
    "trpo, batch": {"radius": "batch", "old_model_sync_steps": 3},
    "off_policy_actor_critic": {"num_negatives": 0, "tau": 0.2},
    "ufrec": {"confidence_temperature": 0.3},
    "exact, shuffled rewards": {"shuffle_rewards": "last_item"},
    "lightgcn": {},
    "gsau": {},
}
DIVIDED = {"shard_items": True, "max_steps": 10}
ADDED = {"beta": 0.1, "entropy_coef": 0.1, "num_iterations": 2, "sft_coef": 0.5}
DIVIDED_TUNED = {
    "exact": {},
    "exact with all that is added": ADDED | BOTH | {"ref_model_sync_steps": 4},
    "cosines": {"logits": "cosine", "optim": "sgd", "ema_decay": 0.0, "trainable": ("item",)},
}

DRAWN_BASES = {"lightgcn": {"loss": "bpr"}, "bprmf": {}}
"""Bases whose negatives each process draws for its rows."""


class Curve(Callback):
    """Notes the loss of every step and every evaluation; only the first process is told."""

    def __init__(self):
        self.losses, self.values, self.work = [], [], []

    def on_step(self, step, logs):
        self.losses.append(logs["loss"])

    def on_row(self, row):
        left_out = ("seconds", "entropy")  # entropy is of the first states of each process
        self.values += [v for name, v in sorted(row.items()) if name not in left_out]

    def on_end(self, result):
        work = result.work
        self.work = [work.updates, work.states, work.encoder_passes, work.validations]


def outcome(model, curve):
    numbers = {"losses": curve.losses, "values": curve.values, "work": curve.work}
    found = {name: torch.tensor(values, dtype=torch.float64) for name, values in numbers.items()}
    return found | {f"weights/{name}": tensor for name, tensor in model.state_dict().items()}


def trained(kind, folder=None, config=None, **changes):
    name, settings = BASES.get(kind, (kind, {"dim": 8}))
    model, curve = build_model(name, DATASET, **settings | changes, seed=1), Curve()
    context = RunContext(seed=3, callback=curve, folder=folder, resume=True)
    pretrain(model, DATASET, PretrainConfig(**ROUGH | (config or {})), context)
    return outcome(model, curve)


def tuned(kind, args, folder=None):
    algorithm = kind.partition(",")[0]
    config = ALGORITHMS[algorithm].config if algorithm in ALGORITHMS else GRPOConfig
    name = kind if kind in ("lightgcn", "gsau") else "sasrec"
    settings = BASES[name][1] if name in BASES else {"dim": 8}
    model, curve = build_model(name, DATASET, **settings, seed=1), Curve()
    context = RunContext(seed=3, callback=curve, folder=folder, resume=True)
    GRPOTrainer(model, args=config(**ROUGH | args), train_dataset=DATASET, context=context).train()
    return outcome(model, curve)


def judged():
    model = build_model("sasrec", DATASET, **ENCODER, seed=1)
    evaluation = evaluate(model, DATASET)
    lists = top_lists(model, DATASET, evaluation.targets, 5)
    values = {name: torch.from_numpy(of_users) for name, of_users in evaluation.metrics.items()}
    return values | {"ranks": torch.from_numpy(evaluation.ranks), "lists": torch.from_numpy(lists)}


def crossfit():
    """Return what a base makes of each training item, each process judging some of them."""
    model = build_model("sasrec", DATASET, **ENCODER, seed=1)
    every = np.ones(len(DATASET.train.values), dtype=np.bool_)
    return {"log_p": torch.from_numpy(log_p_of_places(model, DATASET, every))}


def supervised_losses():
    """Return losses and gradients of pairs that are drawn nowhere, each process taking a share.

    Alone, the pairs stand in the order in which the shares of PROCESSES do.
    """
    generator = torch.Generator().manual_seed(0)
    left, right, third = torch.randn(3, 21, 4, generator=generator)
    order = torch.cat([torch.arange(21)[first::PROCESSES] for first in range(PROCESSES)])
    left, right, third = (part[order].requires_grad_() for part in (left, right, third))
    lengths = [len(range(first, 21, PROCESSES)) for first in range(PROCESSES)]
    start = sum(lengths[: distributed.data_rank()])
    stop = start + lengths[distributed.data_rank()] if distributed.data_world_size() > 1 else 21
    a, b, c = left[start:stop], right[start:stop], third[start:stop]
    good, bad = (a * b).sum(dim=1), (a * c).sum(dim=1)
    graph = build_model("lightgcn", DATASET, dim=8)
    found = {
        "bpr": losses.bpr(good, bad),
        "bce": losses.binary_cross_entropy(good, bad[:, None]),
        "sampled": losses.sampled_cross_entropy(good, bad[:, None]),
        "alignment": losses.alignment(a, b),
        "uniformity": losses.uniformity(a),
        "cross": losses.cross_uniformity(a, b, 3),
        "penalty": graph._penalty((a, b, c)),
    }
    results = {}
    for name, loss in found.items():
        slopes = torch.autograd.grad(
            loss, [left, right, third], allow_unused=True, retain_graph=True
        )
        slopes = [torch.zeros_like(left) if slope is None else slope for slope in slopes]
        results[name] = torch.tensor(distributed.data_sum(loss.item()))
        results[f"{name}/slopes"] = distributed.all_reduce_sum(torch.stack(slopes))
    return results


def sharded():
    """Return losses and gradients of softmaxes whose items lie with several processes.

    Alone, by the plain formula.
    """
    draw = torch.Generator().manual_seed(0)
    users, items, there = (torch.randn(n, 4, generator=draw) for n in (11, 19, 19))
    users, here = users.requires_grad_(), local_rows(19)
    rows = (items[here] if distributed.data_world_size() > 1 else items).clone().requires_grad_()
    # State 5 has seen all that lies with the last process.
    seen = Seen(torch.tensor([0, 0, 2, *[5] * 15, 10]), torch.tensor([1, 18, 4, *range(4, 19), 9]))
    targets, values = torch.arange(11) % 4, torch.arange(19.0)
    found = {}
    for name, temperature, mask, asked in SOFTMAXES:
        if distributed.data_world_size() > 1:
            settings = {"start": here.start, "seen": seen if mask else None}
            settings |= {"temperature": temperature}
            base = ShardedDistribution(Embeddings(users.detach(), there[here]), **settings)

            def loss(block, base_block, asked=asked):
                states = torch.arange(len(block))
                picked = block.log_p(states, targets[block.which])
                return asked(picked, block, base_block, values)

            policy = ShardedDistribution(Embeddings(users, rows), **settings)
            total = policy.loss(loss, base)
        else:
            plain, base = (Plain(users @ i.T / temperature, mask and seen) for i in (rows, there))
            picked = plain.log[torch.arange(11), targets]
            total = asked(picked, plain, base, values)
        slopes = torch.autograd.grad(total, [users, rows])
        found |= {name: total.detach(), f"{name}/users": slopes[0]}
        found[f"{name}/items"] = distributed.all_gather(slopes[1])
    return found


class Plain:
    """What a block answers, by the formulas."""

    def __init__(self, logits, seen):
        hidden = torch.zeros(logits.shape, dtype=torch.bool)
        if seen:
            hidden[seen] = True
        self.log = logits.masked_fill(hidden, -torch.inf).log_softmax(dim=1)
        self.shown = self.log.masked_fill(hidden, 0)
        self.p = self.log.exp()

    def entropies(self):
        return -(self.p * self.shown).sum(dim=1)

    def expectation(self, values):
        return self.p @ values

    def kl(self, other):
        return (self.p * (self.shown - other.shown.detach())).sum(dim=1)

    def cross_entropy(self, other):
        return -(other.p.detach() * self.shown).sum(dim=1)


def surrogate(log_p):
    """Return the exact surrogate at a ratio that is not 1, as in a second update on a batch."""
    old = log_p.detach() - 0.05
    return exact_surrogate(log_p, old, log_weight(old, "grpo"), Clip(0.2, 0.2)).value.sum()


SOFTMAXES = (
    ("cross-entropy", 1.0, False, lambda log_p, *_: -log_p.sum()),
    ("exact grpo", 0.7, True, lambda log_p, *_: -surrogate(log_p)),
    (
        "trust region",
        0.7,
        True,
        lambda log_p, block, other, _: block.cross_entropy(other).sum() - log_p.sum(),
    ),
    (
        "exact grpo with all that is added",
        0.7,
        True,
        lambda log_p, block, other, values: (
            block.kl(other).sum()
            - surrogate(log_p)
            - block.entropies().sum()
            - block.expectation(values).sum()
        ),
    ),
)


class Stopped(BaseException):
    pass


def interrupted(trainer, folder, run):
    """Return what comes of a training that all processes leave in its fifth step and resume.

    What they left is copied beside it.
    """
    plain, seeds = trainer.step, []

    def stopping(self, batch, generator):
        seeds.append(torch.initial_seed())
        if len(seeds) == 5:
            raise Stopped
        return plain(self, batch, generator)

    trainer.step = stopping
    try:
        run()
    except Stopped:
        if distributed.is_main_process():
            shutil.copytree(folder, folder.with_name("left"))
        return run() | {"seeds": torch.tensor(seeds)}
    finally:
        trainer.step = plain


def divided(folder):
    """Return what comes of models whose item table lies with several processes."""
    found = {kind: trained(kind, None, DIVIDED, dropout=0.3) for kind in ("sasrec", "gru4rec")}
    found |= {kind: tuned("exact", DIVIDED | args) for kind, args in DIVIDED_TUNED.items()}
    args = DIVIDED | ADDED
    found["whole"] = tuned("exact", args, folder / "whole")
    part = folder / "part"
    found["interrupted"] = interrupted(GRPOTrainer, part, lambda: tuned("exact", args, part))
    return {f"divided {name}": results for name, results in found.items()}


def held():
    """Return how many rows of the item table, its gradient and its moments are here."""
    model = build_model("sasrec", DATASET, **ENCODER, seed=1)
    trainer = SupervisedTrainer(model, PretrainConfig(**ROUGH, shard_items=True), DATASET)
    with distributed.replicated_batches():
        trainer.step(next(trainer.epoch(torch.Generator())), torch.Generator())
    table = model.items.weight
    parts = (table, table.grad, trainer.optimiser.state[table]["exp_avg"])
    return {"held": torch.tensor([len(part) for part in parts])}


def few_rows():
    """Return how many edges the batches of this process hold, where all but one make a batch."""
    batches = EdgeBatches(DATASET.train, batch_size=len(DATASET.train.values) - 1)
    return {"edges": torch.tensor([len(b.targets) for b in batches.epoch(torch.Generator())])}


def numbers():
    """Return what is drawn for the own share, and then by all alike."""
    common = torch.Generator().manual_seed(1)
    own = torch.rand(3, generator=distributed.rank_generator(common))
    return {"own": own, "common": torch.rand(3, generator=common)}


def everything(folder):
    """Return all that is compared, by name."""
    evaluator._STATES_AT_ONCE = 5
    Block.draw = lambda self, count, _: self.p.topk(count, dim=1).indices.sort(dim=1).values
    Block.draw_lists = lambda self, groups, length, _: self.p.topk(
        groups * length, dim=1
    ).indices.view(len(self), groups, length)
    found = {"judged": judged(), "losses": supervised_losses(), "few rows": few_rows()}
    found |= {"rows": held(), "crossfit": crossfit()}
    found |= {"numbers": numbers(), "shards": sharded()}
    found |= {f"base {kind}": trained(kind, config=PRETRAINED.get(kind)) for kind in BASES}
    found |= {f"tuned {kind}": tuned(kind, args) for kind, args in TUNED.items()}
    found |= {f"drawn {kind}": trained(kind, **s) for kind, s in DRAWN_BASES.items()}
    permuted = {"confidence": "permuted", "confidence_temperature": 0.02, "future_coef": 1.0}
    found["drawn ufrec"] = tuned("ufrec", permuted)
    rough = {"dropout": 0.4, "loss": "bce"}
    found["whole"] = trained("sasrec", folder / "whole", **rough)
    part = folder / "part"
    found["interrupted"] = interrupted(
        SupervisedTrainer, part, lambda: trained("sasrec", part, **rough)
    )
    return found | divided(folder / "divided")


PROCESSES = 2

if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    out, PROCESSES = Path(sys.argv[1]), int(sys.argv[2])
    with distributed.process_group():
        results = everything(out / "runs")
        torch.save(results, out / f"{distributed.data_rank()}.pt")
