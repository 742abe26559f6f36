"""What a recipe does with device = "cuda", on a pretended GPU (tests/pretended.py): nothing stays behind on the CPU, resumed or not, and the numbers
are the CPU's."""

from contextlib import closing
from pydoc_data.topics import topics

import pytest
import torch
from pretended import on_gpu, pretended_gpu

from rotviz.deployment.bench import measure as measure_deployment
from rotviz.deployment.build import deploy
from rotviz.deployment.folder import load, save
from rotviz.device import resolve_device
from rotviz.kernels.choice import takes_triton
from rotviz.models.walk import forward
from rotviz.pipeline import run as pipeline
from rotviz.pipeline.generation import continuation
from rotviz.pipeline.preview import estimates, preview
from rotviz.pipeline.recipe import Recipe, with_changes
from rotviz.pipeline.run import finish, run
from rotviz.pipeline.throughput import measure as measure_evaluation
from rotviz.quantizers import QUANTIZERS
from rotviz.rotations import ROTATIONS

pytestmark = [pytest.mark.filterwarnings("ignore:Triton does not start"),  # there is no driver for what is pretended
              pytest.mark.skipif(resolve_device("auto").type != "cpu", reason="a GPU is pretended only where there is none")]
SMALL = {"text": {"windows": 1, "length": 48, "samples": 2}, "weights": {"omniquant": {"epochs": 1}, "rounding": {"iterations": 4, "batch": 2}},
         "rotation": {"spinquant": {"steps": 2, "check": 1}}}
DEPLOYABLE = {"W4A4KV4": (("kv.bits", 4),), "W4A16KV4": (("activations.bits", 16), ("kv.bits", 4), ("kv.symmetric", True)),
              "groups": (("weights.group", 16), ("activations.group", 16)), "bfloat16": (("dtype", "bfloat16"), ("kv.bits", 4)),
              "minima": tuple((f"{part}.{key}", value) for part in ("weights", "activations") for key, value in (
                  ("format", "int_min"), ("symmetric", False), ("clip", "none"), ("group", 16)))}


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "small.txt"
    path.write_text(topics["assignment"])
    return str(path)


@pytest.fixture(params=["torch", "triton"])
def backend(request, monkeypatch):
    """On a GPU the references run where Triton is not installed, else the kernels, which are interpreted here."""
    monkeypatch.setattr("rotviz.kernels.choice.triton_installed", lambda: request.param == "triton")
    if request.param == "triton":
        pytest.importorskip("triton")
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    return request.param


def recipe(text, *changes, device="cuda"):
    here = [("model", "tiny-llama"), ("text.evaluation", text), ("text.calibration", text), ("device", device)]
    return Recipe.from_dict(with_changes(SMALL, [*here, *changes]))


def on_both(text, *changes):
    """The result on the GPU and on the CPU."""
    with pytest.MonkeyPatch.context() as patch, pretended_gpu(patch):
        found = finish(run(recipe(text, *changes)))
    return found, finish(run(recipe(text, *changes, device="cpu")))


def test_the_pretended_gpu_keeps_books(monkeypatch):
    x = torch.ones(3, 4)
    with pretended_gpu(monkeypatch):
        y, linear = x.to("cuda"), torch.nn.Linear(4, 2).to("cuda")
        linear(y).sum().backward()
        for made in (y, y.T[1:], y.new_zeros(3), torch.zeros_like(y), torch.arange(3, device=y.device), y + torch.tensor(1.0), linear.weight.grad,
                     y.detach().data, y[torch.tensor([0])], x.to(y)):
            assert made.device.type == "cuda" and on_gpu(made) and made.is_cuda
        for made in (x, y.cpu(), torch.ones(2), torch.empty(3, 4).copy_(y), y.to("cpu", torch.float64)):
            assert made.device.type == "cpu" and not made.is_cuda
        for bad in (lambda: y + x, lambda: x @ y.T, lambda: torch.cat([x, y]), lambda: x[torch.zeros(1, dtype=torch.long, device="cuda")],
                    lambda: torch.randn(2, device="cuda", generator=torch.Generator()), lambda: y.normal_(generator=torch.Generator())):
            with pytest.raises(RuntimeError, match="cuda"):
                bad()
        with pytest.raises(TypeError, match="numpy"):
            y.numpy()


