"""Configurations are frozen dataclasses; everything else about them is derived here.

A field is declared once, with its default, its help text and its limits (`setting`). From that come the TOML and JSON forms, the
command line's flags, the page's form widgets and the cache key, so that no value is typed twice.

    @dataclass(frozen=True, slots=True)
    class Hadamard:
        block: int = setting(0, "block size; 0 = the whole width", minimum=0)

    from_mapping(Hadamard, {"blok": 2}, where="rotation.hadamard")   # UnknownName: ... did you mean 'block'?
"""

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from rotviz.errors import BadInput, not_among, unknown

C = TypeVar("C")


def setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[Any, ...] | None = None,
    choices_from: Any = None,
    label: str | None = None,
    added: bool = False,
) -> Any:
    """A dataclass field that knows its help text and its limits.

    Args:
        default: the value when nothing is said.
        help: one line for a reader of `--help` and for the form's tooltip.
        minimum, maximum: closed limits of a number.
        choices: the values that are allowed.
        choices_from: a registry (any mapping) whose keys are allowed, read when needed.
        label: the words a form shows; None = the field's name.
        added: the field came after recipes had been kept without it: it is written only where it differs from its default, so that their
            fingerprints stay.
    """
    metadata = {"help": help, "minimum": minimum, "maximum": maximum, "choices": choices,
                "choices_from": choices_from, "label": label, "added": added}
    if isinstance(default, (list, dict)):
        raise TypeError("a setting's default is immutable: use a tuple")
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known about one field of a configuration class."""

    name: str
    type: Any
    default: Any
    help: str
    minimum: float | None
    maximum: float | None
    choices: tuple[Any, ...] | None
    label: str


def settings_of(cls: type) -> list[Setting]:
    """The fields of a configuration class, in order. A field without metadata (a nested table) is included with no help."""
    hints = typing.get_type_hints(cls)
    found = []
    for field in dataclasses.fields(cls):
        meta = field.metadata
        choices = meta.get("choices")
        if meta.get("choices_from") is not None:
            choices = tuple(meta["choices_from"])
        default = field.default if field.default is not dataclasses.MISSING else None
        found.append(Setting(field.name, hints[field.name], default, meta.get("help", ""), meta.get("minimum"),
                             meta.get("maximum"), choices, meta.get("label") or field.name.replace("_", " ")))
    return found


def from_mapping(cls: type[C], mapping: Mapping[str, Any], where: str = "") -> C:
    """Build a configuration from plain values, checking every key, type and limit.

    Args:
        cls: the dataclass.
        mapping: keys to plain values, as TOML, JSON or a form give them.
        where: dotted prefix of the keys, for messages.

    Raises:
        BadInput: naming the key, what was given and what would work.
    """
    known = {s.name: s for s in settings_of(cls) if s.help or dataclasses.is_dataclass(s.type)}
    values = {}
    for key, value in mapping.items():
        if key not in known:
            raise unknown("recipe key", f"{where}.{key}" if where else key,
                          [f"{where}.{name}" if where else name for name in known])
        values[key] = checked(known[key], value, f"{where}.{key}" if where else key)
    return cls(**values)


def checked(setting: Setting, value: Any, where: str) -> Any:
    """The value in the field's type, or BadInput that says what would work."""
    value = _coerced(setting.type, value, where)
    elements = value if isinstance(value, tuple) else (value,)
    if setting.choices is not None:
        for element in elements:
            if element not in setting.choices:
                raise not_among(where, element, setting.choices)
    for element in elements:
        if isinstance(element, (int, float)) and not isinstance(element, bool):
            _check_limits(setting, element, where)
    return value


def to_mapping(config: Any) -> dict[str, Any]:
    """A configuration as plain values (tables as dicts, tuples as lists), in field order; without `added` settings at their defaults."""
    result: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.metadata.get("added") and value == field.default:
            continue
        if dataclasses.is_dataclass(value):
            value = to_mapping(value)
        result[field.name] = list(value) if isinstance(value, tuple) else value
    return result


def fingerprint(plain: Any) -> str:
    """Twelve hex digits that change when any value does; the same on every machine."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _check_limits(setting: Setting, value: float, where: str) -> None:
    low, high = setting.minimum, setting.maximum
    if (low is not None and value < low) or (high is not None and value > high) or value != value:
        span = f"from {low} to {high}" if None not in (low, high) else f"at least {low}" if low is not None else f"at most {high}"
        raise BadInput(f"{where} = {value} is out of range: it takes a value {span}")


def _coerced(wanted: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(wanted)
    if origin in (typing.Union, types.UnionType):
        return _coerced_to_any(typing.get_args(wanted), value, where)
    if dataclasses.is_dataclass(wanted):
        if not isinstance(value, Mapping):
            raise BadInput(f"{where} is a table, not {value!r}")
        return from_mapping(wanted, value, where)
    if origin is tuple:
        value = str(value) if isinstance(value, int) and not isinstance(value, bool) else value  # --set KEY=11: a list of one
        parts = [p.strip() for p in value.split(",") if p.strip()] if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)):
            raise BadInput(f"{where} takes a list, not {value!r}")
        return tuple(_coerced(typing.get_args(wanted)[0], part, where) for part in parts)
    return _coerced_scalar(wanted, value, where)


def _coerced_to_any(options: tuple[Any, ...], value: Any, where: str) -> Any:
    for option in options:
        try:
            return _coerced(option, value, where)
        except BadInput:
            continue
    wanted = " or ".join("nothing" if o is type(None) else o.__name__ for o in options)
    raise BadInput(f"{where} takes {wanted}, not {value!r}")


def _coerced_scalar(wanted: Any, value: Any, where: str) -> Any:
    if wanted is bool and isinstance(value, str) and value.lower() in _WORDS:
        return _WORDS[value.lower()]
    if wanted is bool or isinstance(value, bool):
        if wanted is bool and isinstance(value, bool):
            return value
        raise BadInput(f"{where} takes {'true or false' if wanted is bool else wanted.__name__}, not {value!r}")
    if wanted is type(None) and value is None:
        return None
    try:
        if wanted is int and float(value) == int(float(value)):
            return int(float(value))
        if wanted is float:
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    if wanted is str and isinstance(value, str):
        return value
    raise BadInput(f"{where} takes {'a whole number' if wanted is int else 'a number' if wanted is float else 'text'}, not {value!r}")


_WORDS = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}
