"""Deep Q-learning over the catalogue (Mnih et al. 2015), with the model's scores as Q values."""

from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from recoach import distributed
from recoach.data.queries import Queries
from recoach.models.base import Recommender, dot_product, eval_mode, frozen_copy
from recoach.models.distribution import Block
from recoach.policy.policy import Logits
from recoach.training.algorithms.base import (
    Algorithm,
    Learner,
    RLBatch,
    Statistics,
    draw_generator,
    transitions_of,
)
from recoach.training.algorithms.state_vectors import linear_head
from recoach.training.algorithms.td_learning import (
    RewardRange,
    TDLoss,
    mean_of_processes,
    polyak_update,
    td_errors,
)
from recoach.training.transition_config import TransitionConfig
from recoach.training.transitions import Transitions


class DQNConfig(TransitionConfig):
    """Settings of deep Q-learning."""

    algorithm: Literal["dqn"] = "dqn"
    """The algorithm of these settings."""

    temperature: float | Literal["auto"] = 1.0
    """Q is the score over the temperature; `auto` fits it to the validation likelihood."""
    logits: Logits = "raw"
    """Scores as they are; Q values are not normalised."""
    double: bool = True
    """Choose the next action by the model and evaluate it by the target network (van Hasselt et
    al. 2016); without it the target network does both and overestimates."""
    dueling: bool = False
    """Add a state value V(s) and subtract the mean score over the catalogue (Wang et al. 2016):
    Q(s, a) = V(s) + score - mean score. V is a linear head over the state vector; the ranking of a
    state remains that of the scores."""
    target_sync_steps: int = Field(default=1, ge=1)
    """Steps between updates of the target network."""
    tau: float = Field(default=0.05, gt=0, le=1)
    """Part of the model in an update of the target network (Polyak averaging); 1 copies it."""
    td_loss: TDLoss = "huber"
    """Loss of the temporal difference: Huber with threshold 1, or half the square."""
    num_negatives: int = Field(default=10, ge=0)
    """Uniformly drawn items per state whose reward is 0 (SNQN, Xin et al. 2022)."""
    conservative_coef: float = Field(default=0.1, ge=0)
    """Weight of the conservative term, log-sum-exp of Q minus Q of the logged action (CQL, Kumar et
    al. 2020)."""

    @model_validator(mode="after")
    def _check_scores(self) -> Self:
        if self.logits != "raw":
            raise ValueError("algorithm 'dqn' regresses the scores themselves; use logits = 'raw'")
        return self

    @property
    def compares_policies(self) -> bool:
        """Whether products stay exact: differences of Q values would drown in bfloat16."""
        return True

    @property
    def accepts_negative_rewards(self) -> bool:
        """Whether rewards may be negative: Q is a regression."""
        return True


class QTargets(NamedTuple):
    """What stays fixed for a batch."""

    items: Tensor
    """int64[B, 1 + num_negatives] the logged action, then drawn items."""
    targets: Tensor
    """float[B, 1 + num_negatives] the target of Q for each item."""
    is_used: Tensor
    """bool[B, 1 + num_negatives] False for a masked action and for a negative that is the
    action."""
    is_clamped: Tensor
    """bool[B, 1 + num_negatives] whether a target was outside the possible returns."""


