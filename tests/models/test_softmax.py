"""The blockwise softmax against the plain formula and autograd."""

import copy

import pytest
import torch
from torch.nn import functional

from recoach.data.batches import Seen
from recoach.models import softmax
from recoach.models.base import Embeddings
from recoach.models.distribution import Workspace
from recoach.models.softmax import BlockwiseDistribution, product_dtype

STATES, ITEMS, DIM = 7, 300, 4
PAIRS = (torch.tensor([0, 0, 1, 3, 5, 6]), torch.tensor([2, 9, 4, 0, 4, 299]))
WORTH = torch.tensor([1.0, 0.5, 2.0, 1.0, -0.3, 0.7], dtype=torch.float64)
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
        logits = logits.index_put(tuple(seen), logits.new_tensor(-torch.inf))
    return logits.log_softmax(dim=1)


def in_block(block, states):
    return (states >= block.which.start) & (states < block.which.stop)


def picked_loss(block):
    mine = in_block(block, PAIRS[0])
    log_p = block.log_p(PAIRS[0][mine] - block.which.start, PAIRS[1][mine])
    return (WORTH[mine] * log_p.square()).sum()


def agree(found, wanted, **tolerance):
    tolerance = tolerance or {"atol": 1e-10}
    return all(torch.allclose(a, b, **tolerance) for a, b in zip(found, wanted, strict=True))


@pytest.fixture(params=[1, 3, 1024])
def states_at_once(request, monkeypatch):
    monkeypatch.setitem(softmax._STATES, "cpu", request.param)
    monkeypatch.setattr(softmax, "_LEAST_STATES", 1)


@pytest.mark.usefixtures("states_at_once")
@pytest.mark.parametrize("seen", [None, SEEN])
def test_several_picked_items_a_state_have_the_plain_formula_s_loss_and_gradient(seen):
    users, items = vectors()
    wanted = (WORTH * plain_log_p(users, items, seen)[PAIRS].square()).sum()
    found = policy(users, items, temperature=0.7, seen=seen).loss(picked_loss)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-12)
    assert agree(
        torch.autograd.grad(3 * found, (users, items)),
        torch.autograd.grad(3 * wanted, (users, items)),
    )


@pytest.mark.usefixtures("states_at_once")
def test_groups_of_drawn_items_have_the_plain_formula_s_loss_and_gradient():
    users, items = vectors()
    drawn = torch.randint(10, 60, (STATES, 90), generator=torch.Generator().manual_seed(3))
    weight = torch.randn(STATES, 90, dtype=torch.float64)
    wanted = (weight * plain_log_p(users, items).gather(1, drawn).exp()).sum()

    def loss(block):
        return (weight[block.which] * block.log_p_of(drawn[block.which]).exp()).sum()

    found = policy(users, items, temperature=0.7, seen=SEEN).loss(loss)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-12)
    assert agree(
        torch.autograd.grad(found, (users, items)), torch.autograd.grad(wanted, (users, items))
    )


@pytest.mark.usefixtures("states_at_once")
def test_the_kl_beside_picked_items_has_the_plain_formula_s_loss_and_gradient():
    users, items = vectors()
    there = [x.detach() for x in vectors(seed=5)]
    log_p, log_q = plain_log_p(users, items), plain_log_p(*there)
    gap = (log_p - log_q).masked_fill(log_p == -torch.inf, 0)
    kl = (log_p.exp() * gap).sum(dim=1)
    wanted = (kl * torch.arange(STATES)).sum() + log_p[PAIRS].sum()
    reference = policy(*there, temperature=0.7, seen=SEEN)
    measured = []

    def loss(block, reference_block):
        mine = in_block(block, PAIRS[0])
        picked = block.log_p(PAIRS[0][mine] - block.which.start, PAIRS[1][mine])
        far = block.kl(reference_block)
        measured.append(far.detach())
        return (far * torch.arange(block.which.start, block.which.stop)).sum() + picked.sum()

    found = policy(users, items, temperature=0.7, seen=SEEN).loss(loss, reference)
    assert torch.allclose(torch.cat(measured), kl)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-12)
    assert agree(
        torch.autograd.grad(found, (users, items)), torch.autograd.grad(wanted, (users, items))
    )


