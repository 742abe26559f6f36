"""The slow twin of surgery.differentiable: every weight is turned by R1 and R2 and rounded anew, and autograd goes through the products.

    readers  W R1        writers  R1^T W        values  R2^T W, output columns  W R2        hidden states  h R1
"""

import torch
from torch.func import functional_call

from rotviz.surgery.online import quantize_activations, quantize_cache, straight_through
from rotviz.surgery.steps import rewrite_block, rewrite_ends, steps_for
from rotviz.types import Role


class TurnedWeights:
    """A model as a function of (R1, R2s), for families whose sublayers write to the residual stream without a norm between."""

    def __init__(self, source, plan, weights, activations, kv):
        self.weights = weights
        steps = [step for step in steps_for(plan, source.family) if step.name not in ("R1", "R2")]
        self.ends = rewrite_ends(source.ends, steps)
        self.views = [rewrite_block(source.owned(index), steps) for index in range(len(source))]
        for view in self.views:
            quantize_activations(view, activations, rounding=straight_through)
            quantize_cache(view, kv, rounding=straight_through)
            view.block.requires_grad_(False)

    def logits(self, tokens, r1, r2):
        entry = self.ends.entry(tokens)
        hidden = entry.hidden @ r1
        for view, turn, arguments in zip(self.views, r2, entry.arguments):
            output = functional_call(view.block, self._made(view, r1, turn), (hidden,), arguments)
            hidden = output[0] if isinstance(output, tuple) else output
        return self.ends.logits(hidden @ r1.T)

    def _made(self, view, r1, r2):
        weights, biases = {}, {}
        for reader in view.attention_readers() + view.mlp_readers():
            weights[reader.module] = reader.module.weight @ r1
        for module in dict.fromkeys(writer.module for writer in view.writers()):
            weights[module] = r1.T @ module.weight
            if getattr(module, "bias", None) is not None:
                biases[module] = module.bias @ r1
        self._turn_heads(view, r2, weights, biases)
        for module in view.quantized_modules() if self.weights.quantizes else ():
            weights[module] = straight_through(weights[module], self.weights)
        names = {module: name for name, module in view.block.named_modules()}
        return {f"{names[m]}.weight": w for m, w in weights.items()} | {f"{names[m]}.bias": b for m, b in biases.items()}

    @staticmethod
    def _turn_heads(view, r2, weights, biases):
        value, output, width = view.linear(Role.V), view.linear(Role.O), view.heads.width
        whole = weights[value.module]
        first, last, _ = value.rows.indices(len(whole))
        rows = r2.T @ whole[first:last].unflatten(0, (-1, width))
        weights[value.module] = torch.cat([whole[:first], rows.flatten(0, 1), whole[last:]])
        if getattr(value.module, "bias", None) is not None:
            bias = value.module.bias
            biases[value.module] = torch.cat([bias[:first], (bias[first:last].unflatten(0, (-1, width)) @ r2).flatten(), bias[last:]])
        weights[output.module] = (weights[output.module].unflatten(1, (-1, width)) @ r2).flatten(1)
