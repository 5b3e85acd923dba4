"""The base class of all settings, and its errors in plain words."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from recoach.errors import ConfigError, suggestion


class StrictConfig(BaseModel):
    """Immutable settings that refuse unknown keys, infinities and NaN.

    Subclasses describe each field in a docstring under it, which JSON schema and editors show.

    Raises:
        ConfigError: a setting is unknown, of the wrong type or out of range; the message names it
            and suggests the closest one. `model_validate` raises pydantic's ValidationError, from
            which `validation_message` makes the same message.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    foreign_names: ClassVar[Mapping[str, str]] = {}
    """Names that users of another library try, and the sentence that their message ends with."""

    if not TYPE_CHECKING:  # type checkers take the parameters from the fields

        def __init__(self, /, **values: object) -> None:
            """Validate the values of the fields."""
            try:
                super().__init__(**values)
            except ValidationError as error:
                kind = type(self)
                raise ConfigError(validation_message(error, kind, values, kind.__name__)) from error

        # Pydantic validates nested settings without a call of this constructor, as its own.
        __init__.__pydantic_base_init__ = True


def validation_message(
    error: ValidationError, config: type[BaseModel], values: Mapping[str, object], where: str
) -> str:
    """Return a message about the first invalid setting, with its dotted key.

    Args:
        error: what pydantic raised.
        config: the class of the settings.
        values: the values that were validated.
        where: the source of the values, which the message begins with.
    """
    problem, *more = error.errors()
    key = _key(problem, values)
    if problem["type"] == "extra_forbidden":
        *parents, name = map(str, problem["loc"])
        kinds = _configs_at(config, parents)
        hints = [kind.foreign_names for kind in kinds if issubclass(kind, StrictConfig)]
        fields = dict.fromkeys(field for kind in kinds for field in kind.model_fields)
        near = next((hint[name] for hint in hints if name in hint), suggestion(name, fields))
        return f"{where}: there is no setting {name!r}. {near}"
    if problem["type"] == "union_tag_invalid":
        tag, tags = (problem["ctx"][name] for name in ("tag", "expected_tags"))
        return f"{where}.{key}: {tag!r} is not one of {tags}."
    reason = problem["msg"].removeprefix("Value error, ")
    for other in more:  # a union, such as a number or "auto": name every accepted type
        if _key(other, values) == key:
            reason += f", or {other['msg'].removeprefix('Input should be ')}"
    given = f" (given: {problem['input']!r})" if key else ""
    return f"{where}{'.' + key if key else ''}: {reason}{given}."


def _configs_at(config: type[BaseModel], parents: Sequence[str]) -> list[type[BaseModel]]:
    """Return a class of settings, or the classes of the settings in it at the end of a path.

    A path holds names of fields and, after a field with several classes of settings, the tag of
    one of them.
    """
    candidates: list[type[BaseModel]] = [config]
    for part in parents:
        fields = [kind.model_fields[part] for kind in candidates if part in kind.model_fields]
        if fields:
            candidates = [kind for field in fields for kind in _config_classes(field.annotation)]
        else:
            candidates = [kind for kind in candidates if _tag(kind) == part]
    return candidates


def _tag(config: type[BaseModel]) -> object:
    """Return the value of `kind`, by which pydantic tells settings of several classes apart."""
    return config.model_fields["kind"].default if "kind" in config.model_fields else None


def _config_classes(annotation: Any) -> list[type[BaseModel]]:  # noqa: ANN401 - any annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for part in get_args(annotation) for kind in _config_classes(part)]


def _key(problem: ErrorDetails, values: Mapping[str, object]) -> str:
    """Return the dotted key of an invalid value, without the union members pydantic appends."""
    first, *rest = problem["loc"] or ("",)
    path = [str(first)]
    value: Any = values.get(path[0])
    for part in rest:
        is_index = isinstance(value, list) and isinstance(part, int)
        if not is_index and not (isinstance(value, Mapping) and part in value):
            break
        value = value[part]
        path.append(str(part))
    return ".".join(path)