def test_no_policy_is_nearer_to_a_policy_than_itself():
    users, items = vectors()
    (block,) = policy(users, items).blocks()
    (same,) = policy(users, items).blocks()
    (other,) = policy(users, vectors(seed=1)[1]).blocks()
    assert block.kl(same).abs().max().item() < 1e-12
    assert block.kl(other).min().item() > 0


def test_the_entropy_is_that_of_the_shown_items():
    users, items = vectors()
    (block,) = policy(users, items, temperature=0.7, seen=SEEN).blocks()
    log_p = plain_log_p(users, items)
    wanted = -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0)).sum(dim=1)
    assert torch.allclose(block.entropy(3), wanted[:3])


def test_a_loss_needs_no_gradient_and_may_be_constant():
    users, items = vectors()
    with torch.no_grad():
        found = policy(users, items).loss(picked_loss)
    wanted = (WORTH * plain_log_p(users, items, None, 1.0)[PAIRS].square()).sum()
    assert found.item() == pytest.approx(wanted.item())
    constant = policy(users, items).loss(lambda block: torch.tensor(float(len(block))))
    assert [g.abs().sum().item() for g in torch.autograd.grad(constant, (users, items))] == [0, 0]


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_bfloat16_products_stay_near_the_plain_formula(scale, monkeypatch):
    monkeypatch.setattr(softmax, "product_dtype", lambda _items: torch.bfloat16)
    users, items = vectors(torch.float32, items=3000, dim=64)
    users, items = (x.detach().mul(scale**0.5).requires_grad_() for x in (users, items))
    targets = torch.arange(STATES) * 400
    wanted = functional.cross_entropy(users @ items.T, targets, reduction="sum")

    def loss(block):
        return -block.log_p(torch.arange(len(block)), targets[block.which]).sum()

    found = policy(users, items).loss(loss)
    assert found.item() == pytest.approx(wanted.item(), rel=3e-3)
    for ours, theirs in zip(
        torch.autograd.grad(found, (users, items)),
        torch.autograd.grad(wanted, (users, items)),
        strict=True,
    ):
        assert (ours - theirs).norm() < 0.01 * theirs.norm()


def test_log_z_is_exact_to_a_ten_thousandth_though_p_is_rounded(monkeypatch):
    monkeypatch.setattr(softmax, "product_dtype", lambda _items: torch.bfloat16)
    users, items = vectors(torch.float32, items=5000, dim=64)
    (block,) = policy(users * 0.5, items).blocks()
    wanted = block._logits.double().logsumexp(dim=1)
    assert (block._log_z - wanted).abs().max().item() < 5e-4


def test_the_difference_of_two_close_policies_is_not_lost_in_rounding(monkeypatch):
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


def test_a_certain_policy_keeps_a_finite_log_p_for_what_it_never_shows():
    users, items = torch.ones(1, 1, dtype=torch.float64), torch.zeros(300, 1, dtype=torch.float64)
    items[299] = 500.0  # all of the first items underflow
    (block,) = policy(users, items).blocks()
    log_p = block.log_p(torch.tensor([0, 0]), torch.tensor([299, 5]))
    assert log_p.tolist() == pytest.approx([0.0, -500.0])


def test_a_state_that_may_be_shown_nothing_takes_no_part():
    users, items = vectors(items=3)
    everything = Seen(torch.zeros(3, dtype=torch.int64), torch.arange(3))

    def loss(block):
        return block.log_p(torch.arange(1, STATES), torch.ones(STATES - 1).long()).sum()

    found = policy(users, items, seen=everything).loss(loss)
    d_users, d_items = torch.autograd.grad(found, (users, items))
    assert torch.isfinite(d_users).all()
    assert torch.isfinite(d_items).all()
    assert d_users[0].tolist() == [0] * DIM


