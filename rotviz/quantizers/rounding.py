"""Learned rounding: by gradient, choose for every weight which level it goes to, so that the block's output stays where it was.

    W^ = read(clamp(round(place(W) + V)))          V in units of codes; what it may do is the method's `freedom`

    up_down     V is not added: the code is floor(place) + h, h = clip(1.2 sigmoid(V) - 0.1, 0, 1), pushed to 0 or 1 by a penalty
                penalty * mean(1 - |2h - 1|^beta), beta from 20 to 2 after a fifth of the way; in the end h >= 0.5 goes up (AdaRound, 2004.10568)
    signround   V in [-0.5, 0.5], straight-through: at most the next level                                             (SignRound, arXiv 2309.05516)
    wide        V in [-levels, levels]
    latent      V is free: the weight itself is learned, over the whole grid                                           (NUPES, arXiv 2308.05600)

The range of each row or group is learned beside it (a share of its minimum and maximum, never above 1), on the power grid the exponent too, which
starts where the search found it (power_grid.py). Both go at a rate of their own, 1 / iterations: AdaRound's variable runs 24 times as fast, and a
range at that rate jumps. What is minimized is in reconstruction.py. Only a `share` of the weights may be learned; the others are rounded to nearest.
Which: whole output channels at random, single weights at random, or those that lie nearest to the middle between two levels (`undecided`), where
going the other way costs least.

Defaults are SignRound's but for the loss: sign of the gradient, rate 1 / iterations falling linearly to 0 (so that V can just cross the half), 8
windows a step, best state kept. The rate is in units of codes for every optimizer: sgd divides each gradient by its root mean square, which a fixed
rate would otherwise have to be tuned for layer by layer. The study of these choices follows 2308.07662, of which only the abstract could be read.

Departures. The loss is `normalized` by default. A massive token's error is thousands of times any other's, so that a plain mean over tokens is that
token's alone: on SmolLM2-135M at W3A16g64 the block loss fell to a sixth of plain rounding's and the perplexity rose eightfold. The best state is
judged on all calibration windows, weights exactly on their grids, up to ten times on the way; the start (plain rounding) is a candidate, so the
result never loses to it there. AdaRound's penalty is a mean times the loss at the start, so that one weight fits every layer (100: a short schedule
has to push harder than AdaRound's 20,000 steps), and its rate is 24 / iterations: V must travel about 1.5 for h to change its mind, and as far
again for it to be sure. Activations and KV cache are rounded on the way as they will be in the deployed model.
"""

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rotviz.config import setting
from rotviz.quantizers import QUANTIZERS, BlockResult, BlockTask, Progress
from rotviz.quantizers.block import linear_paths, runnable, stages, with_hooks
from rotviz.quantizers.codes import FREEDOMS, SELECTIONS, LearnedCodes
from rotviz.quantizers.descent import OPTIMIZERS, Descent
from rotviz.quantizers.reconstruction import LOSSES, BlockProblem, LayerProblem, Problem, check_task
from rotviz.types import FORMATS, QuantSpec

WARM_UP = 0.2
BETA_FIRST, BETA_LAST = 20.0, 2.0
_LOOKS = 10
_LOOKING = 0.25
"""Times on the way that the state is judged on all windows; fewer where that would take more than this share of what learning takes (a step costs its
windows three times: forward, and twice as much back)."""
TRAVEL = {"signround": 1.0, "wide": 3.0, "latent": 3.0, "up_down": 24.0}
"""Rate times iterations, in units of the variable, where no rate is given. With a rate that falls to 0 the distance covered is half of it: just the
half level that SignRound allows, and enough to use the freedom of the others."""


