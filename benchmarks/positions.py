"""Fine-tune models with and without tables of positions and of users, and with and without dropout.

`python benchmarks/positions.py [--data FILE] [--seeds N] [--models NAME …]`

Every base model is trained until validation stops improving (15 epochs at most), then fine-tuned
from the same weights with each setting of `tunings`. The log is Amazon 2018, Industrial &
Scientific, 5-core, the last item of each user for test. Finished cells are read from
`benchmarks/positions.json`, so an interrupted run goes on where it stopped; the tables of
docs/results/positions.md are written from that file.
"""

import argparse
import copy
import json
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from recoach.data.config import PrepareConfig
from recoach.data.dataset import Dataset
from recoach.data.filters import apply_filters
from recoach.data.ingest import read_interactions
from recoach.data.split import leave_last_out
from recoach.evaluation.evaluator import evaluate
from recoach.models.base import GROUP_NAMES, Recommender
from recoach.models.registry import build_model
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.context import RunContext
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from recoach.training.trainer import RLTrainer

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "positions.md"
RESULTS = ROOT / "benchmarks" / "positions.json"
FIRST_SEED = 2020
_START, _END = "<!-- rows: written by benchmarks/positions.py -->", "<!-- end of rows -->"

_SMALL: dict[str, Any] = {"dim": 32}
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "SASRec": ("sasrec", _SMALL | {"inner_dim": 128}),
    "GCE-GNN": ("gcegnn", _SMALL),
    "GCE-GNN without positions": ("gcegnn", _SMALL | {"positions": "none"}),
    "GRU4Rec": ("gru4rec", _SMALL | {"hidden_dim": 64}),
    "SR-GNN": ("srgnn", _SMALL),
    "COTREC": ("cotrec", _SMALL),
    "COTREC without positions": ("cotrec", _SMALL | {"positions": "none"}),
    "FPMC": ("fpmc", _SMALL | {"loss": "ce"}),
    "FPMC without users": ("fpmc", _SMALL | {"loss": "ce", "users": False}),
    "LightGCN": ("lightgcn", _SMALL),
    "GAG": ("gag", _SMALL),
    "GAG without users": ("gag", _SMALL | {"users": False}),
}
"""Label -> model and settings."""
WITH_DROPOUT = ("sasrec", "gcegnn", "gru4rec")

PRETRAIN: dict[str, Any] = {"epochs": 15, "learning_rate": 5e-3, "patience": 2}
LIGHTGCN: dict[str, Any] = {"epochs": 150, "learning_rate": 1e-2, "patience": 15}
"""BPR first follows popularity and loses it before it learns more: hence the patience."""
PAPER: dict[str, Any] = {
    "learning_rate": 1e-3,
    "batch_size": 256,
    "num_generations": 256,
    "max_steps": 50,
    "eval_steps": 50,
}
"""The paper's settings (batches of 2,048, groups of 4,096, 1e-4) with fewer states and draws in a
step and a larger rate for few steps."""
LIGHTGCN_PAPER: dict[str, Any] = {"state": "user", "reward_funcs": ("train_set",)}
DEFAULT: dict[str, Any] = {"batch_size": 512, "max_steps": 40, "eval_steps": 10}


def tunings(name: str, groups: set[str]) -> dict[str, GRPOConfig]:
    """Return the fine-tunings of a model by label.

    Args:
        name: of the model.
        groups: its parameter groups.
    """
    recipes = {
        "paper": (
            GRPOConfig.paper,
            PAPER | (LIGHTGCN_PAPER if name == "lightgcn" else {}),
            {"item", "user", "position"},
        ),
        "default": (GRPOConfig, DEFAULT, set(GROUP_NAMES)),
    }
    result = {}
    for recipe, (config, settings, trained) in recipes.items():
        result[recipe] = config(**settings)
        if name in WITH_DROPOUT:
            result[f"{recipe}, dropout off"] = config(**settings, disable_dropout=True)
        for frozen in ("position", "user"):
            if frozen in groups:
                trainable = tuple(group for group in GROUP_NAMES if group in trained - {frozen})
                label = f"{recipe}, {frozen} table frozen"
                result[label] = config(**settings, trainable=trainable)
    return result


def update_norms(before: Recommender, after: Recommender) -> dict[str, float]:
    """Return, for each parameter group, the norm of its change over the norm that it had."""
    norms = {}
    old_groups, new_groups = before.parameter_groups(), after.parameter_groups()
    for group, tensors in old_groups.items():
        old = torch.cat([tensor.detach().flatten() for tensor in tensors])
        new = torch.cat([tensor.detach().flatten() for tensor in new_groups[group]])
        norms[group] = float((new - old).norm() / old.norm())
    return norms


