"""The fused kernels on a GPU against the blockwise softmax, and against themselves.

`tests/models/test_triton_softmax.py` compares the kernels with the formula on a CPU.
"""

import pytest
import torch

from recoach.data.queries import Seen
from recoach.models.base import Embeddings
from recoach.models.sharded_softmax import distribution_over_items, has_fused_kernels
from recoach.models.softmax import BlockwiseDistribution

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

STATES, ITEMS = 700, 5003


def vectors(dim, seed):
    generator = torch.Generator().manual_seed(seed)
    users = torch.randn(STATES, dim, generator=generator) * dim**-0.25
    items = torch.randn(ITEMS, dim, generator=generator) * dim**-0.25
    return Embeddings(users.cuda().requires_grad_(), items.cuda().requires_grad_())


def masked_pairs():
    states = torch.arange(STATES).repeat_interleave(7)
    items = torch.arange(7).mul(31).repeat(STATES) + states % 5
    return Seen(states, items).to("cuda")


def loss_and_gradients(kind, policy, reference, **settings):
    rows = torch.arange(STATES, device="cuda")
    targets, values = (rows * 7 + 1000) % ITEMS, torch.linspace(-1, 1, ITEMS, device="cuda")

    def loss(block, other):
        log_p = block.log_p(rows[: len(block)], targets[block.which])
        regularisation = block.kl(other) - 0.1 * block.entropies() + block.expectation(values)
        return regularisation.sum() - log_p.sum()

    result = kind(policy, **settings).loss(loss, kind(reference, **settings))
    return [result.detach(), *torch.autograd.grad(result, tuple(policy))]


@pytest.mark.parametrize("dim", [24, 64, 128])
@pytest.mark.parametrize("exact", [False, True], ids=["bfloat16", "float32"])
def test_the_kernels_give_the_loss_and_gradients_of_the_blockwise_softmax(dim, exact):
    policy, reference = vectors(dim, seed=0), vectors(dim, seed=1)
    if not has_fused_kernels(policy):
        pytest.skip("this GPU keeps the blockwise softmax")
    settings = {"temperature": 0.8, "seen": masked_pairs(), "exact_products": exact}
    fused, again = (
        loss_and_gradients(distribution_over_items(policy), policy, reference, **settings)
        for _ in range(2)
    )
    blockwise = loss_and_gradients(BlockwiseDistribution, policy, reference, **settings)
    for value, repeated, expected in zip(fused, again, blockwise, strict=True):
        assert (value - expected).norm() <= (1e-4 if exact else 2e-2) * expected.norm()
        assert torch.allclose(value, repeated, rtol=1e-6, atol=1e-7)
    assert distribution_over_items(policy) is not BlockwiseDistribution
