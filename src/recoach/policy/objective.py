"""The mathematics of GRPO over a catalogue, as pure functions.

Differences from GRPO for language models and from the paper:
1. An action is one item, so token-level and sequence-level ratios are the same.
2. `exact` has no groups: with the catalogue enumerated the group is everything, p is the mass of
   the rewarded item, and the group-relative advantages of hits and misses are
   A+ = f'(p)(1-p) and A- = -f'(p)p; the paper's Eq. 4 is f = 2 arcsin(sqrt p).
3. The paper's Eq. 5 has KL(old || reference), which has no gradient: `literal`.

A negative reward -r of an item lowers p. For `dr_grpo` and `pass_at_k` the objective is linear in
the reward: -r f(p). For the others it is r f(1 - p), the reward r of every other item together:
the same as -r f(p) for `grpo`, whose f is symmetric, and bounded for `log`, where log(1 - p) is the
unlikelihood objective (Welleck et al. 2020); -r log p would grow without bound as p falls.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

LossType = Literal["grpo", "dr_grpo", "log", "pass_at_k", "power"]
ScaleRewards = Literal["group", "batch", "none"]

_TINY = 1e-8


def log_weight(
    log_p: Tensor, loss_type: LossType, k: int = 10, power: float = 0.5, *, eps: float = _TINY
) -> Tensor:
    """Return w(p) = p f'(p), the weight that an objective gives to the gradient of log p.

    Args:
        log_p: float[...] log-probability of the rewarded items.
        loss_type: the transform f: `grpo` 2 arcsin(sqrt p), w = sqrt(p/(1-p)); `dr_grpo` p, w = p;
            `log` log p, w = 1; `pass_at_k` 1-(1-p)^k, w = k p (1-p)^(k-1); `power` p^q/q, w = p^q,
            between `log` (q = 0) and `dr_grpo` (q = 1).
        k: draws of `pass_at_k`.
        power: the q of `power`.
        eps: keeps `grpo` finite at p = 1 (Mroueh 2025: p(1-p) + eps under the root).
    """
    p = log_p.exp()
    if loss_type == "grpo":
        return p / (p * (1 - p) + eps).sqrt()
    if loss_type == "dr_grpo":
        return p
    if loss_type == "pass_at_k":
        return k * p * (1 - p) ** (k - 1)
    if loss_type == "power":
        return (power * log_p).exp()
    return torch.ones_like(p)


def signed_log_weight(
    log_p: Tensor, rewards: Tensor, loss_type: LossType, k: int = 10, power: float = 0.5
) -> Tensor:
    """Return `log_weight` of each item, and minus that of lowering p where the reward is negative.

    The latter is p f'(1-p): p/(1-p) for `log`, p (1-p)^(q-1) for `power`, and w(p) for the others.

    Args:
        log_p: float[...] log-probability of the rewarded items.
        rewards: float[...] their rewards, of which only the sign is read.
        loss_type: see `log_weight`.
        k: draws of `pass_at_k`.
        power: the q of `power`.
    """
    raising = lowering = log_weight(log_p, loss_type, k, power)
    if loss_type in ("log", "power"):
        p = log_p.exp()
        exponent = power - 1 if loss_type == "power" else -1.0
        lowering = p * (1 - p).clamp(min=_TINY) ** exponent
    return torch.where(rewards < 0, -lowering, raising)


def whitened_weight(log_p: Tensor, rewards: Tensor, states: Tensor, n_states: int) -> Tensor:
    """Return float[N], p / sd with the sign of the reward, where sd is that of the state's rewards.

    All rewards of a state are whitened by their mean and standard deviation under the policy, in
    which every other item has reward 0, as the sampled estimator whitens a group. Times |reward|
    it is p (A - A'), with A the advantage of the item and A' that of an item without reward: the
    weight of the gradient of log p.

    Args:
        log_p: float[N] log-probability of the rewarded items.
        rewards: float[N].
        states: int64[N] the state of each item.
        n_states: number of states.
    """
    p = log_p.exp()

    def per_state(values: Tensor) -> Tensor:
        return values.new_zeros(n_states).index_add(0, states, values)

    squares = rewards.to(p.dtype).square()
    variance = per_state(p * squares) - per_state(p * rewards).square()
    # The same bound at p = 1 as that of `log_weight`, in units of the rewards.
    variance = variance.clamp(min=0) + _TINY * per_state(squares)
    deviation = variance.sqrt().clamp(min=torch.finfo(p.dtype).tiny)
    return rewards.sign() * p / deviation[states]


def objective(log_p: Tensor, loss_type: LossType, k: int = 10, power: float = 0.5) -> Tensor:
    """Return f(p), the quantity whose ascent an exact step is.

    Args:
        log_p: float[...] log-probability of the rewarded items.
        loss_type: see `log_weight`.
        k: draws of `pass_at_k`.
        power: the q of `power`.
    """
    p = log_p.exp()
    if loss_type == "grpo":
        return 2 * p.clamp(max=1).sqrt().asin()
    if loss_type == "dr_grpo":
        return p
    if loss_type == "pass_at_k":
        return 1 - (1 - p) ** k
    if loss_type == "power":
        return (power * log_p).exp() / power
    return log_p


class Clip(NamedTuple):
    """Distances of the ratio from 1 beyond which its gradient is 0."""

    low: float
    high: float


class Surrogate(NamedTuple):
    """A clipped surrogate and where it is clipped."""

    value: Tensor
    clipped_low: Tensor
    """bool[...] ratio below 1 - low with a negative advantage."""
    clipped_high: Tensor
    """bool[...] ratio above 1 + high with a positive advantage."""


def clipped_surrogate(log_ratio: Tensor, advantages: Tensor, clip: Clip) -> Surrogate:
    """Return min(ρA, clip(ρ)A), the surrogate of Eq. 5, elementwise.

    Args:
        log_ratio: float[...] log of new over old probability.
        advantages: float[...].
        clip: the trust region.
    """
    ratio = log_ratio.exp()
    bounded = ratio.clamp(1 - clip.low, 1 + clip.high)
    value = torch.minimum(ratio * advantages, bounded * advantages)
    low = (ratio < 1 - clip.low) & (advantages < 0)
    high = (ratio > 1 + clip.high) & (advantages > 0)
    return Surrogate(value, low, high)


def exact_surrogate(log_p: Tensor, old_log_p: Tensor, weight: Tensor, clip: Clip) -> Surrogate:
    """Return the expected surrogate over the whole catalogue for one rewarded item a row.

    All misses share one advantage, so the catalogue falls into two buckets, the hit with mass p
    and the rest with mass 1-p: w (1-p_old) [min(ρ_hit, 1+high) - max(ρ_miss, 1-low)]. At ratio 1
    its gradient is w ∇log p = ∇f(p).

    Args:
        log_p: float[N] log-probability of the rewarded item under the policy.
        old_log_p: float[N] the same under the old policy.
        weight: float[N] w(p_old), without gradient; negative where the hit has the negative
            advantage, and then the bounds of the two buckets change sides.
        clip: the trust region of each bucket's ratio.
    """
    p, old = log_p.exp(), old_log_p.exp()
    old_rest = (1 - old).clamp(min=_TINY)
    hit = (log_p - old_log_p).exp()
    miss = (1 - p) / old_rest
    lowest, highest = 1 - clip.low, 1 + clip.high
    raises = weight >= 0
    bounded_hit = torch.where(raises, hit.clamp(max=highest), hit.clamp(min=lowest))
    bounded_miss = torch.where(raises, miss.clamp(min=lowest), miss.clamp(max=highest))
    value = weight * old_rest * (bounded_hit - bounded_miss)
    clipped_low = torch.where(raises, miss, hit) < lowest
    return Surrogate(value, clipped_low, torch.where(raises, hit, miss) > highest)


def group_advantages(
    rewards: Tensor,
    scale: ScaleRewards = "group",
    *,
    eps: float = 1e-6,
    pooled: Callable[[Tensor], Tensor] = torch.mean,
) -> Tensor:
    """Return group-relative advantages (Eq. 4), with the population's standard deviation.

    Args:
        rewards: float[B, G].
        scale: divide by the group's standard deviation (Eq. 4), by that of all groups together
            (Lite PPO), or only centre (Dr. GRPO).
        eps: added to the deviation.
        pooled: mean over the groups of all processes.

    Returns:
        float[B, G], exactly 0 for a group whose rewards are all equal.
    """
    flat = (rewards.amax(dim=1) == rewards.amin(dim=1))[:, None]
    centred = (rewards - rewards.mean(dim=1, keepdim=True)).masked_fill_(flat, 0.0)
    if scale == "none":
        return centred
    squares = centred.square()
    mean = squares.mean(dim=1, keepdim=True) if scale == "group" else pooled(squares)
    return centred.div_(mean.sqrt_().add_(eps))


def sampled_kl(log_p: Tensor, log_q: Tensor, estimator: Literal["k1", "k2", "k3"]) -> Tensor:
    """Estimate KL(p || q) from items drawn from p, elementwise (Schulman's k1, k2, k3).

    As losses on on-policy samples k1 has no expected gradient, k2 has that of KL(p || q) and k3
    that of KL(q || p).

    Args:
        log_p: float[B, G] of the drawn items.
        log_q: float[B, G] of the drawn items under the reference.
        estimator: which.
    """
    gap = log_p - log_q
    if estimator == "k1":
        return gap
    if estimator == "k2":
        return gap.square() / 2
    # Bounded, because the exponential overflows for distant policies; 20 is already a KL of 5e8.
    return (-gap).clamp(max=20).exp() - 1 + gap
