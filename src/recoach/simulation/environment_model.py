"""A model of the shop's users that is learned from logged episodes, and the shop with such users.

It is the S-network of FeedRec (Zou et al. 2019) as far as the shop has its quantities:
experimental.
"""

from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recoach.config import StrictConfig
from recoach.data.dataset import Dataset
from recoach.models.base import Recommender, dot_product, frozen_copy
from recoach.simulation.bandits import top_unseen
from recoach.simulation.environment import (
    EngagementReward,
    EnvironmentConfig,
    Floats,
    Longs,
    ShopVectorEnv,
)
from recoach.simulation.episodes import Policy, history_queries
from recoach.simulation.shop import Shop

_RECENT_ITEMS: Final = 10
_RECENCY: Final = 0.8
_SESSION_FEATURES: Final = 3


class EnvironmentModelConfig(StrictConfig):
    """Size and training of an `EnvironmentModel`."""

    hidden_dim: int = Field(default=64, gt=0)
    """Width of the hidden layer of each head."""
    epochs: int = Field(default=10, gt=0)
    """Passes over the logged turns."""
    batch_size: int = Field(default=256, gt=0)
    """Turns of an update."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Step size of Adam."""
    weight_decay: float = Field(default=1.0, ge=0)
    """Decoupled weight decay of Adam (AdamW)."""


class LoggedTurns(NamedTuple):
    """N turns of users who were not terminated."""

    before: Tensor
    """float[N, F], the features of each user before the turn."""
    after: Tensor
    """float[N, F], those after the turn, when the session ends or goes on."""
    lists: Tensor
    """int64[N, list_length], -1 for an empty position."""
    choices: Tensor
    """int64[N], the position of the clicked item; list_length for no click."""
    left: Tensor
    """bool[N], whether the session ended with the turn."""
    returned: Tensor
    """bool[N], whether the user came back for another session then."""

    def select(self, rows: Tensor) -> "LoggedTurns":
        """Return the turns of int64[M] indices or a bool[N] mask."""
        return LoggedTurns(*(part[rows] for part in self))


