"""Imitation of re-ranked lists."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from estimating import (
    ITEMS,
    VectorModel,
    algorithm_loss,
    make_algorithm,
    make_batch,
    minimise,
    vectors,
)

from recoach.data.dataset import RaggedArray
from recoach.data.queries import Seen
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.models.base import Embeddings
from recoach.models.registry import build_model
from recoach.rerank.candidates import Candidates
from recoach.rerank.config import RerankConfig
from recoach.rerank.features import ItemFeatures
from recoach.rerank.registry import build_reranker
from recoach.training.algorithms.imitation import ImitationConfig
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from recoach.training.trainer import RLTrainer
from toy_logs import cycle

SMALL = leave_last_out(cycle(ITEMS, ITEMS, length=5))
SMALL_TABLE = pl.DataFrame({"item_id": SMALL.item_ids, "category": list("aaabbb")})
SMALL = replace(SMALL, item_table=SMALL_TABLE)
DATASET = leave_last_out(cycle(24, 12, length=7))
TABLE = pl.DataFrame({"item_id": DATASET.item_ids, "category": list("aaaabbbbcccc")})
DATASET = replace(DATASET, item_table=TABLE)
ENCODER = {"dim": 8, "layers": 1, "heads": 2, "inner_dim": 16, "max_length": 6}
SEEN = Seen(torch.tensor([0, 2]), torch.tensor([3, 1]))
MMR = {"by": "mmr", "knob": 0.4}


def imitation(given, **settings):
    model = VectorModel(given, history_length=4)
    return make_algorithm("imitation", model, SMALL, **{"rerank": MMR, "list_length": 3} | settings)


def test_the_loss_is_the_plackett_luce_likelihood_of_the_lists_without_masked_items():
    given, batch = vectors(3), make_batch([(0, 0, 1.0)], 3, SEEN)
    algorithm = imitation(given)
    lists, loss, _ = algorithm_loss(algorithm, batch)
    assert 3 not in lists[0]
    assert 1 not in lists[2]
    logits = given.users @ given.items.T / 0.7
    logits = logits.index_put((SEEN.states, SEEN.items), logits.new_tensor(-torch.inf))
    expected = 0
    for state in range(3):
        left = logits[state].clone()
        for item in lists[state].tolist():
            expected = expected - left.log_softmax(dim=0)[item]
            left = left.index_fill(0, torch.tensor([item]), -torch.inf)
    assert loss.item() == pytest.approx(expected.item() / 3, rel=1e-5)
    found = torch.autograd.grad(loss, algorithm.model.given)
    for ours, formula in zip(found, torch.autograd.grad(expected / 3, given), strict=True):
        assert torch.allclose(ours, formula, rtol=1e-4, atol=1e-6)


def test_lists_shorter_than_asked_for_end_early():
    seen = Seen(torch.zeros(4).long(), torch.tensor([0, 1, 2, 4]))
    lists, loss, _ = algorithm_loss(imitation(vectors(1)), make_batch([(0, 3, 1.0)], 1, seen))
    assert sorted(lists[0, :2].tolist()) == [3, 5]
    assert lists[0, 2] == -1
    assert torch.isfinite(loss)


def trained():
    model = build_model("sasrec", DATASET, **ENCODER, seed=1)
    pretrain(model, DATASET, PretrainConfig(batch_size=64, epochs=4, learning_rate=1e-2))
    return model


@pytest.fixture(scope="module")
def base():
    return trained().state_dict()


def tuned(base, folder=None, callback=None, dataset=DATASET, **settings):
    model = build_model("sasrec", DATASET, **ENCODER, seed=1)
    model.load_state_dict(base)
    args = ImitationConfig(
        **{"batch_size": 64, "learning_rate": 1e-2, "epochs": 12, "list_length": 4} | settings
    )
    context = RunContext(folder=folder, resume=True, callback=callback or Callback())
    RLTrainer(model, args=args, train_dataset=dataset, context=context).train()
    return model


def test_the_fixed_point_serves_the_re_ranked_lists():
    generator = torch.Generator().manual_seed(0)
    given = Embeddings(torch.randn(4, ITEMS, generator=generator), torch.eye(ITEMS))
    algorithm = imitation(given, rerank={"by": "mmr", "knob": 0.8})
    batch = make_batch([(0, 0, 1.0)], 4)
    lists, _, _ = algorithm_loss(algorithm, batch)
    own = (algorithm.model.users @ algorithm.model.items.T).topk(3).indices
    assert (lists != own).any(dim=1).sum() >= 2  # the teacher changes the lists
    minimise(algorithm, batch, 400, 0.1, [algorithm.model.users])
    learned = (algorithm.model.users @ algorithm.model.items.T).topk(3).indices
    assert torch.equal(learned, lists)


def row_of(history):
    return RaggedArray.from_lengths(np.array([len(history)]), np.array(history, dtype=np.int32))


def test_the_teacher_reads_the_histories_of_the_states(base):
    model = build_model("sasrec", DATASET, **ENCODER, seed=1)
    model.load_state_dict(base)
    config = RerankConfig(by="calibration", knob=0.9)
    args = ImitationConfig(rerank=config, list_length=4, batch_size=64)
    trainer = RLTrainer(model, args=args, train_dataset=DATASET)
    batch = next(trainer.epoch(torch.Generator().manual_seed(0)))
    lists = trainer.algorithm.prepare(batch, torch.Generator())
    features = ItemFeatures(DATASET, model)
    for state in range(5):
        row = batch.queries.rows[state]
        history = batch.queries.history[row, : batch.queries.ends[state]].tolist()
        seen = set(history)
        scores = model.eval().score(batch.queries)[state].detach()
        scores[list(seen)] = -torch.inf
        order = scores.argsort(descending=True)[: DATASET.n_items - len(seen)]
        profiles = features.profiles(row_of(history))
        candidates = Candidates(order[None], scores[order][None], profiles)
        expected = build_reranker(config, features)(candidates, 4).items[0]
        assert lists[state].tolist() == expected.tolist()


class StopsAfter(Callback):
    def __init__(self, step):
        self.last, self.step = step, 0

    def on_step(self, step, logs):
        del logs
        self.step = step

    def stops(self):
        return self.step >= self.last


def test_a_resumed_imitation_has_the_same_teacher(base, tmp_path):
    # Without categories the base's item vectors tell which items are similar.
    settings = {"epochs": 3, "rerank": MMR, "dataset": replace(DATASET, item_table=None)}
    whole = tuned(base, tmp_path / "a", **settings)
    tuned(base, tmp_path / "b", StopsAfter(4), **settings)
    resumed = tuned(base, tmp_path / "b", **settings)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rerank": {"by": "popularity", "knob": 1.0}}, "needs no imitation"),
        ({"reward_smoothing": 0.3}, "reward_smoothing has no effect"),
        ({"list_length": 200}, "larger than rerank.depth"),
        ({"start": "scratch"}, "rerank compares the policy with the base"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ImitationConfig(**settings)


def test_without_a_dataset_it_says_what_is_missing():
    with pytest.raises(ConfigError, match="needs the dataset"):
        make_algorithm("imitation", VectorModel(vectors(1)), rerank=MMR)
