"""Fine-tuning with the default recipe, ablations of it, and other algorithms in its place.

Base models are trained until validation stops improving or the limit of epochs is reached. The
names of cells are names of run folders, so they stay when a label in a table changes
(`gains_tables`).
"""

from collections.abc import Iterator
from typing import Any, Final

from recoach.reproduction.paper_cells import (
    FORMER_PRETRAIN,
    Cell,
    Profile,
    Source,
    Tables,
    backbones_for,
)

_MODELS: Final[dict[str, Tables]] = {
    "sasrec": {"name": "sasrec"},
    "lightgcn": {"name": "lightgcn", "loss": "bpr"},
    "gsau": {"name": "gsau", "rec": True},
}

_PRETRAIN: Final[dict[str, Tables]] = {
    "sasrec": {},
    # BPR first follows popularity and loses it before it learns more: hence the patience.
    "lightgcn": {"epochs": 400, "batch_size": 2048, "patience": 50},
    # Every step propagates over the whole graph: few steps with large batches.
    "gsau": {"batch_size": 2048, "learning_rate": 6e-3, "patience": 20},
}

_SMALL_BATCHES: Final = {"batch_size": 512, "learning_rate": 1e-3}

FUTURE_ONLY: Final[dict[str, Any]] = _SMALL_BATCHES | {"reward_smoothing": 0.0, "sft_coef": 0.0}
"""The recipe of decision 0007: future items are the only reward, for every model."""

ABLATION: Final[dict[str, dict[str, Any]]] = {
    "small batches": _SMALL_BATCHES,
    "no smoothing": {"reward_smoothing": 0.0},
    "smoothing 0.3": {"reward_smoothing": 0.3},
    "smoothing 0.5": {"reward_smoothing": 0.5},
    "own loss": {"sft_coef": 1.0},
    "no own loss": {"sft_coef": 0.0},
    "next item only": {"horizon": 1},
    "horizon 5": {"horizon": 5, "discount": 0.7},
    "edges shown": {"hide_rewarded": False},
    "every prefix": {"state": "prefix"},
    "last prefix": {"state": "last_prefix"},
    "dropout off": {"disable_dropout": True},
    "no average": {"ema_decay": 0.0},
    "no way back": {"interpolate": False},
    "seen items in the policy": {"mask_seen": False},
    "temperature 1": {"temperature": 1.0},
    "KL 0.3": {"beta": 0.3},
    "cross-fitted": {"reward_funcs": ["cross_fitted"]},
    "power 0.25": {"loss_type": "power", "power": 0.25},
    "power 0.5": {"loss_type": "power", "power": 0.5},
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "pass_at_k": {"loss_type": "pass_at_k"},
}
"""The default recipe with one setting changed."""

_GROUPS: Final = {"num_generations": 256}

ALGORITHMS: Final[dict[str, dict[str, Any]]] = {
    "grpo, exact": {"loss_type": "grpo"},
    "grpo, 256 drawn": _GROUPS | {"estimator": "sampled", "loss_type": "grpo"},
    "grpo, 16 lists": {"estimator": "slate", "loss_type": "grpo"},
    "reinforce": _GROUPS | {"algorithm": "reinforce"},
    "rejection sampling": _GROUPS | {"algorithm": "raft"},
    "ppo": _GROUPS | {"algorithm": "ppo", "num_iterations": 2},
    "top-k off-policy": {"algorithm": "top_k_off_policy"},
    "softmax-dpo": {"algorithm": "s_dpo", "beta": 1.0},
}
"""Other algorithms with the states, rewards, masks, temperature and selection of `FUTURE_ONLY`."""

TAILS: Final = (5, 10)
"""How many last interactions of every user are held out for the test."""