class EnvironmentModel(nn.Module):
    """Predicts clicks, the end of a session, and the return of a user from what a shop observes.

    Features of a user are the state vector of a trained recommender, the sum of the vectors of the
    last 10 items with weights that fall by 0.8, and the clicks, the turns and the click rate of the
    session. Each head has one hidden layer:

    - response: the softmax over the items of a list and no click; an item's logit is a learned
      multiple of the recommender's score, plus the product of a vector of the features with that of
      the item, plus a number per item;
    - leave: the probability that the session ends after a turn;
    - return: the probability that a user whose session has ended comes back.

    Experimental. Departures from FeedRec, whose equations could not be read: its dwell time and
    time until return are not simulated; its network of skips, clicks and orders is the recommender;
    it reweights logged turns to the trained policy and refits the model while the policy is
    trained, and here the model is fitted once, to the log as it is. The comparison of returns in
    the model and in the environment tells what that costs.

    Args:
        recommender: a dot-product model, of which a frozen copy is read.
        config: sizes and training.
        seed: of the initial weights and of the order of the turns.

    Raises:
        ConfigError: the recommender's scores are no dot products.
    """

    mean: Tensor
    deviation: Tensor
    item_vectors: Tensor

    def __init__(
        self, recommender: Recommender, config: EnvironmentModelConfig | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.config, self._seed = config or EnvironmentModelConfig(), seed
        self.recommender = frozen_copy(dot_product(recommender, "A model of an environment"))
        nobody = np.full((1, 1), self.recommender.n_items)
        with torch.no_grad():
            queries = history_queries(self.recommender, nobody, np.zeros(1, np.int64), None)
            self.register_buffer("item_vectors", self.recommender.embed(queries).items.clone())
        n_items, dim = self.item_vectors.shape
        width, hidden = 2 * dim + _SESSION_FEATURES, self.config.hidden_dim
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.response = _head(width, hidden, dim + 1)
            self.leave, self.back = _head(width + 1, hidden, 1), _head(width, hidden, 1)
        self.scale = nn.Parameter(torch.ones(()))
        self.item_bias = nn.Parameter(torch.zeros(n_items))

    @torch.no_grad()
    def features(self, observations: Longs, users: Longs, sessions: Floats) -> Tensor:
        """Return float[m, F], the features of m users.

        Args:
            observations: int64[m, history_length], see `ShopVectorEnv`.
            users: int64[m].
            sessions: float[m, 2], clicks and turns of the session.
        """
        n_items, vectors = self.recommender.n_items, self.item_vectors
        queries = history_queries(self.recommender, observations, users, None)
        state = self.recommender.embed(queries).users
        history = torch.from_numpy(observations)
        lengths = (history != n_items).sum(dim=1, keepdim=True)
        places = lengths - 1 - torch.arange(_RECENT_ITEMS)
        recent = history.gather(1, places.clamp(min=0))
        weights = _RECENCY ** torch.arange(_RECENT_ITEMS) * (places >= 0)
        recent_vectors = (weights[:, :, None] * vectors[recent.clamp(max=n_items - 1)]).sum(dim=1)
        clicks, turns = torch.from_numpy(sessions).float().T
        session = torch.stack([clicks.log1p(), turns.log1p(), clicks / turns.clamp(min=1)], dim=1)
        return torch.cat([state, recent_vectors, session], dim=1)

    def click_logits(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return float[m, n_items] and float[m], the logits of each item and of no click."""
        output = self.response(self._standardised(features))
        query, no_click = output[:, :-1], output[:, -1]
        dim = self.item_vectors.shape[1]
        scores = (self.scale * features[:, :dim] + query) @ self.item_vectors.T
        return scores + self.item_bias, no_click

    def leave_logits(self, features: Tensor, has_click: Tensor) -> Tensor:
        """Return float[m], the log-odds that sessions end, given bool[m] clicks in the turn."""
        inputs = torch.cat([self._standardised(features), has_click.float()[:, None]], dim=1)
        logits: Tensor = self.leave(inputs)[:, 0]
        return logits

    def return_logits(self, features: Tensor) -> Tensor:
        """Return float[m], the log-odds that users whose session has ended return."""
        logits: Tensor = self.back(self._standardised(features))[:, 0]
        return logits

    def losses(self, turns: LoggedTurns) -> dict[str, Tensor]:
        """Return the mean negative log-likelihoods of clicks, of leaving and of returning."""
        length = turns.lists.shape[1]
        items, no_click = self.click_logits(turns.before)
        listed = items.gather(1, turns.lists.clamp(min=0)).masked_fill(turns.lists < 0, -torch.inf)
        logits = torch.cat([listed, no_click[:, None]], dim=1)
        leaving = self.leave_logits(turns.after, turns.choices < length)
        left = turns.left
        returning = self.return_logits(turns.after[left])
        bce = functional.binary_cross_entropy_with_logits
        ended = max(1, int(left.sum()))
        return {
            "response": functional.cross_entropy(logits, turns.choices),
            "leave": bce(leaving, left.float()),
            "return": bce(returning, turns.returned[left].float(), reduction="sum") / ended,
        }

    def fit(self, turns: LoggedTurns) -> None:
        """Minimise the sum of the three losses on logged turns."""
        config, generator = self.config, torch.Generator().manual_seed(self._seed)
        self.mean.copy_(turns.before.mean(dim=0))
        self.deviation.copy_(turns.before.std(dim=0, correction=0).clamp(min=1e-3))
        trained = [p for p in self.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(
            trained, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        for _ in range(config.epochs):
            order = torch.randperm(len(turns.choices), generator=generator)
            for rows in torch.split(order, config.batch_size):
                loss = torch.stack([*self.losses(turns.select(rows)).values()]).sum()
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()

    def _standardised(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.deviation


class LearnedShopEnv(ShopVectorEnv):
    """A shop whose users respond, leave and return as an `EnvironmentModel` predicts.

    Of the shop it reads the users' histories and nothing else: no click probability, preference or
    setting of `EnvironmentConfig` that users follow. Trainers and policies use it as they use the
    shop; the policy `oracle` is then the myopic policy of the model.

    Args:
        model: of the users.
        shop: see `ShopVectorEnv`, as are the others.
        dataset: whose histories begin the episodes.
        config: lengths of lists, episodes and histories.
        users: int64[n].
        reward: what a turn pays.
    """

    def __init__(
        self,
        model: EnvironmentModel,
        shop: Shop,
        dataset: Dataset,
        config: EnvironmentConfig | None = None,
        users: Longs | None = None,
        reward: EngagementReward | None = None,
    ) -> None:
        super().__init__(shop, dataset, config, users, reward)
        self.model = model.eval()

    def item_logits(self, rows: Longs) -> Floats:
        """Return float64[m, n_items], the predicted logits of clicks."""
        return self.click_logits(rows)[0]

    @torch.no_grad()
    def click_logits(self, rows: Longs) -> tuple[Floats, Floats]:
        """Return float64[m, n_items] and float64[m], the predicted logits."""
        items, no_click = self.model.click_logits(observed_features(self.model, self, rows))
        return items.double().numpy(), no_click.double().numpy()

    @torch.no_grad()
    def leave_probabilities(self, rows: Longs, has_click: NDArray[np.bool_]) -> Floats:
        """Return float64[m], the predicted probabilities that sessions end after this turn."""
        features = observed_features(self.model, self, rows)
        logits = self.model.leave_logits(features, torch.from_numpy(has_click))
        return logits.sigmoid().double().numpy()

    @torch.no_grad()
    def return_probabilities(self, rows: Longs) -> Floats:
        """Return float64[m], the predicted probabilities that users return."""
        logits = self.model.return_logits(observed_features(self.model, self, rows))
        return logits.sigmoid().double().numpy()


def observed_features(model: EnvironmentModel, env: ShopVectorEnv, rows: Longs) -> Tensor:
    """Return float[m, F], the features of int64[m] rows of an environment as they are now."""
    return model.features(env.observations[rows], env.users[rows], env.sessions[rows])


def log_turns(
    env: ShopVectorEnv, policy: Policy, model: EnvironmentModel, seed: int
) -> LoggedTurns:
    """Play one episode for every user and return its turns.

    Args:
        env: reset first.
        policy: chooses the lists.
        model: computes the features; it need not be fitted.
        seed: of the environment.
    """
    observations, _ = env.reset(seed=seed)
    parts, done = list[LoggedTurns](), False
    while not done:
        rows = env.active_rows
        before = observed_features(model, env, rows)
        sessions, lists = env.sessions[rows], policy(observations, env)
        observations, _, terminated, truncated, info = env.step(lists)
        clicked = info["clicked"][rows]
        sessions = sessions + np.column_stack([clicked >= 0, np.ones(len(rows))])
        after = model.features(observations[rows], env.users[rows], sessions)
        is_clicked = (lists[rows] == clicked[:, None]) & (clicked >= 0)[:, None]
        length = np.full(len(rows), lists.shape[1])
        choices = np.where(is_clicked.any(axis=1), is_clicked.argmax(axis=1), length)
        outcomes = (lists[rows], choices, info["left"][rows], info["returned"][rows])
        parts.append(LoggedTurns(before, after, *(torch.from_numpy(part) for part in outcomes)))
        done = bool((terminated | truncated).all())
    return LoggedTurns(*(torch.cat(part) for part in zip(*parts, strict=True)))


def myopic_policy(model: EnvironmentModel) -> Policy:
    """Return the policy that shows the unseen items of the highest predicted click logits."""

    @torch.no_grad()
    def policy(observations: Longs, env: ShopVectorEnv) -> Longs:
        features = model.features(observations, env.users, env.sessions)
        return top_unseen(model.click_logits(features)[0].numpy(), env)

    return policy


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return a network with one hidden layer whose outputs are 0 at first."""
    last = nn.Linear(hidden, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), last)
