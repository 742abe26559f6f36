"""One step of gradient descent on the orthogonal group by the Cayley transform (Li, Fuxin and Todorovic, arXiv 2002.01113), as SpinQuant takes it.

Along the skew-symmetric direction W the curve  Y(a) = (I - a/2 W)^-1 (I + a/2 W) X  stays orthogonal for every step a. The inverse is
replaced by a fixed-point iteration, which converges because a <= 1 / |W|_1:

    V <- m V - G                          G = dL/dR, m momentum
    W  = P - P^T,  P = V R^T - R (R^T V) R^T / 2                 the direction, made skew
    a  = min(rate, 1 / (|W|_1 + eps))
    Y <- R + a V';   5 x  Y <- R + a/2 W (R + Y);   R <- Y,  V <- W R

Written for row vectors (o = x R). Five iterations leave an orthogonality error of about 1e-5 in float32 at the largest step; `orthonormal`
of qr_orth.py makes it exact again, which SpinQuant's code does at random once in 101 steps and this one whenever it is asked.
"""

import torch
from torch import Tensor

ITERATIONS = 5
_EPSILON = 1e-8


def cayley_step(rotation: Tensor, gradient: Tensor, velocity: Tensor, rate: float, momentum: float = 0.0) -> tuple[Tensor, Tensor]:
    """One step.

    Args:
        rotation: R [..., n, n], orthogonal.
        gradient: dL/dR, same shape.
        velocity: V of the step before (zeros at first).
        rate: the largest step.
        momentum: m.

    Returns:
        The next (R, V).
    """
    velocity = momentum * velocity - gradient
    lifted = velocity @ rotation.mT
    direction = lifted - 0.5 * rotation @ (rotation.mT @ lifted)
    skew = direction - direction.mT
    norm = skew.abs().sum(-2).amax(-1)[..., None, None]  # |W|_1: the largest sum of a column
    step = torch.clamp(1 / (norm + _EPSILON), max=rate)
    moved = rotation + step * (skew @ rotation)
    for _ in range(ITERATIONS):
        moved = rotation + step / 2 * (skew @ (rotation + moved))
    return moved, skew @ rotation


def cayley_exact(rotation: Tensor, skew: Tensor, step: float) -> Tensor:
    """(I - a/2 W)^-1 (I + a/2 W) R by a solve: the slow twin of the fixed-point iteration."""
    eye = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    return torch.linalg.solve(eye - step / 2 * skew, (eye + step / 2 * skew) @ rotation)
