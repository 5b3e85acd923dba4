"""Learn a model of the simulated shop from logged episodes, and train a policy in the model.

`python benchmarks/learned_shop.py [--seeds N …] [--parts model mcrl]`

Part `mcrl` fine-tunes the same base on the log of the shop, by MCRL and its controls. Finished
cells are read from `benchmarks/learned_shop.json`; the tables of docs/results/simulators.md are
written from that file.
"""

import argparse
import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from recoach import PretrainConfig, build_model, evaluate, pretrain
from recoach.data.dataset import Dataset
from recoach.data.split import leave_last_out
from recoach.experiments.trainer import GRPOTrainer
from recoach.models.base import Recommender
from recoach.simulation.bandits import oracle, random_policy, top_unseen
from recoach.simulation.environment import (
    EngagementReward,
    EnvironmentConfig,
    Longs,
    ShopVectorEnv,
)
from recoach.simulation.environment_model import (
    EnvironmentModel,
    LearnedShopEnv,
    LoggedTurns,
    log_turns,
    myopic_policy,
)
from recoach.simulation.episodes import Policy, history_queries, model_policy, run_episodes
from recoach.simulation.shop import BROWSING, Shop, shop
from recoach.training.algorithms.registry import algorithm_entry
from recoach.training.context import RunContext
from recoach.training.online.ppo import OnlinePPOConfig
from recoach.training.online.trainer import OnlineTrainer

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "simulators.md"
RESULTS = ROOT / "benchmarks" / "learned_shop.json"
_START, _END = "<!-- rows: written by benchmarks/learned_shop.py -->", "<!-- end of these rows -->"

REWARD: Final = EngagementReward(click=1.0, turn=0.1, visit=1.0)
CONFIG: Final = EnvironmentConfig(list_length=5, max_turns=30)
LOGGED_EPISODES, TEST_SEED = 8, 1000
GROUPS: Final = ("train", "select")
_PPO: Final[dict[str, Any]] = {
    "gamma": 0.9,
    "learning_rate": 1e-3,
    "minibatch_size": 512,
    "entropy_coef": 0.0,
}
IN_MODEL: Final = OnlinePPOConfig(**_PPO, max_steps=16, eval_steps=4)
IN_SHOP: Final = OnlinePPOConfig(**_PPO, max_steps=LOGGED_EPISODES, eval_steps=2)
"""As many episodes as were logged for the model."""
_TUNED: Final[dict[str, Any]] = {"max_steps": 60, "eval_steps": 10, "batch_size": 512}
TUNED: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "cross-entropy (`sft`)": ("sft", {"reward_funcs": ("next",), "horizon": 1}),
    "`sqn`, random target": ("sqn", {"target": "random"}),
    "`snqn`": ("snqn", {"num_negatives": 4}),
    "`mcrl`": ("mcrl", {}),
    "`mcrl`, `reward_coef = 0`": ("mcrl", {"reward_coef": 0.0}),
    "`mcrl`, `transition_coef = 0`": ("mcrl", {"transition_coef": 0.0}),
    "`mcrl`, `conservative_coef = 0`": ("mcrl", {"conservative_coef": 0.0}),
}

Cells = dict[str, Any]


class World(NamedTuple):
    """A shop, a base trained on its log, and three groups of customers."""

    shop: Shop
    dataset: Dataset
    base: Recommender
    context: RunContext

    def env(self, group: str, model: EnvironmentModel | None = None) -> ShopVectorEnv:
        """Return the customers of a group in the shop or in a model of it."""
        start, stop = {"train": (0, 100), "select": (100, 200), "test": (200, 400)}[group]
        users = np.arange(start, stop)
        if model is None:
            return ShopVectorEnv(self.shop, self.dataset, CONFIG, users, REWARD)
        return LearnedShopEnv(model, self.shop, self.dataset, CONFIG, users, REWARD)


