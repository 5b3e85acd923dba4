"""The blockwise softmax against the formula and autograd."""

import copy

import pytest
import torch
from torch.nn import functional

from recoach.data.queries import Seen
from recoach.models import softmax
from recoach.models.base import Embeddings
from recoach.models.distribution import Workspace
from recoach.models.products import product_dtype
from recoach.models.softmax import BlockwiseDistribution

STATES, ITEMS, DIM = 7, 300, 4
PAIRS = (torch.tensor([0, 0, 1, 3, 5, 6]), torch.tensor([2, 9, 4, 0, 4, 299]))
WEIGHTS = torch.tensor([1.0, 0.5, 2.0, 1.0, -0.3, 0.7], dtype=torch.float64)
SEEN = Seen(torch.tensor([0, 0, 2, 6]), torch.tensor([1, 7, 250, 3]))


def policy(users, items, **settings):
    return BlockwiseDistribution(Embeddings(users, items), **settings)


def vectors(dtype=torch.float64, items=ITEMS, dim=DIM, seed=0):
    generator = torch.Generator().manual_seed(seed)
    users = torch.randn(STATES, dim, generator=generator, dtype=torch.float64)
    table = torch.randn(items, dim, generator=generator, dtype=torch.float64)
    return users.to(dtype).requires_grad_(), table.to(dtype).requires_grad_()


def plain_log_p(users, items, seen=SEEN, temperature=0.7):
    logits = users @ items.T / temperature
    if seen is not None:
        logits = logits.index_put(seen[:2], logits.new_tensor(-torch.inf))
    return logits.log_softmax(dim=1)


def in_block(block, states):
    """Return which states are in the block."""
    return (states >= block.which.start) & (states < block.which.stop)


def pairs_loss(block):
    local = in_block(block, PAIRS[0])
    log_p = block.log_p(PAIRS[0][local] - block.which.start, PAIRS[1][local])
    return (WEIGHTS[local] * log_p.square()).sum()


def all_close(results, expected):
    return all(torch.allclose(a, b, atol=1e-10) for a, b in zip(results, expected, strict=True))


@pytest.fixture(params=[1, 3, 1024])
def states_at_once(request, monkeypatch):
    monkeypatch.setitem(softmax._STATES, "cpu", request.param)
    monkeypatch.setattr(softmax, "_LEAST_STATES", 1)


@pytest.mark.usefixtures("states_at_once")
@pytest.mark.parametrize("seen", [None, SEEN])
def test_log_p_of_pairs_has_the_loss_and_gradient_of_the_formula(seen):
    users, items = vectors()
    expected = (WEIGHTS * plain_log_p(users, items, seen)[PAIRS].square()).sum()
    result = policy(users, items, temperature=0.7, seen=seen).loss(pairs_loss)
    assert result.item() == pytest.approx(expected.item(), rel=1e-12)
    assert all_close(
        torch.autograd.grad(3 * result, (users, items)),
        torch.autograd.grad(3 * expected, (users, items)),
    )


@pytest.mark.usefixtures("states_at_once")
def test_log_p_of_groups_has_the_loss_and_gradient_of_the_formula():
    users, items = vectors()
    drawn = torch.randint(10, 60, (STATES, 90), generator=torch.Generator().manual_seed(3))
    weight = torch.randn(STATES, 90, dtype=torch.float64)
    expected = (weight * plain_log_p(users, items).gather(1, drawn).exp()).sum()

    def loss(block):
        return (weight[block.which] * block.log_p_of(drawn[block.which]).exp()).sum()

    result = policy(users, items, temperature=0.7, seen=SEEN).loss(loss)
    assert result.item() == pytest.approx(expected.item(), rel=1e-12)
    assert all_close(
        torch.autograd.grad(result, (users, items)), torch.autograd.grad(expected, (users, items))
    )


