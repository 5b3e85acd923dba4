"""Cross-entropy with a Q head: fixed points on a table, and targets and weights by hand."""

import warnings

import pytest
import torch
from estimating import VectorModel, algorithm_loss, make_algorithm, make_batch, numbers
from test_dqn import Table

from recoach.data.queries import Queries, Seen
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.models.base import Embeddings
from recoach.models.registry import build_model
from recoach.training.algorithms.registry import algorithm_entry
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from recoach.training.trainer import RLTrainer
from recoach.training.transitions import Transitions
from toy_logs import cycle

STATES, ITEMS = 3, 4
# state, action, reward, next state (None: the episode ends), next action, how often
TABLE = [
    (0, 0, 0.2, 1, 0, 3),
    (0, 1, 1.0, None, -1, 2),
    (0, 2, 0.2, 2, 3, 2),
    (0, 3, 0.0, 1, 1, 1),
    (1, 0, 1.0, 2, 0, 4),
    (1, 1, 0.2, None, -1, 2),
    (1, 2, 0.2, 0, 1, 1),
    (1, 3, 0.0, None, -1, 1),
    (2, 0, 0.2, 0, 0, 2),
    (2, 1, 0.0, 1, 1, 2),
    (2, 2, 0.2, None, -1, 3),
    (2, 3, 1.0, 1, 0, 1),
]
GAMMA = 0.5
PLAIN = {"temperature": 1.0, "critic_warmup_steps": 0}


def table_model(scores=None, history_length=5):
    """Return a model of which scores and Q are any table: one-hot states, and one-hot items."""
    users = torch.cat([torch.eye(STATES), torch.zeros(STATES, ITEMS)], dim=1)
    scores = torch.zeros(STATES, ITEMS) if scores is None else scores
    items = torch.cat([scores.T, torch.eye(ITEMS)], dim=1)
    return VectorModel(Embeddings(users, items), history_length)


def queries_of(states, seen=None):
    states, none = torch.tensor(states), torch.zeros(len(states), dtype=torch.int64)
    index = torch.arange(len(states))
    return Queries(states, torch.empty(len(states), 0, dtype=torch.int64), none, index, none, seen)


def batch_of(rows=TABLE, seen=None, masked=None):
    """Return a batch of transitions, each as often as it says."""
    rows = [row for row in rows for _ in range(row[-1])]
    states, actions, rewards, following, next_actions, _ = zip(*rows, strict=True)
    terminated = torch.tensor([state is None for state in following])
    next_states = [s if n is None else n for s, n in zip(states, following, strict=True)]
    places = torch.arange(len(rows))
    transitions = Transitions(
        actions=torch.tensor(actions),
        rewards=torch.tensor(rewards),
        next_queries=queries_of(next_states, seen),
        terminated=terminated,
        truncated=torch.tensor(next_actions) < 0,
        masked=torch.tensor(masked or [False] * len(rows)),
        discounts=GAMMA * (~terminated).float(),
        next_actions=torch.tensor(next_actions),
        remaining=places % 4,
        elapsed=places % 3,
    )
    batch = make_batch([(0, 0, 1.0)], n_states=len(rows))
    return batch._replace(queries=queries_of(states), transitions=transitions)


def learner(name, model=None, **settings):
    needless = {} if settings.get("actor_weight") or name in ("sqn_actor_critic", "sa2c") else None
    plain = PLAIN if needless is not None else {"temperature": 1.0}
    return make_algorithm(name, model or table_model(), **plain | settings)


def set_q(algorithm, q):
    """Make Q of the head, and of the target network, a table."""
    for head in (algorithm.head, algorithm.target.head):
        with torch.no_grad():
            head.query.weight.zero_()
            head.query.weight[STATES:, :STATES] = q.T
            head.constant.zero_()


def q_of(algorithm):
    users, items = algorithm.model.given
    q = algorithm.head(users, items.expand(STATES, -1, -1))
    return q.detach()


