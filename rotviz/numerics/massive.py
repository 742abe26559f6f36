"""Massive activations: the few numbers of the residual stream that are thousands of times the rest (Sun et al., arXiv 2402.17762).

In LLaMA-2-7B two channels of the first token carry about 2000 where the median is 0.2, from the second block to the last but one; at zero
instead, the model is destroyed. The paper's definition of a massive activation h, per tensor of one block's output:

    |h| > 100   and   |h| >= 1000 median|H|

In narrow models |h| may stay below 100 while all else holds, so here the ratio alone decides and the first condition is recorded
(`absolute`). A passing spike is no massive activation: a massive *token* keeps the same channel over at least three consecutive blocks.

Two more views of the same tokens. `spike_energy`: RMSNorm turns a massive token into nearly k spikes of total norm sqrt(D); the share of
energy in its k largest channels says how nearly. `dfrot_massive_mask` (DFRot, arXiv 2412.00648): tokens whose 4-bit symmetric rounding
*before* any rotation loses little, because the spikes hold all the energy and rounding the rest to zero costs nothing.

DFRot calls a token massive when its error is below 8.5 at norm 64, so below 0.133 of the norm, for widths of 4096 and 5120. The error of an
ordinary, Gaussian token is its largest value / (7 sqrt 12), and the largest of fewer numbers is smaller: at width 576 the same 0.133 would
take half of all Gaussian tokens. So the threshold shrinks here with the median of that largest value (our departure, the same at 4096):

    threshold(D) = 0.133 g(D) / g(4096),    g(D) = Phi^-1((1 + 2^(-1/D)) / 2)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isfinite
from statistics import NormalDist

import torch
from torch import Tensor

from rotviz.errors import BadInput

RATIO = 1000.0
ABSOLUTE = 100.0
PERSISTENCE = 3
DFROT_THRESHOLD = 8.5 / 64
DFROT_WIDTH = 4096
LISTED_CHANNELS = 8


@dataclass(frozen=True, slots=True)
class MassiveToken:
    """A token with a massive activation after one block.

    Attributes:
        block: number of the block.
        index: position of the token, row of the hidden state.
        channel, value: the largest |h| of the token, with its sign.
        ratio: |value| / median|H| of the block's tensor.
        absolute: whether the paper's |h| > 100 holds as well.
        spikes: (channel, value) of all channels over the ratio, largest first, eight at most.
    """

    block: int
    index: int
    channel: int
    value: float
    ratio: float
    absolute: bool
    spikes: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class PersistentToken:
    """A token that keeps a massive activation in one channel from block to block: what the paper calls a massive activation.

    Attributes:
        index, channel: where.
        first_block, last_block: of the longest run of consecutive blocks.
        value, block, ratio: of the peak within that run.
        absolute: whether the paper's |h| > 100 holds at the peak.
    """

    index: int
    channel: int
    first_block: int
    last_block: int
    value: float
    block: int
    ratio: float
    absolute: bool


def find_massive(blocks: Iterable[tuple[int, Tensor]], ratio: float = RATIO) -> list[MassiveToken]:
    """Every token of every block that has a massive activation, in the order of the blocks.

    Args:
        blocks: (number of the block, hidden state [T, D] after it); a generator is used up one tensor at a time.
        ratio: how many times the median |h| of the tensor is massive.
    """
    return [token for block, hidden in blocks for token in _massive_in(block, hidden, ratio)]


def massive_tokens(found: Iterable[MassiveToken], persistence: int = PERSISTENCE) -> list[PersistentToken]:
    """The tokens whose spike persists: one entry a token and channel, the largest peak first.

    Args:
        found: what `find_massive` found.
        persistence: how many consecutive blocks must show the same channel; take fewer for models of fewer blocks.
    """
    seen = [(token.index, channel, token.block, value, token) for token in found for channel, value in token.spikes]
    seen.sort(key=lambda entry: entry[:3])
    persistent = []
    for (index, channel), entries in groupby(seen, key=lambda entry: entry[:2]):
        run = _longest_run([(block, value, token) for _, _, block, value, token in entries])
        if len(run) >= persistence:
            persistent.append(_persistent(index, channel, run))
    return sorted(persistent, key=lambda token: -abs(token.value))


def spike_energy(h: Tensor, k: int = 4) -> Tensor:
    """The share of each token's energy |h|^2 in its k largest channels; 0 for a token of zeros. [..., D] -> [...] in float64."""
    energy = h.detach().to(torch.float64).square()
    total = energy.sum(-1)
    top = energy.topk(min(k, h.shape[-1]), dim=-1).values.sum(-1)
    return torch.where(total > 0, top / total.clamp_min(torch.finfo(torch.float64).tiny), 0.0)


