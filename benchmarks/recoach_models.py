"""Measure models without training steps, daily updates and off-policy evaluation with Recoach.

`recoach_models.py TASK FOLDER OUT [KEY=VALUE …]`. Tasks run on one thread, and seconds are CPU
seconds of the process, because other programs may use the machine. Where the peer is a plain loop
in the same process, the task measures both sides.
"""

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

for name in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import polars as pl
import torch
from daily_updates import compare_day, train_first
from plain_pytorch import plain_neumf_lists
from plain_vsknn import PlainVSKNN
from recoach_run import SEED, read_dataset, write_result
from session_baselines import prefix_queries, read_set

from recoach.data.dataset import RaggedArray
from recoach.data.targets import targets_of
from recoach.evaluation.evaluator import queries_of, top_lists
from recoach.evaluation.model_scores import model_scores
from recoach.evaluation.ranking import top_of_scores
from recoach.experiments.update_config import UpdateConfig
from recoach.models.base import Recommender
from recoach.models.registry import build_model
from recoach.ope import FunctionPolicy, evaluate_policy
from recoach.ope.evaluate import OffPolicyConfig
from recoach.ope.log import from_frame

Result = TypeVar("Result")
LIST_LENGTH = 50


def cpu_seconds(task: Callable[[], Result]) -> tuple[float, Result]:
    """Return the CPU seconds of a task and its result."""
    start = time.process_time()
    result = task()
    return time.process_time() - start, result


def ease(folder: Path, out: Path) -> None:
    """Time EASE and the lists of all users; the log's validation items are the targets."""
    _fit_and_rank("ease", folder, out)


def itemknn(folder: Path, out: Path) -> None:
    """Time item-kNN with cosine similarities and the lists of all users."""
    _fit_and_rank("itemknn", folder, out, shrinkage=0.0, neighbours=100)


def _fit_and_rank(name: str, folder: Path, out: Path, **settings: object) -> None:
    data = read_dataset(folder)
    targets = targets_of(data, "valid")
    fit_seconds, model = cpu_seconds(lambda: build_model(name, data, **settings))
    rank_seconds, lists = cpu_seconds(lambda: top_lists(model, data, targets, LIST_LENGTH))
    hits = int((lists == targets.items[:, None]).sum())
    write_result(
        out, {"seconds": fit_seconds + rank_seconds, "fit_seconds": fit_seconds, "hits": hits}
    )


def vsknn(folder: Path, out: Path, prefixes: int = 1000, k: int = 20) -> None:
    """Time V-SKNN's lists for the first test prefixes, and those of the plain loop."""
    sessions = read_set(folder)
    train = sessions.dataset.train
    histories = [train.values[a:b].tolist() for a, b in itertools.pairwise(train.offsets)]
    targets = sessions.targets[:prefixes]
    lengths = sessions.prefixes.lengths[:prefixes]
    states = RaggedArray.from_lengths(lengths, sessions.prefixes.values[: lengths.sum()])
    model, plain = build_model("vsknn", sessions.dataset), PlainVSKNN(histories)
    seconds, lists = cpu_seconds(lambda: prefix_lists(model, states, k))
    rows = [states.values[a:b].tolist() for a, b in itertools.pairwise(states.offsets)]
    plain_seconds, plain_lists = cpu_seconds(lambda: [plain.top(row, k) for row in rows])
    hits = (lists == targets[:, None]).any(axis=1).sum()
    plain_hits = sum(target in found for target, found in zip(targets, plain_lists, strict=True))
    result = {"seconds": seconds, "hits": int(hits)}
    write_result(out, result | {"plain_seconds": plain_seconds, "plain_hits": plain_hits})


@torch.no_grad()
def prefix_lists(model: Recommender, prefixes: RaggedArray, k: int) -> np.ndarray:
    """Return int64[B, k], the list of each prefix; nothing is masked."""
    model.eval()
    lists = np.empty((len(prefixes), k), dtype=np.int64)
    for which, queries in prefix_queries(model, prefixes):
        lists[which] = top_of_scores(model_scores(model, queries), k).items.numpy()
    return lists


def neumf(folder: Path, out: Path, users: int = 500, k: int = LIST_LENGTH) -> None:
    """Time the lists of an untrained NeuMF for some users, and those of a loop over the users."""
    data = read_dataset(folder)
    targets = targets_of(data, "test")
    targets = targets.select(np.arange(len(targets.users)) < users)
    model = build_model("neumf", data, seed=SEED).eval()
    queries = queries_of(model, data, targets, np.arange(len(targets.users)))
    seconds, lists = cpu_seconds(lambda: top_lists(model, data, targets, k))
    plain_seconds, plain = cpu_seconds(lambda: plain_neumf_lists(model, queries, k))
    equal = float((lists == plain.numpy()).mean())
    write_result(out, {"seconds": seconds, "plain_seconds": plain_seconds, "equal": equal})


def daily_update(folder: Path, out: Path, percent: int = 50) -> None:
    """Time the update of a SASRec by one day and the training of a new one on the same events.

    `percent` is the share of the log's users.
    """
    with tempfile.TemporaryDirectory() as scratch:
        run, config, parts, _ = train_first(
            folder / "interactions.csv.gz",
            Path(scratch),
            days=10,
            users=percent / 100,
            changes=["data.split=leave_last_out", "pretrain.patience=5", "pretrain.epochs=40"],
        )
        row = compare_day(run, config, parts, 1, UpdateConfig())
    seconds, ndcg = row["cpu_seconds"], row["ndcg@10"]
    result = {name: row[name] for name in ("new_rows", "states", "outcome")}
    write_result(out, result | {"seconds": seconds, "ndcg@10": ndcg})


def off_policy(folder: Path, out: Path, samples: int = 100) -> None:
    """Time IPS, SNIPS and DR with bootstrap intervals, from the columns of the log."""
    log = np.load(folder / "log.npz")
    policy = log["policy"]
    columns = {name: log[name] for name in ("group", "reward", "propensity")}
    columns["item_id"] = log["item"]
    config = OffPolicyConfig(estimators=("ips", "snips", "dr"), samples=samples)

    def evaluate() -> dict[str, object]:
        rows = from_frame(pl.DataFrame(columns))
        order = [int(item_id) for item_id in rows.item_ids]
        of_group = policy[:, order]
        function = FunctionPolicy(lambda states: of_group[states["group"].to_numpy()])
        estimates = evaluate_policy(rows, function, config=config).estimates
        return {name: [estimates[name].value, *estimates[name].interval] for name in estimates}

    seconds, values = cpu_seconds(evaluate)
    write_result(out, {"seconds": seconds, "values": values})


if __name__ == "__main__":
    task, folder, out, *rest = sys.argv[1:]
    options = {key: int(value) for key, value in (option.split("=") for option in rest)}
    globals()[task](Path(folder), Path(out), **options)