FAMILIES = ("tiny-llama-tied", "tiny-gemma3", "tiny-phi3", "tiny-opt", "tiny-mixtral", "tiny-qwen3-moe")
"""Tied embeddings, sliding windows, fused linears, learned positions, two kinds of experts."""
CASES = [
    (), *[(("rotation.method", name),) for name in ROTATIONS], *[(("weights.method", name),) for name in QUANTIZERS if name != "none"],
    *[(("model", name), ("kv.bits", 4)) for name in FAMILIES], (("dtype", "bfloat16"),), (("scaling.method", "smoothquant"),),
    (("allocation.method", "importance"),), (("activations.group", 16),), (("weights.format", "power"),), (("weights.format", "nvfp4"),),
    (("weights.method", "omniquant"), ("weights.group", 16), ("weights.symmetric", False)), (("ablation.unit", "module"),)]


@pytest.mark.parametrize("changes", CASES, ids=str)
def test_a_run(changes, text):
    found, wanted = on_both(text, *changes)
    assert found.quantized.value == pytest.approx(wanted.quantized.value, rel=1e-2) and "pretended" in found.environment["device"]
    assert found.reference.value == pytest.approx(wanted.reference.value, rel=1e-3)


@pytest.mark.filterwarnings("ignore:invalid value encountered in subtract:RuntimeWarning")  # the interpreter's, past the vocabulary's end
@pytest.mark.parametrize("changes", [(), (("activations.format", "int_min"), ("activations.symmetric", False), ("activations.clip", "none"))])
def test_a_run_goes_through_the_kernels(changes, text, backend, monkeypatch):
    """R3, R4 and the rounding of activations and cache, where Triton is installed; the numbers are those of the operators all the same."""
    went = set()
    for name in ("hadamard", "quantize"):
        def decide(x, *given, name=name):
            taken = takes_triton(x, *given)
            went.update({(name, *x.shape[1:])} if taken else set())
            return taken

        monkeypatch.setattr(f"rotviz.kernels.{name}.takes_triton", decide)
    found, wanted = on_both(text, ("rotation.method", "hadamard"), ("kv.bits", 4), ("text.length", 16), *changes)
    assert found.quantized.value == pytest.approx(wanted.quantized.value, rel=1e-2)
    queries, keys, inner, hidden = (4, 16, 20), (2, 16, 20), (16, 224), (16, 80)
    through = {("hadamard", *queries), ("hadamard", *keys), ("hadamard", *inner)} | {("quantize", *shape) for shape in (keys, inner, hidden)}
    assert went == (through if backend == "triton" else set())


def test_a_classifier(text):
    found, wanted = on_both(text, ("model", "tiny-vit"), ("images.count", 20), ("images.samples", 4))
    assert found.classification.agreement.value == pytest.approx(wanted.classification.agreement.value)


@pytest.mark.parametrize("stage, changes", [("learn", (("rotation.method", "spinquant"),)), ("learn", (("rotation.method", "dartquant"),)),
                                            ("walk", (("rotation.method", "hadamard"),)), ("walk", (("weights.method", "gptq"),))], ids=str)
def test_a_run_that_was_interrupted(stage, changes, text, tmp_path, monkeypatch):
    wanted = finish(run(recipe(text, *changes, device="cpu")))
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path / "home"))  # where nothing is learned yet
    with pretended_gpu(monkeypatch):
        with closing(run(recipe(text, *changes), checkpoint=tmp_path)) as events:
            assert next(event for event in events if event.stage == stage)
            next(events)
        found = finish(run(recipe(text, *changes), checkpoint=tmp_path))
    assert found.quantized.value == pytest.approx(wanted.quantized.value, rel=1e-2)


