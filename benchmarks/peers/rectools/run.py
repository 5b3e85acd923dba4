"""Benchmark tasks run with RecTools."""

import logging
import sys
import warnings
from functools import partial
from pathlib import Path

warnings.filterwarnings("ignore")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import torch
from common import (
    BLOCKS,
    DIM,
    HEADS,
    LENGTH,
    THREADS,
    Log,
    lists_of_users,
    main,
    median_seconds,
    read,
    vectors,
    write_result,
)
from curve import MAX_EPOCHS, CurveCallback, TimerCallback, ndcg_at_10
from implicit.nearest_neighbours import CosineRecommender
from pytorch_lightning import Callback, LightningModule, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.metrics import NDCG, Recall, calc_metrics
from rectools.models import EASEModel, ImplicitItemKNNWrapperModel, SASRecModel
from rectools.models.base import ModelBase
from rectools.models.rank import Distance, ImplicitRanker, TorchRanker
from scipy.sparse import csr_matrix

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
torch.set_num_threads(THREADS)

BATCH = 128


def frame(log: Log) -> pd.DataFrame:
    """Return interactions in RecTools' format, with the row number as timestamp."""
    return pd.DataFrame(
        {
            Columns.User: log.user,
            Columns.Item: log.item,
            Columns.Weight: 1.0,
            Columns.Datetime: np.arange(len(log.user)),
        }
    )


def sasrec(callback: Callback, epochs: int, batch: int = BATCH) -> SASRecModel:
    """Return the benchmark's architecture; the other settings are RecTools' defaults."""

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=epochs,
            accelerator="gpu" if torch.cuda.is_available() else "cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[callback],
        )

    torch.manual_seed(2020)
    return SASRecModel(
        n_blocks=BLOCKS,
        n_heads=HEADS,
        n_factors=DIM,
        session_max_len=LENGTH,
        batch_size=batch,
        get_trainer_func=trainer,
    )


class RecToolsCurve(CurveCallback, Callback):
    """The learning curve of RecTools' trainer."""


class RecToolsTimer(TimerCallback, Callback):
    """Times RecTools' trainer."""


def sasrec_curve(folder: Path, out: Path) -> None:
    log = read(folder)
    data = Dataset.construct(frame(log.select(log.from_end > 1)))
    target = pd.Series(log.item[log.from_end == 1], index=log.user[log.from_end == 1])

    def ndcg(module: LightningModule) -> float:
        preparator, network = module.data_preparator, module.torch_model
        rows = preparator.transform_dataset_u2i(data, target.index)
        items = network.item_model.get_all_embeddings()
        n_extra = preparator.n_item_extra_tokens
        states = [
            network.encode_sessions({"x": batch["x"].to(items.device)}, items)[:, -1]
            for batch in preparator.get_dataloader_recommend(rows, 512)
        ]
        indices = pd.Series(
            preparator.item_id_map.internal_ids, preparator.item_id_map.external_ids
        )
        targets = target[rows.user_id_map.external_ids].map(indices - n_extra).fillna(-1)
        return ndcg_at_10(
            torch.cat(states), items[n_extra:], torch.tensor(targets.astype(int).values)
        )

    curve = RecToolsCurve(out, ndcg)
    if not curve.is_complete:
        sasrec(curve, MAX_EPOCHS).fit(data)


def sasrec_epoch(
    folder: Path, out: Path, epochs: int = 3, steps: int = 0, batch: int = BATCH
) -> None:
    log = read(folder)
    model = sasrec(RecToolsTimer(epochs, steps), MAX_EPOCHS, batch)
    model.fit(Dataset.construct(frame(log.select(log.from_end > 1))))
    loader = model.data_preparator.get_dataloader_train()
    timer_callback = next(
        each for each in model.fit_trainer.callbacks if isinstance(each, RecToolsTimer)
    )
    result = {
        "seconds_per_epoch": timer_callback.timer.result,
        "positions_per_epoch": sum(int((rows["y"] != 0).sum()) for rows in loader),
    }
    write_result(out, result, "rectools", "torch", "pytorch-lightning")


def rank(folder: Path, out: Path) -> None:
    """Time RecTools' two rankers with its metrics; the result is that of the faster ranker."""
    log = read(folder)
    users, items = vectors(log.shape)
    seen, test = log.select(log.from_end > 0), log.select(log.from_end == 0)
    seen_matrix = csr_matrix((np.ones(len(seen.user)), (seen.user, seen.item)), log.shape)
    test_frame = frame(test)
    metrics = {f"Recall@{k}": Recall(k) for k in (10, 50)}
    metrics |= {f"NDCG@{k}": NDCG(k, divide_by_achievable=True) for k in (10, 50)}
    rankers = {
        "TorchRanker": TorchRanker(Distance.DOT, "cpu", users, items),
        "ImplicitRanker": ImplicitRanker(Distance.DOT, users, items, num_threads=THREADS),
    }

    def rank_and_evaluate(ranker: TorchRanker | ImplicitRanker) -> None:
        user, item, score = ranker.rank(np.arange(len(users)), 50, seen_matrix)
        lists = pd.DataFrame({Columns.User: user, Columns.Item: item, Columns.Score: score})
        lists[Columns.Rank] = lists.groupby(Columns.User, sort=False).cumcount() + 1
        calc_metrics(metrics, lists, test_frame)

    seconds = {
        name: median_seconds(partial(rank_and_evaluate, ranker)) for name, ranker in rankers.items()
    }
    result = {"seconds": min(seconds.values()), "rankers": seconds}
    write_result(out, result, "rectools", "torch", "pandas")


def ease(folder: Path, out: Path) -> None:
    """Time EASE and the lists of all users, with Recoach's weight of the penalty."""
    _fit_and_rank(EASEModel(regularization=250.0, recommend_n_threads=THREADS), folder, out)


def itemknn(folder: Path, out: Path) -> None:
    """Time implicit's cosine similarities behind RecTools' interface, and the lists of all users.

    An item is among its own neighbours, so that there are 101 instead of 100.
    """
    model = CosineRecommender(K=101, num_threads=THREADS)
    _fit_and_rank(ImplicitItemKNNWrapperModel(model), folder, out)


def _fit_and_rank(model: ModelBase, folder: Path, out: Path, k: int = 50) -> None:
    log = read(folder)
    train, valid = log.hold_out()
    data = Dataset.construct(frame(train))

    def rank() -> np.ndarray:
        lists = model.recommend(valid.user, data, k=k, filter_viewed=True)
        table = np.full((log.shape[0], k), -1)
        table[lists[Columns.User], lists[Columns.Rank] - 1] = lists[Columns.Item]
        return table[valid.user]

    result = lists_of_users(lambda: model.fit(data), rank, valid.item)
    write_result(out, result, "rectools", "scipy")


if __name__ == "__main__":
    tasks = (sasrec_curve, sasrec_epoch, rank, ease, itemknn)
    main({task.__name__: task for task in tasks})
