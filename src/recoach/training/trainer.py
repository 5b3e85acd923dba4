"""GRPO fine-tuning of a recommender; the trainer knows no model.

What it is not, against the paper (Jeon et al. 2025):
1. By default the catalogue is enumerated: no groups are drawn, none is dead.
2. KL(new || reference) replaces Eq. 5's KL(old || reference), which has no gradient; `literal`
   keeps it for the record.
3. The policy shows what serving shows: seen items are masked, the temperature is calibrated.
4. The base is a candidate; the best weights on validation are returned.
5. A model that propagates over the log does so without the edges that a batch rewards.
6. A part of what the log pays goes to the items that the same users take; a model whose own loss
   regularises its vectors has that carried on instead.
7. What is judged and returned is a moving average of the weights, drawn back towards the base as
   far as validation likes (WiSE-FT, Wortsman et al. 2022).
`GRPOConfig.paper()` switches 1 to 7 back.
"""

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import nn

from recoach import distributed
from recoach.data.batches import StateBatches
from recoach.data.split import Dataset, drop_last
from recoach.errors import ConfigError
from recoach.models.base import Recommender, frozen_copy, interaction_keys
from recoach.models.distribution import Distribution
from recoach.models.sharded_embedding import (
    first_local_item,
    global_square_sum,
    shard_embedding,
    sharded_table,
)
from recoach.policy.policy import Policy
from recoach.policy.reward_funcs import RewardFunc
from recoach.training.algorithms import estimator_for
from recoach.training.batch_builder import BatchBuilder
from recoach.training.callbacks import Callback, CallbackList, TrainResult
from recoach.training.config import GRPOConfig
from recoach.training.estimators import RLBatch
from recoach.training.health import CollapseMonitor, coverage
from recoach.training.loop import Loop, RunContext
from recoach.training.supervised import first_ids, own_batches, validation

_LOG = logging.getLogger(__name__)
_CARRIED: Final = 0.3
"""Weight of a loss that regularises (docs/decisions/0015)."""


