"""SmoothQuant: give a part of each activation channel's range to the weights that read it, before anything is rounded.

    s_j = max|X_j|^alpha / max|W_j|^(1 - alpha),      X / s,   W diag(s)             (arXiv 2211.10438; alpha = 0.5)

X is the output of the norm before attention or the MLP, the maxima of W_j run over every linear that reads it (routers are carried along but have
no say: they are not rounded), and 1/s folds into the norm's gain (scales.py). A channel that is always zero keeps s = 1.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rotviz.models.family import BlockView, LinearSlice
from rotviz.surgery.scales import Scales
from rotviz.types import Role

SMALLEST = 1e-5


@dataclass
class Reach:
    """The smallest and largest value of each channel [D] that was seen."""

    low: Tensor | None = None
    high: Tensor | None = None

    def see(self, x: Tensor) -> None:
        """Take rows [..., D] into account."""
        rows = x.detach().reshape(-1, x.shape[-1])
        low, high = rows.amin(0), rows.amax(0)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)

    @property
    def peak(self) -> Tensor:
        """max|x| of each channel."""
        return torch.maximum(self.low.abs(), self.high.abs())

    @property
    def middle(self) -> Tensor:
        """Halfway between smallest and largest."""
        return (self.low + self.high) / 2


@dataclass(frozen=True)
class Ranges:
    """Reaches at the outputs of a block's two norms and at the input of its output projection."""

    attention: Reach
    mlp: Reach
    output: Reach


def ranges_of(view: BlockView, passes: Iterable[object]) -> Ranges:
    """What a block's channels reach while `passes` pushes hidden states through it, one pass an element."""
    found = Ranges(Reach(), Reach(), Reach())
    family = view.family
    handles = [view.norm(family.attn_norm).register_forward_hook(_watching_output(found.attention)),
               view.norm(family.mlp_norm).register_forward_hook(_watching_output(found.mlp)),
               view.linear(Role.O).module.register_forward_pre_hook(lambda _, inputs: found.output.see(inputs[0]))]
    try:
        for _ in passes:
            pass
    finally:
        for handle in handles:
            handle.remove()
    return found


def smoothing_scale(peak: Tensor, readers: list[LinearSlice], alpha: float) -> Tensor:
    """SmoothQuant's scale of each channel [D]."""
    weight = torch.stack([r.weight.abs().amax(0) for r in readers]).amax(0).to(peak)
    scale = peak.clamp_min(SMALLEST) ** alpha / weight.clamp_min(SMALLEST) ** (1 - alpha)
    return torch.where((peak > 0) & (weight > 0), scale.clamp_min(SMALLEST), torch.ones_like(scale))


def smoothing_scales(view: BlockView, ranges: Ranges, alpha: float) -> Scales:
    """SmoothQuant's scales of a block: the two norms' outputs."""
    experts = [reader for mlp in view.mlps for reader in mlp.readers]
    return Scales(attention=smoothing_scale(ranges.attention.peak, view.attention_readers(), alpha),
                  mlp=smoothing_scale(ranges.mlp.peak, experts, alpha))


def _watching_output(reach: Reach):
    def hook(_: nn.Module, __: tuple, output: Tensor) -> None:
        reach.see(output)

    return hook