def measure(model: Recommender, dataset: Dataset) -> dict[str, float]:
    """Return NDCG@10 on validation and on test."""
    return {part: evaluate(model, dataset, part).means()["ndcg@10"] for part in ("valid", "test")}


def run(label: str, seed: int, dataset: Dataset, cells: dict[str, Any]) -> None:
    """Train a base model and add its missing fine-tunings to `cells`, one at a time."""
    name, settings = BASES[label]
    base = build_model(name, dataset, seed=seed, **settings)
    planned = tunings(name, set(base.parameter_groups()))
    if all(f"{label} | {tuning} | {seed}" in cells for tuning in planned):
        return
    start = time.process_time()
    config = PretrainConfig(**PRETRAIN | (LIGHTGCN if name == "lightgcn" else {}))
    trained = pretrain(base, dataset, config, RunContext(seed=seed))
    base.eval()
    of_base = measure(base, dataset)
    seconds, epochs = time.process_time() - start, trained.best_step
    print(label, seed, of_base, f"{seconds:.0f} s", flush=True)
    for tuning, args in planned.items():
        key = f"{label} | {tuning} | {seed}"
        if key in cells:
            continue
        start, model = time.process_time(), copy.deepcopy(base)
        trainer = RLTrainer(model, args=args, train_dataset=dataset, context=RunContext(seed=seed))
        result = trainer.train()
        model.eval()
        cells[key] = {
            "base": of_base,
            "tuned": measure(model, dataset),
            "update_norms": update_norms(base, model),
            "best_step": result.best_step,
            "steps": result.steps,
            "base_step": epochs,
            "base_cpu_seconds": round(seconds, 1),
            "cpu_seconds": round(time.process_time() - start, 1),
        }
        RESULTS.write_text(json.dumps(cells, indent=1) + "\n")
        print(key, json.dumps(cells[key]), flush=True)


def read_dataset(path: Path) -> Dataset:
    """Return the 5-core of a log, the last item of each user for test."""
    log = apply_filters(read_interactions(path), PrepareConfig(k_core=5))
    return leave_last_out(log)


def table(cells: dict[str, Any]) -> str:
    """Return the table of the page in Markdown: a row for each fine-tuning of each base model."""
    by_cell: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for key, cell in cells.items():
        label, tuning, _ = key.split(" | ")
        by_cell.setdefault((label, tuning), []).append(cell)
    names = ("model", "fine-tuning", "seeds", "base", "tuned", "change", "better")
    head = (*names, *(f"Δ {group}" for group in GROUP_NAMES))
    text = "| " + " | ".join(head) + " |\n|---|---|" + "---:|" * (len(head) - 2) + "\n"
    order = [(label, tuning) for label in BASES for known, tuning in by_cell if known == label]
    for label, tuning in order:
        seeds = by_cell[label, tuning]
        before, after = ([cell[stage]["test"] for cell in seeds] for stage in ("base", "tuned"))
        better = sum(new > old for old, new in zip(before, after, strict=True))
        values = [
            f"{mean(before):.4f}",
            f"{mean(after):.4f}",
            f"{mean(after) / mean(before) - 1:+.1%}".replace("%", " %"),
        ]
        norms = [
            _norm([cell["update_norms"].get(group) for cell in seeds]) for group in GROUP_NAMES
        ]
        row = [label, tuning, str(len(seeds)), *values, f"{better} of {len(seeds)}", *norms]
        text += "| " + " | ".join(row) + " |\n"
    return text


def _norm(norms: list[float | None]) -> str:
    values = [norm for norm in norms if norm is not None]
    return f"{mean(values):.3f}" if values else "–"


def write_page(cells: dict[str, Any]) -> None:
    """Replace the table of the page."""
    text = PAGE.read_text()
    before, after = text.split(_START)[0], text.split(_END)[1]
    PAGE.write_text(f"{before}{_START}\n\n{table(cells)}\n{_END}{after}")


def main() -> None:
    """Measure the cells that are missing, then write the page."""
    parser = argparse.ArgumentParser()
    data = ROOT.parent / "shared" / "data" / "industrial-2018" / "sequences.txt"
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--models", nargs="+", choices=BASES, default=list(BASES))
    args = parser.parse_args()
    cells = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    dataset = read_dataset(args.data)
    for seed in range(FIRST_SEED, FIRST_SEED + args.seeds):
        for label in args.models:
            run(label, seed, dataset, cells)
    write_page(cells)


if __name__ == "__main__":
    main()
