"""How much of SpinQuant's gradient is signal: gradients of single windows compared, and the loss along their mean.

    python benchmarks/spinquant_signal.py [--windows 8] [--length 512] [--distances 0.5 2 6]

SmolLM2-135M, 4-bit activations, weights in float, a randomized Hadamard rotation. Each calibration window gives the straight-through gradient of its
cross-entropy in R1 and R2, made skew as the Cayley step takes it. If windows agreed on where to go, their directions would have a cosine near 1; with
a mean cosine c, the mean of n windows has a signal of  n c / (1 - c)  times its noise, in energy. Then R1 and R2 are moved along the mean
direction, exactly on the orthogonal group, and the loss is taken again on the same windows (where a gradient is at its best).
"""

import argparse
import statistics
from dataclasses import dataclass

import torch
from record import environment, save
from torch import Tensor

from rotviz.models.loading import load as load_model
from rotviz.numerics.cayley import cayley_exact
from rotviz.pipeline.prepare import calibration_tokens, prepare, rotation_plan
from rotviz.pipeline.recipe import Recipe
from rotviz.rotations.spinquant import window_loss
from rotviz.surgery.differentiable import RotatedModel
from rotviz.types import QuantSpec

Matrices = dict[str, Tensor]


@dataclass
class Problem:
    """What is differentiated: the model, where R1 and R2 start, the windows [N, L]."""

    model: RotatedModel
    start: Matrices
    windows: Tensor

    def losses(self, matrices: Matrices) -> list[float]:
        """Of each window, nats a token."""
        with torch.no_grad():
            return [float(window_loss(self.model, window, matrices)) for window in self.windows]

    def direction(self, window: Tensor) -> Matrices:
        """The skew-symmetric direction of one window's gradient, as in numerics.cayley."""
        leaves = {name: matrix.clone().requires_grad_() for name, matrix in self.start.items()}
        window_loss(self.model, window, leaves).backward()
        return {name: skew(leaf.grad, leaf.detach()) for name, leaf in leaves.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--distances", type=float, nargs="+", default=[0.5, 2.0, 6.0])
    options = parser.parse_args()
    problem = posed(options.windows, options.length)
    directions = [problem.direction(window) for window in problem.windows]
    before = problem.losses(problem.start)
    record = {"environment": environment(), "windows": options.windows, "length": options.length,
              "agreement": {name: agreement(torch.stack([d[name].flatten() for d in directions])) for name in problem.start},
              "losses": before, "along_the_mean": [along(problem, directions, distance, before) for distance in options.distances]}
    print(record["agreement"], [row["change"] for row in record["along_the_mean"]], save("spinquant_signal", record), sep="\n")


def posed(count: int, length: int) -> Problem:
    """SmolLM2-135M under a randomized Hadamard rotation, activations in 4 bits."""
    recipe = Recipe.from_dict({"rotation": {"method": "hadamard"}, "weights": {"method": "none"}, "text": {"samples": count, "length": length},
                               "activations": {"bits": 4, "symmetric": True, "clip": 0.9}})
    prepared = prepare(recipe, load_model("smollm2-135m"))
    plan = rotation_plan(recipe, prepared.sizes)
    start = {"r1": plan.r1.dense().float(), "r2": torch.stack([heads[0].dense() for heads in plan.r2]).float()}
    model = RotatedModel(prepared.source, plan, QuantSpec(), recipe.activations.spec(), recipe.kv.spec())
    return Problem(model, start, calibration_tokens(prepared))


def skew(gradient: Tensor, rotation: Tensor) -> Tensor:
    """P - P^T with P = G R^T - R (R^T G) R^T / 2."""
    lifted = gradient @ rotation.mT
    half = lifted - 0.5 * rotation @ (rotation.mT @ lifted)
    return half - half.mT


def agreement(rows: Tensor) -> dict[str, float]:
    """Cosines between the windows' directions, and how many windows make a mean whose signal is as strong as its noise."""
    unit = rows / rows.norm(dim=1, keepdim=True)
    cosines = (unit @ unit.T)[~torch.eye(len(rows), dtype=torch.bool)].tolist()
    mean = statistics.mean(cosines)
    return {"mean_cosine": mean, "spread": statistics.stdev(cosines), "windows_for_equal_signal": (1 - mean) / mean if mean > 0 else None}


def along(problem: Problem, directions: list[Matrices], distance: float, before: list[float]) -> dict:
    """The loss where R1 moved by `distance` (Frobenius norm) against the mean gradient, R2 in proportion."""
    mean = {name: torch.stack([d[name] for d in directions]).mean(0).double() for name in problem.start}
    step = distance / float(mean["r1"].norm())
    moved = {name: cayley_exact(matrix.double(), -mean[name], step).float() for name, matrix in problem.start.items()}
    losses = problem.losses(moved)
    changes = [after - was for after, was in zip(losses, before)]
    return {"distance": distance, "losses": losses, "change": statistics.mean(changes), "stderr": statistics.stdev(changes) / len(changes) ** 0.5}


if __name__ == "__main__":
    main()
