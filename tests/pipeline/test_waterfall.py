"""A recipe taken apart: each step rounds one thing more, the last is the recipe itself, and no step is made for what stays in float."""

import itertools

import pytest

from rotviz.errors import BadInput
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.waterfall import FLOAT, apart, assembled, lines_of, recipes_of, steps_of


def _recipe(**more: object) -> Recipe:
    return Recipe.from_dict({"model": "tiny-llama", "rotation": {"method": "hadamard"}, "activations": {"bits": 4}, "kv": {"bits": 4}} | more)


def test_the_steps_lead_from_float_to_the_recipe() -> None:
    recipe = _recipe()
    steps = steps_of(recipe)
    assert [s.name for s in steps] == [FLOAT, "W4 weights", "+ A4 activations", "+ KV4 cache"]
    assert steps[0].recipe is None and steps[-1].recipe == recipe
    assert [s.recipe.bits_title for s in steps[1:]] == ["W4A16KV16", "W4A4KV16", "W4A4KV4"]


def test_neighbors_differ_in_one_section() -> None:
    recipes = [s.recipe.to_dict() for s in steps_of(_recipe(weights={"method": "gptq", "group": 16}))[1:]]
    for before, after in itertools.pairwise(recipes):
        assert sum(before[key] != after[key] for key in before) == 1


@pytest.mark.parametrize(("more", "names"), [
    ({"weights": {"method": "none"}}, ["A4 activations", "+ KV4 cache"]),
    ({"activations": {"bits": 16}}, ["W4 weights", "+ KV4 cache"]),
    ({"activations": {"bits": 16}, "kv": {"bits": 16}}, ["W4 weights"]),
    ({"weights": {"method": "none"}, "activations": {"bits": 16}, "kv": {"bits": 16}}, []),
    ({"allocation": {"method": "uniform", "budget": 3.5}}, ["W3.5 weights", "+ A4 activations", "+ KV4 cache"]),
    ({"activations": {"bits": 4, "format": "mxfp4", "symmetric": True}}, ["W4 weights", "+ A4 activations", "+ KV4 cache"]),
])
def test_what_stays_in_float_is_no_step(more: dict, names: list[str]) -> None:
    assert [s.name for s in steps_of(_recipe(**more))] == [FLOAT, *names]


def test_the_other_line_has_no_rotation_and_the_same_steps() -> None:
    lines = lines_of(_recipe())
    assert list(lines) == ["none", "hadamard"]
    assert [s.name for s in lines["none"]] == [s.name for s in lines["hadamard"]]
    assert all(s.recipe.slots == () for s in lines["none"][1:])
    assert len(recipes_of(_recipe())) == 6


def test_a_recipe_without_rotation_has_one_line() -> None:
    recipe = _recipe(rotation={"method": "none"})
    assert list(lines_of(recipe)) == ["none"] and recipes_of(recipe)[-1] == recipe


def _names(recipe: Recipe) -> list[str]:
    return [step.name for step in assembled(recipe)]


def test_the_stack_is_put_together_piece_by_piece() -> None:
    recipe = _recipe(rotation={"method": "hadamard", "slots": ["R1", "R2", "R4"]}, weights={"method": "gptq", "group": 16},
                     scaling={"method": "smoothquant", "alpha": 0.7}, allocation={"method": "importance"})
    steps = assembled(recipe)
    assert [s.name for s in steps] == [FLOAT, "W4 weights", "+ A4 activations", "+ KV4 cache", "+ hadamard R1", "+ R2", "+ R4", "+ smoothquant",
                                       "+ gptq", "+ importance bits"]
    assert steps[0].recipe is None and steps[-1].recipe == recipe
    first = steps[1].recipe
    assert (first.weights.method, first.rotation.method, first.scaling.method, first.allocation.method) == ("rtn", "none", "none", "none")
    for before, after in itertools.pairwise(s.recipe.to_dict() for s in steps[1:]):
        assert sum(before[key] != after[key] for key in before) == 1


def test_a_learned_rotation_is_a_step_after_the_slots() -> None:
    recipe = _recipe(rotation={"method": "dartquant", "slots": ["R1", "R2"]})
    steps = assembled(recipe)
    assert [s.name for s in steps[4:]] == ["+ hadamard R1", "+ R2", "+ dartquant"]
    assert steps[-1].recipe == recipe and steps[-2].recipe.rotation.method == "hadamard"
    assert _names(_recipe(rotation={"method": "hadamard", "load": "x.safetensors"}))[-1] == "+ saved rotation"


@pytest.mark.parametrize(("bits", "first"), [(4, "listed"), (8, "none")])
def test_lists_of_what_is_kept_are_taken_apart(bits: int, first: str) -> None:
    """At W8 the list keeps inputs alone, and means nothing before activations are rounded."""
    recipe = _recipe(weights={"bits": bits}, allocation={"method": "listed", "listed": {"keep": ["1.down"]}})
    steps = assembled(recipe)
    assert steps[-1].name == "+ listed bits" and steps[-1].recipe == recipe and steps[1].recipe.allocation_settings is None
    own = steps_of(recipe)
    assert own[-1].recipe == recipe and own[1].recipe.allocation.method == first


def test_bits_that_are_not_shared_out_have_no_settings() -> None:
    recipe = _recipe(allocation={"method": "importance"})
    assert assembled(recipe)[1].recipe == assembled(_recipe())[1].recipe


@pytest.mark.parametrize(("more", "names"), [
    ({"rotation": {"method": "none"}}, ["W4 weights", "+ A4 activations", "+ KV4 cache"]),
    ({"rotation": {"method": "orthogonal", "slots": ["R3"]}, "weights": {"method": "none"}, "kv": {"bits": 16}},
     ["A4 activations", "+ orthogonal R3"]),
    ({"weights": {"method": "none"}, "activations": {"bits": 16}, "kv": {"bits": 16}}, []),
])
def test_what_the_recipe_has_not_is_no_step_of_the_stack(more: dict, names: list[str]) -> None:
    assert _names(_recipe(**more)) == [FLOAT, *names]


def test_a_recipe_is_told_apart_in_halves() -> None:
    recipe = _recipe(weights={"method": "gptq", "group": 16, "gptq": {"damping": 0.02}}, allocation={"method": "importance"})
    own = apart(recipe)
    assert (own.rotation, own.method, own.both) == ("hadamard", "gptq", recipe)
    assert [r.bits_title for r in own.recipes] == ["W4A16KV16", "W16A4KV4", "W4A4KV4"]
    other = apart(recipe, "none", "rtn")
    assert all(r.slots == () for r in other.recipes) and other.both.weights.method == "rtn" and other.both.weights.group == 16
    assert apart(recipe, "none").weights.weight_settings == recipe.weight_settings
    assert apart(recipe, method="rtn").inputs.fingerprint == own.inputs.fingerprint, "activations alone know nothing of the weight method"


@pytest.mark.parametrize("more", [{"weights": {"method": "none"}}, {"activations": {"bits": 16}, "kv": {"bits": 16}}])
def test_one_half_alone_cannot_be_told_apart(more: dict) -> None:
    with pytest.raises(BadInput, match="must round both"):
        apart(_recipe(**more))


def test_a_method_without_use_for_the_grid_is_refused_with_the_reason() -> None:
    with pytest.raises(BadInput, match="omniquant"):
        apart(_recipe(weights={"bits": 4, "format": "nvfp4"}), method="omniquant")
