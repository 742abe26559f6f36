"""Experts as plain linear layers.

transformers keeps the experts of a mixture as two 3-D tensors, gate_up_proj [E, 2F, D] and down_proj [E, D, F]. Quantizers, rotations and taps
work on linear layers, so this module replaces them by one Linear each. The function is the same:

    y_t = sum over the chosen experts e of  p_te * down_e( act(gate_e x_t) * up_e x_t )

`rows` sees each expert's input of the down projection with the tokens it belongs to, for capture.
"""

import torch
from torch import Tensor, nn


class RoutedRows(nn.Module):
    """Passes rows [R, F] through; a hook on it sees them with the index [R] of the token each belongs to."""

    def forward(self, rows: Tensor, tokens: Tensor) -> Tensor:
        return rows


class Expert(nn.Module):
    """One expert: down(act(gate x) * up x)."""

    def __init__(self, gate_up: Tensor, down: Tensor, activation: nn.Module) -> None:
        super().__init__()
        gate, up = gate_up.chunk(2)
        self.gate_proj, self.up_proj, self.down_proj = (_linear(w) for w in (gate, up, down))
        self.activation = activation

    def forward(self, x: Tensor, tokens: Tensor, rows: RoutedRows) -> Tensor:
        return self.down_proj(rows(self.activation(self.gate_proj(x)) * self.up_proj(x), tokens))


class LinearExperts(nn.Module):
    """The experts of one block as a list of linears; called as transformers calls its own."""

    def __init__(self, stored: nn.Module) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            Expert(gate_up, down, stored.act_fn) for gate_up, down in zip(stored.gate_up_proj.data, stored.down_proj.data)
        )
        self.rows = RoutedRows()

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """hidden [T, D], chosen experts [T, k], their weights [T, k] -> [T, D]."""
        result = torch.zeros_like(hidden)
        for index, expert in enumerate(self.experts):
            tokens, place = torch.where(chosen == index)
            if len(tokens):
                y = expert(hidden[tokens], tokens, self.rows) * weights[tokens, place, None]
                result.index_add_(0, tokens, y.to(result.dtype))
        return result


def _linear(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.clone(), requires_grad=False)
    return linear
