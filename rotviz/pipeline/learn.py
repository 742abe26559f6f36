"""The rotations of a recipe: built from the seed, loaded from a file, or learned from calibration windows.

What was learned is kept under the cache folder by everything that decides it (weights, windows, method and settings, seed, and the part of the
quantization that the method aims at), with what it cost; recipes that differ in other things, say W4A4 and W4A8, learn once. A cancelled
learner finds its own folder again.
"""

import hashlib
import shutil
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rotviz.config import fingerprint
from rotviz.device import peak_memory_mb, reset_peak_memory
from rotviz.errors import BadInput
from rotviz.home import file_mark, home
from rotviz.pipeline.prepare import Prepared, rotation_plan
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.result import environment
from rotviz.rotations import Learned, LearningStep, LearningTask, Specs, learns
from rotviz.rotations.learning import is_file
from rotviz.surgery.plan import RotationPlan
from rotviz.surgery.saved import check_plan, load_plan, only, save_plan
from rotviz.texts import calibration_windows
from rotviz.types import Modality

HISTORY = 200
"""How many steps of a learner are kept for its figure."""


@dataclass(frozen=True)
class Learning:
    """How a recipe came by its rotations, for the result.

    Attributes:
        file: where the rotations are.
        method: what made them.
        seconds, peak_memory_mb, tokens, steps: what learning cost, whenever that was.
        reused: whether an earlier run had learned them.
        protocol: the calibration windows in words.
        history: metrics by step.
        notes: compromises.
    """

    file: str
    method: str
    seconds: float
    peak_memory_mb: float
    tokens: int
    steps: str
    reused: bool
    protocol: str
    history: tuple[dict[str, float], ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def specs_of(recipe: Recipe) -> Specs:
    """How a recipe quantizes."""
    return Specs(recipe.weights.spec(), recipe.activations.spec(), recipe.kv.spec())


def plan_for(prepared: Prepared, stop_if_cancelled: Callable[[], None]) -> Generator[LearningStep, None, tuple[RotationPlan, Learning | None]]:
    """The plan of a recipe, and how it was come by where it was learned or loaded.

    Raises:
        BadInput: a saved rotation cannot be read or is for another model; the calibration text is too short.
    """
    recipe = prepared.recipe
    if recipe.rotation.load:
        return _loaded(prepared, Path(recipe.rotation.load), reused=True)
    if not learns(recipe.rotation_settings) or not set(recipe.slots) & set(recipe.rotation_settings.learned_slots):
        return rotation_plan(recipe, prepared.sizes), None
    if prepared.modality is Modality.IMAGE:
        raise BadInput(f"rotation.method = {recipe.rotation.method} learns from a text, and {recipe.model} reads images; "
                       "use hadamard or orthogonal, or a rotation that was saved (rotation.load)")
    text = recipe.text
    calibration = calibration_windows(text.calibration, prepared.loaded.tokenizer, text.length, text.samples, recipe.seed)
    path = learned_path(prepared, calibration.tokens)
    if path.is_file():
        return _loaded(prepared, path, reused=True)
    folder = path.with_suffix(".partial")
    task = LearningTask(prepared.source, calibration.tokens, _start(prepared), specs_of(recipe), recipe.seed, folder, stop_if_cancelled)
    try:
        yield from _learn(prepared, task, calibration.protocol, path)
    finally:  # rows are sampled again in no time; what a method keeps of its own beside them is found when it is resumed
        for rows in (folder / "rows", folder / "watched"):
            shutil.rmtree(rows, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    return _loaded(prepared, path, reused=False)


def learned_path(prepared: Prepared, windows: Tensor) -> Path:
    """Where what this recipe learns is kept."""
    recipe = prepared.recipe
    key = {"weights": prepared.source.content_mark, "windows": hashlib.sha256(windows.numpy().tobytes()).hexdigest(), "seed": recipe.seed,
           "rotation": recipe.to_dict()["rotation"], "scope": dict(recipe.rotation_settings.scope(specs_of(recipe))), "dtype": recipe.dtype,
           "device": prepared.device.type, "torch": torch.__version__}
    marks = rotation_marks(recipe)
    key |= {"start": marks} if marks else {}
    return home() / "rotations" / f"{recipe.rotation.method}-{fingerprint(key)}.safetensors"


def rotation_marks(recipe: Recipe) -> list[str]:
    """What changes when a saved rotation does that a recipe loads or starts from: for cache keys."""
    start = getattr(recipe.rotation_settings, "start", "")
    return [file_mark(Path(file)) for file in (recipe.rotation.load, start if is_file(start) else "") if file]


def _learn(prepared: Prepared, task: LearningTask, protocol: str, path: Path) -> Generator[LearningStep, None, None]:
    recipe, history = prepared.recipe, []
    reset_peak_memory(prepared.device)
    began = time.perf_counter()
    steps = recipe.rotation_settings.learn(task)
    while True:
        try:
            step = next(steps)
        except StopIteration as stop:
            learned: Learned = stop.value
            break
        if step.metrics:
            history.append(step.metrics)
        yield step
    meta = {"method": recipe.rotation.method, "recipe": recipe.to_dict(), "protocol": protocol, "seconds": time.perf_counter() - began,
            "peak_memory_mb": peak_memory_mb(prepared.device), "tokens": learned.tokens, "steps": learned.steps, "notes": list(learned.notes),
            "history": _thinned(history), "environment": environment(str(prepared.device))}
    save_plan(path, learned.plan, meta)


def _thinned(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """At most HISTORY entries, evenly chosen, the last among them."""
    if len(history) <= HISTORY:
        return history
    return [history[round(i * (len(history) - 1) / (HISTORY - 1))] for i in range(HISTORY)]


def _start(prepared: Prepared) -> RotationPlan:
    """The plan that learning starts from: as the method builds it, with R1 and R2 from a file where start names one."""
    settings = prepared.recipe.rotation_settings
    if not is_file(settings.start):
        return rotation_plan(prepared.recipe, prepared.sizes)
    path = Path(settings.start)
    given = load_plan(path)[0]
    check_plan(given, prepared.sizes, path)
    given = only(given, prepared.recipe.slots)
    fresh = rotation_plan(replace(prepared.recipe, rotation_settings=replace(settings, start="hadamard")), prepared.sizes)
    return replace(fresh, r1=given.r1 or fresh.r1, r2=given.r2 or fresh.r2)


def _loaded(prepared: Prepared, path: Path, reused: bool) -> tuple[RotationPlan, Learning]:
    plan, meta = load_plan(path)
    plan = only(plan, prepared.recipe.slots)
    check_plan(plan, prepared.sizes, path)
    return plan, Learning(str(path), str(meta.get("method", "saved")), float(meta.get("seconds", float("nan"))),
                          float(meta.get("peak_memory_mb", float("nan"))), int(meta.get("tokens", 0)), str(meta.get("steps", "")), reused,
                          str(meta.get("protocol", "")), tuple(meta.get("history", ())), tuple(meta.get("notes", ())))
