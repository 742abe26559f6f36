"""Taps: see what passes a block's sites during one forward, leave no trace.

    with tapped(view) as seen:
        forward(view.block, hidden, arguments)
    seen[Site.DOWN_IN]          # [T, F]

Sites are read at the output of the norms (attn_in, mlp_in), before the output and down projections (o_in, down_in) and inside the attention
function (key after RoPE, value). In a mixture the down projection's input is one row for each (token, chosen expert); `tokens_of_rows` says
whose. A shared expert has a width of its own and is left out.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from rotviz.models.attention import edited
from rotviz.models.experts import LinearExperts
from rotviz.models.family import BlockView
from rotviz.types import Role, Site


@dataclass
class Seen:
    """What the taps saw: site -> rows [T, width]."""

    rows: dict[Site, Tensor] = field(default_factory=dict)
    tokens_of_rows: Tensor | None = None

    def __getitem__(self, site: Site) -> Tensor:
        return self.rows[site]


@contextmanager
def tapped(view: BlockView) -> Iterator[Seen]:
    """Record the block's sites on the next forward of one sequence."""
    seen = Seen()
    with ExitStack() as stack:
        for module, is_output, site in _places(view):
            handle = module.register_forward_hook(_on_output(seen, site)) if is_output else module.register_forward_pre_hook(_on_input(seen, site))
            stack.callback(handle.remove)
        stack.enter_context(_tap_down(view, seen))
        stack.enter_context(edited(view.attention, _on_attention(seen)))
        yield seen


def _places(view: BlockView) -> list[tuple[nn.Module, bool, Site]]:
    return [
        (view.norm(view.family.attn_norm), True, Site.ATTN_IN), (view.norm(view.family.mlp_norm), True, Site.MLP_IN),
        (view.linear(Role.O).module, False, Site.O_IN), (view.block, True, Site.RESID),
    ]


@contextmanager
def _tap_down(view: BlockView, seen: Seen) -> Iterator[None]:
    experts = next((m for m in view.block.modules() if isinstance(m, LinearExperts)), None)
    if experts is None:
        handle = view.mlps[0].down.module.register_forward_pre_hook(_on_input(seen, Site.DOWN_IN))
    else:
        handle = experts.rows.register_forward_hook(_on_routed(seen))
    try:
        yield
    finally:
        handle.remove()


def _rows(x: Tensor) -> Tensor:
    return x.detach().reshape(-1, x.shape[-1])


def _on_output(seen: Seen, site: Site) -> Callable:
    def hook(_: nn.Module, __: tuple, output: Tensor | tuple[Tensor, ...]) -> None:
        seen.rows[site] = _rows(output[0] if isinstance(output, tuple) else output)

    return hook


def _on_input(seen: Seen, site: Site) -> Callable:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.rows[site] = _rows(inputs[0])

    return hook


def _on_routed(seen: Seen) -> Callable:
    def hook(_: nn.Module, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        before = seen.rows.get(Site.DOWN_IN)
        seen.rows[Site.DOWN_IN] = output.detach() if before is None else torch.cat([before, output.detach()])
        seen.tokens_of_rows = inputs[1] if seen.tokens_of_rows is None else torch.cat([seen.tokens_of_rows, inputs[1]])

    return hook


def _on_attention(seen: Seen) -> Callable:
    def edit(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen.rows[Site.KEY] = _rows(key.transpose(1, 2).flatten(2))
        seen.rows[Site.VALUE] = _rows(value.transpose(1, 2).flatten(2))
        return query, key, value

    return edit
