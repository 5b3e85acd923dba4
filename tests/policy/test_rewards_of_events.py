"""Rewards by the columns of a log: event type, value and rejected items."""

import numpy as np
import polars as pl
import pytest
import torch

from recoach.data.batches import StateBatches
from recoach.data.interactions import Interactions
from recoach.data.protocol import LeaveLastOut
from recoach.data.queries import masked_items
from recoach.data.split import split_log
from recoach.errors import ConfigError
from recoach.models.registry import build_model
from recoach.policy.reward_funcs import by_name, future, log_reward
from recoach.policy.rewards import CombinedReward, add_rejected, future_items
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.batch_builder import BatchBuilder
from recoach.training.trainer import RLTrainer

TYPES = ["view", "cart", "purchase"]
WEIGHTS = {"view": 0.1, "cart": 0.5, "purchase": 1.0}
#        user, item, type, value, negative
ROWS = [
    (0, 0, "view", None, False),
    (0, 1, "view", None, False),
    (0, 4, "view", None, True),
    (0, 2, "cart", 3.0, False),
    (0, 1, "purchase", 1.0, False),
    (0, 5, "view", None, True),
    (0, 3, "view", 2.0, False),
    (0, 0, "view", None, False),  # valid
    (0, 2, "view", None, False),  # test
    (1, 1, "view", None, False),
    (1, 2, None, 2.0, False),
    (1, 3, "cart", None, False),
    (1, 0, "view", None, False),
    (1, 4, "view", None, True),  # after the last training event
    (1, 4, "view", None, False),
]


def dataset(*, types=True):
    users, items, kinds, values, negative = zip(*ROWS, strict=True)
    columns = {
        "timestamp": pl.Series(np.arange(len(ROWS)), dtype=pl.Int64),
        "event_type": pl.Series(kinds, dtype=pl.Enum(TYPES)),
        "value": pl.Series(values, dtype=pl.Float32),
        "negative": pl.Series(negative),
    }
    if not types:
        columns = {"timestamp": columns["timestamp"]}
    return split_log(
        Interactions(
            np.array(users, dtype=np.int32),
            np.array(items, dtype=np.int32),
            pl.Series(["u", "v"]),
            pl.Series([f"i{n}" for n in range(6)]),
            columns,
        ),
        LeaveLastOut(),
    )


DATA = dataset()
"""Train: user 0 has 0, 1, 2, 1, 3 and user 1 has 1, 2, 3."""


def one_batch():
    source = StateBatches(DATA.train, n_items=6, history_length=9, batch_size=100)
    (batch,) = source.epoch(torch.Generator().manual_seed(0))
    return batch


def states_of(batch):
    users = batch.queries.state_users.numpy()
    return users, batch.positions - DATA.train.offsets[users]


def rewards_of(batch, logged, *functions, **settings):
    """Return {(user, number of events of the history): {item: reward}}."""
    rewards = CombinedReward(functions, **settings).logged_rewards(
        logged, batch.queries.state_users
    )
    states = list(zip(batch.queries.state_users.tolist(), batch.queries.ends.tolist(), strict=True))
    result = {state: {} for state in states}
    for state, item, value in zip(*(part.tolist() for part in rewards[:3]), strict=True):
        result[states[state]][item] = pytest.approx(value)
    return result


def test_the_event_of_the_highest_weight_counts_for_an_item():
    batch = one_batch()
    reward = by_name("events", DATA, 0.5, WEIGHTS)
    found = rewards_of(batch, future_items(states_of(batch), DATA, 10, WEIGHTS), reward)
    # After item 0 come 1 (view), 2 (cart), 1 (purchase), 3 (view): the purchase of 1 is 3 ahead.
    assert found[0, 1] == {1: 0.25 * 1.0, 2: 0.5 * 0.5, 3: 0.125 * 0.1}
    assert found[0, 3] == {1: 1.0, 3: 0.5 * 0.1}
    # An event without a type is worth nothing.
    assert found[1, 1] == {3: 0.5 * 0.5}
    nearest = rewards_of(batch, future_items(states_of(batch), DATA, 10), future(0.5))
    assert nearest[0, 1] == {1: 1.0, 2: 0.5, 3: 0.125}


def test_the_value_of_an_event_is_divided_by_the_mean():
    batch = one_batch()
    found = rewards_of(batch, future_items(states_of(batch), DATA, 10), by_name("value", DATA, 0.5))
    mean = (3.0 + 1.0 + 2.0 + 2.0) / 4  # of train
    # The nearest event of item 1 is a view without a value.
    assert found[0, 1] == {2: 0.5 * 3.0 / mean, 3: 0.125 * 2.0 / mean}
    assert found[0, 3] == {1: 1.0 / mean, 3: 0.5 * 2.0 / mean}


