import itertools
import json
import os

import pytest
import torch
from safetensors.torch import load_file

from recoach.data.split import leave_last_out
from recoach.errors import ConfigError, ModelError, RunError
from recoach.models.checkpoint import (
    load_model,
    load_tensors,
    save_description,
    save_tensors,
    write_atomically,
)
from recoach.models.registry import MODELS, build_model, model_entry, origin_of
from toy_logs import cycle

DATASET = leave_last_out(cycle(16, 12, length=7))
SMALL = {"dim": 8, "layers": 1, "heads": 2, "inner_dim": 16, "max_length": 6}


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a small saved SASRec."""
    model = build_model("sasrec", DATASET, **SMALL, seed=3)
    save_description(tmp_path, model)
    save_tensors(tmp_path / "best.safetensors", model.state_dict(), {"step": 7})
    return tmp_path


def change_description(folder, **entries):
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_loaded_tensors_and_state_equal_the_saved_ones(tmp_path):
    tensors = {"a": torch.randn(3, 2), "b": torch.tensor([1, 2])}
    state = {"step": 7, "best": -float("inf"), "name": "é"}
    save_tensors(tmp_path / "new" / "x.safetensors", tensors, state)
    loaded = load_tensors(tmp_path / "new" / "x.safetensors")
    assert loaded.state == state
    assert all(torch.equal(loaded.tensors[name], tensors[name]) for name in tensors)


def test_a_loaded_model_has_the_saved_config_and_weights(folder):
    model = load_model(folder, DATASET)
    assert model.config.dim == 8
    expected = build_model("sasrec", DATASET, **SMALL, seed=3).state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in model.state_dict().items())
    assert not model.training


def test_optimizer_tensors_are_not_loaded_as_weights(folder):
    path = folder / "best.safetensors"
    save_tensors(path, load_file(path) | {"optimiser.0.step": torch.ones(1)}, {})
    assert load_model(folder, DATASET).config.dim == 8


def test_the_error_for_a_truncated_file_names_it(folder):
    path = folder / "best.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ModelError, match=r"best\.safetensors cannot be read"):
        load_model(folder, DATASET)


@pytest.mark.parametrize("content", [b"", b"no tensors at all", b"\x00" * 64])
def test_a_file_of_another_type_is_refused(folder, content):
    (folder / "best.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(folder, DATASET)


def test_the_error_for_missing_weights_names_the_file(folder):
    with pytest.raises(ModelError, match=r"last\.safetensors"):
        load_model(folder, DATASET, "last")


def test_weights_of_another_model_are_refused(folder):
    other = build_model("lightgcn", DATASET, dim=8)
    save_tensors(folder / "best.safetensors", other.state_dict(), {})
    with pytest.raises(ModelError, match="another model"):
        load_model(folder, DATASET)


@pytest.mark.parametrize("model", MODELS)
def test_sizes_beyond_memory_are_refused_before_allocation(tmp_path, model):
    small = build_model(model, DATASET)
    save_description(tmp_path, small)
    save_tensors(tmp_path / "best.safetensors", small.state_dict(), {})
    assert load_model(tmp_path, DATASET).n_items == DATASET.n_items
    sizes = {"dim", "hidden_dim", "inner_dim", "max_length", "layers"}
    sizes &= set(type(small.config).model_fields)
    if "position" not in small.parameter_groups():
        sizes.discard("max_length")  # no tensor has this size
    assert sizes or not small.needs
    for name, size in itertools.product(sorted(sizes), (10**9, 10**12, 10**30)):
        change_description(tmp_path, config=small.config.model_dump(mode="json") | {name: size})
        with pytest.raises(ModelError, match=r"another model|does not describe"):
            load_model(tmp_path, DATASET)


def test_a_missing_tensor_is_refused(folder):
    tensors = load_tensors(folder / "best.safetensors").tensors
    del tensors["items.weight"]
    save_tensors(folder / "best.safetensors", tensors, {})
    with pytest.raises(ModelError, match=r"items\.weight is missing, expected \(13, 8\)"):
        load_model(folder, DATASET)


def test_an_unknown_format_is_refused(folder):
    change_description(folder, format=99)
    with pytest.raises(ModelError, match="format 99"):
        load_model(folder, DATASET)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1, "model": "sasrec"}'])
def test_the_error_for_a_damaged_description_names_it(folder, content):
    (folder / "model.json").write_text(content)
    with pytest.raises(ModelError, match=r"model\.json does not describe"):
        load_model(folder, DATASET)


def test_an_unknown_setting_in_a_description_is_refused(folder):
    change_description(folder, config={"colour": "red"})
    with pytest.raises(ModelError, match="colour"):
        load_model(folder, DATASET)


def test_non_finite_weights_are_refused(folder):
    path = folder / "best.safetensors"
    tensors = load_tensors(path).tensors
    tensors["items.weight"][2, 3] = float("nan")
    save_tensors(path, tensors, {})
    with pytest.raises(ModelError, match="non-finite"):
        load_model(folder, DATASET)


def test_a_dataset_of_another_size_is_refused(folder):
    with pytest.raises(ModelError, match="16 users and 12 items"):
        load_model(folder, leave_last_out(cycle(15, 12, length=7)))


def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary_file(tmp_path, monkeypatch):
    path = tmp_path / "x"
    write_atomically(path, b"old")

    def fail(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match="No space left"):
        write_atomically(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert path.read_bytes() == b"old"


def test_a_folder_that_is_a_file_raises_a_run_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="Cannot write"):
        write_atomically(tmp_path / "file" / "x", b"new")


def test_a_file_can_be_replaced_while_its_tensors_are_in_use(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.ones(1000)}, {})
    loaded = load_tensors(path).tensors["a"]
    path.write_bytes(b"\x00" * path.stat().st_size)
    assert loaded.sum() == 1000


def test_the_error_for_a_misspelt_model_suggests_the_closest_name():
    with pytest.raises(ConfigError, match="Did you mean 'sasrec'"):
        model_entry("SASrek")
    with pytest.raises(ConfigError, match="Choose one of bprmf, cotrec, ease, fgnn"):
        model_entry("zzz")


def test_the_error_for_an_invalid_setting_names_model_and_setting():
    with pytest.raises(ConfigError, match=r"Model sasrec\.dim: Input should be greater than 0"):
        build_model("sasrec", DATASET, dim=0)


def test_initial_weights_depend_on_the_seed_only():
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = build_model("gsau", DATASET, **SMALL, seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    second = build_model("gsau", DATASET, **SMALL, seed=5)
    other = build_model("gsau", DATASET, **SMALL, seed=6)
    assert torch.equal(first.users.weight, second.users.weight)
    assert not torch.equal(first.users.weight, other.users.weight)
    assert origin_of(first).name == "gsau"
