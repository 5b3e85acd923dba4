"""Base models in the protocol of a published result, to compare their metrics with it."""

from typing import Final

from recoach.reproduction.paper_cells import FORMER_PRETRAIN, Cell, Profile, Source, Tables

_LIGHTGCN: Final[dict[str, Tables]] = {
    "model": {"name": "lightgcn", "loss": "bpr"},
    # BPR first follows popularity and loses it before it learns more: hence the patience.
    "pretrain": {
        "epochs": 200,
        "batch_size": 2048,
        "learning_rate": 1e-3,
        "metric": "ndcg@10",
        "patience": 20,
    },
    "evaluation": {"repeats": "recbole"},
}
_UNMASKED: Final[Tables] = {"repeats": "all"}

_CELLS: Final[dict[str, dict[str, dict[str, Tables]]]] = {
    "toys-2014": {
        # The authors train at 1e-3. Users of unit length need long item vectors, which three
        # times that rate reaches in a third of the epochs.
        "gsau": {
            "model": {"name": "gsau", "rec": True},
            "pretrain": {
                "epochs": 72,
                "batch_size": 512,
                "learning_rate": 3e-3,
                "metric": "ndcg@20",
            },
            "evaluation": _UNMASKED,
        },
        "lightgcn": _LIGHTGCN,
    },
    "beauty-2014": {
        "sasrec": {
            "model": {"name": "sasrec"},
            "pretrain": {"epochs": 42, "batch_size": 512, "metric": "ndcg@20"},
            "evaluation": _UNMASKED,
        },
        "lightgcn": _LIGHTGCN,
    },
    "ml-latest-small": {
        "fpmc": {
            "model": {"name": "fpmc"},
            "pretrain": {
                "epochs": 150,
                "batch_size": 2048,
                "learning_rate": 1e-3,
                "metric": "ndcg@10",
                "patience": 30,
            },
            "evaluation": {"repeats": "recbole"},
        },
    },
}
"""Settings by log and cell; the published protocols differ in epochs and in what is masked."""

_KS: Final = [5, 10, 20, 50]


def verification(source: Source, profile: Profile, seed: int) -> list[Cell]:
    """Return the base models whose results are published on a log; no profile changes them."""
    del profile
    cells = []
    for name, tables in _CELLS.get(source.name, {}).items():
        settings: Tables = {
            "seed": seed,
            "finetune": {"enabled": False},
            "data": source._replace(k_core=0).data(),  # the files are 5-cores already
            "model": tables["model"],
            "pretrain": FORMER_PRETRAIN | tables["pretrain"],
            "evaluation": tables["evaluation"] | {"ks": _KS},
        }
        cells.append(Cell(name, settings))
    return cells


VERIFICATION_SUITES: Final = {"verification": verification}