def test_items_that_are_rejected_later_in_train_are_punished():
    batch = one_batch()
    states = states_of(batch)
    logged = add_rejected(future_items(states, DATA, 1), DATA, states)
    assert (logged.states.diff() >= 0).all()
    found = rewards_of(batch, logged, by_name("rejected", DATA, 0.5))
    assert found[0, 1] == {4: -1.0, 5: -1.0}
    assert found[0, 2] == {5: -1.0}  # 4 was rejected before, and is masked
    assert found[0, 3] == {5: -1.0}
    assert found[0, 4] == {}
    # The rejection after the last training event could lie in the test period.
    assert found[1, 1] == found[1, 2] == {}
    both = rewards_of(
        batch,
        logged,
        future(0.5),
        by_name("rejected", DATA, 0.5),
        weights=(1.0, 0.2),
        aggregation="normalize_then_sum",
    )
    assert both[0, 1] == {1: 1.0, 4: -0.2, 5: -0.2}


def test_rejected_items_are_masked_in_the_states_of_the_policy():
    batch = one_batch()
    model = build_model("sasrec", DATA, dim=8)
    for mask_seen, hidden in ((True, {0, 1, 4}), (False, {4})):
        args = GRPOConfig(mask_seen=mask_seen, estimator="sampled", loss_type="grpo")
        queries = BatchBuilder(args, DATA, ["future"], model).build(batch, model.device).queries
        users, ends = batch.queries.state_users.tolist(), batch.queries.ends.tolist()
        state = list(zip(users, ends, strict=True)).index((0, 2))
        assert set(queries.seen.items[queries.seen.states == state].tolist()) == hidden
    past = masked_items(DATA.train, (np.array([0]), np.array([4])), DATA.negatives, mask_seen=True)
    assert past.items.tolist() == [0, 1, 2, 4, 5]


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"view": 1.0, "cart": 1.0}, "'purchase' is missing"),
        (WEIGHTS | {"buy": 1.0}, "no event type is called 'buy'"),
    ],
)
def test_every_event_type_needs_a_weight(weights, words):
    with pytest.raises(ConfigError, match=words):
        by_name("events", DATA, 0.8, weights)


@pytest.mark.parametrize("name", ["events", "value", "rejected"])
def test_a_log_without_the_column_is_refused(name):
    with pytest.raises(ConfigError, match=rf"reward '{name}' needs .* --column "):
        by_name(name, dataset(types=False), 0.8, WEIGHTS)


def test_weights_and_the_reward_of_events_belong_together():
    for settings in ({"reward_funcs": ("events",)}, {"event_weights": WEIGHTS}):
        with pytest.raises(ConfigError, match="belong together"):
            GRPOConfig(**settings)
    assert GRPOConfig(reward_funcs=("events",), event_weights=WEIGHTS).event_weights == WEIGHTS


def test_negative_rewards_need_whitening_by_state_or_an_estimator_that_draws():
    settings = {"reward_funcs": ("future", "rejected"), "max_steps": 2, "temperature": 1.0}
    model = build_model("sasrec", DATA, dim=8)
    by_item = GRPOConfig(**settings, loss_type="grpo")
    with pytest.raises(ConfigError, match="whitening"):
        RLTrainer(model, args=by_item, train_dataset=DATA).train()
    by_state = GRPOConfig(**settings, loss_type="grpo", whitening="state")
    assert RLTrainer(model, args=by_state, train_dataset=DATA).train().steps == 2
    args = GRPOConfig(**settings, estimator="sampled", loss_type="grpo", num_generations=3)
    assert RLTrainer(model, args=args, train_dataset=DATA).train().steps == 2


def test_a_function_gets_only_the_columns_that_it_names():
    columns = {}

    @log_reward
    def mine(prompts, completions, ahead, rating, value):
        columns.update(rating=rating, value=value)
        return torch.zeros(len(completions))

    batch = one_batch()
    rewards_of(batch, future_items(states_of(batch), DATA, 1), mine)
    assert columns["rating"].isnan().all()
    assert (columns["value"] == 3.0).any()
    without = dataset(types=False)
    with pytest.raises(ConfigError, match="mine needs the column `value`, and the log has none"):
        rewards_of(batch, future_items(states_of(batch), without, 1), mine)
