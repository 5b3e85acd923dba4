"""A checkpoint with any damaged byte is refused, or loads as it was saved."""

import contextlib
import json
import os
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recoach.data.split import leave_last_out
from recoach.errors import ModelError
from recoach.models.checkpoint import load_model, load_tensors, save_description, save_tensors
from recoach.models.registry import build_model
from toy_logs import cycle

DATASET = leave_last_out(cycle(16, 12, length=7))
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2]), "c": torch.tensor(0.5)}
STATE = {"step": 7, "finished": True, "best_value": 0.25}


@pytest.fixture
def file(tmp_path):
    save_tensors(tmp_path / "x.safetensors", TENSORS, STATE)
    return tmp_path / "x.safetensors"


def assert_refused_or_unchanged(file, content):
    file.write_bytes(content)
    try:
        loaded = load_tensors(file)
    except ModelError as error:
        message = str(error)
        assert str(file) in message
        assert "Restore the file or train again" in message
        return
    assert loaded.state == STATE
    assert loaded.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize("pattern", [0x01, 0x80, 0xFF])
def test_a_changed_byte_is_detected(file, pattern):
    content = file.read_bytes()
    for index in range(len(content)):
        damaged = bytearray(content)
        damaged[index] ^= pattern
        assert_refused_or_unchanged(file, bytes(damaged))


def test_a_truncated_or_extended_file_is_detected(file):
    content = file.read_bytes()
    for end in range(len(content)):
        assert_refused_or_unchanged(file, content[:end])
    for start in range(1, len(content), 7):
        assert_refused_or_unchanged(file, content[start:])
    assert_refused_or_unchanged(file, content + b"\x00")


@given(st.integers(0, 400), st.integers(0, 400), st.integers(1, 40))
@settings(max_examples=150, deadline=None, database=None)
def test_swapped_bytes_are_detected(tmp_path_factory, left, right, length):
    file = tmp_path_factory.mktemp("swap") / "x.safetensors"
    save_tensors(file, TENSORS, STATE)
    content = bytearray(file.read_bytes())
    one, two = content[left : left + length], content[right : right + length]
    content[left : left + len(two)] = two
    content[right : right + len(one)] = one
    assert_refused_or_unchanged(file, bytes(content))


@pytest.mark.parametrize("size", [2**20, 2**32, 2**40, 2**62, 2**64 - 1])
def test_a_header_of_claimed_gigabytes_is_refused(file, size):
    file.write_bytes(struct.pack("<Q", size) + file.read_bytes()[8:])
    with pytest.raises(ModelError, match="cannot be read as weights"):
        load_tensors(file)


def test_tensors_of_claimed_gigabytes_are_refused(file):
    header = {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
    with pytest.raises(ModelError, match="cannot be read as weights"):
        load_tensors(file)


def test_deeply_nested_state_is_refused(file):
    header = {"__metadata__": {"recoach": "[" * 100_000}}
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(ModelError, match="cannot be read as weights"):
        load_tensors(file)


def test_damage_to_the_name_of_the_checksum_is_detected(file):
    content = file.read_bytes()
    for key in (b'"sha256"', b'"recoach"'):
        assert content.count(key) == 1
        assert_refused_or_unchanged(file, content.replace(key, b'"b' + key[2:]))
    damaged = content.replace(b"sha256", b"bha256").replace(b"best_value", b"sest_value")
    assert_refused_or_unchanged(file, damaged)


def test_files_without_a_checksum_are_refused(file):
    from safetensors.torch import save_file

    save_file(TENSORS, file)
    with pytest.raises(ModelError, match="checksum is missing"):
        load_tensors(file)


def test_a_damaged_description_raises_model_errors_only(tmp_path):
    model = build_model("lightgcn", DATASET, dim=4)
    save_description(tmp_path, model)
    save_tensors(tmp_path / "best.safetensors", model.state_dict(), {})
    content = (tmp_path / "model.json").read_bytes()
    for index in range(len(content)):
        damaged = bytearray(content)
        damaged[index] ^= 0x11
        (tmp_path / "model.json").write_bytes(damaged)
        with contextlib.suppress(ModelError):
            load_model(tmp_path, DATASET)
    (tmp_path / "model.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match="does not describe a model"):
        load_model(tmp_path, DATASET)


def test_nothing_in_a_weights_file_is_executed(tmp_path):
    import pickle

    class RunsCode:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "done"),)

    (tmp_path / "x.safetensors").write_bytes(pickle.dumps(RunsCode()))
    with pytest.raises(ModelError):
        load_tensors(tmp_path / "x.safetensors")
    assert not (tmp_path / "done").exists()