def trained(algorithm, batch, steps=150, rate=0.2, decay=0.95):
    modules = [algorithm.model, *algorithm.modules.values()]
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=rate, betas=(0.9, decay))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    logs = []
    for step in range(1, steps + 1):
        _, loss, row = algorithm_loss(algorithm, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        algorithm.after_step(step)
        logs.append(row)
    return logs


def frequencies():
    n = torch.zeros(STATES, ITEMS)
    for state, action, *_, count in TABLE:
        n[state, action] = count
    return n / n.sum(dim=1, keepdim=True)


def q_by_iteration(target):
    """Return the fixed point of Q on the table."""
    q = torch.zeros(STATES, ITEMS)
    for _ in range(60):
        new = torch.zeros(STATES, ITEMS)
        for state, action, reward, following, next_action, _ in TABLE:
            value = 0.0
            if following is not None:
                value = q[following].max() if target == "max" else q[following, next_action]
            new[state, action] = reward + GAMMA * value
        q = new
    return q


def normalised(weights):
    return weights / weights.sum(dim=1, keepdim=True)


def positive_advantage(q):
    return (q - q.mean(dim=1, keepdim=True)).clamp(min=0)


FIXED_POINTS = {
    "sqn": ({}, lambda n: n),
    "snqn": ({"num_negatives": ITEMS - 1}, lambda n: n),
    "sqn, sarsa": ({"target": "sarsa"}, lambda n: n),
    "sqn, remaining": ({"target": "remaining"}, lambda n: n),
    "sqn, past": ({"target": "past"}, lambda n: n),
    "sqn, random": ({"target": "random"}, lambda n: n),
    "sqn, conservative": ({"conservative_coef": 0.3}, lambda n: n),
    "sqn_actor_critic": ({}, lambda n: normalised(n * q_by_iteration("max"))),
    "sqn_actor_critic, sarsa": (
        {"target": "sarsa"},
        lambda n: normalised(n * q_by_iteration("sarsa")),
    ),
    "sa2c": (
        {"num_negatives": 0},
        lambda n: normalised(n * positive_advantage(q_by_iteration("max"))),
    ),
}


def table_learner(case, monkeypatch):
    name, settings = case.partition(",")[0], FIXED_POINTS[case][0]
    if name == "snqn":  # every other item once
        monkeypatch.setattr(torch, "randint", lambda n, shape, **_: torch.arange(n).expand(shape))
    bootstraps = settings.get("target", "max") in ("max", "sarsa")
    return learner(name, **({"tau": 0.5} if bootstraps else {}) | settings)


def policy_of_table(algorithm):
    users, items = algorithm.model.given
    return (users @ items.T).softmax(dim=1)


@pytest.mark.parametrize("case", FIXED_POINTS)
def test_the_policy_reaches_the_fixed_point(case, monkeypatch):
    algorithm = table_learner(case, monkeypatch)
    algorithm.model.users.requires_grad_(False)
    algorithm.head.requires_grad_(False)
    if algorithm.target is not None:  # Q is given
        algorithm.after_step(1)
        set_q(algorithm, q_by_iteration(algorithm.args.target))
    trained(algorithm, batch_of())
    expected = FIXED_POINTS[case][1](frequencies())
    assert torch.allclose(policy_of_table(algorithm), expected, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["sqn", "sqn, sarsa", "sqn, conservative", "sqn_actor_critic"])
def test_the_policy_the_encoder_and_q_reach_it_together(case, monkeypatch):
    algorithm = table_learner(case, monkeypatch)
    trained(algorithm, batch_of(), 600, 0.05, 0.99)
    expected = FIXED_POINTS[case][1](frequencies())
    assert torch.allclose(policy_of_table(algorithm), expected, atol=2e-3)


@pytest.mark.parametrize("target", ["max", "sarsa"])
def test_q_reaches_the_fixed_point(target):
    algorithm, batch = learner("sqn", target=target), batch_of()
    q = torch.zeros(STATES, ITEMS)
    for step in range(40):  # Q follows its targets exactly
        prepared, _, logs = algorithm_loss(algorithm, batch)
        q[batch.queries.state_users, batch.transitions.actions] = prepared.targets[:, 0]
        algorithm.after_step(step + 1)
        set_q(algorithm, q)
    assert torch.allclose(q, q_by_iteration(target), atol=1e-5)
    assert logs["q_outside"] == logs["target_clamped"] == 0
    assert logs["td_loss"] < 1e-10
    assert logs["q_mean"] == pytest.approx(logs["target_mean"], abs=1e-5)
    assert logs["q_mean"] > 0.5
    _, loss, _ = algorithm_loss(algorithm, batch)
    slopes = torch.autograd.grad(loss, [*algorithm.head.parameters()])
    assert all(slope.abs().max() < 1e-5 for slope in slopes)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["max", "sarsa"])
