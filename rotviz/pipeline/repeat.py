"""A recipe as the command line that repeats it, and two recipes as the list of what differs."""

import json
import shlex
from typing import Any

from rotviz.pipeline.recipe import Recipe


def flat(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys."""
    found: dict[str, Any] = {}
    for key, value in plain.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def command_line(recipe: Recipe) -> str:
    """`python -m rotviz run` with every key that is not at its default."""
    return " ".join(["python -m rotviz run", *set_arguments(recipe)])


def set_arguments(recipe: Recipe, base: dict[str, Any] | None = None, without: tuple[str, ...] = ()) -> list[str]:
    """`--set KEY=VALUE` for every key in which a recipe differs from a plain one (None = the defaults), but for those that begin as in `without`."""
    methods = {"rotation": {"method": recipe.rotation.method}, "weights": {"method": recipe.weights.method}}
    default, usual = (flat(Recipe.from_dict({**(base or {}), **more}).to_dict()) for more in (methods, {}))
    return [f"--set {shlex.quote(f'{key}={_word(value)}')}" for key, value in flat(recipe.to_dict()).items()
            if not key.startswith(without) and (key not in default or default[key] != value or (key in usual and usual[key] != value))]


def differences(recipes: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The keys in which plain recipes differ, each with its values in order (None where a recipe has no such key)."""
    tables = [flat(recipe) for recipe in recipes]
    keys = {key: None for table in tables for key in table}
    found = {key: [table.get(key) for table in tables] for key in keys}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


def _word(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)
