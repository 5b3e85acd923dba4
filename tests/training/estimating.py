"""Tasks and vectors by hand, for tests of estimators."""

import torch

from recoach.data.batches import Queries
from recoach.models.base import Embeddings
from recoach.policy.policy import Policy
from recoach.policy.reward_funcs import future
from recoach.policy.rewards import CombinedReward, Rewards
from recoach.training.config import GRPOConfig
from recoach.training.estimators import RLBatch
from recoach.training.exact import ExactEstimator
from recoach.training.sampled import SampledEstimator

ITEMS, DIM = 6, 3


def task(rewards, n_states=None, seen=None):
    """Make a task of rewards (state, item, value) over states that read nothing."""
    states, items, values = zip(*rewards, strict=True)
    count = n_states or max(states) + 1
    index, none = torch.arange(count), torch.zeros(count, dtype=torch.int64)
    history = torch.empty(count, 0, dtype=torch.int64)
    queries = Queries(index, history, none, index, none, seen)
    worth = Rewards(torch.tensor(states), torch.tensor(items), torch.tensor(values).float())
    return RLBatch(queries, worth)


def vectors(n_states, seed=0):
    generator = torch.Generator().manual_seed(seed)
    users = torch.randn(n_states, DIM, generator=generator, dtype=torch.float64)
    items = torch.randn(ITEMS, DIM, generator=generator, dtype=torch.float64)
    return Embeddings(users.requires_grad_(), items.requires_grad_())


def numbers(seed=0):
    return torch.Generator().manual_seed(seed)


def step(estimator, new, work, *, old=None, reference=None, seed=0):
    """Return loss, gradients of users and items, and what was logged."""
    with torch.no_grad():
        remembered = estimator.needs_rollout or old is not None
        rollout = estimator.roll_out(old or new, work, numbers(seed)) if remembered else None
    loss, statistics = estimator.loss(new, work, rollout, reference)
    return loss.item(), torch.autograd.grad(loss, new), statistics.means()


def exact(**changes):
    args = GRPOConfig(
        **{"loss_type": "grpo", "normalize_weights": False, "temperature": 0.7} | changes
    )
    return ExactEstimator(args, Policy(args.temperature), CombinedReward([future()]))


def sampled(**changes):
    settings = {"estimator": "sampled", "loss_type": "grpo", "num_generations": 2048}
    args = GRPOConfig(**settings | {"temperature": 0.7} | changes)
    return SampledEstimator(args, Policy(args.temperature), CombinedReward([future()]))
