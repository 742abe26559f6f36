"""A recipe taken apart: the recipes whose perplexities, one after the other, show what each part of the stack costs.

    float -> weights only -> + activations -> + KV cache                  under the recipe's rotation, and under none

Every step differs from the next in one section alone, so that the ratio of two neighbours is what that section costs. Sections that the recipe
leaves in float make no step. The recipe itself is the last step of its own line; scaling and mixed precision belong to every step.

`assembled` puts the same stack together piece by piece: first what rounds, by the plainest means (round to nearest, no rotation, no scaling, equal
bits), then what mends it, each slot and each method for itself.

    float -> W -> + A -> + KV -> + R1 -> + R2 -> + R3 -> + R4 -> + learned rotation -> + scaling -> + weight method -> + mixed precision

The slots come with a rotation that is made from the seed; one that is learned, or loaded from a file, takes their place in a step of its own. What
the recipe has not makes no step.

`apart` asks what neither line shows: whether a rotation that rescues what the blocks read spoils the weights. Weights alone, activations (and cache)
alone, and both, under any rotation and weight method.
"""

from dataclasses import dataclass, replace
from typing import Any

from rotviz.allocation import is_budgeted
from rotviz.errors import BadInput
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.saved import method_of_file
from rotviz.quantizers import QUANTIZERS
from rotviz.rotations import ROTATIONS, learns
from rotviz.types import FLOAT_BITS

FLOAT = "float"
NONE = "none"
PLAINEST = "rtn"
BUILT = "hadamard"
"""The rotation that brings the slots where the recipe's own is learned or loaded."""
OWN = ""
"""In place of a rotation's or a weight method's name: the recipe's own, with its settings."""


@dataclass(frozen=True)
class Step:
    """One step: its name in the field's terms (`W4 weights`), and the recipe that measures it; None for the float model, which every run measures."""

    name: str
    recipe: Recipe | None


@dataclass(frozen=True)
class Apart:
    """A recipe and its two halves: weights alone, what the blocks read (activations, cache) alone, and both."""

    rotation: str
    method: str
    weights: Recipe
    inputs: Recipe
    both: Recipe

    @property
    def recipes(self) -> tuple[Recipe, Recipe, Recipe]:
        """Weights alone, activations alone, both."""
        return self.weights, self.inputs, self.both


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
        lines[rotation_name(recipe)] = steps_of(recipe)
    return lines


def recipes_of(recipe: Recipe) -> list[Recipe]:
    """Every recipe of the waterfall once."""
    found: dict[str, Recipe] = {}
    for steps in lines_of(recipe).values():
        found |= {step.recipe.fingerprint: step.recipe for step in steps if step.recipe is not None}
    return list(found.values())


def rotation_name(recipe: Recipe) -> str:
    """The method of a recipe's rotation, of a loaded one too."""
    return method_of_file(recipe.rotation.load) if recipe.rotation.load else recipe.rotation.method


def apart(recipe: Recipe, rotation: str = OWN, method: str = OWN) -> Apart:
    """The halves of a recipe, under another rotation or with another weight method where one is named.

    Raises:
        BadInput: the recipe does not round both halves, or the method has no use for the recipe's grid.
    """
    sections = [section for section, _ in _parts(recipe)]
    if "weights" not in sections or len(sections) < 2:
        raise BadInput("to tell weights from activations a recipe must round both: choose weights.bits and activations.bits (or kv.bits) below 16")
    whole = recipe
    if rotation != OWN and rotation != rotation_name(recipe):
        whole = replace(whole, rotation=replace(recipe.rotation, method=rotation, load=""), rotation_settings=ROTATIONS[rotation]())
    if method != OWN and method != recipe.weights.method:
        whole = replace(whole, weights=replace(recipe.weights, method=method), weight_settings=QUANTIZERS[method]())
    inputs = whole.to_dict() | {"weights": {"method": NONE}, "allocation": {"method": NONE}}
    return Apart(rotation_name(whole), whole.weights.method, _only(whole, ["weights"]), Recipe.from_dict(inputs), whole)


def assembled(recipe: Recipe) -> list[Step]:
    """The steps from the float model to the recipe, first what rounds and then what mends it."""
    steps = [Step(FLOAT, None)]
    bare = _bare(recipe)
    kept: list[str] = []
    for section, words in _parts(bare):
        kept.append(section)
        steps.append(Step(words, _only(bare, kept)))
    if not kept:
        return steps
    now = bare
    for words, changes in (*_rotation_steps(recipe), *_method_steps(recipe)):
        now = replace(now, **changes)
        steps.append(Step(f"+ {words}", now))
    return steps


def _bare(recipe: Recipe) -> Recipe:
    """The recipe with what mends taken out: no rotation, no scaling, equal bits, round to nearest where weights are rounded."""
    quantizes = recipe.weights.spec().quantizes
    weights = replace(recipe.weights, method=PLAINEST) if quantizes else recipe.weights
    return replace(recipe, rotation=replace(recipe.rotation, method=NONE, load=""), rotation_settings=ROTATIONS[NONE](),
                   scaling=replace(recipe.scaling, method=NONE), allocation=replace(recipe.allocation, method=NONE),
                   allocation_settings=None, weights=weights,
                   weight_settings=QUANTIZERS[PLAINEST]() if quantizes else recipe.weight_settings)


def _rotation_steps(recipe: Recipe) -> list[tuple[str, dict[str, Any]]]:
    """One step a slot, and one for the rotation itself where it is learned or loaded."""
    if recipe.rotation.method == NONE:
        return []
    own = not recipe.rotation.load and not learns(recipe.rotation_settings)
    method = recipe.rotation.method if own else BUILT
    settings = recipe.rotation_settings if own else ROTATIONS[BUILT]()
    slots = list(recipe.rotation.slots)
    found = [(f"{method} {slot}" if i == 0 else slot,
              {"rotation": replace(recipe.rotation, method=method, load="", slots=tuple(slots[:i + 1])), "rotation_settings": settings})
             for i, slot in enumerate(slots)]
    if not own:
        words = "saved rotation" if recipe.rotation.load else recipe.rotation.method
        found.append((words, {"rotation": recipe.rotation, "rotation_settings": recipe.rotation_settings}))
    return found


def _method_steps(recipe: Recipe) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    if recipe.scaling.method != NONE:
        found.append((recipe.scaling.method, {"scaling": recipe.scaling}))
    if recipe.weights.spec().quantizes and recipe.weights.method != PLAINEST:
        found.append((recipe.weights.method, {"weights": recipe.weights, "weight_settings": recipe.weight_settings}))
    if recipe.allocation.method != NONE:
        found.append((f"{recipe.allocation.method} bits", {"allocation": recipe.allocation, "allocation_settings": recipe.allocation_settings}))
    return found


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
    if plain["activations"]["bits"] == FLOAT_BITS and _keeps_inputs_alone(recipe):
        plain["allocation"] = {"method": NONE}
    return Recipe.from_dict(plain)


def _keeps_inputs_alone(recipe: Recipe) -> bool:
    """Whether a list keeps nothing but inputs at more bits: without activations that are rounded it means nothing."""
    kept = recipe.allocation_settings
    return recipe.allocation.method != NONE and not is_budgeted(kept) and max(kept.levels) <= recipe.weights.spec().bits
