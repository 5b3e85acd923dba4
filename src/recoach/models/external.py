"""Models of other packages: by entry point, by import path, or as a function handed over in Python.

A function that builds a model takes the dataset first and its settings by name:

    def build(dataset: Dataset, *, dim: int = 64, weights: str | None = None) -> Recommender: ...

A parameter called `weights` is the file of weights trained elsewhere. It is left out when the
weights of a run folder are loaded, so that the folder does not depend on that file.
"""

import inspect
import re
import sys
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from pydantic import BaseModel, create_model

from recoach.config import StrictConfig
from recoach.errors import ConfigError, clipped
from recoach.models.base import Recommender

ENTRY_POINTS = "recoach.models"
"""The group of entry points by which a package makes its models known by name."""
WEIGHTS = "weights"
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

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


def _imported(path: str) -> object:
    if not _IMPORT_PATH.fullmatch(path):
        raise ConfigError(
            f"model.name: {clipped(path)!r} is no import path. Write package.module:function, of a "
            "function that can be imported; pass build= in Python for one of a notebook."
        )
    module_name, _, attributes = path.partition(":")
    try:
        value: object = import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"The code of model {path} cannot be imported ({error}). Install its package, or run "
            "the command where the module is."
        ) from error
    for attribute in attributes.split("."):
        if not hasattr(value, attribute):
            raise ConfigError(
                f"The code of model {path} has no {attribute!r} (it is read from "
                f"{getattr(sys.modules[module_name], '__file__', module_name)})."
            )
        value = getattr(value, attribute)
    return value


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
