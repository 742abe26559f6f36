"""The rotations that were learned on this machine, as their files' headers tell: which method, which seed, at what cost.

Nothing is loaded but the headers, so a page may ask on every redraw. A file belongs to the model that its recipe names: two models of one shape
could take each other's rotations, but what was learned on one says nothing about the other.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from rotviz.evaluation.sites import mark_of
from rotviz.home import home


@dataclass(frozen=True)
class SavedRotation:
    """A saved rotation without its matrices.

    Attributes:
        path: the file.
        method, seed: what made it.
        start: where it began: a method's name, or the file of another saved rotation.
        seconds, peak_memory_mb, tokens, steps: what it cost.
        created: when, seconds since 1970.
        protocol: the calibration windows in words.
        history: metrics by step.
    """

    path: Path
    method: str
    seed: int
    start: str
    seconds: float
    peak_memory_mb: float
    tokens: int
    steps: str
    created: float
    protocol: str
    history: tuple[dict[str, float], ...]

    @property
    def mark(self) -> str:
        """Four letters that tell it from others, on any machine: they follow everything that decided it."""
        return mark_of(self.path)

    @property
    def title(self) -> str:
        """`peak, seed 0, 3f2a`: for a list and for a link."""
        return f"{self.method}, seed {self.seed}, {self.mark}"


def saved_rotations(model: str) -> list[SavedRotation]:
    """The learned rotations of a model, newest first. A file that is none of ours, or broken, is passed over."""
    found = []
    for path in (home() / "rotations").glob("*.safetensors"):
        try:
            header = _header(path, path.stat().st_mtime_ns)
        except (OSError, SafetensorError, json.JSONDecodeError):
            continue  # deleted meanwhile, or not written by rotviz
        recipe = header.get("recipe") or {}
        if _same_model(str(recipe.get("model", "")), model):
            found.append(_saved(path, header, recipe))
    return sorted(found, key=lambda saved: saved.created, reverse=True)


def method_of_file(file: str | Path) -> str:
    """The method that made a saved rotation; "saved" where the file is gone or does not say."""
    path = Path(file)
    try:
        return str(_header(path, path.stat().st_mtime_ns).get("method", "saved"))
    except (OSError, SafetensorError, json.JSONDecodeError):
        return "saved"


@lru_cache(maxsize=256)
def _header(path: Path, changed: int) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return json.loads((file.metadata() or {}).get("rotviz", "{}"))


def _saved(path: Path, header: dict[str, Any], recipe: dict[str, Any]) -> SavedRotation:
    method = str(header.get("method", "saved"))
    settings = (recipe.get("rotation") or {}).get(method) or {}
    return SavedRotation(path, method, int(recipe.get("seed", 0)), str(settings.get("start", "")), _number(header.get("seconds")),
                         _number(header.get("peak_memory_mb")), int(header.get("tokens") or 0), str(header.get("steps", "")),
                         path.stat().st_mtime, str(header.get("protocol", "")), tuple(header.get("history") or ()))


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _same_model(a: str, b: str) -> bool:
    """Whether two names mean one model: a folder may be written in several ways."""
    return a == b or (Path(a).exists() and Path(b).exists() and Path(a).resolve() == Path(b).resolve())
