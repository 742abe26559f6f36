"""The command lines that pages show: read back by the command line itself, they ask for what the page shows."""

import argparse
import shlex

import pytest

from rotviz.capture.inspect import Look
from rotviz.cli import hurts, verdict
from rotviz.cli.looking import look_of
from rotviz.evaluation.sites import Turn
from rotviz.pipeline.recipe import Recipe
from rotviz.types import Granularity, QuantSpec, Slot
from rotviz.ui.commands import hurts_command, verdict_command


def options_of(command, line):
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    program, *words = line.removeprefix("python -m ").split(" ", 1)
    assert program == "rotviz"
    return parser.parse_args(shlex.split(*words))


@pytest.mark.parametrize("look", [Look(), Look("tiny-qwen3", "my text.txt", 128, False), Look("a/b", prompt="it's \"so\"")])
@pytest.mark.parametrize("spec", [QuantSpec(4, True, clip=0.9), QuantSpec(3, False, Granularity.GROUP, 16, "mse")])
def test_verdict(look, spec):
    a, b = Turn("orthogonal", 3, (Slot.R1, Slot.R4)), Turn("hadamard", 1, (Slot.R1, Slot.R4))
    options = options_of(verdict, verdict_command(look, a, b, spec))
    assert options.json and verdict.spec_from(options) == spec
    asked = look_of(options)
    assert asked == look or (look.prompt and (asked.model, asked.prompt, asked.tokens) == (look.model, look.prompt, look.tokens))
    assert [verdict.turn_from(options.a, options.seed_a, options.slots), verdict.turn_from(options.b, options.seed_b, options.slots)] == [a, b]
    assert "--slots ''" in verdict_command(look, Turn("none"), Turn("hadamard", slots=()), spec)


@pytest.mark.parametrize("plain", [
    {}, {"model": "tiny-llama", "ablation": {"unit": "module", "kind": "only"}},
    {"rotation": {"method": "none", "slots": ["R1"]}, "weights": {"bits": 3, "clip": "mse"}, "kv": {"bits": 4}, "seed": 2, "text": {"windows": 5}}])
def test_hurts(plain):
    recipe = Recipe.from_dict({"ablation": {"unit": "block"}, **plain})
    options = options_of(hurts, hurts_command(recipe))
    assert options.json and hurts.recipe_from(options).fingerprint == recipe.anchored().fingerprint