@pytest.mark.usefixtures("states_at_once")
def test_kl_and_pairs_in_one_loss_have_the_loss_and_gradient_of_the_formula():
    users, items = vectors()
    reference_vectors = [x.detach() for x in vectors(seed=5)]
    log_p, log_q = plain_log_p(users, items), plain_log_p(*reference_vectors)
    gap = (log_p - log_q).masked_fill(log_p == -torch.inf, 0)
    kl = (log_p.exp() * gap).sum(dim=1)
    expected = (kl * torch.arange(STATES)).sum() + log_p[PAIRS].sum()
    reference = policy(*reference_vectors, temperature=0.7, seen=SEEN)
    measured = []

    def loss(block, reference_block):
        local = in_block(block, PAIRS[0])
        log_p_of_pairs = block.log_p(PAIRS[0][local] - block.which.start, PAIRS[1][local])
        kl_of_block = block.kl(reference_block)
        measured.append(kl_of_block.detach())
        return (
            kl_of_block * torch.arange(block.which.start, block.which.stop)
        ).sum() + log_p_of_pairs.sum()

    result = policy(users, items, temperature=0.7, seen=SEEN).loss(loss, reference)
    assert torch.allclose(torch.cat(measured), kl)
    assert result.item() == pytest.approx(expected.item(), rel=1e-12)
    assert all_close(
        torch.autograd.grad(result, (users, items)), torch.autograd.grad(expected, (users, items))
    )


@pytest.mark.usefixtures("states_at_once")
def test_cross_entropy_and_pairs_in_one_loss_have_the_loss_and_gradient_of_the_formula():
    users, items = vectors()
    others = [x.detach() for x in vectors(seed=5)]
    log_p, q = plain_log_p(users, items), plain_log_p(*others).exp()
    shown = log_p.masked_fill(log_p == -torch.inf, 0)
    weights = torch.arange(STATES)
    expected = -((q * shown).sum(dim=1) * weights).sum() + log_p[PAIRS].sum()

    def loss(block, other_block):
        local = in_block(block, PAIRS[0])
        pairs = block.log_p(PAIRS[0][local] - block.which.start, PAIRS[1][local])
        return (block.cross_entropy(other_block) * weights[block.which]).sum() + pairs.sum()

    other = policy(*others, temperature=0.7, seen=SEEN)
    result = policy(users, items, temperature=0.7, seen=SEEN).loss(loss, other)
    assert result.item() == pytest.approx(expected.item(), rel=1e-12)
    assert all_close(
        torch.autograd.grad(result, (users, items)), torch.autograd.grad(expected, (users, items))
    )


def test_the_kl_of_equal_policies_is_zero_and_of_others_positive():
    users, items = vectors()
    (block,) = policy(users, items).blocks()
    (same,) = policy(users, items).blocks()
    (other,) = policy(users, vectors(seed=1)[1]).blocks()
    assert block.kl(same).abs().max().item() < 1e-12
    assert block.kl(other).min().item() > 0


def test_the_entropy_leaves_masked_items_out():
    users, items = vectors()
    (block,) = policy(users, items, temperature=0.7, seen=SEEN).blocks()
    log_p = plain_log_p(users, items)
    expected = -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0)).sum(dim=1)
    assert torch.allclose(block.entropy(3), expected[:3])


def test_a_loss_without_gradients_and_a_constant_loss_are_allowed():
    users, items = vectors()
    with torch.no_grad():
        result = policy(users, items).loss(pairs_loss)
    expected = (WEIGHTS * plain_log_p(users, items, None, 1.0)[PAIRS].square()).sum()
    assert result.item() == pytest.approx(expected.item())
    constant = policy(users, items).loss(lambda block: torch.tensor(float(len(block))))
    assert [g.abs().sum().item() for g in torch.autograd.grad(constant, (users, items))] == [0, 0]


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_bfloat16_products_are_close_to_the_formula(scale, monkeypatch):
    monkeypatch.setattr(softmax, "product_dtype", lambda _items: torch.bfloat16)
    users, items = vectors(torch.float32, items=3000, dim=64)
    users, items = (x.detach().mul(scale**0.5).requires_grad_() for x in (users, items))
    targets = torch.arange(STATES) * 400
    expected = functional.cross_entropy(users @ items.T, targets, reduction="sum")

    def loss(block):
        return -block.log_p(torch.arange(len(block)), targets[block.which]).sum()

    result = policy(users, items).loss(loss)
    assert result.item() == pytest.approx(expected.item(), rel=3e-3)
    for slope, expected_slope in zip(
        torch.autograd.grad(result, (users, items)),
        torch.autograd.grad(expected, (users, items)),
        strict=True,
    ):
        assert (slope - expected_slope).norm() < 0.01 * expected_slope.norm()


