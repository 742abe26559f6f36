"""Losses by token: they are the losses that the whole model has, and rounding nothing costs nothing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rotviz.errors import BadInput
from rotviz.evaluation.sites import Turn
from rotviz.evaluation.token_loss import LONGEST, token_losses
from rotviz.evaluation.weights import plan_of
from rotviz.models.loading import load
from rotviz.models.walk import BlockSource
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.run import finish
from rotviz.pipeline.whole import quantized_model
from rotviz.surgery.doctor import source_sizes
from rotviz.types import QuantSpec

FOUR = QuantSpec(4, True, clip=0.9)
TEXTS = [torch.arange(40) % 17 + 3, torch.arange(25) % 11 + 3]


@pytest.fixture(scope="module")
def model():
    return load("tiny-llama").model


def recipe_for(method):
    return Recipe.from_dict({"model": "tiny-llama", "rotation": {"method": method}, "weights": {"method": "none"},
                             "activations": {"bits": 4, "symmetric": True, "clip": 0.9}})


def plans(model, *methods):
    sizes = source_sizes(BlockSource(model))
    return {method: plan_of(Turn(method), sizes) for method in methods}


def loss_of(model, tokens):
    with torch.no_grad():
        logits = model(tokens[None]).logits[0, :-1]
    return F.cross_entropy(logits.double(), tokens[1:], reduction="none").numpy()


def test_losses_are_those_of_the_whole_model_that_a_recipe_makes(model):
    wanted = plans(model, "none", "hadamard")
    found = token_losses(BlockSource(model), wanted, FOUR, TEXTS)
    for name in wanted:
        whole = finish(quantized_model(recipe_for(name)))
        for tokens, loss in zip(TEXTS, found[name], strict=True):
            assert np.isnan(loss.reference[0]) and np.isnan(loss.difference[0]) and len(loss.kl) == len(tokens)
            np.testing.assert_allclose(loss.reference[1:], loss_of(model, tokens), rtol=1e-4)
            np.testing.assert_allclose(loss.quantized[1:], loss_of(whole, tokens), rtol=1e-4)
            assert (loss.kl[1:] > -1e-6).all() and loss.kl[1:].max() > 1e-4


def test_without_rounding_a_rotation_changes_nothing(model):
    said = []
    found = token_losses(BlockSource(model), plans(model, "orthogonal"), QuantSpec(16), TEXTS[:1], lambda share, words: said.append(share))
    (loss,) = found["orthogonal"]
    assert np.abs(loss.difference[1:]).max() < 1e-3 and said == sorted(said)


def test_a_text_that_is_too_long_is_refused(model):
    with pytest.raises(BadInput, match="1,024"):
        token_losses(BlockSource(model), plans(model, "none"), FOUR, [torch.zeros(LONGEST + 1, dtype=torch.long)])
