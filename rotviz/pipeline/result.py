"""What a run leaves behind: small, frozen, plain values."""

import math
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from rotviz.evaluation.classification import Classification
from rotviz.evaluation.divergence import Divergence
from rotviz.evaluation.perplexity import Perplexity, ratio
from rotviz.pipeline.token_scores import FILE, TokenScores, save_token_scores
from rotviz.surgery.proof import StepProof


@dataclass(frozen=True)
class Scored:
    """What came of scoring: of a language model perplexities and what every token cost, of a vision model the classification."""

    divergence: Divergence
    reference: Perplexity | None = None
    quantized: Perplexity | None = None
    classification: Classification | None = None
    tokens: TokenScores | None = None

    @property
    def words(self) -> str:
        """The main numbers."""
        if self.classification is None:
            return f"perplexity {self.quantized.value:.4g}, float {self.reference.value:.4g}"
        return f"top-1 agreement {self.classification.agreement.value:.1%} on {self.classification.images} images"


@dataclass(frozen=True)
class Result:
    """The numbers of a run.

    Attributes:
        recipe: the recipe, plain.
        reference, quantized: perplexities on the same windows; None of a vision model.
        divergence: of the quantized from the float model.
        classification: agreement and accuracy of a vision model; None of a language model.
        errors: by block and site, as evaluation.errors.SiteError.to_dict gives them.
        weight_errors: relative MSE of every quantized weight: block, role, relative_mse.
        proofs: the rewrite's steps with what each changed in the logits.
        seconds: by stage.
        peak_memory_mb: see device.peak_memory_mb.
        environment: versions, device, threads.
        notes: what a reader should know (compromises, the model's own notes).
        learned: by block what a calibrated weight quantizer reports: block, notes, metrics (losses, flips, clips, exponents).
        allocation: with mixed precision by weight its bits and estimated costs (pipeline.importance.Bits), None without.
        scores: what every token cost; a file of its own beside the result (write_files), not part of its plain values.
        ablation: with an ablation what each unit costs (pipeline.ablation.Ablation.measured), None without.
        learning: how a learned or loaded rotation was come by (pipeline.learn.Learning), None of one that was built from the seed.
    """

    recipe: dict[str, Any]
    reference: Perplexity | None
    quantized: Perplexity | None
    divergence: Divergence
    errors: tuple[dict[str, Any], ...]
    weight_errors: tuple[dict[str, Any], ...]
    proofs: tuple[StepProof, ...]
    seconds: dict[str, float]
    peak_memory_mb: float
    environment: dict[str, Any]
    notes: tuple[str, ...] = field(default=())
    learning: dict[str, Any] | None = None
    learned: tuple[dict[str, Any], ...] = ()
    allocation: dict[str, Any] | None = None
    ablation: dict[str, Any] | None = None
    classification: Classification | None = None
    scores: TokenScores | None = field(default=None, repr=False, compare=False)

    def write_files(self, folder: Path) -> None:
        """The large arrays, into the run's folder.

        Raises:
            OutOfRoom: the disk is full.
        """
        if self.scores is not None:
            save_token_scores(folder / FILE, self.scores)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; NaN and infinity become null."""
        images = self.classification
        plain = {
            "recipe": self.recipe,
            "perplexity": None if images else _perplexities(self.reference, self.quantized),
            "divergence": {"kl_nats": self.divergence.kl_nats, "same_top": self.divergence.same_top,
                           "tokens": None if images else self.divergence.tokens, "stderr": self.divergence.stderr},
            "classification": images.to_dict() if images else None,
            "errors": list(self.errors),
            "weight_errors": list(self.weight_errors),
            "proof": [{"step": p.name, "words": p.words, "error": p.error, "tolerance": p.tolerance} for p in self.proofs],
            "seconds": self.seconds, "peak_memory_mb": self.peak_memory_mb,
            "environment": self.environment, "notes": list(self.notes), "learning": self.learning,
            "learned": list(self.learned), "allocation": self.allocation,
        } | ({"ablation": self.ablation} if self.ablation is not None else {})
        return without_nan(plain)


def environment(device: str) -> dict[str, Any]:
    """Versions and machine, for the record."""
    from rotviz import __version__

    return {"rotviz": __version__, "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
            "device": device, "machine": platform.machine(), "processor": _processor(), "threads": torch.get_num_threads()}


def without_nan(plain: Any) -> Any:
    """The same plain value with None in place of NaN and infinity, which JSON does not have."""
    if isinstance(plain, dict):
        return {k: without_nan(v) for k, v in plain.items()}
    if isinstance(plain, (list, tuple)):
        return [without_nan(v) for v in plain]
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def _perplexities(reference: Perplexity, quantized: Perplexity) -> dict[str, Any]:
    factor, factor_error = ratio(quantized, reference)
    return {"reference": _perplexity(reference), "quantized": _perplexity(quantized), "ratio": {"value": factor, "stderr": factor_error}}


def _perplexity(p: Perplexity) -> dict[str, Any]:
    return {"value": p.value, "stderr": p.stderr, "tokens": p.tokens, "protocol": p.protocol, "nan_windows": p.nan_windows,
            "by_window": list(p.by_window)}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
