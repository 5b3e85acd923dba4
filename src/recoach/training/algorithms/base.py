"""The contract of a fine-tuning algorithm, and the batch it learns from."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from recoach import distributed
from recoach.data.dataset import Dataset
from recoach.data.queries import Queries
from recoach.data.transfer import to_device
from recoach.models.base import Recommender, TrainingBatch, frozen_copy
from recoach.models.distribution import Block, Distribution
from recoach.policy.candidates import Candidates
from recoach.policy.policy import Policy
from recoach.policy.rewards import CombinedReward, LoggedItems, Rewards
from recoach.training.config import FinetuneConfig
from recoach.training.transitions import Transitions

Settings = TypeVar("Settings", bound=FinetuneConfig)
Prepared = TypeVar("Prepared")


class LoggedActions(NamedTuple):
    """The action of each state: the item that the user interacted with next."""

    items: Tensor
    """int64[B]."""
    propensities: Tensor | None = None
    """float32[B] the probability with which the logging policy showed the item, from the column
    `propensity`; NaN where it is missing, None in a log without the column."""

    def to(self, device: torch.device) -> "LoggedActions":
        """Return the same actions on another device."""
        propensities = self.propensities
        return LoggedActions(
            to_device(self.items, device),
            None if propensities is None else to_device(propensities, device),
        )


class RLBatch(NamedTuple):
    """A batch of states and the rewards of their items."""

    queries: Queries
    """B states; their seen items are masked in the policy."""
    rewards: Rewards
    """What the log rewards; every other item has reward 0."""
    candidates: Candidates | None = None
    """The sample that stands for the catalogue; items are numbered within it."""
    logged: LoggedItems | None = None
    """The logged items of the states (of others with `shuffle_rewards`), where reward functions are
    called with drawn items or the algorithm needs them."""
    supervised: TrainingBatch | None = None
    """A batch for the model's own loss, where `sft_coef` adds it."""
    transitions: Transitions | None = None
    """For algorithms with `needs_transitions`."""
    actions: LoggedActions | None = None
    """The logged actions; None for states without a next item."""
    dropout_seed: int | None = None
    """Seed of the dropout masks that all policies of the step share; None draws new masks."""
    has_negative_rewards: bool = False
    """Whether a reward of the log is below 0; known before the batch is on a device."""


