"""Customers who click, tire, leave and come back: the shop of `data.synthetic` as an environment.

It follows the Gymnasium API. What a log does not hold, and long-term figures need, is assumed
here: a shelf bores those who have just bought from it, nothing to click on makes people leave, and
those who found something come back. A policy is judged by what it does to people over many turns,
not by the next click.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Final, NamedTuple, Protocol, runtime_checkable

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from recoach.data.batches import Seen, histories, user_queries
from recoach.data.split import Dataset, RaggedArray
from recoach.errors import ConfigError
from recoach.evaluation.ranking import top_items
from recoach.models.base import Recommender, eval_mode
from recoach.simulation.shop import Shop, Visitors

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(gt=0)]

_LEAST: Final = 1e-12


@dataclass(frozen=True, slots=True, config=ConfigDict(allow_inf_nan=False))
class Moods:
    """How people behave in front of a list.

    Raises:
        ValidationError: a probability beyond 0..1, or a list, a stay or a memory of nothing.
    """

    list_length: Count = 10
    """Items shown in a turn."""
    outside: float = 4.0
    """Log of how much better than a random item the best must be to be as good as no click."""
    boredom: Annotated[float, Field(ge=0)] = 0.7
    """Log-odds that an item loses for each recent click on its shelf."""
    recovery: Share = 0.9
    """Share of boredom that is left after a turn."""
    leave_after_click: Share = 0.03
    """Probability that a session ends after a click."""
    leave_after_none: Share = 0.25
    """The same after a turn without one."""
    return_at_best: Share = 0.95
    """Probability of another session after one in which every turn had a click."""
    return_at_worst: Share = 0.4
    """The same after one without any click; between them it rises evenly."""
    turns: Count = 100
    """Turns at the most."""
    memory: Count = 50
    """Last items of a user that a policy sees."""


class Customers(VectorEnv[Any, Any, Any]):
    """All customers of a shop at once, as a Gymnasium vector environment.

    An observation is int64[n, memory], the last items of each customer, oldest first, padded on the
    right with n_items; an action is int64[n, list_length], the items shown, -1 for an empty place;
    the reward is 1 for a click. Who does not come back is terminated and earns nothing any more;
    there is no autoreset, and all are reset together. `infos` holds "user" (int64[n]), "clicked"
    (the item, or -1), "left" and "returned".

    Args:
        shop: the truth from which people click.
        dataset: the same log, split; items and users are numbered as in it, and histories begin
            with all of it.
        moods: how people behave.
        users: int64[n] the customers who take part; None for all.

    Raises:
        ConfigError: lists longer than the catalogue.
    """

    def __init__(
        self,
        shop: Shop,
        dataset: Dataset,
        moods: Moods | None = None,
        users: Longs | None = None,
    ) -> None:
        self.shop, self.moods = shop, moods or Moods()
        if self.moods.list_length > dataset.n_items:
            raise ConfigError(
                f"lists of {self.moods.list_length} cannot be shown from {dataset.n_items} items."
            )
        self.users = np.arange(dataset.n_users) if users is None else np.asarray(users)
        self.n_items = dataset.n_items
        self._past = histories(dataset, "future")
        names = sorted(set(shop.item_categories))
        self.shelf = np.array([names.index(name) for name in shop.item_categories])
        """int64[n_items], which a shop knows of its items."""
        self.num_envs = len(self.users)
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = spaces.Box(
            0, self.n_items, (self.moods.memory,), dtype=np.int64
        )
        places = np.full(self.moods.list_length, self.n_items + 1)
        self.single_action_space = spaces.MultiDiscrete(places, start=np.full_like(places, -1))
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Longs, dict[str, Any]]:
        """Put everybody back to where the log leaves them.

        Raises:
            ConfigError: `options` ask for more, such as a part of the customers (`reset_mask`).
        """
        if options:
            raise ConfigError(f"customers are reset all together; {sorted(options)} do nothing.")
        super().reset(seed=seed)
        self._visitors: Visitors = self.shop.visitors().rows(self.users)
        self._visitors.last[:] = -1  # a new session
        self._bored = np.zeros((self.num_envs, int(self.shelf.max()) + 1))
        self._session = np.zeros((self.num_envs, 2))  # clicks, turns
        self.gone = np.zeros(self.num_envs, dtype=np.bool_)
        self._turn = 0
        self._window = _last_items(self._past, self.users, self.moods.memory, self.n_items)
        return self._window.copy(), {"user": self.users.copy()}

    @property
    def seen(self) -> NDArray[np.bool_]:
        """bool[n, n_items], what each customer has clicked so far."""
        seen: NDArray[np.bool_] = self._visitors.seen[:, self.shop.sold]
        return seen

    @property
    def here(self) -> Longs:
        """int64[m], the rows of those who have not gone for good."""
        return np.flatnonzero(~self.gone)

    def worth(self, rows: Longs) -> Floats:
        """Return the truth from which people click: log-odds of each item against a random one.

        Args:
            rows: int64[m] customers.

        Returns:
            float64[m, n_items], boredom taken off.
        """
        lift = self.shop.law(self._visitors.rows(rows)) * self.n_items
        worth: Floats = np.log(np.maximum(lift, _LEAST))
        return worth - self.moods.boredom * self._bored[rows][:, self.shelf]

    def step(
        self, actions: Longs
    ) -> tuple[Longs, Floats, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Show everybody who is still there a list and see what they do.

        Raises:
            ConfigError: a list is too long or too short, or names an item that is not sold.
        """
        here, shown = self.here, np.asarray(actions)
        shape = (self.num_envs, self.moods.list_length)
        least, most = shown.min(initial=0), shown.max(initial=0)
        if shown.shape != shape or least < -1 or most >= self.n_items:
            raise ConfigError(
                f"an action is int64{list(shape)}, items from 0 to {self.n_items - 1} and -1 for "
                f"an empty place; this one has shape {list(shown.shape)}, items from "
                f"{least} to {most}."
            )
        # Drawn for everybody: whoever goes leaves the others' luck as it is.
        luck = self.np_random.random((3, self.num_envs))
        clicked = np.full(self.num_envs, -1)
        clicked[here] = self._choose(here, shown[here], luck[0])
        some = clicked >= 0
        self._take(np.flatnonzero(some), clicked[some])
        left, returned = self._leave(here, some[here], luck[1:])
        self._turn += 1
        late = np.full(self.num_envs, self._turn >= self.moods.turns) & ~self.gone
        info = {"user": self.users.copy(), "clicked": clicked, "left": left, "returned": returned}
        return self._window.copy(), some.astype(np.float64), self.gone.copy(), late, info

    def _choose(self, rows: Longs, shown: Longs, luck: Floats) -> Longs:
        """Draw what is clicked, -1 for nothing; an item shown twice counts once."""
        worth = np.take_along_axis(self.worth(rows), shown, axis=1)
        order = np.sort(shown, axis=1)
        if (order[:, 1:] == order[:, :-1]).any():
            worth[_repeated(shown)] = -np.inf
        worth[shown < 0] = -np.inf
        weights = np.exp(np.column_stack([worth, np.full(len(rows), self.moods.outside)]))
        cumulated = weights.cumsum(axis=1)
        mark = luck[rows, None] * cumulated[:, -1:]
        place = (cumulated <= mark).sum(axis=1)
        items = np.column_stack([shown, np.full(len(rows), -1)])
        chosen: Longs = items[np.arange(len(rows)), place]
        return chosen

    def _take(self, rows: Longs, items: Longs) -> None:
        self._bored *= self.moods.recovery
        places = self.shop.sold[items]
        self._visitors.seen[rows, places] = True
        self._visitors.last[rows] = places
        self._bored[rows, self.shelf[items]] += 1
        full = self._window[rows, -1] != self.n_items
        self._window[rows[full]] = np.roll(self._window[rows[full]], -1, axis=1)
        ends = np.where(full, self.moods.memory - 1, (self._window[rows] != self.n_items).sum(1))
        self._window[rows, ends] = items

    def _leave(
        self, here: Longs, clicked: NDArray[np.bool_], luck: Floats
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """End sessions, and decide who comes back to another."""
        moods = self.moods
        self._session[here] += np.column_stack([clicked, np.ones(len(here))])
        chance = np.where(clicked, moods.leave_after_click, moods.leave_after_none)
        leaving = here[luck[0, here] < chance]
        found = self._session[leaving, 0] / self._session[leaving, 1]
        likely = moods.return_at_worst + found * (moods.return_at_best - moods.return_at_worst)
        back = luck[1, leaving] < likely
        self.gone[leaving[~back]] = True
        again = leaving[back]
        fresh = self.np_random.normal(size=self._visitors.taste.shape)
        self._visitors.change_taste(again, self.shop.habits.drift, fresh[again])
        self._visitors.last[again] = -1
        self._session[again] = 0
        left, returned = np.zeros((2, self.num_envs), dtype=np.bool_)
        left[leaving], returned[again] = True, True
        return left, returned


class Customer(gymnasium.Env[Longs, Longs]):
    """One customer, another at every reset: the same shop for tools that know no vectors."""

    def __init__(self, shop: Shop, dataset: Dataset, moods: Moods | None = None) -> None:
        self._world = (shop, dataset, moods)
        self._one = Customers(*self._world, users=np.array([0]))
        self.observation_space = self._one.single_observation_space
        self.action_space = self._one.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Longs, dict[str, Any]]:
        """Begin with another customer, drawn by the seed."""
        super().reset(seed=seed)
        user = self.np_random.integers(self._world[1].n_users, size=1)
        self._one = Customers(*self._world, users=user)
        seen, info = self._one.reset(seed=int(self.np_random.integers(2**31)), options=options)
        return seen[0], _first(info)

    def step(self, action: Longs) -> tuple[Longs, float, bool, bool, dict[str, Any]]:
        """Show a list to the customer."""
        seen, rewards, ends, late, info = self._one.step(np.asarray(action)[None])
        return seen[0], float(rewards[0]), bool(ends[0]), bool(late[0]), _first(info)


