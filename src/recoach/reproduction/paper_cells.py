"""What the paper compares, cell by cell: each cell is one run with settings of its own.

Readings of what the paper leaves open stand in `docs/explanation/method.md`.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

Profile = Literal["paper", "quick"]
Tables = dict[str, Any]

BACKBONES: Final = ("sasrec", "lightgcn", "gsau")


class Source(NamedTuple):
    """A log to reproduce the paper on."""

    name: str
    """Of the paper's category, or what the user calls it."""
    path: str
    ready_split: bool = False
    """Already split by somebody, in no order: for models that read no history."""
    k_core: int = 5
    """Users and items with fewer interactions are left out; the paper's number."""

    def data(self) -> Tables:
        """Return the table of its cells' data."""
        return {"path": self.path, "name": self.name, "k_core": self.k_core}


class Cell(NamedTuple):
    """One run of a suite."""

    name: str
    tables: Tables
    """What `resolve` takes."""


_MODELS: Final[dict[str, Tables]] = {
    "sasrec": {"name": "sasrec"},
    "lightgcn": {"name": "lightgcn"},
    "gsau": {"name": "gsau", "scorer": "fuse_emb", "fusion_weight": 0.5},
}

_PRETRAIN: Final[dict[Profile, dict[str, Tables]]] = {
    "paper": {
        name: {"epochs": 200, "batch_size": 2048, "learning_rate": 1e-4, "patience": 0}
        for name in BACKBONES
    },
    "quick": {
        "sasrec": {"epochs": 60, "patience": 5},
        # BPR first follows popularity, then loses it long before it learns more: patience.
        "lightgcn": {"epochs": 200, "batch_size": 2048, "patience": 50},
        "gsau": {"epochs": 30, "learning_rate": 3e-3, "patience": 5},
    },
}

_QUICK_STEPS: Final[dict[str, dict[str, int]]] = {
    "Baby_Products": {"sasrec": 10_000, "lightgcn": 6_400, "gsau": 5_000},
    "Video_Games": {"sasrec": 13_000, "lightgcn": 22_000, "gsau": 7_000},
    "Industrial_and_Scientific": {"sasrec": 13_000, "lightgcn": 30_000, "gsau": 8_000},
}
"""Steps of a quick base on the paper's own files, which are too large to train on until nothing
rises: about a quarter of an hour on two cores, by the step times of `benchmarks/`."""

_BUDGET: Final[dict[Profile, Tables]] = {
    "paper": {"eval_steps": 500},
    # Adam moves a weight by about learning rate x steps: 100 steps of 1e-3 go as far as 1,000 of
    # the paper's 1e-4.
    "quick": {"learning_rate": 1e-3, "max_steps": 100, "eval_steps": 10},
}

_GRPO: Final[dict[str, Tables]] = {
    "sasrec": {"state": "last_prefix", "trainable": ["item", "position"]},
    "lightgcn": {"state": "user", "reward_funcs": ["train_set"], "trainable": ["item", "user"]},
    "gsau": {"state": "last_prefix", "trainable": ["item", "user"]},
}

TABLE4: Final[dict[str, list[str]]] = {
    "item": ["item"],
    "item+user": ["item", "user"],
    "item+position": ["item", "position"],
    "item+user+position": ["item", "user", "position"],
}
"""The tables that GRPO moves in the rows of table 4."""

