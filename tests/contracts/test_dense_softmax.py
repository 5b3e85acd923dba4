"""The dense policy against the blockwise one, on every model of the registry with dot products."""

from dataclasses import replace

import pytest
import torch
from variants import ATTENTION, DATASET, N_ITEMS, SCORERS, TUNABLE_SCORERS, VARIANTS, build

from recoach.data.batches import StateBatches
from recoach.data.queries import Seen, seen_before
from recoach.models import dense_softmax
from recoach.models.dense_softmax import DenseDistribution
from recoach.models.factorization.neumf import NeuMF
from recoach.policy.candidates import Candidates
from recoach.policy.policy import Policy

DOT_PRODUCTS = sorted(set(VARIANTS) - set(SCORERS))
POLICY = Policy(temperature=0.7)
CANDIDATES = Candidates(
    torch.tensor([0, 3, 4, 8, 9, 13, 19]), torch.linspace(-1, 2, 7, dtype=torch.float64)
)
VALUES = torch.linspace(-1, 3, N_ITEMS, dtype=torch.float64)


def states(model, *, mask, count=23):
    """Return states that share rows, with hidden interactions, masked items or none."""
    batches = StateBatches(
        DATASET.train,
        n_items=N_ITEMS,
        history_length=model.history_length,
        batch_size=count,
    )
    batch = next(batches.epoch(torch.Generator().manual_seed(1)))
    queries, train = batch.queries, DATASET.train
    starts = train.offsets[queries.state_users.numpy()]
    stops = train.offsets[queries.state_users.numpy() + 1]
    queries = replace(queries, hidden=seen_before(train.values, batch.positions, stops))
    seen = seen_before(train.values, starts, batch.positions) if mask else None
    return replace(queries, seen=seen)


def within(seen):
    """Return the seen pairs whose items are candidates, numbered within the candidates."""
    place = torch.searchsorted(CANDIDATES.items, seen.items).clamp(max=len(CANDIDATES.items) - 1)
    kept = CANDIDATES.items[place] == seen.items
    return Seen(seen.states[kept], place[kept])


def dense(model, queries, candidates=None, **settings):
    items, bias = (None, None) if candidates is None else candidates
    return DenseDistribution(
        model, queries, items=items, bias=bias, temperature=POLICY.temperature, **settings
    )


def all_losses(n_items, queries, values):
    """Return a loss that reads a block's log-probabilities, expectation, entropy and KL."""
    generator = torch.Generator().manual_seed(5)
    masked = torch.zeros(len(queries), n_items, dtype=torch.bool)
    if queries.seen is not None:
        masked[queries.seen[:2]] = True
    order = (torch.rand(masked.shape, generator=generator) + masked.double()).argsort(dim=1)
    visible = order[:, :3]  # different items, none of them masked
    weights = torch.randn(len(queries), 3, generator=generator, dtype=torch.float64)

    def loss(block, reference):
        items, weight = visible[block.which], weights[block.which]
        log_p = block.log_p_of(items)
        pairs = block.log_p(torch.arange(len(block)), items[:, 0])
        parts = (
            (weight * log_p.exp()).sum(),
            (weight[:, 0] * pairs.square()).sum(),
            block.expectation(values).square().sum(),
            3 * block.entropies().square().sum(),
            block.mean_log_p().square().sum(),
            (weight[:, 1] * block.kl(reference)).sum(),
        )
        return sum(parts)

    return loss


def gradients(model, loss):
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        return []
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [
        torch.zeros_like(p) if gradient is None else gradient
        for p, gradient in zip(parameters, found, strict=True)
    ]


def reference_of(variant):
    """Return a copy with other weights."""
    model = build(variant).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3).add_(0.01)
    return model


