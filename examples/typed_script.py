"""A script of a user, which mypy and pyright check in their strict modes."""

import polars as pl
import torch
from torch import Tensor, nn

import recoach
from recoach.models.base import Recommender
from recoach.training.callbacks import Callback


class Towers(nn.Module):
    """Vectors of the last item and of all items."""

    def __init__(self, n_items: int, dim: int) -> None:
        super().__init__()
        self.last = nn.Embedding(n_items + 1, dim)
        self.table = nn.Embedding(n_items, dim)


def query(module: Towers, users: Tensor, histories: Tensor) -> Tensor:
    """Return the vector of the last item of each history."""
    return torch.nn.functional.embedding(histories[:, 0], module.last.weight)


def build(dataset: recoach.Dataset, *, dim: int = 8) -> Recommender:
    """Return the towers as a recommender."""
    return recoach.wrap(
        Towers(dataset.n_items, dim),
        dataset,
        query=query,
        items=lambda module: module.table.weight,
        history_length=5,
    )


class Longest(Callback):
    """Stops after some steps."""

    step = 0

    def on_step(self, step: int, logs: dict[str, float]) -> None:
        """Remember the step."""
        self.step = step

    def stops(self) -> bool:
        """Return whether three steps are done."""
        return self.step >= 3


def reciprocal_rank(model: Recommender, dataset: recoach.Dataset) -> float:
    """Return the metric that selects."""
    return recoach.evaluate(model, dataset, "valid").means()["mrr@10"]


def main(folder: str) -> pl.DataFrame:
    """Train, save, load, recommend."""
    log = recoach.shop(n_users=200, n_items=50).interactions
    dataset = recoach.split_log(log, recoach.LeaveLastOut(test_items=1))
    base = recoach.build_model("sasrec", dataset, dim=16)
    recoach.pretrain(base, dataset, recoach.PretrainConfig(max_steps=4, learning_rate=1e-3))
    context = recoach.RunContext(seed=1, validation_metric=reciprocal_rank, progress=False)
    trainer = recoach.GRPOTrainer(
        recoach.build_model(build, dataset, dim=4),
        args=recoach.GRPOConfig(max_steps=4, lr_scheduler_type="cosine", max_grad_norm=1.0),
        train_dataset=dataset,
        callbacks=[Longest()],
        context=context,
    )
    trainer.train()
    rows: list[dict[str, float]] = trainer.state.log_history
    trainer.save_model(folder)
    loaded = recoach.load(folder)
    metrics: dict[str, float] = loaded.evaluate("test", ks=[5]).means()
    if not rows or not metrics or not recoach.__version__:
        raise recoach.RecoachError("nothing was logged")
    paper = recoach.GRPOConfig.paper(epochs=3)
    recoach.pretrain(base, dataset, recoach.PretrainConfig(epochs=paper.epochs, max_steps=1))
    return recoach.recommend(loaded.model, dataset, dataset.user_ids[0], k=3)
