"""Deployed models on a real GPU: the Triton kernels carry them out, and they agree with the fake-quantized model there; what they weigh."""

import warnings
from pydoc_data.topics import topics

import pytest
import torch

from rotviz.deployment.bench import replayed
from rotviz.deployment.build import cache_argument, deploy
from rotviz.deployment.folder import load, save
from rotviz.deployment.size import CACHE, MLP, weigh
from rotviz.device import cuda_graph, resolve_device
from rotviz.models.loading import load as load_model
from rotviz.pipeline.recipe import Recipe, with_changes
from rotviz.pipeline.run import finish
from rotviz.pipeline.whole import quantized_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(resolve_device("auto").type == "cpu",
                                                  reason="no CUDA device: deployed models run on the kernels' references instead")]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text(topics["assignment"])
    return {"model": "tiny-llama", "device": "cuda", "text": {"windows": 1, "length": 32, "evaluation": str(path), "calibration": str(path)}}


def tokens(device):
    ids = torch.randint(0, 256, (1, 64), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = 256
    return ids.to(device)


@pytest.mark.parametrize(("weights", "activations", "cache", "dtype"), [(4, 16, 16, "float32"), (4, 4, 4, "float32"), (8, 8, 8, "bfloat16")])
def test_the_same_model_as_fake_quantized(base, weights, activations, cache, dtype, device):
    made = Recipe.from_dict(with_changes(base, [("weights.bits", weights), ("activations.bits", activations), ("kv.bits", cache), ("dtype", dtype)]))
    fake, deployed = finish(quantized_model(made, load_model("tiny-llama", getattr(torch, dtype), device))), deploy(made)
    assert deployed.model.device.type == "cuda"
    with torch.no_grad():
        wanted, found = (m(tokens(device), use_cache=False).logits.float() for m in (fake, deployed.model))
    assert ((wanted - found).norm(dim=-1) / wanted.norm(dim=-1)).median() < (1e-3 if dtype == "float32" else 5e-2)
    assert deployed.model.generate(tokens(device), max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None).shape == (1, 72)


def test_the_triton_kernels_are_what_runs(base, monkeypatch, device):
    """With the references taken away."""
    made = Recipe.from_dict(with_changes(base, [("kv.bits", 4)]))
    deployed = deploy(made)
    for operation in ("integer_matmul", "hadamard_quantize", "quantize"):
        monkeypatch.setattr(f"rotviz.kernels.{operation}.reference.{operation}", None)
    with torch.no_grad():
        assert torch.isfinite(deployed.model(tokens(device), use_cache=False).logits).all()


@pytest.mark.parametrize(("activations", "cache"), [(4, 4), (16, 16)])
def test_steps_are_replayed_as_a_cuda_graph(base, activations, cache, device):
    """By `generate`, with the tokens that a growing cache gives; step by step, with the logits of the same cache's steps, bit for bit."""
    deployed = deploy(Recipe.from_dict(with_changes(base, [("kv.bits", cache), ("activations.bits", activations)])))
    how = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    plain, fixed = deployed.new_cache(72), deployed.new_cache(72)
    plain.replay, argument, ids = None, cache_argument(deployed.model.forward), tokens(device)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("error", "decoding launches its kernels one by one")
        for part in (ids, *ids[:, :8].split(1, 1)):
            wanted, found = (deployed.model(input_ids=part, use_cache=True, **{argument: one}).logits for one in (plain, fixed))
            assert torch.equal(wanted, found)
        assert fixed.replay.has_recorded
        assert replayed(deployed.model, deployed.new_cache, ids, 4) > 0
        quick, slow = deployed.model.generate(ids, cache_implementation="static", **how), deployed.model.generate(ids, **how)
    assert quick.shape == (1, 88) and (quick == slow).float().mean() > 0.9  # sums over a masked cache come in another order


def test_a_step_that_waits_is_refused_before_anything_is_recorded(device):
    """Afterwards numbers can be waited for and drawn as before."""
    with pytest.raises(RuntimeError):
        cuda_graph(lambda: torch.ones(1, device=device).sum().item())
    assert torch.ones(1, device=device).sum().item() == 1 and torch.multinomial(torch.ones(3, device=device), 1).item() < 3


def test_bytes_and_folder(base, tmp_path, device):
    deployed = deploy(Recipe.from_dict(with_changes(base, [("kv.bits", 4)])))
    parts = {part.name: part for part in weigh(deployed, 64)}
    assert parts[MLP].measured == parts[MLP].predicted and parts[CACHE].measured == parts[CACHE].predicted
    save(deployed, tmp_path / "out")
    again = load(tmp_path / "out", "cuda")
    with torch.no_grad():
        assert torch.equal(again.model(tokens(device), use_cache=False).logits, deployed.model(tokens(device), use_cache=False).logits)


@pytest.fixture
def device():
    return resolve_device("auto")
