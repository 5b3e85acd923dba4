"""Heads for later items beside next-item cross-entropy: the loss by its formula, the optimum."""

import pytest
import torch
from estimating import VectorModel, algorithm_loss, make_algorithm, make_batch, numbers
from test_dqn import Table
from test_supervised_q import trained
from torch.nn import functional

from recoach.data.queries import Queries, Seen
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.models.base import Embeddings
from recoach.models.registry import build_model
from recoach.policy.rewards import LoggedItems
from recoach.training.algorithms import ufrec
from recoach.training.algorithms.base import LoggedActions
from recoach.training.algorithms.ufrec import UFRecConfig
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext
from recoach.training.trainer import RLTrainer
from toy_logs import cycle

ITEMS, DIM, TEMPERATURE = 6, 4, 0.7
USERS = [0, 1, 2, 2, 0]
# state, item, number of interactions ahead; state 3 has one next item, state 4 a masked third one
WINDOW = [
    *((0, 1, 1), (0, 4, 2), (0, 2, 3)),
    *((1, 5, 1), (1, 0, 2), (1, 3, 3)),
    *((2, 2, 1), (2, 3, 2)),
    (3, 3, 1),
    *((4, 0, 1), (4, 5, 2), (4, 1, 3)),
]
MASKED = [(3, 3), (4, 1), (4, 2)]
"""The next item of state 3 and the third of state 4, and another item."""


def batch_of(window=WINDOW, users=USERS, masked=MASKED):
    rows = sorted(window)
    states, items, ahead = (torch.tensor(column) for column in zip(*rows, strict=True))
    index, none = torch.arange(len(users)), torch.zeros(len(users), dtype=torch.int64)
    seen = Seen(*(torch.tensor(part) for part in zip(*masked, strict=True))) if masked else None
    queries = Queries(torch.tensor(users), none[:, None][:, :0], none, index, none, seen)
    actions = [item for _, item, k in sorted(window) if k == 1]
    return make_batch([(0, 0, 1.0)])._replace(
        queries=queries,
        logged=LoggedItems(states, items, ahead, {}),
        actions=LoggedActions(torch.tensor(actions)),
    )


def learner(**settings):
    given = Embeddings(
        torch.randn(3, DIM, generator=numbers(1)), torch.randn(ITEMS, DIM, generator=numbers(2))
    )
    model = VectorModel(given, history_length=5)
    algorithm = make_algorithm("ufrec", model, temperature=TEMPERATURE, **settings)
    noise = numbers(3)
    for parameter in algorithm.modules["heads"].parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=noise), alpha=0.3)
    return algorithm


def log_p_of(users, items):
    logits = users @ items.T / TEMPERATURE
    for pair in MASKED:
        logits[pair] = -torch.inf
    return logits.log_softmax(dim=1)


def weights_of(log_p, confidence, temperature):
    if confidence == "none":
        return torch.ones(len(USERS))
    entropy = -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0)).sum(dim=1)
    weights = (-entropy / (temperature * torch.tensor(float(ITEMS)).log())).exp().detach()
    if confidence == "permuted":
        weights = weights[torch.randperm(len(USERS), generator=numbers())]
    return weights


def terms_by_formula(algorithm, confidence="entropy", temperature=1.0):
    """Return the next-item cross-entropy, L_FS and L_FC."""
    rows, items = algorithm.model.given
    users = rows[USERS]
    contrast_head, *later_heads = algorithm.modules["heads"]
    log_p = log_p_of(users, items)
    main = -log_p[[0, 1, 2, 4], [1, 5, 2, 0]].mean()
    weights, later = weights_of(log_p, confidence, temperature), 0.0
    for ahead, head in enumerate(later_heads, start=2):
        pairs = [(s, i) for s, i, k in WINDOW if k == ahead and (s, i) not in MASKED]
        states, targets = zip(*pairs, strict=True)
        log_later = log_p_of(functional.relu(head(users)), items)[states, targets]
        later = later - (weights[[*states]] * log_later).sum() / weights[[*states]].sum()
    predicted = functional.normalize(functional.relu(contrast_head(users)), dim=1)
    means = [items[[i for s, i, _ in WINDOW if s == state]].mean(dim=0) for state in range(5)]
    cosines = predicted @ functional.normalize(torch.stack(means), dim=1).T
    contrast = 0.0
    for state, user in enumerate(USERS):
        rivals = [s for s, other in enumerate(USERS) if s == state or other != user]
        contrast = contrast - (10 * cosines[state, rivals]).log_softmax(dim=0)[rivals.index(state)]
    return main, later, contrast / 5


