"""Statistics of a site in torch, several passes: the slow twin of triton_kernel.py. Moments are those of rotviz.numerics.statistics (float64)."""

import torch
from torch import Tensor

from rotviz.kernels.statistics.site import BINS, SiteStatistics, bins_of
from rotviz.numerics.statistics import CHUNK, Moments


def site_statistics(x: Tensor) -> SiteStatistics:
    """x [T, D], finite."""
    moments, counts = Moments(), torch.zeros(BINS, dtype=torch.int64)
    for rows in x.split(max(1, CHUNK // x.shape[1])):
        moments += _moments(rows.double())
        counts += torch.bincount(bins_of(rows).flatten(), minlength=BINS).cpu()
    peaks, tokens = x.abs().max(dim=0)
    return SiteStatistics(x.shape[0], moments, counts, peaks.float().cpu(), tokens.cpu())


def _moments(x: Tensor) -> Moments:
    mean = x.mean()
    centered = x - mean
    square = centered * centered
    return Moments(x.numel(), float(mean), float(square.sum()), float((square * centered).sum()), float((square * square).sum()))