def dfrot_threshold(width: int) -> float:
    """The relative error below which a token of that width counts as massive; the paper's at width 4096."""
    return DFROT_THRESHOLD * _gaussian_peak(width) / _gaussian_peak(DFROT_WIDTH)


def dfrot_massive_mask(x: Tensor, bits: int = 4, threshold: float | None = None) -> Tensor:
    """DFRot's massive tokens: |x - Q(x)| / |x| < threshold for symmetric per-token round-to-nearest of the un-rotated token.

    Args:
        x: [..., D], as the linear layers read it; tokens of zeros are not massive.
        bits: of the rounding.
        threshold: None = `dfrot_threshold` of the width; DFROT_THRESHOLD = the paper's constant at any width.

    Returns:
        bool [...].
    """
    threshold = dfrot_threshold(x.shape[-1]) if threshold is None else threshold
    x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    norm = torch.linalg.vector_norm(x, dim=-1)
    # With the scale from the largest |x| nothing is clipped, so the grid is a rounding and no more.
    scale = x.abs().amax(dim=-1, keepdim=True) / (2 ** (bits - 1) - 1)
    scale = torch.where(scale > 0, scale, 1.0)
    error = torch.linalg.vector_norm(x - torch.round(x / scale) * scale, dim=-1)
    return (norm > 0) & (error < threshold * norm)


def _gaussian_peak(width: int) -> float:
    """The median of the largest |x| among that many Gaussian numbers."""
    return NormalDist().inv_cdf((1 + 0.5 ** (1 / width)) / 2)


def _massive_in(block: int, hidden: Tensor, ratio: float) -> list[MassiveToken]:
    if hidden.ndim != 2 or not hidden.numel():
        raise BadInput(f"block {block}: a hidden state has tokens and channels, not shape {tuple(hidden.shape)}")
    hidden = hidden.detach()
    size = hidden.abs().to(torch.promote_types(hidden.dtype, torch.float32))
    median = float(size.median())
    if not isfinite(float(size.max())):  # max hands NaN on
        raise BadInput(f"block {block}: the hidden state holds NaN or infinity")
    if median == 0:  # more than half of the numbers are zero: no ratio means anything
        return []
    rows = (size.amax(dim=1) >= ratio * median).nonzero().flatten().tolist()
    return [_token(block, row, hidden[row].tolist(), ratio * median, median) for row in rows]


def _token(block: int, index: int, values: Sequence[float], limit: float, median: float) -> MassiveToken:
    over = sorted(((c, v) for c, v in enumerate(values) if abs(v) >= limit), key=lambda spike: -abs(spike[1]))
    channel, value = over[0]
    return MassiveToken(block, index, channel, value, abs(value) / median, abs(value) > ABSOLUTE, tuple(over[:LISTED_CHANNELS]))


def _longest_run(entries: list[tuple[int, float, MassiveToken]]) -> list[tuple[int, float, MassiveToken]]:
    """The longest stretch of consecutive block numbers; the first of equals."""
    runs: list[list[tuple[int, float, MassiveToken]]] = []
    for entry in entries:
        if runs and runs[-1][-1][0] == entry[0] - 1:
            runs[-1].append(entry)
        else:
            runs.append([entry])
    return max(runs, key=len)


def _persistent(index: int, channel: int, run: list[tuple[int, float, MassiveToken]]) -> PersistentToken:
    block, value, token = max(run, key=lambda entry: abs(entry[1]))
    median = abs(token.value) / token.ratio
    return PersistentToken(index, channel, run[0][0], run[-1][0], value, block, abs(value) / median, abs(value) > ABSOLUTE)
