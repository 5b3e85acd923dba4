"""Fine-tuning of a recommender; the trainer depends on no particular model or algorithm.

The default of GRPO departs from the paper (Jeon et al. 2025):
1. The objective is the log-likelihood of the rewarded items, weighted by their rewards
   (`loss_type = "log"`); the paper's, 2 arcsin sqrt(p), is `loss_type = "grpo"`.
2. The reward is that of the next ten items of a user, discounted, instead of the next item.
3. The catalogue is enumerated: no groups are drawn, so none is without a reward.
4. There is no KL term (`beta = 0`). With one, KL(new || reference) replaces Eq. 5's
   KL(old || reference), which has no gradient; `kl_estimator = "literal"` keeps the latter.
5. The policy is the served one: items are masked as in the evaluation, the temperature is
   calibrated.
6. The states are those in which the model is used (`state = "auto"`): every prefix, or the last one
   for a model with one vector per user.
7. All parameters are trained, in larger and fewer steps (`learning_rate`, `epochs`, `patience`).
8. Dropout has one mask for all policies of a step.
9. The base model is a candidate; the best weights on validation are returned.
10. A model that propagates over the log does so without the interactions that a batch rewards.
11. Part of each reward goes to the items that the same users interact with; a model whose own loss
    regularises its vectors keeps that loss instead.
12. A moving average of the weights is evaluated and returned, interpolated towards the base where
    validation prefers it (WiSE-FT, Wortsman et al. 2022).
`GRPOConfig.paper()` reverts all of them.
"""

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import nn

from recoach import distributed
from recoach.data.batches import StateBatches
from recoach.data.dataset import Dataset, drop_last
from recoach.data.targets import Part
from recoach.errors import ConfigError
from recoach.evaluation.evaluator import KS, Evaluation, evaluate
from recoach.models.base import Recommender, check_ids, interaction_keys
from recoach.models.sharded_embedding import (
    first_local_item,
    global_square_sum,
    shard_embedding,
)
from recoach.policy.policy import Policy
from recoach.policy.reward_funcs import RewardFunc
from recoach.training.algorithms.base import Learner, RLBatch
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.registry import algorithm_entry, build_algorithm
from recoach.training.batch_builder import BatchBuilder
from recoach.training.callbacks import Callback, StateRecorder, TrainerState, TrainResult
from recoach.training.config import FinetuneConfig
from recoach.training.context import RunContext, Schedule, accept_former_names
from recoach.training.contract import Logs, encoded_histories
from recoach.training.health import CollapseMonitor, coverage
from recoach.training.loop import Loop
from recoach.training.optimizer_step import clip_gradients, optimizer_parameters
from recoach.training.reporting import reporting
from recoach.training.served_lists import ServedLists
from recoach.training.supervised import (
    first_ids,
    selection,
    supervised_batches,
    supervised_work,
)
from recoach.training.work import StepWork

_LOG = logging.getLogger(__name__)
_SFT_COEF: Final = 0.3
"""Weight of a supervised loss that regularises the vectors (docs/decisions/0015)."""


