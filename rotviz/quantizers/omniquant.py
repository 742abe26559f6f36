"""OmniQuant: learn where to clip weights (LWC) and how to scale channels (LET), block by block against the float block.

    minimize   mean (F(W, X_float) - F(Q(W~; g, b), X_quantized; s))^2        X_quantized: what the quantized blocks before produce
    LWC        range of a row or group = [sigmoid(b) min W~, sigmoid(g) max W~]; the logits start at 4 (0.982 of the range)
    LET        norm -> q, k, v;  norm -> gate, up;  v -> o;  q -> k by scales s (surgery.scales), and shifts after a LayerNorm

Reference: arXiv 2308.13137. AdamW without decay, 20 epochs of single windows, 1e-2 for LWC and 5e-3 for LET as in the released code (the paper's text
swaps the two), |s| >= 1e-2 after each step, s starting at max|X|^alpha / max|W|^(1 - alpha), the q -> k scales at 1. Everything folds away: what is
returned are rounded weights and a norm's gain.

Departures. The loss takes each token's error relative to the token's own energy (loss = "block" is the published mean): where one massive token
holds nearly all the energy, a plain mean is that token's alone, and what it asks for hurts the others (rounding.py has the numbers). Computed in
float32 throughout, so that there is no loss scaling to go wrong; a loss that is not finite ends a block's learning with a note. After each epoch
the state is judged on all windows, weights exactly on their grids, and the best is kept, the start among them: with a few windows AdamW's last step
is not always its best. The loss is divided by its first value, to which AdamW is blind but for its epsilon. A logit starts from the recipe's clip
where that is below 0.982 (clip = "none" is the published start). W~'s ranges take all readers of a norm, not q alone, and exact forms of the
transforms stand in surgery.scales. On a symmetric grid, the recipes' default, the larger end of a range decides, so one of a row's two logits learns;
published numbers are those of asymmetric grids (weights.symmetric = false). Steps are not clamped to [1e-5, 1e4], which would move small weights.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from rotviz.config import setting
from rotviz.numerics.errors import relative_mse
from rotviz.numerics.grids import clip_ratio, grid_of, group_range
from rotviz.quantizers import QUANTIZERS, BlockResult, BlockTask, Part, Progress
from rotviz.quantizers.block import linear_paths, mean_error, outputs, run, runnable
from rotviz.surgery.scales import Scales, give_gains, key_obstacle, paired, scaled, shift_obstacle
from rotviz.surgery.smoothing import Ranges, ranges_of, smoothing_scale
from rotviz.types import QuantSpec, Role

START_LOGIT = 4.0
SMALLEST_SCALE = 1e-2


@QUANTIZERS.register("omniquant")
@dataclass(frozen=True, slots=True)
class OmniQuant:
    """Learned clipping and learned equivalent transforms."""

    summary: ClassVar[str] = "Learn each row's clip (LWC) and channel scales that fold away (LET), block by block against the float block."
    calibrated: ClassVar[bool] = True

    epochs: int = setting(20, "times that every calibration window is seen; the paper takes 40 for 2-bit weights", minimum=0)
    batch: int = setting(1, "windows in a step", minimum=1)
    clip_rate: float = setting(1e-2, "learning rate of the clipping logits", minimum=0)
    scale_rate: float = setting(5e-3, "learning rate of scales and shifts", minimum=0)
    transforms: str = setting("auto", "learn equivalent transforms: auto = where activations are rounded, and for LayerNorm models",
                              choices=("auto", "on", "off"))
    alpha: float = setting(0.5, "share of a channel's range that the scales first move to the weights", minimum=0, maximum=1)
    loss: str = setting("normalized", "what is kept: the block's output, or its output with each token relative to its own energy",
                        choices=("block", "normalized"))
    augment: bool = setting(False, "also match the float block on the quantized inputs (the paper does for 2-bit weights)")

    def refusal(self, spec: QuantSpec) -> str | None:
        if spec.number_format in ("mxfp4", "nvfp4"):
            return f"the block scales of {spec.number_format} are stored in a few bits, which leaves no clip to learn; use rtn or gptq"
        return None

    def quantize_block(self, task: BlockTask) -> Generator[Progress, None, BlockResult]:
        learner = _Learner(self, task)
        targets = learner.targets()
        before = best_loss = learner.loss(targets)
        best, notes = learner.state(), []
        for epoch in range(self.epochs if learner.parameters() else 0):
            if not learner.epoch(targets, before):
                notes.append(f"the loss was not finite in epoch {epoch + 1} of {self.epochs}; the best state before it was kept")
                break
            now = learner.loss(targets)
            if now < best_loss:
                best, best_loss = learner.state(), now
            yield Progress((epoch + 1) / self.epochs, f"epoch {epoch + 1} of {self.epochs}", {"loss": now, "start": before})
        learner.restore(best)
        if best_loss == before and self.epochs:
            notes.append("learning did not lower the loss, so its start was kept")
        metrics = {"loss_before": before, "loss_after": best_loss, **learner.summary()}
        return BlockResult(learner.result(), (*learner.notes, *notes), metrics, learner.weight_errors())


class _Clips(nn.Module):
    """The clipping logits of one part of a weight; quantizes it."""

    def __init__(self, weight: Tensor, part: Part) -> None:
        super().__init__()
        self.part = part
        with torch.no_grad():
            grouped = self._grouped(weight)
            grid = grid_of(part.spec).bound(grouped, part.spec)
            low, high = group_range(grouped, part.spec)
            ratio = torch.as_tensor(clip_ratio(grouped, low, high, part.spec, grid), dtype=low.dtype, device=low.device).expand_as(low)
            logit = torch.logit(ratio.clamp(max=float(torch.sigmoid(torch.tensor(START_LOGIT)))))
        self.low, self.high = nn.Parameter(logit.clone()), nn.Parameter(logit.clone())

    def forward(self, weight: Tensor, hard: bool) -> Tensor:
        """The part's rows [n, D] quantized; `hard` exactly on the grid, otherwise with a gradient."""
        spec = self.part.spec
        grouped = self._grouped(weight)
        grid = grid_of(spec).bound(grouped.detach(), spec)
        low, high = group_range(grouped, spec)
        scale = grid.scale(low * self.low.sigmoid(), high * self.high.sigmoid(), spec)
        return (grid.values(grid.codes(grouped, scale, spec), scale) if hard else grid.through(grouped, scale, spec)).flatten(1)

    def _grouped(self, weight: Tensor) -> Tensor:
        rows = weight if len(self.part.rows) == len(weight) else weight[self.part.rows.to(weight.device)]
        return rows.unflatten(-1, (-1, self.part.spec.group_for(weight.shape[1])))


