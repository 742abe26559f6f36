"""What learned rounding minimizes: how far a quantized block, or one of its linears, is from the float one on calibration windows.

    layer         mean (x^ W^T - x W^T)^2 of one linear                                               AdaRound, arXiv 2004.10568
    block         mean (y^ - y)^2 of the block's output                                               BRECQ, arXiv 2102.05426
    normalized    mean over tokens of |y^ - y|^2 / |y|^2
    cosine        mean over tokens of 1 - y^.y / (|y^| |y|)
    importance    mean over tokens of (y^ - y) F (y^ - y)^T, F the second moments of the gradient of the model's loss at y (the full matrix
                  form of BRECQ's Fisher weights): the second-order estimate of what the model's own output loses
    kl            mean over sampled tokens of sum_v p(v) (log p(v) - log q(v)) in nats,  p = softmax(end(y)), q = softmax(end(y^))

y is the float block's output, y^ the quantized one's, `end` the model's final norm and head. So kl reads every block's output as if it were the
last: the logit lens (nostalgebraist, 2020; arXiv 2303.08112). At the last block that is the model's own divergence, earlier it is a stand-in. The
exact one would run every later block on every step. The norm makes it blind to a token's size, so a massive token counts as one. It costs
width x vocabulary products for a token, eight times a block of SmolLM2-135M, which is why a sample of tokens has to do: drawn anew for each
step, and spread evenly over the windows where states are compared.

Noise on what goes in (`augment`) multiplies each number by 1 + a n, n normal: Gaussian dropout (Srivastava et al., JMLR 2014), which leaves
channels of thousands and of ones their sizes. The float block reads the same noise, so that the target moves with it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rotviz.errors import BadInput
from rotviz.quantizers import BlockTask
from rotviz.quantizers.block import mean_error, outputs, run, runnable
from rotviz.quantizers.codes import LearnedCodes
from rotviz.types import Modality

LOSSES = ("layer", "block", "normalized", "cosine", "importance", "kl")


def kl_nats(reference: Tensor, logits: Tensor) -> Tensor:
    """Mean KL divergence in nats of softmax(logits) from softmax(reference), [..., V] both; differentiable in the logits."""
    reference, logits = (x if x.dtype == torch.float64 else x.float() for x in (reference, logits))
    p = reference.log_softmax(-1)
    return (p.exp() * (p - logits.log_softmax(-1))).sum(-1).mean()


class Problem(ABC):
    """What is minimized: a loss on some windows, given the quantized weights."""

    codes: dict[str, LearnedCodes]
    count: int

    @abstractmethod
    def loss(self, windows: Tensor, weights: dict[str, Tensor], learning: bool) -> Tensor:
        """The mean loss over some windows [n]; `learning`: as a step sees it, with noise and a random sample of tokens."""

    def tensors(self, hard: bool) -> dict[str, Tensor]:
        """The quantized weights by path."""
        return {path: codes.weight(hard) for path, codes in self.codes.items()}

    def whole_loss(self, size: int) -> float:
        """The mean loss over all windows, weights exactly on their grids; infinite where it is not a number."""
        with torch.no_grad():
            weights = self.tensors(hard=True)
            total = sum(float(self.loss(part, weights, learning=False)) * len(part) for part in torch.arange(self.count).split(size)) / self.count
        return total if total == total else float("inf")


class BlockProblem(Problem):
    """The block's output against the float block's.

    Args:
        method: a LearnedRounding.
        codes_of: makes the variables of a block's linears.
    """

    def __init__(self, method: Any, task: BlockTask, codes_of: Callable) -> None:
        check_task(method.loss, task)
        self.task, self.kind, self.count = task, method.loss, len(task.inputs)
        self.augment, self.kl_tokens = method.augment, method.kl_tokens
        self.block = runnable(task, quantized=True).block
        plain = runnable(task, quantized=False)
        self.plain, self.stream = plain.block, task.float_inputs if method.target == "float" else task.inputs
        self.target = outputs(task, self.plain, self.stream)
        self.codes = codes_of(plain)
        self.fisher = None if task.fisher is None else task.fisher.to(self.target)

    def loss(self, windows: Tensor, weights: dict[str, Tensor], learning: bool) -> Tensor:
        x, target = self.task.inputs[windows].to(self.target.dtype), self.target[windows]
        if learning and self.augment:
            factor = noise_like(x, self.augment, self.task.generator)
            x, target = x * factor, self._target(self.stream[windows].to(x.dtype) * factor)
        tensors = {f"{path}.weight": weight for path, weight in weights.items()}
        return self._distance(run(self.block, x, self.task.arguments(len(x)), tensors), target, learning)

    def _distance(self, found: Tensor, target: Tensor, learning: bool) -> Tensor:
        if self.kind == "kl":
            places = self._places(found.shape[1], learning).to(found.device)
            return _divergence(self.task.finish, target[:, places], found[:, places])
        if self.kind == "cosine":
            return (1 - nn.functional.cosine_similarity(found, target, dim=-1)).mean()
        if self.kind == "importance":
            return (((found - target) @ self.fisher) * (found - target)).sum(-1).mean()
        return mean_error(found, target, self.kind == "normalized")

    def _places(self, length: int, learning: bool) -> Tensor:
        """The tokens of a window whose predictions are compared."""
        wanted = min(self.kl_tokens or length, length)
        if learning and wanted < length:
            return torch.randperm(length, generator=self.task.generator)[:wanted].sort().values
        return torch.linspace(0, length - 1, wanted).round().long()

    def _target(self, stream: Tensor) -> Tensor:
        with torch.no_grad():
            return run(self.plain, stream, self.task.arguments(len(stream)))


class LayerProblem(Problem):
    """One linear's output; x and what the float linear reads are rows [R, D], cut into as many windows as the task has."""

    def __init__(self, path: str, codes: LearnedCodes, weight: Tensor, rows: tuple[Tensor, Tensor], augment: float, task: BlockTask) -> None:
        self.path, self.codes, self.weight, self.augment = path, {path: codes}, weight, augment
        self.count, self.generator = len(task.inputs), task.generator
        self.rows, self.originals = (part.tensor_split(self.count) for part in rows)
        self.target = [part @ weight.T for part in self.originals]

    def loss(self, windows: Tensor, weights: dict[str, Tensor], learning: bool) -> Tensor:
        x, target = (torch.cat([parts[i] for i in windows.tolist()]) for parts in (self.rows, self.target))
        if learning and self.augment:
            factor = noise_like(x, self.augment, self.generator)
            x, target = x * factor, (torch.cat([self.originals[i] for i in windows.tolist()]) * factor) @ self.weight.T
        return (x @ weights[self.path].T - target).square().mean()


def check_task(loss: str, task: BlockTask) -> None:
    """Raises BadInput where a task does not bring what a loss needs."""
    if loss == "importance" and task.fisher is None:
        raise BadInput("loss = importance needs the gradient of the model's loss, which this run has not collected")
    if loss == "kl" and task.view.family.modality is Modality.IMAGE:
        raise BadInput("loss = kl compares what every position predicts, and an image classifier predicts at one token alone, which would leave the "
                       "patches to chance; use normalized, block or importance")
    if loss == "kl" and task.finish is None:
        raise BadInput("loss = kl needs the end of the model (BlockTask.finish), which this task does not bring")


def noise_like(x: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """1 + amount n, n standard normal, in the shape of x."""
    return (1 + amount * torch.randn(x.shape, generator=generator)).to(x)


def _divergence(finish: Callable[[Tensor], Tensor], target: Tensor, found: Tensor) -> Tensor:
    with torch.no_grad():
        reference = finish(target)
    return kl_nats(reference, finish(found))
