"""RecTools' part of the benchmarks."""

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
    answer,
    main,
    read,
    repeated,
    vectors,
)
from curve import MOST_EPOCHS, Followed, Timed, ndcg_at_10
from pytorch_lightning import Callback, LightningModule, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.metrics import NDCG, Recall, calc_metrics
from rectools.models import SASRecModel
from rectools.models.rank import Distance, ImplicitRanker, TorchRanker
from scipy.sparse import csr_matrix

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
torch.set_num_threads(THREADS)

BATCH = 128


def frame(log: Log) -> pd.DataFrame:
    """Return interactions as RecTools wants them; places in the log stand for their times."""
    return pd.DataFrame(
        {
            Columns.User: log.user,
            Columns.Item: log.item,
            Columns.Weight: 1.0,
            Columns.Datetime: np.arange(len(log.user)),
        }
    )


def sasrec(callback: Callback, epochs: int, batch: int = BATCH) -> SASRecModel:
    """Return the shared architecture; all else is RecTools' default."""

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


class Follow(Followed, Callback):
    """The learning curve of RecTools' trainer."""


class Time(Timed, Callback):
    """The seconds of RecTools' trainer."""


def sasrec_curve(folder: Path, out: Path) -> None:
    log = read(folder)
    data = Dataset.construct(frame(log.part(log.back > 1)))
    target = pd.Series(log.item[log.back == 1], index=log.user[log.back == 1])

    def ndcg(module: LightningModule) -> float:
        preparator, network = module.data_preparator, module.torch_model
        rows = preparator.transform_dataset_u2i(data, target.index)
        items = network.item_model.get_all_embeddings()
        extra = preparator.n_item_extra_tokens
        states = [
            network.encode_sessions({"x": batch["x"].to(items.device)}, items)[:, -1]
            for batch in preparator.get_dataloader_recommend(rows, 512)
        ]
        codes = pd.Series(preparator.item_id_map.internal_ids, preparator.item_id_map.external_ids)
        wanted = target[rows.user_id_map.external_ids].map(codes - extra).fillna(-1)
        return ndcg_at_10(torch.cat(states), items[extra:], torch.tensor(wanted.astype(int).values))

    curve = Follow(out, ndcg)
    if not curve.ended:
        sasrec(curve, MOST_EPOCHS).fit(data)


def sasrec_epoch(
    folder: Path, out: Path, epochs: int = 3, steps: int = 0, batch: int = BATCH
) -> None:
    log = read(folder)
    model = sasrec(Time(epochs, steps), MOST_EPOCHS, batch)
    model.fit(Dataset.construct(frame(log.part(log.back > 1))))
    loader = model.data_preparator.get_dataloader_train()
    timed = next(each for each in model.fit_trainer.callbacks if isinstance(each, Time))
    result = {
        "seconds_per_epoch": timed.clock.result,
        "positions_per_epoch": sum(int((rows["y"] != 0).sum()) for rows in loader),
    }
    answer(out, result, "rectools", "torch", "pytorch-lightning")


def rank(folder: Path, out: Path) -> None:
    """Time RecTools' two rankers and its metrics; the answer is the faster one's."""
    log = read(folder)
    users, items = vectors(log.shape)
    seen, test = log.part(log.back > 0), log.part(log.back == 0)
    viewed = csr_matrix((np.ones(len(seen.user)), (seen.user, seen.item)), log.shape)
    wanted = frame(test)
    metrics = {f"Recall@{k}": Recall(k) for k in (10, 50)}
    metrics |= {f"NDCG@{k}": NDCG(k, divide_by_achievable=True) for k in (10, 50)}
    rankers = {
        "TorchRanker": TorchRanker(Distance.DOT, "cpu", users, items),
        "ImplicitRanker": ImplicitRanker(Distance.DOT, users, items, num_threads=THREADS),
    }

    def ranked(ranker: TorchRanker | ImplicitRanker) -> None:
        user, item, score = ranker.rank(np.arange(len(users)), 50, viewed)
        lists = pd.DataFrame({Columns.User: user, Columns.Item: item, Columns.Score: score})
        lists[Columns.Rank] = lists.groupby(Columns.User, sort=False).cumcount() + 1
        calc_metrics(metrics, lists, wanted)

    seconds = {name: repeated(partial(ranked, ranker)) for name, ranker in rankers.items()}
    result = {"seconds": min(seconds.values()), "rankers": seconds}
    answer(out, result, "rectools", "torch", "pandas")


if __name__ == "__main__":
    main({"sasrec_curve": sasrec_curve, "sasrec_epoch": sasrec_epoch, "rank": rank})
