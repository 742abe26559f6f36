"""The architecture doctor on a model by name: its diagnosis, and the proof of every step with a rotation in every slot."""

from collections.abc import Callable

from torch import Tensor

from rotviz.models.loading import LoadedModel
from rotviz.pipeline.inputs import probe_images
from rotviz.pipeline.prepare import Prepared, prepare, probe_tokens, rotation_plan
from rotviz.pipeline.recipe import Recipe
from rotviz.surgery.doctor import Diagnosis, diagnose
from rotviz.surgery.proof import StepProof, prove
from rotviz.texts import load_text, prompt_tokens
from rotviz.types import Modality

PROBE_TOKENS = 64


def examine(model: str, method: str = "hadamard", seed: int = 0, progress: Callable[[float, str], None] | None = None,
            loaded: LoadedModel | None = None) -> tuple[Diagnosis, list[StepProof]]:
    """Diagnose a model and prove that its logits stay under `method` in every slot, on the embedded text (or on drawn images)."""
    say = progress or (lambda fraction, words: None)
    say(0.0, f"loading {model}")
    prepared = prepare(Recipe.from_dict({"model": model, "seed": seed, "rotation": {"method": method}, "weights": {"method": "none"},
                                         "activations": {"bits": 16}}), loaded)
    diagnosis = diagnose(prepared.source, prepared.family_name)
    plan = rotation_plan(prepared.recipe, prepared.sizes)

    def tell(done: int, blocks: int) -> None:
        say(0.2 + 0.8 * done / blocks, f"block {done} of {blocks}")

    proofs = prove(prepared.source, plan, _probe(prepared).to(prepared.device), progress=tell)
    return diagnosis, proofs


def _probe(prepared: Prepared) -> Tensor:
    """The beginning of the embedded text, or a few drawn images."""
    if prepared.modality is Modality.IMAGE:
        return probe_images(prepared)
    return probe_tokens(prompt_tokens(load_text("pydoc"), prepared.loaded.tokenizer, PROBE_TOKENS)[None])
