"""Compare DQN with the best rule in SARDINE's worlds with boredom, over seeds.

`python benchmarks/boredom.py [--seeds N …]`

Needs `pip install sardine-rec==1.0.8` (see sardine_env.py). Finished cells are read from
`benchmarks/boredom.json`, so an interrupted run goes on where it stopped; the table of
docs/results/simulators.md is written from that file.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from sardine_env import Floats, SardineVectorEnv, capped_list
from scipy import stats
from simulators import (
    PAGE,
    RANDOM_ROLLOUTS,
    ROOT,
    SINGLE,
    TEST_EPISODES,
    TEST_SEED,
    described,
    learn_clicks,
)

from recoach.models.base import Recommender
from recoach.training.context import RunContext
from recoach.training.online.dqn import OnlineDQNConfig
from recoach.training.online.observation_model import ObservationModel, build_observation_model
from recoach.training.online.rollouts import Choice, collect_episodes, episode_means
from recoach.training.online.states import States, queries_of_states
from recoach.training.online.trainer import OnlineTrainer, evaluate_policy

RESULTS: Final = ROOT / "benchmarks" / "boredom.json"
_START, _END = "<!-- rows: written by benchmarks/boredom.py -->", "<!-- end of these rows -->"

WORLDS: Final = (SINGLE, f"{SINGLE}, boredom drawn")
"""The second has another threshold and window of boredom for each seed."""
CAPS: Final = (1, 2, 3, 4, 5)
VALID_EPISODES, VALID_SEED = 48, 5000
"""Episodes of other users than those of the test, which select weights and caps."""
DQN: Final = OnlineDQNConfig(
    eval_steps=20,
    max_steps=300,
    learning_rate=1e-3,
    gamma=0.8,
    updates_per_step=100,
    epsilon_start=0.3,
    epsilon_end=0.02,
    epsilon_steps=60,
    tau=0.02,
    buffer_size=200_000,
)
EQUAL_ROLLOUTS: Final = RANDOM_ROLLOUTS + DQN.max_steps
"""Rollouts of random items for a base that has as many turns as DQN with its base."""
BASE, FAIR = "base", "base, topic cap"
LARGE, LARGE_CAP = "base of as many turns as DQN", "base of as many turns as DQN, topic cap"
MYOPIC, BEST = "true click probabilities (myopic oracle)", "true click probabilities, topic cap"
TUNED = "base + DQN"
LABELS: Final = (BASE, FAIR, LARGE_CAP, BEST, TUNED)
"""The rows of the table; the others are in the JSON file."""

Cells = dict[str, dict[str, Any]]
Scores = Callable[[States, SardineVectorEnv], Floats]


def main() -> None:
    """Run what has no result yet, and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--worlds", type=int, nargs="+", default=[0, 1])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed in arguments.seeds:
        for number in arguments.worlds:
            key = f"{WORLDS[number]}/{seed}"
            if key not in read_cells():
                print(key, flush=True)
                found = play(number, seed)
                RESULTS.write_text(json.dumps(read_cells() | {key: found}, indent=1) + "\n")
    write_page(read_cells())