def main() -> None:
    """Run what has no result yet, and write the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parts", nargs="+", default=["model", "mcrl"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cells: Cells = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for seed in arguments.seeds:
        for part, run in (("model", run_model), ("mcrl", run_mcrl)):
            key = f"{part}/{seed}"
            if part in arguments.parts and key not in cells:
                print(key, flush=True)
                began = os.times().user
                rows = run(build_world(seed), seed)
                cells[key] = rows | {"cpu_seconds": round(os.times().user - began, 1)}
                RESULTS.write_text(json.dumps(cells, indent=1) + "\n")
    write_page(cells)


def build_world(seed: int) -> World:
    """Return the shop of a seed and its trained base."""
    simulated = shop(400, 200, seed, habits=BROWSING)
    dataset = leave_last_out(simulated.interactions)
    base = build_model("sasrec", dataset, seed=seed, dim=16, inner_dim=64)
    context = RunContext(progress=False, seed=seed)
    pretrain(base, dataset, PretrainConfig(epochs=20, learning_rate=5e-3, patience=2), context)
    return World(simulated, dataset, base, context)


def run_model(world: World, seed: int) -> dict[str, Any]:
    """Return the test episodes of each policy, in the shop and in the model of it."""
    model, likelihoods = learn_model(world, seed)
    test, learned = world.env("test"), world.env("test", model)
    in_model, model_turns = trained(world, IN_MODEL, model)
    in_shop, shop_turns = trained(world, IN_SHOP, None)
    policies: dict[str, Callable[[], Policy]] = {
        "random": lambda: random_policy(seed),
        "base": lambda: model_policy(world.base),
        "base + PPO in the shop": lambda: model_policy(in_shop),
        "myopic policy of the model": lambda: myopic_policy(model),
        "base + PPO in the model": lambda: model_policy(in_model),
    }
    rows = {name: played(test, policy()) for name, policy in policies.items()}
    for name, policy in policies.items():
        rows[name]["in_model"] = played(learned, policy())["engagement"]
    rows["oracle: next click"] = played(test, oracle)
    turns = {"logged": likelihoods.pop("turns"), "shop": shop_turns, "model": model_turns}
    return {"policies": rows, "likelihoods": likelihoods, "turns": turns}


def learn_model(world: World, seed: int) -> tuple[EnvironmentModel, dict[str, Any]]:
    """Fit a model to episodes of drawn lists, and compare it with constant rates on others."""
    model, env = EnvironmentModel(world.base, seed=seed), world.env("train")
    policy = drawn_lists(world.base, seed)
    first = 100 * (seed + 1)
    logs = [log_turns(env, policy, model, first + k) for k in range(LOGGED_EPISODES + 1)]
    turns = LoggedTurns(*(torch.cat(part) for part in zip(*logs[:-1], strict=True)))
    model.fit(turns)
    with torch.no_grad():
        losses = {name: float(loss) for name, loss in model.losses(logs[-1]).items()}
    left, returned = logs[-1].left, logs[-1].returned
    rates = {"leave": float(left.float().mean()), "return": float(returned[left].float().mean())}
    constant = {k: -p * np.log(p) - (1 - p) * np.log(1 - p) for k, p in rates.items()}
    return model, {"turns": len(turns.choices), "model": losses, "constant": constant}


def drawn_lists(base: Recommender, seed: int) -> Policy:
    """Return the policy that draws lists from the softmax of the base (Plackett-Luce)."""
    rng = np.random.default_rng(seed)

    @torch.no_grad()
    def policy(observations: Longs, env: ShopVectorEnv) -> Longs:
        scores = base.score(history_queries(base, observations, env.users, None)).numpy()
        return top_unseen(scores + rng.gumbel(size=scores.shape), env)

    return policy


def trained(
    world: World, args: OnlinePPOConfig, model: EnvironmentModel | None
) -> tuple[Recommender, int]:
    """Return the base after PPO in the shop, or in a model of it, and the turns played for it."""
    policy, env, other = copy.deepcopy(world.base), *(world.env(g, model) for g in GROUPS)
    trainer = OnlineTrainer(policy, env, args, eval_env=other, context=world.context)
    trainer.train()
    return policy, trainer.interactions


def played(env: ShopVectorEnv, policy: Policy) -> dict[str, float]:
    """Return the means of one episode of every customer."""
    result = run_episodes(env, policy, TEST_SEED)
    returns = REWARD.turn * result.turns + REWARD.visit * (result.sessions - 1)
    return {
        "engagement": float(result.reward.mean()),
        "clicks": float((result.reward - returns).mean()) / REWARD.click,
        "lists": float(result.turns.mean()),
        "visits": float(result.sessions.mean()),
        "coverage": result.coverage,
    }


def run_mcrl(world: World, seed: int) -> dict[str, Any]:
    """Return the base and its fine-tunings on the log: accuracy there, episodes in the shop."""
    rows = {"base": log_row(world, world.base)}
    for label, (name, changes) in TUNED.items():
        model = copy.deepcopy(world.base)
        args = algorithm_entry(name).config(**_TUNED | {"mask_seen": True} | changes)
        context, began = RunContext(progress=False, seed=seed), os.times().user
        GRPOTrainer(model, args=args, train_dataset=world.dataset, context=context).train()
        rows[label] = log_row(world, model) | {"cpu": os.times().user - began}
    return {"policies": rows}


def log_row(world: World, model: Recommender) -> dict[str, float]:
    """Return the accuracy on the test items of the log, and the episodes in the shop."""
    means = evaluate(model, world.dataset, ks=(10,)).means()
    return played(world.env("test"), model_policy(model)) | {"ndcg": means["ndcg@10"]}


def write_page(cells: Cells) -> None:
    """Replace the tables of the page."""
    head, _, rest = PAGE.read_text().partition(_START)
    _, _, tail = rest.partition(_END)
    parts = {"model": (model_table, likelihood_table), "mcrl": (mcrl_table,)}
    present = {key.partition("/")[0] for key in cells}
    tables = "\n\n".join(table(cells) for part in parts if part in present for table in parts[part])
    PAGE.write_text(f"{head}{_START}\n\n{tables}\n\n{_END}{tail}")


def model_table(cells: Cells) -> str:
    """Return the table of the policies in the shop and in the model of it."""
    runs = [run for key, run in cells.items() if key.startswith("model/")]
    columns = ("policy", "turns in the shop", "turns in the model", "engagement")
    columns += ("the same in the model", "clicks", "lists", "visits", "coverage")
    rows = [f"| {' | '.join(columns)} |", f"|---|{'---:|' * 8}"]
    turns = {name: [run["turns"][name] for run in runs] for name in ("logged", "shop", "model")}
    used = {
        "base + PPO in the shop": ("shop", None),
        "myopic policy of the model": ("logged", None),
        "base + PPO in the model": ("logged", "model"),
    }
    for name in runs[0]["policies"] if runs else ():
        each = [run["policies"][name] for run in runs]
        counts = [f"{np.mean(turns[u]):,.0f}" if u else "–" for u in used.get(name, (None, None))]
        inside = spread(each, "in_model") if "in_model" in each[0] else "–"
        rows.append(
            f"| {name} | {' | '.join(counts)} | {spread(each, 'engagement')} | {inside} | "
            f"{spread(each, 'clicks')} | {mean(each, 'lists'):.1f} | {mean(each, 'visits'):.2f} | "
            f"{mean(each, 'coverage'):.2f} |"
        )
    return "\n".join(rows)


def likelihood_table(cells: Cells) -> str:
    """Return the table of the model's likelihoods of episodes it was not fitted to."""
    runs = [run["likelihoods"] for key, run in cells.items() if key.startswith("model/")]
    rows = ["| head | -log p, model | -log p, constant rate |", "|---|---:|---:|"]
    for head in ("response", "leave", "return") if runs else ():
        constant = [run["constant"] for run in runs]
        rates = f"{mean(constant, head):.3f}" if head in constant[0] else "–"
        rows.append(f"| {head} | {mean([run['model'] for run in runs], head):.3f} | {rates} |")
    return "\n".join(rows)


