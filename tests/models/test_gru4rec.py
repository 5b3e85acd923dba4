import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from recoach.data.batches import Batch
from recoach.data.queries import Queries
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.models.base import TrainingBatch
from recoach.models.losses import bpr_max, cross_entropy, sampled_cross_entropy
from recoach.models.popularity_sampler import PopularitySampler
from recoach.models.registry import build_model
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext
from recoach.training.trainer import RLTrainer
from toy_logs import cycle

N_ITEMS = 5
DATASET = leave_last_out(cycle(6, N_ITEMS, length=4))
QUERIES = Queries(
    users=torch.tensor([0, 1]),
    history=torch.tensor([[0, 2, 1], [3, 5, 5]]),
    lengths=torch.tensor([3, 1]),
    rows=torch.tensor([0, 0, 0, 1, 1]),
    ends=torch.tensor([1, 2, 3, 1, 0]),
)
"""Three states of user 0, a state of user 1, and an empty history. Padding is 5."""
BATCH = Batch(
    replace(QUERIES, rows=torch.tensor([0, 0, 0, 1]), ends=torch.tensor([1, 2, 3, 1])),
    np.arange(4),
    torch.tensor([2, 1, 4, 2]),
)
"""The targets of user 0 are 2, 1, 4, that of user 1 is 2."""
INFINITY = torch.inf


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def elu(x, alpha):
    return x if x > 0 else alpha * (math.exp(x) - 1)


def gru4rec(dataset=DATASET, **settings):
    return build_model("gru4rec", dataset, **{"dim": 3, "dropout": 0.0} | settings, seed=1)


def scores_of(model):
    return model.score(BATCH.queries)


def numbers(seed=0):
    return torch.Generator().manual_seed(seed)


def loss_of(model, seed=0):
    return model.loss(TrainingBatch(states=BATCH), numbers(seed))


def test_the_original_state_is_that_of_a_gru_by_hand():
    model = gru4rec(dim=1, architecture="original")
    weights = {"weight_ih_l0": [0.5, -1, 2], "weight_hh_l0": [0.3, 0.7, -0.4]}
    weights |= {"bias_ih_l0": [0.1, 0.2, 0.3], "bias_hh_l0": [-0.1, 0.4, 0.6]}
    items = [0.5, -2, 1.5, 3, 0.25, 0]
    values = {f"encoder.gru.{name}": torch.tensor(value) for name, value in weights.items()}
    values = {key: v[:, None] if "weight" in key else v for key, v in values.items()}
    model.load_state_dict(values | {"items.weight": torch.tensor(items)[:, None]})
    states, state = [], 0.0
    for item in (0, 2, 1):
        x = items[item]
        reset = sigmoid(0.5 * x + 0.1 + 0.3 * state - 0.1)
        update = sigmoid(-1 * x + 0.2 + 0.7 * state + 0.4)
        new = math.tanh(2 * x + 0.3 + reset * (-0.4 * state + 0.6))  # reset after the product
        state = (1 - update) * new + update * state
        states.append(state)
    expected = torch.tensor(states)[:, None] * torch.tensor(items[:5])
    assert torch.allclose(model.eval().score(QUERIES)[:3], expected, atol=1e-6)


def test_the_original_weights_are_as_large_as_those_of_the_authors():
    model = gru4rec(dim=50, architecture="original", layers=2)
    scale = math.sqrt(6 / 100)  # each gate is a matrix of 50 x 50
    for name, weight in model.encoder.gru.named_parameters():
        if "bias" in name:
            assert not weight.any()
        else:
            assert weight.shape == (150, 50)
            assert 0.95 * scale < weight.abs().max() <= scale


def test_items_are_read_by_their_own_table_where_embeddings_are_not_constrained():
    model = gru4rec(constrained_embedding=False).eval()
    before = scores_of(model)
    with torch.no_grad():
        model.items.weight.mul_(2)
        assert torch.allclose(scores_of(model), 2 * before)
        model.input_items.weight.mul_(2)
    assert not torch.allclose(scores_of(model), 2 * before)
    assert not model.input_items.weight[N_ITEMS].any()
    tied = gru4rec()
    assert tied.input_items is None
    assert len(tied.parameter_groups()["item"]) == 1
    assert len(model.parameter_groups()["item"]) == 2


def test_the_bias_of_an_item_is_added_to_its_scores():
    model = gru4rec(item_bias=True).eval()
    before = model.score(QUERIES)
    assert not before[4].any()
    bias = torch.tensor([3.0, -1, 0, 2, 0.5])
    with torch.no_grad():
        model.bias.copy_(bias[:, None])
    assert torch.allclose(model.score(QUERIES), before + bias)
    assert any(p is model.bias for p in model.parameter_groups()["item"])


def test_only_a_single_table_and_the_whole_softmax_can_be_sharded():
    assert gru4rec().shardable
    for settings in ({"item_bias": True}, {"constrained_embedding": False}, {"loss": "bpr_max"}):
        assert not gru4rec(**settings).shardable


