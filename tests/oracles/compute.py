"""Write expected.json: metrics of random rankings, computed by other libraries.

Run by `make oracles` in an environment of its own, see requirements.txt beside this file, where
Recoach is not installed. The rankings are stored with the values, so that the test does not depend
on the random numbers of a version of NumPy.
"""

import json
from importlib.metadata import version
from pathlib import Path

import ir_measures
import numpy as np
import pandas as pd
from ir_measures import AP, RR, P, R, Success, nDCG
from rectools import metrics as rectools
from statsmodels.stats.power import TTestPower

SEED = 20261130
LIBRARIES = ("ir-measures", "pytrec-eval-terrier", "rectools", "statsmodels", "numpy")
N_STATES, N_USERS, N_ITEMS, N_RANKED, KS = 40, 80, 60, 30, (1, 5, 10)
LIST_LENGTH = 5


def main() -> None:
    """Write the file beside this one."""
    generator = np.random.default_rng(SEED)
    rankings = [generator.permutation(N_ITEMS)[:N_RANKED].tolist() for _ in range(N_STATES)]
    # Up to 12 targets, more than the smallest k; some of them are beyond the ranked items.
    counts = generator.integers(1, 13, N_STATES)
    targets = [generator.permutation(N_ITEMS)[:count].tolist() for count in counts]
    # Items of the second half are in no history.
    histories = [
        generator.permutation(N_ITEMS // 2)[: 3 + user % 9].tolist() for user in range(N_USERS)
    ]
    categories = generator.integers(0, 4, N_ITEMS).tolist()
    content = {
        "seed": SEED,
        "versions": {name: version(name) for name in LIBRARIES},
        "rankings": rankings,
        "targets": targets,
        "histories": histories,
        "categories": categories,
        "n_items": N_ITEMS,
        "ks": KS,
        "list_length": LIST_LENGTH,
        "ir-measures": of_ir_measures(rankings, targets),
        "rectools": of_rectools(rankings, targets, histories, categories),
        "statsmodels": {
            str(n): TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8) for n in (10, 30, 6101)
        },
    }
    text = json.dumps(content)
    (Path(__file__).parent / "expected.json").write_text(text + "\n")


def of_ir_measures(rankings: list, targets: list) -> dict[str, list[float]]:
    """Return metric -> value of each state, by trec_eval through ir-measures."""
    measures = {"hit": Success, "map": AP, "mrr": RR, "ndcg": nDCG, "precision": P, "recall": R}
    qrels = {str(s): {str(item): 1 for item in row} for s, row in enumerate(targets)}
    run = {
        str(s): {str(item): float(len(row) - rank) for rank, item in enumerate(row)}
        for s, row in enumerate(rankings)
    }
    values = {}
    for name, measure in measures.items():
        for k in KS:
            of_states = ir_measures.iter_calc([measure @ k], qrels, run)
            by_state = {int(metric.query_id): metric.value for metric in of_states}
            values[f"{name}@{k}"] = [by_state[state] for state in range(N_STATES)]
    return values


def of_rectools(rankings: list, targets: list, histories: list, categories: list) -> dict:
    """Return metric -> value of each state, or of all of them together."""
    lists = pd.DataFrame(
        [(s, item, rank) for s, row in enumerate(rankings) for rank, item in enumerate(row, 1)],
        columns=["user_id", "item_id", "rank"],
    )
    relevant = pd.DataFrame(
        [(s, item) for s, row in enumerate(targets) for item in row],
        columns=["user_id", "item_id"],
    )
    log = pd.DataFrame(
        [(s, item) for s, row in enumerate(histories) for item in row],
        columns=["user_id", "item_id"],
    )
    accuracy = {
        "hit": rectools.HitRate,
        "map": rectools.MAP,
        "mrr": rectools.MRR,
        "precision": rectools.Precision,
        "recall": rectools.Recall,
    }
    values: dict = {
        f"{name}@{k}": metric(k).calc_per_user(lists, relevant).sort_index().tolist()
        for name, metric in accuracy.items()
        for k in KS
    }
    for k in KS:
        metric = rectools.NDCG(k, divide_by_achievable=True)
        values[f"ndcg@{k}"] = metric.calc_per_user(lists, relevant).sort_index().tolist()
    k = LIST_LENGTH
    # With one feature the Hamming distance is 0 for items of one category, and 1 for others.
    distances = rectools.PairwiseHammingDistanceCalculator(pd.DataFrame({"category": categories}))
    values[f"category_diversity@{k}"] = (
        rectools.IntraListDiversity(k, distances).calc_per_user(lists).sort_index().tolist()
    )
    values[f"coverage@{k}"] = rectools.CatalogCoverage(k, normalize=True).calc(
        lists, list(range(N_ITEMS))
    )
    novelty, popularity = rectools.MeanInvUserFreq(k), rectools.AvgRecPopularity(k)
    values[f"novelty@{k}"] = novelty.calc_per_user(lists, log).sort_index().tolist()
    values[f"popularity@{k}"] = popularity.calc_per_user(lists, log).sort_index().tolist()
    return values


if __name__ == "__main__":
    main()
