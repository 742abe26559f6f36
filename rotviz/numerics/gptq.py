"""GPTQ: round a weight column by column and let the columns that are left make up for the error.

    minimize  tr((W - W^) H (W - W^)^T),   H = (2/n) sum x x^T over the inputs x of the layer

For column i in order: q = Q(w_i), e = (w_i - q) / U_ii, and w_j -= e U_ij for j > i, where U is the upper Cholesky factor of H^-1. That equals
optimal brain quantization (OBQ) in a fixed order, whose inverse Hessian is updated after every column (arXiv 2210.17323; a test compares the two).
Columns go in blocks: inside a block at once, the rest after the block.

    damping     H += d mean(diag H) I; ten times as much until the Cholesky factorization succeeds (the result says how much was needed)
    order       columns by falling H_ii (act-order): those that matter most are rounded while there is most left to make up for them
    dead        H_ii = 0: no input ever reaches the column, which is set to zero; where none reaches any (an expert that no token was sent to) the
                weight is rounded
    groups      scales from the compensated weight when a group begins (dynamic), or all from the original weight (static; always with act-order,
                where a group's columns are not neighbours any more)

Departures. Rows are independent problems and the sweep is greedy, so that now and then a row ends worse than plain rounding: such a row takes
the rounded values instead (`fallback_rows` counts them), which makes "never worse than round-to-nearest on its own objective" true by
construction. The factorization runs in float64: published codes run it in float32 and raise the damping more often.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rotviz.errors import BadInput
from rotviz.numerics.grids import Grid, find_scale, grid_of, quantize
from rotviz.numerics.scale import Scale
from rotviz.types import QuantSpec

BLOCK = 128
MORE_DAMPING = 10.0


@dataclass(frozen=True, slots=True)
class GPTQResult:
    """What GPTQ made of a weight.

    weight: quantized values [N, D] in the original's dtype; damping: what the factorization needed; dead: columns without input;
    fallback_rows: rows that kept their rounded values; objective and rounded_objective: tr((W-W^)H(W-W^)^T) of the result and of plain rounding.
    """

    weight: Tensor
    damping: float
    dead: int
    fallback_rows: int
    objective: float
    rounded_objective: float


def gptq(weight: Tensor, hessian: Tensor, spec: QuantSpec, *, damping: float = 0.01, act_order: bool = False,
         static_groups: bool = False) -> GPTQResult:
    """Quantize a weight [N, D] for inputs with second moments `hessian` [D, D].

    Raises:
        BadInput: the Hessian is not finite.
    """
    if not torch.isfinite(hessian).all():
        raise BadInput("the inputs of a layer are not finite, so GPTQ has nothing to go by; use another calibration text or float32")
    wide = weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
    dead = hessian.diagonal() == 0
    if bool(dead.all()):
        return GPTQResult(quantize(wide, spec).values().to(weight.dtype), damping, len(dead), len(wide), 0.0, 0.0)
    start = wide.masked_fill(dead, 0)
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True) if act_order else torch.arange(len(hessian), device=hessian.device)
    factor, used = inverse_factor(hessian[order][:, order], damping)
    columns = Columns(start, spec, static_groups or act_order, order)
    swept = sweep(start[:, order], factor.to(wide), columns)[:, torch.argsort(order)]
    rounded = columns.rounded(start)
    by_row, rounded_by_row = objective(wide, swept, hessian), objective(wide, rounded, hessian)
    keep = by_row <= rounded_by_row
    best = torch.where(keep[:, None], swept, rounded)
    return GPTQResult(best.to(weight.dtype), used, int(dead.sum()), int((~keep).sum()),
                      float(torch.minimum(by_row, rounded_by_row).sum()), float(rounded_by_row.sum()))


def objective(weight: Tensor, quantized: Tensor, hessian: Tensor) -> Tensor:
    """(w - q) H (w - q)^T of each row: float64 [N]."""
    difference = (weight - quantized).double()
    return ((difference @ hessian.double()) * difference).sum(-1)


def inverse_factor(hessian: Tensor, damping: float) -> tuple[Tensor, float]:
    """The upper Cholesky factor U of (H + d mean(diag H) I)^-1 = U^T U in float64, and the d that it took."""
    wide = hessian.double()
    diagonal = torch.where(wide.diagonal() == 0, torch.ones_like(wide.diagonal()), wide.diagonal())
    wide = wide - torch.diag(wide.diagonal()) + torch.diag(diagonal)
    mean = diagonal.mean()
    while True:
        damped = wide + damping * mean * torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            factor, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed and bool(torch.isfinite(factor).all()):
                return factor, damping
        damping = max(damping, 1e-6) * MORE_DAMPING


class Columns:
    """Rounds single columns of a weight, in the order in which GPTQ comes to them.

    Args:
        weight: the original [N, D].
        spec: the grid; one scale for a row or for each group of a row.
        static: take every group's scale from the original weight.
        order: [D], the column that comes at each position.
    """

    def __init__(self, weight: Tensor, spec: QuantSpec, static: bool, order: Tensor) -> None:
        self.spec = spec
        self.size = spec.group_for(weight.shape[1])
        grouped = weight.unflatten(-1, (-1, self.size))
        self.grid: Grid = grid_of(spec).bound(grouped, spec)
        self.dynamic = not static and self.size < weight.shape[1]
        self.scale = None if self.dynamic else find_scale(grouped, spec, self.grid)
        self.groups = (order // self.size).tolist()
        self.current: Scale | None = None

    def rounded(self, weight: Tensor) -> Tensor:
        """Every number [N, D] at its nearest level, scales from the original weight: plain rounding."""
        grouped = weight.unflatten(-1, (-1, self.size))
        scale = find_scale(grouped, self.spec, self.grid) if self.scale is None else self.scale
        return self.grid.values(self.grid.codes(grouped, scale, self.spec), scale).flatten(-2)

    def begins_group(self, position: int) -> bool:
        """Whether a scale is to be found from the compensated weight at this position."""
        return self.dynamic and position % self.size == 0

    def enter_group(self, group: Tensor) -> None:
        """Find the scale of the group [N, size] that begins, from what compensation has made of it."""
        self.current = find_scale(group[:, None], self.spec, self.grid).group(0)

    def round(self, column: Tensor, position: int) -> Tensor:
        """The quantized values [N] of the column at a position."""
        scale = self.current if self.dynamic else self.scale.group(self.groups[position])
        return self.grid.values(self.grid.codes(column[:, None], scale, self.spec), scale)[:, 0]


def sweep(weight: Tensor, factor: Tensor, columns: Columns) -> Tensor:
    """The quantized values of a weight [N, D] whose columns are in order already. `factor` is U [D, D]."""
    left = weight.clone()
    result = torch.empty_like(left)
    width = left.shape[1]
    block = BLOCK if not columns.dynamic else columns.size * max(1, BLOCK // columns.size)  # a block holds whole groups
    for start in range(0, width, block):
        stop = min(start + block, width)
        part = left[:, start:stop].T.contiguous()          # columns as rows: a column's numbers lie side by side in memory
        errors = torch.empty_like(part)
        inner = factor[start:stop, start:stop]
        for i in range(stop - start):
            if columns.begins_group(start + i):
                columns.enter_group(part[i:i + columns.size].T)
            rounded = columns.round(part[i], start + i)
            errors[i] = (part[i] - rounded) / inner[i, i]
            part[i + 1:].addr_(inner[i, i + 1:], errors[i], alpha=-1)
            result[:, start + i] = rounded
        left[:, stop:] -= errors.T @ factor[start:stop, stop:]
    return result