def test_log_z_is_accurate_although_p_is_rounded(monkeypatch):
    monkeypatch.setattr(softmax, "product_dtype", lambda _items: torch.bfloat16)
    users, items = vectors(torch.float32, items=5000, dim=64)
    (block,) = policy(users * 0.5, items).blocks()
    expected = block._logits.double().logsumexp(dim=1)
    assert (block._log_z - expected).abs().max().item() < 5e-4


def test_exact_products_keep_the_difference_of_two_close_policies(monkeypatch):
    monkeypatch.setattr(softmax, "product_dtype", lambda _items: torch.bfloat16)
    users, items = (tensor.detach() for tensor in vectors(torch.float32, items=3000, dim=64))
    users = 2 * users  # scores of some 20
    moved = users + 0.1 * torch.randn(users.shape, generator=torch.Generator().manual_seed(2))
    pairs = torch.arange(STATES), torch.arange(STATES) * 400
    new, old = (
        next(policy(states, items, exact_products=True).blocks()) for states in (moved, users)
    )
    plain = [(states @ items.T).double().log_softmax(dim=1) for states in (moved, users)]
    kl = (plain[0].exp() * (plain[0] - plain[1])).sum(dim=1)
    assert new.kl(old).tolist() == pytest.approx(kl.tolist(), abs=2e-5)
    ratio = (new.log_p(*pairs) - old.log_p(*pairs)).tolist()
    assert ratio == pytest.approx((plain[0] - plain[1])[pairs].tolist(), abs=2e-4)


def close_policies(scale, drift):
    """Return (states, items) of a policy with scores of some 8 `scale`, and of one near it."""
    users, items = vectors(torch.float32, items=3000, dim=64)
    generator = torch.Generator().manual_seed(2)
    users = (scale * users).detach().requires_grad_()
    others = [x + drift * torch.randn(x.shape, generator=generator) for x in (users, items)]
    return (users, items), tuple(other.detach() for other in others)


@pytest.mark.parametrize(("scale", "drift"), [(0.5, 0.001), (0.5, 0.05), (0.3, 0.01)])
def test_the_kl_in_bfloat16_has_the_value_and_gradient_of_the_formula(scale, drift, monkeypatch):
    monkeypatch.setattr(softmax, "product_dtype", lambda _items: torch.bfloat16)
    vectors_, others = close_policies(scale, drift)
    log_p, log_q = ((u @ i.T).double().log_softmax(dim=1) for u, i in (vectors_, others))
    kl = (log_p.exp() * (log_p - log_q)).sum(dim=1)
    measured = []

    def loss(block, reference):
        measured.append(block.kl(reference))
        return measured[0].sum()

    result = policy(*vectors_).loss(loss, policy(*others))
    assert (measured[0] - kl).abs().mean() < 0.02 * kl.mean()
    for slope, expected in zip(
        torch.autograd.grad(result, vectors_), torch.autograd.grad(kl.sum(), vectors_), strict=True
    ):
        assert (slope - expected).norm() < 0.03 * expected.norm()