@pytest.mark.parametrize("block_size", [5, 23])
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("candidates", [None, CANDIDATES])
@pytest.mark.parametrize("variant", DOT_PRODUCTS)
def test_the_dense_policy_equals_the_blockwise_one(variant, candidates, mask, block_size):
    model, reference = build(variant).double().eval(), reference_of(variant)
    model.scores_at_once = reference.scores_at_once = 3 * block_size  # chunks of three items
    queries, values = states(model, mask=mask), VALUES
    if candidates is not None:
        values = VALUES[candidates.items]
        queries = replace(queries, seen=queries.seen and within(queries.seen))
    loss = all_losses(len(values), queries, values)
    results = []
    for distribution in (POLICY.distribution, dense):
        new, other = (distribution(m, queries, candidates) for m in (model, reference))
        new.block_size = other.block_size = block_size
        total = new.loss(loss, other)
        answers = answers_of(new, values)
        results.append([total.detach()[None], *answers, *gradients(model, 2 * total)])
    assert results[0][0].isfinite().all()
    for blockwise, other in zip(*results, strict=True):
        assert other.dtype == blockwise.dtype
        assert torch.allclose(other, blockwise, rtol=1e-9, atol=1e-9)


def answers_of(distribution, values):
    """Return p, log p, entropies, expectations and draws of all states."""
    generator, answers = torch.Generator().manual_seed(3), []
    for block in distribution.blocks():
        everything = torch.arange(len(values)).expand(len(block), -1)
        answers.append(
            [
                block.p.clone(),
                block.log_p_of(everything).detach().clone(),
                block.entropies().detach(),
                block.entropy(len(block)),
                block.expectation(values).detach(),
                block.draw(6, generator),
                block.draw_distinct(2, generator),
                block.draw_lists(2, 2, generator).flatten(1),
            ]
        )
    return [torch.cat(parts) for parts in zip(*answers, strict=True)]


@pytest.mark.parametrize("variant", ["bprmf", "sasrec"])
def test_a_state_whose_items_are_all_masked_has_no_probabilities_and_no_gradient(variant):
    model = build(variant).double().eval()
    queries = states(model, mask=False)
    every = torch.arange(N_ITEMS)
    queries = replace(queries, seen=Seen(torch.ones_like(every), every))

    def others(block, reference):
        """Return the loss without the log-probabilities of state 1, which are -inf."""
        items = torch.tensor([0, 4]).expand(len(block), -1)
        log_p = block.log_p_of(items)
        assert (log_p[1] == -torch.inf).all()
        kept = torch.arange(len(block)) != 1
        rest = block.expectation(VALUES) + block.entropies() + block.kl(reference)
        assert rest[1] == 0
        return log_p[kept].sum() + rest.square().sum()

    results = []
    for distribution in (POLICY.distribution, dense):
        total = distribution(model, queries).loss(others, distribution(model, queries))
        results.append([total.detach(), *gradients(model, total)])
    for blockwise, other in zip(*results, strict=True):
        assert blockwise.isfinite().all()
        assert torch.allclose(other, blockwise, atol=1e-9)
    (block,) = dense(model, queries).blocks()
    assert block.p[1].tolist() == [0] * N_ITEMS


@pytest.mark.parametrize("variant", TUNABLE_SCORERS)
@pytest.mark.parametrize("block_size", [5, 23])
def test_a_model_without_vectors_has_the_loss_and_gradient_of_the_plain_formula(
    variant, block_size
):
    model, reference = build(variant).double().eval(), reference_of(variant)
    model.scores_at_once = 3 * block_size
    queries = states(model, mask=True)
    loss = all_losses(N_ITEMS, queries, VALUES)
    new, old = dense(model, queries), dense(reference, queries)
    new.block_size = old.block_size = block_size
    total = new.loss(loss, old)
    expected = loss(*(PlainBlock(m, queries) for m in (model, reference)))
    assert torch.allclose(total, expected)
    for result, slope in zip(gradients(model, total), gradients(model, expected), strict=True):
        assert torch.allclose(result, slope, atol=1e-10)


class PlainBlock:
    """The formulas of the policy in one pass of autograd over all states."""

    which = slice(None)

    def __init__(self, model, queries):
        logits = model.score(queries) / POLICY.temperature
        logits = logits.index_put(queries.seen[:2], logits.new_tensor(-torch.inf))
        self.every = logits.log_softmax(dim=1)
        self.finite = self.every.masked_fill(logits == -torch.inf, 0)

    def __len__(self):
        return len(self.every)

    def log_p_of(self, items):
        return self.every.gather(1, items)

    def log_p(self, states, items):
        return self.every[states, items]

    def expectation(self, values):
        return self.every.exp() @ values

    def entropies(self):
        return -(self.every.exp() * self.finite).sum(dim=1)

    def mean_log_p(self):
        return self.finite.sum(dim=1) / (self.every > -torch.inf).sum(dim=1)

    def kl(self, other):
        return (self.every.exp() * (self.finite - other.finite.detach())).sum(dim=1)


