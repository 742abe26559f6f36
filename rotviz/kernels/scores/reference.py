"""Scores of two models' logits in torch: the slow twin of triton_kernel.py. A few rows at a time stay in the processor's cache."""

import torch
from torch import Tensor

_CACHED_LOGITS = 1 << 20
"""Logits of each model that are worked on at a time on the CPU (4 MB in float32)."""


def score(p: Tensor, q: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both losses, the divergence and whether the top tokens agree, float64 [T] each, of logits [T, V] and targets [T]."""
    step = max(1, len(targets) if p.is_cuda else _CACHED_LOGITS // p.shape[-1])
    parts = [_score(p[i:i + step], q[i:i + step], targets[i:i + step]) for i in range(0, max(1, len(targets)), step)]
    losses_p, losses_q, kl, same = (torch.cat(column) for column in zip(*parts))
    return losses_p, losses_q, kl, same


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
