"""Types of settings with their bounds, and conversion between dataclasses and JSON.

The classes of `schema/` and `jobs.py` are plain dataclasses. pydantic checks them when params.yaml
is read. A job, perhaps on a compute node without pydantic, rebuilds them from JSON with the
standard library alone: `build`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union

T = TypeVar("T")
# pydantic's settings for checking params.yaml
CONFIG = {"extra": "forbid", "allow_inf_nan": False, "use_attribute_docstrings": True}


@dataclasses.dataclass(frozen=True)
class Bound:
    """Bounds of a number. An int must be written without a point; true and false are refused."""

    above: float | None = None
    least: float | None = None
    most: float | None = None

    def problem(self, value: float) -> str:
        """What is wrong with a value; empty if it is within the bounds."""
        if not math.isfinite(value):
            return "must be a finite number"
        if self.above is not None and not value > self.above:
            return f"must be greater than {self.above:g}"
        if self.least is not None and not value >= self.least:
            return f"must be {self.least:g} or more"
        if self.most is not None and not value <= self.most:
            return f"must be at most {self.most:g}"
        return ""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        given = {"gt": self.above, "ge": self.least, "le": self.most}
        bounds: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        if source is int:
            whole: dict[str, Any] = {key: int(value) for key, value in bounds.items()}
            return core_schema.int_schema(strict=True, **whole)
        number = core_schema.float_schema(allow_inf_nan=False, **bounds)
        return core_schema.no_info_before_validator_function(_no_bool, number)


@dataclasses.dataclass(frozen=True)
class Pattern:
    """The regular expression that a whole name must match, and its longest length."""

    expression: str
    longest: int

    def problem(self, value: str) -> str:
        """What is wrong with a name; empty if it matches."""
        if len(value) > self.longest or re.fullmatch(self.expression, value) is None:
            return f"must match {self.expression} in at most {self.longest} characters"
        return ""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        expression = f"^(?:{self.expression})$"
        return core_schema.str_schema(pattern=expression, max_length=self.longest)


@dataclasses.dataclass(frozen=True)
class ByKind:
    """Marks a union of dataclasses whose field `kind` says which one it is."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic import Discriminator

        return Discriminator("kind").__get_pydantic_core_schema__(source, handler)


def _no_bool(value: Any) -> Any:
    """Refuse true and false, which Python treats as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Integer = Annotated[int, Bound()]
Positive = Annotated[int, Bound(least=1)]
Count = Annotated[int, Bound(least=0)]
Fraction = Annotated[float, Bound(least=0, most=1)]
Above = Annotated[float, Bound(above=0)]
AtLeast = Annotated[float, Bound(least=0)]
Name = Annotated[str, Pattern(r"[a-z][a-z0-9_]*", 60)]


@functools.cache
def hints(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields, with their bounds."""
    return typing.get_type_hints(kind, include_extras=True)


def build(kind: type[T], value: Any, where: str = "", *, strict: bool = True) -> T:
    """Convert a JSON value to the type `kind`: a dataclass, or a type of its fields.

    Args:
        where: the dotted path, for messages.
        strict: refuse keys that a dataclass does not have; otherwise they are ignored, for instance
            in the settings of a checkpoint that an older version wrote.

    Raises:
        ValueError: 'dotted.path: what is wrong'.
    """
    return _build(kind, value, where, strict)


def _build(kind: Any, value: Any, where: str, strict: bool) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _annotated(arguments, value, where, strict)
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value, where, strict)
    if origin is Literal:
        if not any(value == known and type(value) is type(known) for known in arguments):
            raise _wrong(where, f"must be one of {', '.join(map(str, arguments))}, not {value}")
        return value
    if origin is Sequence:
        origin, arguments = tuple, (*arguments, ...)
    if origin in (tuple, list):
        return _sequence(origin, arguments, value, where, strict)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _wrong(where, "must be a table")
        return {
            _build(arguments[0], key, where, strict): _build(
                arguments[1], item, f"{where}.{key}".lstrip("."), strict
            )
            for key, item in value.items()
        }
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where, strict)
    if kind is Any:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise _wrong(where, f"must be of type {kind.__name__}, not {value!r}")
    return value


def _annotated(arguments: tuple[Any, ...], value: Any, where: str, strict: bool) -> Any:
    inner, *marks = arguments
    if any(isinstance(mark, ByKind) for mark in marks):
        for choice in typing.get_args(inner):
            if isinstance(value, Mapping) and value.get("kind") in typing.get_args(
                hints(choice)["kind"]
            ):
                return _build(choice, value, where, strict)
        raise _wrong(where, "must be a table with a known 'kind'")
    built = _build(inner, value, where, strict)
    for mark in marks:
        if problem := mark.problem(built):
            raise _wrong(where, f"{problem}, not {built}")
    return built


def _one_of(arguments: tuple[Any, ...], value: Any, where: str, strict: bool) -> Any:
    problems = []
    for choice in arguments:
        if choice is types.NoneType:
            if value is None:
                return None
            continue
        try:
            return _build(choice, value, where, strict)
        except ValueError as error:
            problems.append(error)
    raise problems[-1]


def _sequence(
    origin: type, arguments: tuple[Any, ...], value: Any, where: str, strict: bool
) -> Any:
    if not isinstance(value, (list, tuple)):
        raise _wrong(where, "must be a list")
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        if len(value) != len(arguments):
            raise _wrong(where, f"must have {len(arguments)} values, not {len(value)}")
        kinds: tuple[Any, ...] = arguments
    else:
        kinds = (arguments[0],) * len(value)
    return origin(
        _build(kind, item, f"{where}.{number}".lstrip("."), strict)
        for number, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _dataclass(kind: type, value: Any, where: str, strict: bool) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise _wrong(where, "must be a table")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = [key for key in value if key not in fields]
    if unknown and strict:
        raise _wrong(f"{where}.{unknown[0]}".lstrip("."), "unknown key")
    given = {}
    for name, field in fields.items():
        path = f"{where}.{name}".lstrip(".")
        if name in value:
            given[name] = _build(hints(kind)[name], value[name], path, strict)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise _wrong(path, "is missing")
    return kind(**given)


def _wrong(where: str, problem: str) -> ValueError:
    return ValueError(f"{where}: {problem}" if where else problem)


def plain(value: Any) -> Any:
    """Convert dataclasses, tables and sequences to dictionaries, lists and scalars, for JSON."""
    if value is None or isinstance(value, (str, int, float)):  # most are: tens of thousands
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


def digest(value: Any) -> str:
    """Twelve hexadecimal digits that change if any setting changes."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
