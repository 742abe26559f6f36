"""Norms and routers in their input's own precision.

transformers normalizes (and chooses experts) in float32 even in a float64 model, which hides any difference below 1e-7. Here are
the same functions in the precision of what they are given: UnitRMSNorm is also what is left of a norm once its gain is folded away.

    unit    x / sqrt(mean(x^2) + eps)               gain    w * unit(x)
    router  softmax over all experts, the k largest kept, their weights made to sum to one where the family does so
"""

import copy

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rotviz.models.family import Family, NormKind, block_views, norm_epsilon


class UnitRMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) over the last axis; 16-bit inputs are widened to float32 meanwhile, as transformers does."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.eps = epsilon

    def forward(self, x: Tensor) -> Tensor:
        wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
        return nn.functional.rms_norm(wide, (x.shape[-1],), eps=self.eps).to(x.dtype)


class GainRMSNorm(UnitRMSNorm):
    """w * x / rms(x), or (1 + w) * x / rms(x) with `plus_one`; the weight is stored as its family stores it."""

    def __init__(self, weight: Tensor, epsilon: float, plus_one: bool) -> None:
        super().__init__(epsilon)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.plus_one = plus_one

    def forward(self, x: Tensor) -> Tensor:
        gain = self.weight.to(x.dtype)
        return (1 + gain if self.plus_one else gain) * super().forward(x)


class Router(nn.Module):
    """Chooses k experts a token; returns (logits [T, E], weights [T, k], experts [T, k]) as transformers' routers do."""

    def __init__(self, weight: Tensor, k: int, normalize: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.k, self.normalize = k, normalize

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = nn.functional.linear(hidden.reshape(-1, hidden.shape[-1]), self.weight)
        weights, experts = logits.softmax(-1).topk(self.k, dim=-1)
        if self.normalize:
            weights = weights / weights.sum(-1, keepdim=True)
        return logits, weights, experts


def in_own_precision(model: PreTrainedModel, family: Family) -> PreTrainedModel:
    """A copy of the model whose norms and routers compute in the model's own dtype."""
    twin = copy.deepcopy(model)
    if family.has_experts:
        twin.set_experts_implementation("eager")  # the grouped matrix product knows no float64
    if family.norm is not NormKind.LAYER:
        _replace_norms(twin, family)
    for view in block_views(twin, family):
        router = getattr(getattr(view.block, "mlp", None), "gate", None)
        if router is not None and hasattr(router, "top_k"):
            view.set_module("mlp.gate", Router(router.weight.data, router.top_k, getattr(router, "norm_topk_prob", True)))
    return twin


def _replace_norms(model: PreTrainedModel, family: Family) -> None:
    kind = type(model.get_submodule(family.final_norm))
    for name, module in list(model.named_modules()):
        if type(module) is kind:
            plus_one = family.norm is NormKind.RMS_PLUS_ONE
            model.set_submodule(name, GainRMSNorm(module.weight.data, norm_epsilon(module), plus_one))