def test_draws_follow_the_policy_and_come_sorted():
    users, items = vectors(items=6)
    seen = Seen(torch.tensor([0, 1]), torch.tensor([5, 0]))
    (block,) = policy(users, items, seen=seen).blocks()
    drawn = block.draw(200_000, torch.Generator().manual_seed(1))
    assert (drawn.diff(dim=1) >= 0).all()
    for state in range(STATES):
        share = torch.bincount(drawn[state], minlength=6) / 200_000
        error = (share * (1 - share) / 200_000).sqrt() + 1e-9
        assert ((share - block.p[state]).abs() < 5 * error + 1e-9).all()
    assert not (drawn[0] == 5).any()
    assert not (drawn[1] == 0).any()


def test_products_are_in_bfloat16_only_where_it_pays(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert product_dtype(torch.zeros(5000, 2)) == torch.bfloat16
    assert product_dtype(torch.zeros(100, 2)) == torch.float32
    assert product_dtype(torch.zeros(5000, 2, dtype=torch.float64)) == torch.float64
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert product_dtype(torch.zeros(5000, 2)) == torch.float32


def test_blocks_are_alike_in_size_and_bounded_in_logits():
    distribution = policy(torch.zeros(1000, 2), torch.zeros(20_000, 2))
    assert distribution.block_size * 20_000 <= softmax._LOGITS["cpu"]
    sizes = [len(block) for block in distribution.blocks()]
    assert sum(sizes) == 1000
    assert max(sizes) - min(sizes) <= len(sizes)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_bias_is_added_to_the_scores_and_is_no_part_of_the_entropy(dtype, monkeypatch):
    monkeypatch.setattr(softmax, "product_dtype", lambda _items: dtype)
    users, items = vectors(torch.promote_types(dtype, torch.float32))
    bias = torch.linspace(-2, 2, ITEMS).to(users.dtype)
    (block,) = policy(users, items, temperature=0.7, bias=bias).blocks()
    scores = (users @ items.T / 0.7).detach()
    log_p = (scores + bias).log_softmax(dim=1)
    close = {"atol": 1e-9} if dtype == torch.float64 else {"atol": 0.05}
    assert torch.allclose(block.log_p(*PAIRS), log_p[PAIRS], **close)
    wanted = (scores + bias).logsumexp(dim=1) - (log_p.exp() * scores).sum(dim=1)
    assert torch.allclose(block.entropy(STATES), wanted, **close)


def test_rounding_never_makes_a_probability_above_one(monkeypatch):
    monkeypatch.setattr(softmax, "product_dtype", lambda _items: torch.bfloat16)
    users, items = torch.ones(64, 8), torch.randn(3000, 8) * 0.1
    items[7] = torch.linspace(3, 4, 8)
    users = users + 0.1 * torch.randn(64, 8)
    (block,) = policy(users, items).blocks()
    states = torch.arange(64)
    assert block.log_p(states, torch.full((64,), 7)).max().item() <= 0
    assert block.log_p_of(torch.full((64, 3), 7)).max().item() <= 0
    assert ((block._logits[:, 7] - block._log_z) > 0).any()


def test_a_workspace_lends_the_same_memory_again_but_never_twice_at_a_time():
    workspace, like = Workspace(), torch.zeros(1)
    with workspace.borrow(like, 2000) as first, workspace.borrow(like, 2000) as second:
        assert len({buffer.data_ptr() for buffer in (*first, *second)}) == 4
    with workspace.borrow(like, 1900) as third:
        assert third[0].data_ptr() == first[0].data_ptr()
    with workspace.borrow(like, 9000) as larger:
        assert len(larger[0]) >= 9000
    with workspace.borrow(like.double(), 9000) as wider:
        assert wider[0].dtype == torch.float64


def test_a_copy_of_a_model_has_a_workspace_of_its_own():
    workspace, like = Workspace(), torch.zeros(1)
    with workspace.borrow(like, 10) as lent:
        pass
    with copy.deepcopy(workspace).borrow(like, 10) as other:
        assert other[0].data_ptr() != lent[0].data_ptr()


def test_blocks_use_the_workspace_that_is_given():
    users, items = (x.detach() for x in vectors())
    workspace = Workspace()
    for _ in range(2):
        (block,) = policy(users, items, workspace=workspace).blocks()
        with workspace.borrow(items, STATES * ITEMS) as (logits, p):
            assert block._logits.data_ptr() == logits.data_ptr()
            assert block.p.data_ptr() == p.data_ptr()


def test_a_draw_without_replacement_follows_the_policy_in_its_first_arrivals():
    users, items = torch.zeros(1, 1), torch.tensor([[0.0], [0.0], [0.0], [0.0]])
    bias = torch.tensor([0.5, 0.3, 0.2, 0.0]).log()
    (block,) = policy(users, items, bias=bias).blocks()
    ones, twos = torch.zeros(4), torch.zeros(4)
    for seed in range(3000):
        generator = torch.Generator().manual_seed(seed)
        ones[block.draw_distinct(1, generator)[0]] += 1
        pair = block.draw_distinct(2, generator)[0]
        assert pair[0] < pair[1]
        twos[pair] += 1
    assert torch.allclose(ones / 3000, torch.tensor([0.5, 0.3, 0.2, 0.0]), atol=0.03)
    # P(item in the first two) = p_i + sum_j p_j p_i / (1 - p_j).
    p = [0.5, 0.3, 0.2]
    both = [a + sum(b * a / (1 - b) for b in p if b != a) for a in p]
    assert torch.allclose(twos / 3000, torch.tensor([*both, 0.0]), atol=0.03)


@pytest.mark.usefixtures("states_at_once")
@pytest.mark.parametrize("bias", [None, torch.linspace(-1, 2, ITEMS, dtype=torch.float64)])
def test_expectation_and_entropy_have_the_plain_formula_s_loss_and_gradient(bias):
    users, items = vectors()
    worth = torch.randn(ITEMS, dtype=torch.float64)
    logits = users @ items.T / 0.7
    shown = logits if bias is None else logits + bias
    log_p = shown.index_put(tuple(SEEN), shown.new_tensor(-torch.inf)).log_softmax(dim=1)
    p, each = log_p.exp(), log_p if bias is None else log_p - bias
    entropy = -(p * each.masked_fill(log_p == -torch.inf, 0)).sum(dim=1)
    wanted = ((p @ worth).square() + 3 * entropy.square()).sum()

    def loss(block):
        return (block.expectation(worth).square() + 3 * block.entropies().square()).sum()

    found = policy(users, items, temperature=0.7, seen=SEEN, bias=bias).loss(loss)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-12)
    assert agree(
        torch.autograd.grad(found, (users, items)), torch.autograd.grad(wanted, (users, items))
    )