def test_hidden_dropout_doubles_or_drops_the_states_in_training():
    model = gru4rec(dim=64, architecture="original", hidden_dropout=0.5)
    whole = model.eval().embed(QUERIES).users[:4]
    dropped = model.train().embed(QUERIES).users[:4]
    kept = dropped != 0
    assert 0.3 < kept.float().mean() < 0.7
    assert torch.allclose(dropped[kept], 2 * whole[kept])


def test_bpr_max_by_hand():
    positive, negative = torch.tensor([1.0, -0.5]), torch.tensor([[0.5, -1, 2], [0.25, 3, -2]])
    negative[1, 1] = -INFINITY
    expected = []
    for r, others in ((1, [0.5, -1, 2]), (-0.5, [0.25, -2])):
        total = sum(math.exp(n) for n in others)
        weights = [math.exp(n) / total for n in others]
        wins = sum(w * sigmoid(r - n) for w, n in zip(weights, others, strict=True))
        squares = sum(w * n * n for w, n in zip(weights, others, strict=True))
        expected.append(-math.log(wins) + 0.7 * squares)
    loss = bpr_max(positive, negative, 0.7)
    assert loss.item() == pytest.approx(sum(expected) / 2, rel=1e-6)


def test_what_bpr_max_leaves_out_has_no_gradient():
    positive = torch.tensor([1.0, 2], requires_grad=True)
    scores = torch.tensor([[1.0, 0, -3], [2, 5, 1]], requires_grad=True)
    own = torch.tensor([[True, False, False], [True, False, False]])
    bpr_max(positive, scores.masked_fill(own, -INFINITY), 1.0).backward()
    assert scores.grad[:, 0].tolist() == [0, 0]
    assert scores.grad[:, 1:].all()
    assert (positive.grad < 0).all()


def test_the_gradient_of_bpr_max_is_finite_where_no_negative_is_beaten():
    positive = torch.tensor([-500.0], requires_grad=True)
    loss = bpr_max(positive, torch.tensor([[500.0, 400]]), 0.0)
    loss.backward()
    # The weights are 1 and e^-100, the sigmoids e^-1000 and e^-900.
    assert loss.item() == pytest.approx(1000 - math.log(2))
    assert positive.grad.item() == pytest.approx(-1, abs=1e-3)


def test_cross_entropy_over_all_items_drawn_once_is_that_over_the_catalogue():
    users, items = torch.randn(4, 3, generator=numbers()), torch.randn(6, 3, generator=numbers(1))
    targets = torch.tensor([5, 0, 2, 2])
    scores = users @ items.T
    others = scores.masked_fill(functional.one_hot(targets, 6).bool(), -INFINITY)
    loss = sampled_cross_entropy(scores[torch.arange(4), targets], others)
    assert loss.item() == pytest.approx(cross_entropy(users, items, targets).item(), rel=1e-6)


@pytest.mark.parametrize("loss", [sampled_cross_entropy, lambda r, n: bpr_max(r, n, 0.7)])
def test_the_gradients_of_the_authors_losses_are_their_differences(loss):
    positive, negative = (
        torch.randn(*shape, generator=numbers(), dtype=torch.float64).requires_grad_()
        for shape in ((3,), (3, 4))
    )
    left_out = torch.tensor([[0, 0, 0, 1], [1, 0, 1, 0], [0, 0, 0, 0]]).bool()

    def of_scores(r, n):
        return loss(r, n.masked_fill(left_out, -INFINITY))

    assert torch.autograd.gradcheck(of_scores, (positive, negative))


def draws(monkeypatch, items):
    """Replace the items that the sampler draws."""
    monkeypatch.setattr(PopularitySampler, "draw", lambda *_: torch.tensor(items))


def negatives_of(state, drawn):
    """Return the negatives of a state of the batch, those drawn last, by the rules of the loss."""
    users, targets = BATCH.queries.state_users.tolist(), BATCH.targets.tolist()
    pairs = zip(users, targets, strict=True)
    others = [t for u, t in pairs if u != users[state] and t != targets[state]]
    return others, [item for item in drawn if item != targets[state]]


