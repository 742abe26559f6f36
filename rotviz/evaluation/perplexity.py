"""Perplexity by the protocol of the GPTQ papers, with its standard error.

    PPL = exp( mean over scored tokens of -log p(token | the tokens before it in its window) )

The text is joined, tokenized once and cut into non-overlapping windows; each window is fed on its own and L - 1 of its L tokens are scored
(METHODS.md 5). Windows have equal length, so the mean of window means that QuaRot takes and the token sum that GPTQ and OmniQuant take are the
same number. Sums run in float64.

The standard error is that of the mean of window means, carried through exp: PPL * s / sqrt(n). Tokens of one window depend on each other, windows
hardly do. Below two windows it is unknown (NaN). No window is ever skipped: one that yields NaN makes the perplexity NaN and is counted.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Perplexity:
    """A perplexity with everything that is needed to compare it.

    Attributes:
        value: exp of the mean negative log-likelihood.
        stderr: standard error of `value`; NaN below two windows.
        tokens: number of scored tokens.
        protocol: corpus, split, cut and count in words.
        by_window: mean negative log-likelihood of each window, in nats.
        nan_windows: windows whose likelihood is not a number.
    """

    value: float
    stderr: float
    tokens: int
    protocol: str
    by_window: tuple[float, ...]
    nan_windows: int


def perplexity(by_window: list[float], scored: int, protocol: str) -> Perplexity:
    """The perplexity of windows of equal length.

    Args:
        by_window: mean negative log-likelihood of each window, in nats.
        scored: scored tokens of each window.
        protocol: how the windows were made, in words.
    """
    n, mean = len(by_window), math.fsum(by_window) / len(by_window)
    variance = math.fsum((x - mean) ** 2 for x in by_window) / (n - 1) if n > 1 else math.nan
    value = math.exp(min(mean, 700)) if not math.isnan(mean) else math.nan
    return Perplexity(value, value * math.sqrt(variance / n), n * scored, protocol, tuple(by_window), sum(math.isnan(x) for x in by_window))


def ratio(quantized: Perplexity, reference: Perplexity) -> tuple[float, float]:
    """quantized / reference and its standard error, paired by window: what is hard in a window is hard for both, and cancels."""
    differences = [q - r for q, r in zip(quantized.by_window, reference.by_window)]
    paired = perplexity(differences, 1, "")
    return paired.value, paired.stderr
