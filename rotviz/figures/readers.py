"""The weights that read a captured site, and SmoothQuant between the two: what figures need of a model beyond its activations.

    X / s,  W diag(s),  s = max|X|^alpha / max|W|^(1 - alpha)      (surgery/smoothing.py)

Only the two sites behind a norm can be scaled so, because 1/s folds into the norm's gain. The model is loaded once for a figure and let go.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from rotviz.capture.capture import NORMED_SITES
from rotviz.errors import BadInput
from rotviz.figures import Seen
from rotviz.models.family import LinearSlice
from rotviz.models.loading import load, weights_mark
from rotviz.models.walk import BlockSource
from rotviz.surgery.smoothing import smoothing_scale
from rotviz.surgery.steps import linearize_experts
from rotviz.types import Site


@dataclass(frozen=True)
class Smoothed:
    """A site and the weights that read it after SmoothQuant: rows [T, D], weight [N, D] (all readers below each other), scale [D]."""

    rows: np.ndarray
    weight: np.ndarray
    scale: np.ndarray


def smoothed(seen: Seen, alpha: float) -> Smoothed:
    """The site of a figure under SmoothQuant.

    Raises:
        BadInput: the site is not behind a norm.
    """
    rows, readers = seen.capture.site(seen.block, seen.site), readers_of(seen)
    scale = smoothing_scale(rows.abs().amax(0), readers, alpha)
    weight = torch.cat([reader.weight.float() for reader in readers])
    return Smoothed((rows / scale).numpy(), (weight * scale).numpy(), scale.numpy())


def readers_of(seen: Seen) -> list[LinearSlice]:
    """The linears that read a site behind a norm, routers apart, as the checkpoint has them.

    Raises:
        BadInput: the site is another one.
    """
    if seen.site not in NORMED_SITES:
        raise BadInput(f"SmoothQuant scales what a norm puts out, and {seen.site} is not behind one: choose {' or '.join(NORMED_SITES)}")
    return _readers(seen.look.model, weights_mark(seen.look.model), seen.block, seen.site)


@lru_cache(maxsize=1)  # a figure asks once for each alpha
def _readers(model: str, mark: str, block: int, site: Site) -> list[LinearSlice]:
    view = BlockSource(load(model).model).owned(block)
    linearize_experts(view)
    return view.attention_readers() if site is Site.ATTN_IN else [reader for mlp in view.mlps for reader in mlp.readers]


def readers_weight(seen: Seen) -> Tensor:
    """The weights [N, D] of all readers below each other, float32."""
    return torch.cat([reader.weight.float() for reader in readers_of(seen)])
