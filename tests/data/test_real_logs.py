"""The published counts of real logs; skipped without the logs."""

import importlib.util
from pathlib import Path

import pytest

from recoach.data.benchmark import read_benchmark
from recoach.data.filters import k_core
from recoach.data.ingest import read_interactions
from recoach.data.protocol import Given
from recoach.data.statistics import describe
from recoach.evaluation.audit import audit

LOGS = Path(__file__).resolve().parents[2].parent / "shared" / "data"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not LOGS.is_dir(), reason="no real logs in ../shared/data"),
]


@pytest.mark.parametrize(
    ("file", "k", "counts"),
    [
        ("video-games-2023/sequences.txt.gz", 0, (78_643, 14_662, 514_515, 0)),
        ("video-games-2023/sequences.txt.gz", 5, (46_005, 11_630, 388_043, 0)),
        ("video-games-2018/ratings.csv.gz", 5, (50_597, 16_874, 453_637, 390)),
        ("industrial-2018/sequences.txt", 0, (9_791, 5_317, 68_186, 4_424)),
        ("industrial-2018/sequences.txt", 5, (8_656, 4_220, 59_929, 3_955)),
        ("toys-2014/Toys_and_Games.txt", 5, (19_412, 11_924, 167_597, 0)),
        ("beauty-2014/Beauty.txt", 5, (22_363, 12_101, 198_502, 0)),
        ("ml-latest-small/ratings.csv", 0, (671, 9_066, 100_004, 0)),
    ],
)
def test_a_real_log_has_its_published_counts(file, k, counts):
    log = read_interactions(LOGS / file)
    actual = describe(k_core(log, k) if k else log)
    assert (actual.users, actual.items, actual.interactions, actual.repeated_pairs) == counts


@pytest.mark.parametrize(
    ("folder", "counts"),
    [
        ("baby-2023", (16_916, 7_627, 173_638, 21_234, 62_280)),
        ("gowalla", (29_858, 40_981, 810_128, 0, 217_242)),
    ],
)
def test_a_split_log_has_its_published_counts(folder, counts):
    dataset = read_benchmark(LOGS / folder, split=Given(valid="none"))
    sizes = [len(part.values) for part in (dataset.train, dataset.valid, dataset.test)]
    assert (dataset.n_users, dataset.n_items, *sizes) == counts


def test_beauty_by_time_has_the_counts_of_the_literature():
    """Counts of Gusak et al. 2025 ("Time to Split") at the .9 quantile, of the same files."""
    found = audit(read_interactions(LOGS / "beauty-2014-timed" / "interactions.csv.gz"))
    splits = {split.name: split for split in found.splits}
    last, every = splits["time, last"], splits["time, all"]
    assert found.users == 22_332
    assert (last.test_users, last.new_users, last.test_rows) == (6_101, 593, 19_806)
    assert (round(last.cold, 3), round(found.leak, 3)) == (0.159, 0.727)
    assert (round(found.times.tied, 2), found.repeated_rows) == (0.58, 0)
    assert every.targets == 15_412  # without those of the 593 users, who have no state before them


@pytest.mark.slow
@pytest.mark.parametrize(
    "file",
    [
        "beauty-2014-timed/interactions.csv.gz",
        "video-games-2018/ratings.csv.gz",
        "ml-latest-small/ratings.csv",
        "retailrocket-events/events.csv.gz",
    ],
)
def test_the_counts_of_all_splits_and_targets_are_those_of_pandas(file):
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "split_counts.py"
    spec = importlib.util.spec_from_file_location("split_counts", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = module.compare(
        module.times_only(LOGS / file, {}, 0), module.frame_of(LOGS / file, {}, 0)
    )
    assert len(result) > 20
    assert [name for name, entry in result.items() if not entry["equal"]] == []
