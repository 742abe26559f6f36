"""R1 and R2 as parameters: a model whose roundings are functions of the rotations, for methods that learn end to end.

In float a rotation changes nothing, so all that it does is done by what rounding adds. Turned back to the model's own basis, a rounding under R is

    Q_R(x) = Q(x R) R^T = x + c R^T,    c = Q(x R) - x R

and straight through means that c is a constant: the gradient passes x unchanged and reaches R through c R^T alone. The same holds for a weight with a
rotation on either side, W + L c R^T. So nothing is rotated here at all: blocks are rewritten once without R1 and R2 (folded, R3 and R4 in place),
residual stream and heads stay in their own basis, and the inputs of the readers, the heads' outputs, the cached values and, where weights
are quantized, the weights are rounded by Q_R. Where they stay in float, their products need no gradient of the weights.

Along the orthogonal group this gradient is that of the model with turned weights (tests keep one as the slow twin); off it the two differ, which a
step on the group never sees.

Blocks are recomputed in the backward pass, so that one block's graph is in memory at a time.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from rotviz.kernels.quantize import fake_quantize
from rotviz.models.family import BlockView
from rotviz.models.walk import BlockArguments, BlockSource, Ends
from rotviz.surgery.online import quantize_activations, quantize_cache, straight_through
from rotviz.surgery.plan import RotationPlan
from rotviz.surgery.steps import rewrite_block, rewrite_ends, steps_for
from rotviz.types import QuantSpec, Role, Site


class RotatedModel:
    """A model as a function of (R1, R2s).

    Args:
        source: the float model.
        plan: which slots act, and R3 and R4.
        weights, activations, kv: how they are rounded.
    """

    def __init__(self, source: BlockSource, plan: RotationPlan, weights: QuantSpec, activations: QuantSpec, kv: QuantSpec) -> None:
        self.weights, self.specs = weights, (activations, kv)
        steps = [step for step in steps_for(plan, source.family) if step.name not in ("R1", "R2")]
        self.ends: Ends = rewrite_ends(source.ends, steps)
        self._blocks = [self._prepared(rewrite_block(source.owned(index), steps)) for index in range(len(source))]

    def embed(self, tokens: Tensor) -> tuple[Tensor, list[BlockArguments]]:
        """Hidden states [B, T, D] before the first block, and the blocks' arguments."""
        entry = self.ends.entry(tokens)
        return entry.hidden, entry.arguments

    def logits(self, tokens: Tensor, r1: Tensor | None, r2: Tensor | None) -> Tensor:
        """Logits [B, T, V]; differentiable in r1 [D, D] and r2 [blocks, K, K] (one for all heads of a block), both orthogonal."""
        hidden, arguments = self.embed(tokens)
        for index, block in enumerate(self._blocks):
            turn = r2[index] if r2 is not None else None
            hidden = checkpoint(self._forward, block, hidden, r1, turn, arguments[index], use_reentrant=False, preserve_rng_state=False)
        return self.ends.logits(hidden)

    def _prepared(self, view: BlockView) -> "_Block":
        view.block.requires_grad_(False)
        turns = _Turns()
        at = {Site.ATTN_IN: turns.residual, Site.MLP_IN: turns.residual, Site.O_IN: turns.heads, Site.VALUE: turns.heads}
        quantize_activations(view, self.specs[0], rounding=straight_through, at=at)
        quantize_cache(view, self.specs[1], rounding=straight_through, at=at)
        return _Block(view, turns, _turned_weights(view) if self.weights.quantizes else {})

    def _forward(self, block: "_Block", hidden: Tensor, r1: Tensor | None, r2: Tensor | None, arguments: BlockArguments) -> Tensor:
        block.turns.r1, block.turns.r2 = r1, r2
        rounded = {name: weight.rounded(self.weights, block.turns) for name, weight in block.weights.items()}
        output = functional_call(block.view.block, rounded, (hidden,), arguments)
        return output[0] if isinstance(output, tuple) else output


@dataclass
class _Turns:
    """The rotations of the forward pass that is running; what a block's hooks round by."""

    r1: Tensor | None = None
    r2: Tensor | None = None

    def residual(self, x: Tensor, spec: QuantSpec) -> Tensor:
        """Q_R1 of what the readers of the residual stream read, [..., D]."""
        return rounded_under(x, spec, self.r1)

    def heads(self, x: Tensor, spec: QuantSpec) -> Tensor:
        """Q_R2 of heads side by side, [..., H K]: one R2 for each of them."""
        return rounded_under(x, spec, self.r2)


@dataclass(frozen=True)
class _Weight:
    """A quantized weight [out, in] and the rotations on its sides ("r1", "r2" or none); on the left it may turn some `rows` only."""

    module: nn.Module
    left: str | None = None
    right: str | None = None
    rows: slice | None = None

    def rounded(self, spec: QuantSpec, turns: _Turns) -> Tensor:
        """W + L c R^T."""
        left, right = (getattr(turns, side) if side else None for side in (self.left, self.right))
        with torch.no_grad():
            turned = self._sided(self.module.weight, left, right)
            added = fake_quantize(turned, spec) - turned
        return self.module.weight + self._sided(added, None if left is None else left.T, None if right is None else right.T)

    def _sided(self, weight: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
        """L^T W R."""
        weight = weight if right is None else turned_by(weight, right)
        if left is None:
            return weight
        first, last, _ = (self.rows or slice(None)).indices(len(weight))
        return torch.cat([weight[:first], turned_by(weight[first:last].T, left).T, weight[last:]])


@dataclass(frozen=True)
class _Block:
    """A block without R1 and R2, the rotations in force, and its quantized weights by parameter name."""

    view: BlockView
    turns: _Turns
    weights: dict[str, _Weight]


def turned_by(x: Tensor, rotation: Tensor) -> Tensor:
    """x [..., m n] times a rotation [n, n], each stretch of n channels on its own; in the wider of the two dtypes, and back in that of x."""
    wider = torch.promote_types(x.dtype, rotation.dtype)
    return (x.to(wider).unflatten(-1, (-1, len(rotation))) @ rotation.to(wider)).flatten(-2).to(x.dtype)


def rounded_under(x: Tensor, spec: QuantSpec, rotation: Tensor | None) -> Tensor:
    """Q(x R) R^T, straight through: x + c R^T with c = Q(x R) - x R held fixed. `x` [..., m n], the rotation [n, n] orthogonal, or None."""
    if rotation is None:
        return straight_through(x, spec)
    with torch.no_grad():
        turned = turned_by(x, rotation)
        added = fake_quantize(turned, spec) - turned
    return x + turned_by(added, rotation.T)


def _turned_weights(view: BlockView) -> dict[str, _Weight]:
    """A block's quantized weights by parameter name, with the rotations that act on them."""
    names, family = {module: name for name, module in view.block.named_modules()}, view.family
    readers = {reader.module for reader in view.attention_readers() + view.mlp_readers()}
    value, output = view.linear(Role.V), view.linear(Role.O)
    # a writer whose output is normalized before it joins the residual stream (Gemma) keeps its basis: R1 turns that norm's output, online
    writers = (set() if family.post_attn_norm else {output.module}) | (set() if family.post_mlp_norm else {m.down.module for m in view.mlps})
    found = {}
    for module in view.quantized_modules():
        left = "r2" if module is value.module else "r1" if module in writers else None
        right = "r2" if module is output.module else "r1" if module in readers else None
        found[f"{names[module]}.weight"] = _Weight(module, left, right, value.rows if left == "r2" else None)
    return found
