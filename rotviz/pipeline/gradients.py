"""Gradients without weight gradients: what linears read and what the loss's gradient is at their outputs, while a float model goes forward and back.

A weight's gradient is the sum of g_t x_t^T over the tokens; who has x and g can form it, its square token by token, or anything else, and autograd
need not keep a matrix beside every weight. The graph begins at the first block, so that no embedding and no weight is in it.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Add = Callable[[Tensor, Tensor], None]
"""Takes what entered a linear [T, D] and the gradient at its output [T, N]."""


def begin_graph(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """A forward pre-hook (with keywords) of the first block: its hidden states start the graph."""
    if args:
        return (args[0].detach().requires_grad_(True), *args[1:]), kwargs
    return args, kwargs | {"hidden_states": kwargs["hidden_states"].detach().requires_grad_(True)}


def at_output(add: Add) -> Callable:
    """A forward hook of a linear that hands both to `add` when the loss goes back through it."""
    def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            x = args[0].detach().flatten(0, -2)
            output.register_hook(lambda gradient: add(x, gradient.detach().flatten(0, -2)))

    return hook
