"""The residual stream of a captured text from block to block: how large it is, where, and how small everything else.

    peaks[b, t] = max_c |h_bt,c|      channels[b, t] = the c of it      median[b] = median |h_b|      top[b] = the three largest |h_b|

A row is massive when its peak is at least 1000 medians (numerics.massive).
"""

from dataclasses import dataclass

import numpy as np
import torch

from rotviz.capture.capture import Capture
from rotviz.numerics.massive import RATIO
from rotviz.types import Site


@dataclass(frozen=True)
class Stream:
    """L blocks, T tokens: peaks, channels and massive [L, T], top [L, 3] (largest first), median [L]."""

    peaks: np.ndarray
    channels: np.ndarray
    massive: np.ndarray
    top: np.ndarray
    median: np.ndarray

    @property
    def nearest(self) -> tuple[int, int]:
        """(block, token) of the peak that is the most medians."""
        block, token = np.unravel_index(int((self.peaks / np.maximum(self.median, 1e-30)[:, None]).argmax()), self.peaks.shape)
        return int(block), int(token)

    def nearest_tokens(self, most: int) -> list[tuple[int, int]]:
        """(block, token) of the tokens with the largest ratios, each at its own largest, largest first."""
        ratios = self.peaks / np.maximum(self.median, 1e-30)[:, None]
        return [(int(ratios[:, t].argmax()), int(t)) for t in np.argsort(-ratios.max(axis=0), kind="stable")[:most]]

    def ratio(self, block: int, token: int) -> float:
        """How many medians a token's peak is."""
        return float(self.peaks[block, token] / max(self.median[block], 1e-30))

    def ratios(self) -> np.ndarray:
        """For each token its largest ratio over the blocks, [T]."""
        return (self.peaks / np.maximum(self.median, 1e-30)[:, None]).max(axis=0)


def stream_of(capture: Capture) -> Stream:
    """Read the residual stream after every block once."""
    found = [_one(capture.site(block, Site.RESID).abs()) for block in range(capture.blocks)]
    peaks, channels, top, median = (np.stack([row[i] for row in found]) for i in range(4))
    return Stream(peaks, channels, peaks >= RATIO * median[:, None], top, median)


def _one(size: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    peaks, channels = size.max(dim=1)
    top = size.flatten().topk(3).values
    return peaks.numpy(), channels.to(torch.int32).numpy(), top.numpy(), np.float32(np.median(size.numpy()))