@QUANTIZERS.register("rounding")
@dataclass(frozen=True, slots=True)
class LearnedRounding:
    """Learns which level each weight goes to."""

    summary: ClassVar[str] = "Learn by gradient which level each weight goes to (SignRound, AdaRound, wider), its range, and a power grid's exponent."
    calibrated: ClassVar[bool] = True

    freedom: str = setting("signround", "what a weight may do: go up or down, to the next level, further, or anywhere", choices=FREEDOMS)
    levels: float = setting(1.5, "how far a weight may move with freedom = wide, in levels", minimum=0.5, maximum=16)
    loss: str = setting("normalized", "what is kept: each layer's output; the block's, as it is, relative to each token's energy, in direction, or "
                        "weighted by importance; or the predictions that the model's end reads from it", choices=LOSSES)
    kl_tokens: int = setting(32, "tokens of each window whose predictions loss = kl compares; 0 = all", minimum=0, added=True)
    target: str = setting("float", "what the float block is fed for the target: what the float model produces, or the same as the quantized block",
                          choices=("float", "same"))
    optimizer: str = setting("sign", "direction of a step: the gradient's sign, the scaled gradient, or Adam's", choices=OPTIMIZERS)
    variable: str = setting("codes", "unit of the variables and their rate: codes, or weights (one mean step for a whole matrix)",
                            choices=("codes", "weights"))
    iterations: int = setting(200, "steps on each block", minimum=1)
    rate: float = setting(0.0, "learning rate in codes a step; 0 = 1 / iterations (wide and latent 3 /, up_down 24 / iterations)", minimum=0)
    range_rate: float = setting(0.0, "learning rate of ranges and exponents; 0 = 1 / iterations", minimum=0, added=True)
    batch: int = setting(8, "windows in a step", minimum=1)
    learn_range: bool = setting(True, "learn each row's or group's range as well")
    learn_exponent: bool = setting(True, "learn the exponent of a power grid as well")
    share: float = setting(1.0, "share of the weights whose rounding is learned", minimum=0, maximum=1)
    selection: str = setting("channels", "which weights these are: output channels at random, weights at random, or those nearest to the middle "
                             "between two levels", choices=SELECTIONS, added=True)
    augment: float = setting(0.0, "noise on what a block reads in each step: every number times 1 + this times a normal number", minimum=0, maximum=1,
                             added=True)
    penalty: float = setting(100.0, "weight of AdaRound's penalty, for freedom = up_down", minimum=0)
    keep_best: bool = setting(True, "keep the best state, not the last")

    @property
    def needs_fisher(self) -> bool:
        """Whether the task must bring the gradient's second moments."""
        return self.loss == "importance"

    def refusal(self, spec: QuantSpec) -> str | None:
        if spec.number_format not in ("int", "int_min", "power"):
            return (f"rounding is learned on even and power grids (weights.format = int, int_min or power), not on {spec.number_format} "
                    f"({FORMATS[spec.number_format].words}); use rtn or gptq")
        return None

    def quantize_block(self, task: BlockTask) -> Generator[Progress, None, BlockResult]:
        check_task(self.loss, task)
        if self.loss == "layer":
            return (yield from _by_layer(self, task))
        problem = BlockProblem(self, task, lambda view: _codes_of(self, task, view))
        metrics = yield from _learn(self, task, problem, 0.0, 1.0)
        return _result(task, problem.codes, metrics)


def _learn(method: LearnedRounding, task: BlockTask, problem: Problem, start: float, stop: float) -> Generator[Progress, None, dict[str, float]]:
    """Minimize a problem's loss; leaves its codes in the state to deploy."""
    learned = [codes for codes in problem.codes.values() if codes.learns]
    size = min(method.batch, problem.count)
    before = best_loss = problem.whole_loss(size)
    best = [codes.state() for codes in learned]
    rate = method.rate or TRAVEL[method.freedom] / method.iterations
    slower = (method.range_rate or 1 / method.iterations) / rate
    descent = Descent(method.optimizer, [group for codes in learned for group in codes.groups(slower)])
    draws = _draws(problem.count, size, task.generator)
    look_every = math.ceil(method.iterations / _looks(method.iterations * size, problem.count))
    notes: dict[str, float] = {}
    for i in range(method.iterations if learned else 0):
        task.stop_if_cancelled()
        done = i / method.iterations
        loss = problem.loss(next(draws), problem.tensors(hard=False), learning=True) / max(before, 1e-30)
        penalty = _penalty(method, learned, done)
        if not torch.isfinite(loss):
            notes["stopped"] = float(i)
            break
        descent.step(loss + penalty, rate * (1 - done))
        for codes in learned:
            codes.project()
        if (i + 1) % look_every == 0 or i + 1 == method.iterations:
            now = problem.whole_loss(size)
            if now < best_loss or not method.keep_best:
                best_loss, best = now, [codes.state() for codes in learned]
            fraction = start + (stop - start) * (i + 1) / method.iterations
            yield Progress(fraction, f"step {i + 1} of {method.iterations}", {"loss": now, "start": before})
    for codes, state in zip(learned, best):
        codes.restore(state)
    return {"loss_before": before, "loss_after": best_loss, **notes}


