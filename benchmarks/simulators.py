"""Train policies by acting in SARDINE and in the simulated shop, and compare them with rules.

`python benchmarks/simulators.py [--seeds N] [--parts NAME …]`

Needs `pip install sardine-rec==1.0.8` (see sardine_env.py) for all parts but `shop`. Finished cells
are read from `benchmarks/simulators.json`, so an interrupted run goes on where it stopped; the
tables of docs/results/simulators.md are written from that file.
"""

import argparse
import copy
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sardine_env import SardineVectorEnv, capped_list
from torch.nn import functional

from recoach.data.split import leave_last_out
from recoach.models.base import Recommender
from recoach.models.registry import build_model
from recoach.simulation.bandits import oracle, random_policy
from recoach.simulation.environment import EnvironmentConfig, ShopVectorEnv
from recoach.simulation.episodes import run_episodes
from recoach.simulation.shop import BROWSING, shop
from recoach.training.context import RunContext
from recoach.training.online.actor_critic import OnlineActorCriticConfig
from recoach.training.online.config import OnlineConfig
from recoach.training.online.dqn import OnlineDQNConfig
from recoach.training.online.observation_model import build_observation_model
from recoach.training.online.ppo import OnlinePPO, OnlinePPOConfig
from recoach.training.online.reinforce import OnlineReinforceConfig
from recoach.training.online.rollouts import (
    Choice,
    EpisodeMeans,
    collect_episodes,
    episode_means,
)
from recoach.training.online.states import States, queries_of_states
from recoach.training.online.trainer import OnlineTrainer, evaluate_policy
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "simulators.md"
RESULTS = ROOT / "benchmarks" / "simulators.json"
_START, _END = "<!-- rows: written by benchmarks/simulators.py -->", "<!-- end of rows -->"

SINGLE, SLATES = "SingleItem-BoredInf-v0", "SlateTopK-Bored-v0"
TEST_EPISODES, TEST_SEED = 50, 1000
PUBLISHED = {
    SINGLE: (8.3, 50.6, 69.2, 73.4, 74.6, 74.8),
    SLATES: (42.2, 142.6, 106.7, 213.0, 339.5, 451.5),
}
"""Returns of an earlier, independent computation: random, myopic oracle, topic cap 1 to 4."""
RULES = ("random", "myopic oracle", "topic cap 1", "topic cap 2", "topic cap 3", "topic cap 4")

RANDOM_ROLLOUTS = 20
"""Rollouts of 16 episodes with random items, from which the base learns clicks."""
_PPO: dict[str, Any] = {
    "eval_steps": 5,
    "max_steps": 50,
    "learning_rate": 6e-4,
    "critic_learning_rate": 3e-3,
    "minibatch_size": 400,
    "num_epochs": 6,
    "target_kl": 0.04,
    "entropy_coef": 0.0,
}
LEARNERS: dict[str, tuple[bool, OnlineConfig | None]] = {
    "base: clicks of random lists": (True, None),
    "base + DQN": (
        True,
        OnlineDQNConfig(
            eval_steps=5,
            max_steps=60,
            learning_rate=1e-3,
            gamma=0.8,
            updates_per_step=100,
            epsilon_start=0.3,
            epsilon_steps=20,
            tau=0.02,
        ),
    ),
    "base + PPO": (True, OnlinePPOConfig(**_PPO, gamma=0.9, gae_lambda=0.9)),
    "base + PPO, next click only": (True, OnlinePPOConfig(**_PPO, gamma=0.0, gae_lambda=0.0)),
}
"""Whether training starts from the base, and settings; item vectors and user states are known."""
_SHOP: dict[str, Any] = {"eval_steps": 5, "gamma": 0.9, "learning_rate": 3e-4, "max_steps": 25}
SHOP_LEARNERS: dict[str, OnlineConfig] = {
    "+ PPO": OnlinePPOConfig(**_SHOP, minibatch_size=512),
    "+ REINFORCE": OnlineReinforceConfig(**_SHOP | {"learning_rate": 1e-3}),
    "+ actor-critic": OnlineActorCriticConfig(**_SHOP | {"learning_rate": 1e-3}),
}
"""Trained in the shop from a base that was trained on its log."""

Cells = dict[str, Any]


