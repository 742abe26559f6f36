"""A recipe taken apart: the recipes whose perplexities, one after the other, show what each part of the stack costs.

    float -> weights only -> + activations -> + KV cache                  under the recipe's rotation, and under none

Every step differs from the next in one section alone, so that the ratio of two neighbours is what that section costs. Sections that the recipe
leaves in float make no step. The recipe itself is the last step of its own line; scaling and mixed precision belong to every step.
"""

from dataclasses import dataclass, replace
from typing import Any

from rotviz.pipeline.recipe import Recipe
from rotviz.rotations import ROTATIONS
from rotviz.types import FLOAT_BITS

FLOAT = "float"
NONE = "none"


@dataclass(frozen=True)
class Step:
    """One step: its name in the field's terms (`W4 weights`), and the recipe that measures it; None for the float model, which every run measures."""

    name: str
    recipe: Recipe | None


def steps_of(recipe: Recipe) -> list[Step]:
    """The steps of a recipe under its own rotation, from the float model to the recipe itself."""
    steps, kept = [Step(FLOAT, None)], []
    for section, words in _parts(recipe):
        kept.append(section)
        steps.append(Step(words, _only(recipe, kept)))
    return steps


def lines_of(recipe: Recipe) -> dict[str, list[Step]]:
    """The steps without a rotation, and under the recipe's own where it has one; all lines have the same names of steps."""
    plain = replace(recipe, rotation=replace(recipe.rotation, method=NONE, load=""), rotation_settings=ROTATIONS[NONE]())
    lines = {NONE: steps_of(plain)}
    if recipe.rotation.method != NONE:
        lines[recipe.rotation.method] = steps_of(recipe)
    return lines


def recipes_of(recipe: Recipe) -> list[Recipe]:
    """Every recipe of the waterfall once."""
    found: dict[str, Recipe] = {}
    for steps in lines_of(recipe).values():
        found |= {step.recipe.fingerprint: step.recipe for step in steps if step.recipe is not None}
    return list(found.values())


def _parts(recipe: Recipe) -> list[tuple[str, str]]:
    """The sections that round something, in order, with the words of their steps."""
    parts = []
    if recipe.weights.spec().quantizes:
        parts.append(("weights", f"W{recipe.average_bits:g} weights"))
    if recipe.activations.spec().quantizes:
        parts.append(("activations", f"A{recipe.activations.bits} activations"))
    if recipe.kv.spec().quantizes:
        parts.append(("kv", f"KV{recipe.kv.bits} cache"))
    return [(section, words if i == 0 else f"+ {words}") for i, (section, words) in enumerate(parts)]


def _only(recipe: Recipe, sections: list[str]) -> Recipe:
    """The recipe with the other sections in float."""
    plain: dict[str, Any] = recipe.to_dict()
    for section in ("activations", "kv"):
        if section not in sections and section in dict(_parts(recipe)):
            plain[section] = {**plain[section], "bits": FLOAT_BITS}
    return Recipe.from_dict(plain)
