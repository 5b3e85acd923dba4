"""Benchmark tasks run with RecBole."""

import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

warnings.filterwarnings("ignore")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import scipy.sparse
import torch

_torch_load = torch.load
# RecBole pickles its config.
torch.load = lambda *a, **k: _torch_load(*a, **{**k, "weights_only": False})
if not hasattr(scipy.sparse.dok_matrix, "_update"):  # removed in SciPy 1.13
    scipy.sparse.dok_matrix._update = lambda self, d: self._dict.update(d)

from common import (
    BLOCKS,
    DIM,
    HEADS,
    LENGTH,
    THREADS,
    EpochTimer,
    main,
    median_seconds,
    write_result,
)
from curve import MAX_EPOCHS, PATIENCE, Curve, Stopwatch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.dataset import Dataset
from recbole.trainer import Trainer
from recbole.utils import get_model, get_trainer, init_logger, init_seed

torch.set_num_threads(THREADS)

COMMON = {
    "use_gpu": torch.cuda.is_available(),
    "data_path": ".",
    "state": "ERROR",
    "show_progress": False,
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "TIME_FIELD": "timestamp",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "eval_args": {
        "split": {"LS": "valid_and_test"},
        "order": "TO",
        "group_by": "user",
        "mode": "full",
    },
    "metrics": ["Recall", "NDCG"],
    "topk": [10, 50],
    "valid_metric": "NDCG@10",
    "metric_decimal_place": 6,
    "stopping_step": PATIENCE - 1,
}
"""Split and ranking of the benchmark; the other settings are RecBole's defaults."""

MODELS = {
    "SASRec": {
        "train_neg_sample_args": None,
        "loss_type": "CE",
        "n_layers": BLOCKS,
        "n_heads": HEADS,
        "hidden_size": DIM,
        "MAX_ITEM_LIST_LENGTH": LENGTH,
    },
    "LightGCN": {"n_layers": 2, "embedding_size": DIM},
    "NGCF": {"hidden_size_list": [DIM] * 3, "embedding_size": DIM},
    "BPR": {"embedding_size": DIM},
    "FPMC": {"embedding_size": DIM, "MAX_ITEM_LIST_LENGTH": LENGTH},
    "SRGNN": {"embedding_size": 100},
    "GRU4Rec": {"embedding_size": 100, "hidden_size": 100},
}


class PreparedData(NamedTuple):
    """RecBole's configuration, dataset and data loaders for a model."""

    config: Config
    data: Dataset
    train: AbstractDataLoader
    valid: AbstractDataLoader
    test: AbstractDataLoader
    seconds: float
    """Seconds to load and split the log."""

    def trainer(self) -> Trainer:
        """Return RecBole's trainer with an untrained model."""
        config = self.config
        init_seed(config["seed"], config["reproducibility"])
        network = get_model(config["model"])(config, self.train._dataset).to(config["device"])
        return get_trainer(config["MODEL_TYPE"], config["model"])(config, network)


@contextmanager
def prepare(folder: Path, model: str, **extra: object) -> Iterator[PreparedData]:
    """Load and split the log in a temporary working directory, where RecBole writes its files."""
    log = (folder / "log.inter").resolve()
    with tempfile.TemporaryDirectory() as directory, chdir(directory):
        Path("log").mkdir()
        Path("log/log.inter").symlink_to(log)
        settings = COMMON | MODELS[model] | extra
        config = Config(model=model, dataset="log", config_dict=settings)
        init_seed(config["seed"], config["reproducibility"])
        init_logger(config)
        start = time.perf_counter()
        data = create_dataset(config)
        loaders = data_preparation(config, data)
        yield PreparedData(config, data, *loaders, time.perf_counter() - start)


class StopEpoch(Exception):  # noqa: N818
    """Raised to end an epoch early, after the last timed step."""


