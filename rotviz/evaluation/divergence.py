"""How far the quantized model's predictions are from the float model's: KL divergence and same-top-token share.

    KL = mean over tokens of  sum_v p(v) (log p(v) - log q(v)),   p float, q quantized, in nats
    same top = share of tokens at which both find the same token most likely

Perplexity scores the text; these score the model against itself and see changes that the text averages out. Both are taken at the tokens
that perplexity scores, on the same windows.
"""

from dataclasses import dataclass

import torch
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
    """Sum of KL in nats and number of agreeing top tokens, from log-probabilities [T, V] of the float and of the quantized model.

    Overwrites both: at a vocabulary of 50,000 every further copy costs as much as a pass of the head.
    """
    same = (log_p.argmax(-1) == log_q.argmax(-1)).sum()
    difference = log_q.neg_().add_(log_p)
    kl = torch.linalg.vecdot(log_p.exp_(), difference).double().sum()
    return float(kl), float(same)
