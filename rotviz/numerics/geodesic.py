"""The straight way from no rotation to a rotation: R(t) with R(0) = I and R(1) = R, turning every plane evenly.

An orthogonal R is V diag(e^(i theta)) V^H with unitary V, and the geodesic of the rotation group is

    R(t) = V diag(e^(i t theta)) V^H,    -pi < theta <= pi          = exp(t log R)

V comes from one Hermitian matrix with the same eigenvectors, a (R + R^T) / 2 + b (R - R^T) / (2 i), whose eigenvalues a cos(theta) + b sin(theta)
tell the angles apart: a Hermitian solver gives an orthonormal V even where many angles coincide, as in a Hadamard matrix, which a general
one does not.

A matrix with determinant -1 is a reflection and no path of rotations leads there. One of its columns is then negated first (`flipped`): that
mirrors one channel of the result, which no error measure of a symmetric grid notices. An even number of eigenvalues -1 pairs up to turns by pi.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rotviz.numerics.rotation import Rotation

_MIX = (0.8414709848078965, 0.5403023058681398)
"""sin 1 and cos 1: a pair for which a cos + b sin separates all angles but mirror images about the angle 1 (rare, and no harm: see `geodesic`)."""
_HALF_TURN = 1e-6


@dataclass(frozen=True)
class Geodesic:
    """The path to a rotation.

    Attributes:
        vectors: V, complex [n, n].
        angles: theta [n].
        flipped: whether the last column of R was negated, so that the path ends in R with that channel mirrored.
    """

    vectors: Tensor
    angles: Tensor
    flipped: bool

    def matrix(self, t: float) -> Tensor:
        """R(t), float64 [n, n]."""
        turned = self.vectors * torch.exp(1j * t * self.angles)
        return (turned @ self.vectors.mH).real

    @property
    def length(self) -> float:
        """How far the way is: the root mean square of the angles, in radians."""
        return float(self.angles.square().mean().sqrt())


def geodesic(rotation: Rotation) -> Geodesic:
    """The path from the identity to a rotation; float64, on the CPU, one eigen-decomposition."""
    matrix = rotation.dense()
    flipped = bool(torch.linalg.det(matrix) < 0)
    if flipped:
        matrix[:, -1].neg_()
    symmetric, skew = (matrix + matrix.T) / 2, (matrix - matrix.T) / 2
    a, b = _MIX
    _, vectors = torch.linalg.eigh(a * symmetric + b * skew / 1j)
    vectors, angles = _resolved(matrix.to(vectors.dtype), vectors)
    return Geodesic(vectors, _paired(vectors, angles), flipped)


def _resolved(matrix: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors of R itself and their angles: where two different angles share an eigenvalue of the mixture, their plane is split by R."""
    inner = vectors.mH @ matrix @ vectors
    off = inner - torch.diag(inner.diagonal())
    if float(off.abs().max()) > 1e-9:
        # inner is unitary and all but diagonal: its own skew part separates what the mixture could not
        _, split = torch.linalg.eigh((inner - inner.mH) / 2j + 1e-3 * (inner + inner.mH) / 2)
        vectors = vectors @ split
        inner = vectors.mH @ matrix @ vectors
    return vectors, inner.diagonal().angle()


def _paired(vectors: Tensor, angles: Tensor) -> Tensor:
    """The angles, half of the half turns among them negative, with vectors to match: an eigenvalue -1 is its own complex conjugate, and two of them
    make one turn by pi in a real plane only if one counts as +pi and the other as -pi."""
    half = (angles.abs() - torch.pi).abs() < _HALF_TURN
    if not half.any():
        return angles
    return _pair_half_turns(vectors, angles, half.nonzero().flatten())


def _pair_half_turns(vectors: Tensor, angles: Tensor, places: Tensor) -> Tensor:
    # The space of eigenvalue -1 is real: take an orthonormal real basis u_1 .. u_2k of it and the complex pairs (u_1 +- i u_2) / sqrt 2, whose
    # angles are +pi and -pi; V diag V^H over each pair is then a real turn in the plane of u_1 and u_2 for every t.
    space = vectors[:, places]
    projector = (space @ space.mH).real
    _, basis = torch.linalg.eigh(projector)
    real = basis[:, -len(places):].to(vectors.dtype)
    one, other = real[:, 0::2], real[:, 1::2]
    vectors[:, places[0::2]], vectors[:, places[1::2]] = (one + 1j * other) / 2**0.5, (one - 1j * other) / 2**0.5
    angles = angles.clone()
    angles[places[0::2]], angles[places[1::2]] = torch.pi, -torch.pi
    return angles