def _looks(windows: int, count: int) -> int:
    """How often to judge the state on all `count` windows where learning sees `windows` in all."""
    return min(_LOOKS, max(1, int(_LOOKING * 3 * windows / count)))


def _by_layer(method: LearnedRounding, task: BlockTask) -> Generator[Progress, None, BlockResult]:
    """Each linear for itself, in the order of the data; its inputs come from the block as it is by then."""
    plain, current = runnable(task, quantized=False), runnable(task, quantized=True)
    codes = _codes_of(method, task, plain)
    metrics: dict[str, float] = {}
    totals = [0.0, 0.0]
    done, count = 0, len(linear_paths(plain))
    for paths in stages(plain):
        inputs = _inputs(task, current, paths, task.inputs)
        originals = _inputs(task, plain, paths, task.float_inputs) if method.target == "float" else inputs
        for path in paths:
            problem = _layer_problem(method, task, path, codes[path], plain.block.get_submodule(path).weight.data, inputs[path], originals[path])
            if problem is not None:
                found = yield from _learn(method, task, problem, done / count, (done + 1) / count)
                metrics |= {f"{path}.{name}": value for name, value in found.items()}
                totals = [totals[0] + found["loss_before"], totals[1] + found["loss_after"]]
            current.block.get_submodule(path).weight.data = codes[path].weight(hard=True)
            done += 1
    return _result(task, codes, metrics | {"loss_before": totals[0], "loss_after": totals[1]})


def _layer_problem(method: LearnedRounding, task: BlockTask, path: str, codes: LearnedCodes, weight: Tensor, x: Tensor | None,
                   original: Tensor | None) -> LayerProblem | None:
    """None where no token reaches the linear (an expert). Where routing differs between the streams the target is taken on the quantized one's
    rows.
    """
    if x is None or len(x) < len(task.inputs):
        return None
    rows = x, original if original is not None and original.shape == x.shape else x
    return LayerProblem(path, codes, weight, rows, method.augment, task)


def _inputs(task: BlockTask, view, paths: list[str], stream: Tensor) -> dict[str, Tensor | None]:
    """All rows that reach some linears while a stream runs through a block."""
    kept: dict[str, list[Tensor]] = {path: [] for path in paths}

    def keeping(path: str) -> Callable:
        return lambda _, inputs: kept[path].append(inputs[0].detach().reshape(-1, inputs[0].shape[-1]))

    with_hooks(task, view, {path: keeping(path) for path in paths}, stream)
    return {path: torch.cat(rows) if rows else None for path, rows in kept.items()}


def _codes_of(method: LearnedRounding, task: BlockTask, plain) -> dict[str, LearnedCodes]:
    return {path: LearnedCodes(module.weight.data, task.parts(path, len(module.weight)), freedom=method.freedom, levels=method.levels,
                               in_weights=method.variable == "weights", learn_range=method.learn_range, learn_exponent=method.learn_exponent,
                               share=method.share, selection=method.selection, generator=task.generator)
            for path, (module, _) in linear_paths(plain).items()}


def _draws(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Windows of each step: every window once in a random order, again and again."""
    while True:
        order = torch.randperm(count, generator=generator)
        yield from (part for part in order.split(size) if len(part) == size)


def _penalty(method: LearnedRounding, learned: list[LearnedCodes], done: float) -> Tensor | float:
    if method.freedom != "up_down" or done < WARM_UP:
        return 0.0
    beta = BETA_LAST + (BETA_FIRST - BETA_LAST) * (1 - (done - WARM_UP) / (1 - WARM_UP))
    return method.penalty * sum(codes.undecided(beta) for codes in learned)


def _result(task: BlockTask, codes: dict[str, LearnedCodes], metrics: dict[str, float]) -> BlockResult:
    tensors, found = {}, dict(metrics)
    for path, one in codes.items():
        tensors[f"{path}.weight"] = one.weight(hard=True).to(task.view.block.get_submodule(path).weight.dtype)
        found |= {f"{path}.{name}": value for name, value in one.summary().items()}
    stopped = [name for name in metrics if name.endswith("stopped")]
    notes = tuple(f"the loss was not finite after {int(metrics[name])} steps; the best state before was kept" for name in stopped)
    return BlockResult(tensors, notes, found)
