"""Batches, vectors and policies by hand, for tests of estimators and algorithms."""

import torch

from recoach.data.queries import Queries
from recoach.models.base import DotProductRecommender, Embeddings
from recoach.policy.policy import Policy
from recoach.policy.reward_funcs import future
from recoach.policy.rewards import CombinedReward, Rewards
from recoach.training.algorithms.base import Learner, RLBatch
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.grpo.exact import ExactEstimator
from recoach.training.algorithms.grpo.sampled import SampledGRPOEstimator
from recoach.training.algorithms.registry import algorithm_entry
from recoach.training.contract import read_logs

ITEMS, DIM = 6, 3


def make_batch(rewards, n_states=None, seen=None):
    """Return a batch of rewards (state, item, value) over states without history."""
    states, items, values = zip(*rewards, strict=True)
    count = n_states or max(states) + 1
    index, none = torch.arange(count), torch.zeros(count, dtype=torch.int64)
    history = torch.empty(count, 0, dtype=torch.int64)
    queries = Queries(index, history, none, index, none, seen)
    values = torch.tensor(values).float()
    rewards = Rewards(torch.tensor(states), torch.tensor(items), values)
    return RLBatch(queries, rewards, has_negative_rewards=bool((values < 0).any()))


def vectors(n_states, seed=0):
    generator = torch.Generator().manual_seed(seed)
    users = torch.randn(n_states, DIM, generator=generator, dtype=torch.float64)
    items = torch.randn(ITEMS, DIM, generator=generator, dtype=torch.float64)
    return Embeddings(users.requires_grad_(), items.requires_grad_())


def numbers(seed=0):
    return torch.Generator().manual_seed(seed)


def policy_of(estimator, given, batch):
    """Return the policy of vectors for the states of a batch."""
    bias = None if batch.candidates is None else batch.candidates.log_weights
    return Policy(estimator.args.temperature).of_vectors(given, batch.queries.seen, bias)


def roll_out(estimator, old, batch, generator=None):
    return estimator.roll_out(policy_of(estimator, old, batch), batch, generator or numbers())


def loss_of(estimator, new, batch, rollout=None, reference=None):
    if reference is not None:
        reference = policy_of(estimator, reference, batch)
    return estimator.loss(policy_of(estimator, new, batch), batch, rollout, reference)


def step(estimator, new, batch, *, old=None, reference=None, seed=0):
    """Return loss, gradients of users and items, and what was logged."""
    with torch.no_grad():
        needs_rollout = estimator.needs_rollout or old is not None
        rollout = roll_out(estimator, old or new, batch, numbers(seed)) if needs_rollout else None
    loss, statistics = loss_of(estimator, new, batch, rollout, reference)
    return loss.item(), torch.autograd.grad(loss, new), read_logs(statistics.means())


def exact(**changes):
    args = GRPOConfig(
        **{"loss_type": "grpo", "normalize_weights": False, "temperature": 0.7} | changes
    )
    return ExactEstimator(args, CombinedReward([future()]))


def sampled(**changes):
    settings = {"estimator": "sampled", "loss_type": "grpo", "num_generations": 2048}
    args = GRPOConfig(**settings | {"temperature": 0.7} | changes)
    return SampledGRPOEstimator(args, CombinedReward([future()]))


class VectorModel(DotProductRecommender):
    """A model whose vectors are its parameters: the state vector of user u is row u."""

    def __init__(self, given, history_length=0):
        torch.nn.Module.__init__(self)
        self.config, self.n_users, self.n_items = None, len(given.users), len(given.items)
        self.users, self.items = (torch.nn.Parameter(part.detach().clone()) for part in given)
        self._history_length = history_length
        self.workspace = None

    @property
    def history_length(self):
        return self._history_length

    @property
    def given(self):
        return Embeddings(self.users, self.items)

    def embed(self, queries):
        return Embeddings(self.users[queries.state_users], self.items)

    def parameter_groups(self):
        return {"user": [self.users], "item": [self.items]}


def make_algorithm(name, model, dataset=None, **settings):
    """Return an algorithm for a model with the temperature 0.7."""
    entry = algorithm_entry(name)
    args = entry.config(**{"temperature": 0.7} | settings)
    policy = Policy(args.temperature, exact_products=args.compares_policies)
    return entry.algorithm(args, Learner(model, policy, CombinedReward([future()]), dataset))


def algorithm_loss(algorithm, batch, generator=None):
    """Return what was prepared, the loss and what was logged."""
    generator = generator or numbers()
    with torch.no_grad():
        prepared = algorithm.prepare(batch, generator)
    loss, statistics = algorithm.loss(batch, prepared, generator)
    return prepared, loss, read_logs(statistics.means())


def minimise(algorithm, batch, steps, learning_rate, parameters=None):
    """Minimise an algorithm's loss of one batch with Adam, whose step size falls to 0.

    Returns:
        What was logged in the last step.
    """
    parameters = parameters or [p for p in algorithm.model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, steps)
    for step in range(1, steps + 1):
        _, loss, logs = algorithm_loss(algorithm, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        algorithm.after_step(step)
    return logs
