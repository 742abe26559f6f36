"""How far the quantized model's predictions are from the float model's: KL divergence and same-top-token share.

    KL = mean over tokens of  sum_v p(v) (log p(v) - log q(v)),   p float, q quantized, in nats
    same top = share of tokens at which both find the same token most likely

Perplexity scores the text; these score the model against itself and see changes that the text averages out. Both are taken at the tokens
that perplexity scores, on the same windows.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Divergence:
    """Means over all scored tokens.

    Attributes:
        kl_nats: mean KL divergence of the quantized from the float model.
        same_top: share of tokens with the same most likely token, 0 to 1.
        tokens: how many tokens.
    """

    kl_nats: float
    same_top: float
    tokens: int


def divergence_sums(log_p: Tensor, log_q: Tensor) -> tuple[float, float]:
    """Sum of KL in nats and number of agreeing top tokens, from log-probabilities [T, V] of the float and of the quantized model."""
    same = (log_p.argmax(-1) == log_q.argmax(-1)).sum()
    kl = log_p.exp().mul_(log_p - log_q).sum(-1).double().sum()
    return float(kl), float(same)
