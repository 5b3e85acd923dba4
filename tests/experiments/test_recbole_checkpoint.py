"""RecBole checkpoints are read without executing code; hostile files are rejected."""

import builtins
import functools
import os
import pickle
import struct
import sys
import zipfile

import numpy as np
import pytest
import torch

import recbole_layout
from recoach.errors import ModelError
from recoach.experiments.recbole.checkpoint import read_checkpoint

DONE = "/never/to/be/written"


@pytest.fixture
def file(tmp_path):
    return recbole_layout.make_files(tmp_path, "SASRec")[0]


@pytest.mark.parametrize("protocol", [2, 4])
def test_settings_weights_and_metric_are_read_without_recbole(tmp_path, protocol):
    state, config = recbole_layout.weights("GSAU"), recbole_layout.settings("GSAU")
    path = recbole_layout.save(tmp_path / "a.pth", config, state, 0.1234, protocol=protocol)
    checkpoint = read_checkpoint(path)
    assert {key: checkpoint.config[key] for key in config} == config
    assert checkpoint.best_valid_score == 0.1234
    assert list(checkpoint.state) == list(state)
    for name, stored in checkpoint.state.items():
        assert torch.equal(checkpoint.tensor(stored), state[name])


def test_writing_a_tensor_changes_no_other_bytes(file, tmp_path):
    source, target = read_checkpoint(file), tmp_path / "b.pth"
    name = "trm_encoder.layer.1.feed_forward.dense_1.bias"
    source.write(target, {source.state[name]: torch.arange(16.0)})
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(target) as new:
        assert old.namelist() == new.namelist()
        changed = [entry for entry in old.namelist() if old.read(entry) != new.read(entry)]
    assert [entry.split("/")[1] for entry in changed] == ["data"]
    before, after = (recbole_layout.load(path)["state_dict"] for path in (file, target))
    assert after[name].tolist() == list(range(16))
    assert all(torch.equal(before[key], after[key]) for key in before if key != name)


def test_tensors_that_share_a_storage_are_written_independently(tmp_path):
    both = torch.arange(12.0).view(6, 2)
    upper, lower = both[:4], both[4:]
    state = recbole_layout.weights("BPR")
    path = recbole_layout.save(
        tmp_path / "a.pth",
        recbole_layout.settings("BPR"),
        state,
        0.5,
        cached={"upper": upper, "lower": lower.T},
    )
    source = read_checkpoint(path)
    source.write(tmp_path / "b.pth", {source.cached["lower"]: torch.full((2, 2), 7.0)})
    cached = recbole_layout.load(tmp_path / "b.pth")["other_parameter"]
    assert torch.equal(cached["upper"], upper)
    assert cached["lower"].tolist() == [[7, 7], [7, 7]]


class Calls:
    """Is pickled as a call of a function."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


HOSTILE = {
    "os.system": Calls(os.system, f"touch {DONE}"),
    "eval": Calls(eval, "1 + 1"),
    "exec": Calls(exec, "x = 1"),
    "getattr": Calls(getattr, "text", "upper"),
    "partial": Calls(functools.partial, os.getcwd),
    "a call within a call": Calls(builtins.map, Calls(os.system, "true"), [1]),
    "import": Calls(__import__, "os"),
    "open": Calls(open, __file__),
    "torch.load": Calls(torch.load, "x.pth"),
    "numpy.load": Calls(np.load, "x.npy"),
}


def repack(file, path, pickled, **entries):
    """Write a checkpoint with another pickle, or other entries."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            kind = info.filename.partition("/")[2]
            new.writestr(info.filename, pickled if kind == "data.pkl" else old.read(info))
        for name, content in entries.items():
            new.writestr(name, content)
    return path


def pickled_with(value):
    return pickle.dumps({"config": value, "state_dict": {}, "best_valid_score": 1.0}, 4)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_pickle_that_calls_a_function_is_rejected_with_its_name(
    name, file, tmp_path, monkeypatch
):
    called = []
    monkeypatch.setattr(os, "getcwd", lambda: called.append("getcwd"))
    path = repack(file, tmp_path / "hostile.pth", pickled_with(HOSTILE[name]))
    with pytest.raises(ModelError, match=r"it refers to \w+\.\w+.* nothing in it was executed"):
        read_checkpoint(path)
    assert called == []


def test_a_call_of_a_recbole_function_becomes_a_placeholder(tmp_path):
    called = []

    def system(command):
        called.append(command)

    system.__module__, system.__qualname__ = "recbole.utils", "system"
    config = recbole_layout.settings("BPR", topk=Calls(system, "true", state={"a": 1}))
    with recbole_layout.classes():
        sys.modules["recbole.utils"].system = system
        path = recbole_layout.save(tmp_path / "a.pth", config, {}, 0.5)
    placeholder = read_checkpoint(path).config["topk"]
    assert (placeholder.path, placeholder.arguments, placeholder.state) == (
        "recbole.utils.system",
        ("true",),
        {"a": 1},
    )
    assert called == []