def test_q_reaches_the_fixed_point_by_its_gradient(target):
    algorithm = learner("sqn", tau=0.5, target=target, train_encoder=False)
    trained(algorithm, batch_of(), 400, 0.1, 0.99)
    assert torch.allclose(q_of(algorithm), q_by_iteration(target), atol=1e-3)


def test_q_starts_at_the_mean_return():
    algorithm, batch = learner("sqn"), batch_of()
    algorithm_loss(algorithm, batch)
    rewards, discounts = batch.transitions.rewards, batch.transitions.discounts
    constant = q_of(algorithm)[0, 0].item()
    assert torch.equal(q_of(algorithm), torch.full((STATES, ITEMS), constant))
    assert constant == pytest.approx((rewards + discounts * constant).mean().item())
    assert algorithm.target.head.constant.item() == algorithm.head.constant.item()
    algorithm.after_step(1)
    algorithm.head.constant.data.fill_(7.0)
    algorithm_loss(algorithm, batch)
    assert q_of(algorithm)[0, 0].item() == 7.0


def test_the_weights_of_the_actor_on_a_chain():
    # click, click, click, buy, click (end): the returns over their mean.
    rewards = [0.2, 0.2, 0.2, 1.0, 0.2]
    users = torch.cat([torch.eye(5), torch.zeros(5, 2)], dim=1)
    items = torch.cat([torch.zeros(2, 5), torch.eye(2)], dim=1)
    model = VectorModel(Embeddings(users, items), 5)
    rows = [(s, int(r == 1), r, s + 1, int(s == 2), 1) for s, r in enumerate(rewards)]
    rows[-1] = (4, 0, 0.2, None, -1, 1)
    algorithm = learner("sqn_actor_critic", model, target="sarsa", tau=1.0)
    q = torch.zeros(5)
    for _ in range(6):  # each step follows the targets exactly
        with torch.no_grad():
            prepared = algorithm.prepare(batch_of(rows), numbers())
            q = prepared.targets[:, 0]
            for head in (algorithm.head, algorithm.target.head):
                head.constant.zero_()
                head.query.weight[5:, :5] = torch.zeros(2, 5).scatter_(0, prepared.items.T, q[None])
        algorithm.after_step(1)
    assert q.tolist() == pytest.approx([0.4875, 0.575, 0.75, 1.1, 0.2])
    weights = algorithm._actor_weights(q, users, items)
    expected = [0.783, 0.923, 1.204, 1.766, 0.321]
    assert (weights / weights.mean()).tolist() == pytest.approx(expected, abs=1.5e-3)
    algorithm.args = algorithm.args.model_copy(update={"q_coef": 0.0})
    _, loss, _ = algorithm_loss(algorithm, batch_of(rows))
    log_p = torch.tensor(0.5).log()  # all scores are alike
    assert loss.item() == pytest.approx(-log_p.item())
    slopes = torch.autograd.grad(loss, algorithm.model.items)[0][0, :5].abs()
    assert (slopes / slopes.mean()).tolist() == pytest.approx(expected, abs=1.5e-3)


