"""How far the quantized model's predictions are from the float model's: KL divergence and same-top-token share.

    KL = mean over tokens of  sum_v p(v) (log p(v) - log q(v)),   p float, q quantized, in nats
    same top = share of tokens at which both find the same token most likely

Perplexity scores the text; these score the model against itself and see changes that the text averages out. Both are taken at the tokens
that perplexity scores, on the same windows. The standard error of the KL is that of the mean of window means, as perplexity's.

From logits y = z + constant no normalized copy is needed: with m = max z and S = sum exp(z - m),

    -log p(t) = m + log S - z_t           KL = sum_v exp(z_v - m) (z_v - z'_v) / S_p - log Z_p + log Z_q,    log Z = m + log S

so both models cost one exponential a logit, and a few rows at a time stay in the processor's cache.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_CACHED_LOGITS = 1 << 20
"""Logits of each model that are worked on at a time on the CPU (4 MB in float32)."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """Means over all scored tokens (of a vision model: over all images).

    Attributes:
        kl_nats: mean KL divergence of the quantized from the float model.
        same_top: share of tokens with the same most likely token, 0 to 1.
        tokens: how many tokens.
        stderr: standard error of kl_nats over windows; NaN below two.
    """

    kl_nats: float
    same_top: float
    tokens: int
    stderr: float = math.nan


def divergence(by_window: list[float], same_top: float, scored: int) -> Divergence:
    """The divergence of windows of equal length: mean KL of each window, share of equal top tokens, scored tokens of a window."""
    n, mean = len(by_window), math.fsum(by_window) / len(by_window)
    variance = math.fsum((x - mean) ** 2 for x in by_window) / (n - 1) if n > 1 else math.nan
    return Divergence(mean, same_top, n * scored, math.sqrt(variance / n))


@dataclass(frozen=True, slots=True)
class Scores:
    """What each token scored, float64 [T] each: -log p(target) under both models in nats, the KL divergence between them, and whether
    their most likely tokens agree (0 or 1)."""

    reference: Tensor
    quantized: Tensor
    kl: Tensor
    same_top: Tensor


def score(reference: Tensor, quantized: Tensor, targets: Tensor) -> Scores:
    """Score two models' logits [T, V] on the target ids [T]. The logits are taken in float32 or better and not changed."""
    step = len(targets) if reference.is_cuda else max(1, _CACHED_LOGITS // reference.shape[-1])
    parts = [_score(reference[i:i + step], quantized[i:i + step], targets[i:i + step]) for i in range(0, len(targets), step)]
    return Scores(*(torch.cat(column) for column in zip(*parts)))


def _score(p: Tensor, q: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    p, q = (x if x.dtype == torch.float64 else x.float() for x in (p, q))
    top_p, top_q = p.max(-1, keepdim=True), q.max(-1, keepdim=True)
    weights = (p - top_p.values).exp_()
    total = weights.sum(-1, dtype=torch.float64)  # tens of thousands of addends: float32 would lose the sixth digit
    log_p = top_p.values[:, 0] + total.log()
    log_q = top_q.values[:, 0] + (q - top_q.values).exp_().sum(-1, dtype=torch.float64).log()
    kl = torch.linalg.vecdot(weights, p - q) / total - log_p + log_q
    hit_p, hit_q = (x.gather(-1, targets[:, None])[:, 0] for x in (p, q))
    same = top_p.indices[:, 0] == top_q.indices[:, 0]
    return (log_p - hit_p).double(), (log_q - hit_q).double(), kl.double(), same.double()
