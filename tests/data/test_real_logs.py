"""The published counts of real logs; skipped without the logs."""

from pathlib import Path

import pytest

from recoach.data.benchmark import read_benchmark
from recoach.data.filters import k_core
from recoach.data.ingest import read_interactions
from recoach.data.statistics import describe

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
    dataset = read_benchmark(LOGS / folder)
    sizes = [len(part.values) for part in (dataset.train, dataset.valid, dataset.test)]
    assert (dataset.n_users, dataset.n_items, *sizes) == counts
