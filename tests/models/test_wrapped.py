"""A user's own module, evaluated, fine-tuned and used for lists."""

import itertools

import pytest
import torch
from torch import nn

from recoach import recommend, wrap
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.evaluation.evaluator import evaluate
from recoach.experiments.trainer import GRPOTrainer
from recoach.training.algorithms.dqn import DQNConfig
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.ppo import PPOConfig
from recoach.training.algorithms.supervised_q import SQNActorCriticConfig
from recoach.training.context import RunContext
from toy_logs import cycle

N_ITEMS = 12
DATASET = leave_last_out(cycle(24, N_ITEMS, length=7))


class LastItem(nn.Module):
    """Two towers: one reads the last item, the other is a table."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Embedding(N_ITEMS + 1, 8)
        self.table = nn.Embedding(N_ITEMS, 8)


def last_of(module, users, histories):
    places = (histories != N_ITEMS).sum(dim=1) - 1
    return module.last(histories.gather(1, places.clamp(min=0)[:, None])[:, 0])


def table_of(module):
    return module.table.weight


def wrapped(module=None, **changes):
    functions = {"query": last_of, "items": table_of, "history_length": 5} | changes
    return wrap(module or LastItem(), DATASET, **functions)


def test_a_wrapped_module_is_tuned_and_recommends():
    module = LastItem()
    model = wrapped(module)
    before = evaluate(model, DATASET).means()["ndcg@10"]
    start = module.table.weight.detach().clone()
    args = GRPOConfig(max_steps=150, eval_steps=25, batch_size=48, learning_rate=0.05, patience=0)
    result = GRPOTrainer(model, "next", args, train_dataset=DATASET).train()
    assert not torch.equal(module.table.weight, start)
    assert result.best_value > before + 0.1
    assert evaluate(model, DATASET).means()["ndcg@10"] > before + 0.1
    lists = recommend(model, DATASET, ["u0000"], k=3)
    assert len(lists) == 3


def test_every_state_has_its_own_history_and_nothing_after_it():
    received = {}

    def query(module, users, histories):
        received.update(users=users, histories=histories)
        return last_of(module, users, histories)

    trainer = GRPOTrainer(
        wrapped(query=query), args=GRPOConfig(batch_size=500), train_dataset=DATASET
    )
    (work,) = trainer.epoch(torch.Generator())
    trainer.policy.embed(trainer.model, work.queries)
    for state in range(len(work.queries)):
        user = int(work.queries.state_users[state])
        end = int(work.queries.ends[state])
        history = [item for item in received["histories"][state].tolist() if item != N_ITEMS]
        assert int(received["users"][state]) == user
        assert history == DATASET.train.row(user)[:end].tolist()[-5:]


def test_the_reference_holds_a_copy_of_the_module():
    model = wrapped()
    trainer = GRPOTrainer(model, args=GRPOConfig(beta=1.0), train_dataset=DATASET)
    assert trainer.algorithm.reference.module is not model.module
    with torch.no_grad():
        model.module.table.weight.zero_()
    (work, *_) = trainer.epoch(torch.Generator())
    assert trainer.algorithm.reference.embed(work.queries).items.abs().sum() > 0


def score_of(module, users, histories, items):
    states = last_of(module, users, histories)[:, None]
    return (states * module.table(items)).sum(dim=2) + module.bias[items]


class Scores(LastItem):
    """The same towers with a bias of each item, called by a function of pairs."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.linspace(-1, 1, N_ITEMS))


def wrapped_scores(module=None, **changes):
    return wrap(module or Scores(), DATASET, **{"score": score_of, "history_length": 5} | changes)


def test_a_module_with_a_score_function_is_evaluated_tuned_and_recommends():
    module = Scores()
    model = wrapped_scores(module)
    before = evaluate(model, DATASET).means()["ndcg@10"]
    args = GRPOConfig(max_steps=100, eval_steps=25, batch_size=48, learning_rate=0.05, patience=0)
    GRPOTrainer(model, "next", args, train_dataset=DATASET).train()
    assert evaluate(model, DATASET).means()["ndcg@10"] > before + 0.1
    assert (module.bias != Scores().bias).any()
    assert len(recommend(model, DATASET, {"new": [DATASET.item_ids[0]]}, k=3)) == 3


