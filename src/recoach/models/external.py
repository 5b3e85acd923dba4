"""Models of other packages: by entry point, by import path, or as a function handed over in Python.

A function that builds a model takes the dataset first and its settings by name:

    def build(dataset: Dataset, *, dim: int = 64, weights: str | None = None) -> Recommender: ...

A parameter called `weights` is the file of weights trained elsewhere. It is left out when the
weights of a run folder are loaded, so that the folder does not depend on that file.
"""

import inspect
import re
import sys
import traceback
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import torch
from pydantic import BaseModel, create_model

from recoach.config import StrictConfig
from recoach.errors import ConfigError, clipped, suggestion
from recoach.models.base import Recommender

ENTRY_POINTS = "recoach.models"
"""The group of entry points by which a package makes its models known by name."""
WEIGHTS = "weights"
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

CODE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What the code of a model outside this package may raise by mistake; see `located`."""
_OTHERS_CODE = (str(Path(str(torch.__file__)).parent), str(Path(__file__).parents[1]))

Builder = Callable[..., Recommender]
"""(dataset, **settings) -> Recommender, see the module."""


class Entry(NamedTuple):
    """A model and the class of its settings."""

    model: type[Recommender]
    config: type[BaseModel]


class BuilderEntry(NamedTuple):
    """A function that builds a model, and the class of its settings."""

    build: Builder
    config: type[BaseModel]


_HANDED_OVER: dict[str, Entry | BuilderEntry] = {}
"""Models of this process by the import path under which run folders name them."""


def register(model: type[Recommender] | Builder, name: str | None = None) -> str:
    """Make a class or function known under its import path, and return that name.

    A function of a script or a notebook cannot be imported by another process: run folders that
    name it open only where it is registered again.

    Args:
        model: a subclass of `Recommender`, or a function that builds one.
        name: the name to use; None takes the module and the name of the class or function.

    Raises:
        ConfigError: see `entry_of`.
    """
    if not inspect.isfunction(model) and not isinstance(model, type):
        raise ConfigError(
            f"{clipped(repr(model))} is no model: give a function build(dataset) or a subclass of "
            "Recommender, or its import path, package.module:function."
        )
    if name is None:
        module = str(model.__module__)
        file = getattr(sys.modules.get("__main__"), "__file__", None)
        if module == "__main__" and file:
            module = Path(file).stem
        name = f"{module}:{model.__qualname__}"
    _HANDED_OVER[name] = entry_of(model, name)
    return name


def find_external(name: str) -> Entry | BuilderEntry | None:
    """Return the model of an entry point, an import path or `register`; None for another name.

    Raises:
        ConfigError: the name is an import path or entry point that cannot be imported, or what it
            names builds no model.
    """
    if name in _HANDED_OVER:
        return _HANDED_OVER[name]
    for entry_point in metadata.entry_points(group=ENTRY_POINTS):
        if entry_point.name == name:
            return entry_of(_imported(entry_point.value), name)
    if ":" in name:
        return entry_of(_imported(name), name)
    return None


def entry_point_names() -> list[str]:
    """Return the names of the models that installed packages offer."""
    return sorted(entry_point.name for entry_point in metadata.entry_points(group=ENTRY_POINTS))


def located(error: BaseException) -> str:
    """Return what an error of a model's code says, in one line, and the line of that code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = clipped(" ".join(lines) or "no message", 300)
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames if _is_own(frame)]
    if isinstance(error, SyntaxError) and error.filename:  # the message of others has the place
        places = [f"{Path(error.filename).name}:{error.lineno}"]
        message = error.msg
    return f"{type(error).__name__}{f' at {places[-1]}' if places else ''}: {message}"


def _is_own(frame: traceback.FrameSummary) -> bool:
    is_generated = frame.filename.startswith("<frozen")
    return not is_generated and not frame.filename.startswith(_OTHERS_CODE)


def _imported(path: str) -> object:
    if not _IMPORT_PATH.fullmatch(path) or path.startswith("__main__:"):
        raise ConfigError(
            f"model.name: {clipped(path)!r} is no import path. Write package.module:function "
            "(examples.towers:build for examples/towers.py), of a function in a file. In Python, "
            "recoach.load(run, build=...) opens a run whose function is in a notebook."
        )
    module_name, _, attributes = path.partition(":")
    try:
        value: object = import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(_not_found(path, module_name, error)) from error
    except CODE_ERRORS as error:
        raise ConfigError(
            f"The code of model {path} cannot be imported ({located(error)})."
        ) from error
    for attribute in attributes.split("."):
        if not hasattr(value, attribute):
            names = [name for name in dir(value) if not name.startswith("_")]
            raise ConfigError(
                f"The code of model {path} has no {attribute!r}. It is read from "
                f"{getattr(sys.modules[module_name], '__file__', module_name)}. "
                f"{suggestion(attribute, names)}"
            )
        value = getattr(value, attribute)
    return value


def _not_found(path: str, module_name: str, error: ModuleNotFoundError) -> str:
    """Return why a module cannot be imported: it does not exist, or one that it imports."""
    start = f"The code of model {path} cannot be imported"
    name = error.name or module_name
    if module_name != name and not module_name.startswith(f"{name}."):
        return f"{start}: it imports {name}, which is not installed ({located(error)})."
    if module_name.endswith(".py"):
        return f"{start}: write {path.replace('.py:', ':')}, the name of the module without .py."
    modules = [file.stem for file in Path.cwd().glob("*.py")]
    closest = suggestion(module_name, modules) if modules else ""
    return (
        f"{start}: there is no module {name!r} in the working directory {Path.cwd()} or among the "
        f"installed packages. Install its package, or run the command where the file is. {closest}"
    ).rstrip()


def entry_of(model: object, name: str) -> Entry | BuilderEntry:
    """Return the entry of a class or function, with its settings.

    Raises:
        ConfigError: it is neither a subclass of `Recommender` with an annotated `config`, nor a
            function whose parameters after the first are named settings.
    """
    if isinstance(model, type) and issubclass(model, Recommender):
        config = get_type_hints(model).get("config")
        if not (isinstance(config, type) and issubclass(config, BaseModel)):
            raise ConfigError(
                f"{name}: the class does not name its settings. Annotate `config: MySettings`, a "
                "subclass of recoach.config.StrictConfig."
            )
        return Entry(model, config)
    if isinstance(model, type) or not callable(model):
        raise ConfigError(
            f"{name} is neither a subclass of Recommender nor a function that builds one."
        )
    return BuilderEntry(model, _settings_class(model, name))


def _settings_class(build: Builder, name: str) -> type[BaseModel]:
    """Return a class with a field for each parameter of the function after the first."""
    try:
        parameters = list(inspect.signature(build, eval_str=True).parameters.values())
    except (NameError, TypeError, ValueError) as error:
        raise ConfigError(f"{name}: its parameters cannot be read ({error}).") from error
    if not parameters or parameters[0].kind not in _POSITIONAL:
        raise ConfigError(f"{name} must take the dataset as its first parameter.")
    fields: dict[str, Any] = {}
    for parameter in parameters[1:]:
        if parameter.kind in _VARIADIC or parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise ConfigError(f"{name}: parameter {parameter} must be a setting with a name.")
        annotation, default = parameter.annotation, parameter.default
        fields[parameter.name] = (
            Any if annotation is inspect.Parameter.empty else annotation,
            ... if default is inspect.Parameter.empty else default,
        )
    return create_model(f"{build.__name__}_settings", __base__=StrictConfig, **fields)
