"""Models of other packages: by import path, by entry point, or handed over."""

from dataclasses import replace
from functools import partial

import own_models
import polars as pl
import pytest
import torch

from recoach import build_model, evaluate, recommend
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError, ModelError
from recoach.models import external
from recoach.models.checkpoint import load_model, load_tensors
from recoach.models.external import register
from recoach.models.registry import model_entry, model_traits, origin_of
from recoach.training.context import RunContext
from recoach.training.loop import save_trained
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from toy_logs import cycle

DATA = leave_last_out(cycle(24, 12, length=7))


@pytest.mark.parametrize(
    ("name", "settings", "needs"),
    [
        ("own_models:build", {"dim": 4}, ("states",)),
        ("own_models:build_without_loss", {}, ()),
        ("own_models:Bias", {"start": 1.5}, ("edges",)),
    ],
)
def test_a_model_is_built_by_its_import_path_and_loaded_again(tmp_path, name, settings, needs):
    model = build_model(name, DATA, seed=3, **settings)
    config = model_entry(name).config(**settings)
    assert model_traits(name, config, DATA) == (needs, True)
    assert origin_of(model).name == name
    assert model.ids == DATA.ids
    save_trained(tmp_path, model, 0.5)
    assert load_tensors(tmp_path / "best.safetensors").ids == DATA.ids
    loaded = load_model(tmp_path, DATA)
    assert type(loaded) is type(model)
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor)


def test_a_function_that_is_handed_over_has_its_import_path_as_name():
    model = build_model(own_models.build, DATA, dim=4)
    assert origin_of(model).name == "own_models:build"
    assert origin_of(model).config.model_dump() == {"dim": 4, "weights": None}


def test_the_file_of_weights_is_read_once(tmp_path):
    module = own_models.LastItem(12, 8)
    file = tmp_path / "towers.pt"
    torch.save(module.state_dict(), file)
    model = build_model("own_models:build", DATA, weights=str(file))
    assert torch.equal(model.module.table.weight, module.table.weight)
    save_trained(tmp_path / "run", model, 0.5)
    file.unlink()
    loaded = load_model(tmp_path / "run", DATA)
    assert torch.equal(loaded.module.table.weight, module.table.weight)
    with pytest.raises(ConfigError, match=r"own_models:build cannot be built.*towers.pt"):
        build_model("own_models:build", DATA, weights=str(file))


def test_the_loss_of_a_wrapped_module_trains_it_and_resumes(tmp_path):
    results = {}
    for name, limits in {"whole": [40], "part": [15, 40]}.items():
        for max_steps in limits:
            model = build_model("own_models:build", DATA, seed=1)
            config = PretrainConfig(max_steps=max_steps, batch_size=24, learning_rate=0.05)
            context = RunContext(folder=tmp_path / name, resume=True)
            if max_steps == 15:
                context = RunContext(folder=tmp_path / name, callback=_StopAt(15))
                pretrain(model, DATA, config.model_copy(update={"max_steps": 40}), context)
            else:
                results[name] = pretrain(model, DATA, config, context)
        results[f"{name} weights"] = model.module.table.weight
    assert results["whole"].best_value > 0.9
    assert torch.equal(results["whole weights"], results["part weights"])


class _StopAt(RunContext().callback.__class__):
    def __init__(self, step):
        self.step, self.now = step, 0

    def on_step(self, step, logs):
        self.now = step

    def stops(self):
        return self.now >= self.step