class Stay(NamedTuple):
    """What became of each customer under a policy."""

    reward: Floats
    """[n] clicks in all."""
    turns: Floats
    """[n] lists looked at."""
    sessions: Floats
    """[n] visits."""
    return_rate: float
    """Share of the sessions that ended after which people came back."""
    coverage: float
    """Share of the catalogue that was shown to anybody."""


Policy = Callable[[Longs, Customers], Longs]
"""Chooses int64[n, list_length] from what is observed; customers tell `users` and `seen`."""


@runtime_checkable
class Learner(Protocol):
    """A policy that learns while it serves."""

    def learn(self, observed: Longs, lists: Longs, clicked: Longs) -> None:
        """Take in what was shown to whom, and the item each one clicked, -1 for none."""


def play(customers: Customers, policy: Policy, seed: int) -> Stay:
    """Let a policy serve everybody until the last one has gone, or the turns are over.

    Args:
        customers: put back to the start first.
        policy: asked in every turn; one with a method `learn` is told what came of its lists:
            `learn(observed, lists, clicked)`, of those who were there, -1 for no click.
        seed: of what people do; the same seed gives each customer the same luck under any policy.
    """
    observed, _ = customers.reset(seed=seed)
    reward, turns = np.zeros((2, customers.num_envs))
    sessions = np.ones(customers.num_envs)
    shown = np.zeros(customers.n_items, dtype=np.bool_)
    left = returned = 0
    over = False
    while not over:
        here = ~customers.gone
        lists = policy(observed, customers)
        shown[lists[here][lists[here] >= 0]] = True
        turns += here
        before, (observed, clicks, gone, late, info) = observed, customers.step(lists)
        if isinstance(policy, Learner):
            policy.learn(before[here], lists[here], info["clicked"][here])
        reward += clicks
        sessions += info["returned"]
        left, returned = left + info["left"].sum(), returned + info["returned"].sum()
        over = bool((gone | late).all())
    return Stay(reward, turns, sessions, float(returned / max(1, left)), float(shown.mean()))


