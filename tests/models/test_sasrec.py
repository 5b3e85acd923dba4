import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from recoach.data.batches import StateBatches
from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries
from recoach.data.split import leave_last_out
from recoach.models.base import TrainingBatch, draw_negatives, interaction_keys
from recoach.models.registry import build_model
from recoach.models.sequence.sasrec import SASRec, SASRecConfig
from recoach.models.sequence.transformer import EncoderConfig, SequenceEncoder, _Dropout
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from toy_logs import cycle

N_ITEMS = 12
ARCHITECTURES = ["recbole", "original", "ligr", "hstu"]
POSITIONS = ["from_start", "from_end"]
DATASET = leave_last_out(cycle(16, N_ITEMS, length=7))
SMALL = {"dim": 8, "layers": 2, "heads": 2, "inner_dim": 16, "max_length": 6}


def sasrec(**settings):
    model = build_model("sasrec", DATASET, **SMALL | settings)
    with torch.no_grad():  # biases and norms start at 0 and 1, where errors would not show
        generator = torch.Generator().manual_seed(5)
        for parameter in model.encoder.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def make_queries(rows, width=0):
    """Return one state after each of the histories, padded to at least `width`."""
    lengths = torch.tensor([len(row) for row in rows])
    width = max(width, int(lengths.max()))
    padded = [row + [N_ITEMS] * (width - len(row)) for row in rows]
    history = torch.tensor(padded, dtype=torch.int64)
    users = torch.arange(len(rows))
    return Queries(users, history, lengths, users, lengths)


def make_encoder(architecture, position="from_start", **changes):
    settings = SMALL | {"architecture": architecture, "position": position, "dropout": 0.0}
    model = SequenceEncoder(EncoderConfig(**settings | changes)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.5 * noise)
    return model


