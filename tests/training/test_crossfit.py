"""Each taken item is judged by a base that has not seen it taken."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from recoach.data.dataset import RaggedArray
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.experiments.trainer import GRPOTrainer
from recoach.models import softmax
from recoach.models.registry import build_model
from recoach.policy.policy import calibrate_temperature
from recoach.policy.reward_funcs import name_of, scope_of
from recoach.simulation.shop import shop
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.crossfit import CrossFitted, deal, log_p_of_places
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from toy_logs import popularity_world, with_ratings

DATASET = leave_last_out(popularity_world(60, 25))
EVERY = np.ones(len(DATASET.train.values), dtype=np.bool_)
AGAIN = replace(  # user 0 comes back to an item, user 1 to her first one
    DATASET,
    train=RaggedArray(
        np.array([0, 5, 9, *([9] * 58)]), np.array([7, 4, 5, 4, 6, 2, 3, 2, 8], dtype=np.int32)
    ),
)


def popular(part, fold):
    return build_model("popularity", part)


def by_hand(model, dataset, user, place, *, mask_seen=True):
    """Return log p of what a user took at a place, from the scores of a popularity model."""
    row = dataset.train.row(user).astype(int)
    temperature = calibrate_temperature(model, dataset, mask_seen=mask_seen)
    scores = model.counts.double() / temperature
    if mask_seen:
        scores[list(set(row[:place]) - {row[place]})] = -torch.inf
    return float(scores.log_softmax(0)[row[place]])


def places(dataset):
    for user in range(dataset.n_users):
        yield from ((user, place) for place in range(1, len(dataset.train.row(user))))


@pytest.mark.parametrize("mask_seen", [True, False])
@pytest.mark.parametrize("name", ["popularity", "sasrec"])
def test_the_log_probability_of_every_place_is_that_of_the_policy_there(
    name, mask_seen, monkeypatch
):
    monkeypatch.setattr(softmax, "_STATES", {"cpu": 7})  # many blocks in a batch
    small = {} if name == "popularity" else {"dim": 8, "heads": 2, "max_length": 5}
    model = build_model(name, DATASET, **small)
    found = log_p_of_places(model, DATASET, EVERY, GRPOConfig(mask_seen=mask_seen))
    assert len(found) == len(DATASET.train.values)
    assert not found[DATASET.train.offsets[:-1]].any(), "nothing is asked before the first item"
    rest = np.delete(found, DATASET.train.offsets[:-1])
    assert (rest < 0).all()
    if name == "popularity":
        expected = [by_hand(model, DATASET, *p, mask_seen=mask_seen) for p in places(DATASET)]
        assert np.allclose(rest, expected, atol=1e-5)


def test_only_what_is_asked_about_is_judged():
    model = build_model("sasrec", DATASET, dim=8, heads=2, max_length=5)
    every = log_p_of_places(model, DATASET, EVERY)
    some = EVERY.copy()
    some[::3] = False
    found = log_p_of_places(model, DATASET, some)
    assert not found[~some].any()
    assert np.allclose(found[some], every[some], atol=1e-5)
    assert not log_p_of_places(model, DATASET, ~EVERY).any()


def test_a_temperature_that_is_given_is_taken():
    model = popular(DATASET, 0)
    found = log_p_of_places(model, DATASET, EVERY, GRPOConfig(temperature=2.0))
    (user, place), *_ = places(DATASET)
    row = DATASET.train.row(user).astype(int)
    scores = model.counts.double() / 2.0
    scores[row[:place]] = -torch.inf
    expected = scores.log_softmax(0)[row[place]]
    assert found[DATASET.train.offsets[user] + place] == pytest.approx(float(expected), abs=1e-5)


def test_the_temperature_is_fitted_to_the_scores_as_they_are_made():
    model = build_model("sasrec", DATASET, dim=8, heads=2, max_length=5)
    fitted = calibrate_temperature(model, DATASET, mask_seen=True, logits="cosine")
    found, told = (
        log_p_of_places(model, DATASET, EVERY, GRPOConfig(logits="cosine", temperature=given))
        for given in ("auto", fitted)
    )
    assert np.array_equal(found, told)


def test_an_item_that_is_taken_again_is_not_hidden_from_itself():
    model = build_model("popularity", AGAIN)
    assert log_p_of_places(model, AGAIN, np.ones(9, dtype=np.bool_))[3] == pytest.approx(
        by_hand(model, AGAIN, 0, 3), abs=1e-5
    )


@pytest.mark.parametrize(("repeats", "masked"), [("all", True), ("recbole", False)])
def test_rejected_items_are_masked_after_their_rejection(repeats, masked):
    row = DATASET.train.row(0).astype(int)
    other = next(item for item in range(DATASET.n_items) if item not in row)
    lengths = np.zeros(DATASET.n_users, dtype=np.int64)
    lengths[0] = 1
    columns = {"after": pl.Series([2])}
    negatives = RaggedArray.from_lengths(lengths, np.array([other], dtype=np.int32), columns)
    dataset = replace(DATASET, negatives=negatives)
    args = GRPOConfig(temperature=1.0, mask_seen=False)
    model = popular(dataset, 0)
    found = log_p_of_places(model, dataset, EVERY, args, repeats)
    scores = model.counts.double()
    assert found[1] == pytest.approx(float(scores.log_softmax(0)[row[1]]), abs=1e-5)
    if masked:
        scores[other] = -torch.inf
    assert found[2] == pytest.approx(float(scores.log_softmax(0)[row[2]]), abs=1e-5)


def test_an_item_that_is_taken_again_is_kept_from_its_base_altogether():
    dealt = deal(AGAIN, 3)
    #                  7, 4, 5, 4, 6 and 2, 3, 2, 8: the second 4 goes with the first, the first 2
    #                                                with the second
    assert dealt.fold.tolist() == [-1, 1, 2, 1, 1, 0, 2, 0, 1]
    assert dealt.first.tolist() == [1, 2, 4, 7, 6, 8]
    keys = [4, 5, 6, DATASET.n_items + 2, DATASET.n_items + 3, DATASET.n_items + 8]
    assert dealt.pairs.tolist() == keys
    bases = {}

    def fit(part, fold):
        bases[fold] = part
        return popular(part, fold)

    reward = CrossFitted(AGAIN, fit, GRPOConfig(folds=3))
    reward.weights()
    assert bases[1].train.row(0).tolist() == [7, 5]
    assert bases[0].train.row(1).tolist() == [3, 8]
    p = np.exp(by_hand(popular(bases[1], 1), AGAIN, 0, 1))
    paid = reward(prompts=torch.tensor([0]), completions=torch.tensor([4]), ahead=torch.ones(1))
    assert float(paid) == pytest.approx((p / (1 - p)) ** 0.5, rel=1e-4), "at its first place"


@pytest.mark.parametrize("folds", [2, 5])
def test_every_item_but_a_first_is_kept_from_one_base(folds):
    rated = with_ratings(DATASET, np.arange(len(DATASET.train.values)))
    given = []

    def fit(part, fold):
        given.append((fold, part))
        return popular(part, fold)

    reward = CrossFitted(rated, fit, GRPOConfig(folds=folds))
    assert not given, "before anybody asks"
    reward.weights()
    reward.weights()
    assert [fold for fold, _ in given] == list(range(folds))
    kept = [set(part.ratings.astype(int)) for _, part in given]
    every = set(range(len(DATASET.train.values)))
    firsts = set(DATASET.train.offsets[:-1].tolist())
    assert set.intersection(*kept) == firsts
    assert all(a | b == every for a in kept for b in kept if a is not b)
    sizes = [len(every - one) for one in kept]
    assert max(sizes) < 1.5 * min(sizes)
    for (_, part), own in zip(given, kept, strict=True):
        assert part.train.values.tolist() == DATASET.train.values[sorted(own)].tolist()
        assert part.valid is DATASET.valid
        assert part.fingerprint != DATASET.fingerprint


def test_an_item_pays_grpos_weight_under_the_base_that_has_not_seen_it():
    bases = {}

    def fit(part, fold):
        bases[fold] = popular(part, fold)
        return bases[fold]

    args = GRPOConfig(folds=3, discount=0.5)
    reward = CrossFitted(DATASET, fit, args)
    reward.weights()
    assert (scope_of(reward), name_of(reward)) == ("log", "cross_fitted")
    asked = list(places(DATASET))
    items = torch.tensor([int(DATASET.train.row(user)[place]) for user, place in asked])
    users = torch.tensor([user for user, _ in asked])
    ahead = 1 + torch.arange(len(asked)) % 3
    p = np.exp([by_hand(bases[(user + at) % 3], DATASET, user, at) for user, at in asked])
    expected = 0.5 ** (ahead.numpy() - 1) * np.sqrt(p / (1 - p))
    rows = [DATASET.train.row(user).tolist() for user, _ in asked]
    first = [row.index(row[at]) == at for row, (_, at) in zip(rows, asked, strict=True)]
    found = reward(prompts=users, completions=items, ahead=ahead, rating=torch.zeros(len(asked)))
    assert sum(first) > 100
    assert np.allclose(found.numpy()[first], expected[first], rtol=1e-4)
    everything = {"prompts": users[:1].expand(25), "completions": torch.arange(25)}
    assert not reward(**everything, ahead=torch.zeros(25)).any(), "what is not ahead pays nothing"


def test_the_policies_mask_as_the_trainers_does():
    masked, open_ = (
        CrossFitted(DATASET, popular, GRPOConfig(folds=2), protocol) for protocol in ("new", "all")
    )
    told = CrossFitted(DATASET, popular, GRPOConfig(folds=2, mask_seen=False))
    user, place = next((u, p) for u, p in places(DATASET) if p > 3)
    item = torch.tensor([int(DATASET.train.row(user)[place])])
    pay = [
        float(one(prompts=torch.tensor([user]), completions=item, ahead=torch.ones(1)))
        for one in (masked, open_, told)
    ]
    assert pay[0] != pay[1] == pay[2]


def test_the_policies_score_as_the_trainers_does():
    args = GRPOConfig(folds=2, logits="cosine")  # of one number a vector: all alike
    reward = CrossFitted(DATASET, popular, args)
    user, place = next((u, p) for u, p in places(DATASET) if p > 3)
    row = DATASET.train.row(user).tolist()
    shown = DATASET.n_items - len(set(row[:place]) - {row[place]})
    paid = reward(
        prompts=torch.tensor([user]), completions=torch.tensor([row[place]]), ahead=torch.ones(1)
    )
    assert float(paid) == pytest.approx((1 / (shown - 1)) ** 0.5, rel=1e-4)


def test_a_base_new_to_an_item_expects_it_less_than_one_that_has_learned_it():
    dataset = leave_last_out(shop(n_users=60, n_items=40).interactions)
    settings = PretrainConfig(epochs=12, batch_size=128, learning_rate=2e-2, eval_steps=500)

    def fit(part, fold):
        model = build_model("sasrec", part, dim=16, layers=1, heads=2)
        pretrain(model, part, settings)
        return model

    base, bases = fit(dataset, 0), {}

    def new(part, fold):
        bases[fold] = fit(part, fold)
        return bases[fold]

    reward = CrossFitted(dataset, new)
    reward.weights()
    fold = deal(dataset, 4).fold
    assert list(bases) == [0, 1, 2, 3]
    learned = log_p_of_places(base, dataset, fold >= 0).sum()
    news = sum(log_p_of_places(one, dataset, fold == number).sum() for number, one in bases.items())
    assert news < learned
    outcome = GRPOTrainer(
        base, reward, GRPOConfig(max_steps=3, eval_steps=1), train_dataset=dataset
    ).train()
    assert outcome.steps == 3


def test_by_its_name_a_trainer_cannot_have_it():
    with pytest.raises(ConfigError, match=r"recoach\.training\.crossfit\.CrossFitted"):
        GRPOTrainer(
            build_model("sasrec", DATASET, dim=8, heads=2),
            "cross_fitted",
            GRPOConfig(),
            train_dataset=DATASET,
        )


def test_it_looks_ahead_and_not_back():
    model, args = build_model("sasrec", DATASET, dim=8, heads=2), GRPOConfig(mask_seen=False)
    functions = [CrossFitted(DATASET, popular, args), "train_set"]
    with pytest.raises(
        ConfigError, match="'train_set' rewards past items and 'cross_fitted' future items"
    ):
        GRPOTrainer(model, functions, args, train_dataset=DATASET)


@pytest.mark.parametrize(
    "settings",
    [{"folds": 1}, {"reward_funcs": ("cross_fitted", "train_set"), "mask_seen": False}],
)
def test_what_cannot_be_is_refused(settings):
    with pytest.raises(ConfigError, match=r"folds|train_set"):
        GRPOConfig(**settings)


def test_of_another_dataset_it_says_so():
    reward = CrossFitted(DATASET, popular)
    other = leave_last_out(shop(n_users=60, n_items=40).interactions)
    model = build_model("sasrec", other, dim=8, heads=2)
    trainer = GRPOTrainer(model, reward, GRPOConfig(max_steps=1), train_dataset=other)
    with pytest.raises(ConfigError, match="for another dataset"):
        trainer.train()


def test_where_nothing_else_may_be_shown_the_weight_is_bounded():
    all_of_it = RaggedArray(np.array([0, *([25] * 60)]), np.arange(25, dtype=np.int32))
    assert CrossFitted(replace(DATASET, train=all_of_it), popular).weights().max() == 64


def test_folds_that_are_empty_are_not_trained():
    given = []

    def fit(part, fold):
        given.append(fold)
        return popular(part, fold)

    CrossFitted(AGAIN, fit, GRPOConfig(folds=50)).weights()
    assert given == [1, 2, 3, 4]