@pytest.mark.parametrize(
    ("confidence", "temperature"), [("entropy", 1.0), ("entropy", 0.1), ("permuted", 0.1)]
)
def test_the_loss_and_its_gradient_are_those_of_the_formula(confidence, temperature):
    settings = {"confidence": confidence, "confidence_temperature": temperature}
    algorithm = learner(future_coef=0.5, contrast_coef=0.3, **settings)
    _, loss, logs = algorithm_loss(algorithm, batch_of())
    main, later, contrast = terms_by_formula(algorithm, confidence, temperature)
    expected = main + 0.5 * later + 0.3 * contrast
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert logs["contrast_loss"] == pytest.approx(contrast.item(), rel=1e-5)
    parameters = [*algorithm.model.given, *algorithm.modules["heads"].parameters()]
    found, formula = (torch.autograd.grad(value, parameters) for value in (loss, expected))
    for ours, theirs in zip(found, formula, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_each_term_has_its_coefficient_and_the_main_one_is_next_item_cross_entropy():
    for future, contrast in ((0.0, 0.0), (0.7, 0.0), (0.0, 0.7)):
        settings = {"confidence": "none"} if future else {}
        algorithm = learner(future_coef=future, contrast_coef=contrast, **settings)
        terms = terms_by_formula(algorithm, "none")
        expected = terms[0] + future * terms[1] + contrast * terms[2]
        _, loss, logs = algorithm_loss(algorithm, batch_of())
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert ("contrast_loss" in logs) is bool(contrast)
        assert ("policy/p_later_mean" in logs) is bool(future)


def test_a_sure_state_weighs_more_and_low_entropies_of_all_states_underflow_nowhere():
    algorithm = learner(confidence_temperature=0.001)
    policy = algorithm.distribution(algorithm.model, batch_of())
    weights = algorithm._weights(policy, numbers())
    log_p = log_p_of(algorithm.model.users[USERS], algorithm.model.items)
    expected = weights_of(log_p, "entropy", 1.0)
    assert weights.argmax() == expected.argmax()
    assert weights.max() == 1.0


def test_permuted_weights_are_those_of_the_batch_and_differ_between_steps():
    plain, permuted = (learner(confidence=kind) for kind in ("entropy", "permuted"))
    policy = plain.distribution(plain.model, batch_of())
    expected, generator = plain._weights(policy, numbers()), numbers()
    found = [permuted._weights(policy, generator) for _ in range(8)]
    assert all(torch.equal(each.sort().values, expected.sort().values) for each in found)
    assert len({tuple(each.tolist()) for each in found}) > 4


def test_processes_share_one_permutation_of_all_their_states(monkeypatch):
    parts = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0])]
    found = []
    for rank, part in enumerate(parts):

        def gathered(own):
            return torch.cat(parts) if own.is_floating_point() else torch.tensor([3, 2])

        monkeypatch.setattr(ufrec.distributed, "all_gather", gathered)
        monkeypatch.setattr(ufrec.distributed, "data_rank", lambda rank=rank: rank)
        found.append(ufrec._permuted(part, numbers()))
    assert [len(part) for part in found] == [3, 2]
    order = torch.randperm(5, generator=numbers())
    assert torch.equal(torch.cat(found), torch.cat(parts)[order])


# state, next item, the one after, how often
TABLE = [(0, 0, 1, 4), (0, 0, 2, 2), (0, 1, 2, 2), (1, 2, 3, 3), (1, 3, 0, 1), (2, 1, 0, 5)]
TABLE += [(2, 3, 2, 1), (2, 0, 0, 2)]


def frequencies(column):
    counts = torch.zeros(3, 4)
    for row in TABLE:
        counts[row[0], row[column]] += row[3]
    return counts / counts.sum(dim=1, keepdim=True)


