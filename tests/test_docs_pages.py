"""Single pages are complete and true: options, settings, logged values, links, lengths."""

import importlib.util
import re
import tomllib
from inspect import Parameter

import pytest

import recoach
from pages import PAGES, RESULTS, ROOT, blocks, codes, commands, links, tables
from recoach.cli.main import app
from recoach.data.split import leave_last_out
from recoach.experiments.config import DataConfig, EvaluationConfig
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.stages import MetricsLogger
from recoach.models.base import GROUP_NAMES, DotProductRecommender
from recoach.models.registry import MODELS, build_model
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.registry import ALGORITHMS
from recoach.training.callbacks import Callback
from recoach.training.pretrain_config import PretrainConfig
from toy_logs import cycle

DOCS = ROOT / "docs"
NAV = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)

# Commands whose page has another name.
ELSEWHERE = {
    "convert-config": "exchange.md",
    "demo": "run.md",
    "export": "exchange.md",
    "import": "exchange.md",
}
VERBS = [name for name in app if not name.startswith("-")]


def page_of(verb):
    """Return the reference page of a command."""
    return DOCS / "reference" / "cli" / ELSEWHERE.get(verb, f"{verb}.md")


def arguments(verb):
    """Yield the arguments of a command and of its subcommands."""
    below = [app[verb][name] for name in app[verb] if not name.startswith("-")]
    for one in below or [app[verb]]:
        yield from one.assemble_argument_collection()


def options(verb):
    """Return the options of a command; of two opposites the one that changes the default."""
    return {
        one.names[-1] if one.field_info.default is True else one.names[0]
        for one in arguments(verb)
        if one.field_info.kind is Parameter.KEYWORD_ONLY and one.names[0].startswith("--")
    }


def test_every_page_is_in_the_navigation():
    pages = {str(page.relative_to(DOCS)) for page in PAGES if page.is_relative_to(DOCS)}
    borrowed = {"index.md", "architecture.md", "contributing.md", "changelog.md", "security.md"}
    borrowed |= {"results/benchmarks.md"}
    assert pages | borrowed == set(NAV)
    assert len(NAV) == len(set(NAV))


KINDS = {"tutorials", "how-to", "reference", "explanation", "results", "decisions"}
PROSE = [page for page in PAGES if page.name != "CHANGELOG.md"]


def test_every_page_is_of_one_kind():
    folders = {page.relative_to(DOCS).parts[0] for page in PAGES if page.is_relative_to(DOCS)}
    assert folders == KINDS


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.stem)
def test_a_page_has_at_most_200_lines_beside_generated_tables(page):
    assert len(RESULTS.sub("", page.read_text()).splitlines()) <= 200


