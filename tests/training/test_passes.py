"""The passes estimator: groups of passes under different dropout masks (LARES)."""

import pytest
import torch
from estimating import numbers

from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.experiments.config import read_config
from recoach.models.registry import build_model
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.grpo.passes import repeat_batch
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext
from recoach.training.trainer import RLTrainer
from toy_logs import cycle

DATASET = leave_last_out(cycle(24, 16, length=7))
ENCODER = {"dim": 8, "layers": 1, "heads": 2, "inner_dim": 8, "max_length": 6}


def build(dropout=0.5, name="sasrec"):
    settings = ENCODER | {"dropout": dropout} if name == "sasrec" else {"dim": 8}
    return build_model(name, DATASET, **settings)


def trainer_of(model=None, context=None, functions=None, **settings):
    args = GRPOConfig.lares(**{"batch_size": 16, "max_steps": 3} | settings)
    context = context or RunContext()
    return RLTrainer(model or build(), functions, args, train_dataset=DATASET, context=context)


def first_batch(trainer, seed=5):
    batch = next(iter(trainer.epoch(numbers())))
    return batch._replace(dropout_seed=seed)


def log_policies(model, batch, seed):
    """Return float[G B, I] of the repeated batch, by the whole matrix."""
    torch.manual_seed(seed)
    users, items = model.train().embed(batch.queries)
    logits = users @ items.T
    if batch.queries.seen is not None:
        logits[batch.queries.seen[:2]] = -torch.inf
    return logits.log_softmax(dim=1)


def advantages_of(log_p, items, metric):
    """Return [G, B], by sorting; every state has one rewarded item."""
    ranks = (log_p >= log_p.gather(1, items[:, None])).sum(dim=1).double()
    hits = (ranks <= 10).double()
    rewards = (hits if metric == "recall@10" else hits / (ranks + 1).log2()).view(4, -1)
    deviation = ((rewards - rewards.mean(0)).square().sum(0) / 3).sqrt()
    return (rewards - rewards.mean(0)) / (deviation + 1e-4)


@pytest.mark.parametrize("mask_seen", [False, True])
@pytest.mark.parametrize("weight", ["advantage", "absolute", "one"])
@pytest.mark.parametrize("metric", ["ndcg@10", "recall@10"])
def test_the_gradient_is_the_advantage_times_that_of_the_same_pass(metric, weight, mask_seen):
    settings = {"rank_reward": metric, "pass_weight": weight, "mask_seen": mask_seen}
    trainer = trainer_of(beta=0.5, **settings)
    model, batch = trainer.model, first_batch(trainer)
    reference = build()  # the base: the first step has not come
    with torch.no_grad():  # a policy that differs from the reference
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.train()
    batch = batch._replace(dropout_seed=None)
    prepared = trainer.algorithm.prepare(batch, numbers())
    torch.manual_seed(5)
    loss, statistics = trainer.algorithm.loss(batch, prepared, numbers())
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, parameters)

    repeated = repeat_batch(batch, 4)
    log_p = log_policies(model, repeated, 5)
    items = repeated.rewards.items
    assert torch.equal(repeated.rewards.states, torch.arange(len(repeated.queries)))
    advantages = advantages_of(log_p.detach(), items, metric).flatten()
    assert (advantages != 0).any()
    of_items = log_p.gather(1, items[:, None])[:, 0]
    users, table = reference.eval().embed(repeated.queries)
    base = users @ table.T
    if mask_seen:
        base[repeated.queries.seen[:2]] = -torch.inf
    gap = base.log_softmax(dim=1).gather(1, items[:, None])[:, 0].detach() - of_items
    kl = gap.exp() - 1 - gap
    factor = {"advantage": advantages, "absolute": advantages.abs(), "one": 1.0}[weight]
    wanted = torch.autograd.grad((0.5 * kl - factor * of_items).mean(), parameters)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs.to(ours.dtype), atol=1e-5)
    assert statistics.means()["kl"].item() == pytest.approx(kl.mean().item(), rel=1e-3)


