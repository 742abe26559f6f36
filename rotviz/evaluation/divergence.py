"""How far the quantized model's predictions are from the float model's: KL divergence and same-top-token share.

    KL = mean over tokens of  sum_v p(v) (log p(v) - log q(v)),   p float, q quantized, in nats
    same top = share of tokens at which both find the same token most likely

Perplexity scores the text; these score the model against itself and see changes that the text averages out. Both are taken at the tokens
that perplexity scores, on the same windows. The standard error of the KL is that of the mean of window means, as perplexity's.

What each token scores is rotviz.kernels.scores.
"""

import math
from dataclasses import dataclass


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
