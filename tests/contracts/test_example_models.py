"""The models of examples/ under the contract of models, as a user builds them: by import path."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from variants import DATASET, N_ITEMS

from pages import ROOT
from recoach import GRPOTrainer, build_model
from recoach.data.queries import histories, user_queries
from recoach.errors import ConfigError
from recoach.models.checkpoint import load_model
from recoach.training.algorithms.registry import ALGORITHMS
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext
from recoach.training.loop import save_trained
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain

SCORERS = {"neumf:build": {"dim": 8}, "cross_attention:build": {"dim": 8, "history_length": 4}}
EXAMPLES = {"two_towers:build": {"dim": 8, "n_words": 16}} | SCORERS
TITLES = [f"lamp {number % 3}" if number else None for number in range(N_ITEMS)]
ITEMS = pl.DataFrame({"item_id": DATASET.item_ids, "title": TITLES, "category": ["a", None] * 10})
DATA = replace(DATASET, item_table=ITEMS)
VECTORS_NEEDED = (
    "ppo",
    "sqn",
    "snqn",
    "sqn_actor_critic",
    "sa2c",
    "csa",
    "mcrl",
    "off_policy_actor_critic",
    "ufrec",
)
examples = pytest.mark.parametrize("name", EXAMPLES)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")


def built(name, **settings):
    return build_model(name, DATA, seed=2, **EXAMPLES[name] | settings)


def queries_of(model, users):
    past = histories(DATA, "test")
    return user_queries(past, np.array(users), model.history_length, N_ITEMS, mask_seen=False)


@examples
def test_scores_of_candidates_are_columns_of_the_scores_of_the_catalogue(name):
    model = built(name).eval()
    queries = queries_of(model, [3, 0, 7])
    scores = model.score(queries)
    assert scores.shape == (3, N_ITEMS)
    for items in (torch.tensor([5, 0, 19, 5]), torch.tensor([[5, 0], [1, 1], [19, 2]])):
        expected = scores.gather(1, items.expand(3, -1))
        assert torch.allclose(model.score(queries, items), expected, atol=1e-6)


@examples
def test_scores_of_a_user_do_not_depend_on_the_others(name):
    model = built(name).eval()
    together = model.score(queries_of(model, [3, 0, 7]))
    for row, user in enumerate([3, 0, 7]):
        alone = model.score(queries_of(model, [user]))
        assert torch.allclose(together[row], alone[0], atol=1e-6)


@examples
def test_a_user_without_a_number_and_without_a_history_has_finite_scores(name):
    model = built(name).eval()
    queries = queries_of(model, [3])
    unknown = replace(
        queries, users=torch.tensor([-1]), lengths=torch.tensor([0]), ends=torch.tensor([0])
    )
    assert torch.isfinite(model.score(unknown)).all()


@examples
def test_training_ranks_the_items_of_a_users_block_first_and_the_weights_load_again(name, tmp_path):
    model = built(name)
    config = PretrainConfig(epochs=12, batch_size=64, learning_rate=0.02, select="last")
    pretrain(model, DATA, config.model_copy(update={"eval_steps": 10**6}))
    save_trained(tmp_path, model, 0.5)
    loaded = load_model(tmp_path, DATA)
    queries = queries_of(model, [3, 0, 7])
    assert torch.equal(loaded.score(queries), model.eval().score(queries))
    targets = torch.from_numpy(DATA.train.values[DATA.train.offsets[[3, 0, 7]]].astype(np.int64))
    block = targets[:, None] % 2 == torch.arange(N_ITEMS) % 2  # users take items of their block
    scores = model.score(queries)
    assert scores[block].mean() > scores[~block].mean() + 0.5


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_step(self, step, metrics):
        if step == self.step:
            raise KeyboardInterrupt


@examples
@pytest.mark.parametrize("kind", ["pretrain", "grpo"])
def test_an_interrupted_training_ends_with_the_bits_of_the_whole_one(name, kind, tmp_path):
    def train(folder, callback, *, resume=False):
        model = built(name)
        context = RunContext(folder=tmp_path / folder, seed=3, callback=callback, resume=resume)
        steps = {"max_steps": 6, "eval_steps": 2, "batch_size": 32, "select": "last"}
        if kind == "pretrain":
            pretrain(model, DATA, PretrainConfig(**steps), context)
        else:
            args = ALGORITHMS["grpo"].config(**steps, sft_coef=0.1)
            GRPOTrainer(model, args=args, train_dataset=DATA, context=context).train()
        return model.state_dict()

    expected = train("whole", Callback())
    with pytest.raises(KeyboardInterrupt):
        train("part", StopAt(5))
    resumed = train("part", Callback(), resume=True)
    start = built(name).state_dict()
    assert any(not torch.equal(start[key], weights) for key, weights in expected.items())
    for key, weights in expected.items():
        assert torch.equal(resumed[key], weights), key


@examples
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_that_a_model_allows_tunes_it(name, algorithm):
    settings = {"max_steps": 2, "batch_size": 32, "select": "last"}
    if "num_generations" in ALGORITHMS[algorithm].config.model_fields:
        settings["num_generations"] = 4
    args = ALGORITHMS[algorithm].config(**settings)
    model = built(name)
    if name in SCORERS and algorithm in VECTORS_NEEDED:
        with pytest.raises(ConfigError, match=rf"algorithm '{algorithm}' needs a vector for each"):
            GRPOTrainer(model, args=args, train_dataset=DATA)
        return
    assert GRPOTrainer(model, args=args, train_dataset=DATA).train().steps == 2
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())


def test_the_towers_need_a_table_of_items():
    with pytest.raises(ConfigError, match=r"two_towers.py:\d+: set data.items to a table of items"):
        build_model("two_towers:build", DATASET)