def test_a_score_function_and_the_vectors_of_the_same_scores_agree():
    module = Scores()
    with torch.no_grad():
        module.bias.zero_()
    by_vectors, by_scores = wrapped(module), wrapped_scores(module)
    (queries, *_) = (
        batch.queries
        for batch in GRPOTrainer(
            by_scores, args=GRPOConfig(batch_size=500), train_dataset=DATASET
        ).epoch(torch.Generator())
    )
    for items in (None, torch.tensor([3, 1]), torch.randint(N_ITEMS, (len(queries), 2))):
        scores = by_scores.score(queries, items)
        assert torch.allclose(scores, by_vectors.score(queries, items), atol=1e-6)
    expected = evaluate(by_vectors, DATASET).ranks
    assert evaluate(by_scores, DATASET).ranks.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (
            lambda module, users, histories, items: module.bias[items],
            r"items of shape \(3,\), score returned shape \(3,\); it must be \[2, 3\]",
        ),
        (
            lambda module, users, histories, items: module.bias.expand(2, -1)[:, items.flatten()],
            r"items of shape \(2, 3\), score returned shape \(2, 6\); it must be \[2, 3\]",
        ),
    ],
)
def test_scores_of_other_shapes_are_refused(score, message):
    with pytest.raises(ConfigError, match=message):
        wrapped_scores(score=score)


@pytest.mark.parametrize(
    ("functions", "passed"),
    [
        ({}, "none"),
        ({"query": last_of}, "query="),
        ({"items": table_of}, "items="),
        ({"query": last_of, "score": score_of}, "query= and score="),
        (
            {"query": last_of, "items": table_of, "score": score_of},
            "query= and items= and score=",
        ),
    ],
)
def test_either_vectors_or_scores_are_given(functions, passed):
    with pytest.raises(ConfigError, match=rf"it got {passed}\. Pass query= and items="):
        wrap(Scores(), DATASET, **functions)


@pytest.mark.parametrize(
    "changes",
    [
        {"items": lambda module: module.last.weight},
        {"items": lambda module: module.table.weight[0]},
        {"query": lambda module, users, histories: module.last(users)[:, :5]},
    ],
)
def test_vectors_of_other_shapes_are_refused(changes):
    with pytest.raises(ConfigError, match=r"must be \[2, D\] and \[12, D\]"):
        wrapped(**changes)


def draw(users, generator=None):
    return torch.randint(1000, (len(users),), generator=generator).sum().float()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda m, u, h, targets, g: targets.float(), r"loss returned shape \(8,\); it must"),
        (lambda m, u, h, targets, g: targets.sum(), r"loss returned shape \(\); it must"),
        (lambda m, u, h, targets, g: 0.5, r"loss returned 0\.5; it must return a tensor"),
        (lambda m, u, h, targets, g: torch.tensor(torch.nan), "one item each, loss returned nan"),
        (
            lambda m, users, h, t, g: torch.tensor(float(next(NUMBERS))),
            r"returned 0 and then 1 with the same generator\. Draw",
        ),
    ],
)
def test_a_loss_that_cannot_train_is_refused(loss, message):
    with pytest.raises(ConfigError, match=message):
        wrapped(loss=loss)


NUMBERS = itertools.count()


def test_a_loss_receives_a_history_and_its_next_item():
    received = []

    def loss(module, users, histories, targets, generator):
        received.append((users, histories, targets))
        return (last_of(module, users, histories) * draw(users, generator)).mean()

    state = torch.get_rng_state()
    model = wrapped(loss=loss)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.needs == ("states",)
    for user, history, target in zip(*received[0], strict=True):
        items = DATASET.train.row(int(user)).tolist()
        assert history.tolist() == [items[0]] + [N_ITEMS] * 4
        assert target == items[1]


def test_a_negative_length_of_histories_is_refused():
    with pytest.raises(ConfigError, match="history_length is -1; it must be 0 or more"):
        wrapped(history_length=-1)


def test_a_wrapped_module_is_not_saved_in_a_run_folder(tmp_path):
    args = GRPOConfig(max_steps=1)
    context = RunContext(folder=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"Write a function build\(dataset\)"):
        GRPOTrainer(wrapped(), args=args, train_dataset=DATASET, context=context).train()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (PPOConfig, {"num_generations": 8}),
        (SQNActorCriticConfig, {}),
        (DQNConfig, {"dueling": True}),
    ],
)
def test_a_head_has_the_width_of_the_vectors(config, settings):
    args = config(max_steps=1, batch_size=16, **settings)
    assert GRPOTrainer(wrapped(), args=args, train_dataset=DATASET).train().steps == 1


def test_a_module_without_a_loss_cannot_continue_it():
    with pytest.raises(ConfigError, match=r"sft_coef = 0\.5 .* Wrapped has none"):
        GRPOTrainer(wrapped(), args=GRPOConfig(sft_coef=0.5), train_dataset=DATASET)
