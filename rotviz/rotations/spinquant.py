"""SpinQuant: rotations learned end to end through the quantized network (arXiv 2405.16406).

    min over orthogonal R1, {R2 of each block} of the language model's cross-entropy with weights, activations and KV cache rounded

Rounding is straight-through; the weights are rotated and rounded anew in every step; R1 and R2 take Cayley SGD steps (numerics/cayley.py): rate 1.5
falling to 0 by a cosine, no momentum, 100 steps, from a randomized Hadamard matrix. The heads of a block share one R2.

As in the paper's advice, weights may stay in float while the rotation is learned (`weights = "float"`), which is the better choice where GPTQ
quantizes them afterwards; round-to-nearest wants "evaluated". Departures: a step takes one window where the paper's eight GPUs take one each
(`batch`); some windows are held out, and of the rotations that were tried on them (every `check` steps, the first included) the best is
kept, because the loss of single windows is too noisy to tell; the result is made exactly orthogonal.

The weights' clip search would cost more than the forward pass, so while learning the grid spans the range times `weight_clip`.
"""

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rotviz.config import setting
from rotviz.home import write_atomically
from rotviz.numerics.cayley import cayley_step
from rotviz.numerics.orthogonal import orthogonality_error
from rotviz.numerics.qr_orth import orthonormal
from rotviz.numerics.rotation import Rotation
from rotviz.rotations import ROTATIONS, Learned, LearningStep, LearningTask, Specs
from rotviz.rotations.learning import START_HELP, Watch, build_start, evaluated_grid, exact, watched_rows
from rotviz.surgery.differentiable import RotatedModel
from rotviz.types import QuantSpec, Slot

KEPT = "kept.safetensors"


