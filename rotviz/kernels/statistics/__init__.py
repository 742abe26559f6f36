"""Statistics of a site in one pass: absmax, moments to the fourth, a histogram of magnitudes, the peak of every channel and where it stands.

    seen = site_statistics(first) + site_statistics(second)         # windows that follow one another
    seen.absmax, seen.moments.kurtosis, seen.quantile(0.99), seen.top_channels(5)

So that looking at an activation costs one read of it.
"""

import torch
from torch import Tensor

from rotviz.errors import BadInput
from rotviz.kernels.choice import takes_triton
from rotviz.kernels.statistics import reference
from rotviz.kernels.statistics.site import BINS as BINS
from rotviz.kernels.statistics.site import SiteStatistics as SiteStatistics
from rotviz.kernels.statistics.site import edges as edges

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def site_statistics(x: Tensor, *, backend: str = "auto") -> SiteStatistics:
    """The statistics of x [..., D]; all axes but the last are tokens.

    Raises:
        BadInput: x is empty or not floating point, holds NaN or infinity, or the backend cannot run.
    """
    if not x.numel() or not x.is_floating_point() or not x.ndim:
        raise BadInput(f"statistics need floating-point numbers, not a tensor of shape {tuple(x.shape)} and {x.dtype}")
    rows = x.detach().reshape(-1, x.shape[-1])
    if takes_triton(x, backend, None if x.dtype in KERNEL_DTYPES else f"it reads float32, bfloat16 and float16, not {x.dtype}"):
        from rotviz.kernels.statistics.triton_kernel import launch

        found = launch(rows.contiguous())
    else:
        found = reference.site_statistics(rows) if bool(torch.isfinite(rows.abs().max())) else None
    if found is None:
        raise BadInput("the tensor holds NaN or infinity, so its statistics mean nothing; look for the first site where this happens")
    return found