def test_the_model_reaches_the_frequencies_of_the_next_item_and_a_head_those_of_its_own():
    # Scores of the model are any table: one-hot states, and one-hot items for the heads.
    users = torch.cat([torch.eye(3), torch.zeros(3, 4)], dim=1)
    items = torch.cat([torch.zeros(4, 3), torch.eye(4)], dim=1)
    model = VectorModel(Embeddings(users, items), history_length=5)
    settings = {"horizon": 2, "future_coef": 0.5, "contrast_coef": 0.0, "temperature": 1.0}
    algorithm = make_algorithm("ufrec", model, **settings)
    model.users.requires_grad_(False)
    head = algorithm.modules["heads"][1]
    torch.nn.init.constant_(head.weight, 1.0)
    rows = [row for row in TABLE for _ in range(row[3])]
    window = [(state, row[k], k) for state, row in enumerate(rows) for k in (1, 2)]
    trained(algorithm, batch_of(window, [row[0] for row in rows], ()), 100, 0.3)
    score = users @ model.items.T
    assert torch.allclose(score.softmax(dim=1), frequencies(1), atol=5e-3)
    later = (functional.relu(head(users)) @ model.items.T).softmax(dim=1)
    assert torch.allclose(later, frequencies(2), atol=2e-2)


DATASET = leave_last_out(cycle(24, 12, length=7))
MODELS = {
    "sasrec": {"dim": 8, "layers": 1, "heads": 2, "inner_dim": 16, "max_length": 6},
    "gru4rec": {"dim": 8, "hidden_dim": 8},
    "gsau": {"dim": 8, "layers": 1, "heads": 2, "inner_dim": 16, "max_length": 6},
}


class Logs(Callback):
    def __init__(self):
        self.rows = []

    def on_step(self, step, logs):
        self.rows.append(logs)


def trainer_of(name, callback=None, **settings):
    args = UFRecConfig(batch_size=48, max_steps=3, select="last", **settings)
    context = RunContext(callback=callback)
    model = build_model(name, DATASET, **MODELS[name])
    return RLTrainer(model, args=args, train_dataset=DATASET, context=context)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("start", ["base", "scratch"])
def test_the_trainer_trains_the_heads_and_serves_the_model_alone(name, start):
    logs = Logs()
    trainer = trainer_of(name, logs, start=start, ema_decay=0.0)
    names = [*trainer.model.state_dict()]
    heads = trainer.algorithm.modules["heads"]
    before = [p.detach().clone() for p in heads.parameters()]
    trainer.train()
    assert [*trainer.model.state_dict()] == names
    assert not any(torch.equal(a, b) for a, b in zip(before, heads.parameters(), strict=True))
    assert {"policy/p_mean", "policy/p_later_mean", "contrast_loss"} <= logs.rows[-1].keys()


def test_a_batch_holds_the_items_of_the_next_k_interactions_and_hides_them():
    trainer = trainer_of("gsau", horizon=3)
    batch = next(iter(trainer.epoch(numbers())))
    users, ends = batch.queries.state_users.tolist(), batch.queries.ends.tolist()
    expected = set()
    for state, (user, end) in enumerate(zip(users, ends, strict=True)):
        following = DATASET.train.row(user)[end : end + 3].tolist()
        expected |= {(state, item, k) for k, item in enumerate(following, start=1)}
    logged = batch.logged
    columns = (logged.states.tolist(), logged.items.tolist(), logged.ahead.tolist())
    assert set(zip(*columns, strict=True)) == expected
    hidden = (part.tolist() for part in batch.queries.hidden[:2])
    assert set(zip(*hidden, strict=True)) == {pair[:2] for pair in expected}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward_funcs": ("next",)}, "reward_funcs has no effect here"),
        ({"reward_smoothing": 0.3}, "reward_smoothing has no effect here"),
        ({"future_coef": 0.0, "confidence": "none"}, "confidence has no effect here"),
        (
            {"confidence": "none", "confidence_temperature": 2.0},
            "confidence_temperature has no effect here",
        ),
        ({"state": "last_prefix"}, "the state 'last_prefix' has one at most"),
        ({"horizon": 1}, "horizon"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        UFRecConfig(**settings)


def test_models_without_vectors_or_without_a_history_are_refused():
    with pytest.raises(ConfigError, match="algorithm 'ufrec' needs a vector"):
        make_algorithm("ufrec", Table(torch.zeros(2, 2)), temperature=1.0)
    model = build_model("lightgcn", DATASET, dim=8)
    with pytest.raises(ConfigError, match="LightGCN reads none; use a model that reads a history"):
        make_algorithm("ufrec", model, temperature=1.0)
