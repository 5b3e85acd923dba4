"""Comparisons of models without training steps, daily updates and off-policy evaluation.

All programs run on one thread, and their CPU seconds are compared, because other programs may use
the machine. Results of both sides must agree.
"""

from dataclasses import replace
from typing import Final

from bench import Bench, Row, median

UNIT: Final = "CPU s"
MAX_DIFFERENCE: Final = 0.02
"""Largest relative difference of the hits of two lists, because ties are broken differently."""


def ease(bench: Bench) -> list[Row]:
    """Compare EASE and the lists of all users with RecTools' model, whose lists differ.

    RecTools 0.19.0 multiplies a history by the transpose of the paper's weights.
    """
    work = "EASE, fit and top 50 of all users"
    return [_lists(bench, work, "ease", "rectools", EASE_LOG, same_lists=False)]


EASE_LOG: Final = "simulated-100000"


def itemknn(bench: Bench) -> list[Row]:
    """Compare item-kNN and the lists of all users with implicit's cosine and RecTools' wrapper."""
    work = "item-kNN, fit and top 50 of all users"
    return [_lists(bench, work, "itemknn", peer, "toys") for peer in ("implicit", "rectools")]


def _lists(
    bench: Bench, work: str, task: str, peer: str, folder: str, *, same_lists: bool = True
) -> Row:
    ours, theirs = bench.compare(
        (task, {}), (peer, task, {}), folder, program="recoach_models", one_thread=True
    )
    hits = ours[0]["hits"], theirs[0]["hits"]
    if same_lists:
        check_hits(work, *hits)
    fits = " and ".join(f"{median(side, 'fit_seconds'):.2g} s" for side in (ours, theirs))
    note = f"fit alone: {fits}; hits at 50: {hits[0]:,} and {hits[1]:,}"
    medians = [median(side, "seconds") for side in (ours, theirs)]
    return Row(work, peer, *medians, UNIT, note=note, versions=theirs[0]["versions"])


def check_hits(work: str, ours: int, theirs: int) -> None:
    """Exit where two sides that compute the same lists do not have about as many hits."""
    if abs(ours - theirs) > MAX_DIFFERENCE * max(ours, theirs):
        raise SystemExit(f"{work}: hits differ: Recoach {ours:,}, peer {theirs:,}.")


def vsknn(bench: Bench) -> list[Row]:
    """Compare V-SKNN's lists for test prefixes with a plain Python loop of the same settings."""
    work = "V-SKNN, top 20 of 1,000 prefixes, Diginetica"
    results = _repeat(bench, "vsknn", "diginetica")
    hits = results[0]["hits"], results[0]["plain_hits"]
    check_hits(work, *hits)
    return [_plain(work, "plain Python loop", results, f"hits at 20: {hits[0]} and {hits[1]}")]


def neumf(bench: Bench) -> list[Row]:
    """Compare NeuMF's lists with a loop over users in plain PyTorch on the same weights."""
    work = "NeuMF, top 50 of 500 users"
    results = _repeat(bench, "neumf", "toys")
    note = f"equal places of the lists: {min(result['equal'] for result in results):.2%}"
    return [_plain(work, "plain PyTorch loop over users", results, note)]


def _repeat(bench: Bench, task: str, folder: str) -> list[dict]:
    """Run a task that measures Recoach and a plain loop in one process."""
    rounds = range(bench.rounds)
    return [bench.run("recoach_models", task, folder, one_thread=True) for _ in rounds]


def _plain(work: str, peer: str, results: list[dict], note: str) -> Row:
    medians = [median(results, key) for key in ("seconds", "plain_seconds")]
    return Row(work, peer, *medians, UNIT, note=note, versions=results[0]["versions"])


def updates(bench: Bench) -> list[Row]:
    """Compare an update by one day with retraining, once: the first training takes the time."""
    result = bench.run("recoach_models", "daily_update", "toys-2014-timed", one_thread=True)
    seconds, ndcg = result["seconds"], result["ndcg@10"]
    values = [f"{ndcg[arm]:.4f}" for arm in ("daily update", "retraining", "no update")]
    note = (
        f"NDCG@10 on the next day {values[0]} and {values[1]}, without update {values[2]}; "
        f"{result['new_rows']:,} new events"
    )
    row = Row(
        "update by a day, SASRec, Toys",
        "Recoach's retraining from scratch",
        seconds["daily update"],
        seconds["retraining"],
        UNIT,
        note=note,
    )
    return [replace(row, versions=result["versions"], rounds=1)]


def off_policy(bench: Bench) -> list[Row]:
    """Compare IPS, SNIPS and DR with intervals with the Open Bandit Pipeline; values must agree."""
    rows = []
    for size in (10_000, 1_000_000):
        work = f"IPS, SNIPS and DR with intervals, {size:,} rows"
        ours, theirs = bench.compare(
            ("off_policy", {}),
            ("obp", "off_policy", {}),
            f"bandit-{size}",
            program="recoach_models",
            one_thread=True,
        )
        check_values(work, ours[0]["values"], theirs[0]["values"])
        sides = [
            "DR {:.4f} [{:.4f}, {:.4f}], peak {:,} MiB".format(
                *side[0]["values"]["dr"], side[0]["peak_mib"]
            )
            for side in (ours, theirs)
        ]
        note = f"100 resamples; {' and '.join(sides)}"
        medians = [median(side, "seconds") for side in (ours, theirs)]
        rows.append(Row(work, "obp", *medians, UNIT, note=note, versions=theirs[0]["versions"]))
    return rows


def check_values(
    work: str, ours: dict[str, list[float]], theirs: dict[str, list[float]], limit: float = 1e-6
) -> None:
    """Exit where the values of an estimator differ by more than a limit."""
    for name, (value, *_) in theirs.items():
        if abs(ours[name][0] - value) > limit:
            raise SystemExit(
                f"{work}: the values of {name} differ: Recoach {ours[name][0]}, peer {value}."
            )