class _Learner:
    """One block's variables, and the block that they are learned on."""

    def __init__(self, method: OmniQuant, task: BlockTask) -> None:
        self.method, self.task = method, task
        self.notes: list[str] = []
        self.plain = runnable(task, quantized=False)
        self.rounded = runnable(task, quantized=True)
        norms = [task.view.family.attn_norm, task.view.family.mlp_norm]
        for view in (self.plain, self.rounded):
            give_gains(view, norms)
        self.scales = self._first_scales() if self._transforms() else nn.ParameterDict()
        self.weights = {path: module.weight.data for path, (module, _) in linear_paths(self.plain).items()}
        with torch.no_grad():
            moved = scaled(self.plain, self._scales())
            self.clips = {path: [_Clips(moved.get(f"{path}.weight", weight), part) for part in task.parts(path, len(weight)) if part.spec.quantizes]
                          for path, weight in self.weights.items()}
        groups = [{"params": list(self.scales.values()), "lr": method.scale_rate}, {"params": self._clip_parameters(), "lr": method.clip_rate}]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=0.0) if self.parameters() else None

    def targets(self) -> list[Tensor]:
        """What the block should put out, [N, L, D] each: the float block on the float inputs, and with `augment` on the quantized ones too."""
        streams = [self.task.float_inputs] + ([self.task.inputs] if self.method.augment else [])
        return [outputs(self.task, self.plain.block, stream) for stream in streams]

    def steps(self) -> list[slice]:
        """The windows of each step, in the order of the text."""
        count, size = len(self.task.inputs), self.method.batch
        return [slice(i, min(i + size, count)) for i in range(0, count, size)]

    def epoch(self, targets: list[Tensor], scale: float) -> bool:
        """Every window once; whether every loss was finite."""
        for windows in self.steps():
            self.task.stop_if_cancelled()
            loss = self._loss(targets, windows, self.tensors(hard=False))
            if not torch.isfinite(loss):
                return False
            self.optimizer.zero_grad()
            (loss / max(scale, 1e-30)).backward()
            self.optimizer.step()
            self._clamp()
        return self._finite()

    def loss(self, targets: list[Tensor]) -> float:
        """The mean loss over all windows, weights exactly on their grids; infinite where it is not a number."""
        with torch.no_grad():
            tensors = self.tensors(hard=True)
            parts = self.steps()
            total = sum(float(self._loss(targets, windows, tensors)) * (windows.stop - windows.start) for windows in parts)
        total /= len(self.task.inputs)
        return total if total == total else float("inf")

    def tensors(self, hard: bool) -> dict[str, Tensor]:
        """Every tensor of the block that scales or clips change."""
        found = scaled(self.plain, self._scales())
        for path, weight in self.weights.items():
            name = f"{path}.weight"
            found[name] = self._quantized(found.get(name, weight), self.clips[path], hard)
        return found

    def result(self) -> dict[str, Tensor]:
        """The tensors to deploy, in the block's own dtype."""
        dtype = next(self.task.view.block.parameters()).dtype
        with torch.no_grad():
            return {path: tensor.to(dtype).contiguous() for path, tensor in self.tensors(hard=True).items()}

    def weight_errors(self) -> dict[str, float]:
        """Relative error of each weight against what was rounded: the scaled one."""
        with torch.no_grad():
            moved, rounded = scaled(self.plain, self._scales()), self.tensors(hard=True)
            return {path: relative_mse(moved.get(f"{path}.weight", weight), rounded[f"{path}.weight"]) for path, weight in self.weights.items()}

    def summary(self) -> dict[str, float]:
        """Mean clips by linear, and how far the scales reach."""
        found = {}
        for path, clips in self.clips.items():
            if clips:
                found[f"{path}.clip_low"] = float(torch.cat([c.low.detach().sigmoid().flatten() for c in clips]).mean())
                found[f"{path}.clip_high"] = float(torch.cat([c.high.detach().sigmoid().flatten() for c in clips]).mean())
        for name, s in self.scales.items():
            found[f"scale.{name}.min"], found[f"scale.{name}.max"] = float(s.detach().min()), float(s.detach().max())
        return found

    def parameters(self) -> list[nn.Parameter]:
        """Everything that is learned."""
        return [*self.scales.values(), *self._clip_parameters()]

    def state(self) -> list[Tensor]:
        """A copy of everything that is learned."""
        return [p.detach().clone() for p in self.parameters()]

    def restore(self, state: list[Tensor]) -> None:
        """Go back to a state."""
        for parameter, value in zip(self.parameters(), state):
            parameter.data.copy_(value)

    def _loss(self, targets: list[Tensor], windows: slice, tensors: dict[str, Tensor]) -> Tensor:
        x = self.task.inputs[windows].to(targets[0].dtype)
        out = run(self.rounded.block, x, self.task.arguments(len(x)), tensors)
        return sum(mean_error(out, target[windows], self.method.loss == "normalized") for target in targets)

    def _quantized(self, weight: Tensor, clips: list[_Clips], hard: bool) -> Tensor:
        if len(clips) == 1 and len(clips[0].part.rows) == len(weight):
            return clips[0](weight, hard)
        for part in clips:  # parts without an entry stay in float
            weight = weight.index_copy(0, part.part.rows.to(weight.device), part(weight, hard))
        return weight

    def _transforms(self) -> bool:
        wanted = self.method.transforms
        auto = self.task.activations.quantizes or getattr(self.plain.norm(self.plain.family.attn_norm), "bias", None) is not None
        return wanted == "on" or (wanted == "auto" and auto)

    def _first_scales(self) -> nn.ParameterDict:
        """Scales at their published start, where this block takes them."""
        view, alpha = self.plain, self.method.alpha
        heads = view.heads
        ranges = ranges_of(view, self._float_passes(view))
        found = {"attention": smoothing_scale(ranges.attention.peak, view.attention_readers(), alpha),
                 "mlp": smoothing_scale(ranges.mlp.peak, [reader for mlp in view.mlps for reader in mlp.readers], alpha)}
        output = smoothing_scale(ranges.output.peak, [view.linear(Role.O)], alpha).view(heads.kv, heads.repeats, heads.width)
        found["value"] = output.amax(1)
        obstacle = key_obstacle(view)
        if obstacle:
            self.notes.append(f"no scales between q and k: {obstacle}")
        else:
            found["key"] = torch.ones(heads.kv, heads.width // 2 if view.family.rope else heads.width).to(output)
        found |= self._shifts(ranges)
        return nn.ParameterDict({name: nn.Parameter(s) for name, s in found.items()})

    def _shifts(self, ranges: Ranges) -> dict[str, Tensor]:
        view = self.plain
        places = {"attention_shift": (view.family.attn_norm, view.attention_readers(), ranges.attention),
                  "mlp_shift": (view.family.mlp_norm, view.mlp_readers(), ranges.mlp)}
        return {name: reached.middle for name, (path, readers, reached) in places.items() if shift_obstacle(view, path, readers) is None}

    def _float_passes(self, view):
        """Pushes the float stream through a block, window by window, for whoever watches it."""
        for window in self.task.float_inputs.split(1):
            self.task.stop_if_cancelled()
            with torch.no_grad():
                wide = window.to(next(view.block.parameters()).dtype)
                yield run(view.block, wide, self.task.arguments(1))

    def _scales(self) -> Scales:
        plain = dict(self.scales.items())
        if "key" in plain and self.plain.family.rope:
            plain["key"] = paired(plain["key"])
        return replace(Scales(), **plain)

    def _clip_parameters(self) -> list[nn.Parameter]:
        return [p for clips in self.clips.values() for clip in clips for p in clip.parameters()]

    def _clamp(self) -> None:
        for name, s in self.scales.items():
            if not name.endswith("shift"):
                s.data = torch.where(s.abs() < SMALLEST_SCALE, torch.full_like(s, SMALLEST_SCALE).copysign(s), s).detach()

    def _finite(self) -> bool:
        return all(bool(torch.isfinite(p).all()) for p in self.parameters())
