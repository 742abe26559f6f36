"""What methods that learn have in common: where they start, and what they say of themselves while they go.

Only the folded slots are learned; R3 and R4 stay randomized Hadamard rotations, because a dense product online would cost what low bits save.
"""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from rotviz.capture.sample import SiteSample, sample_sites
from rotviz.errors import BadInput
from rotviz.kernels.quantize import fake_quantize
from rotviz.numerics.massive import dfrot_massive_mask
from rotviz.numerics.qr_orth import orthonormal
from rotviz.numerics.rotation import DenseRotation, Rotation
from rotviz.rotations import ROTATIONS, LearningStep, LearningTask, Specs, learns
from rotviz.types import FORMATS, Granularity, QuantSpec, Site, Slot

R1_SITES = (Site.ATTN_IN, Site.MLP_IN)
"""What R1 turns: the inputs of q, k, v and of gate, up."""
WATCHED_TOKENS = 128
"""Tokens whose rows a method watches while it learns."""

STARTS = {"identity": "none"}
"""Names for `start` beside those of the methods that do not learn."""
START_HELP = "where R1 and R2 start: hadamard, orthogonal, identity, or the .safetensors file of a saved rotation (methods chain that way)"


def build_start(start: str, slot: Slot, size: int, generator: torch.Generator) -> Rotation:
    """The rotation that learning starts from in a slot; R3 and R4, which are not learned, are Hadamard.

    Raises:
        BadInput: start names a method that learns itself, a file (which holds a plan, see pipeline.learn), or nothing that is known.
    """
    name = STARTS.get(start, start) if slot in (Slot.R1, Slot.R2) else "hadamard"
    if is_file(name):
        raise BadInput(f"start = {start} is a file of a whole model's rotations: it cannot start a single matrix")
    if name not in ROTATIONS or learns(ROTATIONS[name]):
        known = ["identity", *(n for n in ROTATIONS if n != "none" and not learns(ROTATIONS[n]))]
        raise BadInput(f"start = {start!r} is unknown; use {', '.join(known)}, or the .safetensors file of a saved rotation")
    return ROTATIONS[name]().build(slot, size, generator)


def is_file(start: str) -> bool:
    """Whether a start is the file of a saved rotation."""
    return Path(start).suffix == ".safetensors"


def sampled(task: LearningTask, share: float, sites: tuple[Site, ...], until: float,
            sinks: bool = False) -> Generator[LearningStep, None, SiteSample]:
    """Sample a share of the task's tokens at some sites of the float model (see capture.sample); the news go up to the fraction `until`."""
    yield LearningStep(0.0, "sampling activations")
    count = max(1, round(share * task.windows.numel()))
    sample = sample_sites(task.source, task.windows, sites, count, torch.Generator().manual_seed(task.seed), task.folder / "rows",
                          lambda *_: task.stop_if_cancelled(), sinks)
    yield LearningStep(until, f"{sample.tokens} tokens of {task.windows.numel()} sampled at {len(sites)} sites of {sample.blocks} blocks")
    return sample


def watched_rows(task: LearningTask) -> Tensor:
    """Rows [places x about WATCHED_TOKENS, D] of all that R1 turns, un-rotated: what a `Watch` needs. From the first window, its first token, where
    massive tokens are, among them; learning itself may not see that token."""
    sample = sample_sites(task.source, task.windows[:1], R1_SITES, WATCHED_TOKENS, torch.Generator().manual_seed(task.seed),
                          task.folder / "watched", lambda *_: task.stop_if_cancelled(), sinks=True)
    return torch.cat([sample.rows(block, site) for block in range(sample.blocks) for site in R1_SITES])


def evaluated_grid(specs: Specs) -> QuantSpec:
    """The grid that the inputs of the linear layers are rounded to; where they stay in float its form at 4 bits, or the format's own bits."""
    grid = specs.activations if specs.activations.quantizes else replace(specs.activations, bits=bits_near(4, specs.activations.number_format))
    return replace(grid, granularity=Granularity.GROUP if grid.group else Granularity.TOKEN)


def bits_near(bits: int, number_format: str) -> int:
    """`bits`, or those that the format has, if it has no choice."""
    known = FORMATS[number_format].bits
    return bits if bits in known else known[0]


def head_rows(rows: Tensor, sample: SiteSample) -> Tensor:
    """[T, query heads x K] -> [kv heads, T x repeats, K]: what the query heads of a key-value head hand to the output projection."""
    return rows.unflatten(-1, (sample.kv_heads, -1, sample.head_width)).permute(1, 0, 2, 3).flatten(1, 2).contiguous()


def exact(matrix: Tensor, name: str) -> DenseRotation:
    """A learned matrix made orthogonal in float64."""
    return DenseRotation(orthonormal(matrix.double().cpu())[0], name=name)


class Watch:
    """Measures a rotation on some rows as it is learned: relative error of rounding, massive and ordinary tokens apart.

    Args:
        rows: un-rotated rows [T, D].
        spec: the grid.
    """

    def __init__(self, rows: Tensor, spec: QuantSpec) -> None:
        self.rows, self.spec = rows, spec
        self.massive = dfrot_massive_mask(rows)

    def __call__(self, rotation: Tensor) -> dict[str, float]:
        """{"massive", "ordinary"}: sum of errors / sum of energies; without massive tokens there is no "massive"."""
        turned = self.rows @ rotation.to(self.rows.dtype)
        error = (turned - fake_quantize(turned, self.spec)).square().sum(-1, dtype=torch.float64)
        energy = self.rows.square().sum(-1, dtype=torch.float64)
        found = {"ordinary": ~self.massive, "massive": self.massive}
        return {name: float(error[mask].sum() / energy[mask].sum()) for name, mask in found.items() if mask.any() and energy[mask].sum() > 0}
