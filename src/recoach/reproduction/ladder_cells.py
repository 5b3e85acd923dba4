"""The ladder of controls: one training for each link between a base and what fine-tuning gains.

More training, its learning rate, averaging of weights, more targets for each state, softened
targets, training from scratch, an auxiliary head, a reward without information: each rung adds or
takes away one of them and keeps the rest of the recipe, its states, masks, temperature, selection,
averaging and interpolation. Every rung is trained with the same number of learning rates, of which
validation selects one (`ladder_tables`).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from recoach.reproduction.paper_cells import FORMER_PRETRAIN, Cell, Profile, Source, Tables
from recoach.training.config import FinetuneConfig

RATES: Final = (3e-4, 1e-3, 3e-3)
"""The learning rates that every rung is trained with."""


class Rung(NamedTuple):
    """A rung of the ladder."""

    label: str
    """What tables call it."""
    change: Mapping[str, Any]
    """Its settings of fine-tuning, where they differ from those of the recipe."""
    has_control: bool = False
    """Whether continued training of the base is a rung too, with these settings."""
    pretrain: Mapping[str, Any] = MappingProxyType({})
    """Changes of the base's training; such a rung has a base of its own, which is one more row."""


_SFT: Final = {"algorithm": "sft"}
_FUTURE: Final = _SFT | {"reward_smoothing": 0.0}
_SMOOTHED: Final = _SFT | {"reward_smoothing": 0.3}
_SCRATCH: Final = {
    "start": "scratch",
    "temperature": 1.0,
    "batch_size": 512,
    "epochs": 300,
    "interpolate": False,
}
"""The base's batches, and the epochs of base and fine-tuning together."""

_HEAD: Final = {"algorithm": "sqn"}

RUNGS: Final[dict[str, Rung]] = {
    "recipe": Rung("default recipe (objective `log`)", {}, has_control=True),
    "plain": Rung(
        "recipe without averaging and interpolation",
        {"ema_decay": 0.0, "interpolate": False},
        has_control=True,
    ),
    "unsmoothed": Rung(
        "objective `log`, states weighted by their rewards",
        {"reward_smoothing": 0.0, "normalize_rewards": False},
    ),
    "former": Rung(
        "objective `log`, weighted so and smoothed to neighbours (0.3)",
        {"reward_smoothing": 0.3, "normalize_rewards": False},
    ),
    "dense": Rung("dense all-action cross-entropy", _FUTURE | {"discount": 1.0}),
    "future": Rung("cross-entropy with discounted future items", _FUTURE),
    "future-uniform": Rung(
        "the same, uniform label smoothing 0.3", _FUTURE | {"label_smoothing": 0.3}
    ),
    "future-neighbours": Rung("cross-entropy with these, smoothed to neighbours (0.3)", _SMOOTHED),
    "scratch": Rung("future items, smoothed to neighbours, from scratch", _SMOOTHED | _SCRATCH),
    "next-scratch": Rung(
        "next item, smoothed to neighbours, from scratch", _SMOOTHED | _SCRATCH | {"horizon": 1}
    ),
    "future-base": Rung(
        "recipe on a base of future items",
        {},
        has_control=True,
        pretrain={"objective": "future"},
    ),
    "ufrec": Rung("UFRec-like heads", {"algorithm": "ufrec"}),
    "fut-head": Rung(
        "auxiliary head: items left (FUT)", {"algorithm": "sqn", "target": "remaining"}
    ),
    "placebo-head": Rung(
        "auxiliary head: a random number", {"algorithm": "sqn", "target": "random"}
    ),
    "s-dpo": Rung("S-DPO", {"algorithm": "s_dpo", "beta": 1.0}),
    "trpo": Rung("TRPO", {"algorithm": "trpo"}),
    "raft": Rung("RAFT, 256 draws", {"algorithm": "raft", "num_generations": 256}),
    "grpo": Rung("GRPO's own objective (`grpo`)", {"loss_type": "grpo"}),
    "power": Rung("objective `power`, 0.5", {"loss_type": "power", "power": 0.5}),
    "shuffled-users": Rung("rewards of other users", {"shuffle_rewards": "users"}),
    "shuffled-items": Rung(
        "rewards of other users with the same last item", {"shuffle_rewards": "last_item"}
    ),
}
"""The rungs of models that read a history, in the order of tables."""

_BPR_BASE: Final = {"name": "lightgcn", "loss": "bpr"}
_EDGES: Final = _SFT | {"state": "user", "reward_funcs": ["train_set"], "mask_seen": False}

