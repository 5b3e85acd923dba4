"""The return of the logged action as a reward."""

import pytest
from estimating import numbers

from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.models.registry import build_model
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.trainer import RLTrainer
from toy_logs import cycle


def test_the_return_rewards_the_next_item_with_what_comes_later():
    dataset = leave_last_out(cycle(6, 8, length=6))  # four training events each
    model = build_model("sasrec", dataset, dim=4, layers=1, heads=1, inner_dim=4, max_length=4)
    args = GRPOConfig(
        reward_funcs=("return",), discount=0.5, reward_smoothing=0.0, mask_seen=False, batch_size=99
    )
    (batch,) = RLTrainer(model, args=args, train_dataset=dataset).epoch(numbers())
    # The state before the event at place p has the return of the events p..3: 1.75, 1.5, 1.
    by_place = {1: 1.75, 2: 1.5, 3: 1.0}
    assert len(batch.rewards.values) == len(batch.queries)
    expected = [by_place[end] for end in batch.queries.ends[batch.rewards.states].tolist()]
    assert batch.rewards.values.tolist() == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward_funcs": ("return", "future")}, "'future' rewards the later items"),
        ({"reward_funcs": ("return", "train_set"), "mask_seen": False}, "'train_set' rewards past"),
        ({"episode": "session"}, "episode has no effect"),
        ({"reward_funcs": ("return",), "session_gap": 5.0}, "session_gap has no effect"),
        ({"event_weights": {"view": 1.0}}, "belong together"),
    ],
)
def test_returns_and_later_items_are_not_mixed(settings, message):
    with pytest.raises(ConfigError, match=message):
        GRPOConfig(**settings)
