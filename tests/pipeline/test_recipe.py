"""The recipe: defaults, round trips, and refusals that say what would work."""

import pytest
import torch

from rotviz.errors import BadInput
from rotviz.numerics.grids import fake_quantize
from rotviz.pipeline.recipe import ActivationTable, Recipe, load_recipe, recipe_settings, with_changes
from rotviz.pipeline.repeat import command_line, differences
from rotviz.types import Granularity

DESIGN = {
    "model": "smollm2-135m", "seed": 0, "device": "auto", "dtype": "float32",
    "text": {"calibration": "wikitext2:validation", "evaluation": "wikitext2:test", "samples": 16, "length": 2048, "windows": 16},
    "rotation": {"method": "hadamard", "slots": ["R1", "R2", "R3", "R4"]},
    "weights": {"method": "rtn", "bits": 4, "symmetric": True, "group": 0, "clip": "mse"},
    "activations": {"bits": 4, "symmetric": False, "clip": 1.0},
    "kv": {"bits": 16, "group": 0, "symmetric": False, "clip": 0.95},
}
"""The keys and defaults that DESIGN.md promises; more may be added, none may change."""


def test_the_promised_keys_and_defaults():
    plain = Recipe().to_dict()
    for key, value in DESIGN.items():
        for inner, wanted in value.items() if isinstance(value, dict) else [(None, value)]:
            assert (plain[key] if inner is None else plain[key][inner]) == wanted, (key, inner)
    assert Recipe.from_dict(DESIGN) == Recipe()


def test_round_trips(tmp_path):
    recipe = Recipe.from_dict({"seed": 3, "rotation": {"method": "hadamard", "slots": ["R1"], "hadamard": {"block": 64}}, "weights": {"clip": 0.8}})
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    toml = tmp_path / "r.toml"
    toml.write_text(recipe.to_toml())
    assert load_recipe(toml) == recipe and load_recipe(toml).fingerprint == recipe.fingerprint
    assert recipe.rotation_settings.block == 64


def test_every_key_changes_the_fingerprint():
    others = {"model": "tiny-llama", "device": "cpu", "dtype": "float64", "rotation.method": "orthogonal", "rotation.slots": ["R1"],
              "weights.method": "none", "weights.clip": 0.5, "activations.clip": 0.5, "kv.clip": 0.5, "text.calibration": "pydoc",
              "text.evaluation": "pydoc", "rotation.hadamard.fallback": "blocks", "allocation.listed.keep": ["2"],
              "allocation.listed.bits": 6, "allocation.method": "uniform"}
    needs = {"weights.format": [("weights.symmetric", False)], "ablation.kind": [("ablation.unit", "block")],
             "allocation.sensitivity": [("allocation.method", "importance")]}
    needs |= {f"allocation.listed.{name}": [("allocation.listed.keep", ["1"])] for name in ("keep", "bits", "inputs")}
    for key, setting in recipe_settings().items():
        section, *method, _ = key.split(".") if key.count(".") == 2 else ("", "")
        own = [(f"{section}.method", *method)] if section else []  # a method's settings count where it is chosen
        own += needs.get(key, [])
        base = Recipe.from_dict(with_changes({}, own))
        changed = Recipe.from_dict(with_changes({}, [*own, (key, others[key] if key in others else _another(setting))]))
        assert changed.fingerprint != base.fingerprint, key


def test_keys_that_came_later_leave_older_fingerprints_as_they_were():
    older = {"freedom": "signround", "levels": 1.5, "loss": "normalized", "target": "float", "optimizer": "sign", "variable": "codes",
             "iterations": 200, "rate": 0.0, "batch": 8, "learn_range": True, "learn_exponent": True, "share": 1.0, "penalty": 100.0,
             "keep_best": True}
    recipe = Recipe.from_dict({"weights": {"method": "rounding"}})
    assert recipe.to_dict()["weights"]["rounding"] == older and recipe.fingerprint == "8ff7c821a8d1"
    for key, value in {"kl_tokens": 0, "range_rate": 0.1, "selection": "undecided", "augment": 0.5}.items():
        changed = Recipe.from_dict(with_changes(recipe.to_dict(), [(f"weights.rounding.{key}", value)]))
        assert changed.to_dict()["weights"]["rounding"] == older | {key: value} and Recipe.from_dict(changed.to_dict()) == changed


def test_a_kind_of_cost_that_nobody_looks_at_changes_nothing():
    plain, changed = Recipe.from_dict({}), Recipe.from_dict({"allocation": {"sensitivity": "both"}})
    assert plain.fingerprint == changed.fingerprint
    costly = [Recipe.from_dict({"allocation": {"method": "importance", "sensitivity": kind}}).fingerprint for kind in ("curvature", "both", "first")]
    assert len({*costly, plain.fingerprint}) == 4


