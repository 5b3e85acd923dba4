"""The protocol of the session-graph papers, from the example file and the cells to the record."""

import json

import numpy as np
import pytest
import torch

from pages import ROOT
from recoach.cli.main import app
from recoach.data.batches import StateBatches
from recoach.data.benchmark import read_benchmark
from recoach.data.targets import targets_of
from recoach.experiments.config import read_config, resolve
from recoach.models.registry import MODELS, build_model
from recoach.reproduction.paper_cells import Source
from recoach.reproduction.session_cells import sessions
from recoach.training.context import RunContext
from recoach.training.trainer import RLTrainer

DATA = ROOT.parent / "shared" / "data"
COUNTS = {
    "diginetica": (186_670, 719_470, 60_858, 43_097),
    "tmall": (65_286, 351_268, 25_898, 40_727),
    "nowplaying": (128_077, 825_304, 89_824, 60_416),
    "retailrocket-views": (126_168, 559_816, 15_132, 36_968),
    "yoochoose-64": (116_167, 369_859, 55_400, 17_376),
}
"""Training sessions, their prefixes, test prefixes and items of each set."""
SHORT = ["model.dim=8", "pretrain.max_steps=3", "pretrain.eval_steps=2"]


def write_sessions(folder, n_train=40, n_items=12):
    """Write sessions that walk along the items and often return to the first one."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    rows = [
        [1 + int(item) for item in (rng.integers(n_items) + rng.integers(0, 3, 5)) % n_items]
        for _ in range(n_train + 6)
    ]
    rows[0] = list(range(1, n_items + 1))  # every item occurs in train
    train = [f"s{number} {' '.join(map(str, row))}" for number, row in enumerate(rows[:n_train])]
    test = [
        " ".join(map(str, row[:end])) for row in rows[n_train:] for end in range(len(row), 1, -1)
    ]
    (folder / "train.txt").write_text("\n".join(train) + "\n")
    (folder / "test.txt").write_text("\n".join(test) + "\n")
    return len(test)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a short run of the example file, with fine-tuning."""
    place = tmp_path_factory.mktemp("sessions")
    write_sessions(place / "sessions")
    line = ["run", str(ROOT / "examples" / "sessions.toml"), "--output", str(place / "run")]
    changes = [f"data.path={place / 'sessions'}", *SHORT, "finetune.max_steps=2"]
    line += ["--set", *changes]
    app(line, exit_on_error=False, print_error=False, result_action="return_value")
    return place


def test_every_test_line_is_a_state_and_nothing_is_masked(run):
    results = json.loads((run / "run" / "results.json").read_text())
    protocol, n_lines = results["protocol"], 6 * 4
    assert (protocol["n_states"], protocol["n_targets"]) == (n_lines, n_lines)
    assert protocol["repeats"] == "all"
    assert protocol["repeated_targets"] > 0
    assert protocol["excluded"] == {}
    for part in (results, results["retrained"]):
        assert set(part["models"]) == {"popularity", "repeat_last", "base", "tuned", "control"}
        for model in part["models"].values():
            assert model["seen_masked"] is False
            assert {"hit@20", "mrr@20"} <= set(model["test"])
    assert results["config"]["finetune"]["mask_seen"] is False


def test_selection_sees_every_prefix_of_the_last_sessions_and_no_test_line(run):
    dataset = read_benchmark(run / "sessions", split=example(run).data.split)
    valid = targets_of(dataset, "valid", "all")
    assert dataset.user_ids.gather(valid.users).unique(maintain_order=True).to_list() == [
        f"s{number}" for number in range(36, 40)
    ]
    assert valid.ends.tolist() == [1, 2, 3, 4] * 4
    rows = [json.loads(line) for line in (run / "run" / "metrics.jsonl").read_text().splitlines()]
    base = [row for row in rows if row["stage"] == "base"]
    assert base
    assert all("valid/mrr@20" in row for row in base)
    assert not any(name.startswith("test") for row in rows for name in row)


def example(run):
    return read_config(ROOT / "examples" / "sessions.toml", [f"data.path={run / 'sessions'}"])


