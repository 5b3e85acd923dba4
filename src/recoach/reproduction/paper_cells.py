"""The runs behind the paper's tables. A cell is one configuration, run once per log and seed.

How we read what the paper leaves open is described in `docs/explanation/method.md`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

Profile = Literal["paper", "quick"]
Tables = dict[str, Any]

BACKBONES: Final = ("sasrec", "lightgcn", "gsau")


class Source(NamedTuple):
    """A log that suites run on."""

    name: str
    """A category of the paper, or a name of the user's choice."""
    path: str
    ready_split: bool = False
    """A folder with a given split without order: only for models that read no history."""
    k_core: int = 5
    """Keep users and items with at least this many interactions; 5 in the paper."""

    def data(self) -> Tables:
        """Return the `data` table of the settings; the paper holds out the last interactions."""
        table = {"path": self.path, "name": self.name}
        if Path(self.path).is_dir():  # is filtered and split already
            return table
        return table | {"k_core": self.k_core, "split": {"kind": "leave_last_out"}}


class Cell(NamedTuple):
    """One configuration of a suite; `name` is the prefix of its run folders."""

    name: str
    tables: Tables
    """Settings for `recoach.experiments.config.resolve`."""


_MODELS: Final[dict[str, Tables]] = {
    "sasrec": {"name": "sasrec"},
    "lightgcn": {"name": "lightgcn", "loss": "bpr"},
    "gsau": {"name": "gsau", "scorer": "fuse_emb", "fusion_weight": 0.5},
}

FORMER_PRETRAIN: Final[Tables] = {
    "epochs": 200,
    "batch_size": 512,
    "learning_rate": 1e-3,
    "patience": 10,
    "metric": "ndcg@10",
    "ema_decay": 0.0,
}
"""The defaults of supervised training with which the committed results were made; later changes of
the defaults do not change the cells."""

_PRETRAIN: Final[dict[Profile, dict[str, Tables]]] = {
    "paper": {
        name: {"epochs": 200, "batch_size": 2048, "learning_rate": 1e-4, "patience": 0}
        for name in BACKBONES
    },
    "quick": {
        "sasrec": {"epochs": 60, "patience": 5},
        # BPR first follows popularity and loses it before it learns more: hence the patience.
        "lightgcn": {"epochs": 200, "batch_size": 2048, "patience": 50},
        "gsau": {"epochs": 30, "learning_rate": 3e-3, "patience": 5},
    },
}

_QUICK_STEPS: Final[dict[str, dict[str, int]]] = {
    "Baby_Products": {"sasrec": 10_000, "lightgcn": 6_400, "gsau": 5_000},
    "Video_Games": {"sasrec": 13_000, "lightgcn": 22_000, "gsau": 7_000},
    "Industrial_and_Scientific": {"sasrec": 13_000, "lightgcn": 30_000, "gsau": 8_000},
}
"""Training steps of the base models on the paper's own files in profile `quick`.

Training until validation stops improving would take too long there. These are about 15 minutes on
two cores, by the step times of `benchmarks/`.
"""

_BUDGET: Final[dict[Profile, Tables]] = {
    "paper": {"eval_steps": 500},
    # Adam moves a weight by about learning rate x steps: 100 steps at 1e-3 move it as far as
    # 1,000 steps at the paper's 1e-4.
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
"""The embedding tables that are fine-tuned, by row of table 4."""

FACTORS: Final[dict[str, dict[str, Tables]]] = {
    "sasrec": {
        "dropout off": {"finetune": {"disable_dropout": True}},
        "one dropout mask": {"finetune": {"shared_dropout": True}},
        "temperature": {"finetune": {"temperature": "auto"}},
        "positions frozen": {"finetune": {"trainable": ["item"]}},
        "all prefixes": {"finetune": {"state": "prefix"}},
        "reward held out": {"pretrain": {"hold_out": 1}},
        "early stopping": {"finetune": {"select": "best", "patience": 3}},
        "KL with a gradient": {"finetune": {"kl_estimator": "exact"}},
        "KL of weight 1": {"finetune": {"kl_estimator": "exact", "beta": 1.0}},
        # Is the loss due to sampling, to the weight sqrt(p/(1-p)), or to targets the base was
        # trained on?
        "exact": {"finetune": {"estimator": "exact"}},
        "exact dr_grpo": {"finetune": {"estimator": "exact", "loss_type": "dr_grpo"}},
        "exact cross-entropy": {"finetune": {"estimator": "exact", "loss_type": "log"}},
        "held out cross-entropy": {
            "pretrain": {"hold_out": 1},
            "finetune": {"estimator": "exact", "loss_type": "log"},
        },
        "all of these": {
            "pretrain": {"hold_out": 1},
            "finetune": {
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
        "temperature": {"finetune": {"temperature": "auto"}},
    },
    "gsau": {
        "dropout off": {"finetune": {"disable_dropout": True}},
        "temperature": {"finetune": {"temperature": "auto"}},
    },
}
"""Changes to the paper's setting by model: one at a time, and several together."""

_PAPER: Final[dict[str, Tables]] = {"evaluation": {"control": True}}
"""The paper's setting, with the control that the paper does not have."""


def table3(source: Source, profile: Profile, seed: int) -> list[Cell]:
    """Return base, control and GRPO on each backbone: table 3, and the bars of figure 1."""
    return [
        Cell(model, _tables(source, model, profile, seed, _PAPER))
        for model in backbones_for(source)
    ]


def table4(source: Source, profile: Profile, seed: int) -> list[Cell]:
    """Return GSAU with each choice of fine-tuned tables, with dropout (as printed) and without."""
    if source.ready_split:
        return []
    cells = []
    for no_dropout in (False, True):
        for name, trainable in TABLE4.items():
            change = {"finetune": {"trainable": trainable, "disable_dropout": no_dropout}}
            if not no_dropout and trainable == _GRPO["gsau"]["trainable"]:
                cells += [cell for cell in table3(source, profile, seed) if cell.name == "gsau"]
                continue
            tables = _tables(source, "gsau", profile, seed, change)
            cells.append(Cell(f"gsau-{name}" + ("-no-dropout" if no_dropout else ""), tables))
    return cells


def factors(source: Source, profile: Profile, seed: int) -> list[Cell]:
    """Return the cell of table 3 for each backbone, followed by that cell with each change."""
    cells = []
    for cell in table3(source, profile, seed):
        cells.append(cell)
        for name, change in FACTORS[cell.name].items():
            tables = _tables(source, cell.name, profile, seed, change)
            cells.append(Cell(f"{cell.name}-{name.replace(' ', '-')}", tables))
    return cells


def backbones_for(source: Source) -> tuple[str, ...]:
    """Return the backbones for a log; a log without order is for LightGCN only."""
    return ("lightgcn",) if source.ready_split else BACKBONES


PAPER_SUITES: Final = {"table3": table3, "table4": table4, "factors": factors}


def _tables(
    source: Source, model: str, profile: Profile, seed: int, change: Mapping[str, Tables]
) -> Tables:
    steps = _QUICK_STEPS.get(source.name) if profile == "quick" else None
    limit = {} if steps is None else {"max_steps": steps[model]}
    base: Tables = {
        "seed": seed,
        "data": source.data(),
        "model": _MODELS[model],
        "pretrain": FORMER_PRETRAIN | _PRETRAIN[profile][model] | limit,
        "finetune": {"preset": "paper"} | _GRPO[model] | _BUDGET[profile],
        "evaluation": {"control": False},
    }
    return {
        name: table | dict(change.get(name, {})) if isinstance(table, dict) else table
        for name, table in base.items()
    }
