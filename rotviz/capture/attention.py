"""Attention received: where the heads of every block look while the model reads a captured text.

    share[b, t] = mean over heads and over the later tokens that may look at t of the attention probability that t gets

A token far above its neighbours is an attention sink (Xiao et al., arXiv 2309.17453): heads that have nothing to say look at it, and in trained
models it is the massive token (Massive Activations, arXiv 2402.17762, Section 4). A capture keeps what enters the linears, not the queries, so
each block is run once more on the residual stream that the capture holds.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from rotviz.capture.capture import Capture
from rotviz.types import Site

if TYPE_CHECKING:
    from rotviz.models.walk import BlockSource


def attention_received(seen: Capture, source: "BlockSource", progress: Callable[[float, str], None] | None = None) -> np.ndarray:
    """[blocks, T] shares, 0 to 1; NaN for the last token, at which nobody looks.

    Args:
        seen: the capture.
        source: the model that was captured.
        progress: called with the share done and words.
    """
    from rotviz.models.attention import Attended, watched
    from rotviz.models.walk import forward

    device, tokens = source.ends.model.device, len(seen.tokens)
    entry = source.ends.entry(torch.zeros(1, tokens, dtype=torch.long, device=device))  # a block's arguments depend on positions alone
    found: list[np.ndarray] = []

    def watch(attended: Attended) -> None:
        found.append(attended.received()[0].float().cpu().numpy())

    for block in range(seen.blocks):
        before = seen.embedding() if block == 0 else seen.site(block - 1, Site.RESID)
        view = source.original(block)
        with watched(view.attention, watch):
            forward(view.block, before[None].to(device, next(view.block.parameters()).dtype), entry.arguments[block])
        if progress:
            progress((block + 1) / seen.blocks, f"attention of block {block + 1} of {seen.blocks}")
    return np.stack(found)
