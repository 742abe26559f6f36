"""What each token scored under two models: both losses, the KL divergence between them, and whether their most likely tokens agree.

    scores = score(logits_float, logits_quantized, targets)

    loss = log Z - z_t           KL = sum_v exp(z_v - m) (z_v - z'_v) / S - log Z + log Z',    m = max z, S = sum exp(z - m), log Z = m + log S

No normalized copy is needed, and everything is a sum over the vocabulary: so the kernel reads both models' logits once and writes four numbers a
token, where the reference's operations read and write them over and over, mostly in float32.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rotviz.errors import BadInput
from rotviz.kernels.choice import takes_triton
from rotviz.kernels.scores import reference

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class Scores:
    """What each token scored, float64 [T] each: -log p(target) under both models in nats, the KL divergence between them, and whether
    their most likely tokens agree (0 or 1)."""

    reference: Tensor
    quantized: Tensor
    kl: Tensor
    same_top: Tensor


def score(reference_logits: Tensor, quantized_logits: Tensor, targets: Tensor, *, backend: str = "auto") -> Scores:
    """Score two models' logits [T, V] on the target ids [T]. The logits are taken in float32 or better and not changed.

    Raises:
        BadInput: the shapes do not belong together, or the backend cannot run.
    """
    p, q = reference_logits, quantized_logits
    if p.ndim != 2 or p.shape != q.shape or targets.shape != p.shape[:1]:
        raise BadInput(f"logits of shape {tuple(p.shape)} and {tuple(q.shape)} and targets of shape {tuple(targets.shape)} do not belong together: "
                       "two times [T, V], and [T]")
    obstacle = None if {p.dtype, q.dtype} <= set(KERNEL_DTYPES) else f"it reads float32, bfloat16 and float16, not {p.dtype} and {q.dtype}"
    if takes_triton(p, backend, obstacle):
        from rotviz.kernels.scores.triton_kernel import launch

        return Scores(*launch(p, q, targets))
    return Scores(*reference.score(p, q, targets))