_NOT_FOR: Final[dict[str, frozenset[str]]] = {
    "sasrec": frozenset({"edges shown", "every prefix", "smoothing 0.3", "no own loss"}),
    "gsau": frozenset({"edges shown", "every prefix", "no smoothing", "smoothing 0.5"}),
    "lightgcn": frozenset(
        {"next item only", "horizon 5", "last prefix", "dropout off"}
        | {"smoothing 0.3", "no own loss"}
    ),
}
"""Changes left out for a model: the recipe has them already, or the model has no such part."""

_SCRATCH: Final[dict[str, Tables]] = {
    # The base takes one step, so the reward alone trains the model.
    "pretrain": {"max_steps": 1},
    "finetune": {"temperature": 1.0, "epochs": 200, "interpolate": False},
}


def gains(source: Source, profile: Profile, seed: int) -> list[Cell]:
    """Return the default recipe on each backbone, with continued training as a control.

    The settings are the same for all profiles.
    """
    del profile
    return [Cell(model, _tables(source, model, seed)) for model in backbones_for(source)]


def future(source: Source, profile: Profile, seed: int) -> list[Cell]:
    """Return the earlier recipe on each backbone, which rewards future items only."""
    return [
        Cell(f"{name}-future-alone", tables | {"finetune": FUTURE_ONLY})
        for name, tables in gains(source, profile, seed)
    ]


def ablation(source: Source, profile: Profile, seed: int) -> list[Cell]:
    """Return both recipes, every change to the default one, and training from scratch."""
    cells: list[Cell] = []
    for recipe, before in _recipes(source, profile, seed):
        cells += [recipe, before]
        for name, change in ABLATION.items():
            if name not in _NOT_FOR[recipe.name]:
                cells.append(_changed(recipe, name, change))
        scratch = _changed(recipe, "from scratch", _SCRATCH["finetune"])
        pretrain = scratch.tables["pretrain"] | _SCRATCH["pretrain"]
        cells.append(Cell(scratch.name, scratch.tables | {"pretrain": pretrain}))
    return cells


def algorithms(source: Source, profile: Profile, seed: int) -> list[Cell]:
    """Return both recipes, and every other algorithm with the settings of the earlier one."""
    cells: list[Cell] = []
    for recipe, before in _recipes(source, profile, seed):
        cells += [recipe, before]
        for name, change in ALGORITHMS.items():
            cells.append(_changed(recipe, name.replace(",", ""), FUTURE_ONLY | change))
    return cells


def tail(source: Source, profile: Profile, seed: int) -> list[Cell]:
    """Return both recipes, tested on the last five and the last ten interactions of each user."""
    cells = []
    for cell in [*gains(source, profile, seed), *future(source, profile, seed)]:
        model, _, recipe = cell.name.partition("-")
        for length in TAILS:
            split = {"kind": "leave_last_out", "test_items": length}
            data = cell.tables["data"] | {"split": split}
            name = f"{model}-next-{length}" + (f"-{recipe}" if recipe else "")
            cells.append(Cell(name, cell.tables | {"data": data}))
    return cells


GAINS_SUITES: Final = {
    "gains": gains,
    "future": future,
    "ablation": ablation,
    "algorithms": algorithms,
    "tail": tail,
}


def _recipes(source: Source, profile: Profile, seed: int) -> Iterator[tuple[Cell, Cell]]:
    """Return the cells of the default and of the earlier recipe, by backbone."""
    return zip(gains(source, profile, seed), future(source, profile, seed), strict=True)


def _changed(recipe: Cell, name: str, change: Tables) -> Cell:
    """Return the cell with a change, without a control: it is compared with the recipe."""
    tables = recipe.tables | {"finetune": change, "evaluation": {"control": False}}
    return Cell(f"{recipe.name}-{name.replace(' ', '-')}", tables)


def _tables(source: Source, model: str, seed: int) -> Tables:
    return {
        "seed": seed,
        "data": source.data(),
        "model": _MODELS[model],
        "pretrain": FORMER_PRETRAIN | _PRETRAIN[model],
        "finetune": {},
        "evaluation": {"control": True},
    }