@pytest.mark.parametrize("changes", DEPLOYABLE.values(), ids=DEPLOYABLE)
def test_a_deployed_model(changes, backend, text, tmp_path, monkeypatch):
    with pretended_gpu(monkeypatch):
        deployed, ids = deploy(recipe(text, *changes)), torch.arange(1, 5, device="cuda")[None]
        logits = deployed.model(ids).logits
        assert all(on_gpu(x) for x in (*deployed.model.parameters(), *deployed.model.buffers(), logits))
        new = deployed.model.generate(ids, max_new_tokens=2, do_sample=False, pad_token_id=0, eos_token_id=None)
        assert on_gpu(new) and new.shape == (1, 6)
        save(deployed, tmp_path / "kept")
        again = load(tmp_path / "kept", "cuda").model
        assert torch.equal(again(ids).logits, logits) and all(on_gpu(x) for x in again.parameters())


def test_more_windows_go_together_and_find_the_same(text, monkeypatch):
    """Errors by block are measured on a first batch that is no larger than a CPU's; the others go together, up to a share of the memory."""
    monkeypatch.setattr("rotviz.pipeline.inputs.BATCH_TOKENS", 96)
    sizes: list[int] = []
    monkeypatch.setattr(pipeline, "forward", lambda block, hidden, given: sizes.append(len(hidden)) or forward(block, hidden, given))
    found, wanted = on_both(text, ("text.windows", 7), ("kv.bits", 4), ("model", "tiny-mistral"))
    assert sizes == [2, 5, 2, 5, 1] * 2 + [2, 2, 2, 1, 2, 2, 2, 1, 1] * 2  # the quantized stream, the float stream, the isolated error
    assert found.quantized.value == pytest.approx(wanted.quantized.value, rel=1e-2)
    assert [e["relative_mse"] for e in found.errors] == pytest.approx([e["relative_mse"] for e in wanted.errors], rel=1e-2)
    assert found.notes == wanted.notes


@pytest.mark.parametrize("model", ["tiny-mistral", "tiny-gemma3", "tiny-mixtral"])
@pytest.mark.parametrize("changes", [(("weights.method", "gptq"),), (("scaling.method", "smoothquant"),)], ids=str)
def test_more_calibration_windows_go_together(changes, model, text, monkeypatch):
    """Also under masks of sliding windows, which have a row for each window of a batch."""
    for module in ("pipeline.inputs", "quantizers.block"):
        monkeypatch.setattr(f"rotviz.{module}.BATCH_TOKENS", 96)
    found, wanted = on_both(text, ("text.windows", 5), ("text.samples", 7), ("model", model), *changes)
    assert found.quantized.value == pytest.approx(wanted.quantized.value, rel=1e-2)


def test_benchmarks_estimates_and_texts(text, monkeypatch):
    monkeypatch.setattr("rotviz.kernels.choice.triton_installed", lambda: False)
    monkeypatch.setattr("torch.cuda.Event", None)
    monkeypatch.setattr("rotviz.pipeline.throughput.matrix_rate", lambda *given, **named: 1e9)  # what times with a GPU's events cannot be pretended
    with pretended_gpu(monkeypatch):
        with pytest.warns(UserWarning, match="a step could not be recorded as a CUDA graph"):  # nor can it be pretended
            found = measure_deployment(recipe(text, ("kv.bits", 4)), prompt=8, new=2, rounds=1)
        assert found["median"]["deployed"]["replayed"] is None
        assert found["rounds"] and "Triton is not installed" in found["not_measured"]
        first = measure_evaluation("tiny-llama", text, windows=1, length=32, rounds=1, device="cuda")["rounds"][0]
        assert first["first"]["perplexity"] == pytest.approx(first["plain"]["perplexity"], rel=1e-4)
        assert estimates(preview(recipe(text)), recipe(text), "block")
        assert len(finish(continuation(recipe(text), "x = 1", 4)).tokens) <= 4
