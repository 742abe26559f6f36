"""GPTQ: each linear is rounded column by column, the columns left making up for the error (numerics.gptq has the mathematics).

    {q, k, v} -> {o} -> {gate, up} -> {down}

Each stage's inputs are collected anew from the block as it is by then: fed with what the blocks before it produce as they are deployed, its earlier
linears quantized already, its own activations in float. (QuaRot, arXiv 2404.00456, leaves activations in float in the blocks before as well, until
all weights are done; here the weights of later blocks answer to the rounded activations that they will get.) Rotations are in force, so the Hessian
of the down projection sees turned inputs. Reference: arXiv 2210.17323. An expert's Hessian counts only the tokens that the router sends to it.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from rotviz.config import setting
from rotviz.numerics.gptq import GPTQResult, gptq
from rotviz.quantizers import QUANTIZERS, BlockResult, BlockTask, Progress, quantize_parts
from rotviz.quantizers.block import runnable, second_moments, stages
from rotviz.types import QuantSpec


@QUANTIZERS.register("gptq")
@dataclass(frozen=True, slots=True)
class GPTQ:
    """Rounds with compensation from the inputs' second moments."""

    summary: ClassVar[str] = "Round column by column and let the columns that are left make up for the error (Hessian GPTQ)."
    calibrated: ClassVar[bool] = True

    damping: float = setting(0.01, "share of the mean diagonal that is added to the Hessian; ten times as much until it can be factorized", minimum=0)
    act_order: bool = setting(False, "columns with the largest inputs first; groups then take their scales from the original weight")
    static_groups: bool = setting(False, "every group's scale from the original weight, not from the compensated one")

    def refusal(self, spec: QuantSpec) -> str | None:
        return None

    def quantize_block(self, task: BlockTask) -> Generator[Progress, None, BlockResult]:
        view = runnable(task, quantized=False)
        tensors: dict[str, Tensor] = {}
        notes: list[str] = []
        metrics: dict[str, float] = {}
        plan = stages(view)
        for done, paths in enumerate(plan):
            hessians = second_moments(task, view, paths)
            for path in paths:
                task.stop_if_cancelled()
                module = view.block.get_submodule(path)
                results: list[GPTQResult] = []
                weight = self._quantize(task, path, module.weight.data, hessians[path], results)
                module.weight = nn.Parameter(weight, requires_grad=False)
                tensors[f"{path}.weight"] = weight.to(task.view.block.get_submodule(path).weight.dtype)
                notes += _notes(path, results, self.damping)
                metrics |= _metrics(path, results)
            yield Progress((done + 1) / len(plan), f"quantized {', '.join(sorted({p.rsplit('.', 1)[-1] for p in paths}))}")
        return BlockResult(tensors, tuple(notes), metrics)

    def _quantize(self, task: BlockTask, path: str, weight: Tensor, hessian: Tensor, results: list[GPTQResult]) -> Tensor:
        def one(rows: Tensor, spec: QuantSpec) -> Tensor:
            results.append(gptq(rows, hessian, spec, damping=self.damping, act_order=self.act_order, static_groups=self.static_groups))
            return results[-1].weight

        return quantize_parts(weight, task.parts(path, len(weight)), one)


def _notes(path: str, results: list[GPTQResult], damping: float) -> list[str]:
    found = []
    if any(r.damping > damping for r in results):
        found.append(f"{path}: the Hessian took a damping of {max(r.damping for r in results):g}")
    dead = max((r.dead for r in results), default=0)
    if dead:
        found.append(f"{path}: {dead} inputs are always zero on the calibration text")
    return found


def _metrics(path: str, results: list[GPTQResult]) -> dict[str, float]:
    """The layer's objective against plain rounding's, and the share of output channels that kept their rounded values."""
    rounded = sum(r.rounded_objective for r in results)
    objective = sum(r.objective for r in results)
    rows = sum(len(r.weight) for r in results)
    return {f"{path}.objective": objective / rounded if rounded else 1.0,
            f"{path}.fallback": sum(r.fallback_rows for r in results) / max(1, rows)}
