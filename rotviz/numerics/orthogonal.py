"""Random orthogonal matrices, drawn evenly from all of them (Haar measure).

The Q of a QR decomposition of a Gaussian matrix is orthogonal, but its distribution depends on the sign convention of the QR routine. With
the columns multiplied by the signs of R's diagonal the decomposition is unique, and Q is Haar distributed:

    G = Q R,   Q <- Q diag(sign(diag R))            Mezzadri, Notices of the AMS 54 (2007), arXiv math-ph/0609050
"""

import torch
from torch import Tensor


def haar(size: int, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix. -> float64 [size, size], on the CPU.

    Args:
        size: number of rows and columns.
        generator: a CPU generator; the same seed gives the same matrix.
    """
    gaussian = torch.randn(size, size, dtype=torch.float64, generator=generator)
    q, r = torch.linalg.qr(gaussian)
    signs = torch.where(r.diagonal() < 0, -1.0, 1.0).to(torch.float64)  # sign(0) would be 0 and lose a column
    return q * signs


def random_signs(size: int, generator: torch.Generator) -> Tensor:
    """Independent fair signs. -> float64 [size] of +-1, on the CPU."""
    return torch.randint(0, 2, (size,), generator=generator).to(torch.float64) * 2 - 1


def orthogonality_error(matrix: Tensor) -> float:
    """max |R^T R - I|, in float64. 0 for an exactly orthogonal matrix; about size * 1e-16 for one made by QR in float64."""
    matrix = matrix.to(torch.float64)
    gram = matrix.T @ matrix
    return float((gram - torch.eye(gram.shape[0], dtype=torch.float64, device=gram.device)).abs().max())