def test_lists_are_drawn_place_by_place_from_what_is_left():
    logits = torch.tensor([[2.0, 0.0, 1.0, -torch.inf]])
    users = torch.tensor([[2.0, 0.0, 1.0, -60.0]])
    (block,) = policy(users, torch.eye(4)).blocks()
    lists = block.draw_lists(40_000, 2, torch.Generator())
    p = logits.softmax(dim=1)[0]
    pairs = lists[0, :, 0] * 4 + lists[0, :, 1]
    shares = torch.bincount(pairs, minlength=16).float() / 40_000
    for first in range(4):
        for second in range(4):
            chance = 0.0 if first == second else p[first] * p[second] / (1 - p[first])
            assert shares[first * 4 + second] == pytest.approx(float(chance), abs=0.01)


def test_the_lists_of_a_state_are_drawn_one_without_another():
    users = torch.tensor([[1.0, 0.0, 0.5]])
    (block,) = policy(users, torch.eye(3)).blocks()
    first = block.draw_lists(20_000, 1, torch.Generator())[0, :, 0]
    alike = users.softmax(dim=1).square().sum().item()
    assert (first[1:] == first[:-1]).float().mean() == pytest.approx(alike, abs=0.015)


def test_a_list_is_complete_where_one_item_is_nearly_certain():
    users = torch.tensor([[14.0, 0.0, 0.0, 0.0, 0.0]])
    (block,) = policy(users, torch.eye(5)).blocks()
    lists = block.draw_lists(200, 4, torch.Generator())
    assert (lists[0].sort(dim=1).values.diff(dim=1) > 0).all()
    assert (lists[0, :, 0] == 0).float().mean() > 0.95
    assert len(torch.unique(lists[0, :, 1])) == 4
