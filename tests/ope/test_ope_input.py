"""Input of off-policy evaluation: ids stay text, rewards are counted, wrong tables are refused."""

import polars as pl
import pytest

from recoach.errors import ConfigError, DataError
from recoach.ope.estimators import ESTIMATORS, parse_estimator
from recoach.ope.files import read_log, read_rewarded_exposures, read_table
from recoach.ope.log import from_frame
from recoach.ope.policies import TablePolicy
from recoach.serving.exposures import Exposure, ExposureLog


def test_ids_in_csv_files_are_text(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("product,user_id,impression_id,reward\n7,01,001,1\n07,1,002,0\n")
    log = read_log(path, {"item_id": "product"})
    assert log.item_ids.to_list() == ["7", "07"]
    assert log.states["user_id"].to_list() == ["01", "1"]
    assert read_table(path)["impression_id"].to_list() == ["001", "002"]


def test_rewards_without_an_item_and_repeated_ones_are_counted(tmp_path):
    log = ExposureLog(tmp_path / "log")
    log.write(Exposure("1", 1, "u", None, "run", "m", "v", "p", ["a"], [1.0], [0.5]))
    log.close()
    rows = [("1", "a", 1.0), ("1", "a", 1.0), ("1", "b", 1.0), ("2", "a", 1.0)]
    rewards = pl.DataFrame(rows, schema=["impression_id", "item_id", "reward"], orient="row")
    table = read_rewarded_exposures(tmp_path / "log", rewards)
    assert table.frame["reward"].to_list() == [2.0]
    assert table.notes == [
        "2 of 4 rewards belong to no shown item and are left out.",
        "1 of 4 rewards repeat the list and item of an earlier one and are added to it.",
    ]
    assert read_rewarded_exposures(tmp_path / "log", rewards[:1]).notes == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", 0.3, 1), ("b", 0.6, 1)], "sum to 0.9 at position 1, not 1"),
        ([("a", 1.0, 1), ("a", 0.5, 2), ("b", 0.502, 2)], "sum to 1.002 at position 2"),
        ([("a", 0.5, 1), ("a", 0.5, 1)], "'a' twice at position 1"),
        ([("a", 1.0, 0)], "below 1"),
    ],
)
def test_tables_of_policies_are_checked(rows, message):
    frame = pl.DataFrame(rows, schema=["item_id", "probability", "position"], orient="row")
    with pytest.raises(DataError, match=message):
        TablePolicy(frame)


def test_rounded_probabilities_are_accepted():
    TablePolicy(pl.DataFrame({"item_id": ["a", "b", "c"], "probability": [0.333, 0.333, 0.3335]}))


def test_position_0_and_a_clip_of_0_are_refused():
    with pytest.raises(DataError, match="Positions start at 1"):
        from_frame(pl.DataFrame({"item_id": ["a"], "reward": [1.0], "position": [0]}))
    with pytest.raises(ConfigError, match="above 0"):
        parse_estimator("clipped_ips(0)", ESTIMATORS)
