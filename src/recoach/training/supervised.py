"""Supervised training of a recommender by its own loss."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import nn

from recoach import distributed
from recoach.data.batches import Batch, EdgeBatches, StateBatches
from recoach.data.dataset import Dataset, RaggedArray, drop_last
from recoach.data.episodes import event_rewards
from recoach.data.queries import Queries
from recoach.data.targets import Repeats, targets_of
from recoach.errors import ConfigError
from recoach.evaluation.evaluator import evaluate_targets
from recoach.evaluation.metrics import cutoff
from recoach.models.base import Recommender, TrainingBatch
from recoach.models.lookup import sparse_gradients
from recoach.models.sharded_embedding import shard_embedding
from recoach.training.context import RunContext, Schedule
from recoach.training.contract import Logs, encoded_histories
from recoach.training.optimizer_step import clip_gradients
from recoach.training.optimizers import build_optimizer
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.work import StepWork


class SupervisedTrainer:
    """Trains all weights of a model by its own loss; `targets` as in `RunContext`.

    Raises:
        ConfigError: there are event weights, and the model's loss cannot take them, the log has no
            event types or others, or no next item has a weight above 0.
    """

    def __init__(
        self,
        model: Recommender,
        config: PretrainConfig,
        dataset: Dataset,
        targets: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self.model, self._user_ids = model, dataset.user_ids
        self._max_grad_norm = config.max_grad_norm
        # Adam moves rows without a gradient, and weight decay gives all rows one.
        self._sparse = config.optim == "adagrad" and not config.weight_decay
        if config.shard_items:
            shard_embedding(model)
        train = drop_last(dataset.train, config.hold_out)
        weights = _target_weights(model, config, train)
        self._loaders: dict[str, StateBatches | EdgeBatches] = {
            kind: _loader(kind, model, config, train, targets, weights) for kind in model.needs
        }
        self.optimiser = build_optimizer(
            config.optim,
            model.parameters(),
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
        )

    def __len__(self) -> int:
        return max(len(loader) for loader in self._loaders.values())

    def epoch(self, generator: torch.Generator) -> Iterator[TrainingBatch]:
        """Yield batches until the kind with the most batches has been passed over once."""
        longest = max(self._loaders, key=lambda kind: len(self._loaders[kind]))
        others = {k: _forever(v, generator) for k, v in self._loaders.items() if k != longest}
        for batch in self._loaders[longest].epoch(generator):
            kinds = {longest: batch} | {kind: next(more) for kind, more in others.items()}
            yield _to_device(kinds, self.model)

    def step(self, batch: TrainingBatch, generator: torch.Generator) -> Logs:
        """Take one optimiser step on the model's loss."""
        self.model.train()
        batch = batch._replace(draws=self.model.draws_of(batch, generator))
        with sparse_gradients(self.model, enabled=self._sparse):
            loss = self.model.loss(batch, generator)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        distributed.all_reduce_gradients(self.model.parameters())
        logs = {"loss": distributed.data_total(loss)}
        if self._max_grad_norm:
            logs["grad_norm"] = clip_gradients(self.model, self.optimiser, self._max_grad_norm)
        self.optimiser.step()
        return logs

    def work(self, batch: TrainingBatch) -> StepWork:
        """Return the states and interactions of a batch and their histories; one update."""
        return supervised_work(self.model, batch)

    def users(self, batch: TrainingBatch) -> list[str]:
        """Return the ids of the first users of a batch, for messages."""
        return first_ids(batch.parts[0].queries, self._user_ids)

    def before_step(self, step: int) -> None:
        """Do nothing: no module follows the model."""

    def checkpointed_modules(self) -> dict[str, nn.Module]:
        """Return nothing: only the model changes."""
        return {}

    def diagnostics(self) -> dict[str, float]:
        """Return nothing: the loss is logged at every step."""
        return {}


def selection(
    dataset: Dataset, schedule: Schedule, context: RunContext
) -> tuple[Callable[[Recommender], dict[str, float]], Schedule]:
    """Return the function that evaluates a model in training, and the schedule with its metric.

    Nothing is evaluated where an earlier selection is repeated, or where the last weights are
    returned and there are no validation events.

    Raises:
        ConfigError: see `validation`; or the metric of the context returns no finite number.
        DataError: there is no validation item to select on.
    """
    held_out, own_metric = context.eval_dataset or dataset, context.validation_metric
    has_events = bool(len(held_out.valid.values))
    if context.selected is not None or not (schedule.select == "best" or has_events):
        return (lambda _: {}), schedule
    if own_metric is None:
        return validation(held_out, schedule.metric, context.repeats), schedule
    name = getattr(own_metric, "__name__", type(own_metric).__name__)
    metrics = validation(held_out, schedule.metric, context.repeats) if has_events else None

    def evaluate(model: Recommender) -> dict[str, float]:
        value = float(own_metric(model, held_out))
        if not math.isfinite(value):
            raise ConfigError(f"the validation metric {name} returned {value}; return a number.")
        return ({} if metrics is None else metrics(model)) | {name: value}

    return evaluate, replace(schedule, metric=name)


