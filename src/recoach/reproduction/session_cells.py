"""Session models in one protocol on the public session sets.

Every prefix of a training session is a state, the catalogue is ranked, and nothing is masked. The
papers select on test; here the last tenth of the training sessions, the most recent, selects the
weights, with a state for each prefix. Then the model is trained again on all training sessions for
as many steps (docs/decisions/0022).
"""

from typing import Any, Final

from recoach.reproduction.paper_cells import Cell, Profile, Source, Tables

METRICS: Final = ("hit@20", "mrr@20")
"""P@20, as the papers call the hit rate, and MRR@20."""

_PRETRAIN: Final[Tables] = {
    "epochs": 6,
    "batch_size": 512,
    "optim": "adam",
    "learning_rate": 2e-3,
    "weight_decay": 1e-5,
    "lr_scheduler_type": "step",
    "patience": 2,
    "metric": "mrr@20",
    "rows": "prefix",
}
"""The papers' settings, except that they take batches of 100 at 1e-3, and select on test. The rate
is a tenth after three epochs; after six it is too small to change anything."""

_MODELS: Final[dict[str, dict[str, Any]]] = {
    "session_popularity": {},
    "vsknn": {},
    "vstan": {},
    "fpmc": {"users": False, "loss": "ce", "dim": 100},
    "gru4rec": {
        "dim": 100,
        "architecture": "original",
        "loss": "sampled_ce",
        "item_bias": True,
        "dropout": 0.1,
    },
    "sasrec": {"dim": 100, "dropout": 0.2},
    "srgnn": {},
    "srgnn-cosine": {"normalise": True},
    "fgnn": {},
    "gag": {"users": False},
    "gcegnn": {},
    "cotrec": {},
    "tagnn": {},
}
"""Settings of the model by cell, whose name begins with that of the model."""

_MODELS_BY_LOG: Final[dict[tuple[str, str], dict[str, Any]]] = {
    ("tmall", "gcegnn"): {"dropout_gcn": 0.6, "dropout_local": 0.5},
    ("nowplaying", "gcegnn"): {"dropout_gcn": 0.0},
    ("tmall", "cotrec"): {"positions": "none"},
}
"""Changes to `_MODELS` by log and cell, those of the papers."""

_CHANGES: Final[dict[str, Tables]] = {
    "gru4rec": {
        "rows": "all_positions",
        "optim": "adagrad",
        "learning_rate": 0.1,
        "weight_decay": 0.0,
        "lr_scheduler_type": "constant",
        "epochs": 12,
    },
    "sasrec": {
        "rows": "all_positions",
        "optim": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "lr_scheduler_type": "constant",
        "epochs": 12,
    },
}
"""Changes to `_PRETRAIN` by cell."""

_MIN_HISTORY: Final = {"retailrocket-views": 2}
"""Fewest items of an evaluated prefix, by log; its test file has no shorter ones."""


def sessions(source: Source, profile: Profile, seed: int) -> list[Cell]:
    """Return every session model and the baselines; no profile changes them."""
    del profile
    return [Cell(name, _tables(name, source, seed)) for name in _MODELS]


def _tables(name: str, source: Source, seed: int) -> Tables:
    split = {
        "kind": "given",
        "target": "last",
        "valid": "users",
        "valid_target": "successive",
        "min_history": _MIN_HISTORY.get(source.name, 1),
    }
    return {
        "seed": seed,
        "data": {"path": source.path, "name": source.name, "k_core": 0, "split": split},
        "model": {"name": name.partition("-")[0]}
        | _MODELS[name]
        | _MODELS_BY_LOG.get((source.name, name), {}),
        "pretrain": _PRETRAIN | _CHANGES.get(name, {}),
        "finetune": {"enabled": False, "metric": _PRETRAIN["metric"]},
        "evaluation": {"repeats": "all", "ks": [5, 10, 20], "retrain": True},
    }


SESSION_SUITES: Final = {"sessions": sessions}
