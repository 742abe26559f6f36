"""What counts as a difference between recipes, and its effect from pairs of runs, by hand."""

import math

import pytest

from rotviz.pipeline.effects import changes, effect_of, ranked, settings_that_count
from rotviz.pipeline.recipe import Recipe


def plain(**top):
    return Recipe.from_dict(top).to_dict()


def found(a, b):
    return {c.key: (c.before, c.after) for c in changes(settings_that_count(a), settings_that_count(b))}


FLOAT_WEIGHTS = {"method": "none", "bits": 16}


@pytest.mark.parametrize(("a", "b", "wanted"), [
    ({}, {}, {}),
    ({}, {"seed": 1}, {"seed": ("0", "1")}),
    ({"rotation": {"method": "none"}}, {}, {"rotation.method": ("none", "hadamard")}),
    ({"rotation": {"method": "none", "slots": ["R1"]}}, {"rotation": {"method": "none"}}, {}),
    ({"rotation": {"method": "orthogonal"}}, {}, {"rotation.method": ("orthogonal", "hadamard")}),
    ({"rotation": {"slots": ["R1"]}}, {}, {"rotation.slots": ("R1", "R1, R2, R3, R4")}),
    ({"rotation": {"hadamard": {"block": 4}}}, {}, {"rotation.hadamard.block": ("4", "0")}),
    ({"weights": FLOAT_WEIGHTS}, {}, {"weights.bits": ("16", "4")}),
    ({"weights": {"bits": 3}}, {}, {"weights.bits": ("3", "4")}),
    ({"weights": {"method": "gptq", "bits": 3}}, {}, {"weights.method": ("gptq", "rtn"), "weights.bits": ("3", "4")}),
    ({"activations": {"bits": 16, "clip": 0.5}}, {"activations": {"bits": 16}}, {}),
    ({"activations": {"bits": 16}, "kv": {"bits": 4}}, {}, {"activations.bits": ("16", "4"), "kv.bits": ("4", "16")}),
    ({"scaling": {"method": "smoothquant"}}, {}, {"scaling.method": ("smoothquant", "none")}),
    ({"ablation": {"unit": "block"}}, {}, {}),
    ({"rotation": {"load": "a.safetensors"}}, {}, {"rotation.load": ("a.safetensors", "")}),
])
def test_what_counts_as_one_difference(a, b, wanted):
    assert found(plain(**a), plain(**b)) == wanted


def test_an_effect_is_the_mean_over_pairs_that_differ_in_nothing_else():
    runs = [(plain(rotation={"method": m}, seed=s, kv={"bits": kv}), value) for m, s, kv, value in [
        ("none", 0, 16, 8.0), ("hadamard", 0, 16, 5.0), ("none", 1, 16, 8.5), ("hadamard", 1, 16, 5.1), ("none", 0, 4, 9.0), ("hadamard", 0, 4, 6.2),
        ("orthogonal", 0, 16, 5.6), ("hadamard", 7, 4, 1.0)]]
    chosen = [plain(rotation={"method": "none"}), plain(), plain(rotation={"method": "orthogonal"}), plain(rotation={"hadamard": {"block": 4}})]
    steps = [-3.0, -3.4, -2.8]
    mean = sum(steps) / 3
    reach = 4.302653 * math.sqrt(sum((s - mean) ** 2 for s in steps) / 2) / math.sqrt(3)  # Student's t of 2 degrees of freedom
    effects = [effect for _, effect in ranked(chosen, runs)]
    assert [e.pairs for e in effects] == [3, 1, 0]
    assert effects[0].mean == pytest.approx(mean) and (effects[0].low, effects[0].high) == pytest.approx((mean - reach, mean + reach), rel=1e-5)
    assert effects[1].mean == pytest.approx(-2.4) and math.isnan(effects[1].low)
    assert math.isnan(effects[2].mean)


def test_the_newest_of_equal_runs_counts_and_what_is_no_number_does_not():
    step = changes(settings_that_count(plain()), settings_that_count(plain(seed=1)))[0]
    runs = [(settings_that_count(plain()), 3.0), (settings_that_count(plain()), 99.0), (settings_that_count(plain(seed=1)), 3.5)]
    assert effect_of(step, runs).mean == pytest.approx(0.5)
    assert effect_of(step, [*runs[:2], (settings_that_count(plain(seed=1)), math.nan)]).pairs == 0
    assert step.measures is False and changes(settings_that_count(plain()), settings_that_count(plain(model="a")))[0].measures