def test_sarsa_leaves_out_transitions_without_a_next_action():
    rows = [(0, 0, 1.0, 1, -1, 1), (1, 1, 1.0, None, -1, 1), (2, 2, 1.0, 1, 3, 1)]
    q = torch.zeros(STATES, ITEMS)
    q[1] = torch.tensor([0.1, 0.2, 0.3, 0.8])
    algorithm = learner("sqn", target="sarsa")
    algorithm.after_step(1)
    set_q(algorithm, q)
    prepared, _, _ = algorithm_loss(algorithm, batch_of(rows))
    assert prepared.is_used.tolist() == [False, True, True]
    assert prepared.targets[1:, 0].tolist() == pytest.approx([1.0, 1.4])
    seen = Seen(torch.tensor([2]), torch.tensor([3]))
    prepared, _, _ = algorithm_loss(algorithm, batch_of(rows, seen))
    assert prepared.is_used.tolist() == [False, True, False]


def test_max_bootstraps_from_truncated_transitions_and_not_from_masked_items():
    rows = [(0, 0, 1.0, 1, -1, 1), (1, 1, 1.0, None, -1, 1)]
    q = torch.zeros(STATES, ITEMS)
    q[1] = torch.tensor([0.1, 0.2, 0.3, 0.8])
    for seen, value in (([3], 0.3), ([], 0.8), ([0, 1, 2, 3], 0.0)):
        pairs = Seen(torch.zeros(len(seen), dtype=torch.int64), torch.tensor(seen).long())
        algorithm = learner("sqn")
        algorithm.after_step(1)
        set_q(algorithm, q)
        prepared, _, _ = algorithm_loss(algorithm, batch_of(rows, pairs if seen else None))
        assert prepared.is_used.all()
        assert prepared.targets[:, 0].tolist() == pytest.approx([1 + 0.5 * value, 1.0])


@pytest.mark.parametrize("double", [False, True])
def test_the_target_network_evaluates_the_models_choice(double):
    algorithm = learner("sqn", double=double)
    algorithm.after_step(1)
    online, frozen = torch.zeros(2, STATES, ITEMS)
    online[1], frozen[1] = torch.tensor([[0.0, 0.0, 0.5, 0.0], [0.9, 0.0, 0.4, 0.0]])
    set_q(algorithm, frozen)
    target = {name: value.clone() for name, value in algorithm.target.state_dict().items()}
    set_q(algorithm, online)
    algorithm.target.load_state_dict(target)
    prepared, _, _ = algorithm_loss(algorithm, batch_of([(0, 0, 1.0, 1, 0, 1)]))
    assert prepared.targets.item() == pytest.approx(1 + 0.5 * (0.4 if double else 0.9))


def test_the_target_network_follows_by_hand():
    algorithm = learner("sqn", tau=0.25)
    with torch.no_grad():
        algorithm.model.items += 1.0
        algorithm.head.query.weight.fill_(2.0)
        algorithm.head.constant.fill_(4.0)
    target = algorithm.target
    before = target.model.items.clone()
    algorithm.after_step(1)
    assert torch.allclose(target.model.items, before + 0.25)
    assert target.head.query.weight[0, 0].item() == 0.5
    assert target.head.constant.item() == 1.0
    algorithm.after_step(2)
    assert target.head.constant.item() == pytest.approx(1.75)
    assert not any(p.requires_grad for p in target.parameters())


def test_targets_outside_the_possible_returns_are_clamped_and_counted():
    q = torch.full((STATES, ITEMS), 50.0)
    q[1] = -50
    rows = [(0, 0, 1.0, 1, 0, 1), (1, 0, 1.0, 2, 0, 1), (2, 0, 1.0, None, -1, 1)]
    algorithm = learner("snqn", negative_reward=-1.0)
    algorithm.after_step(1)
    set_q(algorithm, q)
    prepared, _, logs = algorithm_loss(algorithm, batch_of(rows))
    assert prepared.targets[:, 0].tolist() == [-2.0, 2.0, 1.0]  # rewards from -1 to 1
    assert logs["target_clamped"] == pytest.approx(2 / 3)
    assert logs["q_outside"] == 1


