"""How an image classifier fares once it is quantized, against the float model and against the labels.

    agreement  share of images at which both models find the same class most likely (top-1 agreement)
    KL         mean over images of  sum_c p(c) (log p(c) - log q(c)),   p float, q quantized, in nats
    accuracy   share of images at which the most likely class is the label, of either model, where labels are known

Agreement and KL need no labels and leave out what the float model gets wrong anyway; accuracy is what the papers report. Each is a mean over images,
which are independent, with the standard error s / sqrt(n) (NaN for one image); the difference of the two accuracies is paired image by image, for
both models find the same images hard. An image whose logits hold NaN agrees with nothing and is counted.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from rotviz.kernels.scores import score


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over images and its standard error."""

    value: float
    stderr: float


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Of the float and of the quantized model, and quantized less float."""

    reference: Mean
    quantized: Mean
    difference: Mean


@dataclass(frozen=True, slots=True)
class Classification:
    """What was measured on some images.

    Attributes:
        agreement: share with the same most likely class, 0 to 1.
        kl_nats: mean KL divergence of the quantized from the float model.
        accuracy: None where labels are not known.
        images: how many.
        protocol: which images, in words.
        nan_images: images whose quantized logits hold NaN.
    """

    agreement: Mean
    kl_nats: Mean
    accuracy: Accuracy | None
    images: int
    protocol: str
    nan_images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def classification(reference: Tensor, quantized: Tensor, labels: Tensor | None, protocol: str) -> Classification:
    """Compare two models' logits [N, classes] on the same images; `labels` [N] where they are known."""
    top, other = reference.argmax(-1), quantized.argmax(-1)
    lost = quantized.isnan().any(-1)
    kl = score(reference, quantized, top).kl
    accuracy = None
    if labels is not None:
        right, still = (top == labels).double(), ((other == labels) & ~lost).double()
        accuracy = Accuracy(mean(right), mean(still), mean(still - right))
    return Classification(mean(((top == other) & ~lost).double()), mean(kl), accuracy, len(top), protocol, int(lost.sum()))


def mean(values: Tensor) -> Mean:
    """The mean of [N] float64 values and its standard error."""
    n = len(values)
    return Mean(float(values.mean()), float(torch.std(values)) / math.sqrt(n) if n > 1 else math.nan)
