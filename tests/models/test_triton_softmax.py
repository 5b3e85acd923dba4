"""The fused softmax, run by Triton's interpreter, against the formula in float64.

Tiles have 64 states and 32 or 64 items, so that 70 states and 80 items are ragged on both sides.
"""

import os

import pytest
import torch

from recoach.data.queries import Seen
from recoach.models.base import Embeddings

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("a GPU: TRITON_INTERPRET=1 runs these tests", allow_module_level=True)

from recoach.models import triton_launch
from recoach.models.triton_launch import pack_mask
from recoach.models.triton_softmax import FusedDistribution

STATES, ITEMS, TEMPERATURE = 70, 80, 0.7
SEEN = Seen(torch.tensor([0, 0, 2, 69, 69]), torch.tensor([1, 31, 79, 3, 64]))
ROWS = torch.arange(STATES)
TARGETS = ROWS % 80
WEIGHTS = torch.linspace(0.5, 2, STATES)
VALUES = torch.linspace(-1, 1, ITEMS)


def vectors(dim=24, *, states=STATES, items=ITEMS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    users = torch.randn(states, dim, generator=generator) * dim**-0.25
    table = torch.randn(items, dim, generator=generator) * dim**-0.25
    return users.requires_grad_(), table.requires_grad_()


def formula(users, items, seen=SEEN, bias=None):
    logits = users.double() @ items.double().T / TEMPERATURE
    logits = logits if bias is None else logits + bias
    if seen is not None:
        logits = logits.index_put((seen.states, seen.items), logits.new_tensor(-torch.inf))
    return logits.log_softmax(dim=1)


def finite(log_p):
    return log_p.masked_fill(log_p == -torch.inf, 0)


def fused(users, items, **settings):
    settings = {"temperature": TEMPERATURE, "seen": SEEN} | settings
    return FusedDistribution(Embeddings(users, items), **settings)


def assert_equal(result, expected, leaves, tolerance=3e-5):
    assert result.item() == pytest.approx(expected.item(), rel=tolerance)
    gradients, formulas = (torch.autograd.grad(x, leaves) for x in (result, expected))
    for gradient, expected_gradient in zip(gradients, formulas, strict=True):
        error = (gradient - expected_gradient).norm()
        assert error <= tolerance * expected_gradient.norm()
        assert error > 0, "the same computation twice"


def pairs_loss(block):
    log_p = block.log_p(ROWS[: len(block)], TARGETS[block.which])
    return -(WEIGHTS[block.which] * log_p).sum()


def expected_pairs_loss(log_p):
    return -(WEIGHTS * log_p[ROWS, TARGETS]).sum()


@pytest.mark.parametrize(("dim", "programs"), [(24, 1), (128, 512)], ids=["whole", "divided"])
def test_log_p_of_pairs_is_that_of_the_formula(dim, programs, monkeypatch):
    monkeypatch.setattr(triton_launch, "_PROGRAMS", programs)
    leaves = vectors(dim)
    assert_equal(fused(*leaves).loss(pairs_loss), expected_pairs_loss(formula(*leaves)), leaves)


def test_bfloat16_rounds_the_vectors_and_the_slopes_only(monkeypatch):
    monkeypatch.setattr("recoach.models.softmax.product_dtype", lambda _items: torch.bfloat16)
    leaves = vectors(64)
    rounded = [x.detach().bfloat16().float().requires_grad_() for x in leaves]
    result = fused(*rounded, temperature=1.0).loss(pairs_loss)
    monkeypatch.setattr("test_triton_softmax.TEMPERATURE", 1.0)
    expected = expected_pairs_loss(formula(*rounded))
    assert result.item() == pytest.approx(expected.item(), rel=1e-6)
    assert_equal(result, expected, rounded, tolerance=4e-3)


def test_several_answers_in_one_loss_are_those_of_the_formula():
    leaves, others = vectors(), [x.detach() for x in vectors(seed=5)]
    log_p, log_q = formula(*leaves), formula(*others)
    p = log_p.exp()
    kl = (p * finite(log_p - finite(log_q))).sum(dim=1)
    entropy = -(p * finite(log_p)).sum(dim=1)
    expected = (WEIGHTS * (kl + 2 * entropy + (p * VALUES).sum(dim=1) ** 2)).sum()
    expected = expected + expected_pairs_loss(log_p)
    values = {}

    def loss(block, other):
        values.update(kl=block.kl(other), entropies=block.entropies(), p=block.expectation(VALUES))
        values.update(entropy=block.entropy(5))
        rows = values["kl"] + 2 * values["entropies"] + values["p"].square()
        return (WEIGHTS * rows).sum() + pairs_loss(block)

    assert_equal(fused(*leaves).loss(loss, fused(*others)), expected, leaves)
    assert torch.allclose(values["kl"].double(), kl, atol=1e-5)
    assert torch.allclose(values["entropies"].double(), entropy, atol=1e-5)
    assert torch.allclose(values["entropy"].double(), entropy[:5], atol=1e-5)


def test_a_bias_is_added_to_the_scores_and_left_out_of_the_entropy():
    leaves, bias = vectors(), torch.linspace(-2, 2, ITEMS)
    log_p = formula(*leaves, bias=bias)
    entropy = -(log_p.exp() * (finite(log_p) - bias)).sum(dim=1)
    expected = (WEIGHTS * entropy).sum() + expected_pairs_loss(log_p)
    measured = []

    def loss(block):
        measured.append(block.entropy(STATES))
        return (WEIGHTS * block.entropies()).sum() + pairs_loss(block)

    assert_equal(fused(*leaves, bias=bias).loss(loss), expected, leaves)
    assert torch.allclose(measured[0].double(), entropy, atol=1e-5)


def test_blocks_add_to_the_gradient_of_the_items():
    leaves = vectors()
    distribution = fused(*leaves)
    distribution.block_size = 40
    assert_equal(distribution.loss(pairs_loss), expected_pairs_loss(formula(*leaves)), leaves)


def test_answers_that_need_the_matrix_are_mixed_with_those_that_do_not():
    leaves, others = vectors(), [x.detach() for x in vectors(seed=5)]
    log_p, q = formula(*leaves), formula(*others).exp()
    shown = (log_p > -torch.inf).sum(dim=1)
    expected = finite(log_p).sum(dim=1) / shown - (q * finite(log_p)).sum(dim=1)
    expected = expected.sum() + expected_pairs_loss(log_p)

    def loss(block, other):
        rows = block.mean_log_p() + block.cross_entropy(other)
        return rows.sum() + pairs_loss(block)

    assert_equal(fused(*leaves).loss(loss, fused(*others)), expected, leaves)


@pytest.mark.parametrize("count", [2, 30], ids=["products", "the matrix"])
def test_log_p_of_groups_is_that_of_the_formula(count):
    leaves = vectors()
    drawn = torch.randint(4, 30, (STATES, count), generator=torch.Generator().manual_seed(3))
    weights = torch.linspace(-1, 1, count)
    expected = (weights * formula(*leaves).gather(1, drawn)).sum()
    has_matrix = []

    def loss(block):
        log_p = block.log_p_of(drawn[block.which])
        has_matrix.append("dense" in vars(block))
        return (weights * log_p).sum()

    assert_equal(fused(*leaves).loss(loss), expected, leaves)
    assert has_matrix == [count == 30]


def test_draws_and_probabilities_are_those_of_the_policy():
    leaves = vectors()
    (block,) = fused(*leaves).blocks()
    assert len(block) == STATES
    assert torch.allclose(block.p.double(), formula(*leaves).exp(), atol=1e-6)
    drawn = block.draw(50, torch.Generator().manual_seed(1))
    assert not (drawn[0] == 31).any()
    assert block.log_p(SEEN.states, SEEN.items).tolist() == [-torch.inf] * 5


def test_a_state_whose_items_are_all_masked_gets_no_gradient():
    leaves = vectors(states=2, items=40)
    seen = Seen(torch.zeros(40, dtype=torch.int64), torch.arange(40))

    def loss(block):
        return block.log_p(torch.tensor([1]), torch.tensor([3])).sum() + block.entropies().sum()

    d_users, d_items = torch.autograd.grad(fused(*leaves, seen=seen).loss(loss), leaves)
    assert torch.isfinite(d_items).all()
    assert d_users[0].abs().sum() == 0
    assert d_users[1].abs().sum() > 0


def test_the_mask_has_a_bit_for_each_pair():
    seen = Seen(torch.tensor([0, 0, 1]), torch.tensor([31, 32, 0]))
    assert pack_mask(seen, 2, 33).tolist() == [[-(2**31), 1], [1, 0]]
