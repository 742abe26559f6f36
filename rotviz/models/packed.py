"""Linears on the CPU with their weights packed: oneDNN's product on weights that were put into its own order once.

    y = x W^T + b        the same numbers as torch's linear but for the order of the additions

torch.nn.functional.linear reorders a weight for every call. A walk sends many windows through the same weights, so they are reordered
once a block. The operator is the one that torch's own compiler calls; where a
build does not have it, or a weight is not float32 on the CPU, everything is as it was. No gradient passes through.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

ROWS = 2048
"""Rows that the order of a packed weight is chosen for; any number works."""
LARGEST = 1 << 28
"""Bytes of the largest weight that is packed: a packed one is a copy."""


def can_pack(module: nn.Module) -> bool:
    """Whether a module is a plain linear whose weight can be packed here."""
    return (type(module) is nn.Linear and module.weight.dtype == torch.float32 and module.weight.device.type == "cpu"
            and module.weight.nbytes <= LARGEST and torch.backends.mkldnn.is_available()
            and hasattr(torch.ops.mkldnn, "_linear_pointwise") and hasattr(torch.ops.mkldnn, "_reorder_linear_weight"))


def packed_product(linear: nn.Linear) -> Callable[[Tensor], Tensor]:
    """x [..., in] -> [..., out] with the linear's weight as it is now. Call it without gradients."""
    weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().contiguous(), ROWS)
    bias = None if linear.bias is None else linear.bias.detach()
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@contextmanager
def packed_linears(block: nn.Module) -> Iterator[None]:
    """A block's plain linears packed inside the context; their hooks run as always. The block must be the caller's own, and its weights must not
    change meanwhile."""
    linears = [module for module in block.modules() if can_pack(module)]
    for linear in linears:
        linear.forward = packed_product(linear)
    try:
        yield
    finally:
        for linear in linears:
            del linear.forward


class PackedLinear(nn.Module):
    """A packed copy of a linear, to stand in its place."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.product = packed_product(linear)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x)
