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
    """What was made of the latest tensor. A copy of it is empty, and threads that share it get what was made of their own tensor.

    (What leads back to the tensor, as a graph of gradients does, holds it until the graph is freed or another tensor comes.)
    """

    __slots__ = ("_latest",)

    def __init__(self) -> None:
        self._latest: tuple[weakref.ref[Tensor], Any] | None = None

    def of(self, x: Tensor, make: Callable[[Tensor], Made]) -> Made:
        """make(x), remembered; x is told from other tensors by what it is, not by its numbers."""
        latest = self._latest
        if latest is not None and latest[0]() is x:
            return latest[1]
        self._latest = None
        made = make(x)
        if made is not x:  # it would keep itself alive
            self._latest = weakref.ref(x, self._forget), made
        return made

    def _forget(self, gone: "weakref.ref[Tensor]") -> None:
        latest = self._latest
        if latest is not None and latest[0] is gone:
            self._latest = None

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()
