"""A model taken apart at its blocks: what goes in, one block at a time, what comes out.

    entry    tokens or images -> hidden states [B, T, D] before the first block, and the arguments that each block is called with
    forward  one block on hidden states
    finish   hidden states after the last block -> logits [B, T, V], of a classifier [B, V]

Everything that differs between families at the ends of a model (embedding scales, learned positions, sliding windows, two kinds of RoPE, final
norms, capped logits) is done by transformers' own forward: the blocks are replaced, in a shallow copy that shares every weight, by
stand-ins that record what they are called with, or by one that puts given hidden states in. The model itself is never touched, so threads may
share it.
"""

import copy
import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rotviz.models.families import family_of
from rotviz.models.family import BlockView, Family, block_views
from rotviz.models.packed import PackedLinear, can_pack
from rotviz.types import Modality

BlockArguments = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """Hidden states [B, T, D] before the first block, and the keyword arguments of each block."""

    hidden: Tensor
    arguments: list[BlockArguments]


class Ends:
    """The two ends of a model: embeddings and everything before the first block; final norm, head and everything after the last.

    Args:
        model: any model of a known family. Its weights are shared, not copied.
        family: how the model is laid out.
    """

    def __init__(self, model: PreTrainedModel, family: Family) -> None:
        self.model = model
        self.family = family
        self.count = len(model.get_submodule(family.blocks))

    @property
    def logits_each(self) -> int:
        """How many logits `finish` gives for a token (of a classifier for an image)."""
        config = self.model.config.get_text_config()
        return config.vocab_size if self.family.modality is Modality.TEXT else config.num_labels

    def entry(self, inputs: Tensor) -> Entry:
        """Run the part before the first block on tokens [B, T] or images [B, C, H, W]."""
        recorders = [_Recorder(block) for block in self.model.get_submodule(self.family.blocks)]
        spared = {"logits_to_keep": 1} if self.family.modality is Modality.TEXT else {}
        with torch.no_grad():
            self._call(inputs, recorders, **spared)
        return Entry(recorders[0].hidden, [r.arguments for r in recorders])

    def finish(self, hidden: Tensor) -> Tensor:
        """Logits [B, T, V] (of a classifier [B, V]) from the hidden states [B, T, D] after the last block."""
        with torch.no_grad():
            return self.logits(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """As `finish`, differentiable with respect to the hidden states."""
        blocks = list(self.model.get_submodule(self.family.blocks))
        stand_ins = [_Injector(blocks[0], hidden), *(_Passage(b) for b in blocks[1:])]
        return self._call(self.family.blank(hidden, self.model.config), stand_ins).logits

    def packed(self) -> "Ends":
        """These ends with a packed head (models.packed), for finishing many tokens; themselves where it cannot be packed."""
        path, _, name = self.family.head.rpartition(".")
        head = self.model.get_submodule(self.family.head)
        if path or not can_pack(head):
            return self
        twin = _shallow(self.model)
        twin._modules[name] = PackedLinear(head)
        return Ends(twin, self.family)

    def to(self, device: torch.device) -> "Ends":
        """These ends on a device; copied first where they have to move. The blocks stay where they are."""
        if self.model.device == device:
            return self
        stand_ins = [_Passage(block) for block in self.model.get_submodule(self.family.blocks)]
        moved = copy.deepcopy(with_blocks(self.model, self.family, [])).to(device)
        return Ends(with_blocks(moved, self.family, stand_ins), self.family)

    def _call(self, inputs: Tensor, stand_ins: list[nn.Module], **arguments: Any) -> Any:
        return with_blocks(self.model, self.family, stand_ins)(**self.family.arguments(inputs), **arguments)


class BlockSource:
    """Where a model's blocks come from: here, a model in memory. A source that reads one block at a time from disk has the same shape.

    Args:
        model: the model; it is never changed.
        device: where the ends and the blocks that are given out live; None = where the model is. A model on the CPU keeps its weights there,
            and one block at a time visits the device.
    """

    def __init__(self, model: PreTrainedModel, device: torch.device | None = None) -> None:
        self.model = model
        self.family = family_of(model)
        self.device = device or model.device
        self.ends = Ends(model, self.family).to(self.device)
        self._views = block_views(model, self.family)

    def __len__(self) -> int:
        return len(self._views)

    @cached_property
    def content_mark(self) -> str:
        """A mark of the weights themselves: it changes with any of them, whatever the model is called and wherever it lies."""
        config = {name: value for name, value in self.model.config.to_dict().items() if name != "_name_or_path"}
        mark = hashlib.sha256(repr(config).encode())
        for name, weight in self.model.state_dict().items():
            total = weight.sum(dtype=torch.float64) if weight.is_floating_point() else weight.sum()
            mark.update(f"{name}{tuple(weight.shape)}{weight.dtype}{total.item()!r}".encode())
        return mark.hexdigest()

    def original(self, index: int) -> BlockView:
        """A block as it is, on the source's device; not to be changed."""
        view = self._views[index]
        return view if next(view.block.parameters()).device == self.device else self.owned(index)

    def owned(self, index: int) -> BlockView:
        """A copy of a block on the source's device that the caller may change."""
        view = self._views[index]
        return BlockView(view.family, copy.deepcopy(view.block).to(self.device), view.config, index)


def forward(block: nn.Module, hidden: Tensor, arguments: BlockArguments) -> Tensor:
    """One block on hidden states [B, T, D]."""
    with torch.no_grad():
        output = block(hidden, **arguments)
    return output[0] if isinstance(output, tuple) else output


def narrowed(arguments: BlockArguments, count: int) -> BlockArguments:
    """A block's arguments for a last batch of fewer windows: whatever has one row a window is cut to `count`."""
    def cut(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim and value.shape[0] > count and value.shape[0] > 1:
            return value[:count]
        return tuple(cut(v) for v in value) if isinstance(value, tuple) else value

    return {name: cut(value) for name, value in arguments.items()}


def with_blocks(model: PreTrainedModel, family: Family, blocks: list[nn.Module]) -> PreTrainedModel:
    """A shallow copy of the model, sharing every weight, whose blocks are these."""
    top = _shallow(model)
    parent = top
    *path, last = family.blocks.split(".")
    for name in path:
        child = _shallow(getattr(parent, name))
        parent._modules[name] = child
        parent = child
    parent._modules[last] = nn.ModuleList(blocks)
    return top


def _shallow(module: nn.Module) -> nn.Module:
    twin = copy.copy(module)
    twin.__dict__ = {**module.__dict__, "_modules": dict(module._modules)}
    return twin


class _Passage(nn.Module):
    """Stands in for a block and passes the hidden states on. Answers for attributes (attention type) as the block would."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.__dict__["stands_for"] = block  # not a submodule: it must not be walked, moved or saved

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["stands_for"], name)

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden


class _Recorder(_Passage):
    """Keeps what a block is called with."""

    def forward(self, hidden: Tensor, *_: Any, **arguments: Any) -> Tensor:
        self.__dict__["hidden"] = hidden
        self.__dict__["arguments"] = arguments
        return hidden


class _Injector(_Passage):
    """Replaces the hidden states by others."""

    def __init__(self, block: nn.Module, hidden: Tensor) -> None:
        super().__init__(block)
        self.__dict__["injected"] = hidden

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        return self.__dict__["injected"]
