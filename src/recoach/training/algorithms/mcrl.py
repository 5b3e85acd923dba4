"""A Q head with contrastive models of reward and next state (MCRL); experimental."""

from typing import Final, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from recoach import distributed
from recoach.data.queries import Seen
from recoach.models.base import Embeddings, Recommender
from recoach.training.algorithms.base import Learner, RLBatch, Statistics, transitions_of
from recoach.training.algorithms.q_head import TargetNetwork, best_values
from recoach.training.algorithms.state_vectors import item_vectors, linear_head
from recoach.training.algorithms.supervised_q import QTargets, SupervisedQ, SupervisedQConfig
from recoach.training.algorithms.td_learning import mean_of_processes
from recoach.training.transitions import Transitions

_TINY: Final = 1e-12


class MCRLConfig(SupervisedQConfig):
    """Settings of model-enhanced contrastive reinforcement learning (Li et al. 2023)."""

    algorithm: Literal["mcrl"] = "mcrl"
    """The algorithm of these settings."""
    target: Literal["max", "sarsa"] = "max"
    """See `SupervisedQConfig`."""
    num_negatives: int = Field(default=4, ge=0)
    """Uniformly drawn items per state, other than the logged action; each costs a product with the
    catalogue, for the value of its predicted next state."""
    conservative_coef: float = Field(default=0.1, ge=0)
    """See `SupervisedQConfig`."""
    reward_coef: float = Field(default=0.1, ge=0)
    """Weight of the contrastive loss of the reward model beside the temporal differences. 0 leaves
    the model out: the reward of a drawn item is `negative_reward`."""
    transition_coef: float = Field(default=0.1, ge=0)
    """Weight of the contrastive loss of the model of the next state beside the temporal
    differences. 0 leaves the model out: a drawn item leaves the state as it is."""

    @model_validator(mode="after")
    def _check_models(self) -> Self:
        draws = self.num_negatives > 0
        self._check_effect(
            {
                "reward_coef": (draws, "num_negatives above 0"),
                "transition_coef": (self.bootstraps, "gamma above 0"),
                "negative_reward": (draws and not self.reward_coef, "reward_coef = 0"),
            }
        )
        return self


class _TransitionModel(nn.Module):
    """Predicts the vector of the state after an item: u + A u + B v + c."""

    def __init__(self, model: Recommender, what: str) -> None:
        super().__init__()
        self.of_state = linear_head(model, None, what)
        self.of_item = linear_head(model, None, what)

    def forward(self, users: Tensor, item_vectors: Tensor) -> Tensor:
        """Return float[B, D] for float[B, D] state vectors and float[B, D] item vectors."""
        moved: Tensor = users + self.of_state(users) + self.of_item(item_vectors)
        return moved


