"""Heads over the state vectors of dot-product models: their sizes, inputs and initial weights."""

import torch
from torch import Tensor, nn

from recoach.data.queries import Queries
from recoach.models.base import Embeddings, Recommender, dot_product, eval_mode
from recoach.models.distribution import Distribution
from recoach.models.softmax import BlockwiseDistribution
from recoach.policy.policy import Policy


def linear_head(model: Recommender, outputs: int | None, what: str) -> nn.Linear:
    """Return a linear head over state vectors whose weights are 0.

    Args:
        model: must be a dot-product model.
        outputs: number of outputs; None for as many as inputs.
        what: what needs the vectors, for the error message.

    Raises:
        ConfigError: the model's scores are no dot products.
    """
    width = _vector_width(model, what)
    # skip_init draws no initial weights from the global random state.
    head: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Linear, width, outputs or width, device=model.device
    )
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def state_vectors(distribution: Distribution) -> Tensor:
    """Return float[B, D], the states' vectors, without gradient."""
    return vectors_of(distribution).users.detach()


def vectors_of(distribution: Distribution) -> Embeddings:
    """Return the vectors of states and items that a policy was computed from, with gradient."""
    if not isinstance(distribution, BlockwiseDistribution):
        raise TypeError("a head over state vectors needs a policy of dot products")
    return distribution.vectors


def item_vectors(model: Recommender, policy: Policy, what: str) -> Tensor:
    """Return float[I, D], the item vectors of the policy as they are now, without gradient.

    Args:
        model: must be a dot-product model.
        policy: whether vectors are normalised.
        what: what needs the vectors, for the error message.

    Raises:
        ConfigError: the model's scores are no dot products.
    """
    with torch.no_grad(), eval_mode(model):
        return policy.embed(dot_product(model, what), _one_state(model)).items.detach()


def _vector_width(model: Recommender, what: str) -> int:
    """Return the width of a model's vectors, measured on one state: no table has it for all."""
    with torch.no_grad(), eval_mode(model):
        return int(dot_product(model, what).embed(_one_state(model)).users.shape[1])


def _one_state(model: Recommender) -> Queries:
    one = torch.ones(1, dtype=torch.int64)
    state = Queries(users=one - 1, history=one[None] - 1, lengths=one, rows=one - 1, ends=one)
    return state.to(model.device)
