"""What the kernels' tests share: random rows, and the rule that a kernel may be at most twice as wrong as torch at the same precision."""

import torch
from torch import Tensor


def draw(*shape: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", seed: int = 0) -> Tensor:
    """Gaussian numbers, the same on every device."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def signs_for(n: int, device: torch.device | str = "cpu") -> Tensor:
    """n of +-1."""
    return (torch.randint(0, 2, (n,), generator=torch.Generator().manual_seed(n)) * 2 - 1).to(device)


def assert_at_most_twice_as_wrong(ours: Tensor, plain: Tensor, truth: Tensor) -> None:
    """Against float64 truth, in the mean and at the worst number; one unit in the last place of the largest number is forgiven."""
    assert ours.dtype == plain.dtype and ours.shape == truth.shape and truth.dtype == torch.float64
    eps = torch.finfo(ours.dtype).eps
    wrong, allowed = ours.double() - truth, plain.double() - truth
    assert torch.isfinite(wrong).all(), "a number was not written"
    assert wrong.norm() <= 2 * allowed.norm() + eps * truth.norm() / 4
    assert wrong.abs().max() <= 2 * allowed.abs().max() + eps * truth.abs().max()