def test_negatives_are_other_items_and_keep_the_state():
    q = torch.tensor([[0.1, 0.8, 0.3, 0.2], [0.4] * 4, [0.0] * 4])
    algorithm = learner("snqn", num_negatives=60, negative_reward=-0.1)
    algorithm.after_step(1)
    set_q(algorithm, q)
    rows = [(0, 1, 1.0, 1, 0, 1), (1, 0, 1.0, None, -1, 1), (2, 3, 0.5, None, -1, 1)]
    prepared, _, _ = algorithm_loss(algorithm, batch_of(rows))
    for items, action in zip(prepared.items, [1, 0, 3], strict=True):
        assert items[0] == action
        assert set(items[1:].tolist()) == set(range(ITEMS)) - {action}
    expected = torch.tensor([[-0.1 + 0.5 * 0.8], [-0.1 + 0.5 * 0.4], [-0.1]]).expand(-1, 60)
    assert torch.allclose(prepared.targets[:, 1:], expected)


def test_the_loss_is_that_of_the_formula():
    q = torch.tensor([[0.1, 0.8, 0.3, 0.2], [0.4, -0.5, 0.4, 0.4], [0.3] * 4])
    scores = torch.randn(STATES, ITEMS, generator=numbers(3))
    settings = {"num_negatives": 2, "q_coef": 0.3, "conservative_coef": 0.2}
    rows = [(0, 1, 1.0, None, -1, 1), (1, 0, 0.5, None, -1, 1), (2, 3, 0.5, None, -1, 1)]
    for name, relative in (("snqn", [1, 1, 1]), ("sa2c", [0.45, 0.225, 0.0])):
        algorithm = learner(name, table_model(scores), **settings)
        algorithm.after_step(1)
        set_q(algorithm, q)
        prepared, loss, logs = algorithm_loss(algorithm, batch_of(rows))
        taken = ([0, 1, 2], [1, 0, 3])
        weights = torch.tensor(relative)
        ce = (-scores.log_softmax(dim=1)[taken] * weights).sum() / weights.sum()
        errors = (q.gather(1, prepared.items) - prepared.targets).square() / 2
        td = errors[:, 0].mean() + errors[:, 1:].sum(dim=1).mean()
        conservative = (q.logsumexp(dim=1) - q[taken]).mean()
        assert loss.item() == pytest.approx((ce + 0.3 * td + 0.2 * conservative).item(), rel=1e-5)
        assert logs["td_loss"] == pytest.approx(errors[:, 0].mean().item())
        assert logs["policy/p_mean"] == pytest.approx(
            scores.softmax(dim=1)[taken].mean().item(), rel=1e-5
        )


def test_advantages_are_0_among_equal_qs_and_weights_are_bounded():
    algorithm = learner("sa2c", q_coef=0.0)
    algorithm.after_step(1)
    set_q(algorithm, torch.full((STATES, ITEMS), 0.7))
    _, loss, _ = algorithm_loss(algorithm, batch_of())
    assert loss.item() == 0
    q = torch.zeros(STATES, ITEMS)
    q[0, 0] = 400.0
    set_q(algorithm, q)
    users, items = algorithm.model.given
    advantage = algorithm._actor_weights(q[:, 0], users, items)
    assert advantage.tolist() == [10.0, 0.0, 0.0]
    weights = learner("sqn_actor_critic")._actor_weights(torch.tensor([-1.0, 0.5]), users, items)
    assert weights.tolist() == [0.0, 0.5]


def test_a_masked_action_is_not_learned_from():
    rows = [(0, 0, 1.0, None, -1, 1), (1, 1, 0.0, None, -1, 1)]
    seen = Seen(torch.tensor([1]), torch.tensor([1]))
    batch = batch_of(rows, masked=[False, True])
    batch = batch._replace(queries=queries_of([0, 1], seen))
    algorithm = learner("sqn", conservative_coef=0.5)
    prepared, loss, logs = algorithm_loss(algorithm, batch)
    slopes = torch.autograd.grad(loss, algorithm.model.users)[0]
    assert prepared.is_used.tolist() == [True, False]
    assert slopes[0].abs().sum() > 0
    assert slopes[1].tolist() == [0] * (STATES + ITEMS)
    assert algorithm.head.constant.item() == 1.0  # the mean return of the one action
    assert torch.isfinite(loss)
    assert logs["target_mean"] == 1.0


