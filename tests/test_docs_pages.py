"""What single pages promise: all options, all settings, all that is logged, nothing made up."""

import re
import tomllib
from inspect import Parameter

import pytest

import recoach
from pages import PAGES, ROOT, blocks, codes, commands, tables
from recoach.cli.main import app
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.stages import MetricsLogger
from recoach.training.callbacks import Callback
from recoach.training.config import GRPOConfig

DOCS = ROOT / "docs"
NAV = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)

# Where a verb is explained; the others have a page of their name.
ELSEWHERE = {
    "convert-config": "exchange.md",
    "demo": "run.md",
    "export": "exchange.md",
    "import": "exchange.md",
    "serve": "../../how-to/serve-recommendations.md",
}
VERBS = [name for name in app if not name.startswith("-")]


def page_of(verb):
    return DOCS / "reference" / "cli" / ELSEWHERE.get(verb, f"{verb}.md")


def arguments(verb):
    """Yield the arguments of a verb and of the verbs below it."""
    below = [app[verb][name] for name in app[verb] if not name.startswith("-")]
    for one in below or [app[verb]]:
        yield from one.assemble_argument_collection()


def options(verb):
    """Return the options of a verb; of two opposites the one that changes something."""
    return {
        one.names[-1] if one.field_info.default is True else one.names[0]
        for one in arguments(verb)
        if one.field_info.kind is Parameter.KEYWORD_ONLY and one.names[0].startswith("--")
    }


def test_every_page_is_in_the_navigation():
    pages = {str(page.relative_to(DOCS)) for page in PAGES if page.is_relative_to(DOCS)}
    borrowed = {"index.md", "architecture.md", "contributing.md", "changelog.md", "benchmarks.md"}
    borrowed |= {"security.md"}
    assert pages | borrowed == set(NAV)
    assert len(NAV) == len(set(NAV))


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_a_page_with_an_example_and_all_its_options(verb):
    page = page_of(verb)
    shown = [line for line in commands(page) if line[0] == verb]
    assert shown
    missing = {name for name in options(verb) if name not in page.read_text()}
    assert missing == set()


@pytest.mark.parametrize("verb", VERBS)
def test_no_option_is_made_up(verb):
    known = {name for other in VERBS for one in arguments(other) for name in one.names}
    named = {code.split()[0] for code in codes(page_of(verb).read_text()) if code.startswith("--")}
    assert named <= known


# --- what is logged -------------------------------------------------------------------------

TINY = {"max_steps": 1, "batch_size": 64}
DRAWN = {"estimator": "sampled", "loss_type": "grpo", "num_generations": 8}
SETTINGS = [
    {},
    {"beta": 0.1},
    {"reward_funcs": ("future", "novelty")},
    DRAWN,
    {"estimator": "slate", "loss_type": "grpo", "num_generations": 4, "slate_length": 3},
    {**DRAWN, "algorithm": "ppo"},
    {"algorithm": "top_k_off_policy"},
    {"algorithm": "s_dpo", "beta": 1.0},
    {"algorithm": "sac"},
]


class Keep(Callback):
    def __init__(self):
        self.names = set()

    def on_row(self, row):
        self.names |= set(row)


@pytest.fixture(scope="module")
def logged():
    """Return the names of all that is logged by some training or other."""
    dataset = recoach.leave_last_out(recoach.shop(n_users=40, n_items=40, seed=1).interactions)
    keep = Keep()
    for model, settings in [*(("sasrec", s) for s in SETTINGS), ("lightgcn", {})]:
        recoach.GRPOTrainer(
            recoach.build_model(model, dataset, dim=8),
            args=GRPOConfig(**TINY | settings),
            train_dataset=dataset,
            callbacks=[keep],
        ).train()
    return keep.names


def test_the_page_of_the_diagnostics_explains_all_that_is_logged_and_nothing_else(logged):
    text = (DOCS / "reference" / "diagnostics.md").read_text()
    assert {name for row in tables(text) for name in codes(row[0])} == logged


def test_the_lines_of_a_run_say_of_which_stage_they_are(tmp_path):
    folder = RunFolder(tmp_path)
    MetricsLogger(folder, "tuned").on_row({"step": 1, "loss": 0.5})
    assert folder.metrics() == [{"stage": "tuned", "step": 1, "loss": 0.5}]


# --- from TRL ---------------------------------------------------------------------------------


def test_the_page_for_trl_s_users_has_every_setting_with_its_default():
    text = (DOCS / "reference" / "trl.md").read_text().split("## Names that both have")[1]
    told = {codes(row[0])[0]: row[1] for row in tables(text.split("## TRL's that")[0])}
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
def test_what_is_claimed_for_us_names_a_file_that_is_there(row):
    _, ours, *theirs, where = row
    assert len(theirs) == 8
    if ours in "●◐":
        assert codes(where)
    for path in codes(where):
        assert (ROOT / path).exists()


def test_the_comparison_also_says_what_others_do_better():
    assert sum(row[1] == "○" for row in LINES) > 10
    assert {mark for row in LINES for mark in row[2:-1]} >= {"●", "○", "–"}


# --- reference --------------------------------------------------------------------------------


def test_the_reference_has_every_public_name():
    named = re.findall(r"^::: recoach\.(\w+)$", (DOCS / "reference" / "api.md").read_text(), re.M)
    assert sorted(named) == recoach.__all__


def test_the_doctor_s_page_lists_the_extras_for_users():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"]) - {"test", "lint", "docs", "fuzz"}
    assert {codes(row[0])[0] for row in tables(page_of("doctor").read_text())} == extras


def test_the_two_tower_example_is_short():
    (defined, _, *_) = blocks(DOCS / "how-to" / "wrap-a-pytorch-model.md", "python")
    body = [line for line in defined.split("class TwoTowers")[1].splitlines() if line.strip()]
    assert len(body) <= 16