def random_vectors(rows, length, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, length, 8, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("position", POSITIONS)
def test_states_do_not_depend_on_later_items(architecture, position):
    model, before = make_encoder(architecture, position), random_vectors(1, 6)
    after = before.clone()
    after[:, 3] += torch.arange(8)
    lengths = torch.tensor([6])
    old, new = model(before, lengths), model(after, lengths)
    assert torch.equal(old[:, :3], new[:, :3])
    assert ((old[:, 3:] - new[:, 3:]).abs().amax(dim=2) > 1e-6).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("position", POSITIONS)
def test_states_do_not_depend_on_padding(architecture, position):
    model = sasrec(architecture=architecture, position=position).eval()
    rows = [[1, 2, 3], [4, 0], [7]]
    short, wide = (model.embed(make_queries(rows, width)).users for width in (0, 6))
    assert torch.allclose(short, wide, atol=1e-5)


def test_a_state_without_history_is_zero():
    model = sasrec().eval()
    assert model.embed(make_queries([[1], []])).users[1].tolist() == [0] * 8
    assert model.embed(make_queries([[], []])).users.abs().sum() == 0


@pytest.mark.parametrize("position", POSITIONS)
def test_states_do_not_depend_on_the_rows_they_are_encoded_with(position, monkeypatch):
    model = sasrec(position=position, max_length=50).eval()
    rng = np.random.default_rng(0)
    rows = [rng.integers(N_ITEMS, size=n).tolist() for n in (3, 40, 0, 8, 9, 1, 17, 16, 2, 2, 1)]
    widths = []
    monkeypatch.setattr(model.encoder, "forward", _recorded(model.encoder.forward, widths))
    states = model.embed(make_queries(rows)).users
    assert widths == [8, 16, 32, 40]
    for row, state in zip(rows, states, strict=True):
        assert torch.allclose(model.embed(make_queries([row])).users[0], state, atol=1e-5)


def _recorded(forward, widths):
    """Return `forward` that appends the width of its input to `widths`."""

    def record(vectors, lengths):
        widths.append(vectors.shape[1])
        return forward(vectors, lengths)

    return record


def test_the_published_size_has_the_published_number_of_parameters():
    train = RaggedArray(np.array([0, 1]), np.array([0], dtype=np.int32))
    model = SASRec(SASRecConfig(), train, 12_101)
    assert sum(parameter.numel() for parameter in model.parameters()) == 877_824


def test_item_embeddings_are_tied():
    model = sasrec().eval()
    items = model.embed(make_queries([[1]])).items
    assert items.data_ptr() == model.items.weight.data_ptr()
    assert [p.shape[0] for p in model.parameters()].count(N_ITEMS + 1) == 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_states_of_a_shared_row_equal_states_of_separate_rows(architecture):
    model = sasrec(architecture=architecture).eval()
    states = []
    for rows in ("all_positions", "prefix"):
        source = StateBatches(
            DATASET.train, n_items=N_ITEMS, history_length=6, batch_size=999, rows=rows
        )
        (batch,) = source.epoch(torch.Generator().manual_seed(0))
        order = batch.positions.argsort()
        states.append(model.embed(batch.queries).users[order])
    assert len(states[0]) == 16 * 4
    assert torch.allclose(*states, atol=1e-5)


def test_positions_are_numbered_from_the_start_or_to_the_end():
    with_start, with_end = (
        make_encoder("recbole", "from_start"),
        make_encoder("recbole", "from_end"),
    )
    lengths = torch.tensor([2])
    for model, unused, used in ((with_start, 5, 0), (with_end, 0, 5)):
        old = model(random_vectors(1, 2), lengths)
        with torch.no_grad():
            model.position[unused] += torch.arange(8)
        assert torch.equal(model(random_vectors(1, 2), lengths), old)
        with torch.no_grad():
            model.position[used] += torch.arange(8)
        assert not torch.allclose(model(random_vectors(1, 2), lengths), old)


def test_a_history_of_maximum_length_has_the_same_positions_either_way():
    states = [
        make_encoder("original", position)(random_vectors(2, 6), torch.tensor([6, 6]))
        for position in POSITIONS
    ]
    assert torch.equal(*states)


def naive_attention(block, query_states, states):
    """Compute causal attention in a loop over positions and heads."""
    attention, width = block.attention, 4
    q, k, v = attention.query(query_states), attention.key(states), attention.value(states)
    out = torch.zeros_like(query_states)
    for t in range(len(query_states)):
        for head in (slice(0, width), slice(width, 2 * width)):
            scores = torch.stack([q[t, head] @ k[s, head] for s in range(t + 1)]) / math.sqrt(width)
            out[t, head] = sum(w * v[s, head] for s, w in enumerate(scores.softmax(0)))
    return out


def naive_norm(norm, x):
    deviation = ((x - x.mean(-1, keepdim=True)) ** 2).mean(-1, keepdim=True).sqrt()
    return (x - x.mean(-1, keepdim=True)) / deviation * norm.weight + norm.bias


def test_the_original_block_equals_the_formulas_of_the_paper():
    model, row = make_encoder("original"), random_vectors(1, 5)
    x = row[0] * math.sqrt(8) + model.position[:5]
    for block in model.blocks:
        normalised = naive_norm(block.attention_norm, x)
        x = naive_norm(block.forward_norm, normalised + naive_attention(block, normalised, x))
        x = x + block.down(torch.relu(block.up(x)))
    assert torch.allclose(model(row, torch.tensor([5]))[0], naive_norm(model.norm, x), atol=1e-6)


def test_the_recbole_block_equals_the_formulas_of_bert():
    model, row = make_encoder("recbole"), random_vectors(1, 5)
    x = naive_norm(model.norm, row[0] + model.position[:5])
    for block in model.blocks:
        attended = block.output(naive_attention(block, x, x))
        x = naive_norm(block.attention_norm, x + attended)
        hidden = block.up(x)
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        x = naive_norm(block.forward_norm, x + block.down(hidden))
    assert torch.allclose(model(row, torch.tensor([5]))[0], x, atol=1e-6)


def test_the_ligr_block_equals_the_formulas_of_the_paper():
    model, row = make_encoder("ligr"), random_vectors(1, 5)
    x = row[0] + model.position[:5]
    for block in model.blocks:
        normalised = naive_norm(block.attention_norm, x)
        attended = block.output(naive_attention(block, normalised, normalised))
        x = x + naive_sigmoid(block.attention_gate(x)) * attended
        normalised = naive_norm(block.forward_norm, x)
        opened = block.activation(normalised)
        hidden = block.down(opened * naive_sigmoid(opened) * block.up(normalised))
        x = x + naive_sigmoid(block.forward_gate(x)) * hidden
    assert torch.allclose(model(row, torch.tensor([5]))[0], naive_norm(model.norm, x), atol=1e-4)


def naive_sigmoid(x):
    return 1 / (1 + (-x).exp())


def test_a_ligr_block_of_two_dimensions_computed_by_hand():
    config = EncoderConfig(dim=2, layers=1, heads=1, inner_dim=1, architecture="ligr", dropout=0)
    model = SequenceEncoder(config)
    (block,) = model.blocks
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for norm in (block.attention_norm, block.forward_norm):
            norm.weight.fill_(1)
        block.attention.value.weight.copy_(torch.eye(2))  # the attention returns LN(x) = (1, -1)
        block.output.weight.copy_(2 * torch.eye(2))
        block.forward_gate.bias.copy_(torch.tensor([0.0, 100.0]))
        block.activation.weight.copy_(torch.tensor([[1.0, 0.0]]))
        block.up.weight.copy_(torch.tensor([[0.0, 3.0]]))
        block.down.weight.copy_(torch.tensor([[1.0], [10.0]]))
    state = block(torch.tensor([[[3.0, 1.0]]]))[0, 0]
    # x = (3, 1), half of 2 (1, -1) is added: (4, 0), whose norm is (1, -1) again. SwiGLU:
    # silu(1) * -3 = -2.193176; half of it is added to the first, ten times it to the second.
    assert state.tolist() == pytest.approx([4 - 2.193176 / 2, -21.93176], abs=1e-3)


def test_the_hstu_block_equals_the_formulas_of_the_paper():
    model, row = make_encoder("hstu"), random_vectors(1, 5)
    x = row[0] * math.sqrt(8) + model.position[:5]
    for block in model.blocks:
        u, v, q, k = naive_silu(block.projection(naive_norm(block.norm, x))).split(8, dim=1)
        attended = torch.zeros_like(x)
        for t in range(5):
            for s in range(t + 1):
                for head in (slice(0, 4), slice(4, 8)):
                    weight = naive_silu(q[t, head] @ k[s, head] + block.distance_bias[t - s])
                    attended[t, head] += weight / 6 * v[s, head]
        mean = attended.mean(dim=1, keepdim=True)
        variance = ((attended - mean) ** 2).mean(dim=1, keepdim=True)
        x = x + block.output(u * (attended - mean) / (variance + 1e-6).sqrt())
    assert torch.allclose(model(row, torch.tensor([5]))[0], naive_norm(model.norm, x), atol=1e-4)


def naive_silu(x):
    return x * naive_sigmoid(x)


def test_an_hstu_block_of_two_dimensions_computed_by_hand():
    config = EncoderConfig(dim=2, heads=1, max_length=4, architecture="hstu", dropout=0)
    block = SequenceEncoder(config).blocks[0]
    with torch.no_grad():
        # norm(x) = (1, -1) for both positions; U = silu(1, 2), V = silu(1, -1), Q = K = silu(0).
        rows = [[1, 0], [0, -2], [1, 0], [0, 1], [0, 0], [0, 0], [0, 0], [0, 0]]
        block.projection.weight.copy_(torch.tensor(rows, dtype=torch.float32))
        block.distance_bias.copy_(torch.tensor([1.0, 2.0, 0.0, 0.0]))
        block.output.weight.copy_(torch.eye(2))
        block.output.bias.copy_(torch.tensor([10.0, 20.0]))
    first, second = block(torch.tensor([[[3.0, 1.0], [5.0, 3.0]]]))[0]
    # V is the same at both positions, so that A V is a positive multiple of it, with the norm
    # (1, -1): x + silu(1, 2) * (1, -1) + b'. Its deviation is large against epsilon.
    assert first.tolist() == pytest.approx([3 + 0.731059 + 10, 1 - 1.761594 + 20], abs=1e-3)
    assert second.tolist() == pytest.approx([5 + 0.731059 + 10, 3 - 1.761594 + 20], abs=1e-3)


@pytest.mark.parametrize("loss", ["ce", "bce", "sampled_ce"])
def test_the_padding_embedding_stays_zero_in_training(loss):
    model = build_model("sasrec", DATASET, **SMALL, loss=loss)
    initial = model.items.weight.detach().clone()
    pretrain(model, DATASET, PretrainConfig(max_steps=3, batch_size=16, weight_decay=0.1))
    assert model.items.weight[N_ITEMS].tolist() == [0] * 8
    assert not torch.equal(model.items.weight, initial)


def test_the_softmax_loss_is_over_all_items_without_the_padding():
    model = sasrec(dropout=0.0)
    source = StateBatches(DATASET.train, n_items=N_ITEMS, history_length=6, batch_size=20)
    batch = next(source.epoch(torch.Generator().manual_seed(0)))
    scores = model.score(batch.queries)
    assert scores.shape[1] == N_ITEMS
    loss = model.loss(TrainingBatch(states=batch), torch.Generator())
    assert loss.item() == pytest.approx(
        functional.cross_entropy(scores, batch.targets).item(), rel=1e-5
    )


@pytest.mark.parametrize("loss", ["bce", "sampled_ce"])
def test_sampled_losses_compare_the_target_with_drawn_negatives(loss):
    model = sasrec(dropout=0.0, loss=loss, negatives=3)
    source = StateBatches(DATASET.train, n_items=N_ITEMS, history_length=6, batch_size=20)
    batch = next(source.epoch(torch.Generator().manual_seed(0)))
    users = batch.queries.state_users
    generator = torch.Generator().manual_seed(1)
    negative_ids = draw_negatives(model.train_pairs, users, N_ITEMS, 3, generator)
    scores = model.score(batch.queries)
    positive, negative = scores.gather(1, batch.targets[:, None]), scores.gather(1, negative_ids)
    softmax = -torch.cat([positive, negative], dim=1).log_softmax(dim=1)[:, 0]
    logistic = functional.softplus(-positive)[:, 0] + functional.softplus(negative).sum(dim=1)
    expected = (softmax if loss == "sampled_ce" else logistic).mean().item()
    result = model.loss(TrainingBatch(states=batch), torch.Generator().manual_seed(1))
    assert result.item() == pytest.approx(expected, rel=1e-5)


def test_negatives_cover_all_items_outside_the_training_history():
    train_pairs, users = interaction_keys(DATASET.train, N_ITEMS), torch.arange(16)
    generator = torch.Generator().manual_seed(0)
    negatives = draw_negatives(train_pairs, users, N_ITEMS, 200, generator)
    for user, row in enumerate(negatives.tolist()):
        assert set(row) == set(range(N_ITEMS)) - set(DATASET.train.row(user).tolist())


def test_dropout_has_its_rate_and_scale_and_is_off_in_evaluation():
    dropout, vectors = _Dropout(0.3), torch.ones(400, 500)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dropped = dropout(vectors)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.005)
    assert torch.allclose(dropped[dropped > 0], torch.tensor(1 / 0.7))
    assert dropout.eval()(vectors) is vectors