@pytest.mark.parametrize(("variant", "chunk"), [("neumf", N_ITEMS), (ATTENTION, 3), ("sasrec", 3)])
def test_both_passes_and_all_chunks_have_the_dropout_masks_of_the_seed(variant, chunk):
    model = build(variant).double().train()
    model.scores_at_once = 23 * chunk  # only NeuMF drops elements of tensors of items
    queries = states(model, mask=True)
    loss = all_losses(N_ITEMS, queries, VALUES)
    reference = dense(reference_of(variant), queries)
    results = []
    for seed in (1, 1, 2):
        total = dense(model, queries, dropout_seed=seed).loss(loss, reference)
        results.append([total.detach(), *gradients(model, total)])
    torch.manual_seed(1)
    expected = loss(PlainBlock(model, queries), PlainBlock(reference.model, queries))
    expected = [expected.detach(), *gradients(model, expected)]
    for first, again, plain in zip(*results[:2], expected, strict=True):
        assert torch.equal(first, again)
        assert torch.allclose(first, plain, atol=1e-10)
    assert results[2][0] != results[0][0]


def test_without_a_seed_each_policy_has_dropout_masks_of_its_own():
    model = build("neumf").train()
    queries = states(model, mask=False)
    torch.manual_seed(4)
    first, second = (next(dense(model, queries).blocks()).p for _ in range(2))
    torch.manual_seed(4)
    again = next(dense(model, queries).blocks()).p
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_a_policy_in_evaluation_mode_leaves_the_global_random_state_alone():
    model = build("neumf").eval()
    queries = states(model, mask=False)
    before = torch.get_rng_state()
    distribution = dense(model, queries, dropout_seed=3)
    distribution.loss(lambda block: block.log_p_of(torch.zeros(23, 1).long()).sum()).backward()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loss_is_called_once_for_each_block_and_may_be_constant():
    model = build("neumf").eval()
    distribution = dense(model, states(model, mask=False))
    distribution.block_size = 5
    sizes = []

    def constant(block):
        sizes.append(len(block))
        return torch.tensor(float(len(block)))

    total = distribution.loss(constant)
    assert total == 23
    assert sizes == [5, 5, 5, 5, 3]
    assert all(gradient.abs().sum() == 0 for gradient in gradients(model, total))


def test_the_loss_of_no_states_is_zero_with_gradient_zero():
    model = build("neumf").eval()
    total = dense(model, states(model, mask=True).select(slice(0, 0))).loss(lambda block: 1 / 0)
    assert total == 0
    assert all(gradient.abs().sum() == 0 for gradient in gradients(model, total))


def test_only_the_trained_weights_get_gradients():
    model = build("neumf").eval()
    model.requires_grad_(False)
    queries = states(model, mask=False)

    def loss(block):
        return block.entropies().sum()

    assert not dense(model, queries).loss(loss).requires_grad
    model.gmf_items.weight.requires_grad_(True)
    dense(model, queries).loss(loss).backward()
    assert model.gmf_items.weight.grad.abs().sum() > 0
    assert model.mlp_items.weight.grad is None


def test_blocks_leave_the_gradient_mode_of_the_caller_alone():
    model = build("neumf").eval()
    for block in dense(model, states(model, mask=False)).blocks():
        assert torch.is_grad_enabled()
        assert not block.p.requires_grad


def test_the_logits_of_a_block_and_the_scores_of_a_call_are_bounded(monkeypatch):
    monkeypatch.setattr(dense_softmax, "_LOGITS", 4 * N_ITEMS + 3)
    model, sizes, score = build("neumf").eval(), [], NeuMF.score
    model.scores_at_once = 13

    def counted(self, queries, items=None):
        result = score(self, queries, items)
        sizes.append(result.numel())
        return result

    monkeypatch.setattr(NeuMF, "score", counted)
    distribution = dense(model, states(model, mask=False))
    assert [len(block) for block in distribution.blocks()] == [4, 4, 4, 4, 4, 3]
    distribution.loss(lambda block: block.entropies().sum())
    assert max(sizes) <= 13
    assert sum(sizes) == 3 * 23 * N_ITEMS  # blocks(), and two passes of the loss