@pytest.mark.parametrize("train_encoder", [False, True])
def test_the_temporal_differences_train_the_model_through_the_state_vectors_only(train_encoder):
    settings = {"train_encoder": train_encoder, "conservative_coef": 0.1}
    algorithm, plain = (learner("snqn", q_coef=c, **settings) for c in (1.0, 0.0))
    found = []
    for each in (algorithm, plain):
        each.after_step(1)
        set_q(each, torch.rand(STATES, ITEMS, generator=numbers(2)))
        each.args = each.args.model_copy(update={"conservative_coef": 0.1 * each.args.q_coef})
        _, loss, _ = algorithm_loss(each, batch_of())
        found.append(torch.autograd.grad(loss, each.model.given))
    (users, items), (plain_users, plain_items) = found
    assert torch.equal(items, plain_items)
    assert torch.equal(users, plain_users) is not train_encoder


def test_weights_apply_after_the_warmup_steps():
    algorithm = learner("sqn_actor_critic", critic_warmup_steps=3, q_coef=0.0)
    losses = []
    for step in range(1, 5):
        algorithm.after_step(step)
        set_q(algorithm, torch.rand(STATES, ITEMS, generator=numbers(2)))
        with torch.no_grad():
            algorithm.model.items[0, :STATES] = 1.0
        losses.append(algorithm_loss(algorithm, batch_of())[1].item())
    assert losses[0] == losses[1] != losses[2] == losses[3]


def test_the_random_target_is_fixed_for_each_event():
    algorithm, batch = learner("sqn", target="random"), batch_of()
    first = algorithm_loss(algorithm, batch)[0].targets[:, 0]
    algorithm.after_step(1)
    assert torch.equal(algorithm_loss(algorithm, batch, numbers(9))[0].targets[:, 0], first)
    count = 4000
    moved = batch.transitions._replace(elapsed=batch.transitions.elapsed + 1)
    other = algorithm_loss(algorithm, batch._replace(transitions=moved))[0].targets[:, 0]
    assert not (other == first).any()
    rows = [(0, 0, 1.0, None, -1, count)]
    many = batch_of(rows)
    places = torch.arange(count)
    many = many._replace(transitions=many.transitions._replace(elapsed=places, remaining=-places))
    values = algorithm_loss(algorithm, many)[0].targets[:, 0]
    assert ((values >= 0) & (values < 1)).all()
    assert values.mean().item() == pytest.approx(0.5, abs=0.02)
    assert values.var().item() == pytest.approx(1 / 12, abs=0.005)
    assert abs(torch.corrcoef(torch.stack([values[1:], values[:-1]]))[0, 1].item()) < 0.05


@pytest.mark.parametrize("target", ["remaining", "past"])
def test_targets_of_events_are_counts_over_the_history_length(target):
    algorithm, batch = learner("sqn", target=target), batch_of()
    prepared, _, _ = algorithm_loss(algorithm, batch)
    name = "remaining" if target == "remaining" else "elapsed"
    assert torch.equal(prepared.targets[:, 0], getattr(batch.transitions, name) / 5)
    longer = batch.transitions._replace(**{name: getattr(batch.transitions, name) + 100})
    prepared, _, _ = algorithm_loss(algorithm, batch._replace(transitions=longer))
    assert (prepared.targets[:, 0] == 1).all()
    assert set(algorithm.modules) == {"head", "reward_range"}
    with pytest.raises(ConfigError, match="VectorModel reads none; use another target"):
        learner("sqn", table_model(history_length=0), target=target)