def served_by(model: Recommender) -> Policy:
    """Return the policy that shows the best unseen items of a model."""

    @torch.no_grad()
    def choose(observed: Longs, customers: Customers) -> Longs:
        lengths = (observed != customers.n_items).sum(axis=1)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        past = RaggedArray(offsets, observed[observed != customers.n_items].astype(np.int32))
        rows, length = np.arange(len(observed)), model.history_length or observed.shape[1]
        queries = user_queries(past, rows, length, customers.n_items, mask_seen=False)
        pairs = (torch.from_numpy(index.copy()) for index in np.nonzero(customers.seen))
        users = torch.from_numpy(customers.users.astype(np.int64))
        queries = replace(queries, users=users, seen=Seen(*pairs)).to(model.device)
        with eval_mode(model):
            vectors = model.embed(queries)
        best = top_items(*vectors, customers.moods.list_length, queries.seen).items
        return best.cpu().numpy()

    return choose


def _last_items(past: RaggedArray, users: Longs, memory: int, pad: int) -> Longs:
    window = np.full((len(users), memory), pad, dtype=np.int64)
    for row, user in enumerate(users.tolist()):
        items = past.row(user)[-memory:]
        window[row, : len(items)] = items
    return window


def _repeated(shown: Longs) -> NDArray[np.bool_]:
    """Return where a row shows an item for the second time or later."""
    order = np.argsort(shown, axis=1, kind="stable")
    ranked = np.take_along_axis(shown, order, axis=1)
    again = np.zeros(shown.shape, dtype=np.bool_)
    np.put_along_axis(again, order[:, 1:], ranked[:, 1:] == ranked[:, :-1], axis=1)
    return again


def _first(info: dict[str, Any]) -> dict[str, Any]:
    return {name: values[0] for name, values in info.items()}
