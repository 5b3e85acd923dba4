"""Rules for the package's source: layers of imports, sizes, names, docstrings."""

import ast
import importlib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import recoach
from recoach.models.registry import MODELS

ROOT = Path(recoach.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path
    for path in sorted(ROOT.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}

LAYERS = ["errors", "config", "distributed", "data", "models", "evaluation", "rerank simulation"]
LAYERS += ["policy", "training", "experiments serving", "report ope", "api loaded"]
LAYERS += ["reproduction demonstration", "cli"]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names.split()}
FORBIDDEN = {"serving": {"training", "policy"}, "report": {"training", "policy", "models"}}
TORCH_ONLY = ["recoach.evaluation.ranking", "recoach.policy.objective"]


def imported(tree):
    """Return every module that a file imports, at top level or inside functions."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & set(MODULES)
            names |= submodules or {node.module}
    return names


def find_nodes(kind):
    """Return (module:line, node) of all syntax nodes of a kind in the package."""
    return [
        (f"{name}:{node.lineno}", node)
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, kind)
    ]


def test_the_modules_were_found():
    assert len(MODULES) > 30
    assert {name.split(".")[1] for name in MODULES} - {"__init__", "__main__"} == set(LAYER)


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[1] in LAYER])
def test_imports_point_to_lower_layers(name):
    own = name.split(".")[1]
    for target in imported(TREES[name]):
        if not target.startswith("recoach"):
            continue
        assert target != "recoach", f"{name} imports the top-level package"
        other = target.split(".")[1]
        assert LAYER[other] < LAYER[own] or other == own, f"{name} imports {target}"
        assert other not in FORBIDDEN.get(own, set()), f"{name} imports {target}"


def test_no_modules_import_each_other_in_a_cycle():
    graph = {name: imported(tree) & set(MODULES) for name, tree in TREES.items()}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError with the names


@pytest.mark.parametrize("name", TORCH_ONLY)
def test_ranking_and_objective_import_torch_only(name):
    allowed = {"torch", "math", "typing", "collections", "dataclasses", "functools"}
    assert {target.split(".")[0] for target in imported(TREES[name])} <= allowed


@pytest.mark.parametrize("name", MODULES)
def test_files_are_short(name):
    assert len(MODULES[name].read_text().splitlines()) <= 400


def length(function):
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_functions_are_short():
    functions = find_nodes(ast.FunctionDef | ast.AsyncFunctionDef)
    assert {where: length(node) for where, node in functions if length(node) > 50} == {}


def test_the_public_names_are_sorted_few_and_complete():
    names = recoach.__all__
    assert names == sorted(names)
    assert len(set(names)) == len(names) <= 33
    assert all(hasattr(recoach, name) for name in names)
    (typed,) = (node for node in TREES["recoach.__init__"].body if isinstance(node, ast.If))
    seen_by_type_checkers = {alias.name: node.module for node in typed.body for alias in node.names}
    assert seen_by_type_checkers == recoach._MODULES
    assert set(names) == set(recoach._MODULES)


def test_everything_public_is_documented():
    public = ast.FunctionDef | ast.ClassDef
    missing = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in tree.body
        if isinstance(node, public) and not node.name.startswith("_")
        if not ast.get_docstring(node)
    ]
    assert missing == []
    assert [name for name, tree in TREES.items() if tree.body and not ast.get_docstring(tree)] == []


def test_nothing_is_printed():
    calls = [
        where
        for where, node in find_nodes(ast.Call)
        if isinstance(node.func, ast.Name) and node.func.id in ("print", "breakpoint")
    ]
    assert calls == []


def test_no_handler_catches_all_exceptions():
    wide = ("Exception", "BaseException")
    caught = [
        where
        for where, node in find_nodes(ast.ExceptHandler)
        if node.type is None
        or any(isinstance(part, ast.Name) and part.id in wide for part in ast.walk(node.type))
    ]
    assert caught == []


def test_the_package_has_no_assert_statements():
    assert [where for where, _ in find_nodes(ast.Assert)] == []


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_documented(name):
    entry = MODELS[name]
    module = importlib.import_module(entry.model.__module__)
    for thing in (module, entry.model, entry.config):
        assert thing.__doc__
        assert thing.__doc__ != thing.__base__.__doc__ if isinstance(thing, type) else True
    assert module.__name__.split(".")[-1] == name


def test_no_module_has_a_name_without_content():
    vague_names = {"utils", "util", "helpers", "helper", "common", "misc"}
    parts = {part for name in MODULES for part in name.split(".")}
    assert not parts & vague_names
