"""Exact trust regions: the policy of highest expected reward within a KL of the old policy.

Of all policies of a state whose KL(new || old) is at most `max_kl`, the expected reward is highest
under the old policy tilted by the rewards,

    new = old · exp(reward / eta) / Z,    Z = 1 + sum of old (exp(reward / eta) - 1),

with the eta at which the KL is `max_kl` (Peters et al. 2010; Abdolmaleki et al. 2018). Only the
probabilities of the rewarded items enter. The KL rises with 1 / eta, so that one number is found
for each state, or one for the whole batch.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import torch
from torch import Tensor

from recoach.models.segments import segment_sum

_LARGEST: Final = 1e4
"""Highest reward / eta; a KL that is not reached there is not reached at all."""
_SMALLEST: Final = 1e-8
_LEAST_LOG_P: Final = -700.0
"""exp() of it is not 0 in float64."""
_ITERATIONS: Final = 80
_TOLERANCE: Final = 1e-6


class RewardedItems(NamedTuple):
    """The rewarded items of S states; every other item has reward 0."""

    states: Tensor
    """int64[N] sorted."""
    log_p: Tensor
    """float[N] log-probabilities under the old policy, without gradient."""
    rewards: Tensor
    """float[N] of any sign."""
    n_states: int
    """S."""


class TiltedPolicy(NamedTuple):
    """The new policy of S states: old · `old_weight` + `weights` on the rewarded items."""

    weights: Tensor
    """float64[N] old (exp(reward / eta) - 1) / Z; negative for a negative reward."""
    old_weight: Tensor
    """float64[S] 1 / Z."""
    kl: Tensor
    """float64[S] KL(new || old)."""
    kl_slope: Tensor
    """float64[S] derivative of the KL with respect to 1 / eta: the new policy's variance of the
    reward, over eta."""


def tilted_policy(items: RewardedItems, inverse_eta: Tensor) -> TiltedPolicy:
    """Return the old policy tilted by exp(reward / eta).

    Args:
        items: the rewarded items.
        inverse_eta: float64[S] 1 / eta of each state; 0 gives the old policy.
    """
    states, n_states = items.states, items.n_states
    rewards = items.rewards.double()
    log_p = items.log_p.double().clamp(min=_LEAST_LOG_P)
    exponents = rewards * inverse_eta[states]
    # All exponentials are relative to the largest one, that of unrewarded items (0) included.
    largest = exponents.new_zeros(n_states).scatter_reduce(0, states, exponents, "amax")
    old, tilted = log_p.exp(), (log_p + exponents - largest[states]).exp()
    unrewarded = (1 - segment_sum(old, states, n_states)).clamp(min=0)
    scaled_one = (-largest).exp()
    total = unrewarded * scaled_one + segment_sum(tilted, states, n_states)
    new, old_weight = tilted / total[states], scaled_one / total
    mean = segment_sum(new * rewards, states, n_states)
    variance = segment_sum(new * rewards.square(), states, n_states) - mean.square()
    kl = inverse_eta * mean - largest - total.log()
    return TiltedPolicy(
        new - old * old_weight[states], old_weight, kl.clamp(min=0), inverse_eta * variance
    )


def state_inverse_eta(items: RewardedItems, max_kl: float) -> tuple[Tensor, Tensor]:
    """Return 1 / eta of each state, such that its KL(new || old) is `max_kl`.

    Args:
        items: the rewarded items.
        max_kl: nats.

    Returns:
        float64[S] and bool[S], whether the radius binds. Where it does not, the whole probability
        is on the items of the highest reward, which is within `max_kl` of the old policy.
    """
    magnitudes = items.rewards.double().abs()
    scale = magnitudes.new_zeros(items.n_states).scatter_reduce(0, items.states, magnitudes, "amax")

    def kl_of(inverse_eta: Tensor) -> tuple[Tensor, Tensor]:
        return tilted_policy(items, inverse_eta)[2:]

    return _inverse_eta(kl_of, scale, max_kl)


def batch_inverse_eta(
    items: RewardedItems, max_kl: float, mean: Callable[[Tensor], Tensor] = torch.mean
) -> tuple[Tensor, Tensor]:
    """Return one 1 / eta for all states, such that their mean KL(new || old) is `max_kl`.

    It is where the dual of REPS and MPO is least, g(eta) = eta · max_kl + eta · mean log Z(eta).

    Args:
        items: the rewarded items.
        max_kl: nats.
        mean: mean over the states of all processes.

    Returns:
        float64[] and bool[], whether the radius binds.
    """
    magnitudes = items.rewards.double().abs()
    scale = mean(segment_sum(magnitudes, items.states, items.n_states))

    def kl_of(inverse_eta: Tensor) -> tuple[Tensor, Tensor]:
        tilted = tilted_policy(items, inverse_eta.expand(items.n_states))
        return mean(tilted.kl), mean(tilted.kl_slope)

    return _inverse_eta(kl_of, scale, max_kl)


def _inverse_eta(
    kl_of: Callable[[Tensor], tuple[Tensor, Tensor]], scale: Tensor, max_kl: float
) -> tuple[Tensor, Tensor]:
    """Solve KL(1 / eta) = max_kl by Newton's method in logarithms, within a bracket.

    Args:
        kl_of: 1 / eta -> the KL, which rises, and its derivative.
        scale: float64[...] size of the rewards, which makes the unknown a pure number.
        max_kl: nats.

    Returns:
        1 / eta, and whether it is below its upper limit.
    """
    scale = scale.clamp(min=1e-12)
    low, high = torch.zeros_like(scale), torch.full_like(scale, _LARGEST)
    binds = kl_of(high / scale)[0] > max_kl
    unknown = torch.where(binds, 1.0, high)
    for _ in range(_ITERATIONS):
        kl, slope = kl_of(unknown / scale)
        if not bool((binds & ((kl - max_kl).abs() > _TOLERANCE * max_kl)).any()):
            break
        is_below = kl < max_kl
        low, high = torch.where(is_below, unknown, low), torch.where(is_below, high, unknown)
        # For small steps the KL is quadratic, for larger ones exponential: smooth in logarithms.
        newton = unknown * ((max_kl / kl).log() * kl * scale / (unknown * slope)).exp()
        middle = (low.clamp(min=_SMALLEST) * high).sqrt()
        inside = (newton > low) & (newton < high)
        unknown = torch.where(binds, torch.where(inside, newton, middle), unknown)
    return unknown / scale, binds