def _another(setting):
    """A value that is allowed and not the default."""
    if setting.choices:
        return next(choice for choice in setting.choices if choice != setting.default)
    if isinstance(setting.default, bool):
        return not setting.default
    if isinstance(setting.default, str):
        return "another.safetensors"
    if isinstance(setting.default, float) and setting.default:
        return setting.default / 2
    if isinstance(setting.default, float) and setting.maximum is not None:
        return setting.maximum / 2
    return setting.default - 1 if setting.default == setting.maximum else setting.default + 1


@pytest.mark.parametrize(("plain", "words"), [
    ({"wieghts": {}}, "did you mean 'weights'"),
    ({"weights": {"bit": 3}}, "did you mean 'weights.bits'"),
    ({"rotation": {"hadamard": {"blok": 2}}}, "rotation.hadamard.block"),
    ({"weights": {"bits": 0}}, "choose from 2, 3, 4"),
    ({"weights": {"bits": 17}}, "choose from 2, 3, 4"),
    ({"rotation": {"method": "hadamrd"}}, "did you mean 'hadamard'"),
    ({"rotation": {"slots": ["R5"]}}, "choose from R1, R2, R3, R4"),
    ({"activations": {"clip": 0}}, "above 0"),
    ({"kv": {"clip": "best"}}, "none, mse or a ratio"),
    ({"seed": -1}, "from 0 to"),
    ({"seed": "one"}, "whole number"),
    ({"text": 3}, "table"),
    ({"text": {"length": 1}}, "at least 2"),
    ({"rotation_settings": {}}, "no recipe key"),
    ({"weights": {"symmetric": 2}}, "true or false"),
    ({"dtype": "int8"}, "choose from float32"),
])
def test_refusals_say_what_would_work(plain, words):
    with pytest.raises(BadInput, match=words):
        Recipe.from_dict(plain)


def test_files_that_are_no_recipes(tmp_path):
    broken = tmp_path / "r.toml"
    broken.write_text("model = ")
    with pytest.raises(BadInput, match="not valid TOML"):
        load_recipe(broken)
    with pytest.raises(BadInput, match="cannot read the recipe"):
        load_recipe(tmp_path / "missing.toml")


def test_command_line_repeats_the_recipe():
    import shlex

    from rotviz.cli.run import assignment

    for plain in ({}, {"seed": 2, "rotation": {"method": "none"}, "weights": {"bits": 3, "clip": "none"}, "model": "a folder/with space"},
                  {"rotation": {"slots": ["R1", "R4"], "hadamard": {"randomize": False}}, "kv": {"bits": 4}}):
        recipe = Recipe.from_dict(plain)
        words = shlex.split(command_line(recipe))[4:]
        again = Recipe.from_dict(with_changes({}, [assignment(w) for w in words if w != "--set"]))
        assert again == recipe


def test_paths_become_absolute_and_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.txt").write_text("words")
    anchored = Recipe.from_dict({"text": {"evaluation": "my.txt"}}).anchored()
    assert anchored.text.evaluation == str(tmp_path / "my.txt") and anchored.model == "smollm2-135m"


def test_differences_name_keys():
    a, b = Recipe().to_dict(), Recipe.from_dict({"seed": 1, "rotation": {"method": "none"}}).to_dict()
    found = differences([a, b])
    assert found["seed"] == [0, 1] and found["rotation.method"] == ["hadamard", "none"]
    assert found["rotation.hadamard.block"] == [0, None] and "weights.bits" not in found


def test_the_blocks_of_a_format_stay_those_of_a_token():
    """Named or not: a float32 scale over all tokens would make one token's rounding depend on another's."""
    named, own = (ActivationTable(4, True, group, "none", "nvfp4").spec() for group in (16, 0))
    assert named == own and named.granularity is Granularity.TOKEN
    assert ActivationTable(4, True, 16, "none", "int").spec().granularity is Granularity.GROUP
    with pytest.raises(BadInput, match="clip = mse with nvfp4 is for weights"):
        ActivationTable(4, True, 16, "mse", "nvfp4").spec()


def test_a_clip_that_costs_more_than_it_gains_is_noted():
    """0.95 is QuaRot's for 4 bits; of Gaussian heads it takes more away from 6 bits on than rounding does."""
    x = torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    for bits in (4, 6, 8):
        kept, cut = (Recipe.from_dict({"kv": {"bits": bits, "clip": clip}}) for clip in ("none", 0.95))
        lost, more = (float((fake_quantize(x, made.kv.spec()) - x).square().mean()) for made in (kept, cut))
        assert bool(cut.notes) == (more > 1.5 * lost) == (bits > 4) and not kept.notes
    assert "kv.clip = 0.95 suits 4 bits" in Recipe.from_dict({"kv": {"bits": 8}}).notes[0]
