"""Weight quantizers, one file each: from a float weight to a quantized one, given what calibration saw.

A quantizer is a frozen configuration; its name in the registry is its name in the recipe. There are two kinds:

    data-free     quantize(weight, spec) -> QuantizedWeight          one weight at a time (rtn, none)
    calibrated    quantize_block(task) -> events ... BlockResult     one block at a time, from what runs through it (`calibrated = True`)

A calibrated quantizer is given the block as it is to be deployed except for its rounding: gains folded, rotations fused, the online ones in force. It
changes nothing that it is given (it works on `copy_block(task.view)` or with torch.func.functional_call) and returns tensors by their path in the
block, for weights and for whatever else it moved (a norm's gain, a bias). Its randomness comes from the task's generator.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from rotviz.models.family import BlockView
from rotviz.registry import Registry
from rotviz.types import FLOAT_BITS, QuantSpec


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """What a data-free quantizer returns.

    weight: the quantized values [N, D] in the original's dtype (fake quantization); notes: compromises that a reader should know of.
    """

    weight: Tensor
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a block is: a share of one, a few words, and numbers for a live chart."""

    fraction: float
    message: str
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BlockResult:
    """What a calibrated quantizer made of a block.

    tensors: replacements by path within the block ("self_attn.q_proj.weight", "input_layernorm.weight"); every quantized weight is among them.
    metrics: plain numbers for the pages: losses before and after, flips, clips, exponents, some under the path of a linear.
    weight_errors: relative MSE of a weight by the linear's path, where what was rounded is not the block's own weight (it was scaled first).
    """

    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    weight_errors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class BlockTask:
    """One block to quantize, and what is known of it.

    Args:
        view: the rewritten block, still in float; not to be changed.
        spec: how its weights are quantized.
        inputs: [N, L, D], the calibration windows' hidden states as the quantized blocks before this one produce them.
        float_inputs: [N, L, D], as the float model produces them, in the same basis.
        arguments: block keyword arguments for so many windows.
        activations, kv: how activations and KV cache will be rounded when the model is evaluated.
        generator: every random choice comes from it.
        stop_if_cancelled: raises Cancelled when the user asked to stop; to be called often.
        bits: of single linears, by module path: a number, or one for each output channel [N] (mixed precision); the others take the spec's.
        input_bits: of the inputs of single linears, by module path, where they differ from `activations`.
        fisher: [D, D], the second moments of the gradient of the model's loss with respect to this block's output, where they are known.
        finish: hidden states [B, n, D] in the block's basis -> logits [B, n, V], by the model's final norm and head, with a gradient; where at hand.
    """

    view: BlockView
    spec: QuantSpec
    inputs: Tensor
    float_inputs: Tensor
    arguments: Callable[[int], dict[str, Any]]
    activations: QuantSpec = field(default_factory=QuantSpec)
    kv: QuantSpec = field(default_factory=QuantSpec)
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    stop_if_cancelled: Callable[[], None] = lambda: None
    bits: Mapping[str, "int | Tensor"] = field(default_factory=dict)
    fisher: Tensor | None = None
    finish: Callable[[Tensor], Tensor] | None = None
    input_bits: Mapping[str, int] = field(default_factory=dict)

    def parts(self, path: str, rows: int) -> "list[Part]":
        """The output channels of a linear by their precision."""
        return parts_of(self.spec, self.bits.get(path, self.spec.bits), rows)


@dataclass(frozen=True, slots=True)
class Part:
    """Output channels of one linear that share a spec; `rows` [n] are their indices, ascending."""

    rows: Tensor
    spec: QuantSpec


def parts_of(spec: QuantSpec, bits: "int | Tensor", rows: int) -> list[Part]:
    """A linear's output channels by bits. 16 among them means left in float."""
    if isinstance(bits, int):
        return [Part(torch.arange(rows), replace(spec, bits=bits))]
    return [Part(torch.nonzero(bits == value)[:, 0], replace(spec, bits=int(value))) for value in bits.unique().tolist()]


def quantize_parts(weight: Tensor, parts: list[Part], quantize: Callable[[Tensor, QuantSpec], Tensor]) -> Tensor:
    """A weight whose parts are quantized one by one; float parts stay."""
    result = weight.clone()
    for part in parts:
        if part.spec.bits < FLOAT_BITS:
            rows = part.rows.to(weight.device)
            result[rows] = quantize(weight[rows], part.spec)
    return result


class WeightQuantizer(Protocol):
    """What a data-free file of this folder registers."""

    summary: ClassVar[str]
    """One sentence for the docs, the form and the table of methods."""

    def quantize(self, weight: Tensor, spec: QuantSpec) -> QuantizedWeight:
        """Quantize a weight [N outputs, D inputs]; one scale for an output channel or for a group of inputs."""


class CalibratedQuantizer(Protocol):
    """What a calibrated file of this folder registers."""

    summary: ClassVar[str]
    calibrated: ClassVar[bool]

    def quantize_block(self, task: BlockTask) -> Generator[Progress, None, BlockResult]:
        """Quantize a block's linears from what runs through it."""

    def refusal(self, spec: QuantSpec) -> str | None:
        """Why this method cannot quantize to a spec, or None; asked before anything runs."""


QUANTIZERS: Registry[type[WeightQuantizer] | type[CalibratedQuantizer]] = Registry("weight quantizer", package="rotviz.quantizers")


def is_calibrated(quantizer: Any) -> bool:
    """Whether a quantizer (or its class) learns from calibration windows."""
    return bool(getattr(quantizer, "calibrated", False))