def test_the_readme_is_short_and_has_one_small_results_table():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 150
    (block,) = RESULTS.findall(text)
    assert 0 < len(tables(block)) <= 12


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_between_files_of_the_repository_work(page):
    assert [link for link in links(page) if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("verb", VERBS)
def test_a_command_has_a_page_with_an_example_and_all_its_options(verb):
    page = page_of(verb)
    shown = [line for line in commands(page) if line[0] == verb]
    assert shown
    missing = {name for name in options(verb) if name not in page.read_text()}
    assert missing == set()


@pytest.mark.parametrize("verb", VERBS)
def test_a_page_names_only_options_that_exist(verb):
    known = {name for other in VERBS for one in arguments(other) for name in one.names}
    named = {code.split()[0] for code in codes(page_of(verb).read_text()) if code.startswith("--")}
    assert named <= known


# --- logged values --------------------------------------------------------------------------

TINY = {"max_steps": 1, "batch_size": 64}
DRAWN = {"estimator": "sampled", "loss_type": "grpo", "num_generations": 8}
SETTINGS = [
    {},
    {"beta": 0.1, "warmup_steps": 1},
    {"reward_funcs": ("future", "novelty", "exposure")},
    {"loss_type": "dr_grpo", "reward_weights": (-1.0,)},
    DRAWN,
    {"estimator": "slate", "loss_type": "grpo", "num_generations": 4, "slate_length": 3},
]


class Keep(Callback):
    def __init__(self):
        self.names = set()

    def on_row(self, row):
        self.names |= set(row)


@pytest.fixture(scope="module")
def logged():
    """Return the names that any of the trainings logs."""
    dataset = recoach.leave_last_out(recoach.shop(n_users=40, n_items=40, seed=1).interactions)
    keep = Keep()
    of_grpo = [GRPOConfig(**TINY | settings) for settings in SETTINGS]
    others = [entry.config(**TINY) for name, entry in ALGORITHMS.items() if name != "grpo"]
    trainings = [("sasrec", args) for args in [*of_grpo, *others]]
    for model, args in [*trainings, ("lightgcn", GRPOConfig(**TINY))]:
        recoach.GRPOTrainer(
            recoach.build_model(model, dataset, dim=8),
            args=args,
            train_dataset=dataset,
            callbacks=[keep],
        ).train()
    return keep.names


def test_the_page_of_logged_values_lists_exactly_the_names_that_are_logged(logged):
    text = (DOCS / "reference" / "diagnostics.md").read_text()
    assert {name for row in tables(text) for name in codes(row[0])} == logged


def test_rows_of_the_metrics_file_name_their_stage(tmp_path):
    folder = RunFolder(tmp_path)
    MetricsLogger(folder, "tuned").on_row({"step": 1, "loss": 0.5})
    assert folder.metrics() == [{"stage": "tuned", "step": 1, "loss": 0.5}]


# --- TRL --------------------------------------------------------------------------------------


def test_the_trl_page_has_every_setting_with_its_default():
    text = (DOCS / "reference" / "trl.md").read_text().split("## Settings that both have")[1]
    told = {codes(row[0])[0]: row[1] for row in tables(text.split("## What has no")[0])}
    defaults = GRPOConfig().model_dump(mode="json")
    assert {
        name: None if cell == "–" else tomllib.loads(f"x = {cell}")["x"]
        for name, cell in told.items()
    } == defaults


# --- comparison -------------------------------------------------------------------------------

LINES = [
    row
    for row in tables((DOCS / "explanation" / "comparison.md").read_text())
    if "**" not in row[0]
]


@pytest.mark.parametrize("row", LINES, ids=lambda row: row[0])
def test_a_feature_claimed_for_recoach_names_an_existing_file(row):
    _, ours, *theirs, where = row
    assert len(theirs) == 8
    if ours in "●◐":
        assert codes(where)
    for path in codes(where):
        assert (ROOT / path).exists()


def test_the_comparison_names_features_that_only_others_have():
    assert sum(row[1] == "○" for row in LINES) > 5
    assert {mark for row in LINES for mark in row[2:-1]} >= {"●", "○", "–"}


# --- reference --------------------------------------------------------------------------------

_spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
hooks = importlib.util.module_from_spec(_spec)


@pytest.fixture
def configuration():
    """Return the configuration page as the site shows it."""
    pytest.importorskip("mkdocs")
    _spec.loader.exec_module(hooks)
    return hooks.with_settings((DOCS / "reference" / "configuration.md").read_text())


def test_the_configuration_page_describes_every_setting(configuration):
    rows = {codes(row[0])[0]: row for row in tables(configuration)}
    models = {name for entry in MODELS.values() for name in entry.config.model_fields}
    algorithms = [entry.config for entry in ALGORITHMS.values()]
    classes = (DataConfig, PretrainConfig, *algorithms, EvaluationConfig)
    assert set(rows) == models | {name for one in classes for name in one.model_fields}
    assert [name for name, row in rows.items() if not row[3]] == []


def test_the_configuration_page_names_every_model_and_algorithm(configuration):
    for name in MODELS:
        assert f"`{name}`" in configuration
    for name in ALGORITHMS:
        assert f"### {name}\n" in configuration


def test_the_page_of_pretrain_lists_all_models():
    rows = tables(page_of("pretrain").read_text().split("| `--model` | input |")[1])
    assert {codes(row[0])[0] for row in rows} == set(MODELS)


def test_the_table_of_models_has_all_models_with_their_tables_and_kinds_of_scores():
    text = (DOCS / "reference" / "models.md").read_text()
    rows = tables(text.partition("## Measured")[0])
    names = [codes(row[0])[0] for row in rows]
    assert sorted(names) == sorted(MODELS)
    dataset = leave_last_out(cycle())
    for name, row in zip(names, rows, strict=True):
        model = build_model(name, dataset)
        groups = ", ".join(group for group in GROUP_NAMES[:-1] if group in model.parameter_groups())
        assert (len(row) == 5) == bool(model.needs), name
        if model.needs:
            assert row[2] == groups, name
            assert (row[3] == "dot product") == isinstance(model, DotProductRecommender), name


def test_the_page_of_algorithms_lists_all_of_them():
    rows = tables((DOCS / "how-to" / "compare-algorithms.md").read_text())
    assert [codes(row[0])[0] for row in rows] == list(ALGORITHMS)


def test_the_reference_has_every_public_name():
    named = re.findall(r"^::: recoach\.(\w+)$", (DOCS / "reference" / "api.md").read_text(), re.M)
    assert sorted(named) == recoach.__all__


def test_the_page_of_doctor_lists_all_extras_for_users():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"]) - {"test", "lint", "docs", "fuzz"}
    assert {codes(row[0])[0] for row in tables(page_of("doctor").read_text())} == extras


def test_the_two_tower_example_is_short():
    (defined, _, *_) = blocks(DOCS / "how-to" / "wrap-a-pytorch-model.md", "python")
    body = [line for line in defined.split("class TwoTowers")[1].splitlines() if line.strip()]
    assert len(body) <= 16