class RLTrainer:
    """Fine-tunes a model with an algorithm: batches, optimiser, selection and diagnostics.

    Args:
        model: trained in place.
        reward_funcs: a reward function, a name of a ready-made one, or several
            (`recoach.policy.reward_funcs`); None takes those of `args`.
        args: settings, whose class selects the algorithm (`recoach.training.algorithms`).
        train_dataset: its `train` gives the rewards, its `valid` selects the weights.
        callbacks: called at every step, at every evaluation and at the end.
        context: seed, checkpoints, protocol of the validation, progress and trackers.

    Attributes:
        state: how far the training is, see `TrainerState`.

    Raises:
        ConfigError: the settings do not fit the model, the reward functions or the dataset.
        ModelError: the model was built for other users or items.
    """

    @accept_former_names(session="context")
    def __init__(
        self,
        model: Recommender,
        reward_funcs: RewardFunc | str | Sequence[RewardFunc | str] | None = None,
        args: FinetuneConfig | None = None,
        *,
        train_dataset: Dataset,
        callbacks: Sequence[Callback] = (),
        context: RunContext | None = None,
    ) -> None:
        check_ids(model, train_dataset)
        self.model, self.args = model, args or GRPOConfig()
        self.dataset, context = train_dataset, context or RunContext()
        self.context, self._callbacks = context, tuple(callbacks)
        self.state = TrainerState()
        self.loop: Loop[RLBatch] | None = None
        self._mask_seen = self.args.masks(context.repeats, model)
        self._sft_coef = supervised_weight(self.args, model)
        if self.args.level == "final":
            model.materialize_propagation()
        temperature = self.args.temperature_of(
            model, context.eval_dataset or train_dataset, context.repeats, context.seed
        )
        if self.args.shards_items:
            shard_embedding(model)
        self.policy = Policy(
            temperature,
            self.args.logits,
            exact_products=self.args.compares_policies,
            has_kl=self.args.has_kl,
            first_item=first_local_item(model),
        )
        self.reward_funcs = _as_sequence(reward_funcs, self.args)
        self._builder = BatchBuilder(
            self.args.model_copy(update={"mask_seen": self._mask_seen}),
            train_dataset,
            self.reward_funcs,
            model,
            transitions=algorithm_entry(self.args.algorithm).algorithm.needs_transitions,
            mask_rejected=context.repeats != "recbole",
            seed=context.seed,
        )
        self._served: ServedLists | None = None
        reward = self._builder.reward
        if self.args.bounds or reward.served:
            self._served = ServedLists(self.args, context, train_dataset, model, reward)
        learner = Learner(model, self.policy, self._builder.reward, train_dataset)
        self.algorithm = build_algorithm(self.args, learner)
        self._start = {name: p.detach().clone() for name, p in model.named_parameters()}
        self._states = StateBatches(
            train_dataset.train.keep_columns(model.reads),
            n_items=train_dataset.n_items,
            history_length=model.history_length,
            batch_size=self.args.largest_batch,
            states=self._builder.states,
            targets=context.targets,
        )
        self._states.limit_batch_size(self.args.fewest_steps)
        self._check_group_size()
        self.optimiser = self._new_optimiser()

    def _new_optimiser(self) -> torch.optim.Optimizer:
        optim = torch.optim.AdamW if self.args.optim == "adamw" else torch.optim.SGD
        return optim(
            [*self._trainable_parameters(), *self._module_parameters()],
            lr=self.args.learning_rate,
            weight_decay=self.args.weight_decay,
            fused=True,
        )

    def train(self) -> TrainResult:
        """Fine-tune and leave the selected weights in the model; the base is a candidate.

        Logs a warning if the base is selected because no step improved on it.
        """
        metrics, schedule = self._selection()
        settings = {"seed": self.context.seed, "finetune": self.args.model_dump(mode="json")}
        self.state = TrainerState()
        callbacks = [
            CollapseMonitor(self.dataset.n_items),
            StateRecorder(self.state, schedule.metric),
            *self._callbacks,
        ]
        try:
            with reporting(self.context, "tuned", settings, schedule.metric, callbacks) as context:
                self.loop = Loop(self, schedule, metrics, context)
                result = self.loop.run()
        finally:
            self.model.requires_grad_(True)
        base_kept = self.args.select == "best" and result.steps and not result.best_step
        if base_kept and distributed.is_main_process():
            _LOG.warning(
                "No step of %s was better than the base on validation (%s %.4f): the model has "
                "the base's weights.",
                _display_name(self.args),
                schedule.metric,
                result.best_value,
            )
        return result

    def evaluate(self, part: Part = "test", *, ks: Sequence[int] = KS) -> Evaluation:
        """Evaluate the model as it is now, under the protocol of the training's validation.

        Args:
            part: "test" or "valid".
            ks: the cut-offs of the metrics.

        Raises:
            ConfigError: there is no such part.
            DataError: no user has a target in this part.
        """
        held_out = self.context.eval_dataset if part == "valid" else None
        dataset, repeats = held_out or self.dataset, self.context.repeats
        return evaluate(self.model, dataset, part, ks=ks, repeats=repeats)

    def _selection(self) -> tuple[Callable[[Recommender], dict[str, float]], Schedule]:
        """Return the function that evaluates a model in training, and the schedule."""
        protocol, held_out = self.context.repeats, self.context.eval_dataset or self.dataset
        metrics, schedule = selection(self.dataset, self.args.schedule(), self.context)
        metric, served = schedule.metric, self._served

        def evaluate_model(model: Recommender) -> dict[str, float]:
            row = metrics(model)
            if row and len(held_out.valid.values):
                row = row | {"coverage@10": coverage(model, held_out, protocol)}
            return row if served is None else row | served.measure(model, row[metric])

        selecting = metric if served is None else served.selecting(metric)
        return evaluate_model, replace(schedule, metric=selecting)

    def __repr__(self) -> str:
        settings = ", ".join(
            f"{k}={getattr(self.args, k)!r}" for k in sorted(self.args.model_fields_set)
        )
        return (
            f"{type(self).__name__}({type(self.model).__name__} on {self.dataset!r}, "
            f"{self.args.algorithm}, {len(self):,} steps an epoch{', ' if settings else ''}"
            f"{settings})"
        )

    def __len__(self) -> int:
        train = self.dataset.train
        units = {"users": len(train), "interactions": len(train.values)}
        count = units.get(self.args.epoch_unit, self._states.n_states)
        return max(1, -(-count // self._states.batch_size))

    def epoch(self, generator: torch.Generator) -> Iterator[RLBatch]:
        """Yield the batches of one epoch of states with their rewards."""
        if self.args.epoch_unit == "states":
            batches = self._states.epoch(generator)
        else:
            passes = (self._states.epoch(generator) for _ in itertools.count())
            batches = itertools.islice(itertools.chain.from_iterable(passes), len(self))
        supervised = supervised_batches(
            self.model, self.dataset.train, self.args.largest_batch, generator
        )
        for states in batches:
            queries = self.model.prepare_queries(states.queries)
            batch = self._builder.build(states._replace(queries=queries), self.model.device)
            yield batch._replace(supervised=next(supervised)) if self._sft_coef else batch

    def checkpointed_modules(self) -> Mapping[str, nn.Module]:
        """Return the modules that checkpoints save and restore by their names."""
        served = {} if self._served is None else self._served.modules
        return {**self.algorithm.modules, **served}

    def work(self, batch: RLBatch) -> StepWork:
        """Return the states of a batch, the passes of the model over it and the updates."""
        updates, states = self.args.updates_per_batch, len(batch.queries)
        passes = encoded_histories(self.model, batch.queries)
        if batch.supervised is not None:
            own_loss = supervised_work(self.model, batch.supervised)
            states, passes = states + own_loss.states, passes + own_loss.encoder_passes
        return StepWork(states, passes * updates, updates)

    def users(self, batch: RLBatch) -> list[str]:
        """Return the ids of the first users of a batch, for messages."""
        return first_ids(batch.queries, self.dataset.user_ids)

    def before_step(self, step: int) -> None:
        """Call the algorithm's `after_step` for the previous step.

        It is called here, after the checkpoint of that step, so that a resumed run calls it once.
        """
        if self._served is not None:
            self._served.update()
        if step:
            self.algorithm.after_step(step)

    def step(self, batch: RLBatch, generator: torch.Generator) -> Logs:
        """Prepare the batch once, then update the weights `updates_per_batch` times."""
        self.model.train(not self.args.disable_dropout)
        batch = self._builder.restrict(batch, generator)
        if self.args.shared_dropout:
            batch = batch._replace(dropout_seed=torch.initial_seed())
        with torch.no_grad():
            prepared = self.algorithm.prepare(batch, generator)
        for _ in range(self.args.updates_per_batch):
            loss, statistics = self.algorithm.loss(batch, prepared, generator)
            if batch.supervised is not None:
                loss = loss + self._sft_coef * self.model.loss(batch.supervised, generator)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            distributed.all_reduce_gradients(optimizer_parameters(self.optimiser))
            norm = clip_gradients(self.model, self.optimiser, self.args.max_grad_norm)
            self.optimiser.step()
        return {"loss": distributed.data_total(loss), "grad_norm": norm, **statistics.means()}

    def diagnostics(self) -> dict[str, float]:
        """Return the temperature and each parameter group's distance from the base.

        The distance is relative to the length of the base's parameters.
        """
        drift = {}
        names = {id(p): name for name, p in self.model.named_parameters()}
        for group, parameters in self.model.parameter_groups().items():
            starts = [self._start[names[id(p)]] for p in parameters]
            pairs = list(zip(parameters, starts, strict=True))
            distance = sum(self._square_sum(p, p.detach() - s) for p, s in pairs)
            length = sum(self._square_sum(p, s) for p, s in pairs)
            drift[f"drift/{group}"] = (distance / length) ** 0.5 if length else 0.0
        return drift | {"temperature": self.policy.temperature}

    def _square_sum(self, parameter: torch.Tensor, values: torch.Tensor) -> float:
        """Return the sum of squares of values with a parameter's rows, over all processes."""
        return float(global_square_sum(self.model, parameter, values.square().sum()))

    def _check_group_size(self) -> None:
        """Check that enough items are not masked to draw different ones, and that any are drawn."""
        size = getattr(self.args, "num_generations", None)
        if size and getattr(self.args, "estimator", "") in ("exact", "stratified"):
            _LOG.warning(
                "num_generations = %d has no effect with estimator %r, which draws no groups. "
                "Leave it out, or set estimator = 'sampled' and loss_type = 'grpo'.",
                size,
                getattr(self.args, "estimator", ""),
            )
        setting, distinct = self.args.distinct_draws
        if not distinct:
            return
        train = self.dataset.train
        past = train if self._builder.states == "user" else drop_last(train, 1)
        n_items = self.dataset.n_items
        users = interaction_keys(past, n_items) // max(1, n_items)
        most = int(users.bincount().max()) if self._mask_seen and len(users) else 0
        available = n_items - most
        if distinct <= available:
            return
        remedy = "lower it" + (" or set replacement = true" if setting != "slate_length" else "")
        raise ConfigError(
            f"{setting} = {distinct}: so many different items cannot be drawn where the policy can "
            f"show only {available} items; {remedy}."
        )

    def _trainable_parameters(self) -> list[torch.Tensor]:
        groups = self.model.parameter_groups()
        parameters = [p for name in self.args.trainable for p in groups.get(name, [])]
        if not parameters:
            raise ConfigError(
                f"trainable = {list(self.args.trainable)} names no table of this model; it has "
                f"{list(groups)}."
            )
        self.model.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        return parameters

    def _module_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the algorithm trains beside the model."""
        modules = self.algorithm.modules.values()
        return [p for module in modules for p in module.parameters() if p.requires_grad]


def _as_sequence(
    functions: RewardFunc | str | Sequence[RewardFunc | str] | None, args: FinetuneConfig
) -> Sequence[RewardFunc | str]:
    if functions is None:
        return args.reward_funcs
    if isinstance(functions, Sequence) and not isinstance(functions, str):
        return functions
    return [functions]


def _display_name(args: FinetuneConfig) -> str:
    return "GRPO" if args.algorithm == "grpo" else f"algorithm {args.algorithm!r}"


def supervised_weight(args: FinetuneConfig, model: Recommender) -> float:
    """Return the weight of the model's own loss in fine-tuning.

    Raises:
        ConfigError: the weight is given and not 0, and the model has no loss.
    """
    weight = args.sft_coef
    if weight == "auto":
        return _SFT_COEF * model.regularises
    if weight and not model.needs:
        raise ConfigError(
            f"sft_coef = {weight:g} adds the model's own loss, but "
            f"{type(model).__name__} has none; set sft_coef = 0."
        )
    return weight