def test_a_model_without_history_is_a_contextual_bandit():
    batch = batch_of([(0, 1, 1.0, None, -1, 2)])
    batch = batch._replace(transitions=batch.transitions._replace(next_queries=None))
    algorithm = learner("snqn", table_model(history_length=0), negative_reward=-0.5)
    algorithm.after_step(1)
    set_q(algorithm, torch.ones(STATES, ITEMS))
    prepared, _, _ = algorithm_loss(algorithm, batch)
    assert prepared.targets[:, 0].tolist() == [1.0, 1.0]
    assert (prepared.targets[:, 1:] == -0.5).all()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sqn", {"target": "random", "gamma": 0.9}, "gamma has no effect here"),
        ("sqn", {"target": "random", "tau": 0.5}, "tau has no effect here"),
        ("snqn", {"target": "past", "num_negatives": 5}, "num_negatives has no effect here"),
        ("sqn", {"negative_reward": -1.0}, "it belongs to num_negatives above 0"),
        ("sqn", {"target": "sarsa", "double": False}, "double has no effect here"),
        ("sqn", {"critic_warmup_steps": 5}, "it belongs to another actor_weight"),
        ("sqn", {"reward_funcs": ("return",)}, "credits later rewards by gamma"),
        ("sqn", {"reward_funcs": ("future",), "horizon": 10}, "set horizon = 1"),
    ],
)
def test_settings_without_effect_are_refused(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        algorithm_entry(name).config(**settings)


class Rows(Callback):
    def __init__(self):
        self.rows = []

    def on_row(self, row):
        self.rows.append(row)


DATASET = leave_last_out(cycle(24, 12, length=7))
MODELS = {
    "sasrec": {"dim": 8, "layers": 1, "heads": 2, "inner_dim": 16, "max_length": 6},
    "gru4rec": {"dim": 8, "hidden_dim": 8},
    "lightgcn": {"dim": 8},
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["sqn", "sa2c"])
def test_models_are_trained_by_the_trainer(model, name):
    rows = Rows()
    built = build_model(model, DATASET, **MODELS[model])
    settings = {"critic_warmup_steps": 2} if name == "sa2c" else {}
    args = algorithm_entry(name).config(batch_size=48, max_steps=4, eval_steps=2, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no guard warns
        RLTrainer(
            built, args=args, train_dataset=DATASET, context=RunContext(callback=rows)
        ).train()
    assert {"td_loss", "q_mean", "q_outside", "target_mean"} <= rows.rows[-1].keys()


class Weights(Callback):
    """Keeps the weights that are evaluated and those that are trained."""

    def __init__(self):
        self.evaluated, self.trained, self.trainer = {}, {}, None

    def on_row(self, row):
        evaluated, trained = self.trainer.loop._evaluated_model, self.trainer.model
        self.evaluated[row["step"]] = evaluated.items.weight.detach().clone()
        self.trained[row["step"]] = trained.items.weight.detach().clone()


@pytest.mark.parametrize("target", ["remaining", "past", "random"])
def test_controls_without_a_reward_take_the_recipes_average_and_interpolation(target, monkeypatch):
    model, weights = build_model("sasrec", DATASET, **MODELS["sasrec"]), Weights()
    pretrain(model, DATASET, PretrainConfig(max_steps=2, batch_size=48))
    base = model.items.weight.detach().clone()
    args = algorithm_entry("sqn").config(target=target, batch_size=48, max_steps=4, eval_steps=2)
    context = RunContext(callback=weights)
    trainer = RLTrainer(model, args=args, train_dataset=DATASET, context=context)
    weights.trainer = trainer
    # The best weights are at this distance from the base, which the average exceeds.
    distance = 0.01

    def value(evaluated):
        return {"ndcg@10": -abs(float((evaluated.items.weight - base).norm()) - distance)}

    monkeypatch.setattr(trainer, "_selection", lambda: (value, args.schedule()))
    result = trainer.train()
    assert result.start_value == -distance
    assert 0 < result.share < 1
    average, trained = weights.evaluated[result.best_step], weights.trained[result.best_step]
    assert not torch.equal(average, trained)
    assert torch.allclose(model.items.weight, torch.lerp(base, average, result.share))


def test_a_model_that_is_no_dot_product_is_refused():
    with pytest.raises(ConfigError, match="algorithm 'sqn' needs"):
        make_algorithm("sqn", Table(torch.zeros(2, 2)), temperature=1.0)