def test_the_kl_of_a_policy_with_itself_is_exactly_zero_in_bfloat16(monkeypatch):
    monkeypatch.setattr(softmax, "product_dtype", lambda _items: torch.bfloat16)
    (users, items), _ = close_policies(2.0, 0.0)
    result = policy(users, items).loss(
        lambda block, reference: block.kl(reference).sum(), policy(users, items)
    )
    assert result.item() == 0
    assert [g.abs().max().item() for g in torch.autograd.grad(result, (users, items))] == [0, 0]


def test_two_kls_of_a_block_have_the_sum_of_their_gradients():
    users, items = vectors()
    reference = policy(*(x.detach() for x in vectors(seed=5)))

    def gradients(count):
        def loss(block, other):
            return sum(block.kl(other).sum() for _ in range(count))

        return torch.autograd.grad(policy(users, items).loss(loss, reference), (users, items))

    assert all_close(gradients(2), [2 * gradient for gradient in gradients(1)])


def test_the_kl_of_a_state_whose_items_are_all_masked_is_zero():
    users, items = vectors(items=3)
    all_items = Seen(torch.zeros(3, dtype=torch.int64), torch.arange(3))
    (block,) = policy(users, items, seen=all_items).blocks()
    (other,) = policy(*vectors(seed=1, items=3), seen=all_items).blocks()
    kl = block.kl(other)
    assert kl[0].item() == 0
    assert kl[1:].min().item() > 0


def test_a_reference_that_is_only_compared_has_no_softmax():
    users, items = vectors()
    (block,) = policy(users, items).blocks()
    (other,) = policy(*vectors(seed=1)).blocks()
    block.kl(other)
    assert other._computed is None
    expected = plain_log_p(*vectors(seed=1), None, 1.0).exp()
    assert torch.allclose(other.p, expected)  # computed now, in memory of its own


def test_log_p_is_finite_where_p_underflows():
    users, items = torch.ones(1, 1, dtype=torch.float64), torch.zeros(300, 1, dtype=torch.float64)
    items[299] = 500.0  # all of the first items underflow
    (block,) = policy(users, items).blocks()
    log_p = block.log_p(torch.tensor([0, 0]), torch.tensor([299, 5]))
    assert log_p.tolist() == pytest.approx([0.0, -500.0])


@pytest.mark.parametrize("product", [torch.float64, torch.bfloat16])  # rows are padded in bfloat16
def test_a_state_whose_items_are_all_masked_gets_no_gradient(product, monkeypatch):
    monkeypatch.setattr(softmax, "product_dtype", lambda _items: product)
    users, items = vectors(torch.promote_types(product, torch.float32), items=3)
    all_items = Seen(torch.zeros(3, dtype=torch.int64), torch.arange(3))

    def loss(block):
        pairs = block.log_p(torch.arange(1, STATES), torch.ones(STATES - 1).long())
        return pairs.sum() + block.mean_log_p().sum()

    result = policy(users, items, seen=all_items).loss(loss)
    d_users, d_items = torch.autograd.grad(result, (users, items))
    assert torch.isfinite(d_users).all()
    assert torch.isfinite(d_items).all()
    assert d_users[0].tolist() == [0] * DIM


def test_draws_follow_the_policy_and_are_sorted():
    users, items = vectors(items=6)
    seen = Seen(torch.tensor([0, 1]), torch.tensor([5, 0]))
    (block,) = policy(users, items, seen=seen).blocks()
    drawn = block.draw(200_000, torch.Generator().manual_seed(1))
    assert (drawn.diff(dim=1) >= 0).all()
    for state in range(STATES):
        frequency = torch.bincount(drawn[state], minlength=6) / 200_000
        error = (frequency * (1 - frequency) / 200_000).sqrt() + 1e-9
        assert ((frequency - block.p[state]).abs() < 5 * error + 1e-9).all()
    assert not (drawn[0] == 5).any()
    assert not (drawn[1] == 0).any()


