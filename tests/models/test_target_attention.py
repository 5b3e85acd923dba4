"""Target attention against its formula over positions, as a states × items × dimension tensor."""

import pytest
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from recoach.models.products import product_dtype
from recoach.models.session import target_attention
from recoach.models.session.target_attention import (
    AttentionStates,
    attention_cross_entropy,
    attention_scores,
)

I, D = 300, 4  # noqa: E741 - the size of the catalogue
SIZES = [2, 0, 1, 5, 2, 3, 1, 3, 0]
"""Nodes of each state."""
B = len(SIZES)


def inputs(dtype=torch.float64, n_items=I, dim=D, scale=1.0):
    """Return vectors of states, nodes' values and queries, and items; nodes' states and counts."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(B, dim), (sum(SIZES), dim), (sum(SIZES), dim), (n_items, dim)]
    tensors = [scale * torch.randn(shape, generator=generator).double() for shape in shapes]
    node_states = torch.repeat_interleave(torch.arange(B), torch.tensor(SIZES))
    counts = torch.randint(1, 4, (sum(SIZES),), generator=generator)
    return [tensor.to(dtype).requires_grad_() for tensor in tensors], (node_states, counts)


def literal_scores(tensors, nodes):
    """Return the scores from one row for each position, a state and an item at a time."""
    states, values, queries, items = tensors
    node_states, counts = nodes
    positions = torch.repeat_interleave(counts)
    rows = []
    for state in range(B):
        here = positions[node_states[positions] == state]
        weights = (items @ queries[here].T).softmax(dim=1)  # [I, positions]
        rows.append(((states[state] + weights @ values[here]) * items).sum(dim=1))
    return torch.stack(rows)


def attention(tensors, nodes):
    return AttentionStates(*tensors[:3], *nodes)


def gradients(value, tensors):
    return torch.autograd.grad(value, tensors)


def all_close(results, expected):
    return all(torch.allclose(a, b, atol=1e-10) for a, b in zip(results, expected, strict=True))


@pytest.fixture(params=["one block", "blocks of a few states and chunks of items"])
def sizes(request, monkeypatch):
    if request.param != "one block":
        monkeypatch.setitem(target_attention._BLOCK_BYTES, "cpu", 20 * I * 8)
        monkeypatch.setitem(target_attention._CHUNK_BYTES, "cpu", 1)  # at least 256 items


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_scores_and_gradients_are_those_of_the_formula(scale):
    tensors, nodes = inputs(scale=scale)
    weights = torch.randn(B, I, generator=torch.Generator().manual_seed(1)).double()
    scores = attention_scores(attention(tensors, nodes), tensors[-1])
    expected = literal_scores(tensors, nodes)
    assert torch.allclose(scores, expected, rtol=1e-9)
    results = gradients((scores * weights).sum(), tensors)
    for result, slope in zip(results, gradients((expected * weights).sum(), tensors), strict=True):
        assert torch.allclose(result, slope, rtol=1e-8, atol=1e-7 * scale)


@pytest.mark.usefixtures("sizes")
def test_the_cross_entropy_and_its_gradients_are_those_of_the_formula():
    tensors, nodes = inputs()
    targets = torch.arange(0, I, I // B)[:B]
    loss = attention_cross_entropy(attention(tensors, nodes), tensors[-1], targets)
    expected = functional.cross_entropy(literal_scores(tensors, nodes), targets)
    assert torch.allclose(loss, expected)
    assert all_close(gradients(3 * loss, tensors), gradients(3 * expected, tensors))


def test_logits_beyond_the_range_of_the_exponential():
    tensors, nodes = inputs(torch.float32, scale=20)
    targets = torch.zeros(B, dtype=torch.int64)
    scores = attention_scores(attention(tensors, nodes), tensors[-1])
    assert torch.allclose(scores, literal_scores(tensors, nodes), rtol=1e-4, atol=0.01)
    loss = attention_cross_entropy(attention(tensors, nodes), tensors[-1], targets)
    assert all(slope.isfinite().all() for slope in gradients(loss, tensors))


def test_scores_of_items_of_each_state():
    tensors, nodes = inputs()
    items = torch.randint(I, (B, 6), generator=torch.Generator().manual_seed(2))
    scores = attention_scores(attention(tensors, nodes), tensors[-1][items])
    expected = literal_scores(tensors, nodes).gather(1, items)
    assert torch.allclose(scores, expected)
    results = gradients(scores.square().sum(), tensors)
    assert all_close(results, gradients(expected.square().sum(), tensors))


@pytest.mark.parametrize("own_items", [True, False])
def test_no_states_have_no_scores(own_items):
    none = torch.empty(0, dtype=torch.int64)
    states = AttentionStates(*(torch.empty(0, D) for _ in range(3)), none, none)
    items = torch.empty(0, I, D) if own_items else torch.randn(I, D)
    assert attention_scores(states, items).shape == (0, I)


def test_products_in_bfloat16_are_close():
    tensors, nodes = inputs(torch.float32, n_items=2000, dim=64, scale=0.3)
    if product_dtype(tensors[-1]) != torch.bfloat16:
        pytest.skip("products in bfloat16 are no faster here")
    exact, _ = inputs(n_items=2000, dim=64, scale=0.3)
    targets = torch.arange(B)
    loss = attention_cross_entropy(attention(tensors, nodes), tensors[-1], targets)
    expected = attention_cross_entropy(attention(exact, nodes), exact[-1], targets)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
    scores = [attention_scores(attention(each, nodes), each[-1]) for each in (tensors, exact)]
    assert torch.allclose(scores[0].double(), scores[1], atol=1e-4)  # not in bfloat16
    for low, high in ((loss, expected), (scores[0].sum(), scores[1].sum())):
        for result, slope in zip(gradients(low, tensors), gradients(high, exact), strict=True):
            assert 1e-4 < (result - slope).norm() / slope.norm() < 0.02


class LargestTensor(TorchFunctionMode):
    """Record the size of the largest tensor that any operation returns."""

    largest = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


def test_no_tensor_is_larger_than_a_block(monkeypatch):
    rows = 12
    monkeypatch.setitem(target_attention._BLOCK_BYTES, "cpu", rows * I * 8)
    tensors, nodes = inputs()
    with LargestTensor() as recorded:
        targets = torch.zeros(B, dtype=torch.int64)
        loss = attention_cross_entropy(attention(tensors, nodes), tensors[-1], targets)
        gradients(loss, tensors)
    assert recorded.largest <= rows * I < (B + 2 * sum(SIZES)) * I
