"""Linear layers of a deployed model: weights that stay packed, inputs that are turned and quantized on the way in.

    x  --R4?-->  --quantize?-->  codes or numbers  --product with packed weights-->  y (+ bias)

What is multiplied follows from how both sides are quantized:

    product        activations                  weights                                     operation
    integer        a scale a token              symmetric, a scale a channel, as many        integer_matmul: int32 sums, two scales
                                                bits to a code
    weight only    float; or quantized some     any integer grid                             weight_only_matmul; quantized activations are
                   other way, and read back                                                  read back first: the same numbers
    float          quantized, and read back     float                                        torch's

Linears that read the same tensor (q, k, v; gate, up) share one LinearInput, so it is turned and quantized once.
"""

from torch import Tensor, nn

from rotviz.kernels.integer_matmul import channel_sums, integer_matmul
from rotviz.kernels.online import OnlineRotation
from rotviz.kernels.packed import Packed, two_a_byte
from rotviz.kernels.quantize import dequantize, fake_quantize, quantize
from rotviz.kernels.weight_only_matmul import weight_only_matmul
from rotviz.models.shared_input import OfLatest
from rotviz.numerics.rotation import Rotation
from rotviz.types import QuantSpec


class LinearInput:
    """What happens to a tensor before the linears that read it.

    Args:
        spec: how it is quantized; 16 bits = not at all.
        rotation: R4, which turns it first, or None.
    """

    def __init__(self, spec: QuantSpec, rotation: Rotation | None = None) -> None:
        self.spec = spec
        self.rotation = None if rotation is None else OnlineRotation(rotation)
        self._codes, self._numbers = OfLatest(), OfLatest()

    @property
    def acts(self) -> bool:
        """Whether anything happens at all."""
        return self.spec.quantizes or self.rotation is not None

    def codes(self, x: Tensor) -> Packed:
        """x [..., D], turned and quantized."""
        return self._codes.of(x, self._quantized)

    def numbers(self, x: Tensor) -> Tensor:
        """x turned, quantized and read back; whichever of these there is."""
        return self._numbers.of(x, self._rounded)

    def _quantized(self, x: Tensor) -> Packed:
        return quantize(x, self.spec) if self.rotation is None else self.rotation.quantized(x, self.spec)

    def _rounded(self, x: Tensor) -> Tensor:
        if self.rotation is None:
            return fake_quantize(x, self.spec)
        return dequantize(self.codes(x)) if self.spec.quantizes else self.rotation.apply(x)


class PackedLinear(nn.Module):
    """y = x W^T + b with W [N, D] packed.

    Args:
        weight: the packed weight.
        bias: [N] or None.
        source: what happens to x.
    """

    def __init__(self, weight: Packed, bias: Tensor | None, source: LinearInput) -> None:
        super().__init__()
        self.spec, self.in_features, self.out_features = weight.spec, weight.width, weight.data.shape[0]
        self.source = source
        self.register_buffer("data", weight.data)
        self.register_buffer("step", weight.step)
        self.register_buffer("zero", weight.zero)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.multiplies_integers = integers_suffice(source.spec, weight)
        wants_sums = self.multiplies_integers and not source.spec.symmetric
        self.register_buffer("sums", channel_sums(weight) if wants_sums and not weight.data.is_meta else None, persistent=False)

    @property
    def packed(self) -> Packed:
        """The weight."""
        return Packed(self.data, self.step, self.zero, self.spec, self.in_features, self.step.dtype)

    @property
    def product(self) -> str:
        """Which product it is."""
        return "integer" if self.multiplies_integers else "weight only"

    def forward(self, x: Tensor) -> Tensor:
        if self.multiplies_integers:
            y = integer_matmul(self.source.codes(x), self.packed, self.sums)
        else:
            y = weight_only_matmul(self.source.numbers(x), self.packed)
        return y if self.bias is None else y + self.bias

    def find_sums(self) -> None:
        """Add up the codes of each channel again: after they were loaded."""
        if self.multiplies_integers and not self.source.spec.symmetric:
            self.sums = channel_sums(self.packed)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, {self.spec.bits} bits, {self.product} product"

    def _apply(self, fn, recurse: bool = True):
        """Steps and zeros move with the module but stay in float32: rounding them to 16 bits would move every weight."""
        kept = {name: getattr(self, name) for name in ("step", "zero") if getattr(self, name) is not None}
        super()._apply(fn, recurse)
        for name, buffer in kept.items():
            setattr(self, name, buffer.to(self.data.device))
        return self


class RoundedLinear(nn.Module):
    """y = x W^T + b with W in float and x turned or quantized: where a recipe leaves the weights alone."""

    def __init__(self, linear: nn.Linear, source: LinearInput) -> None:
        super().__init__()
        self.weight, self.bias, self.source = linear.weight, linear.bias, source

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.source.numbers(x), self.weight, self.bias)


def integers_suffice(activations: QuantSpec, weight: Packed) -> bool:
    """Whether integer_matmul has the product: a scale a token, a scale a channel, symmetric weights, codes of one width."""
    return (activations.quantizes and activations.number_format == "int" and activations.group == 0 and weight.spec.symmetric
            and weight.groups == 1 and two_a_byte(activations) == weight.two_a_byte)
