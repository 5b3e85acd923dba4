"""Benchmark tasks run with RePlay.

RePlay has no default batch size; 64 is the one of its documentation.
"""

import logging
import sys
import tempfile
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from common import BLOCKS, DIM, HEADS, LENGTH, THREADS, Log, main, read, write_result
from curve import MAX_EPOCHS, CurveCallback, TimerCallback, ndcg_at_10
from lightning import Callback, LightningModule, Trainer
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.nn.lightning import LightningModule as Recommender
from replay.nn.lightning.optimizer import OptimizerFactory
from replay.nn.sequential import SasRec
from replay.nn.transform.template import make_default_sasrec_transforms

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
torch.set_num_threads(THREADS)

BATCH = 64


def schema(n_items: int) -> TensorSchema:
    """Return the schema with the history as the only feature."""
    history = TensorFeatureInfo(
        "item_id",
        is_seq=True,
        feature_type=FeatureType.CATEGORICAL,
        embedding_dim=DIM,
        padding_value=n_items,
        cardinality=n_items,
        feature_hint=FeatureHint.ITEM_ID,
        feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
    )
    return TensorSchema([history])


def training_data(log: Log, batch: int, folder: str) -> ParquetModule:
    """Write the training histories to a folder and return RePlay's data module for them."""
    _, items = log.shape
    histories = pa.array(log.select(log.from_end > 1).histories(), pa.list_(pa.int64()))
    pq.write_table(pa.table({"item_id": histories}), f"{folder}/train.parquet")
    return ParquetModule(
        batch_size=batch,
        metadata={"train": {"item_id": {"shape": LENGTH + 1, "padding": items}}},
        transforms={"train": make_default_sasrec_transforms(schema(items))["train"]},
        train_path=f"{folder}/train.parquet",
    )


def fit(data: ParquetModule, items: int, callback: Callback, epochs: int) -> None:
    """Train the benchmark's architecture; the other settings are RePlay's defaults."""
    torch.manual_seed(2020)
    network = SasRec.from_params(
        schema(items),
        embedding_dim=DIM,
        num_heads=HEADS,
        num_blocks=BLOCKS,
        max_sequence_length=LENGTH,
    )
    Trainer(
        max_epochs=epochs,
        limit_val_batches=0,
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
    ).fit(Recommender(network, OptimizerFactory()), datamodule=data)


class RePlayCurve(CurveCallback, Callback):
    """The learning curve of RePlay's trainer."""


class RePlayTimer(TimerCallback, Callback):
    """Times RePlay's trainer."""


def sasrec_curve(folder: Path, out: Path) -> None:
    log = read(folder)
    users, items = log.shape
    history = torch.full((users, LENGTH), items)
    for row, seen in zip(history, log.select(log.from_end > 1).histories(), strict=True):
        row[-len(seen) :] = torch.from_numpy(seen[-LENGTH:])
    target = torch.from_numpy(log.item[log.from_end == 1])

    def ndcg(module: LightningModule) -> float:
        network = module.model
        states = [
            network.body({"item_id": rows}, rows != items)[:, -1]
            for rows in history.to(module.device).split(512)
        ]
        return ndcg_at_10(torch.cat(states), network.body.embedder.get_item_weights(None), target)

    curve = RePlayCurve(out, ndcg)
    if not curve.is_complete:
        with tempfile.TemporaryDirectory() as directory:
            fit(training_data(log, BATCH, directory), items, curve, MAX_EPOCHS)


def sasrec_epoch(
    folder: Path, out: Path, epochs: int = 3, steps: int = 0, batch: int = BATCH
) -> None:
    log = read(folder)
    _, items = log.shape
    timer_callback = RePlayTimer(epochs, steps)
    with tempfile.TemporaryDirectory() as directory:
        data = training_data(log, batch, directory)
        fit(data, items, timer_callback, MAX_EPOCHS)
        transform = data.compiled_transforms["train"]
        positions = sum(
            int(transform(rows)["target_padding_mask"].sum()) for rows in data.train_dataloader()
        )
    result = {"seconds_per_epoch": timer_callback.timer.result, "positions_per_epoch": positions}
    write_result(out, result, "replay-rec", "torch", "lightning")


if __name__ == "__main__":
    main({"sasrec_curve": sasrec_curve, "sasrec_epoch": sasrec_epoch})
