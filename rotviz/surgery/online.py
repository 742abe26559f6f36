"""Rounding while the model runs: activations before their linears, keys and values in the cache.

A linear's input is rounded for every token on its own (dynamic scales). Linears that read the same tensor (q, k, v; gate, up) share one
rounding. R4 turns the input first, because its hook is registered first; R3 likewise for keys. On a GPU a kernel rounds, to the same bits.

A meter, where one is given, sees each tensor before and after rounding.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from torch import Tensor, nn

from rotviz.kernels.quantize import fake_quantize
from rotviz.models.attention import add_edit
from rotviz.models.family import BlockView
from rotviz.models.shared_input import OfLatest
from rotviz.types import SITE_OF_ROLE, Granularity, QuantSpec, Site

Meter = Callable[[Site, Tensor, Tensor], None]
"""Called with the site, the tensor [..., D] before rounding and after it."""
Rounding = Callable[[Tensor, QuantSpec], Tensor]
"""How a tensor is rounded: `fake_quantize`, or `straight_through` where something learns through it."""


def straight_through(x: Tensor, spec: QuantSpec) -> Tensor:
    """x rounded, with the gradient of x itself: what rounding adds counts as a constant."""
    return x + (fake_quantize(x.detach(), spec) - x.detach())


class InputQuantizer:
    """Rounds the input of the linears of one site; a forward pre-hook.

    Args:
        site: the name to report under.
        spec: how to round.
        meter: sees what was rounded, or None.
        rounding: how.
    """

    def __init__(self, site: Site, spec: QuantSpec, meter: Meter | None, rounding: Rounding = fake_quantize) -> None:
        self.site, self.spec, self.meter, self.rounding = site, spec, meter, rounding
        self._rounded = OfLatest()

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (self._rounded.of(inputs[0], self._round),)

    def _round(self, x: Tensor) -> Tensor:
        rounded = self.rounding(x, self.spec)
        if self.meter:
            self.meter(self.site, x, rounded)
        return rounded


def quantize_activations(view: BlockView, spec: QuantSpec, meter: Meter | None = None, rounding: Rounding = fake_quantize,
                         at: Mapping[Site, Rounding] = MappingProxyType({}), bits: Mapping[str, int] = MappingProxyType({})) -> None:
    """Round the inputs of a block's quantized linears from now on. The block must belong to the caller.

    Args:
        at: sites that are rounded in their own way.
        bits: of the inputs of single linears, by path in the block, where they differ from the spec's; 16 = left in float.
    """
    paths = {module: path for path, module in view.block.named_modules()}
    quantizers: dict[tuple[Site, int], InputQuantizer] = {}
    for module, roles in view.quantized_modules().items():
        site, own = SITE_OF_ROLE[roles[0]], replace(spec, bits=bits.get(paths[module], spec.bits))
        if own.quantizes:
            quantizer = quantizers.setdefault((site, own.bits), InputQuantizer(site, own, meter, at.get(site, rounding)))
            module.register_forward_pre_hook(quantizer)


def quantize_cache(view: BlockView, spec: QuantSpec, meter: Meter | None = None, rounding: Rounding = fake_quantize,
                   at: Mapping[Site, Rounding] = MappingProxyType({})) -> None:
    """Round keys (after RoPE and R3) and values of a block from now on, each head of each token on its own; sites in `at` in their own way."""
    if not spec.quantizes:
        return
    spec = replace(spec, granularity=Granularity.HEAD)
    spec.group_for(view.heads.width)

    def edit(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rounded = at.get(Site.KEY, rounding)(key, spec), at.get(Site.VALUE, rounding)(value, spec)
        if meter:
            meter(Site.KEY, by_token(key), by_token(rounded[0]))
            meter(Site.VALUE, by_token(value), by_token(rounded[1]))
        return query, *rounded

    add_edit(view.attention, edit)


def by_token(heads: Tensor) -> Tensor:
    """[B, H, T, K] -> [B, T, H K]: the heads of a token side by side."""
    return heads.transpose(1, 2).flatten(2)