FACTORS: Final[dict[str, dict[str, Tables]]] = {
    "sasrec": {
        "dropout off": {"grpo": {"disable_dropout": True}},
        "one dropout mask": {"grpo": {"shared_dropout": True}},
        "temperature": {"grpo": {"temperature": "auto"}},
        "positions frozen": {"grpo": {"trainable": ["item"]}},
        "all prefixes": {"grpo": {"state": "prefix"}},
        "reward held out": {"pretrain": {"hold_out": 1}},
        "early stopping": {"grpo": {"select": "best", "patience": 3}},
        "KL with a gradient": {"grpo": {"kl_estimator": "exact"}},
        "KL of weight 1": {"grpo": {"kl_estimator": "exact", "beta": 1.0}},
        # What is to blame: the draws, the weight sqrt(p/(1-p)), or a target that is not new?
        "exact": {"grpo": {"estimator": "exact"}},
        "exact dr_grpo": {"grpo": {"estimator": "exact", "loss_type": "dr_grpo"}},
        "exact cross-entropy": {"grpo": {"estimator": "exact", "loss_type": "log"}},
        "held out cross-entropy": {
            "pretrain": {"hold_out": 1},
            "grpo": {"estimator": "exact", "loss_type": "log"},
        },
        "all of these": {
            "pretrain": {"hold_out": 1},
            "grpo": {
                "disable_dropout": True,
                "temperature": "auto",
                "trainable": ["item"],
                "state": "prefix",
                "select": "best",
                "patience": 3,
                "kl_estimator": "exact",
                "beta": 1.0,
            },
        },
    },
    "lightgcn": {
        "temperature": {"grpo": {"temperature": "auto"}},
    },
    "gsau": {
        "dropout off": {"grpo": {"disable_dropout": True}},
        "temperature": {"grpo": {"temperature": "auto"}},
    },
}
"""One change each from the paper's reading, and all together."""

_PAPER: Final[dict[str, Tables]] = {"evaluation": {"control": True}}
"""The paper's reading itself, with the control it lacks."""


def table3(source: Source, profile: Profile, seed: int) -> list[Cell]:
    """Return base, control and GRPO of each backbone: table 3, and the bars of figure 1."""
    return [Cell(model, _tables(source, model, profile, seed, _PAPER)) for model in fitting(source)]


def table4(source: Source, profile: Profile, seed: int) -> list[Cell]:
    """Return GSAU with each choice of tables to move, dropout on as printed and off."""
    if source.ready_split:
        return []
    cells = []
    for still in (False, True):
        for name, moved in TABLE4.items():
            change = {"grpo": {"trainable": moved, "disable_dropout": still}}
            if not still and moved == _GRPO["gsau"]["trainable"]:
                cells += [cell for cell in table3(source, profile, seed) if cell.name == "gsau"]
                continue
            tables = _tables(source, "gsau", profile, seed, change)
            cells.append(Cell(f"gsau-{name}" + ("-no-dropout" if still else ""), tables))
    return cells


def factors(source: Source, profile: Profile, seed: int) -> list[Cell]:
    """Return table 3's cell of each backbone, then the same with one factor changed at a time."""
    cells = []
    for cell in table3(source, profile, seed):
        cells.append(cell)
        for name, change in FACTORS[cell.name].items():
            tables = _tables(source, cell.name, profile, seed, change)
            cells.append(Cell(f"{cell.name}-{name.replace(' ', '-')}", tables))
    return cells


def fitting(source: Source) -> tuple[str, ...]:
    """Return the backbones that a log serves: one without an order has nothing for sequences."""
    return ("lightgcn",) if source.ready_split else BACKBONES


SUITES: Final = {"table3": table3, "table4": table4, "factors": factors}


def _tables(
    source: Source, model: str, profile: Profile, seed: int, change: Mapping[str, Tables]
) -> Tables:
    own = _QUICK_STEPS.get(source.name) if profile == "quick" else None
    cap = {} if own is None else {"max_steps": own[model]}
    base: Tables = {
        "seed": seed,
        "data": source.data(),
        "model": _MODELS[model],
        "pretrain": _PRETRAIN[profile][model] | cap,
        "grpo": {"preset": "paper"} | _GRPO[model] | _BUDGET[profile],
        "evaluation": {"control": False},
    }
    return {
        name: table | dict(change.get(name, {})) if isinstance(table, dict) else table
        for name, table in base.items()
    }