def epoch_seconds(
    prepared: PreparedData,
    epochs: int,
    steps: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the seconds of a training epoch."""
    trainer, timer = prepared.trainer(), EpochTimer(epochs, steps, clock)

    def after_step(*_: object) -> None:
        if timer.end_step():
            raise StopEpoch

    trainer.optimizer.register_step_post_hook(after_step)
    while not timer.is_done:
        timer.begin_epoch(len(prepared.train))
        with suppress(StopEpoch):
            trainer._train_epoch(prepared.train, len(timer.seconds))
        timer.end_epoch()
    return timer.result


def sasrec_curve(folder: Path, out: Path) -> None:
    curve = Curve(out)
    if curve.is_complete:
        return
    with prepare(folder, "SASRec", epochs=MAX_EPOCHS, eval_batch_size=2**23) as prepared:
        trainer = prepared.trainer()
        trainer.saved_model_file = str(curve.checkpoint)
        if curve.values:
            trainer.resume_checkpoint(str(curve.checkpoint))
            seed = prepared.config["seed"] + len(curve.values)
            init_seed(seed, prepared.config["reproducibility"])
            prepared.train.generator.manual_seed(seed)
        train_epoch, valid_epoch = trainer._train_epoch, trainer._valid_epoch
        times: dict[str, float] = {}

        def timed_train(*args: object, **kwargs: object) -> float:
            watch = Stopwatch()
            loss = train_epoch(*args, **kwargs)
            times.update(watch.read("train") | {"loss": loss / len(prepared.train)})
            return loss

        def timed_valid(*args: object, **kwargs: object) -> tuple[float, dict[str, float]]:
            watch = Stopwatch()
            score, result = valid_epoch(*args, **kwargs)
            times.update(watch.read("valid"))
            return score, result

        def save_epoch(epoch: int, score: float) -> None:
            trainer._save_checkpoint(epoch, verbose=False)
            curve.add(times, float(score))

        trainer._train_epoch, trainer._valid_epoch = timed_train, timed_valid
        trainer.fit(prepared.train, prepared.valid, saved=False, callback_fn=save_epoch)


def sasrec_epoch(
    folder: Path, out: Path, epochs: int = 3, steps: int = 0, batch: int = 2048
) -> None:
    with prepare(folder, "SASRec", train_batch_size=batch) as prepared:
        result = {
            "seconds_per_epoch": epoch_seconds(prepared, epochs, steps),
            "positions_per_epoch": len(prepared.train._dataset),
        }
    write_result(out, result, "recbole", "torch")


def lightgcn_epoch(folder: Path, out: Path, epochs: int = 3) -> None:
    with prepare(folder, "LightGCN", train_batch_size=2048) as prepared:
        result = {"seconds_per_epoch": epoch_seconds(prepared, epochs)}
    write_result(out, result, "recbole", "torch", "scipy")


def ngcf_epoch(folder: Path, out: Path, epochs: int = 3, steps: int = 0) -> None:
    with prepare(folder, "NGCF", train_batch_size=2048) as prepared:
        result = {"seconds_per_epoch": epoch_seconds(prepared, epochs, steps)}
    write_result(out, result, "recbole", "torch", "scipy")


def fpmc_epoch(folder: Path, out: Path, epochs: int = 3) -> None:
    with prepare(folder, "FPMC", train_batch_size=2048) as prepared:
        result = {"seconds_per_epoch": epoch_seconds(prepared, epochs)}
    write_result(out, result, "recbole", "torch")


def srgnn_sessions(folder: Path, out: Path, steps: int = 30, batch: int = 100) -> None:
    _sessions("SRGNN", folder, out, steps, batch)


def gru4rec_sessions(folder: Path, out: Path, steps: int = 30, batch: int = 100) -> None:
    _sessions("GRU4Rec", folder, out, steps, batch)


def _sessions(model: str, folder: Path, out: Path, steps: int, batch: int) -> None:
    """Time steps on sessions with the clock of the process; nearly all prefixes are trained on."""
    split = {"split": {"RS": [0.98, 0.01, 0.01]}, "order": "TO", "group_by": None, "mode": "full"}
    settings = {"train_neg_sample_args": None, "loss_type": "CE", "MAX_ITEM_LIST_LENGTH": 69}
    settings |= {"eval_args": split, "train_batch_size": batch, "weight_decay": 1e-5}
    with prepare(folder, model, **settings) as prepared:
        seconds = epoch_seconds(prepared, 0, steps, time.process_time)
        n_batches = len(prepared.train)
    result = {"seconds_per_epoch": seconds, "batches_per_epoch": n_batches}
    write_result(out, result, "recbole", "torch")


def rank(folder: Path, out: Path, batch: int = 4096) -> None:
    """Time RecBole's evaluation of an untrained BPR model; `batch` is a number of scores."""
    with prepare(folder, "BPR", eval_batch_size=batch) as prepared:
        trainer = prepared.trainer()
        seconds = median_seconds(lambda: trainer.evaluate(prepared.test, load_best_model=False))
    write_result(out, {"seconds": seconds, "eval_batch_size": batch}, "recbole", "torch")


def load(folder: Path, out: Path, k_core: int = 5) -> None:
    """Time RecBole from reading the file to the split."""
    interval = f"[{k_core},inf)"
    filters = {"user_inter_num_interval": interval, "item_inter_num_interval": interval}
    with prepare(folder, "BPR", **filters) as prepared:
        result = {
            "seconds": prepared.seconds,
            "users": prepared.data.user_num - 1,
            "items": prepared.data.item_num - 1,
            "rows": prepared.data.inter_num,
        }
    write_result(out, result, "recbole", "pandas")


if __name__ == "__main__":
    main(
        {
            "sasrec_curve": sasrec_curve,
            "sasrec_epoch": sasrec_epoch,
            "lightgcn_epoch": lightgcn_epoch,
            "ngcf_epoch": ngcf_epoch,
            "fpmc_epoch": fpmc_epoch,
            "srgnn_sessions": srgnn_sessions,
            "gru4rec_sessions": gru4rec_sessions,
            "rank": rank,
            "load": load,
        }
    )
