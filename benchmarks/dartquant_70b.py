"""DartQuant at the shapes of a 70B model: width 8192, 80 blocks, 8 key-value heads of 128; activations streamed from disk, no weights in memory.

    python benchmarks/dartquant_70b.py [--tokens 64] [--steps 3] [--blocks 80]

Rows are synthetic (Laplacian with a few channels twenty times larger, unit root mean square): what is measured is memory and time, which do not
depend on the numbers. Every block's rows lie in a file of their own and are read site by site, as in a run of `rotation.method = dartquant`.
Tokens are reduced so that a CPU can do it; peak memory is that of the rotation's own matrices plus one site's rows, so more tokens cost time
and disk. The paper's budget is 24 GB.
"""

import argparse
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from record import environment, save
from safetensors.torch import save_file

from rotviz.capture.sample import SiteSample
from rotviz.device import peak_memory_mb, reset_peak_memory
from rotviz.numerics.objectives import OBJECTIVES
from rotviz.rotations import LearningTask, Specs
from rotviz.rotations.hadamard import Hadamard
from rotviz.rotations.qr_learner import Schedule, learn_r1, learn_r2
from rotviz.surgery.plan import Sizes, make_plan
from rotviz.types import QuantSpec, Site, Slot

WIDTH, HEADS, KV_HEADS, HEAD = 8192, 64, 8, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--blocks", type=int, default=80)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(save("dartquant_70b", measured(Path(folder), options)))


def measured(folder: Path, options: argparse.Namespace) -> dict:
    for block in range(options.blocks):
        save_file({site: rows(options.tokens, block * 3 + k) for k, site in enumerate(("attn_in", "mlp_in", "o_in"))},
                  folder / f"block-{block:04d}.safetensors")
    sample = SiteSample(folder, options.blocks, options.tokens, KV_HEADS, HEAD)
    plan = make_plan(Hadamard().build, (Slot.R1, Slot.R2), Sizes(WIDTH, HEAD, KV_HEADS, options.blocks, (28672,)), 0)
    cpu = torch.device("cpu")
    specs = Specs(QuantSpec(), QuantSpec(4, False), QuantSpec())
    task = LearningTask(SimpleNamespace(device=cpu), torch.zeros(1, 1), plan, specs, 0, folder, lambda: None)
    schedule = Schedule("DartQuant (whip)", OBJECTIVES["whip"], options.steps, options.tokens * 2 * options.blocks, rate=0.001, head_rate=0.001)
    found = {"environment": environment(), "width": WIDTH, "blocks": options.blocks, "kv_heads": KV_HEADS, "tokens": options.tokens,
             "steps": options.steps, "rows_a_step_of_r1": options.tokens * 2 * options.blocks}
    watched = sample.rows(0, Site.ATTN_IN)[:16]
    learners = {"r1": lambda: learn_r1(task, sample, schedule, watched, (0.0, 1.0)), "r2": lambda: learn_r2(task, sample, schedule, (0.0, 1.0))}
    for name, learner in learners.items():
        reset_peak_memory(cpu)
        began = time.perf_counter()
        losses = [{k: v for k, v in step.metrics.items() if "loss" in k} for step in learner()]
        found[name] = {"seconds": time.perf_counter() - began, "peak_memory_mb": peak_memory_mb(cpu), "losses": losses}
        print(name, {k: v for k, v in found[name].items() if k != "losses"}, losses[0], losses[-1], flush=True)
    return found


def rows(tokens: int, seed: int) -> torch.Tensor:
    """Spiky rows [tokens, WIDTH] of unit root mean square."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(tokens, WIDTH, generator=generator).clamp(1e-6, 1 - 1e-6) - 0.5
    x = -uniform.sign() * torch.log1p(-2 * uniform.abs())
    x[:, :6] *= 20
    return x / x.square().mean(-1, keepdim=True).sqrt()


if __name__ == "__main__":
    main()
