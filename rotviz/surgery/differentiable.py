"""R1 and R2 as parameters: a model whose rotated, rounded weights are functions of the rotations, for methods that learn end to end.

Each block is rewritten once without R1 and R2 (folded, R3 and R4 in place, activations and cache rounded straight through). On every forward its
weights are made anew from the rotations that are given,

    readers  W R1        writers  R1^T W        values  R2^T W, output columns  W R2

rounded straight through where weights are quantized, and put in the place of the module's own for that call (torch.func.functional_call). Blocks
are recomputed in the backward pass, so that one block's graph is in memory at a time. The head is not quantized: instead of its weight, the
hidden state is turned back.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from rotviz.errors import BadInput
from rotviz.models.family import BlockView
from rotviz.models.walk import BlockArguments, BlockSource, Ends
from rotviz.surgery.online import quantize_activations, quantize_cache, straight_through
from rotviz.surgery.plan import RotationPlan
from rotviz.surgery.steps import rewrite_block, rewrite_ends, steps_for
from rotviz.types import QuantSpec, Role


@dataclass(frozen=True)
class _Block:
    """A block without R1 and R2, and where its weights turn."""

    view: BlockView
    names: dict[nn.Module, str]
    readers: tuple[nn.Module, ...]
    writers: tuple[nn.Module, ...]


class RotatedModel:
    """A model as a function of (R1, R2s).

    Args:
        source: the float model.
        plan: which slots act, and R3 and R4.
        weights, activations, kv: how they are rounded.

    Raises:
        BadInput: the family normalizes what it adds to the residual stream (Gemma 2 and 3): R1 is online there, twice a block.
    """

    def __init__(self, source: BlockSource, plan: RotationPlan, weights: QuantSpec, activations: QuantSpec, kv: QuantSpec) -> None:
        family = source.family
        if plan.r1 is not None and (family.post_attn_norm or family.post_mlp_norm):
            raise BadInput("spinquant cannot learn R1 of a model that normalizes each sublayer's output (Gemma); use dartquant or dfrot, "
                           "or leave R1 out of rotation.slots")
        self.plan, self.weights, self.specs = plan, weights, (activations, kv)
        steps = [step for step in steps_for(plan, family) if step.name not in ("R1", "R2")]
        self.ends: Ends = rewrite_ends(source.ends, steps)
        self._blocks = [self._prepared(rewrite_block(source.owned(index), steps)) for index in range(len(source))]

    def embed(self, tokens: Tensor) -> tuple[Tensor, list[BlockArguments]]:
        """Hidden states [B, T, D] before the first block, not yet turned, and the blocks' arguments."""
        entry = self.ends.entry(tokens)
        return entry.hidden, entry.arguments

    def logits(self, tokens: Tensor, r1: Tensor | None, r2: Tensor | None) -> Tensor:
        """Logits [B, T, V]; differentiable in r1 [D, D] and r2 [blocks, K, K] (one for all heads of a block)."""
        hidden, arguments = self.embed(tokens)
        hidden = hidden if r1 is None else hidden @ r1
        for index, block in enumerate(self._blocks):
            turn = r2[index] if r2 is not None else None
            hidden = checkpoint(self._forward, block, hidden, r1, turn, arguments[index], use_reentrant=False, preserve_rng_state=False)
        return self.ends.logits(hidden if r1 is None else hidden @ r1.T)

    def _prepared(self, view: BlockView) -> _Block:
        quantize_activations(view, self.specs[0], rounding=straight_through)
        quantize_cache(view, self.specs[1], rounding=straight_through)
        view.block.requires_grad_(False)
        names = {module: name for name, module in view.block.named_modules()}
        readers = dict.fromkeys(reader.module for reader in view.attention_readers() + view.mlp_readers())
        return _Block(view, names, tuple(readers), tuple(dict.fromkeys(writer.module for writer in view.writers())))

    def _forward(self, block: _Block, hidden: Tensor, r1: Tensor | None, r2: Tensor | None, arguments: BlockArguments) -> Tensor:
        weights, biases = self._turned(block, r1, r2)
        for module in block.view.quantized_modules() if self.weights.quantizes else ():
            weights[module] = straight_through(weights.get(module, module.weight), self.weights)
        made = {f"{block.names[m]}.weight": w for m, w in weights.items()} | {f"{block.names[m]}.bias": b for m, b in biases.items()}
        output = functional_call(block.view.block, made, (hidden,), arguments)
        return output[0] if isinstance(output, tuple) else output

    def _turned(self, block: _Block, r1: Tensor | None, r2: Tensor | None) -> tuple[dict[nn.Module, Tensor], dict[nn.Module, Tensor]]:
        weights: dict[nn.Module, Tensor] = {}
        biases: dict[nn.Module, Tensor] = {}
        if r1 is not None:
            for module in block.readers:
                weights[module] = module.weight @ r1
            for module in block.writers:
                weights[module] = r1.T @ module.weight
                if getattr(module, "bias", None) is not None:
                    biases[module] = module.bias @ r1
        if r2 is not None:
            self._turn_heads(block.view, r2, weights, biases)
        return weights, biases

    def _turn_heads(self, view: BlockView, r2: Tensor, weights: dict[nn.Module, Tensor], biases: dict[nn.Module, Tensor]) -> None:
        value, output, width = view.linear(Role.V), view.linear(Role.O), view.heads.width
        whole = weights.get(value.module, value.module.weight)
        first, last, _ = value.rows.indices(len(whole))
        rows = r2.T @ whole[first:last].unflatten(0, (-1, width))
        weights[value.module] = torch.cat([whole[:first], rows.flatten(0, 1), whole[last:]])
        if getattr(value.module, "bias", None) is not None:
            bias = value.module.bias
            biases[value.module] = torch.cat([bias[:first], (bias[first:last].unflatten(0, (-1, width)) @ r2).flatten(), bias[last:]])
        columns = weights.get(output.module, output.module.weight).unflatten(1, (-1, width))
        weights[output.module] = (columns @ r2).flatten(1)
