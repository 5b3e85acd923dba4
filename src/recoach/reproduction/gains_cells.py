"""What GRPO gains over a base trained to its end, and which part of the recipe gains it."""

from collections.abc import Iterator
from typing import Any, Final

from recoach.reproduction.paper_cells import Cell, Profile, Source, Tables, fitting

_MODELS: Final[dict[str, Tables]] = {
    "sasrec": {"name": "sasrec"},
    "lightgcn": {"name": "lightgcn"},
    "gsau": {"name": "gsau", "rec": True},
}

_PRETRAIN: Final[dict[str, Tables]] = {
    "sasrec": {},
    # BPR first follows popularity, then loses it long before it learns more: patience.
    "lightgcn": {"epochs": 400, "batch_size": 2048, "patience": 50},
    # A step propagates over the whole graph: few large ones.
    "gsau": {"batch_size": 2048, "learning_rate": 6e-3, "patience": 20},
}

_SMALL_BATCHES: Final = {"batch_size": 512, "learning_rate": 1e-3}

FUTURE_ALONE: Final[dict[str, Any]] = _SMALL_BATCHES | {"reward_smoothing": 0.0, "sft_coef": 0.0}
"""The recipe of decision 0007: what the user takes next is all that pays, whatever the model."""

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
"""The default recipe with one ingredient taken out or exchanged."""

_DRAWN: Final = {"estimator": "sampled", "loss_type": "grpo", "num_generations": 256}

RIVALS: Final[dict[str, dict[str, Any]]] = {
    "grpo, exact": {"loss_type": "grpo"},
    "grpo, 256 drawn": _DRAWN,
    "grpo, 16 lists": {"estimator": "slate", "loss_type": "grpo"},
    "reinforce": _DRAWN | {"algorithm": "reinforce"},
    "rejection sampling": _DRAWN | {"algorithm": "raft"},
    "ppo": _DRAWN | {"algorithm": "ppo", "num_iterations": 2},
    "top-k off-policy": {"algorithm": "top_k_off_policy"},
    "softmax-dpo": {"algorithm": "s_dpo", "beta": 1.0},
    "actor under a critic": {"algorithm": "sac"},
}
"""Another algorithm on the states, rewards, masks, temperature and selection of `FUTURE_ALONE`."""

TAILS: Final = (5, 10)
"""Interactions of every user that are held out, to judge more than the next one."""

_NOT_FOR: Final[dict[str, frozenset[str]]] = {
    "sasrec": frozenset({"edges shown", "every prefix", "smoothing 0.3", "no own loss"}),
    "gsau": frozenset({"edges shown", "every prefix", "no smoothing", "smoothing 0.5"}),
    "lightgcn": frozenset(
        {"next item only", "horizon 5", "last prefix", "dropout off"}
        | {"smoothing 0.3", "no own loss"}
    ),
}
"""What changes nothing: it is in the recipe already, or the model has no such thing."""

_SCRATCH: Final[dict[str, Tables]] = {
    # The reward alone trains the model: its base has taken one step.
    "pretrain": {"max_steps": 1},
    "grpo": {"temperature": 1.0, "epochs": 200, "interpolate": False},
}


def gains(source: Source, profile: Profile, seed: int) -> list[Cell]:
    """Return the default recipe on each backbone, with the control; no profile changes it."""
    del profile
    return [Cell(model, _tables(source, model, seed)) for model in fitting(source)]


def future(source: Source, profile: Profile, seed: int) -> list[Cell]:
    """Return the same with the recipe before it, whose reward is the coming items alone."""
    return [
        Cell(f"{name}-future-alone", tables | {"grpo": FUTURE_ALONE})
        for name, tables in gains(source, profile, seed)
    ]


def ablation(source: Source, profile: Profile, seed: int) -> list[Cell]:
    """Return the recipe and what becomes of it, and a model trained on its reward alone."""
    cells: list[Cell] = []
    for recipe, before in _recipes(source, profile, seed):
        cells += [recipe, before]
        for name, change in ABLATION.items():
            if name not in _NOT_FOR[recipe.name]:
                cells.append(_changed(recipe, name, change))
        scratch = _changed(recipe, "from scratch", _SCRATCH["grpo"])
        pretrain = scratch.tables["pretrain"] | _SCRATCH["pretrain"]
        cells.append(Cell(scratch.name, scratch.tables | {"pretrain": pretrain}))
    return cells


def rivals(source: Source, profile: Profile, seed: int) -> list[Cell]:
    """Return the recipes and other algorithms in their place."""
    cells: list[Cell] = []
    for recipe, before in _recipes(source, profile, seed):
        cells += [recipe, before]
        for name, change in RIVALS.items():
            cells.append(_changed(recipe, name.replace(",", ""), FUTURE_ALONE | change))
    return cells


def tail(source: Source, profile: Profile, seed: int) -> list[Cell]:
    """Return both recipes judged on the next five and the next ten interactions."""
    cells = []
    for cell in [*gains(source, profile, seed), *future(source, profile, seed)]:
        model, _, recipe = cell.name.partition("-")
        for length in TAILS:
            data = cell.tables["data"] | {"test_items": length}
            name = f"{model}-next-{length}" + (f"-{recipe}" if recipe else "")
            cells.append(Cell(name, cell.tables | {"data": data}))
    return cells


GAINS: Final = {
    "gains": gains,
    "future": future,
    "ablation": ablation,
    "rivals": rivals,
    "tail": tail,
}


def _recipes(source: Source, profile: Profile, seed: int) -> Iterator[tuple[Cell, Cell]]:
    """Return each backbone's cell of the default recipe, and that of the recipe before it."""
    return zip(gains(source, profile, seed), future(source, profile, seed), strict=True)


def _changed(recipe: Cell, name: str, change: Tables) -> Cell:
    """Return a cell without a control: its figures stand beside the recipe's."""
    tables = recipe.tables | {"grpo": change, "evaluation": {"control": False}}
    return Cell(f"{recipe.name}-{name.replace(' ', '-')}", tables)


def _tables(source: Source, model: str, seed: int) -> Tables:
    return {
        "seed": seed,
        "data": source.data(),
        "model": _MODELS[model],
        "pretrain": _PRETRAIN[model],
        "grpo": {},
        "evaluation": {"control": True},
    }
