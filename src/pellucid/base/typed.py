"""Plain values, as TOML and JSON hold them, become what a type says; and back.

A dataclass is a table of its fields. A choice among dataclasses is a table whose `kind` names the class. What a type
cannot take is an error that names the place, before anything is made of it.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pellucid.base.errors import ConfigError, nearest

NONE = "none"
"""What stands for None where a format has no such value."""


def typed(kind: Any, value: Any, where: str) -> Any:
    """What a type makes of a plain value.

    Args:
        kind: A dataclass, `int`, `float`, `bool`, `str`, a `Literal`, a tuple, a `dict`, or a choice among these.
        value: Numbers, strings, lists, tables. The string "none" is None, where a type has None.
        where: The value's place, for messages.

    Raises:
        ConfigError: The value is not of that type, or a table has an unknown field or lacks one.

    Example:
        >>> typed(tuple[float, ...], [1, 2.5], "betas")
        (1.0, 2.5)
    """
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _chosen(get_args(kind), value, where)
    if is_dataclass(kind):
        return _made(kind, value, where)
    if origin is Literal:
        if value not in get_args(kind) or isinstance(value, bool):
            options = ", ".join(map(str, get_args(kind)))
            raise ConfigError(f"{where} must be one of {options}, got {value!r}{nearest(str(value), get_args(kind))}")
        return value
    if origin is tuple:
        return _tuple(get_args(kind), value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a table, got {value!r}")
        return {str(key): typed(get_args(kind)[1], part, f"{where}.{key}") for key, part in value.items()}
    return _plain(kind, value, where)


def table(value: Any) -> Any:
    """The inverse of `typed`: tables, lists, and plain values; a member of a choice tells its `kind`.

    Example:
        >>> table((1, None))
        [1, None]
    """
    if is_dataclass(value) and not isinstance(value, type):
        hints = get_type_hints(type(value))
        return {field.name: _told(hints[field.name], getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: table(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [table(part) for part in value]
    return value


def _told(kind: Any, value: Any) -> Any:
    several = len([part for part in _options(kind) if is_dataclass(part)]) > 1
    return {"kind": type(value).__name__, **table(value)} if several and is_dataclass(value) else table(value)


def _options(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _made(cls: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} must be a table of fields, got {value!r}")
    known = {field.name: field for field in fields(cls) if field.init}
    for name in value:
        if name not in known:
            raise ConfigError(f"{where} has no field {name!r}{nearest(str(name), known)}")
    for name, field in known.items():
        if name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{where} lacks a field, {name!r}; give {where}.{name}")
    hints = get_type_hints(cls)
    given = {name: typed(hints[name], part, f"{where}.{name}") for name, part in value.items()}
    try:
        return cls(**given)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _chosen(options: tuple[Any, ...], value: Any, where: str) -> Any:
    some = [option for option in options if option is not NoneType]
    if NoneType in options and (value is None or value == NONE):
        return None
    tables = [option for option in some if is_dataclass(option)]
    if len(tables) > 1:
        return _of_kind(tables, value, where)
    if len(some) == 1:
        return typed(some[0], value, where)
    if tables and isinstance(value, Mapping):
        return _made(tables[0], value, where)
    for option in some:
        try:
            return typed(option, value, where)
        except ConfigError:
            continue
    raise ConfigError(f"{where} must be {' or '.join(map(_name, some))}, got {value!r}")


def _of_kind(options: list[Any], value: Any, where: str) -> Any:
    kind = value.get("kind") if isinstance(value, Mapping) else value
    for option in options:
        if option.__name__ == kind:
            rest = {key: part for key, part in value.items() if key != "kind"} if isinstance(value, Mapping) else {}
            return _made(option, rest, where)
    names = [option.__name__ for option in options]
    raise ConfigError(f"{where} must be of kind {', '.join(names)}, got {kind!r}{_close(kind, names)}")


def _close(kind: Any, names: list[str]) -> str:
    return nearest(kind, names) if isinstance(kind, str) and len(names) > 4 else ""


def _tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} must be a list, got {value!r}")
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise ConfigError(f"{where} must be a list of {len(kinds)}, got {value!r}")
    return tuple(typed(kind, part, f"{where}[{i}]") for i, (kind, part) in enumerate(zip(kinds, value, strict=True)))


def _plain(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not fits:
        raise ConfigError(f"{where} must be {_name(kind)}, got {value!r}")
    return value


def _name(kind: Any) -> str:
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(kind, str(kind))