def read_cells() -> Cells:
    """Return the finished cells."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def boredom_of(number: int, seed: int) -> dict[str, int]:
    """Return the settings of a world that differ from the registered ones.

    A topic bores after `boredom_threshold` clicks within `boredom_moving_window` turns, and for as
    many turns.
    """
    if number == 0:
        return {}
    rng = np.random.default_rng(seed)
    threshold = int(rng.integers(3, 7))
    window = int(rng.integers(threshold, threshold + 4))
    return {"boredom_threshold": threshold, "boredom_moving_window": window}


def play(number: int, seed: int) -> dict[str, Any]:
    """Train on a world and return the test episodes of every policy."""
    changes, began = boredom_of(number, seed), time.process_time()
    env, valid, test = (
        SardineVectorEnv(SINGLE, n, **changes) for n in (16, VALID_EPISODES, TEST_EPISODES)
    )
    (model, turns), (large, more_turns) = (
        base_of(env, seed, rollouts) for rollouts in (RANDOM_ROLLOUTS, EQUAL_ROLLOUTS)
    )
    rows: dict[str, Any] = {"boredom": changes}
    for labels, scores, played in (
        ((BASE, FAIR), scores_of(model), turns),
        ((LARGE, LARGE_CAP), scores_of(large), more_turns),
        ((MYOPIC, BEST), true_scores, 0),
    ):
        returns = {cap: capped(valid, scores, cap, VALID_SEED)["return"] for cap in CAPS}
        cap = max(CAPS, key=lambda one: returns[one])
        for label, chosen in zip(labels, (0, cap), strict=True):
            found = capped(test, scores, chosen, TEST_SEED)
            rows[label] = found | {"cap": chosen, "interactions": played}
    context = RunContext(progress=False, seed=seed)
    trainer = OnlineTrainer(model, env, DQN, eval_env=valid, context=context)
    result = trainer.train()
    means = evaluate_policy(model, test, TEST_SEED)
    no_repeat = evaluate_policy(model, test, TEST_SEED, no_repeat=True)
    rows[TUNED] = described(means) | {
        "no_repeat": float(no_repeat.returns.mean()),
        "interactions": turns + trainer.interactions,
        "best_step": result.best_step,
        "history": [(row["step"], row["valid/return"]) for row in trainer.state.log_history],
    }
    return rows | {"cpu_seconds": round(time.process_time() - began, 1)}


def base_of(env: SardineVectorEnv, seed: int, rollouts: int) -> tuple[ObservationModel, int]:
    """Return a model of the clicks on random items, and the turns it was fitted to."""
    features = torch.tensor(env.item_vectors, dtype=torch.float32)
    model = build_observation_model(
        3 * env.n_topics, len(features), item_features=features, seed=seed, dim=16
    )
    return model, learn_clicks(model, env, seed, rollouts)


def scores_of(model: ObservationModel) -> Scores:
    """Return the scores of a model as a function of states."""

    @torch.no_grad()
    def scores(states: States, env: SardineVectorEnv) -> Floats:
        del env
        values: Floats = score(model, states).double().numpy()
        return values

    return scores


def score(model: Recommender, states: States) -> torch.Tensor:
    """Return float[N, I], the scores of all items."""
    return model.score(queries_of_states(model, states))


def true_scores(states: States, env: SardineVectorEnv) -> Floats:
    """Return float[N, I], the true click probabilities."""
    del states
    return np.stack([env.relevances(row) for row in range(env.num_envs)])


def capped(env: SardineVectorEnv, scores: Scores, cap: int, seed: int) -> dict[str, Any]:
    """Return the episodes of the items of highest score, with at most `cap` clicks on a topic.

    No user of SARDINE leaves, so that the states are those of all users.
    """

    def act(states: States) -> Choice:
        pairs = enumerate(scores(states, env))
        items = [capped_list(r, env.item_topics, env.recent_clicks(n), 1, cap) for n, r in pairs]
        return Choice(torch.from_numpy(np.stack(items)), torch.zeros(states.n_states))

    return described(episode_means(collect_episodes(env, act, seed), len(env.item_topics)))


def write_page(cells: Cells) -> None:
    """Replace the table of the page."""
    head, _, rest = PAGE.read_text().partition(_START)
    _, _, tail = rest.partition(_END)
    PAGE.write_text(f"{head}{_START}\n\n{table(cells)}\n\n{_END}{tail}")


def table(cells: Cells) -> str:
    """Return the table: means over seeds, and differences within them to the two capped rules."""
    head = ["world", "policy", "seeds", "return", "minus the best learned rule"]
    head += ["minus the true rule"]
    lines = [f"| {' | '.join([*head, 'coverage', 'turns played'])} |", f"|---|---|{'---:|' * 6}"]
    for world in WORLDS:
        seeds = [rows for key, rows in cells.items() if key.rpartition("/")[0] == world]
        for label in LABELS if seeds else ():
            returns, fair, large, best = (
                np.array([rows[name]["return"] for rows in seeds])
                for name in (label, FAIR, LARGE_CAP, BEST)
            )
            fair = max((fair, large), key=np.mean)
            coverage = np.mean([rows[label]["coverage"] for rows in seeds])
            turns = np.mean([rows[label]["interactions"] for rows in seeds])
            lines.append(
                f"| {world} | {label} | {len(seeds)} | {returns.mean():.1f} | "
                f"{interval(returns - fair)} | {interval(returns - best)} | {coverage:.3f} | "
                f"{f'{turns:,.0f}' if turns else '–'} |"
            )
    return "\n".join(lines)


def interval(differences: Floats) -> str:
    """Return the mean with its 95 % interval over seeds."""
    n, mean = len(differences), differences.mean()
    if n < 2 or not differences.any():
        return f"{mean:+.1f}" if differences.any() else "–"
    half = stats.t.ppf(0.975, n - 1) * differences.std(ddof=1) / n**0.5
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


if __name__ == "__main__":
    main()
