"""What is made of a tensor that several linears read (q, k and v one, gate and up another): made once, kept while the tensor lives.

It must not live longer: each block of a model would keep its rounded inputs until it runs again, all blocks together many times what one
needs at a time. So the tensor is held weakly, and takes what was made of it along when it goes.
"""

import weakref
from collections.abc import Callable
from typing import Any, Self, TypeVar

from torch import Tensor

Made = TypeVar("Made")


class OfLatest:
    """What was made of the latest tensor. A copy of it is empty."""

    __slots__ = ("_made", "_tensor")

    def __init__(self) -> None:
        self._forget()

    def of(self, x: Tensor, make: Callable[[Tensor], Made]) -> Made:
        """make(x), remembered; x is told from other tensors by what it is, not by its numbers."""
        if self._tensor is not None and self._tensor() is x:
            return self._made
        self._forget()
        made = make(x)
        if made is not x:  # it would keep itself alive
            self._tensor, self._made = weakref.ref(x, self._forget), made
        return made

    def _forget(self, gone: "weakref.ref[Tensor] | None" = None) -> None:
        if gone is None or gone is self._tensor:
            self._tensor: weakref.ref[Tensor] | None = None
            self._made: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)()
