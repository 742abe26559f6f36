"""A GPU that is only pretended: real arithmetic on the CPU, with the book-keeping of devices that a GPU would enforce.

    with pretended_gpu(monkeypatch):  # a pytest.MonkeyPatch, which undoes it
        finish(run(Recipe.from_dict({..., "device": "cuda"})))

A storage that came into being "on the GPU" is marked, and so is whatever an operation makes of it. Operations that meet both kinds raise as torch
would, as do .numpy() and a CPU generator that is to draw on the GPU. What this cannot show: kernels, precision, memory and speed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
aten = torch.ops.aten
CROSSING = {aten.copy_.default, aten._to_copy.default}
"""Operations whose arguments may lie on different devices."""
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default, aten._unsafe_index.Tensor}
"""Operations on a GPU tensor that take indices from the CPU."""
STRICT = {aten.cat.default, aten.stack.default, aten.mm.default, aten.bmm.default, aten.addmm.default, aten.embedding.default}
"""Operations that do not take a scalar tensor of the CPU beside tensors of the GPU, as others do."""


def on_gpu(x: Tensor) -> bool:
    """Whether x is pretended to lie on the GPU. (A weight that oneDNN has packed has no storage to ask.)"""
    return x.layout is torch.strided and getattr(x.untyped_storage(), "pretended", False)


def put(x: Tensor, gpu: bool) -> Tensor:
    """Mark the storage of x."""
    x.untyped_storage().pretended = gpu
    return x


class _Operations(TorchDispatchMode):
    """Below autograd: who meets whom, and where results lie."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        here = [t for t in tensors if on_gpu(t)]
        if here and func not in CROSSING:
            _check(func, args, [t for t in tensors if not on_gpu(t)])
            if isinstance(kwargs.get("generator"), torch.Generator):
                raise RuntimeError(f"{func}: Expected a 'cuda' device type for generator but found 'cpu'")
        if func is aten.histc.default and not args[0].is_floating_point():
            args = (args[0].float(), *args[1:])  # a GPU counts whole numbers, a CPU does not
        out = func(*args, **kwargs)
        if here and func is not aten.copy_.default:
            for made in tree_leaves(out):
                if isinstance(made, Tensor):
                    put(made, True)
        return out


def _check(func: Any, args: tuple[Any, ...], elsewhere: list[Tensor]) -> None:
    if func in INDEXING and on_gpu(args[0]):
        indices = {id(t) for t in tree_leaves(args[1])}
        elsewhere = [t for t in elsewhere if id(t) not in indices]
    if any(t.dim() or func in STRICT for t in elsewhere):
        raise RuntimeError(f"{func}: Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!")


def _placed(x: Tensor, gpu: bool) -> Tensor:
    """x itself if it lies there, else a copy that does."""
    return x if on_gpu(x) == gpu else put(x.clone(), gpu)


def _is_gpu(place: str | int | torch.device | Tensor) -> bool:
    return on_gpu(place) if isinstance(place, Tensor) else torch.device(place).type == "cuda"


def _to(x: Tensor, *given: Any, **named: Any) -> Tensor:
    """Tensor.to."""
    wanted = [*given, *named.values()]
    dtype = next((w if isinstance(w, torch.dtype) else w.dtype for w in wanted if isinstance(w, (torch.dtype, Tensor))), x.dtype)
    place = next((w.device if isinstance(w, Tensor) else torch.device(w) for w in wanted if isinstance(w, (str, torch.device, Tensor))), x.device)
    kept = TO(x, CPU if place.type == "cuda" else place, dtype, copy=named.get("copy", False))
    return _placed(kept, place.type == "cuda")


def _on_host(function: Callable[..., Any]) -> Callable[..., Any]:
    """A method that only a tensor of the CPU has."""
    def checked(x: Tensor, *given: Any, **named: Any) -> Any:
        if on_gpu(x):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")
        return function(x, *given, **named)

    return checked


def _making(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that makes a tensor on the device that it is told."""
    def made(*given: Any, device: Any = None, **named: Any) -> Any:
        if device is None:
            return function(*given, **named)
        if not _is_gpu(device):
            return function(*given, device=device, **named)
        if named.get("generator") is not None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        return _placed(function(*given, device=CPU, **named), True)

    return made


TO, DEVICE, IS_CPU = Tensor.to, Tensor.device.__get__, Tensor.is_cpu.__get__
METHODS = {
    "device": property(lambda x: GPU if on_gpu(x) else DEVICE(x)), "is_cuda": property(on_gpu),
    "is_cpu": property(lambda x: IS_CPU(x) and not on_gpu(x)),
    "get_device": lambda x: 0 if on_gpu(x) else -1, "to": _to, "cpu": lambda x, **named: _placed(x, False),
    "cuda": lambda x, *given, **named: _placed(x, True), "numpy": _on_host(Tensor.numpy), "__array__": _on_host(Tensor.__array__)}
ONE_HOT = torch.nn.functional.one_hot
LIKE = ("new_empty", "new_full", "new_ones", "new_tensor", "new_zeros")


@contextmanager
def pretended_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (9, 0)) -> Iterator[None]:
    """A block in which there seems to be a GPU."""
    facts = {
        "is_available": True, "device_count": 1, "current_device": 0, "get_device_name": "a pretended GPU", "get_device_capability": capability,
        "get_device_properties": SimpleNamespace(multi_processor_count=4, total_memory=1 << 34), "max_memory_allocated": 10**6,
        "reset_peak_memory_stats": None, "empty_cache": None, "synchronize": None, "device": nullcontext(), "mem_get_info": (1 << 33, 1 << 34),
        "is_initialized": True, "is_bf16_supported": True}
    for name, fact in facts.items():
        monkeypatch.setattr(f"torch.cuda.{name}", lambda *given, fact=fact, **named: fact)
    for name, method in METHODS.items():
        monkeypatch.setattr(Tensor, name, method)
    for name in LIKE:
        monkeypatch.setattr(Tensor, name, _making(getattr(Tensor, name)))
    for function in _device_constructors():
        if getattr(torch, function.__name__, None) is function:
            monkeypatch.setattr(torch, function.__name__, _making(function))
    # made in C++ on the device of its argument, as the CPU sees it
    monkeypatch.setattr(torch.nn.functional, "one_hot", lambda x, num_classes=-1: _placed(ONE_HOT(_placed(x, False), num_classes), on_gpu(x)))
    with _Operations():
        yield