def test_an_entry_point_is_a_name(monkeypatch):
    point = external.metadata.EntryPoint("towers", "own_models:build", external.ENTRY_POINTS)
    monkeypatch.setattr(external.metadata, "entry_points", lambda group: [point])
    assert model_entry("towers").build is own_models.build
    with pytest.raises(ConfigError, match="Did you mean 'towers'"):
        model_entry("tower")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "no_such_module:build",
            "no_such_module:build cannot be imported: there is no.*Install its package",
        ),
        ("own_model:build", "there is no module 'own_model' in the working directory"),
        ("own_models.py:build", "write own_models:build, the name of the module without .py"),
        ("folder/own_models.py:build", r"is no import path.*examples.towers:build for"),
        ("__main__:build", r"is no import path.*recoach.load\(run, build="),
        ("own_models:bild", "has no 'bild'.*own_models.py. Did you mean 'build'"),
        ("own_models:raises", r"cannot be built: IndexError at own_models.py:\d+: index out of"),
        ("own_models:needs_a_gpu", r"cannot be built: \w+ at own_models.py:\d+: "),
        ("own_models:without_storage", "must return a model with weights.* on the device meta"),
        ("own models:build", "'own models:build' is no import path"),
        ("own_models:not_callable", "neither a subclass of Recommender nor a function"),
        ("own_models:LastItem", "neither a subclass of Recommender nor a function"),
        ("own_models:takes_anything", r"\*\*settings must be a setting with a name"),
        ("own_models:misbehaves", "must return a Recommender for the 12 items.*returned Dataset"),
        ("own_models.build", "no model called.*named by its import path"),
    ],
)
def test_code_that_is_no_model_is_refused_in_a_sentence(name, words, monkeypatch):
    monkeypatch.setattr(external, "_HANDED_OVER", {})  # other tests hand over functions
    with pytest.raises(ConfigError, match=words):
        build_model(name, DATA)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def build(dataset:\n", r"cannot be imported \(SyntaxError at broken_model.py:1: "),
        ("import no_such_package\n", "it imports no_such_package, which is not installed"),
        ("x = 1\ny = x + unknown\n", r"\(NameError at broken_model.py:2: name 'unknown'"),
        ("from recoach import wraps\n", r"\(ImportError at broken_model.py:1: cannot import"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_the_line(
    code, words, tmp_path, monkeypatch
):
    (tmp_path / "broken_model.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=words):
        build_model("broken_model:build", DATA)


def test_only_functions_and_classes_are_handed_over():
    with pytest.raises(ConfigError, match=r"is no model: give a function build\(dataset\)"):
        build_model(partial(own_models.build, dim=4), DATA)


def test_a_name_that_is_registered_again_stands_for_the_new_code():
    config = model_entry(register(own_models.build, "again:build")).config()
    assert model_traits("again:build", config, DATA).needs == ("states",)

    def build(dataset, *, dim: int = 8, weights: str | None = None):
        return own_models.build_without_loss(dataset, dim=dim)

    config = model_entry(register(build, "again:build")).config()
    assert model_traits("again:build", config, DATA).needs == ()


def test_a_setting_that_the_function_does_not_take_is_refused():
    with pytest.raises(ConfigError, match="setting 'dims'"):
        build_model("own_models:build", DATA, dims=3)


def test_a_folder_whose_code_is_missing_is_refused_in_a_sentence(tmp_path):
    save_trained(tmp_path, build_model("own_models:build", DATA), 0.5)
    path = tmp_path / "model.json"
    path.write_text(path.read_text().replace("own_models", "gone_models"))
    with pytest.raises(ModelError, match=r"model.json: The code of model gone_models:build cannot"):
        load_model(tmp_path, DATA)


def shuffled(dataset):
    """Return the dataset with its items numbered in the reverse order."""
    return replace(dataset, item_ids=dataset.item_ids.reverse())


@pytest.mark.parametrize("name", ["sasrec", "own_models:build", "itemknn"])
def test_a_model_is_refused_for_items_in_another_order(tmp_path, name):
    model = build_model(name, DATA)
    save_trained(tmp_path, model, 0.5)
    other = shuffled(DATA)
    for use in (evaluate, recommend, pretrain):
        with pytest.raises(ModelError, match=r"built for other items.*in another order"):
            use(model, other)
    with pytest.raises(ModelError, match=r"best.safetensors was trained on other users or items"):
        load_model(tmp_path, other)


def test_only_models_that_know_users_are_refused_for_other_users():
    users = pl.Series([f"x{number}" for number in range(DATA.n_users)])
    other = replace(DATA, user_ids=users)
    evaluate(build_model("gru4rec", DATA), other)
    with pytest.raises(ModelError, match="built for other users"):
        evaluate(build_model("bprmf", DATA), other)


def test_a_model_is_refused_for_another_number_of_items():
    model = build_model("sasrec", DATA)
    with pytest.raises(ModelError, match=r"built for 12 items.*has 9"):
        evaluate(model, leave_last_out(cycle(24, 9, length=7)))