class GRPOTrainer:
    """Optimiser, frozen reference and the step of Algorithm 1.

    Args:
        model: moved in place.
        reward_funcs: a reward function, a name of a ready-made one, or several
            (`recoach.policy.reward_funcs`); those of `args` where None.
        args: settings; the defaults are what works.
        train_dataset: rewards come from its `train`, selection from its `valid`.
        callbacks: told of every step and evaluation, and of the end.
        context: seed, checkpoints, protocol of the validation.

    Raises:
        ConfigError: the model has none of the tables to train.
    """

    def __init__(
        self,
        model: Recommender,
        reward_funcs: RewardFunc | str | Sequence[RewardFunc | str] | None = None,
        args: GRPOConfig | None = None,
        *,
        train_dataset: Dataset,
        callbacks: Sequence[Callback] = (),
        context: RunContext | None = None,
    ) -> None:
        self.model, self.args = model, args or GRPOConfig()
        self.dataset, context = train_dataset, context or RunContext()
        watching = [CollapseMonitor(train_dataset.n_items), context.callback, *callbacks]
        self.context = replace(context, callback=CallbackList(watching))
        self._masks = self.args.masks(context.mask_seen, model)
        carried = self.args.sft_coef
        self._sft_coef = _CARRIED * model.regularises if carried == "auto" else carried
        if self._sft_coef and not model.needs:
            raise ConfigError(
                f"sft_coef = {self._sft_coef:g} adds the model's own loss, but "
                f"{type(model).__name__} has none; set sft_coef = 0."
            )
        if self.args.level == "final":
            model.materialize_propagation()
        protocol, seed = context.mask_seen, context.seed
        temperature = self.args.temperature_of(model, train_dataset, protocol, seed)
        exact = self.args.compares_policies
        if self.args.shard_items:
            shard_embedding(model)
        self.policy = Policy(
            temperature, self.args.logits, exact_products=exact, first_item=first_local_item(model)
        )
        functions = _several(reward_funcs, self.args)
        masked = self.args.model_copy(update={"mask_seen": self._masks})
        self._tasks = BatchBuilder(masked, train_dataset, functions, model)
        self._estimator = estimator_for(self.args, self._tasks.rewarder, model)
        anchored = self.args.beta > 0 or self._estimator.needs_reference
        self.reference = frozen_copy(model) if anchored else None
        self.old = frozen_copy(model) if self.args.old_model_sync_steps > 1 else None
        self._start = {name: p.detach().clone() for name, p in model.named_parameters()}
        self._states = StateBatches(
            train_dataset.train,
            n_items=train_dataset.n_items,
            history_length=model.history_length,
            batch_size=self.args.largest_batch,
            states=self._tasks.states,
        )
        self._states.cut(self.args.fewest_steps)
        self._check_group()
        optim = torch.optim.AdamW if self.args.optim == "adamw" else torch.optim.SGD
        self.optimiser: torch.optim.Optimizer = optim(
            [*self._trainable(), *self._head_parameters()],
            lr=self.args.learning_rate,
            weight_decay=self.args.weight_decay,
            fused=True,
        )

    def train(self) -> TrainResult:
        """Fine-tune and leave the selected weights, the base's own among the candidates.

        Where those are selected because nothing was better, a warning is logged.
        """
        protocol = self.context.mask_seen
        rank = validation(self.dataset, self.args.metric, protocol)

        def evaluate(model: Recommender) -> dict[str, float]:
            return rank(model) | {"coverage@10": coverage(model, self.dataset, protocol)}

        try:
            outcome = Loop(self, self.args.schedule(), evaluate, self.context).run()
        finally:
            self.model.requires_grad_(True)
        kept = self.args.select == "best" and outcome.steps and not outcome.best_step
        if kept and distributed.is_main_process():
            _LOG.warning(
                "No step of GRPO was better than the base on validation (%s %.4f): the model has "
                "the base's weights.",
                self.args.metric,
                outcome.best_value,
            )
        return outcome

    def __repr__(self) -> str:
        chosen = ", ".join(
            f"{k}={getattr(self.args, k)!r}" for k in sorted(self.args.model_fields_set)
        )
        return (
            f"GRPOTrainer({type(self.model).__name__} on {self.dataset!r}, "
            f"{self.args.algorithm}, {len(self):,} steps an epoch{', ' if chosen else ''}{chosen})"
        )

    def __len__(self) -> int:
        train = self.dataset.train
        units = {"users": len(train), "interactions": len(train.values)}
        count = units.get(self.args.epoch_unit, self._states.n_states)
        return max(1, -(-count // self._states.batch_size))

    def epoch(self, generator: torch.Generator) -> Iterator[RLBatch]:
        """Yield one epoch of states with their rewards."""
        if self.args.epoch_unit == "states":
            batches = self._states.epoch(generator)
        else:
            passes = (self._states.epoch(generator) for _ in itertools.count())
            batches = itertools.islice(itertools.chain.from_iterable(passes), len(self))
        own = own_batches(self.model, self.dataset.train, self.args.largest_batch, generator)
        for batch in batches:
            task = self._tasks.task(batch, self.model.device)
            yield task._replace(own=next(own)) if self._sft_coef else task

    def checkpointed_modules(self) -> dict[str, nn.Module]:
        """Return what changes in training beside the model: frozen policies, a rival's head."""
        changing: dict[str, nn.Module | None] = {"old": self.old, "head": self._estimator.head}
        if self.args.ref_model_sync_steps:
            changing["reference"] = self.reference
        return {name: model for name, model in changing.items() if model is not None}

    def users(self, batch: RLBatch) -> list[str]:
        """Return the first users of a batch, for messages."""
        return first_ids(batch.queries, self.dataset.user_ids)

    def refresh(self, step: int) -> None:
        """Bring the old policy and the reference up to the policy where it is their turn."""
        args = self.args
        for frozen, every in (
            (self.old, args.old_model_sync_steps),
            (self.reference, args.ref_model_sync_steps),
        ):
            if frozen is not None and every and step % every == 0:
                frozen.load_state_dict(self.model.state_dict())

    def step(self, batch: RLBatch, generator: torch.Generator) -> dict[str, float]:
        """Roll out, then climb the surrogate `num_iterations` times (Eq. 4 and 5)."""
        self.model.train(not self.args.disable_dropout)
        batch = self._tasks.narrowed(batch, generator)
        rollout = reference = None
        mask = torch.initial_seed() if self.args.shared_dropout else None
        with torch.no_grad():
            if self._estimator.needs_rollout:
                old = self._distribution(batch, self.old or self.model, mask)
                own = self._on_device(distributed.rank_generator(generator))
                rollout = self._estimator.roll_out(old, batch, own)
            if self.reference is not None:
                reference = self._distribution(batch, self.reference, mask)
        for _ in range(self.args.num_iterations):
            new = self._distribution(batch, self.model, mask)
            loss, statistics = self._estimator.loss(new, batch, rollout, reference)
            if batch.own is not None:
                loss = loss + self._sft_coef * self.model.loss(batch.own, generator)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            distributed.all_reduce_gradients(_moved(self.optimiser))
            norm = self._gradient_norm()
            self.optimiser.step()
        logged = {"loss": distributed.data_sum(float(loss.detach())), "grad_norm": norm}
        return logged | statistics.means()

    def diagnostics(self) -> dict[str, float]:
        """Return the temperature and how far each table has moved, relative to its size."""
        drift = {}
        by_identity = {id(p): name for name, p in self.model.named_parameters()}
        for table, parameters in self.model.parameter_groups().items():
            starts = [self._start[by_identity[id(p)]] for p in parameters]
            pairs = list(zip(parameters, starts, strict=True))
            moved = sum(self._square(p, p.detach() - s) for p, s in pairs)
            size = sum(self._square(p, s) for p, s in pairs)
            drift[f"drift/{table}"] = (moved / size) ** 0.5 if size else 0.0
        return drift | {"temperature": self.policy.temperature}

    def _square(self, parameter: torch.Tensor, values: torch.Tensor) -> float:
        """Return the sum of squares of values that a parameter's rows have."""
        return float(global_square_sum(self.model, parameter, values.square().sum()))

    def _gradient_norm(self) -> float:
        moved = [(p, p.grad) for p in _moved(self.optimiser) if p.grad is not None]
        if sharded_table(self.model):
            return math.sqrt(sum(self._square(p, gradient) for p, gradient in moved))
        return float(torch.nn.utils.get_total_norm([gradient for _, gradient in moved]))

    def _distribution(
        self, batch: RLBatch, model: Recommender, dropout_seed: int | None
    ) -> Distribution:
        """Return a model's policy; all policies of a step share the dropout seed, if given."""
        if dropout_seed is not None:
            model.train(self.model.training)
        return self.policy.distribution(
            model, batch.queries, batch.candidates, dropout_seed=dropout_seed
        )

    def _check_group(self) -> None:
        args, n_items, train = self.args, self.dataset.n_items, self.dataset.train
        different = args.estimator == "sampled" and not args.replacement
        if not different and args.estimator != "slate":
            return
        past = train if self._tasks.states == "user" else drop_last(train, 1)
        users = interaction_keys(past, n_items) // max(1, n_items)
        most = int(users.bincount().max()) if self._masks and len(users) else 0
        shown = n_items - most
        if different and args.group_size > shown:
            raise ConfigError(
                f"num_generations = {args.group_size} different items cannot be drawn where "
                f"only {shown} may be shown; lower it or set replacement = true."
            )
        if not different and args.slate_length > shown:
            raise ConfigError(
                f"slate_length = {args.slate_length}: such lists cannot be drawn where only "
                f"{shown} items may be shown; lower it."
            )

    def _trainable(self) -> list[torch.Tensor]:
        tables = self.model.parameter_groups()
        chosen = [p for name in self.args.trainable for p in tables.get(name, [])]
        if not chosen:
            raise ConfigError(
                f"trainable = {list(self.args.trainable)} names no table of this model; it has "
                f"{list(tables)}."
            )
        self.model.requires_grad_(False)
        for parameter in chosen:
            parameter.requires_grad_(True)
        return chosen

    def _head_parameters(self) -> list[nn.Parameter]:
        head = self._estimator.head
        return [] if head is None else list(head.parameters())

    def _on_device(self, generator: torch.Generator) -> torch.Generator:
        device = self.model.device
        if device.type == "cpu":
            return generator
        return torch.Generator(device).manual_seed(generator.initial_seed())


def _several(
    functions: RewardFunc | str | Sequence[RewardFunc | str] | None, args: GRPOConfig
) -> Sequence[RewardFunc | str]:
    if functions is None:
        return args.reward_funcs
    if isinstance(functions, Sequence) and not isinstance(functions, str):
        return functions
    return [functions]


def _moved(optimiser: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [p for group in optimiser.param_groups for p in group["params"]]
