"""One step of learning an R1: QR-Orth (DartQuant, Peak) against Cayley SGD (SpinQuant), at the widths of real models.

    python benchmarks/rotation_steps.py [--widths 576 2048 4096 8192] [--rounds 3]

Both steps start from the same rotation and the same gradient and end with an orthogonal matrix; what differs is the arithmetic: QR-Orth one
QR decomposition and its backward formula, Cayley five fixed-point iterations. Autograd through torch.linalg.qr is timed as well: the closed
formula is there because it is faster. Rounds alternate; ratios are taken round by round.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from record import environment, load, save

from rotviz.numerics.cayley import cayley_step
from rotviz.numerics.orthogonal import orthogonality_error
from rotviz.numerics.qr_orth import latent_gradient, orthonormal

NAME = "rotation_steps"
RATE = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[576, 2048, 4096, 8192])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    record = load(NAME) or {"widths": {}}
    record["environment"] = environment()
    for width in options.widths:
        record["widths"][str(width)] = measured(width, options.rounds)
        print(width, {k: v for k, v in record["widths"][str(width)].items() if k != "rounds"}, save(NAME, record))


def measured(width: int, rounds: int) -> dict:
    generator = torch.Generator().manual_seed(0)
    start = orthonormal(torch.randn(width, width, generator=generator))[0]
    gradient = torch.randn(width, width, generator=generator) / width
    steps = {"qr_orth": qr_orth, "qr_autograd": qr_autograd, "cayley": cayley}
    found = [{name: timed(step, start, gradient) for name, step in steps.items()} for _ in range(rounds)]
    return {
        "rounds": found,
        "cayley_over_qr_orth": statistics.median(r["cayley"]["seconds"] / r["qr_orth"]["seconds"] for r in found),
        "autograd_over_qr_orth": statistics.median(r["qr_autograd"]["seconds"] / r["qr_orth"]["seconds"] for r in found),
    }


def qr_orth(start: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    q, u = orthonormal(start)
    return start - RATE * latent_gradient(q, u, gradient)


def qr_autograd(start: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    latent = start.clone().requires_grad_()
    (orthonormal(latent)[0] * gradient).sum().backward()
    return start - RATE * latent.grad


def cayley(start: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return cayley_step(start, gradient, torch.zeros_like(start), RATE)[0]


def timed(step: Callable, start: torch.Tensor, gradient: torch.Tensor) -> dict[str, float]:
    """Seconds of a step and how orthogonal what it ends in is (of a latent matrix: its Q, which the next step computes anyway)."""
    began = time.perf_counter()
    after = step(start, gradient)
    seconds = time.perf_counter() - began
    error = orthogonality_error(after if step is cayley else orthonormal(after)[0]) if len(start) <= 4096 else None
    return {"seconds": seconds, "orthogonality": error}


if __name__ == "__main__":
    main()