GRAPH_RUNGS: Final[dict[str, Rung]] = {
    "recipe": RUNGS["recipe"],
    "edges": Rung("catalogue softmax on all training items", _EDGES),
    "edges-bpr": Rung("BPR on all training items", _EDGES | {"num_negatives": 1}),
    "future": RUNGS["future"],
    "future-bpr": Rung("BPR on the hidden last item", _FUTURE | {"num_negatives": 1}),
    "future-sampled": Rung("softmax with 256 negatives on it", _FUTURE | {"num_negatives": 256}),
    "future-neighbours": RUNGS["future-neighbours"],
    "grpo": RUNGS["grpo"],
    "shuffled-users": RUNGS["shuffled-users"],
}
"""The rungs of LightGCN, whose recipe rewards the last training item with its edge hidden."""

GRAPH_BASES: Final[dict[str, Tables]] = {
    "ce": {"name": "lightgcn", "loss": "ce"},
    "sampled-ce": {"name": "lightgcn", "loss": "sampled_ce"},
}
"""LightGCN trained from scratch by other losses, for the same number of epochs."""

BASELINES: Final = ("itemknn", "ease", "vsknn")
"""Baselines without gradient steps; popularity, and where items repeat repeat-last, are in every
run."""

MODELS: Final[dict[str, tuple[Tables, Tables]]] = {
    "sasrec": ({"name": "sasrec"}, {}),
    "gsau": (
        {"name": "gsau", "rec": True},
        {"batch_size": 2048, "learning_rate": 6e-3, "patience": 20},
    ),
    "lightgcn": (_BPR_BASE, {"epochs": 1000, "batch_size": 2048, "patience": 50}),
}
"""Settings of the model and of its supervised training, where they differ from
`FORMER_PRETRAIN`."""

PROTOCOLS: Final[dict[str, Tables]] = {
    "last": {"kind": "leave_last_out"},
    "time": {"kind": "time", "target": "successive"},
}
_WITHOUT_TIMES: Final = ("industrial-2018", "toys-2014", "beauty-2014", "video-games-2023")


def rungs_of(model: str) -> Mapping[str, Rung]:
    """Return the rungs of a model by name."""
    return GRAPH_RUNGS if model == "lightgcn" else RUNGS


def ladder(source: Source, profile: Profile, seed: int) -> list[Cell]:
    """Return every rung on each backbone, with each learning rate, under both protocols.

    The settings are the same for all profiles.
    """
    del profile
    protocols = ["last"] if source.name in _WITHOUT_TIMES else list(PROTOCOLS)
    return [cell for protocol in protocols for cell in _cells(source, protocol, seed)]


def _cells(source: Source, protocol: str, seed: int) -> list[Cell]:
    data = source.data() | {"split": PROTOCOLS[protocol]}
    shared = {"seed": seed, "data": data}
    cells = []
    for name in BASELINES:
        tables = {"model": {"name": name}, "finetune": {"enabled": False}}
        cells.append(Cell(f"{name}-base-{protocol}", shared | tables))
    for name, model in GRAPH_BASES.items():
        for rate in RATES:
            pretrain = FORMER_PRETRAIN | MODELS["lightgcn"][1] | {"learning_rate": rate}
            tables = {"model": model, "pretrain": pretrain, "finetune": {"enabled": False}}
            cells.append(Cell(f"lightgcn-{name}-{rate:g}-{protocol}", shared | tables))
    for backbone, (model, pretrain) in MODELS.items():
        base = shared | {"model": model, "pretrain": FORMER_PRETRAIN | pretrain}
        cells += [
            Cell(f"{backbone}-{name}-{protocol}", tables)
            for name, tables in trials(base, rungs_of(backbone))
        ]
    return cells


def trials(run: Tables, rungs: Mapping[str, Rung]) -> list[tuple[str, Tables]]:
    """Return the name and the settings of each rung with each learning rate.

    Args:
        run: settings of a run; every rung keeps what its table `finetune` sets for all algorithms.
        rungs: by name.
    """
    shared = {
        name: value
        for name, value in run.get("finetune", {}).items()
        if name in FinetuneConfig.model_fields and name != "algorithm"
    }
    return [
        (
            f"{name}-{rate:g}",
            run
            | {
                "pretrain": run.get("pretrain", {}) | dict(rung.pretrain),
                "finetune": shared | dict(rung.change) | {"learning_rate": rate},
                "evaluation": run.get("evaluation", {}) | {"control": rung.has_control},
            },
        )
        for name, rung in rungs.items()
        for rate in RATES
    ]


LADDER_SUITES: Final = {"ladder": ladder}
