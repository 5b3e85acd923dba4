"""The KL divergence of two softmax policies from the difference of their logits, in one pass.

With g the logits of the other policy minus those of p, KL(p || other) = log E[exp(g)] - E[g], both
expectations under p. So neither the other policy's softmax nor a normaliser is needed, and what the
two policies have in common cancels before anything is rounded.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_CHUNK = {"cpu": 100_000, "cuda": 2**28}
"""Elements worked on at a time: on a CPU two float32 matrices of them fit a cache of 1 MiB."""
_LARGEST_GAP = 80.0
"""exp of it is finite in float32."""


class GapSums(NamedTuple):
    """Sums over items for each state, from which its KL is computed."""

    p: Tensor
    """float[b], the sum of p."""
    gap: Tensor
    """float[b], the sum of p g."""
    ratio: Tensor
    """float[b], the sum of p exp(g - `gap`)."""


def weigh_gaps(gaps: Tensor, p: Tensor) -> GapSums:
    """Replace the differences g of logits by p g, and return what the KL is computed from.

    Differences above 80 over the mean count as 80 in the KL, not in its gradient.

    Args:
        gaps: [b, I] differences, changed in place.
        p: [b, I] probabilities, in the same dtype.
    """
    dtype = torch.promote_types(p.dtype, torch.float32)
    count = max(1, min(len(p), _CHUNK.get(p.device.type, 100_000) // max(1, p.shape[1])))
    scratch = torch.empty(2, count, p.shape[1], dtype=dtype, device=p.device)
    sums = GapSums(*torch.empty(3, len(p), dtype=dtype, device=p.device))
    for some_gaps, some_p, *some_sums in zip(
        *(torch.split(x, count) for x in (gaps, p, *sums)), strict=True
    ):
        total, gap, ratio = some_sums
        real_p, real_gaps = scratch[:, : len(some_p)]
        real_p.copy_(some_p)
        real_gaps.copy_(some_gaps)
        some_gaps.mul_(some_p)
        torch.sum(real_p, 1, out=total)
        torch.linalg.vecdot(real_gaps, real_p, out=gap)
        # The same sum as that of p, so that the KL of equal policies is exactly 0.
        real_gaps.sub_(gap[:, None]).clamp_(max=_LARGEST_GAP).exp_().mul_(real_p)
        torch.sum(real_gaps, 1, out=ratio)
    return sums
