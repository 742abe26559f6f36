"""How much goes through a block at a time, and less of it once the memory was full.

    windows 0-3  fits    windows 4-7  memory full -> 4-5 fits, 6-7 fits, ... two at a time from here on

What is asked for decides nothing about the numbers (windows do not see each other), only about the memory. A batch that does not fit is done again at
half the size, down to one; what was done stays. Each time is noted, because the run then takes longer than it would elsewhere.

The first batch, on which errors are measured, is of one size everywhere: 2048 tokens. After it a CPU goes on with as many, which its caches still
hold. A GPU takes many more: by arithmetic it is done with a small model's block for 2048 tokens before Python has launched the next kernels. (What
that gains has not been measured.)
"""

from collections.abc import Callable

import torch
from torch import nn

from rotviz.device import give_memory_back, memory_bytes
from rotviz.models.walk import Ends

SCORE_LOGITS = 1 << 26
"""Logits of a model that are made at a time (256 MB in float32). A product with the head reads the whole head, which is larger than any cache, so
that small pieces cost more than they save."""

SHARE, MOST_TOKENS = 1 / 16, 1 << 16
"""Of a GPU's memory, what a batch may take inside a block; and tokens in flight beyond which nothing is gained."""


def tokens_at_once(block: nn.Module, device: torch.device, active: int = 1) -> int:
    """Tokens that a GPU pushes through a block together after the first batch, by what they hold there; 0 = as many as in the first, on a CPU.

    Args:
        block: of a model; weights [out, in], and of experts [experts, ., .].
        active: experts that a token passes.
    """
    memory = memory_bytes(device)
    if memory is None:
        return 0
    wide = [p for p in block.parameters() if p.ndim >= 2]
    held = sum(sum(p.shape[-2:]) * p.element_size() * (active if p.ndim > 2 else 1) for p in wide)
    return min(MOST_TOKENS, int(SHARE * memory / (2 * held)))  # as they are, and rounded


def tokens_scored(ends: Ends) -> int:
    """Tokens whose logits are made at a time."""
    return max(1, SCORE_LOGITS // ends.logits_each)


class Batches:
    """The size of a batch, which shrinks.

    Args:
        size: how many to begin with.
        unit: what they are, in the singular.
        device: whose memory it is about.
        more: how many after the first batch, if more than in it.
    """

    def __init__(self, size: int, unit: str, device: torch.device, more: int = 0) -> None:
        self.first = max(1, size)
        self.size, self.unit, self.device = max(self.first, more), unit, device
        self.notes: list[str] = []

    def over(self, count: int, work: Callable[[slice], None], where: str) -> None:
        """Do `work` for every slice of `count` things, in order; a slice that the memory is too small for again in halves.

        Args:
            count: how many there are.
            work: takes a slice; nothing of what it changes may stay when it fails.
            where: for the note: "block 3".

        Raises:
            MemoryError, torch.OutOfMemoryError, RuntimeError: not even one fits.
        """
        start = 0
        while start < count:
            size = self.size if start else min(self.first, self.size)
            part = slice(start, min(start + size, count))
            if self._fits(work, part, where):
                start = part.stop
            else:
                give_memory_back(self.device)  # here and not in the handler: until it is left, its traceback holds the failed batch

    def _fits(self, work: Callable[[slice], None], part: slice, where: str) -> bool:
        try:
            work(part)
        except (MemoryError, RuntimeError) as error:
            tried = part.stop - part.start
            if not memory_is_full(error) or tried == 1:
                raise
            self.size = tried // 2
            self.notes.append(f"the memory was full in {where} with {tried} {self.unit}s at a time; went on with {self.size}")
            return False
        return True


def memory_is_full(error: BaseException) -> bool:
    """Whether an error says so: Python's, CUDA's, or the plain RuntimeError of torch's allocator on the CPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and "memory" in words and "alloc" in words