@pytest.mark.parametrize("logq", [0.0, 0.6])
@pytest.mark.parametrize("item_bias", [False, True])
def test_sampled_cross_entropy_of_a_batch_by_hand(monkeypatch, logq, item_bias):
    model = gru4rec(loss="sampled_ce", logq=logq, sampling_alpha=0.5, item_bias=item_bias)
    if item_bias:
        torch.nn.init.normal_(model.bias, generator=numbers(2))
    counts = torch.tensor([1.0, 2, 4, 8, 1])
    for name, p in {"log_shares": counts, "log_p": counts.sqrt()}.items():
        getattr(model.sampler, name).copy_((p / p.sum()).log())
    drawn = [0, 2, 2, 3, 4]
    draws(monkeypatch, drawn)
    scores, targets = scores_of(model).tolist(), BATCH.targets.tolist()
    losses = []
    for state, target in enumerate(targets):
        row = scores[state]
        own = math.exp(row[target] - logq * math.log(counts[target] / 16))
        others, sampled = negatives_of(state, drawn)
        total = own + sum(math.exp(row[i] - logq * math.log(counts[i] / 16)) for i in others)
        mass = counts.sqrt().sum()
        total += sum(math.exp(row[i] - logq * math.log(counts[i].sqrt() / mass)) for i in sampled)
        losses.append(math.log(total / own))
    assert loss_of(model).item() == pytest.approx(sum(losses) / 4, rel=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_bpr_max_of_a_batch_by_hand(monkeypatch, alpha):
    model = gru4rec(loss="bpr_max", elu=alpha, bpreg=0.3)
    with torch.no_grad():
        model.items.weight.mul_(3)
    drawn = [0, 2, 3, 3]
    draws(monkeypatch, drawn)
    scores, losses = scores_of(model).tolist(), []
    assert min(min(row) for row in scores) < 0  # ELU changes something
    for state, target in enumerate(BATCH.targets.tolist()):
        row = [elu(score, alpha) if alpha else score for score in scores[state]]
        others, sampled = negatives_of(state, drawn)
        items = others + sampled
        total = sum(math.exp(row[i]) for i in items)
        wins = sum(math.exp(row[i]) / total * sigmoid(row[target] - row[i]) for i in items)
        squares = sum(math.exp(row[i]) / total * row[i] ** 2 for i in items)
        losses.append(-math.log(wins) + 0.3 * squares)
    assert loss_of(model).item() == pytest.approx(sum(losses) / 4, rel=1e-5)


def test_the_correction_changes_nothing_where_all_items_are_equally_frequent():
    equal = leave_last_out(cycle(5, N_ITEMS, length=5))  # each item occurs three times in train
    plain, corrected = (
        gru4rec(equal, loss="sampled_ce", negatives=7, logq=logq) for logq in (0.0, 1.0)
    )
    assert corrected.sampler.log_p.tolist() == pytest.approx([-math.log(N_ITEMS)] * N_ITEMS)
    assert loss_of(corrected).item() == pytest.approx(loss_of(plain).item(), rel=1e-5)


def test_the_corrected_loss_estimates_cross_entropy_over_all_items():
    model = gru4rec(loss="sampled_ce", negatives=400_000, sampling_alpha=0.5)
    counts = torch.tensor([1.0, 2, 4, 8, 1])
    model.sampler = skewed_sampler(counts.long().tolist(), 0.5)
    with torch.no_grad():
        model.items.weight.mul_(3)
    users, items = model.embed(BATCH.queries)
    shares = (counts / counts.sum()).log()[BATCH.targets].mean()
    # The negatives add up to their number times the sum over all items but the target.
    others = users @ items.T
    others[torch.arange(4), BATCH.targets] = -INFINITY
    positive = (users * items[BATCH.targets]).sum(dim=1)
    expected = (others.logsumexp(dim=1) - positive).mean() + math.log(400_000) + shares
    assert loss_of(model).item() == pytest.approx(expected.item(), abs=0.01)


def skewed_sampler(counts, alpha):
    train = DATASET.train
    values = np.repeat(np.arange(len(counts)), counts).astype(train.values.dtype)
    return PopularitySampler(replace(train, values=values, columns={}), len(counts), alpha)


@pytest.mark.parametrize(("alpha", "weights"), [(0, [1, 1, 1]), (0.5, [1, 2, 3]), (1, [1, 4, 9])])
def test_items_are_drawn_with_a_power_of_their_counts(alpha, weights):
    sampler = skewed_sampler([0, 4, 9], alpha)  # an item that is never seen counts once
    p = torch.tensor(weights) / sum(weights)
    assert torch.allclose(sampler.log_p.exp(), p)
    assert torch.allclose(sampler.log_shares.exp(), torch.tensor([1, 4, 9]) / 14)
    items = sampler.draw(20_000, numbers())
    assert torch.allclose(torch.bincount(items) / 20_000, p, atol=0.012)
    assert torch.equal(sampler.draw(20_000, numbers()), items)


class Ratios(Callback):
    def __init__(self):
        self.values = []

    def on_step(self, step, logs):
        self.values.append(logs["log_ratio/abs_mean"])


def test_the_policy_equals_its_copy_before_the_first_step():
    model = build_model(
        "gru4rec", DATASET, dropout=0.5, hidden_dropout=0.5, item_bias=True, loss="bpr_max"
    )
    args = GRPOConfig(
        estimator="sampled", loss_type="grpo", num_generations=4, batch_size=12, max_steps=2
    )
    ratios = Ratios()
    context = RunContext(callback=ratios)
    RLTrainer(model, None, args, train_dataset=DATASET, context=context).train()
    assert ratios.values[0] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"negatives": 5}, "negatives has no effect with loss 'ce'; it belongs to sampled_ce and"),
        ({"loss": "bpr_max", "logq": 0.5}, "logq has no effect with loss 'bpr_max'"),
        ({"loss": "sampled_ce", "elu": 0.5}, "elu has no effect with loss 'sampled_ce'"),
        ({"architecture": "original", "hidden_dim": 4}, "hidden_dim has no effect with archit"),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        gru4rec(**settings)