def test_a_repeated_batch_is_the_batch_several_times():
    trainer = trainer_of(mask_seen=True)
    batch = first_batch(trainer)
    repeated = repeat_batch(batch, 3)
    model = trainer.model.eval()
    once = trainer.policy.distribution(model, batch.queries)
    thrice = trainer.policy.distribution(model, repeated.queries)
    p, all_p = (torch.cat([b.p.clone() for b in policy.blocks()]) for policy in (once, thrice))
    assert torch.allclose(all_p, p.repeat(3, 1), atol=1e-6)
    count = len(batch.queries)
    for name, values in (("items", batch.rewards.items), ("values", batch.rewards.values)):
        assert torch.equal(getattr(repeated.rewards, name), values.repeat(3))
    offsets = repeated.rewards.states.view(3, -1) - batch.rewards.states
    assert offsets.unique(dim=1).flatten().tolist() == [0, count, 2 * count]
    # Rows of their own: with dropout every pass differs.
    model.train()
    policies = trainer.policy.distribution(model, repeated.queries)
    passes = torch.cat([block.p.clone() for block in policies.blocks()]).view(3, count, -1)
    assert not torch.allclose(passes[0], passes[1], rtol=1e-2)


def test_passes_that_all_hit_contribute_nothing():
    dataset = leave_last_out(cycle(24, 9, length=7))  # every rank is at most 10
    model = build_model("sasrec", dataset, **ENCODER, dropout=0.5)
    args = GRPOConfig.lares(beta=0.0, rank_reward="recall@10", batch_size=16)
    trainer = RLTrainer(model, None, args, train_dataset=dataset)
    batch = first_batch(trainer)
    prepared = trainer.algorithm.prepare(batch, numbers())
    loss, statistics = trainer.algorithm.loss(batch, prepared, numbers())
    assert all((g == 0).all() for g in torch.autograd.grad(loss, list(model.parameters())))
    assert statistics.means()["frac_reward_zero_std"] == 1


def test_ties_are_ranked_against_the_item():
    dataset = leave_last_out(cycle(24, 16, length=7))
    model = build_model("sasrec", dataset, **ENCODER, dropout=0.5)
    trainer = trainer_of(model, beta=0.0, rank_reward="recall@10", mask_seen=False)
    batch = first_batch(trainer)
    with torch.no_grad():  # items 0..14 have one vector: the best of them is ranked 15th, or 16th
        model.items.weight[:15] = model.items.weight[0]
    kept = batch.rewards.where(batch.rewards.items < 15)
    batch = batch._replace(rewards=kept)
    prepared = trainer.algorithm.prepare(batch, numbers())
    _, statistics = trainer.algorithm.loss(batch, prepared, numbers())
    assert statistics.means()["reward"] == 0


@pytest.mark.parametrize("name", ["sasrec", "lightgcn"])
def test_a_model_without_dropout_is_refused(name):
    with pytest.raises(ConfigError, match="Give the model a dropout above 0"):
        trainer_of(build(0.0, name)).train()


def test_the_preset_trains_and_is_selected_by_name(tmp_path):
    config = read_config(None, ["finetune.preset=lares", "finetune.num_generations=8"])
    assert config.finetune == GRPOConfig.lares(num_generations=8, mask_seen=False)
    rows = []

    class Listener(Callback):
        def on_step(self, step, logs):
            rows.append(logs)

    trainer_of(context=RunContext(callback=Listener())).train()
    assert len(rows) == 3
    assert rows[0]["kl"] > 0  # the reference has no dropout
    assert 0 < rows[0]["reward"] < 1
    assert 0 < rows[0]["frac_reward_zero_std"] < 1
    with pytest.raises(ConfigError, match="preset must be 'default' or 'paper' or 'lares'"):
        read_config(None, ["finetune.preset=larse"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"disable_dropout": True}, "different dropout masks"),
        ({"num_iterations": 2}, "different dropout masks"),
        ({"old_model_sync_steps": 2}, "different dropout masks"),
        ({"whitening": "state", "loss_type": "grpo"}, "whitening has no effect"),
        ({"estimator": "exact", "kl_estimator": "exact", "pass_weight": "one"}, "pass_weight has"),
        (
            {"estimator": "exact", "kl_estimator": "exact", "rank_reward": "recall@10"},
            "rank_reward has",
        ),
    ],
)
def test_settings_without_a_meaning_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        GRPOConfig.lares(**settings)


def test_rewards_that_are_no_items_of_the_log_are_refused():
    with pytest.raises(ConfigError, match="rewards items for every user"):
        trainer_of(reward_funcs=("next", "novelty"))
    with pytest.raises(ConfigError, match=r"below 0.*raises the probability"):
        trainer_of(reward_weights=(-1.0,)).train()
