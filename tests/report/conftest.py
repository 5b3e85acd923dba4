import json
import math

import pytest

SCRIPT = '<script>alert("x")</script>'


def comparison(pair, metric, relative, half, verdict, reference):
    a, b = pair
    return {
        "a": a,
        "b": b,
        "split": "test",
        "metric": metric,
        "difference": relative * reference,
        "relative": relative,
        "low": (relative - half) * reference,
        "high": (relative + half) * reference,
        "p_value": 0.001,
        "verdict": verdict,
    }


@pytest.fixture
def results():
    """Hand-written results in which GRPO gains 4.6 % and the control 1.0 %."""
    base = {"recall@10": 0.0944, "ndcg@10": 0.0592, "mrr@10": 0.048}
    control = {"recall@10": 0.0950, "ndcg@10": 0.0598, "mrr@10": 0.049}
    tuned = {"recall@10": 0.0996, "ndcg@10": 0.0619, "mrr@10": 0.051}
    popular = {"recall@10": 0.02, "ndcg@10": 0.01, "mrr@10": 0.01}
    return {
        "format": 1,
        "name": "toys-sasrec",
        "dataset": {"name": "toys", "fingerprint": "abc", "users": 19412, "items": 11924},
        "model": "sasrec",
        "seed": 2020,
        "protocol": {
            "split": "leave_last_out",
            "ranking": "full",
            "repeats": "new",
            "ties": "against the model",
            "n_users": 19412,
            "ks": [10],
            "selection": "valid/ndcg@10, step 0 a candidate",
        },
        "models": {
            "popularity": {"valid": popular, "test": popular},
            "base": {"valid": base, "test": base, "steps": 900, "seconds": 61.5, "best_step": 800},
            "control": {"valid": control, "test": control, "steps": 30, "best_step": 10},
            "tuned": {"valid": tuned, "test": tuned, "steps": 30, "best_step": 20},
        },
        "comparisons": [
            comparison(("tuned", "base"), "ndcg@10", 0.0456, 0.0167, "better", 0.0592),
            comparison(("tuned", "base"), "recall@10", 0.0551, 0.02, "better", 0.0944),
            comparison(("control", "base"), "ndcg@10", 0.0101, 0.02, "no difference", 0.0592),
            comparison(("control", "base"), "recall@10", 0.0064, 0.02, "no difference", 0.0944),
            comparison(("tuned", "control"), "ndcg@10", 0.0351, 0.01, "better", 0.0598),
        ],
        "config": {},
        "environment": {},
    }


@pytest.fixture
def metrics():
    rows = [
        {"stage": "base", "step": step, "loss": 5 / (1 + step), "valid/ndcg@10": 0.01 * step}
        for step in range(6)
    ]
    for step in (0, 10, 20, 30):
        rows.append({"stage": "control", "step": step, "valid/ndcg@10": 0.059 + step / 30000})
        rows.append({"stage": "tuned", "step": step, "valid/ndcg@10": 0.059 + step / 9000})
        rows.append({"stage": "tuned", "step": step, "reward": 0.1, "kl": step / 100, "entropy": 6})
    return [*rows, {"stage": "tuned", "step": 31, "reward": math.nan, "kl": None}]


@pytest.fixture
def run(tmp_path, results, metrics):
    """A run folder with HTML in an item title and in a setting."""
    entry = {
        "user": "u0001",
        "history": ["A", SCRIPT],
        "target": "T & U",
        "base": ["A", "B", SCRIPT],
        "tuned": ["T & U", "B"],
        "base_rank": 34,
        "tuned_rank": 1,
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, metrics)) + "\n\n")
    (tmp_path / "lists.json").write_text(json.dumps([entry]))
    (tmp_path / "config.toml").write_text(f"name = '{SCRIPT}'\n")
    (tmp_path / "env.json").write_text(json.dumps({"python": "3.11", "host": SCRIPT}))
    return tmp_path