class MCRL(SupervisedQ):
    """SNQN whose drawn items have the reward and the next state that two models predict.

    With u the state vector and v the item vector, and m drawn items a':

    - Reward model: logits f(s, a) = (W u + b) · v. The loss is the cross-entropy of their softmax
      over the logged and the drawn items (InfoNCE) with the label y for the logged item and
      (1 - y) / m for each drawn one; y is the logged reward over the highest one so far, 0 if
      negative. The reward of a drawn item is its probability times the highest reward.
    - Model of the next state: h(s, a) = u + A u + B v + c. The loss is InfoNCE: of all next states
      of the batch, which one follows (s, a), with the logits -|h(s, a) - u'|² / 2. The next states
      u' are those of the target network; terminated transitions have none.
    - Targets of drawn items: predicted reward + gamma max Q(h(s, a'), item), clamped as all targets
      are. A drawn item never ends an episode.

    All matrices start at 0: at first the rewards of all drawn items are equal, and an item leaves
    the state as it is. With both coefficients and `conservative_coef` 0 this is `snqn`.

    Experimental: only the abstract of the paper could be read. It names conservative value
    learning, and a reward function and a state transition function that are learned by contrasts of
    positive and negative pairs of state and action. The losses, how the models enter the targets,
    the weights and all figures are unknown; those here are this library's own. Nothing of the paper
    is reproduced by them. The served model is that of the cross-entropy, as with `sqn`, and so is
    its optimum on a table. Controls are `snqn`, each coefficient at 0, and `sqn` with
    `target = "random"`.
    """

    args: MCRLConfig

    def __init__(self, args: SupervisedQConfig, learner: Learner) -> None:
        super().__init__(args, learner)
        what = f"algorithm {args.algorithm!r}"
        self.reward_model: nn.Linear | None = None
        self.transition_model: _TransitionModel | None = None
        if self.args.num_negatives and self.args.reward_coef:
            self.reward_model = linear_head(self.model, None, what)
            self._modules["reward_model"] = self.reward_model
        if self.args.transition_coef and self.target is not None and self.model.history_length:
            self.transition_model = _TransitionModel(self.model, what)
            self._modules["transition_model"] = self.transition_model

    def targets_of_negatives(self, batch: RLBatch, drawn: Tensor) -> Tensor:
        """Return float[B, num_negatives], the targets of drawn items."""
        vectors = self.policy.embed(self.encoder, batch.queries)
        if self.reward_model is None:
            rewards = torch.full(drawn.shape, self.args.negative_reward, device=drawn.device)
            self.rewards.update(rewards)
        else:
            items = torch.cat([transitions_of(batch).actions[:, None], drawn], dim=1)
            shares = _logits(self.reward_model, *vectors, items).softmax(dim=1)
            rewards = self.rewards.high * shares[:, 1:]
        if self.target is None or not self.model.history_length:
            return rewards
        if self.transition_model is None:
            values = self._best_values(self.target, batch.queries)[:, None]
        else:
            move = self.transition_model
            values = self._moved_values(self.target, move, vectors, drawn, batch.queries.seen)
        return rewards + self.args.gamma * values

    def auxiliary_loss(
        self,
        vectors: tuple[Tensor, Tensor],
        batch: RLBatch,
        prepared: QTargets,
        generator: torch.Generator,
        statistics: Statistics,
    ) -> Tensor:
        """Return the weighted contrastive losses of the two models."""
        del generator
        transitions, loss = transitions_of(batch), vectors[0].new_zeros(())
        if self.reward_model is not None:
            log_shares = _logits(self.reward_model, *vectors, prepared.items).log_softmax(dim=1)
            labels = (transitions.rewards / self.rewards.high.clamp(min=_TINY)).clamp(min=0)
            of_drawn = log_shares[:, 1:].mean(dim=1)
            errors = -(labels * log_shares[:, 0] + (1 - labels) * of_drawn)[~transitions.masked]
            statistics.add("reward_loss", errors)
            loss = loss + self.args.reward_coef * mean_of_processes(errors)
        if self.transition_model is not None and self.target is not None:
            rows = torch.nonzero(~transitions.masked & ~transitions.terminated)[:, 0]
            users, actions = vectors[0][rows], vectors[1][transitions.actions[rows]]
            next_vectors = self._next_vectors(self.target, transitions)[rows]
            errors = _contrast(self.transition_model(users, actions), next_vectors)
            statistics.add("transition_loss", errors)
            loss = loss + self.args.transition_coef * mean_of_processes(errors)
        return loss

    @torch.no_grad()
    def _next_vectors(self, target: TargetNetwork, transitions: Transitions) -> Tensor:
        """Return float[B, D], the target network's vectors of the next states."""
        if transitions.next_queries is None:
            raise ValueError("a model with a history has transitions with next states")
        return self.policy.embed(target.model, transitions.next_queries).users

    def _moved_values(
        self,
        target: TargetNetwork,
        move: _TransitionModel,
        vectors: Embeddings,
        drawn: Tensor,
        seen: Seen | None,
    ) -> Tensor:
        """Return float[B, num_negatives], the values of the predicted states after drawn items."""
        users, items = vectors
        target_items = item_vectors(target.model, self.policy, "a target network")
        values = []
        for actions in drawn.T:
            moved = move(users, items[actions])
            masked = None if seen is None else _with_items(seen, actions, len(items))
            evaluator = chooser = (target.head, Embeddings(moved, target_items))
            if self.args.double:
                chooser = (self.head, Embeddings(moved, items))
            values.append(best_values(chooser, evaluator, masked))
        return torch.stack(values, dim=1)


def _logits(head: nn.Linear, users: Tensor, item_vectors: Tensor, items: Tensor) -> Tensor:
    """Return float[B, C], the reward model's logits of int64[B, C] items."""
    logits: Tensor = (head(users)[:, None] * item_vectors[items]).sum(dim=2)
    return logits


def _contrast(predicted: Tensor, reached: Tensor) -> Tensor:
    """Return float[B], -log p of each row of `reached` among the rows of all processes."""
    rank = distributed.data_rank()
    ranks = torch.full((len(reached),), rank, device=reached.device)
    before = int((distributed.all_gather_with_grad(ranks) < rank).sum())
    candidates = distributed.all_gather_with_grad(reached)
    # The square of a prediction is common to all candidates.
    logits = predicted @ candidates.T - candidates.square().sum(dim=1) / 2
    places = before + torch.arange(len(reached), device=reached.device)
    return -logits.log_softmax(dim=1).gather(1, places[:, None])[:, 0]


def _with_items(seen: Seen, items: Tensor, n_items: int) -> Seen:
    """Return the pairs and one more item of each state."""
    states = torch.arange(len(items), device=items.device)
    pairs = torch.cat([seen.states * n_items + seen.items, states * n_items + items])
    pairs = pairs.unique()  # type: ignore[no-untyped-call]
    return Seen(pairs // n_items, pairs % n_items)
