"""A KV cache that stores codes: keys after RoPE and R3, and values, each head of each token with a step (and a zero) of its own.

    stored for one head of one token        codes, steps and zeros as bytes side by side
    uint8 [B, heads, T, bytes]              bytes = K / 2 (or K) + 4 groups (+ 4 groups when asymmetric)

New keys are turned by R3 and quantized once, when they come; what attention is given is read back from the codes, for one block at a time. So a
layer of this cache is transformers' own dynamic layer, sliding windows included, that holds rows of bytes where that one holds numbers, and
cropping, beam search and moving to another device are transformers' own. So it is with the cache of fixed length, whose steps can be replayed: it
takes its memory at once, and is read back whole.

Keys and values that did not come from here (a forward without a cache, or with another) are turned and rounded on the way into attention: the same
function. The attention edit tells the two apart by a mark on the tensor, which no operation copies.
"""

from dataclasses import replace

import torch
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    StaticCache,
    StaticLayer,
    StaticSlidingWindowLayer,
)

from rotviz.deployment.replay import Replay
from rotviz.errors import BadInput
from rotviz.kernels.online import OnlineRotation
from rotviz.kernels.packed import Packed, check_spec, code_dtype, two_a_byte
from rotviz.kernels.quantize import dequantize, quantize
from rotviz.models.attention import Edit
from rotviz.numerics.rotation import Rotation
from rotviz.types import Granularity, QuantSpec

STEP_BYTES = 4
_MARK = "comes_from_the_packed_cache"


class CacheCoder:
    """How keys and values are stored, and read back.

    Args:
        spec: how they are quantized; 16 bits = kept as they are.
        rotation: R3, which turns keys (and queries), or None.
    """

    def __init__(self, spec: QuantSpec, rotation: Rotation | None = None) -> None:
        self.spec = replace(spec, granularity=Granularity.HEAD)
        self.rotation = None if rotation is None else OnlineRotation(rotation)

    @property
    def acts(self) -> bool:
        """Whether anything differs from transformers' own cache."""
        return self.spec.quantizes or self.rotation is not None

    def stored_keys(self, keys: Tensor) -> Tensor:
        """Keys [B, H, T, K] as they are stored."""
        if not self.spec.quantizes:
            return keys if self.rotation is None else self.rotation.apply(keys)
        return to_bytes(quantize(keys, self.spec) if self.rotation is None else self.rotation.quantized(keys, self.spec))

    def stored_values(self, values: Tensor) -> Tensor:
        """Values [B, H, T, K] as they are stored."""
        return to_bytes(quantize(values, self.spec)) if self.spec.quantizes else values

    def read(self, stored: Tensor, width: int, dtype: torch.dtype) -> Tensor:
        """What was stored, as numbers [B, H, T, width]."""
        return dequantize(from_bytes(stored, self.spec, width, dtype)) if self.spec.quantizes else stored

    def edit(self) -> Edit:
        """What attention does with queries, keys and values: queries are turned; keys and values too unless the cache has done it."""
        def edit(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            query = query if self.rotation is None else self.rotation.apply(query)
            if getattr(key, _MARK, False):
                return query, key, value
            return (query, self.read(self.stored_keys(key), key.shape[-1], key.dtype),
                    self.read(self.stored_values(value), value.shape[-1], value.dtype))

        return edit

    def bytes_for(self, width: int, dtype: torch.dtype) -> int:
        """Bytes of one head of one token, keys or values."""
        if not self.spec.quantizes:
            return width * dtype.itemsize
        scales = width // check_spec(self.spec, width) * STEP_BYTES
        return (width // 2 if two_a_byte(self.spec) else width) + scales * (1 if self.spec.symmetric else 2)


class _Coded:
    """A cache layer that stores what its coder makes of keys and values. Comes before transformers' layer among the bases."""

    coder: CacheCoder

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        stored = super().update(self.coder.stored_keys(key_states), self.coder.stored_values(value_states), *args, **kwargs)
        keys, values = (self.coder.read(part, new.shape[-1], new.dtype) for part, new in zip(stored, (key_states, value_states)))
        keys = keys.view_as(keys)  # a tensor of its own to carry the mark, also where nothing is quantized
        setattr(keys, _MARK, True)
        return keys, values

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return sum(t.numel() * t.element_size() for t in (self.keys, self.values) if t is not None)


class CodedLayer(_Coded, DynamicLayer):
    """Grows by every token."""


class CodedSlidingLayer(_Coded, DynamicSlidingWindowLayer):
    """Keeps the tokens of a sliding window."""


class CodedFixedLayer(_Coded, StaticLayer):
    """Has room for so many tokens."""


class CodedFixedSlidingLayer(_Coded, StaticSlidingWindowLayer):
    """Has room for a sliding window, or for so many tokens where they are fewer."""


_CODED = {kind.__mro__[2]: kind for kind in (CodedLayer, CodedSlidingLayer, CodedFixedLayer, CodedFixedSlidingLayer)}


class PackedCache(Cache):
    """The cache of a deployed model: one layer a block, sliding where the model's own would slide.

    Args:
        config: of the model.
        coder: how keys and values are stored.
        length: tokens that there is room for, all of whose memory is taken with the first; None = it grows.

    Attributes:
        replay: by which a model takes its steps with a cache of fixed length, else None.

    Raises:
        BadInput: the model has a kind of cache layer other than these.
    """

    def __init__(self, config, coder: CacheCoder, length: int | None = None) -> None:
        plain = DynamicCache(config=config.get_text_config()) if length is None else StaticCache(config=config, max_cache_len=length)
        super().__init__(layers=[_coded(layer, coder) for layer in plain.layers] if coder.acts else plain.layers)
        self.replay = None if length is None else Replay()

    @property
    def nbytes(self) -> int:
        """Bytes that all layers hold together."""
        return sum(part.numel() * part.element_size() for layer in self.layers for part in (layer.keys, layer.values) if part is not None)


def _coded(layer: CacheLayerMixin, coder: CacheCoder) -> CacheLayerMixin:
    """What transformers made, as a layer that stores codes."""
    if type(layer) not in _CODED:
        raise BadInput(f"a cache layer of the kind {type(layer).__name__} cannot be stored in codes; deploy with kv.bits = 16 and without R3")
    kind = _CODED[type(layer)]
    made = kind.__new__(kind)
    vars(made).update(vars(layer), coder=coder)
    return made


def to_bytes(packed: Packed) -> Tensor:
    """Codes, steps and zeros of each row side by side: uint8 [..., bytes]."""
    parts = [packed.data, packed.step, *([] if packed.zero is None else [packed.zero])]
    return torch.cat([part.contiguous().view(torch.uint8) for part in parts], -1)


def from_bytes(stored: Tensor, spec: QuantSpec, width: int, dtype: torch.dtype) -> Packed:
    """What `to_bytes` stored. Rows of `width` numbers that were of that dtype."""
    groups = width // spec.group_for(width)
    sizes = [width // 2 if two_a_byte(spec) else width, groups * STEP_BYTES, *([] if spec.symmetric else [groups * STEP_BYTES])]
    data, *scales = stored.split(sizes, -1)
    # cloned and not only contiguous: a single row is contiguous where it lies, and four bytes may not begin there
    step, *zero = (scale.clone(memory_format=torch.contiguous_format).view(torch.float32) for scale in scales)
    return Packed(data.contiguous().view(code_dtype(spec)), step, zero[0] if zero else None, spec, width, dtype)