def test_products_are_in_bfloat16_only_where_it_is_faster(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert product_dtype(torch.zeros(5000, 2)) == torch.bfloat16
    assert product_dtype(torch.zeros(100, 2)) == torch.float32
    assert product_dtype(torch.zeros(5000, 2, dtype=torch.float64)) == torch.float64
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert product_dtype(torch.zeros(5000, 2)) == torch.float32


def test_blocks_have_similar_sizes_and_bounded_logits():
    distribution = policy(torch.zeros(1000, 2), torch.zeros(20_000, 2))
    assert distribution.block_size * 20_000 <= softmax._LOGITS["cpu"]
    sizes = [len(block) for block in distribution.blocks()]
    assert sum(sizes) == 1000
    assert max(sizes) - min(sizes) <= len(sizes)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_bias_is_added_to_the_scores_and_left_out_of_the_entropy(dtype, monkeypatch):
    monkeypatch.setattr(softmax, "product_dtype", lambda _items: dtype)
    users, items = vectors(torch.promote_types(dtype, torch.float32))
    bias = torch.linspace(-2, 2, ITEMS).to(users.dtype)
    (block,) = policy(users, items, temperature=0.7, bias=bias).blocks()
    scores = (users @ items.T / 0.7).detach()
    log_p = (scores + bias).log_softmax(dim=1)
    close = {"atol": 1e-9} if dtype == torch.float64 else {"atol": 0.05}
    assert torch.allclose(block.log_p(*PAIRS), log_p[PAIRS], **close)
    expected = (scores + bias).logsumexp(dim=1) - (log_p.exp() * scores).sum(dim=1)
    assert torch.allclose(block.entropy(STATES), expected, **close)


def test_rounding_never_makes_a_probability_greater_than_one(monkeypatch):
    monkeypatch.setattr(softmax, "product_dtype", lambda _items: torch.bfloat16)
    users, items = torch.ones(64, 8), torch.randn(3000, 8) * 0.1
    items[7] = torch.linspace(3, 4, 8)
    users = users + 0.1 * torch.randn(64, 8)
    (block,) = policy(users, items).blocks()
    states = torch.arange(64)
    assert block.log_p(states, torch.full((64,), 7)).max().item() <= 0
    assert block.log_p_of(torch.full((64, 3), 7)).max().item() <= 0
    assert ((block._logits[:, 7] - block._log_z) > 0).any()


def test_a_workspace_reuses_memory_but_lends_it_to_one_borrower_at_a_time():
    workspace, like = Workspace(), torch.zeros(1)
    with workspace.borrow(like, 2000) as first, workspace.borrow(like, 2000) as second:
        assert len({buffer.data_ptr() for buffer in (*first, *second)}) == 4
    with workspace.borrow(like, 1900) as third:
        assert third[0].data_ptr() == first[0].data_ptr()
    with workspace.borrow(like, 9000) as larger:
        assert len(larger[0]) >= 9000
    with workspace.borrow(like.double(), 9000) as wider:
        assert wider[0].dtype == torch.float64


def test_a_copy_of_a_workspace_has_separate_memory():
    workspace, like = Workspace(), torch.zeros(1)
    with workspace.borrow(like, 10) as lent:
        pass
    with copy.deepcopy(workspace).borrow(like, 10) as other:
        assert other[0].data_ptr() != lent[0].data_ptr()


def test_blocks_use_the_given_workspace():
    users, items = (x.detach() for x in vectors())
    workspace = Workspace()
    for _ in range(2):
        (block,) = policy(users, items, workspace=workspace).blocks()
        with workspace.borrow(items, STATES * ITEMS) as (logits, p):
            assert block._logits.data_ptr() == logits.data_ptr()
            assert block.p.data_ptr() == p.data_ptr()


def test_draws_without_replacement_have_the_probabilities_of_the_policy():
    users, items = torch.zeros(1, 1), torch.tensor([[0.0], [0.0], [0.0], [0.0]])
    bias = torch.tensor([0.5, 0.3, 0.2, 0.0]).log()
    (block,) = policy(users, items, bias=bias).blocks()
    singles, pairs = torch.zeros(4), torch.zeros(4)
    for seed in range(3000):
        generator = torch.Generator().manual_seed(seed)
        singles[block.draw_distinct(1, generator)[0]] += 1
        pair = block.draw_distinct(2, generator)[0]
        assert pair[0] < pair[1]
        pairs[pair] += 1
    assert torch.allclose(singles / 3000, torch.tensor([0.5, 0.3, 0.2, 0.0]), atol=0.03)
    # P(item in the first two) = p_i + sum_j p_j p_i / (1 - p_j).
    p = [0.5, 0.3, 0.2]
    in_pair = [a + sum(b * a / (1 - b) for b in p if b != a) for a in p]
    assert torch.allclose(pairs / 3000, torch.tensor([*in_pair, 0.0]), atol=0.03)


@pytest.mark.usefixtures("states_at_once")
@pytest.mark.parametrize("bias", [None, torch.linspace(-1, 2, ITEMS, dtype=torch.float64)])
def test_averages_over_items_have_the_loss_and_gradient_of_the_formula(bias):
    users, items = vectors()
    values = torch.randn(ITEMS, dtype=torch.float64)
    logits = users @ items.T / 0.7
    biased = logits if bias is None else logits + bias
    log_p = biased.index_put(SEEN[:2], biased.new_tensor(-torch.inf)).log_softmax(dim=1)
    p, without_bias = log_p.exp(), log_p if bias is None else log_p - bias
    entropy = -(p * without_bias.masked_fill(log_p == -torch.inf, 0)).sum(dim=1)
    shown = (log_p > -torch.inf).double()
    mean_log_p = log_p.masked_fill(shown == 0, 0).sum(dim=1) / shown.sum(dim=1)
    expected = ((p @ values).square() + 3 * entropy.square() + mean_log_p.square()).sum()

    def loss(block):
        mean, entropy = block.expectation(values), block.entropies()
        return (mean.square() + 3 * entropy.square() + block.mean_log_p().square()).sum()

    result = policy(users, items, temperature=0.7, seen=SEEN, bias=bias).loss(loss)
    assert result.item() == pytest.approx(expected.item(), rel=1e-12)
    assert all_close(
        torch.autograd.grad(result, (users, items)), torch.autograd.grad(expected, (users, items))
    )


def test_lists_follow_the_plackett_luce_model():
    logits = torch.tensor([[2.0, 0.0, 1.0, -torch.inf]])
    users = torch.tensor([[2.0, 0.0, 1.0, -60.0]])
    (block,) = policy(users, torch.eye(4)).blocks()
    lists = block.draw_lists(40_000, 2, torch.Generator())
    p = logits.softmax(dim=1)[0]
    pairs = lists[0, :, 0] * 4 + lists[0, :, 1]
    frequencies = torch.bincount(pairs, minlength=16).float() / 40_000
    for first in range(4):
        for second in range(4):
            probability = 0.0 if first == second else p[first] * p[second] / (1 - p[first])
            assert frequencies[first * 4 + second] == pytest.approx(float(probability), abs=0.01)


def test_the_lists_of_a_state_are_independent():
    users = torch.tensor([[1.0, 0.0, 0.5]])
    (block,) = policy(users, torch.eye(3)).blocks()
    first = block.draw_lists(20_000, 1, torch.Generator())[0, :, 0]
    expected = users.softmax(dim=1).square().sum().item()
    assert (first[1:] == first[:-1]).float().mean() == pytest.approx(expected, abs=0.015)


def test_a_list_is_complete_if_one_item_is_nearly_certain():
    users = torch.tensor([[14.0, 0.0, 0.0, 0.0, 0.0]])
    (block,) = policy(users, torch.eye(5)).blocks()
    lists = block.draw_lists(200, 4, torch.Generator())
    assert (lists[0].sort(dim=1).values.diff(dim=1) > 0).all()
    assert (lists[0, :, 0] == 0).float().mean() > 0.95
    assert len(torch.unique(lists[0, :, 1])) == 4