def mcrl_table(cells: Cells) -> str:
    """Return the table of MCRL and its controls."""
    runs = [run["policies"] for key, run in cells.items() if key.startswith("mcrl/")]
    rows = ["| model | NDCG@10 of the log | minus `sft` | clicks | CPU seconds |"]
    rows += ["|---|---:|---:|---:|---:|"]
    for name in runs[0] if runs else ():
        each = [run[name] for run in runs]
        control = [run[next(iter(TUNED))]["ndcg"] for run in runs]
        each = [row | {"gain": row["ndcg"] - c} for row, c in zip(each, control, strict=True)]
        seconds = f"{mean(each, 'cpu'):.0f}" if "cpu" in each[0] else "–"
        rows.append(
            f"| {name} | {spread(each, 'ndcg', 4)} | {spread(each, 'gain', 4)} | "
            f"{spread(each, 'clicks')} | {seconds} |"
        )
    return "\n".join(rows)


def mean(rows: list[dict[str, Any]], name: str) -> float:
    """Return the mean of a value."""
    return float(np.mean([row[name] for row in rows]))


def spread(rows: list[dict[str, Any]], name: str, digits: int = 2) -> str:
    """Return the mean over seeds and its standard error."""
    values = np.array([row[name] for row in rows])
    error = f" ± {values.std(ddof=1) / len(values) ** 0.5:.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{error}"


if __name__ == "__main__":
    main()
