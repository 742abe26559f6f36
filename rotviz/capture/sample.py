"""Rows of sites from many windows, for methods that learn from activations: a uniform sample of all tokens, kept on disk block by block.

The float model walks over the calibration windows once; at every block the chosen tokens' rows of the chosen sites are written to a file of
their own, and read back when a method asks for them. In memory are one block, the windows' hidden states and one site at a time, whatever the
depth (and up to a gigabyte of rows that were read before): a 70B model needs no more room for its sample than its disk has.

Tokens are drawn uniformly from all positions of all windows (METHODS.md 10, defect (a) of the released DartQuant code: there the "random" tenth is
always the first). Rows behind a norm are taken without its gain, which is what R1 turns.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rotviz.capture.taps import tapped
from rotviz.models.walk import BlockSource, forward, narrowed
from rotviz.surgery.steps import fold_block, linearize_experts
from rotviz.types import Site

KEPT_BYTES = 1 << 30
"""Rows that a sample keeps in memory once they were read; what is beyond is read from disk every time."""
BATCH_TOKENS = 2048
"""Tokens pushed through a block at a time; whole windows, at least one."""


@dataclass(frozen=True)
class SiteSample:
    """Sampled rows on disk.

    Attributes:
        folder: one file a block.
        blocks: how many.
        tokens: rows of each site.
        kv_heads, head_width: shape of the heads in o_in.
    """

    folder: Path
    blocks: int
    tokens: int
    kv_heads: int
    head_width: int
    _kept: dict[tuple[int, Site], Tensor] = field(default_factory=dict, repr=False, compare=False)

    def rows(self, block: int, site: Site) -> Tensor:
        """The sampled rows [tokens, width] of a site, float32; not to be changed."""
        if (block, site) in self._kept:
            return self._kept[block, site]
        with safe_open(_file(self.folder, block), framework="pt") as file:
            found = file.get_tensor(str(site))
        if sum(kept.nbytes for kept in self._kept.values()) + found.nbytes <= KEPT_BYTES:
            self._kept[block, site] = found
        return found


def sample_sites(source: BlockSource, windows: Tensor, sites: tuple[Site, ...], count: int, generator: torch.Generator, folder: Path,
                 between: Callable[[int, int], None] | None = None, sinks: bool = False) -> SiteSample:
    """Walk over windows and keep rows.

    Args:
        source: the float model.
        windows: ids [N, L].
        sites: which sites; behind a norm they are kept without its gain.
        count: how many tokens; all of them where there are fewer.
        generator: chooses the tokens.
        folder: where the rows go; the caller removes it.
        between: called with the blocks done and all blocks; may raise to stop.
        sinks: the first token of every window is always among them: that is where massive tokens are.
    """
    windows = windows.to(source.device)
    chosen = torch.randperm(windows.numel(), generator=generator)[:count]
    if sinks:
        chosen = torch.cat([chosen, torch.arange(0, windows.numel(), windows.shape[1])])
    chosen = chosen.unique().to(source.device)  # in order
    size = min(len(windows), max(1, BATCH_TOKENS // windows.shape[1]))
    arguments = source.ends.entry(windows[:size]).arguments
    hidden = torch.cat([source.ends.entry(windows[i:i + size]).hidden for i in range(0, len(windows), size)])
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(len(source)):
        view = source.owned(index)
        linearize_experts(view)
        fold_block(view, centered=False)
        kept: dict[Site, list[Tensor]] = {site: [] for site in sites}
        for start in range(0, len(hidden), size):
            batch = hidden[start:start + size]
            inside = _inside(chosen, start * windows.shape[1], batch.shape[0] * batch.shape[1])
            with tapped(view) as seen:
                hidden[start:start + size] = forward(view.block, batch, narrowed(arguments[index], len(batch)))
            for site in sites:
                kept[site].append(seen[site][inside].float().cpu())
        save_file({str(site): torch.cat(rows) for site, rows in kept.items()}, _file(folder, index))
        if between:
            between(index + 1, len(source))
    heads = source.original(0).heads
    return SiteSample(folder, len(source), len(chosen), heads.kv, heads.width)


def _inside(chosen: Tensor, first: int, count: int) -> Tensor:
    """Which rows of a batch that begins at token `first` were chosen."""
    return chosen[(chosen >= first) & (chosen < first + count)] - first


def _file(folder: Path, block: int) -> Path:
    return folder / f"block-{block:04d}.safetensors"
