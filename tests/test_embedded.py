"""The embedded model end to end: golden numbers that detect drift, and the lab's first finding.

The numbers were made by this code (see git log) and are no truth: a change that moves them on purpose updates them.
"""

import pytest

from rotviz.models.loading import load
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.run import finish, run

pytestmark = [pytest.mark.embedded, pytest.mark.xdist_group("embedded")]

GOLDEN_FLOAT = 17.235
"""Perplexity of SmolLM2-135M (GGUF Q4_1) on the first 256 tokens of the embedded text."""


@pytest.fixture(scope="module")
def results(embedded_home):
    loaded = load("smollm2-135m")
    found = {}
    for method in ("none", "orthogonal", "hadamard"):
        recipe = Recipe.from_dict({"rotation": {"method": method}, "weights": {"method": "none"}, "device": "cpu",
                                   "activations": {"bits": 4, "symmetric": True, "clip": 0.9},
                                   "text": {"evaluation": "pydoc", "windows": 1, "length": 256}})
        found[method] = finish(run(recipe, loaded=loaded))
    return found


def test_float_perplexity_has_not_drifted(results):
    for result in results.values():
        assert result.reference.value == pytest.approx(GOLDEN_FLOAT, rel=2e-3)


def test_rotation_repairs_what_4_bit_activations_break(results):
    """The order of QuaRot's and DFRot's tables: nothing > orthogonal > Hadamard > float, far apart."""
    value = {name: result.quantized.value for name, result in results.items()}
    assert value["none"] > 1000
    assert value["none"] > 3 * value["orthogonal"] > 3 * value["hadamard"] > 3 * GOLDEN_FLOAT
    kl = {name: result.divergence.kl_nats for name, result in results.items()}
    assert kl["none"] > kl["orthogonal"] > kl["hadamard"] > 0


def test_hadamard_wins_on_the_massive_token(results):
    """Why: after its norm the massive token is nearly one-hot, which a Hadamard matrix maps to exact grid points."""
    def massive_error(method):
        return next(e["massive"] for e in results[method].errors if e["block"] == 15 and e["site"] == "mlp_in")

    assert massive_error("hadamard") < 0.2 * massive_error("orthogonal")


def test_every_proof_holds(results):
    assert all(p.holds for r in results.values() for p in r.proofs) and results["hadamard"].proofs