class DQN(Algorithm[DQNConfig, QTargets]):
    """Regresses the scores on r + gamma max Q(next state, item) of a target network.

    On logged actions alone Q of every other item is free: no target lowers it, and the maximum
    over the catalogue picks whatever happens to be high, so the ranking of unlogged items is
    arbitrary. Two remedies are on by default. Drawn items get reward 0 and leave the state as it
    is (SNQN): their target is gamma max Q(state, item). The conservative term (CQL) is the
    cross-entropy of softmax(Q) on the logged actions: it keeps Q of unlogged items below that of
    the logged ones.

    A terminated transition has the target r; a truncated one bootstraps. Targets are clamped to
    the possible returns, [lowest, highest reward] / (1 - gamma). There is no replay buffer: the
    batches are the log.
    """

    needs_transitions = True

    def __init__(self, args: DQNConfig, learner: Learner) -> None:
        super().__init__(args, learner)
        self.target = frozen_copy(self.model)
        self.rewards = RewardRange(self.model.device)
        self._modules |= {"target": self.target, "reward_range": self.rewards}
        self.value: nn.Linear | None = None
        self.target_value: nn.Linear | None = None
        if args.dueling:
            self.value = linear_head(self.model, 1, "dueling = true")
            self.target_value = linear_head(self.model, 1, "dueling = true").requires_grad_(False)
            self._modules |= {"head": self.value, "target_head": self.target_value}

    def prepare(self, batch: RLBatch, generator: torch.Generator) -> QTargets:
        """Compute the targets of the logged actions and of the drawn items."""
        transitions = transitions_of(batch)
        self.rewards.update(transitions.rewards)
        with eval_mode(self.model):
            targets = transitions.rewards + self._next_values(transitions)
            items, targets = transitions.actions[:, None], targets[:, None]
            if self.args.num_negatives:
                shape = (len(items), self.args.num_negatives)
                own = draw_generator(generator, items.device)
                negatives = torch.randint(
                    self.model.n_items, shape, generator=own, device=items.device
                )
                negative_targets = self.args.gamma * self._state_values(batch.queries)
                items = torch.cat([items, negatives], dim=1)
                targets = torch.cat([targets, negative_targets[:, None].expand(shape)], dim=1)
        is_used = items != transitions.actions[:, None]
        is_used[:, 0] = ~transitions.masked
        clamped = self.rewards.clamp(targets, self.args.gamma, self.args.discount_unit)
        return QTargets(items, clamped, is_used, clamped != targets)

    def loss(
        self, batch: RLBatch, prepared: QTargets, generator: torch.Generator
    ) -> tuple[Tensor, Statistics]:
        """Return the loss of the temporal differences plus the conservative term."""
        del generator  # the negatives are drawn in `prepare`
        statistics = Statistics()
        if batch.dropout_seed is not None:
            torch.manual_seed(batch.dropout_seed)
        q = self.q_values(self.model, self.value, batch.queries, prepared.items)
        errors = td_errors(q, prepared.targets, self.args.td_loss)
        is_action = prepared.is_used[:, 0]
        logged, drawn = errors[is_action, 0], errors[:, 1:][prepared.is_used[:, 1:]]
        statistics.add("td_loss", logged)
        statistics.add("q_mean", q[is_action, 0])
        statistics.add("target_mean", prepared.targets[is_action, 0])
        statistics.add("target_clamped", prepared.is_clamped[is_action, 0].float())
        loss = mean_of_processes(logged) + mean_of_processes(drawn)
        if self.args.conservative_coef:
            term = self._conservative_term(batch, prepared, statistics)
            loss = loss + self.args.conservative_coef * term
        return loss, statistics

    def after_step(self, step: int) -> None:
        """Move the target network towards the model, every `target_sync_steps` steps."""
        if step % self.args.target_sync_steps:
            return
        polyak_update(self.target, self.model, self.args.tau)
        if self.target_value is not None and self.value is not None:
            polyak_update(self.target_value, self.value, self.args.tau)

    def q_values(
        self, model: Recommender, value: nn.Linear | None, queries: Queries, items: Tensor
    ) -> Tensor:
        """Return float[B, C], Q of items.

        Args:
            model: the model or the target network.
            value: its head of state values; None without dueling.
            queries: B states.
            items: int64[B, C].
        """
        temperature = self.policy.temperature
        if value is None:
            return model.score(queries, items) / temperature
        users, table = dot_product(model, "dueling = true").embed(queries)
        scores = torch.einsum("bd,bcd->bc", users, table[items])
        mean = users @ table.mean(dim=0)
        state_value: Tensor = value(users)
        return state_value + (scores - mean[:, None]) / temperature

    def _next_values(self, transitions: Transitions) -> Tensor:
        """Return float[B], the discounted value of each next state."""
        if transitions.next_queries is None:
            return torch.zeros_like(transitions.rewards)
        return transitions.discounts * self._state_values(transitions.next_queries)

    def _state_values(self, queries: Queries) -> Tensor:
        """Return float[B], the target network's Q of the best item that is not masked.

        The best item is chosen by the model (double) or by the target network. A state whose items
        are all masked has the value 0.
        """
        chooser = self.model if self.args.double else self.target
        best, is_empty = [], []
        for block in self.policy.distribution(chooser, queries).blocks():
            highest = block.p.max(dim=1)
            best.append(highest.indices)
            is_empty.append(highest.values == 0)
        items = torch.cat(best)[:, None]
        values = self.q_values(self.target, self.target_value, queries, items)[:, 0]
        return values.masked_fill(torch.cat(is_empty), 0.0)

    def _conservative_term(
        self, batch: RLBatch, prepared: QTargets, statistics: Statistics
    ) -> Tensor:
        """Return the mean of log-sum-exp Q minus Q of the logged action: -log softmax(Q)."""
        states = torch.nonzero(prepared.is_used[:, 0])[:, 0]
        actions = prepared.items[states, 0]
        count = max(1.0, distributed.data_sum(len(states)))

        def block_loss(block: Block) -> Tensor:
            start, stop = torch.searchsorted(
                states, torch.tensor([block.which.start, block.which.stop], device=states.device)
            ).tolist()
            log_p = block.log_p(states[start:stop] - block.which.start, actions[start:stop])
            statistics.add("policy/p_mean", log_p.detach().exp())
            return -log_p.sum() / count

        return self.distribution(self.model, batch).loss(block_loss)
