"""Decoding by replay: the step of one token is recorded as a CUDA graph once, and launched as a whole from then on.

    first step     carried out as it is
    second step    the same again? then inputs are copied into tensors of their own, and the step is recorded
    from it on     new inputs are copied into those tensors, the recording is replayed, logits are copied out

A step of one token is dozens of small kernels a block, which a GPU may finish sooner than Python launches them; a graph needs one launch. What it
holds are addresses and shapes. So nothing in a step may depend on a number that Python sees: the cache has a fixed length and counts its tokens in a
tensor (rotviz.deployment.cache), and attention reads all of it, masked, at every step. A step that differs from the one before, as under beams or
with a mask that grows, is carried out as it is.

The recorder is an argument: the tests record and replay torch's operations on a CPU, under the same rules.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map
from transformers import Cache

from rotviz.device import cuda_graph

Recorder = Callable[[Callable[[], Any]], tuple[Any, Callable[[], None]]]
"""Records a step; gives its output, and what computes it anew, in place."""
_PLAIN = (Tensor, bool, int, str, type(None))
_REFUSED: "WeakSet[nn.Module]" = WeakSet()
"""Models of which a step could not be recorded: it is not tried again."""


@dataclass(frozen=True)
class _Steps:
    """What tells steps apart: kinds of their arguments, and the cache's memory (held, so that no other tensor takes its place)."""

    kinds: Any
    memory: list[Tensor]

    def same(self, other: "_Steps | None") -> bool:
        return (other is not None and self.kinds == other.kinds and len(self.memory) == len(other.memory)
                and all(a is b for a, b in zip(self.memory, other.memory)))


@dataclass(frozen=True)
class _Recording:
    """A recorded step: tensors that its inputs go into, what it gives (without the cache, which would then hold itself), how it is done again."""

    inputs: list[Tensor]
    kind: type
    output: dict[str, Any]
    again: Callable[[], None]


class Replay:
    """The steps of one token with one cache. A copy has recorded nothing.

    Args:
        record: how a step is recorded; as a CUDA graph, which takes a GPU, if None.
    """

    def __init__(self, record: Recorder | None = None) -> None:
        self._record = record
        self._last: _Steps | None = None
        self._recording: _Recording | None = None

    @property
    def has_recorded(self) -> bool:
        """Whether there is a step to replay."""
        return self._recording is not None

    def step(self, model: nn.Module, cache: Cache, arguments: dict[str, Any]) -> Any:
        """model(**arguments, the cache among them), replayed where that can be, and recorded first.

        A step that cannot be recorded is carried out as it is, like all others of that model, after a warning.

        Args:
            model: a transformers model; its own __call__ is gone past.
            cache: of fixed length, with layers that count their tokens in a tensor.
            arguments: by name.
        """
        names = [name for name, value in arguments.items() if value is cache]
        rest = {name: value for name, value in arguments.items() if value is not cache}
        if not self._covers(model, cache, rest):
            return nn.Module.__call__(model, **arguments)
        leaves, shape = tree_flatten(rest)
        steps = _Steps((shape, names, [_kind(leaf) for leaf in leaves]), _memory(cache))
        if not steps.same(self._last):
            self._last, self._recording = steps, None
            return nn.Module.__call__(model, **arguments)
        if self._recording is None and not self._can_record(model, cache, names, rest):
            return nn.Module.__call__(model, **arguments)
        for mine, given in zip(self._recording.inputs, (leaf for leaf in leaves if isinstance(leaf, Tensor))):
            mine.copy_(given)
        self._recording.again()
        output = {name: cache if value is _CACHE else tree_map(_copied, value) for name, value in self._recording.output.items()}
        return self._recording.kind(**output)

    def _covers(self, model: nn.Module, cache: Cache, rest: dict[str, Any]) -> bool:
        """Whether it is one token a sequence, without gradients, on a GPU, and the cache has been filled and no layer of it slides."""
        tokens = rest.get("input_ids")
        return (isinstance(tokens, Tensor) and tokens.shape[1:] == (1,) and not torch.is_grad_enabled() and model not in _REFUSED
                and (tokens.is_cuda or self._record is not None) and rest.get("return_dict") is not False
                and all(isinstance(leaf, _PLAIN) for leaf in tree_flatten(rest)[0])
                and all(layer.is_initialized and not layer.is_sliding for layer in cache.layers))

    def _can_record(self, model: nn.Module, cache: Cache, names: list[str], rest: dict[str, Any]) -> bool:
        """Record; whether that went well. The cache is left as it was."""
        mine = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, rest)
        counts = [layer.cumulative_length.clone() for layer in cache.layers]
        try:
            output, again = (self._record or cuda_graph)(lambda: nn.Module.__call__(model, **mine, **dict.fromkeys(names, cache)))
            self._recording = _Recording([leaf for leaf in tree_flatten(mine)[0] if isinstance(leaf, Tensor)], type(output),
                                         {name: _CACHE if value is cache else value for name, value in output.items()}, again)
        except RuntimeError as found:
            _REFUSED.add(model)
            warnings.warn(f"decoding launches its kernels one by one: a step could not be recorded as a CUDA graph ({str(found).splitlines()[0]})",
                          stacklevel=3)
        for layer, count in zip(cache.layers, counts):
            layer.cumulative_length.copy_(count)
        return self._recording is not None

    def __reduce__(self) -> tuple[type[Self], tuple[Recorder | None]]:
        return type(self), (self._record,)


_CACHE = object()
"""Stands for the cache in a recorded output."""


def _memory(cache: Cache) -> list[Tensor]:
    """The tensors whose addresses are recorded; a search by beams puts others in their place."""
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values, layer.cumulative_length)]


def _kind(value: Any) -> Any:
    """What must be the same for a recording to serve."""
    return (tuple(value.shape), value.dtype, value.device) if isinstance(value, Tensor) else value


def _copied(value: Any) -> Any:
    """An output that the next replay does not overwrite."""
    return value.clone() if isinstance(value, Tensor) else value
