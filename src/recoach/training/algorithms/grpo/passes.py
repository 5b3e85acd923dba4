"""The passes estimator: a group is several passes of one model under different dropout masks."""

from dataclasses import replace

import torch
from torch import Tensor

from recoach.data.queries import Seen
from recoach.errors import ConfigError
from recoach.models.distribution import Block, Distribution
from recoach.policy.objective import sampled_kl
from recoach.policy.rewards import CombinedReward, Rewards
from recoach.training.algorithms.base import RLBatch, Statistics, rewarded_pairs
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.grpo.sampled import log_group_rewards
from recoach.training.algorithms.regulariser import Regulariser, with_reference
from recoach.training.algorithms.rollouts import Rollout, log_entropy

_CUTOFF = 10
_EPS = 1e-4
_SAME = 1e-4
"""Relative difference of probabilities below which passes count as equal."""


class PassesEstimator:
    """The RL stage of LARES (Liu et al. 2025), as RecBole 3.0 trains it.

    Each pass ranks the catalogue; its reward is Recall@10 or NDCG@10 of the rewarded item, and its
    advantage is (R - mean) / (deviation + 1e-4) over the passes, with Bessel's correction. The
    gradient is the advantage times that of log p of the rewarded item *under the same pass*: where
    a pass ranks the item too low, its probability is lowered further. Nothing is drawn from the
    policy, so that this is no estimate of a policy gradient; passes that all hit or all miss
    contribute nothing.

    Departures: the depth of the recurrence and the initial state, which LARES draws as well, belong
    to its model, so dropout is the only source of randomness; the loss is that of the last state.
    The KL (`k3`) is evaluated at the rewarded item, as in RecBole, not at items drawn from the
    policy. A reward of several items per state makes each of them a group, weighted by its reward.
    Ties are ranked against the item.

    Raises:
        ConfigError: a reward function rewards items for every user.
    """

    needs_rollout = False

    def __init__(self, args: GRPOConfig, reward: CombinedReward) -> None:
        if reward.item_rewards is not None:
            raise ConfigError(
                "estimator 'passes' ranks the items that the log rewards, and a reward function "
                "rewards items for every user, such as 'novelty'; leave it out."
            )
        self.args = args

    def roll_out(self, old: Distribution, batch: RLBatch, generator: torch.Generator) -> Rollout:
        """Raise: the passes are those of the loss itself."""
        raise NotImplementedError("estimator 'passes' has no rollout")

    def loss(
        self,
        new: Distribution,
        batch: RLBatch,
        rollout: Rollout | None,
        reference: Distribution | None,
    ) -> tuple[Tensor, Statistics]:
        """Return minus the weighted log-likelihood of the rewarded items, regularised.

        Args:
            new: the policy of the batch that `repeat_batch` returned.
            batch: that batch.
            rollout: None.
            reference: of the same states, without dropout unless `shared_dropout` is set.
        """
        del rollout
        statistics, args = Statistics(), self.args
        weights = self._weights(new, batch, statistics) * batch.rewards.values
        regulariser = Regulariser(args, batch, statistics)
        is_at_items = args.kl_estimator in ("k1", "k2", "k3")

        def block_loss(block: Block, reference_block: Block | None) -> Tensor:
            states, items, _, pairs = rewarded_pairs(batch.rewards, block)
            log_p = block.log_p(states, items)
            statistics.add("policy/p_mean", log_p.detach().exp())
            log_entropy(statistics, block)
            loss = regulariser.loss(block, None if is_at_items else reference_block)
            if reference_block is not None and is_at_items:
                target_log_p = reference_block.log_p(states, items).detach()
                kl = sampled_kl(log_p, target_log_p, args.kl_estimator)  # type: ignore[arg-type]
                statistics.add("kl", kl)
                loss = loss + args.beta / regulariser.count * kl.sum()
            return loss - (weights[pairs] * log_p).sum() / regulariser.count

        return with_reference(new, block_loss, reference), statistics

    def _weights(self, new: Distribution, batch: RLBatch, statistics: Statistics) -> Tensor:
        """Return float[G N], the weight of log p of each rewarded pair of each pass.

        Raises:
            ConfigError: all passes are equal.
        """
        ranks, probabilities = [], []
        for block in new.blocks():
            states, items, _, _ = rewarded_pairs(batch.rewards, block)
            p = block.p[states, items]
            probabilities.append(p)
            ranks.append((block.p[states] >= p[:, None]).sum(dim=1))
        shape = self.args.group_size, -1
        p = torch.cat(probabilities).view(shape)
        if p.numel() and torch.allclose(p, p[:1].expand_as(p), rtol=_SAME, atol=0.0):
            raise ConfigError(
                "estimator 'passes' compares passes with different dropout masks, and all passes "
                "of this model are equal. Give the model a dropout above 0, or use another "
                "estimator."
            )
        rank = torch.cat(ranks).view(shape)
        gain = 1 / (rank + 1.0).log2() if self.args.rank_reward == "ndcg@10" else torch.ones(())
        rewards = torch.where(rank <= _CUTOFF, gain.to(p.device), 0.0)
        log_group_rewards(statistics, rewards.T)
        deviation = rewards.std(dim=0, correction=1)
        advantages = (rewards - rewards.mean(dim=0)) / (deviation + _EPS)
        weights = {
            "advantage": advantages,
            "absolute": advantages.abs(),
            "one": torch.ones_like(advantages),
        }
        return weights[self.args.pass_weight].flatten()


def repeat_batch(batch: RLBatch, count: int) -> RLBatch:
    """Return a batch in which all states occur `count` times, each time with rows of their own.

    A model with dropout has another mask for each of these rows. State b of pass g is number
    g B + b.
    """
    queries, rewards, n_states = batch.queries.on_host, batch.rewards.on_host, len(batch.queries)
    rows = _numbered(queries.rows, len(queries.users), count)
    repeated = replace(
        queries,
        users=queries.users.repeat(count),
        history=queries.history.repeat(count, 1),
        lengths=queries.lengths.repeat(count),
        rows=rows,
        ends=queries.ends.repeat(count),
        seen=_repeat_pairs(queries.seen, n_states, count),
        hidden=_repeat_pairs(queries.hidden, n_states, count),
        columns={name: values.repeat(count, 1) for name, values in queries.columns.items()},
    )
    repeated_rewards = Rewards(
        _numbered(rewards.states, n_states, count),
        rewards.items.repeat(count),
        rewards.values.repeat(count),
    )
    device = batch.queries.users.device
    return batch._replace(
        queries=replace(repeated, host=None, prepared=None).to(device),
        rewards=repeated_rewards.to(device),
    )


def _repeat_pairs(pairs: Seen | None, n_states: int, count: int) -> Seen | None:
    if pairs is None:
        return None
    return Seen(_numbered(pairs.states, n_states, count), pairs.items.repeat(count))


def _numbered(values: Tensor, width: int, count: int) -> Tensor:
    """Return the values `count` times, each time `width` higher."""
    steps = width * torch.arange(count)
    return (values + steps[:, None]).flatten()