def validation(
    dataset: Dataset, metric: str, repeats: Repeats
) -> Callable[[Recommender], dict[str, float]]:
    """Return a function that evaluates a model on the validation items, averaged over users.

    Args:
        dataset: gives the validation items.
        metric: the selecting metric, like "ndcg@10"; its cut-off is used beside 10.
        repeats: the protocol.

    Raises:
        ConfigError: the metric needs values and the log has none.
        DataError: there is no validation item.
    """
    ks = sorted({10, cutoff(metric) or 10})
    targets = targets_of(dataset, "valid", repeats)
    if metric.startswith("value@") and targets.column("value") is None:
        raise ConfigError(
            f"metric: {metric} needs values, and the log has none. Map a column of prices or "
            "quantities with --column value=NAME, or select by another metric."
        )
    return lambda model: evaluate_targets(model, dataset, targets, ks=ks).means()


def check_takes_weights(model: type[Recommender]) -> None:
    """Raise a ConfigError if the loss of a model cannot weight next items."""
    if not model.takes_weights:
        raise ConfigError(
            f"pretrain.event_weights: the loss of {model.__name__} does not weight next items. Use "
            "a model whose loss does, such as sasrec or gru4rec, or leave event_weights out."
        )


def supervised_work(model: Recommender, batch: TrainingBatch) -> StepWork:
    """Return what an update on the model's own loss computes."""
    states = sum(len(part.targets) for part in batch.parts)
    queries = None if batch.states is None else batch.states.queries
    return StepWork(states, 0 if queries is None else encoded_histories(model, queries), 1)


def first_ids(queries: Queries, user_ids: pl.Series) -> list[str]:
    """Return the ids of the first three users of the states."""
    users = list(dict.fromkeys(queries.state_users.tolist()))[:3]
    return [str(user_ids[user]) for user in users if user >= 0]


def supervised_batches(
    model: Recommender, train: RaggedArray, batch_size: int, generator: torch.Generator
) -> Iterator[TrainingBatch]:
    """Yield batches for a model's own loss, endlessly."""
    config = PretrainConfig(batch_size=batch_size)
    kinds = {kind: _forever(_loader(kind, model, config, train), generator) for kind in model.needs}
    while True:
        yield _to_device({kind: next(more) for kind, more in kinds.items()}, model)


def _to_device(host: dict[str, Batch], model: Recommender) -> TrainingBatch:
    """Return batches by kind on the device of the model, with what it prepares of them."""
    host = {
        kind: batch._replace(queries=model.prepare_queries(batch.queries))
        for kind, batch in host.items()
    }
    on_device = {kind: batch.to(model.device) for kind, batch in host.items()}
    states, edges = on_device.get("states"), on_device.get("edges")
    return TrainingBatch(states, edges, TrainingBatch(host.get("states"), host.get("edges")))


def _target_weights(
    model: Recommender, config: PretrainConfig, train: RaggedArray
) -> npt.NDArray[np.float64] | None:
    """Return float64[m], the weight of each training event as a next item; None without weights."""
    if not config.event_weights:
        return None
    check_takes_weights(type(model))
    weights = event_rewards(train, config.event_weights, "pretrain.event_weights")
    is_next = np.ones(len(weights), dtype=np.bool_)
    is_next[train.offsets[:-1][train.lengths > 0]] = False
    if not weights[is_next].any():
        raise ConfigError(
            "pretrain.event_weights: no next item of the training histories has an event type with "
            "a weight above 0, so nothing would be learned; change the weights."
        )
    return weights


def _loader(
    kind: str,
    model: Recommender,
    config: PretrainConfig,
    train: RaggedArray,
    targets: npt.NDArray[np.bool_] | None = None,
    weights: npt.NDArray[np.float64] | None = None,
) -> StateBatches | EdgeBatches:
    if kind == "edges":
        return EdgeBatches(train, batch_size=config.batch_size, targets=targets)
    return StateBatches(
        train.keep_columns(model.reads),
        n_items=model.n_items,
        history_length=model.history_length,
        batch_size=config.batch_size,
        rows=config.rows,
        targets=targets,
        weights=weights,
    )


def _forever(loader: StateBatches | EdgeBatches, generator: torch.Generator) -> Iterator[Batch]:
    return itertools.chain.from_iterable(loader.epoch(generator) for _ in itertools.count())
