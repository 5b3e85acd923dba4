from itertools import pairwise

import pytest

from recoach.experiments.config import resolve
from recoach.reproduction.paper_cells import BACKBONES, FACTORS, PAPER_SUITES, TABLE4, Source
from recoach.reproduction.paper_results import CATEGORIES
from recoach.reproduction.suites import GROUPS, cells_of
from recoach.training.algorithms.grpo.config import GRPOConfig

SOURCE = Source("shop", "shop.csv")
CELLS = [
    (suite, profile, cell)
    for suite, cells in PAPER_SUITES.items()
    for profile in ("paper", "quick")
    for cell in cells(SOURCE, profile, 2020)
]


@pytest.mark.parametrize(
    ("suite", "profile", "cell"), CELLS, ids=[f"{s}-{p}-{c.name}" for s, p, c in CELLS]
)
def test_the_settings_of_every_cell_resolve(suite, profile, cell):
    config = resolve(cell.tables, cell.name)
    assert (config.seed, config.data.path, config.data.name) == (2020, "shop.csv", "shop")
    assert config.evaluation.control is (cell.name in BACKBONES)
    sampled = "exact" not in cell.name and "cross-entropy" not in cell.name
    assert config.finetune.estimator == ("sampled" if sampled else "exact")
    assert config.finetune.group_size == 4096


def test_the_cells_are_those_of_the_paper():
    names = {
        suite: [c.name for c in cells(SOURCE, "paper", 1)] for suite, cells in PAPER_SUITES.items()
    }
    assert names["table3"] == list(BACKBONES)
    assert len(names["table4"]) == 2 * len(TABLE4) == 8
    assert len(names["factors"]) == sum(1 + len(changes) for changes in FACTORS.values())
    assert all(len(set(cells)) == len(cells) for cells in names.values())


def test_paper_mode_is_the_paper_s_table_2_for_every_backbone():
    for cell in PAPER_SUITES["table3"](SOURCE, "paper", 2020):
        config = resolve(cell.tables, cell.name)
        assert (config.pretrain.epochs, config.pretrain.batch_size) == (200, 2048)
        assert config.pretrain.learning_rate == config.finetune.learning_rate == 1e-4
        assert config.model.dim == 64
        # As the docstring of `paper` says; SASRec has no user table.
        additions = {
            "sasrec": {"trainable": ("item", "position")},
            "lightgcn": {
                "state": "user",
                "reward_funcs": ("train_set",),
                "trainable": ("item", "user"),
            },
            "gsau": {"trainable": ("item", "user")},
        }
        paper = GRPOConfig.paper(eval_steps=500, **additions[cell.name])
        assert config.finetune == paper


def test_a_factor_changes_the_named_settings_only():
    for model, changes in FACTORS.items():
        cells = {c.name: c.tables for c in PAPER_SUITES["factors"](SOURCE, "quick", 1)}
        start = cells[model] | {"evaluation": {"control": False}}
        for name, change in changes.items():
            cell = cells[f"{model}-{name.replace(' ', '-')}"]
            for table, settings in start.items():
                if isinstance(settings, dict):
                    assert cell[table] == settings | change.get(table, {})


def test_estimator_objective_and_held_out_targets_change_one_after_the_other():
    cells = {c.name: c.tables for c in PAPER_SUITES["factors"](SOURCE, "quick", 2020)}
    chain = (
        "sasrec",
        "sasrec-exact",
        "sasrec-exact-cross-entropy",
        "sasrec-held-out-cross-entropy",
    )
    tables = [resolve(cells[name], name).tables() for name in chain]
    assert [_changed(one, other) for one, other in pairwise(tables)] == [
        {("finetune", "estimator"), ("evaluation", "control")},
        {("finetune", "loss_type")},
        {("pretrain", "hold_out")},
    ]


def _changed(one, other):
    tables = [name for name, table in one.items() if isinstance(table, dict)]
    return {
        (name, key) for name in tables for key in one[name] if one[name][key] != other[name][key]
    }


def test_the_quick_profile_limits_base_steps_on_the_paper_s_files_only():
    def caps(name, profile):
        cells = PAPER_SUITES["factors"](Source(name, "log.jsonl.gz"), profile, 2020)
        return {c.name: resolve(c.tables, c.name).pretrain.max_steps for c in cells}

    for category in CATEGORIES:
        quick = caps(category, "quick")
        assert all(steps == quick[name.partition("-")[0]] > 0 for name, steps in quick.items())
        assert set(caps(category, "paper").values()) == {0}
    assert set(caps("video-games-2023", "quick").values()) == {0}


def test_a_split_without_order_has_cells_of_models_without_history_only():
    unordered = Source("baby", "baby", ready_split=True)
    assert [c.name for c in PAPER_SUITES["table3"](unordered, "quick", 1)] == ["lightgcn"]
    assert PAPER_SUITES["table4"](unordered, "quick", 1) == []
    assert {c.name.split("-")[0] for c in PAPER_SUITES["factors"](unordered, "quick", 1)} == {
        "lightgcn"
    }


@pytest.mark.parametrize("suite", sorted({*GROUPS["paper"], *GROUPS["gains"]}))
def test_every_cell_has_the_k_core_of_its_log(suite):
    denser = SOURCE._replace(k_core=10)
    for source, core in ((SOURCE, 5), (denser, 10)):
        cells = cells_of(suite, source, "quick", 2020)
        assert {resolve(cell.tables, cell.name).data.k_core for cell in cells} == {core}
