"""QR-Orth: learn an orthogonal matrix through an unconstrained one (DartQuant, arXiv 2511.04063).

    Z any square matrix,  Z = Q U  (QR, U upper triangular),  R = Q;   Z <- optimizer(Z, dL/dZ)

Every Z of full rank gives an orthogonal R, so an ordinary optimizer may walk wherever it likes. The gradient comes through the QR in closed form:

    M = -G^T Q,   dL/dZ = (G + Q (tril(M) + stril(M)^T)) U^-T         G = dL/dQ, stril the strictly lower part

(Walter and Lehmann's formula for square full-rank matrices; here as in METHODS, tested against finite differences and autograd.) That is one
product and one triangular solve where autograd through `torch.linalg.qr` keeps and walks a graph. A QR costs about 4/3 n^3 where a Cayley step's
fixed-point iteration costs 6 n^3.

The scale of Z drifts (its gradient is orthogonal to it), which lowers the effective rate; `orthonormal` starts it anew without changing R.
The signs of Q's columns are made those of Z (diag U > 0), so that R moves continuously with Z.

All functions take batches: [..., n, n].
"""

import torch
from torch import Tensor


def orthonormal(z: Tensor) -> tuple[Tensor, Tensor]:
    """(Q, U) with Q U = Z, Q orthogonal, U upper triangular with a positive diagonal."""
    q, u = torch.linalg.qr(z)
    signs = torch.where(u.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(z.dtype)
    return q * signs[..., None, :], u * signs[..., :, None]


def latent_gradient(q: Tensor, u: Tensor, gradient: Tensor) -> Tensor:
    """dL/dZ from dL/dQ, with (Q, U) = orthonormal(Z)."""
    m = -gradient.mT @ q
    symmetric = m.tril() + m.tril(-1).mT
    right = gradient + q @ symmetric
    # X U^T = right  <=>  X = right U^-T
    return torch.linalg.solve_triangular(u.mT, right, upper=False, left=False)


class Descent:
    """The optimizer of one latent matrix (or a batch of them): SGD with momentum, or Adam. Keeps no hidden global state.

    Args:
        shape: of Z.
        kind: "sgd" or "adam".
        momentum: of SGD, 0 to 1.
        like: a tensor whose dtype and device the moments take.
    """

    def __init__(self, kind: str, momentum: float, like: Tensor) -> None:
        self.kind, self.momentum, self.steps = kind, momentum, 0
        self.first = torch.zeros_like(like)
        self.second = torch.zeros_like(like) if kind == "adam" else None

    def step(self, z: Tensor, gradient: Tensor, rate: float) -> Tensor:
        """The next Z."""
        self.steps += 1
        if self.kind == "sgd":
            self.first = self.momentum * self.first + gradient
            return z - rate * self.first
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient.square()
        mean, square = self.first / (1 - 0.9**self.steps), self.second / (1 - 0.999**self.steps)
        return z - rate * mean / (square.sqrt() + 1e-8)
