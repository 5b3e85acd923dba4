"""Reinforcement learning on logs with events, each algorithm beside its supervised counterpart.

Two protocols: by time, and random users as in Xin et al. 2020 (SQN). Every event after a user's
first is a target, items may repeat, and nothing is masked. The base of a cell is what its algorithm
has to exceed: the same model trained by cross-entropy, for algorithms that weight the cross-entropy
by Q values by cross-entropy with weights by event type. `scratch` cells train a model anew with the
loss of the algorithm; the others fine-tune the base, and a control continues its training.
"""

from typing import Final

from recoach.reproduction.paper_cells import Cell, Profile, Source, Tables

BACKBONES: Final = ("sasrec", "gru4rec")

EVENT_REWARDS: Final[dict[str, float]] = {"view": 0.2, "cart": 1.0, "buy": 1.0}
"""Rewards of the event types; Xin et al. give a click 0.2 and a cart or a purchase 1."""
EVENT_WEIGHTS: Final[dict[str, float]] = {"view": 1.0, "cart": 3.5, "buy": 3.5}
"""Weights of the cross-entropy: 3.5 is the ratio of the mean returns of carts and views with these
rewards and gamma = 0.5, measured on one week of this log."""

_BY_TIME: Final[Tables] = {"kind": "time", "target": "successive"}
_BY_USERS: Final[Tables] = {"kind": "users", "target": "successive"}
_SPLITS: Final[dict[str, Tables]] = {"time": _BY_TIME, "users": _BY_USERS}

_MODELS: Final[dict[str, Tables]] = {
    "sasrec": {"name": "sasrec"},
    "gru4rec": {"name": "gru4rec", "architecture": "original", "dim": 64, "dropout": 0.3},
}
_PRETRAIN: Final[Tables] = {
    "epochs": 60,
    "batch_size": 512,
    "learning_rate": 1e-3,
    "patience": 5,
    "metric": "ndcg@10",
    "ema_decay": 0.0,
}
_BUDGETS: Final[dict[str, Tables]] = {
    "sasrec": {},
    "gru4rec": {"learning_rate": 5e-3, "patience": 8},
}
"""What differs from `_PRETRAIN` and `_SCRATCH`: with SASRec's rate GRU4Rec's validation does not
rise within five epochs."""
_ACTION: Final[Tables] = {
    "reward_funcs": ["events"],
    "event_weights": EVENT_REWARDS,
    "horizon": 1,
}
"""The reward of the logged action by its event type."""
_RETURN: Final[Tables] = {
    "reward_funcs": ["return"],
    "event_weights": EVENT_REWARDS,
    "discount": 0.5,
    "horizon": 1,
    "reward_smoothing": 0.0,
}
"""The return of the logged action, with the discount of the algorithms that learn Q."""
_SCRATCH: Final[Tables] = {
    "start": "scratch",
    "temperature": 1.0,
    "epochs": 60,
    "batch_size": 512,
    "learning_rate": 1e-3,
    "patience": 5,
    "ema_decay": 0.0,
    "interpolate": False,
}
"""The budget and the selection of the base."""

_FROM_SCRATCH: Final[dict[str, Tables]] = {
    "sqn": {"algorithm": "sqn"},
    "snqn": {"algorithm": "snqn"},
    "sqn-eval": {"algorithm": "sqn", "target": "sarsa"},
    "sqn-fut": {"algorithm": "sqn", "target": "remaining"},
    "sqn-placebo": {"algorithm": "sqn", "target": "random"},
}
"""Cross-entropy with an auxiliary head; their counterpart is cross-entropy."""
_WEIGHTED: Final[dict[str, Tables]] = {
    "sqn-actor-critic": {"algorithm": "sqn_actor_critic"},
    "sa2c": {"algorithm": "sa2c", "patience": 15},
}
"""Cross-entropy weighted by Q, SA2C with a patience that outlasts its slow start; their
counterpart is cross-entropy with weights by event type."""
_ON_BASE: Final[dict[str, Tables]] = {
    "top-k": {"algorithm": "top_k_off_policy", "behaviour": "head"} | _RETURN,
    "off-policy-actor-critic": {"algorithm": "off_policy_actor_critic", "behaviour": "head"}
    | _ACTION,
    "trpo": {"algorithm": "trpo"} | _RETURN,
    "grpo-return": {"loss_type": "grpo"} | _RETURN,
    "grpo-events": {"loss_type": "grpo", "reward_funcs": ["events"]}
    | {"event_weights": EVENT_REWARDS},
    "log-events": {"loss_type": "log", "reward_funcs": ["events"]}
    | {"event_weights": EVENT_REWARDS},
}
"""Fine-tuning of the base; their counterpart is continued training."""


def events(source: Source, profile: Profile, seed: int) -> list[Cell]:
    """Return all cells under both protocols; no profile changes them."""
    del profile
    return [
        Cell(f"{name}-{protocol}", tables)
        for protocol in _SPLITS
        for name, tables in _cells(source, protocol, seed)
    ]


def _cells(source: Source, protocol: str, seed: int) -> list[tuple[str, Tables]]:
    """Return the name and the settings of each cell of a protocol."""
    shared: Tables = {
        "seed": seed,
        "data": {
            "path": source.path,
            "name": source.name,
            "k_core": 3,
            "split": _SPLITS[protocol],
        },
        "evaluation": {"repeats": "all", "ks": [1, 5, 10, 20], "retrain": False},
    }
    no_tuning = {"finetune": {"enabled": False}}
    no_control: Tables = {"evaluation": shared["evaluation"] | {"control": False}}
    cells = [
        (name, shared | {"model": {"name": name}, "pretrain": _PRETRAIN} | no_tuning)
        for name in ("itemknn", "vsknn")
    ]
    for backbone in BACKBONES:
        model, budget = _MODELS[backbone], _BUDGETS[backbone]
        pretrain = _PRETRAIN | budget
        base: Tables = shared | {"model": model, "pretrain": pretrain}
        weighted = base | {"pretrain": pretrain | {"event_weights": EVENT_WEIGHTS}}
        with_types = base | {"model": model | {"event_embedding": True}}
        prl = {"name": "prl", "encoder": backbone, "event_weights": EVENT_REWARDS}
        cells += [
            (backbone, base | no_tuning),
            (f"{backbone}-event-embedding", with_types | no_tuning),
            (f"{backbone}-event-weights", weighted | no_tuning),
            (f"{backbone}-prl", base | {"model": prl} | no_tuning),
        ]
        for twin, group in ((base, _FROM_SCRATCH), (weighted, _WEIGHTED)):
            cells += [
                (
                    f"{backbone}-{name}",
                    twin | no_control | {"finetune": _SCRATCH | budget | _ACTION | settings},
                )
                for name, settings in group.items()
            ]
        cells += [
            (f"{backbone}-{name}", base | {"finetune": settings})
            for name, settings in _ON_BASE.items()
        ]
    return cells


EVENT_SUITES: Final = {"events": events}
