"""Somebody's own module, judged, tuned and asked for lists."""

import pytest
import torch
from torch import nn

from recoach import recommend, wrap
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.evaluation.evaluator import evaluate
from recoach.training.config import GRPOConfig
from recoach.training.loop import RunContext
from recoach.training.trainer import GRPOTrainer
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


def test_a_module_of_one_s_own_is_tuned_and_asked():
    module = LastItem()
    model = wrapped(module)
    before = evaluate(model, DATASET).means()["ndcg@10"]
    start = module.table.weight.detach().clone()
    args = GRPOConfig(max_steps=150, eval_steps=25, batch_size=48, learning_rate=0.05, patience=0)
    outcome = GRPOTrainer(model, "next", args, train_dataset=DATASET).train()
    assert not torch.equal(module.table.weight, start)
    assert outcome.best_value > before + 0.1
    assert evaluate(model, DATASET).means()["ndcg@10"] > before + 0.1
    lists = recommend(model, DATASET, ["u0000"], k=3)
    assert len(lists) == 3


def test_every_state_has_its_own_history_and_nothing_after_it():
    asked = {}

    def query(module, users, histories):
        asked.update(users=users, histories=histories)
        return last_of(module, users, histories)

    trainer = GRPOTrainer(
        wrapped(query=query), args=GRPOConfig(batch_size=500), train_dataset=DATASET
    )
    (work,) = trainer.epoch(torch.Generator())
    trainer.policy.embed(trainer.model, work.queries)
    for state in range(len(work.queries)):
        user = int(work.queries.state_users[state])
        end = int(work.queries.ends[state])
        known = [item for item in asked["histories"][state].tolist() if item != N_ITEMS]
        assert int(asked["users"][state]) == user
        assert known == DATASET.train.row(user)[:end].tolist()[-5:]


def test_a_reference_has_a_module_of_its_own():
    model = wrapped()
    trainer = GRPOTrainer(model, args=GRPOConfig(beta=1.0), train_dataset=DATASET)
    assert trainer.reference.module is not model.module
    with torch.no_grad():
        model.module.table.weight.zero_()
    (work, *_) = trainer.epoch(torch.Generator())
    assert trainer.reference.embed(work.queries).items.abs().sum() > 0


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


def test_a_wrapped_module_is_not_kept_in_a_folder(tmp_path):
    args = GRPOConfig(max_steps=1)
    context = RunContext(folder=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"save your module's own state_dict\(\)"):
        GRPOTrainer(wrapped(), args=args, train_dataset=DATASET, context=context).train()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "rival",
    [
        {"algorithm": "ppo", "estimator": "sampled", "loss_type": "grpo", "num_generations": 8},
        {"algorithm": "sac"},
    ],
)
def test_rivals_that_train_a_head_learn_its_width_from_the_vectors(rival):
    args = GRPOConfig(max_steps=1, batch_size=16, **rival)
    assert GRPOTrainer(wrapped(), args=args, train_dataset=DATASET).train().steps == 1


def test_a_module_without_a_loss_of_its_own_cannot_carry_one_on():
    with pytest.raises(ConfigError, match=r"sft_coef = 0\.5 .* Wrapped has none"):
        GRPOTrainer(wrapped(), args=GRPOConfig(sft_coef=0.5), train_dataset=DATASET)
