"""What DartQuant and Peak share: QR-Orth on an objective of rotated rows, batch by batch, one site's rows in memory at a time.

    Z <- optimizer(Z, dL/dZ),   R = Q of Z;      dL/dR = sum over the batch's pieces of  x^T dL/do,   o = x R

R1 learns from the rows of all blocks together, R2 block by block and head by head.

A rate is found by itself where none is given: the first step is stated as the angle |dR|_F / sqrt(n) that R turns by, and of ANGLES the one whose
loss is lowest after a few steps on one batch is taken. Angles mean the same at every width; learning rates do not (those of table 23 in
the DartQuant paper span a factor of ten).
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rotviz.capture.sample import SiteSample
from rotviz.numerics.objectives import Objective, unit_rms
from rotviz.numerics.orthogonal import orthogonality_error
from rotviz.numerics.qr_orth import Descent, latent_gradient, orthonormal
from rotviz.numerics.rotation import Rotation
from rotviz.rotations import LearningStep, LearningTask
from rotviz.rotations.learning import R1_SITES, Watch, evaluated_grid, exact, head_rows
from rotviz.types import QuantSpec, Site

ANGLES = (0.01, 0.03, 0.1, 0.3)
"""First steps that are tried, in radians."""
TRIAL_STEPS = 8
WATCH_EVERY = 5

Piece = Callable[[], Tensor]
"""Reads some rows [..., T, n] when it is called, so that only one piece of a batch is in memory."""
Batch = Callable[[], list[Piece]]
"""Makes a fresh batch."""


@dataclass(frozen=True)
class Schedule:
    """How to descend.

    Attributes:
        name: of the method, for `describe` and messages.
        objective: see numerics.objectives.
        steps: of R1 and of each block's R2.
        batch: rows in a step of R1.
        rate, head_rate: learning rates of R1 and R2; 0 = found by trial.
        optimizer, momentum: see numerics.qr_orth.Descent.
        unit_heads: scale R2's rows to a root mean square of 1.
    """

    name: str
    objective: Objective
    steps: int
    batch: int
    rate: float = 0.0
    head_rate: float = 0.0
    optimizer: str = "sgd"
    momentum: float = 0.9
    unit_heads: bool = False


@dataclass(frozen=True)
class State:
    """After `step` steps: the rotation [..., n, n], its loss a row on its batch, and the rotation of the lowest loss so far."""

    step: int
    rotation: Tensor
    loss: float
    best: Tensor


@dataclass
class Learner:
    """QR-Orth on one matrix or a batch of them.

    `between` is called before every piece of a batch and may raise to stop; `rate` holds the rate that is used once descent began.
    """

    schedule: Schedule
    spec: QuantSpec
    between: Callable[[], None]
    rate: float = field(default=0.0)

    def descend(self, start: Tensor, batch: Batch) -> Generator[State, None, None]:
        """Take the schedule's steps from a start [..., n, n] (orthogonal); yields a State after each, first that of the start itself."""
        pieces = batch()
        loss, gradient = self.gradient(start, pieces)
        self.rate = self.rate or self._tried(start, pieces, gradient)
        z, (q, u), best, lowest = start, orthonormal(start), start, loss
        descent = Descent(self.schedule.optimizer, self.schedule.momentum, start)
        yield State(0, start, loss, start)
        for step in range(1, self.schedule.steps + 1):
            z = descent.step(z, latent_gradient(q, u, gradient), self.rate)
            q, u = orthonormal(z)
            loss, gradient = self.gradient(q, batch())
            if loss < lowest:
                best, lowest = q, loss
            yield State(step, q, loss, best)

    def gradient(self, rotation: Tensor, pieces: list[Piece]) -> tuple[float, Tensor]:
        """Mean loss a row and its gradient in R over all pieces of a batch, one piece in memory at a time."""
        total, count, gradient = 0.0, 0, torch.zeros_like(rotation)
        for piece in pieces:
            self.between()
            rows = piece()
            lost, slope = self.schedule.objective(rows @ rotation, self.spec)
            total, count = total + float(lost), count + rows.shape[-2]
            gradient += rows.mT @ slope
        matrices = rotation[..., 0, 0].numel()
        return total / (count * matrices), gradient / count

    def _tried(self, start: Tensor, pieces: list[Piece], gradient: Tensor) -> float:
        """The rate whose loss on one batch is lowest after a few steps, among those that turn R by ANGLES at first."""
        n, momentum = start.shape[-1], self.schedule.momentum
        slope = latent_gradient(*orthonormal(start), gradient)
        turn = float(slope.square().sum((-2, -1)).mean().sqrt()) / n**0.5  # radians that a rate of 1 turns by
        unit = (1 - momentum) / max(turn, 1e-12) if self.schedule.optimizer == "sgd" else n**-0.5  # Adam moves every entry by the rate
        return min((angle * unit for angle in ANGLES), key=lambda rate: self._after_a_few(start, pieces, gradient, rate))

    def _after_a_few(self, start: Tensor, pieces: list[Piece], gradient: Tensor, rate: float) -> float:
        z, (q, u), descent = start, orthonormal(start), Descent(self.schedule.optimizer, self.schedule.momentum, start)
        for _ in range(TRIAL_STEPS):
            z = descent.step(z, latent_gradient(q, u, gradient), rate)
            q, u = orthonormal(z)
            loss, gradient = self.gradient(q, pieces)
        return loss


