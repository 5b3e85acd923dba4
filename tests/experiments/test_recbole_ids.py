"""Ids of RecBole are read from its saved dataset without executing it, and from JSON."""

import json
import os
import pickle
import sys
import types

import numpy as np
import pytest

from recoach.errors import DataError
from recoach.experiments.recbole.ids import read_ids

USERS, ITEMS = ["b", "a"], ["y", "ü", "long name"]
ROWS = [[1, 2], [2, 1], [1, 3]]


@pytest.fixture
def dataset_class(monkeypatch):
    """Return a class that pickles refer to as RecBole's Dataset."""
    name = "recbole.data.dataset.dataset"
    cls = type("Dataset", (), {"__module__": name})
    for module in ("recbole", "recbole.data", "recbole.data.dataset", name):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    monkeypatch.setattr(sys.modules[name], "Dataset", cls, raising=False)
    return cls


def save(path, dataset_class, **attributes):
    dataset = dataset_class()
    vars(dataset).update({"uid_field": "user", "iid_field": "item", **attributes})
    path.write_bytes(pickle.dumps(dataset, protocol=4))
    return path


def tokens(users=USERS, items=ITEMS):
    """Return arrays as RecBole makes them, under names that are NumPy scalars."""
    names = np.array(["user", "item"])
    return {names[0]: np.array(["[PAD]", *users]), names[1]: np.array(["[PAD]", *items])}


def test_the_dataset_that_recbole_saved_is_read(dataset_class, tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"time": [1.0, 2.0, 3.0], "user": [1, 2, 1], "item": [2, 1, 3]}, index=[2, 0, 1]
    ).reset_index(drop=True)
    frame.columns = pandas.Index(list(frame.columns), dtype=object)  # as pandas 2 has them
    path = save(tmp_path / "a.pth", dataset_class, field2id_token=tokens(), inter_feat=frame)
    ids = read_ids(path)
    assert (ids.users.to_list(), ids.items.to_list()) == (USERS, ITEMS)
    assert ids.rows.tolist() == [[0, 1], [1, 0], [0, 2]]


def test_rows_in_an_unknown_layout_are_left_out(dataset_class, tmp_path):
    ids = read_ids(save(tmp_path / "a.pth", dataset_class, field2id_token=tokens(), inter_feat=[]))
    assert ids.items.to_list() == ITEMS
    assert ids.rows is None


def test_a_json_file_is_read(tmp_path):
    path = tmp_path / "ids.json"
    path.write_text(json.dumps({"users": USERS, "items": ITEMS, "rows": ROWS}))
    ids = read_ids(path)
    assert (ids.users.to_list(), ids.items.to_list()) == (USERS, ITEMS)
    assert ids.rows.tolist() == [[0, 1], [1, 0], [0, 2]]


class Calls:
    def __reduce__(self):
        return (os.system, ("touch executed",))


def test_a_pickle_that_calls_a_function_is_refused(dataset_class, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "a.pth", dataset_class, field2id_token=tokens(), other=Calls())
    with pytest.raises(DataError, match=r"it refers to posix\.system, which is not allowed"):
        read_ids(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{}", "KeyError: 'users'"),
        (b"[", "JSONDecodeError"),
        (b'{"users": ["a", "a"], "items": ["x"]}', "its users are empty or repeated"),
        (b'{"users": ["a"], "items": []}', "its items are empty or repeated"),
        (b'{"users": ["a"], "items": ["x"], "rows": [[1, 2]]}', "numbers without an id"),
        (b'{"users": ["a"], "items": ["x"], "rows": [[0, 1]]}', "numbers without an id"),
        (None, "Cannot read"),
    ],
)
def test_files_without_ids_are_refused(content, words, tmp_path):
    path = tmp_path / "ids.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_ids(path)
