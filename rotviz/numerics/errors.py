"""How far a quantized tensor is from the original: relative mean squared error and SQNR.

    relative MSE = sum (x - x^)^2 / sum x^2              SQNR = -10 log10(relative MSE) in dB

Taken over a whole tensor, for each token (row) or for each channel (column). Sums run in float64, so that a row of zeros beside a massive
token loses nothing. A zero reference with a zero error is error 0; with any other error it is infinite.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def relative_mse(reference: Tensor, approximate: Tensor) -> float:
    """Relative mean squared error over all entries."""
    return ratio(*squared_sums(reference, approximate))


def relative_mse_by_token(reference: Tensor, approximate: Tensor) -> Tensor:
    """Relative mean squared error of each row of [T, D]: float64 [T]."""
    return _by_axis(reference, approximate, -1)


def relative_mse_by_channel(reference: Tensor, approximate: Tensor) -> Tensor:
    """Relative mean squared error of each column of [T, D]: float64 [D]."""
    return _by_axis(reference, approximate, 0)


def sqnr_db(relative: float) -> float:
    """Signal to quantization-noise ratio in dB; infinite for an exact copy."""
    return math.inf if relative == 0 else -10 * math.log10(relative)


def squared_sums(reference: Tensor, approximate: Tensor) -> tuple[float, float]:
    """Sum of squared differences and of squared reference values, in float64."""
    difference = (reference - approximate).double()
    return float(difference.square().sum()), float(reference.double().square().sum())


def ratio(error: float, energy: float) -> float:
    """error / energy, with 0/0 = 0."""
    if energy > 0:
        return error / energy
    return 0.0 if error == 0 else math.inf


@dataclass(frozen=True, slots=True)
class SplitError:
    """Relative MSE over all tokens, and over the massive and the ordinary ones apart (NaN where there is none)."""

    all: float
    massive: float
    ordinary: float


def split_error(reference: Tensor, approximate: Tensor, massive: Tensor) -> SplitError:
    """Relative MSE of [T, D] against a reference, apart for the tokens that `massive` [T] (bool) marks."""
    error = (reference - approximate).double().square().sum(-1)
    energy = reference.double().square().sum(-1)

    def part(mask: Tensor) -> float:
        return ratio(float(error[mask].sum()), float(energy[mask].sum())) if bool(mask.any()) else math.nan

    return SplitError(ratio(float(error.sum()), float(energy.sum())), part(massive), part(~massive))


def _by_axis(reference: Tensor, approximate: Tensor, axis: int) -> Tensor:
    error = (reference - approximate).double().square().sum(axis)
    energy = reference.double().square().sum(axis)
    return torch.where(energy > 0, error / energy.clamp_min(1e-300), torch.where(error > 0, torch.inf, 0.0))
