"""Orthogonal Procrustes: the rotation that brings one set of rows nearest to another.

    min over orthogonal R of |X R - T|_F       =>  R = U V^T  with  U S V^T = X^T T       (Schoenemann, 1966)

Only the product C = X^T T [n, n] is needed, and it adds up over batches of rows, so that the rows are never all in memory. Weights on rows
(DFRot's gamma^2 on massive tokens, arXiv 2412.00648) go into that sum: C = sum_t w_t x_t^T t_t.
"""

import torch
from torch import Tensor


def procrustes(product: Tensor) -> Tensor:
    """The orthogonal [n, n] that maximizes tr(R^T C), in float64, in the dtype and on the device of C."""
    u, _, vh = torch.linalg.svd(product.double())
    return (u @ vh).to(product.dtype)
