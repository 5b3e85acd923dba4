"""What several seeds of a cell are joined to."""

import numpy as np
import polars as pl
import pytest

from recoach.experiments.folder import RunFolder
from recoach.experiments.reproduce import _compared, _mean_and_deviation


def folders(tmp_path, gains):
    """Write the values of 40 users for each seed; the tuned model gains so much with each user."""
    random, users = np.random.default_rng(0), [f"u{n}" for n in range(40)]
    for seed, gain in enumerate(gains):
        base = random.random(40)
        frames = []
        for model, values in (("base", base), ("tuned", base + gain)):
            frame = pl.DataFrame({"user_id": users, "model": model, "ndcg@10": values})
            frames.append(frame.sample(fraction=1.0, shuffle=True, seed=seed + len(frames)))
        folder = RunFolder(tmp_path / str(seed))
        folder.write_frame("per_user.parquet", pl.concat(frames))
        yield folder


@pytest.mark.parametrize(("gains", "mean"), [([0.1], 0.1), ([0.3, -0.1], 0.1), ([-0.2, 0.0], -0.1)])
def test_users_are_paired_whatever_the_order_and_averaged_over_seeds(gains, mean, tmp_path):
    (found,) = _compared(list(folders(tmp_path, gains)), ["base", "tuned"])
    assert (found["a"], found["b"], found["metric"]) == ("tuned", "base", "ndcg@10")
    # Every user gains the same: paired, there is no spread at all.
    assert [found["low"], found["high"]] == pytest.approx([mean, mean])
    assert found["verdict"] == ("better" if mean > 0 else "worse")


def test_the_spread_over_seeds_is_that_of_a_sample():
    assert _mean_and_deviation([1.0, 2.0, 4.0]) == {"mean": 2.333333, "sd": 1.527525}
    assert _mean_and_deviation([3.0]) == {"mean": 3.0, "sd": 0.0}


def test_from_three_seeds_on_there_is_an_interval_over_them(tmp_path):
    (found,) = _compared(list(folders(tmp_path, [0.1, 0.2, 0.3])), ["base", "tuned"])
    low, high = found["seeds"]
    assert (low + high) / 2 == pytest.approx(0.2)
    assert (high - low) / 2 == pytest.approx(0.1 / 3**0.5 * 4.302653)
    (found,) = _compared(list(folders(tmp_path, [0.1, 0.2])), ["base", "tuned"])
    assert "seeds" not in found