class Statistics:
    """Averages of what is logged, as sums and counts."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int | Tensor] = {}

    def add(self, name: str, values: Tensor, where: Tensor | None = None) -> None:
        """Include the elements of a tensor in the average of a name.

        Args:
            name: of the average.
            values: any shape.
            where: bool of the same shape, the elements to include; None for all.
        """
        values = values.detach()
        total = values.sum() if where is None else values.where(where, 0).sum()
        count = values.numel() if where is None else where.sum()
        earlier = self._sums.get(name)
        self._sums[name] = total.double() if earlier is None else earlier + total.double()
        self._counts[name] = self._counts.get(name, 0) + count

    def means(self) -> dict[str, Tensor]:
        """Return float64[], the averages over all processes; a name without elements is 0."""
        if not self._sums:
            return {}
        sums = torch.stack(list(self._sums.values()))
        counts = [
            count.to(sums) if isinstance(count, Tensor) else sums.new_full((), count)
            for count in self._counts.values()
        ]
        sums, all_counts = distributed.all_reduce_sum(torch.stack([sums, torch.stack(counts)]))
        return dict(zip(self._sums, (sums / all_counts.clamp(min=1)).unbind(), strict=True))


class Learner(NamedTuple):
    """What the trainer gives an algorithm."""

    model: Recommender
    """The model that is trained in place."""
    policy: Policy
    """How scores become probabilities."""
    reward: CombinedReward
    """All reward functions."""
    dataset: Dataset | None = None
    """What is trained on, for algorithms that read more than batches."""


class Algorithm(ABC, Generic[Settings, Prepared]):
    """Turns a batch into a loss; the trainer does everything else.

    A step calls `prepare` once and then `loss` `args.updates_per_batch` times, each followed by an
    optimiser step. Every random draw comes from the generator that is handed in, never from the
    global random state, which belongs to dropout.

    Args:
        args: the algorithm's settings.
        learner: the model, its policy and the rewards.
    """

    needs_transitions: ClassVar[bool] = False
    """Whether batches carry `transitions`."""

    def __init__(self, args: Settings, learner: Learner) -> None:
        self.args = args
        self.model, self.policy, self.reward = learner.model, learner.policy, learner.reward
        self._modules: dict[str, nn.Module] = {}
        self._synchronised: list[tuple[Recommender, int]] = []

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The modules beside the model that change in training, under stable names.

        All of them are saved in checkpoints and restored; parameters that require gradients are
        trained by the optimiser.
        """
        return self._modules

    @abstractmethod
    def prepare(self, batch: RLBatch, generator: torch.Generator) -> Prepared:
        """Compute what stays fixed for all updates on a batch; called without gradients.

        Args:
            batch: on the model's device.
            generator: on the CPU, in the same state in all processes; see `draw_generator`.
        """

    @abstractmethod
    def loss(
        self, batch: RLBatch, prepared: Prepared, generator: torch.Generator
    ) -> tuple[Tensor, Statistics]:
        """Return the loss and what to log.

        Args:
            batch: as in `prepare`.
            prepared: the result of `prepare`.
            generator: as in `prepare`.

        Returns:
            The loss of this process's rows over the number of rows of all processes (losses add
            up over processes), and the statistics.
        """

    def after_step(self, step: int) -> None:
        """Update frozen modules after `step` >= 1 steps.

        The trainer calls it at the start of the next step, after a checkpoint may have been
        written, so that a resumed run calls it exactly once for each step too.
        """
        for frozen, every in self._synchronised:
            if step % every == 0:
                frozen.load_state_dict(self.model.state_dict())

    def frozen_model(self, name: str, sync_steps: int) -> Recommender:
        """Return a frozen copy of the model.

        Args:
            name: its name among `modules`, where it changes.
            sync_steps: `after_step` copies the model's weights every so many steps; 0 never does.
        """
        frozen = frozen_copy(self.model)
        if sync_steps:
            self._modules[name] = frozen
            self._synchronised.append((frozen, sync_steps))
        return frozen

    def distribution(self, model: Recommender, batch: RLBatch) -> Distribution:
        """Return the policy of the model, or of a frozen copy, for the states of a batch."""
        if batch.dropout_seed is not None:
            model.train(self.model.training)
        return self.policy.distribution(
            model, batch.queries, batch.candidates, dropout_seed=batch.dropout_seed
        )


def draw_generator(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """Return a generator on a device whose draws differ between processes; call it once a step.

    Args:
        generator: on the CPU, in the same state in all processes; advanced only where there are
            several.
        device: where the draws are made.
    """
    own = distributed.rank_generator(generator)
    if device.type == "cpu":
        return own
    return torch.Generator(device).manual_seed(own.initial_seed())


def rewarded_pairs(rewards: Rewards, block: Block) -> tuple[Tensor, Tensor, Tensor, slice]:
    """Return (state within the block, item, value, slice of the pairs) of a block's states."""
    where = slice(0, len(rewards.states))
    if not block.covers_all:
        where = rewards.between(block.which.start, block.which.stop)
    states = rewards.states[where] - block.which.start
    return states, rewards.items[where], rewards.values[where], where


def cross_entropy(
    distribution: Distribution,
    targets: Rewards,
    statistics: Statistics | None = None,
    *,
    name: str = "policy/p_mean",
) -> Tensor:
    """Return the mean of -log p of items, weighted by `targets.values`, over all processes.

    Args:
        distribution: of the states.
        targets: items that it does not mask, with weights of at least 0 that are scaled to mean 1.
        statistics: receives the unweighted mean of p.
        name: its name there.
    """
    total = one_if_zero(distributed.data_total(targets.values.sum()))

    def block_loss(block: Block) -> Tensor:
        states, items, weights, _ = rewarded_pairs(targets, block)
        log_p = block.log_p(states, items)
        if statistics is not None:
            statistics.add(name, log_p.detach().exp())
        return -(weights * log_p).sum() / total

    return distribution.loss(block_loss)


def transitions_of(batch: RLBatch) -> Transitions:
    """Return the transitions of a batch; ValueError if the algorithm did not ask for them."""
    if batch.transitions is None:
        raise ValueError("the batch has no transitions: set needs_transitions of the algorithm")
    return batch.transitions


def total_reward(batch: RLBatch) -> Tensor:
    """Return float[], the sum of the logged rewards of all processes, 1 where it is 0."""
    return one_if_zero(distributed.data_total(batch.rewards.values.sum()))


def one_if_zero(total: Tensor) -> Tensor:
    """Return a total that others are divided by; 1 where it is 0."""
    return torch.where(total == 0, 1.0, total)