def learn_r1(task: LearningTask, sample: SiteSample, schedule: Schedule, watched: Tensor,
             shares: tuple[float, float]) -> Generator[LearningStep, None, Rotation]:
    """R1 from the inputs of q, k, v and gate, up of all blocks. `watched` are the rows that the news judge it on; they run between two fractions."""
    places = [(block, site) for block in range(sample.blocks) for site in R1_SITES]
    each = max(1, min(sample.tokens, schedule.batch // len(places)))
    generator, device = torch.Generator().manual_seed(task.seed), task.source.device

    def batch() -> list[Piece]:
        drawn = torch.randperm(sample.tokens, generator=generator)[:each]
        return [lambda place=place: sample.rows(*place)[drawn].to(device) for place in places]

    grid, start = evaluated_grid(task.specs), task.plan.r1.dense()
    watch = Watch(watched.to(device), grid)
    for state in Learner(schedule, grid, task.stop_if_cancelled, schedule.rate).descend(start.to(device, torch.float32), batch):
        metrics = {"step": float(state.step), "loss": state.loss / len(start)}
        if state.step % WATCH_EVERY == 0 or state.step == schedule.steps:
            metrics |= {"orthogonality": orthogonality_error(state.rotation), **watch(state.rotation)}
        done = shares[0] + (shares[1] - shares[0]) * state.step / max(schedule.steps, 1)
        yield LearningStep(done, f"R1 step {state.step} of {schedule.steps}: loss {metrics['loss']:.4g} a channel", metrics)
    return exact(state.best, schedule.name)


def learn_r2(task: LearningTask, sample: SiteSample, schedule: Schedule,
             shares: tuple[float, float]) -> Generator[LearningStep, None, tuple[tuple[Rotation, ...], ...]]:
    """R2 of every block and key-value head from the inputs of the output projections; the news run between two fractions."""
    joint = replace(schedule, objective=_over_all_heads(schedule.objective, sample))
    learned, learner = [], Learner(joint, evaluated_grid(task.specs), task.stop_if_cancelled, schedule.head_rate)
    for block, heads in enumerate(task.plan.r2):
        start = torch.stack([rotation.dense() for rotation in heads]).to(task.source.device, torch.float32)
        rows = head_rows(sample.rows(block, Site.O_IN).to(task.source.device), sample)
        rows = unit_rms(rows) if schedule.unit_heads else rows
        first, last = _first_and_last(learner.descend(start, lambda rows=rows: [lambda: rows]))  # the first block's rate serves all
        learned.append(tuple(exact(matrix, schedule.name) for matrix in last.best))
        done = shares[0] + (shares[1] - shares[0]) * (block + 1) / len(task.plan.r2)
        before, after = (state.loss / start.shape[-1] for state in (first, last))
        yield LearningStep(done, f"R2 of block {block + 1} of {len(task.plan.r2)}",
                           {"block": float(block), "head_loss_before": before, "head_loss": after})
    return tuple(learned)


def _first_and_last(states: Iterable[State]) -> tuple[State, State]:
    """Nothing between them is held on to: small matrices that outlive a step lie in the room of the large ones that it frees, and the heap grows by
    those with every step."""
    states = iter(states)
    first = next(states)
    return first, (deque(states, maxlen=1) or [first])[0]


def _over_all_heads(objective: Objective, sample: SiteSample) -> Objective:
    """The objective of whole tokens for rows by head [kv heads, T x repeats, K]: the heads of a token share one grid at the output projection, so
    that its peak is the largest of all its heads'."""
    def joint(o: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
        heads = o.unflatten(1, (sample.tokens, -1))                       # [kv, T, repeats, K]
        total, slope = objective(heads.transpose(0, 1).flatten(1), spec)  # [T, heads x K], in the model's own order
        return total, slope.view(sample.tokens, *heads.shape[::2], heads.shape[3]).transpose(0, 1).flatten(1, 2)

    return joint