def main() -> None:
    """Run what has no result yet, and write the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--parts", nargs="+", default=["rules", "sardine", "shop"])
    parser.add_argument("--only", nargs="+", choices=LEARNERS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cells: Cells = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if "rules" in arguments.parts:
        for name in (SINGLE, SLATES):
            for rule in RULES:
                cell(cells, f"{name}/{rule}", lambda n=name, r=rule: run_rule(n, r))
    for seed in arguments.seeds:
        if "sardine" in arguments.parts:
            for label in arguments.only or LEARNERS:
                key = f"{SINGLE}/{label}/{seed}"
                cell(cells, key, lambda name=label, s=seed: learn_sardine(name, s))
        if "shop" in arguments.parts:
            cell(cells, f"shop/{seed}", lambda s=seed: run_shop(s))
    write_page(cells)


def cell(cells: Cells, key: str, run: Callable[[], Any]) -> None:
    """Run a cell that has no result and store it."""
    if key in cells:
        return
    print(key, flush=True)
    before, wall = os.times(), time.monotonic()
    cells[key] = run()
    after = os.times()
    cells[key] |= {
        "cpu_seconds": round(after.user - before.user, 1),
        "seconds": round(time.monotonic() - wall, 1),
    }
    RESULTS.write_text(json.dumps(cells, indent=1) + "\n")


def described(means: EpisodeMeans) -> dict[str, Any]:
    """Return the means and standard errors of episodes as plain numbers."""
    returns = means.returns.double()
    return {
        "return": float(returns.mean()),
        "error": float(returns.std() / len(returns) ** 0.5),
        "turns": float(means.turns.mean()),
        "coverage": means.coverage,
        "repeats": means.repeats,
    }


def run_rule(name: str, rule: str) -> dict[str, Any]:
    """Return the episodes of a policy that knows the environment, or of random items."""
    env = SardineVectorEnv(name, TEST_EPISODES)
    rng, length = np.random.default_rng(0), env.users[0].slate_size
    n_items = len(env.item_topics)
    cap = int(rule[-1]) if rule.startswith("topic") else 0

    def lists() -> np.ndarray:
        if rule == "random":
            return rng.integers(n_items, size=(env.num_envs, length))
        rows = range(env.num_envs)
        pairs = ((env.relevances(row), env.recent_clicks(row)) for row in rows)
        return np.stack([capped_list(r, env.item_topics, c, length, cap) for r, c in pairs])

    def act(states: States) -> Choice:
        return Choice(torch.from_numpy(lists()), torch.zeros(states.n_states))

    rollout = collect_episodes(env, act, TEST_SEED)
    return described(episode_means(rollout, n_items))


def learn_sardine(label: str, seed: int) -> dict[str, Any]:
    """Train on SARDINE and play the test episodes."""
    has_base, args = LEARNERS[label]
    env, eval_env = SardineVectorEnv(SINGLE, 16), SardineVectorEnv(SINGLE, 16)
    features = torch.tensor(env.item_vectors, dtype=torch.float32)
    model = build_observation_model(
        3 * env.n_topics, len(features), item_features=features, seed=seed, dim=16
    )
    interactions, test, extra = 0, SardineVectorEnv(SINGLE, TEST_EPISODES), dict[str, Any]()
    if has_base:
        interactions = learn_clicks(model, env, seed)
    if args is not None:
        context = RunContext(progress=False, seed=seed)
        trainer = OnlineTrainer(model, env, args, eval_env=eval_env, context=context)
        result = trainer.train()
        interactions += trainer.interactions
        history = [(row["step"], row["valid/return"]) for row in trainer.state.log_history]
        extra = {"best_step": result.best_step, "history": history}
    policy = OnlinePPO(OnlinePPOConfig(), model, test, seed)
    generator = torch.Generator().manual_seed(seed)
    drawn = collect_episodes(test, lambda s: policy.act(s, generator), TEST_SEED)
    extra["drawn"] = described(episode_means(drawn, len(features)))
    no_repeat = described(evaluate_policy(model, test, TEST_SEED, no_repeat=True))
    played = described(evaluate_policy(model, test, TEST_SEED))
    return played | extra | {"no_repeat": no_repeat["return"], "interactions": interactions}


def learn_clicks(
    model: Recommender, env: SardineVectorEnv, seed: int, rollouts: int = RANDOM_ROLLOUTS
) -> int:
    """Fit the scores to the clicks of random items by logistic regression; return the turns.

    It is a model of the next click, as trained on a log, and has never seen what repeating a topic
    does beyond that.
    """
    generator, n_items = torch.Generator().manual_seed(seed), len(env.item_topics)

    def act(states: States) -> Choice:
        items = torch.randint(n_items, (states.n_states, 1), generator=generator)
        return Choice(items, torch.zeros(states.n_states))

    parts = []
    for number in range(rollouts):
        rollout = collect_episodes(env, act, 10_000 * (seed + 1) + 100 * number)
        rows = rollout.rows
        actions, clicks = rollout.actions.flatten(0, 1)[rows], rollout.rewards.flatten()[rows]
        parts.append((*rollout.states.select(rows), actions, clicks))
    *states, actions, clicks = (torch.cat(one) for one in zip(*parts, strict=True))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(12):
        for part in torch.randperm(len(clicks), generator=generator).split(512):
            queries = queries_of_states(model, States(*states).select(part))
            scores = model.score(queries, actions[part])[:, 0]
            loss = functional.binary_cross_entropy_with_logits(scores, clicks[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return len(clicks)


def run_shop(seed: int) -> dict[str, Any]:
    """Train in a shop, from a base trained on its log, and play episodes of other customers."""
    simulated = shop(600, 300, seed, habits=BROWSING)
    dataset = leave_last_out(simulated.interactions)
    config = EnvironmentConfig(max_turns=50)
    groups = [np.arange(start, stop) for start, stop in ((0, 100), (100, 200), (200, 600))]
    env, eval_env, test = (ShopVectorEnv(simulated, dataset, config, users) for users in groups)
    base = build_model("sasrec", dataset, seed=seed, dim=32, inner_dim=128)
    quiet = RunContext(progress=False, seed=seed)
    pretrain(base, dataset, PretrainConfig(epochs=30, learning_rate=5e-3, patience=2), quiet)
    rows: dict[str, Any] = {"base": shop_row(base, test)}
    for name, policy in (("random", random_policy(seed)), ("oracle", oracle)):
        result = run_episodes(test, policy, TEST_SEED)
        rows[name] = {
            "return": float(result.reward.mean()),
            "error": float(result.reward.std(ddof=1) / len(result.reward) ** 0.5),
            "turns": float(result.turns.mean()),
            "coverage": result.coverage,
        }
    for label, args in SHOP_LEARNERS.items():
        model, began = copy.deepcopy(base), os.times()
        trainer = OnlineTrainer(model, env, args, eval_env=eval_env, context=quiet)
        trained = trainer.train()
        rows[label] = shop_row(model, test) | {
            "interactions": trainer.interactions,
            "best_step": trained.best_step,
            "cpu": round(os.times().user - began.user, 1),
        }
    return {"policies": rows}


def shop_row(model: Recommender, env: ShopVectorEnv) -> dict[str, Any]:
    """Return the test episodes of a model, with and without repetitions."""
    no_repeat = described(evaluate_policy(model, env, TEST_SEED, no_repeat=True))
    return described(evaluate_policy(model, env, TEST_SEED)) | {"no_repeat": no_repeat["return"]}


def write_page(cells: Cells) -> None:
    """Replace the tables of the page."""
    text = PAGE.read_text()
    head, _, rest = text.partition(_START)
    _, _, tail = rest.partition(_END)
    tables = [rules_table(cells), learners_table(cells), shop_table(cells)]
    PAGE.write_text(f"{head}{_START}\n\n" + "\n\n".join(tables) + f"\n\n{_END}{tail}")


def rules_table(cells: Cells) -> str:
    """Return the table of the rules, beside the values of an earlier computation."""
    rows = ["| environment | policy | return | earlier computation | coverage | repeated items |"]
    rows += ["|---|---|---:|---:|---:|---:|"]
    for name in (SINGLE, SLATES):
        for rule, published in zip(RULES, PUBLISHED[name], strict=True):
            if one := cells.get(f"{name}/{rule}"):
                rows.append(
                    f"| {name} | {rule} | {one['return']:.1f} ± {one['error']:.1f} | "
                    f"{published:.1f} | {one['coverage']:.3f} | {one['repeats']:.0%} |"
                )
    return "\n".join(rows)


def learners_table(cells: Cells) -> str:
    """Return the table of trained policies, means over seeds."""
    rows = [
        "| policy | seeds | return | drawn from the softmax | without repetitions | coverage | "
        "turns played | CPU seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for label in LEARNERS:
        prefix = f"{SINGLE}/{label}/"
        seeds = [one for key, one in cells.items() if key.startswith(prefix)]
        if seeds:
            drawn = [one["drawn"] for one in seeds if "drawn" in one and label != "base + DQN"]
            rows.append(
                f"| {label} | {len(seeds)} | {spread(seeds, 'return')} | "
                f"{spread(drawn, 'return') if drawn else '–'} | "
                f"{spread(seeds, 'no_repeat')} | {mean(seeds, 'coverage'):.3f} | "
                f"{mean(seeds, 'interactions'):,.0f} | {mean(seeds, 'cpu_seconds'):.0f} |"
            )
    return "\n".join(rows)


def shop_table(cells: Cells) -> str:
    """Return the table of the shop, means over seeds."""
    shops = [one["policies"] for key, one in cells.items() if key.startswith("shop/")]
    head = "| policy | shops | clicks | without repetitions | lists | coverage | turns played |"
    rows = [head, "|---|---:|---:|---:|---:|---:|---:|"]
    for label in shops[0] if shops else ():
        seeds = [one[label] for one in shops]
        no_repeat = spread(seeds, "no_repeat") if "no_repeat" in seeds[0] else "–"
        played = f"{mean(seeds, 'interactions'):,.0f}" if "interactions" in seeds[0] else "–"
        rows.append(
            f"| {label} | {len(seeds)} | {spread(seeds, 'return')} | {no_repeat} | "
            f"{mean(seeds, 'turns'):.1f} | {mean(seeds, 'coverage'):.3f} | {played} |"
        )
    return "\n".join(rows)


def mean(rows: list[dict[str, Any]], name: str) -> float:
    """Return the mean of a value."""
    return float(np.mean([row[name] for row in rows]))


def spread(rows: list[dict[str, Any]], name: str) -> str:
    """Return the mean and its standard error: over seeds, or of one seed over its episodes."""
    values = np.array([row[name] for row in rows])
    if len(values) > 1:
        return f"{values.mean():.1f} ± {values.std(ddof=1) / len(values) ** 0.5:.1f}"
    error = f" ± {rows[0]['error']:.1f}" if name == "return" else ""
    return f"{values[0]:.1f}{error}"


if __name__ == "__main__":
    main()