@pytest.mark.parametrize("estimator", ["exact", "sampled"])
def test_fine_tuning_masks_nothing_and_rewards_repeated_items(run, estimator):
    config = example(run)
    dataset = read_benchmark(run / "sessions", split=config.data.split)
    model = build_model("srgnn", dataset, dim=8)
    args = config.finetune.model_copy(update={"estimator": estimator, "temperature": 1.0})
    context = RunContext(repeats=config.evaluation.repeats, progress=False)
    trainer = RLTrainer(model, "future", args, train_dataset=dataset, context=context)
    batch = next(trainer.epoch(torch.Generator().manual_seed(0)))
    assert batch.queries.seen is None
    histories = [
        set(batch.queries.history[row, :end].tolist())
        for row, end in zip(batch.queries.rows, batch.queries.ends, strict=True)
    ]
    pairs = zip(batch.rewards.states.tolist(), batch.rewards.items.tolist(), strict=True)
    assert any(item in histories[state] for state, item in pairs)


@pytest.mark.parametrize("rows", ["prefix", "all_positions"])
def test_every_prefix_of_training_is_a_state_however_rows_are_shared(run, rows):
    train = read_benchmark(run / "sessions", split=example(run).data.split).train
    batches = StateBatches(train, n_items=12, history_length=50, batch_size=16, rows=rows)
    assert batches.n_states == int((train.lengths - 1).clip(min=0).sum())
    seen = []
    for batch in batches.epoch(torch.Generator().manual_seed(0)):
        queries = batch.queries
        for row, end, target in zip(queries.rows, queries.ends, batch.targets, strict=True):
            seen.append((*queries.history[row, :end].tolist(), int(target)))
    sequences = [train.row(user).tolist() for user in range(len(train))]
    assert sorted(seen) == sorted(
        tuple(row[:end]) for row in sequences for end in range(2, len(row) + 1)
    )


def test_the_suite_trains_a_cell_twice_and_writes_its_row(run):
    folder = run / "sessions"
    line = ["reproduce", "sessions", f"--dataset=tiny={folder}", "--only=session_popularity"]
    line.append(f"--output={run / 'suite'}")
    app(line, exit_on_error=False, print_error=False, result_action="return_value")
    path = run / "suite" / "sessions"
    record = json.loads((path / "tiny" / "session_popularity-2020" / "results.json").read_text())
    assert record["protocol"]["primary"] == "mrr@20"
    rows = (path / "sessions.md").read_text().splitlines()
    (row,) = (line for line in rows if line.startswith("| S-POP |"))
    again, before = (
        part["models"]["base"]["test"]["mrr@20"] for part in (record["retrained"], record)
    )
    assert f"{100 * again:.2f} |" in row
    assert f"/ {100 * before:.2f} |" in row


@pytest.mark.parametrize("cell", sessions(Source("set", "set"), "quick", 7), ids=lambda c: c.name)
def test_a_cell_has_the_protocol(cell):
    config = resolve(cell.tables, cell.name)
    assert config.model_name in MODELS
    assert config.seed == 7
    assert config.evaluation.repeats == "all"
    assert config.evaluation.retrain is True
    assert 20 in config.evaluation.ks
    assert config.finetune.mask_seen is False
    assert not config.finetune_enabled
    assert config.pretrain.metric == "mrr@20"
    assert config.pretrain.select == "best"
    split = config.data.split
    assert (split.target, split.valid, split.valid_target) == ("last", "users", "successive")


def test_a_test_file_without_short_prefixes_is_validated_without_them():
    splits = {
        log: resolve(sessions(Source(log, log), "quick", 0)[0].tables, log).data.split
        for log in COUNTS
    }
    assert {log for log, split in splits.items() if split.min_history == 2} == {
        "retailrocket-views"
    }


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("log", COUNTS)
def test_the_public_session_sets_have_their_published_counts(log):
    if not (DATA / log).exists():
        pytest.skip(f"there is no {DATA / log}")
    split = resolve(sessions(Source(log, log), "quick", 0)[0].tables, log).data.split
    dataset = read_benchmark(DATA / log, split=split)
    n_sessions, n_train, n_test, n_items = COUNTS[log]
    lengths = dataset.train.lengths + dataset.valid.lengths
    assert int((lengths > 0).sum()) == n_sessions
    assert int((lengths - 1).clip(min=0).sum()) == n_train
    assert dataset.n_items == n_items
    test = targets_of(dataset, "test", "all")
    assert len(test.users) == n_test
    assert test.excluded == {}
    valid_lengths = dataset.valid.lengths[dataset.valid.lengths > 0]
    assert len(valid_lengths) == round(n_sessions / 10)
    prefixes = (valid_lengths - split.min_history).clip(min=0).sum()
    assert len(targets_of(dataset, "valid", "all").users) == prefixes
