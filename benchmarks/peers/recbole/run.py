"""RecBole's part of the benchmarks."""

import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

warnings.filterwarnings("ignore")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import scipy.sparse
import torch

_load = torch.load
torch.load = lambda *a, **k: _load(*a, **{**k, "weights_only": False})  # RecBole pickles its config
if not hasattr(scipy.sparse.dok_matrix, "_update"):  # removed in SciPy 1.13
    scipy.sparse.dok_matrix._update = lambda self, d: self._dict.update(d)

from common import BLOCKS, DIM, HEADS, LENGTH, THREADS, Epochs, answer, main, repeated
from curve import MOST_EPOCHS, PATIENCE, Curve, Stopwatch
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
"""The split and the ranking of the comparison; all else is RecBole's default."""

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
    "BPR": {"embedding_size": DIM},
}


class Prepared(NamedTuple):
    """RecBole's data as a model wants them."""

    config: Config
    data: Dataset
    train: AbstractDataLoader
    valid: AbstractDataLoader
    test: AbstractDataLoader
    seconds: float

    def trainer(self) -> Trainer:
        """Return RecBole's trainer of an untrained model."""
        config = self.config
        init_seed(config["seed"], config["reproducibility"])
        network = get_model(config["model"])(config, self.train._dataset).to(config["device"])
        return get_trainer(config["MODEL_TYPE"], config["model"])(config, network)


@contextmanager
def prepared(folder: Path, model: str, **more: object) -> Iterator[Prepared]:
    """Load and split the log, in a folder for what RecBole writes that goes away at the end."""
    log = (folder / "log.inter").resolve()
    with tempfile.TemporaryDirectory() as place, chdir(place):
        Path("log").mkdir()
        Path("log/log.inter").symlink_to(log)
        settings = COMMON | MODELS[model] | more
        config = Config(model=model, dataset="log", config_dict=settings)
        init_seed(config["seed"], config["reproducibility"])
        init_logger(config)
        start = time.perf_counter()
        data = create_dataset(config)
        parts = data_preparation(config, data)
        yield Prepared(config, data, *parts, time.perf_counter() - start)


class Enough(Exception):  # noqa: N818
    """The steps to time are done; the epoch may end here."""


def epoch_seconds(made: Prepared, epochs: int, steps: int = 0) -> float:
    """Return the seconds of RecBole's training epoch."""
    trainer, clock = made.trainer(), Epochs(epochs, steps)

    def stepped(*_: object) -> None:
        if clock.step():
            raise Enough

    trainer.optimizer.register_step_post_hook(stepped)
    while not clock.done:
        clock.begin(len(made.train))
        with suppress(Enough):
            trainer._train_epoch(made.train, len(clock.seconds))
        clock.end()
    return clock.result


def sasrec_curve(folder: Path, out: Path) -> None:
    curve = Curve(out)
    if curve.ended:
        return
    with prepared(folder, "SASRec", epochs=MOST_EPOCHS, eval_batch_size=2**23) as made:
        trainer = made.trainer()
        trainer.saved_model_file = str(curve.kept)
        if curve.values:
            trainer.resume_checkpoint(str(curve.kept))
            seed = made.config["seed"] + len(curve.values)
            init_seed(seed, made.config["reproducibility"])
            made.train.generator.manual_seed(seed)
        train_epoch, valid_epoch = trainer._train_epoch, trainer._valid_epoch
        clock: dict[str, float] = {}

        def timed_train(*args: object, **keys: object) -> float:
            watch = Stopwatch()
            loss = train_epoch(*args, **keys)
            clock.update(watch.read("train") | {"loss": loss / len(made.train)})
            return loss

        def timed_valid(*args: object, **keys: object) -> tuple[float, dict[str, float]]:
            watch = Stopwatch()
            score, result = valid_epoch(*args, **keys)
            clock.update(watch.read("valid"))
            return score, result

        def keep(epoch: int, score: float) -> None:
            trainer._save_checkpoint(epoch, verbose=False)
            curve.add(clock, float(score))

        trainer._train_epoch, trainer._valid_epoch = timed_train, timed_valid
        trainer.fit(made.train, made.valid, saved=False, callback_fn=keep)


def sasrec_epoch(
    folder: Path, out: Path, epochs: int = 3, steps: int = 0, batch: int = 2048
) -> None:
    with prepared(folder, "SASRec", train_batch_size=batch) as made:
        result = {
            "seconds_per_epoch": epoch_seconds(made, epochs, steps),
            "positions_per_epoch": len(made.train._dataset),
        }
    answer(out, result, "recbole", "torch")


def lightgcn_epoch(folder: Path, out: Path, epochs: int = 3) -> None:
    with prepared(folder, "LightGCN", train_batch_size=2048) as made:
        result = {"seconds_per_epoch": epoch_seconds(made, epochs)}
    answer(out, result, "recbole", "torch", "scipy")


def rank(folder: Path, out: Path, batch: int = 4096) -> None:
    """Time RecBole's evaluation of BPR's untrained vectors; `batch` counts scores."""
    with prepared(folder, "BPR", eval_batch_size=batch) as made:
        trainer = made.trainer()
        seconds = repeated(lambda: trainer.evaluate(made.test, load_best_model=False))
    answer(out, {"seconds": seconds, "eval_batch_size": batch}, "recbole", "torch")


def load(folder: Path, out: Path, k_core: int = 5) -> None:
    """Time RecBole from the file to the split."""
    least = f"[{k_core},inf)"
    filters = {"user_inter_num_interval": least, "item_inter_num_interval": least}
    with prepared(folder, "BPR", **filters) as made:
        result = {
            "seconds": made.seconds,
            "users": made.data.user_num - 1,
            "items": made.data.item_num - 1,
            "rows": made.data.inter_num,
        }
    answer(out, result, "recbole", "pandas")


if __name__ == "__main__":
    main(
        {
            "sasrec_curve": sasrec_curve,
            "sasrec_epoch": sasrec_epoch,
            "lightgcn_epoch": lightgcn_epoch,
            "rank": rank,
            "load": load,
        }
    )