@ROTATIONS.register("spinquant")
@dataclass(frozen=True, slots=True)
class SpinQuant:
    """Cayley SGD on R1 and R2 through the fake-quantized network."""

    summary: ClassVar[str] = "R1 and R2 learned end to end: the text's loss through the quantized network, by Cayley steps. Slow."
    learned_slots: ClassVar[tuple[Slot, ...]] = (Slot.R1, Slot.R2)

    start: str = setting("hadamard", START_HELP)
    steps: int = setting(100, "steps", minimum=0)
    batch: int = setting(1, "windows a step (the paper: 8, one on each GPU)", minimum=1)
    rate: float = setting(1.5, "first learning rate, falling to 0 by a cosine", minimum=0)
    momentum: float = setting(0.0, "momentum of the Cayley steps", minimum=0, maximum=0.999)
    weights: str = setting("evaluated", "weights while learning: rounded as evaluated, or float (for GPTQ afterwards)",
                           choices=("evaluated", "float"))
    weight_clip: float = setting(0.9, "share of the range that the weights' grid spans while learning", minimum=0.1, maximum=1)
    held_out: int = setting(2, "windows that are held out to choose the best rotation", minimum=1)
    check: int = setting(10, "steps between two looks at the held-out windows", minimum=1)

    def build(self, slot: Slot, size: int, generator: torch.Generator) -> Rotation:
        """Where learning starts."""
        return build_start(self.start, slot, size, generator)

    def scope(self, specs: Specs) -> Mapping[str, Any]:
        """Everything that is rounded."""
        return {"weights": repr(self._weights(specs)), "activations": repr(specs.activations), "kv": repr(specs.kv)}

    def learn(self, task: LearningTask) -> Generator[LearningStep, None, Learned]:
        """Descend on the windows' loss, keep the best on the held-out ones."""
        if task.plan.r1 is None and not task.plan.r2:
            return Learned(task.plan, 0, "none: neither R1 nor R2 acts")
        if not (self._weights(task.specs).quantizes or task.specs.activations.quantizes or task.specs.kv.quantizes):
            return Learned(task.plan, 0, "none: nothing is rounded", ("nothing is rounded, so no rotation changes the loss: they are as they began",))
        windows, held = self._split(task.windows.to(task.source.device))
        model = RotatedModel(task.source, task.plan, self._weights(task.specs), task.specs.activations, task.specs.kv)
        watch = Watch(watched_rows(task).to(task.source.device), evaluated_grid(task.specs)) if task.plan.r1 is not None else None
        yield LearningStep(0.05, f"{len(windows)} windows to learn from, {len(held)} to judge by")
        state = _State.resumed(task.folder, task.source.device) or _State.begun(task)
        while state.step <= self.steps:
            task.stop_if_cancelled()
            metrics: dict[str, float] = {"step": float(state.step)}
            if state.step % self.check == 0 or state.step == self.steps:
                metrics |= self._check(task, model, state, held, watch)
                state.keep(task.folder)
            message = f"step {state.step} of {self.steps}"
            if state.step < self.steps:
                metrics["loss"] = self._descend(task, model, state, windows)
                message += f": loss {metrics['loss']:.3f}"
            state.step += 1
            yield LearningStep(0.05 + 0.95 * (state.step - 1) / max(self.steps, 1), message, metrics)
        plan = self._plan(task.plan, state)
        return Learned(plan, self.steps * self.batch * windows.shape[1], f"{self.steps} of {self.batch} windows")

    def _split(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Windows to learn from and windows to judge by; the same ones where there is only one."""
        held = min(self.held_out, len(windows) - 1)
        return (windows[:-held], windows[-held:]) if held else (windows, windows)

    def _descend(self, task: LearningTask, model: RotatedModel, state: "_State", windows: Tensor) -> float:
        """One step of both rotations; the batch's loss."""
        matrices = {name: matrix.detach().requires_grad_() for name, matrix in state.matrices.items()}
        total = 0.0
        for k in range(self.batch):
            task.stop_if_cancelled()
            loss = window_loss(model, windows[(state.step * self.batch + k) % len(windows)], matrices) / self.batch
            loss.backward()
            total += float(loss.detach())
        rate = self.rate * 0.5 * (1 + math.cos(math.pi * state.step / self.steps))
        for name, matrix in matrices.items():
            if matrix.grad is None:  # nothing is rounded under it
                continue
            moved, state.velocity[name] = cayley_step(matrix.detach(), matrix.grad, state.velocity[name], rate, self.momentum)
            state.matrices[name] = orthonormal(moved)[0] if state.step % self.check == self.check - 1 else moved
        return total

    def _check(self, task: LearningTask, model: RotatedModel, state: "_State", held: Tensor, watch: Watch | None) -> dict[str, float]:
        """Judge the state on the held-out windows."""
        with torch.no_grad():
            losses = [float(window_loss(model, window, state.matrices)) for window in held]
        loss = sum(losses) / len(losses)
        if loss < state.lowest:
            state.lowest, state.best = loss, dict(state.matrices)
        found = {"held_out": loss}
        if "r1" in state.matrices:
            found |= {"orthogonality": orthogonality_error(state.matrices["r1"])} | (watch(state.matrices["r1"]) if watch else {})
        return found

    def _plan(self, plan, state: "_State"):
        if "r1" in state.best:
            plan = replace(plan, r1=exact(state.best["r1"], "SpinQuant"))
        if "r2" in state.best:
            heads = len(plan.r2[0])
            plan = replace(plan, r2=tuple((exact(matrix, "SpinQuant"),) * heads for matrix in state.best["r2"]))
        return plan

    def _weights(self, specs: Specs) -> QuantSpec:
        """How weights are rounded while learning."""
        if self.weights == "float" or not specs.weights.quantizes:
            return QuantSpec()
        return replace(specs.weights, clip=self.weight_clip)


def window_loss(model: RotatedModel, window: Tensor, matrices: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of a window [L], in nats a token."""
    logits = model.logits(window[None], matrices.get("r1"), matrices.get("r2"))[0, :-1]
    return torch.nn.functional.cross_entropy(logits.float(), window[1:])


@dataclass
class _State:
    """Where learning stands: the matrices ("r1" [D, D], "r2" [blocks, K, K]) before a step, their velocities, the best so far."""

    step: int
    matrices: dict[str, Tensor]
    velocity: dict[str, Tensor]
    best: dict[str, Tensor]
    lowest: float

    @classmethod
    def begun(cls, task: LearningTask) -> "_State":
        device, matrices = task.source.device, {}
        if task.plan.r1 is not None:
            matrices["r1"] = task.plan.r1.dense().to(device, torch.float32)
        if task.plan.r2:
            matrices["r2"] = torch.stack([heads[0].dense() for heads in task.plan.r2]).to(device, torch.float32)
        return cls(0, matrices, {k: torch.zeros_like(v) for k, v in matrices.items()}, dict(matrices), math.inf)

    @classmethod
    def resumed(cls, folder: Path, device: torch.device) -> "_State | None":
        """The state that `keep` left, if it did, on the device where learning goes on."""
        path = folder / KEPT
        if not path.is_file():
            return None
        kept = load_file(path)
        parts = [{k.split("/")[1]: v.to(device) for k, v in kept.items() if k.startswith(part)} for part in ("matrix/", "velocity/", "best/")]
        return cls(int(kept["step"]), *parts, float(kept["lowest"]))

    def keep(self, folder: Path) -> None:
        """Leave the state where a resumed task finds it."""
        named = (("matrix", self.matrices), ("velocity", self.velocity), ("best", self.best))
        tensors = {f"{part}/{name}": matrix.detach().cpu().contiguous().clone() for part, group in named for name, matrix in group.items()}
        tensors |= {"step": torch.tensor(self.step), "lowest": torch.tensor(self.lowest, dtype=torch.float64)}
        write_atomically(folder / KEPT, lambda path: save_file(tensors, path))
