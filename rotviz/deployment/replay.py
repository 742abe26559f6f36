"""Decoding by replay: the step of one token is recorded as a CUDA graph once, and launched as a whole from then on.

    first step     inputs are copied into tensors of their own; the step runs once, so that every kernel is compiled; then it is recorded
    each step      new inputs are copied into those tensors, the recording is replayed, logits are copied out

A step of one token is dozens of small kernels a block, which a GPU may finish sooner than Python launches them; a graph needs one launch. What it
holds are addresses and shapes. So nothing in a step may depend on a number that Python sees: the cache has a fixed length and counts its tokens in a
tensor (rotviz.deployment.cache), and attention reads all of it, masked, at every step.

The recorder is an argument: the tests record and replay torch's operations on a CPU, under the same rules.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from transformers import Cache

from rotviz.device import cuda_graph

Recorder = Callable[[Callable[[], Any]], tuple[Any, Callable[[], None]]]
"""Records a step; gives its output, and what computes it anew, in place."""
_PLAIN = (Tensor, Cache, bool, int, str, type(None))


@dataclass(frozen=True)
class _Recording:
    """What was recorded, and for what: arguments of these kinds, a cache in this memory (held, so that no other tensor takes its place)."""

    kinds: dict[str, Any]
    memory: list[Tensor]
    inputs: dict[str, Tensor]
    output: Any
    again: Callable[[], None]

    def serves(self, kinds: dict[str, Any], memory: list[Tensor]) -> bool:
        return self.kinds == kinds and len(self.memory) == len(memory) and all(a is b for a, b in zip(self.memory, memory))


class Replay:
    """The steps of one token of one model with one cache. A copy has recorded nothing.

    Args:
        record: how a step is recorded; as a CUDA graph, which takes a GPU, if None.
    """

    def __init__(self, record: Recorder | None = None) -> None:
        self._record = record
        self._recording: _Recording | None = None
        self._refused = False

    @property
    def has_recorded(self) -> bool:
        """Whether there is a step to replay."""
        return self._recording is not None

    def step(self, forward: Callable[..., Any], cache: Cache, arguments: dict[str, Any]) -> Any:
        """forward(**arguments), replayed where that can be; recorded first where that has not been done for arguments of these shapes.

        A step that cannot be recorded is carried out as it is, like all that follow, after a warning.

        Args:
            forward: the model's call, which gives a transformers output.
            cache: one of the arguments: of fixed length, with layers that count their tokens in a tensor.
            arguments: by name.
        """
        if not (self._covers(cache, arguments) and self._is_recorded(forward, cache, arguments)):
            return forward(**arguments)
        for name, mine in self._recording.inputs.items():
            mine.copy_(arguments[name])
        self._recording.again()
        output = self._recording.output
        return type(output)(**{name: _copied(value) for name, value in output.items()})

    def _covers(self, cache: Cache, arguments: dict[str, Any]) -> bool:
        """Whether it is one token a sequence, without gradients, on a GPU, and the cache has been filled and no layer of it slides."""
        tokens = arguments.get("input_ids")
        return (isinstance(tokens, Tensor) and tokens.shape[1:] == (1,) and not torch.is_grad_enabled() and not self._refused
                and (tokens.is_cuda or self._record is not None) and arguments.get("return_dict") is not False
                and all(isinstance(value, _PLAIN) for value in arguments.values())
                and all(layer.is_initialized and not layer.is_sliding for layer in cache.layers))

    def _is_recorded(self, forward: Callable[..., Any], cache: Cache, arguments: dict[str, Any]) -> bool:
        """Whether there is a recording that serves, after an attempt to make one. The cache is left as it was."""
        kinds, memory = {name: _kind(value) for name, value in arguments.items()}, _memory(cache)
        if self._recording is not None and self._recording.serves(kinds, memory):
            return True
        self._recording = None
        counts = [layer.cumulative_length.clone() for layer in cache.layers]
        inputs = {name: value.clone() for name, value in arguments.items() if isinstance(value, Tensor)}
        try:
            output, again = (self._record or cuda_graph)(lambda: forward(**(arguments | inputs)))
            self._recording = _Recording(kinds, memory, inputs, output, again)
        except RuntimeError as found:
            self._refused = True
            warnings.warn(f"decoding launches its kernels one by one: a step could not be recorded as a CUDA graph ({str(found).splitlines()[0]})",
                          stacklevel=3)
        for layer, count in zip(cache.layers, counts):
            layer.cumulative_length.copy_(count)
        return self._recording is not None

    def __reduce__(self) -> tuple[type[Self], tuple[Recorder | None]]:
        return type(self), (self._record,)


def _memory(cache: Cache) -> list[Tensor]:
    """The tensors whose addresses are recorded; a search by beams puts others in their place."""
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values, layer.cumulative_length)]


def _kind(value: Any) -> Any:
    """What must be the same for a recording to serve."""
    return (tuple(value.shape), value.dtype, value.device) if isinstance(value, Tensor) else value


def _copied(value: Any) -> Any:
    """An output that the next replay does not overwrite."""
    if isinstance(value, tuple):
        return tuple(map(_copied, value))
    return value.clone() if isinstance(value, Tensor) else value