def test_a_config_with_a_hostile_reduce_is_rejected(file, tmp_path):
    with recbole_layout.classes() as config:
        config.__reduce__ = lambda _: (os.system, (f"touch {DONE}",))
        pickled = pickled_with(config())
    with pytest.raises(ModelError, match=r"it refers to (posix|nt)\.system"):
        read_checkpoint(repack(file, tmp_path / "hostile.pth", pickled))


OPCODES = {
    "a memo of gigabytes": b"\x80\x02}r\xff\xff\xff\x7f.",
    "an extension": b"\x80\x02\x82\x01.",
    "an instance": b"(ios\nsystem\n.",
    "a number of a thousand digits": b"L" + b"9" * 1000 + b"L\n.",
    "text": b"no pickle",
    "nothing": b"",
    "a call of a set": b"\x80\x04cbuiltins\nset\n)R.",
    "state on a function": (
        b"\x80\x04ctorch._utils\n_rebuild_tensor_v2\nNX\x0c\x00\x00\x00__defaults__K\x01s\x86b."
    ),
    "a storage of nowhere": b"\x80\x04(X\x07\x00\x00\x00storage)X\x01\x00\x00\x000NK\x01tQ.",
}


@pytest.mark.parametrize("name", OPCODES)
def test_opcodes_that_do_not_occur_in_checkpoints_are_rejected(name, file, tmp_path):
    path = repack(file, tmp_path / "hostile.pth", OPCODES[name])
    with pytest.raises(ModelError, match="nothing in it was executed"):
        read_checkpoint(path)
    read_checkpoint(file)  # the reader itself is unchanged


def test_a_tensor_beyond_its_storage_is_rejected(tmp_path):
    state = {"item_embedding.weight": torch.arange(10.0)}
    path = recbole_layout.save(tmp_path / "a.pth", recbole_layout.settings("BPR"), state, 0.1)
    with zipfile.ZipFile(path) as archive:
        (name,) = (entry for entry in archive.namelist() if entry.endswith("data.pkl"))
        pickled = archive.read(name)
    small, large = b"K\x0a\x85", b"K\x0b\x85"  # the tuple of the one size, 10 and 11
    assert pickled.count(small) == 1
    with pytest.raises(ModelError, match="beyond its storage"):
        read_checkpoint(repack(path, tmp_path / "b.pth", pickled.replace(small, large)))


@pytest.mark.parametrize(
    "entry", ["../a/data/9", "/a/data/9", "a/../../data/9", "a/code/x.py", "b/data/9", "a\\data"]
)
def test_entries_that_torch_does_not_write_are_rejected(entry, tmp_path):
    path = recbole_layout.save(tmp_path / "a.pth", recbole_layout.settings("BPR"), {}, 0.1)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, "x")
    with pytest.raises(ModelError, match=r"an entry|several folders"):
        read_checkpoint(path)


def test_a_zip_bomb_is_rejected_without_decompression(file, tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        root = old.namelist()[0].partition("/")[0]
        new.writestr(f"{root}/data.pkl", bytes(10**7))
    assert path.stat().st_size < 10**5
    with pytest.raises(ModelError, match="compressed"):
        read_checkpoint(path)


def test_entries_larger_than_the_file_are_rejected(file, tmp_path):
    content = bytearray(file.read_bytes())
    at = content.rfind(b"PK\x01\x02")  # the last entry of the directory
    struct.pack_into("<II", content, at + 20, 2**31, 2**31)
    (tmp_path / "b.pth").write_bytes(content)
    with pytest.raises(ModelError, match=r"was not written by torch\.save"):
        read_checkpoint(tmp_path / "b.pth")


def test_damaged_numbers_are_reported(file, tmp_path):
    source = read_checkpoint(file)
    stored = source.state["item_embedding.weight"]
    content = bytearray(file.read_bytes())
    content[content.find(source.tensor(stored).numpy().tobytes())] ^= 1
    broken = tmp_path / "broken.pth"
    broken.write_bytes(content)
    with pytest.raises(ModelError, match="damaged"):
        read_checkpoint(broken).tensor(stored)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "zip format"), (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "load and save it once")],
)
def test_files_of_another_format_are_rejected(content, words, tmp_path):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ModelError, match=words):
        read_checkpoint(tmp_path / "a.pth")
    with pytest.raises(ModelError, match="Cannot read"):
        read_checkpoint(tmp_path / "gone.pth")
    with pytest.raises(ModelError, match="Cannot read"):
        read_checkpoint(tmp_path)


def test_a_symbolic_link_is_rejected(file, tmp_path):
    (tmp_path / "secret").write_text("mine")
    path = tmp_path / "link.pth"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            if info.filename.endswith("/version"):
                info.external_attr = 0o120777 << 16
                new.writestr(info, str(tmp_path / "secret"))
            else:
                new.writestr(info, old.read(info))
    with pytest.raises(ModelError, match="version' that is a link"):
        read_checkpoint(path)
