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
    default = flat(Recipe.from_dict({"rotation": {"method": recipe.rotation.method}, "weights": {"method": recipe.weights.method}}).to_dict())
    usual = flat(Recipe().to_dict())
    changed = {key: value for key, value in flat(recipe.to_dict()).items() if key not in default or default[key] != value or
               (key in usual and usual[key] != value)}
    return " ".join(["python -m rotviz run", *(f"--set {shlex.quote(f'{key}={_word(value)}')}" for key, value in changed.items())])


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
