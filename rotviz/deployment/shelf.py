"""What is known of deployed runs without loading one: which recipes can be deployed, what a run's folder says of itself, the last benchmark.

    ROTVIZ_HOME/deployed/RUN/            a run's folder, unless another was named
    ROTVIZ_HOME/bench/deployment.json    the last `rotviz bench deployment` of this machine
"""

import json
from pathlib import Path
from typing import Any

from rotviz.errors import BadInput, BrokenCheckpoint
from rotviz.home import home, write_atomically
from rotviz.kernels.packed import FORMATS
from rotviz.pipeline.recipe import Recipe

VERSION = 1
DESCRIPTION = "deployment.json"


def refusal(recipe: Recipe) -> str | None:
    """Why a recipe cannot be deployed, or None; nothing is loaded."""
    for section, spec in (("weights", recipe.weights.spec()), ("activations", recipe.activations.spec()), ("kv", recipe.kv.spec())):
        if spec.quantizes and spec.number_format not in FORMATS:
            return (f"{section}.format = {spec.number_format} has no packed layout here: the kernels multiply integers; use format = 'int' or "
                    "'int_min', or run the recipe without deploying it")
    if recipe.weights.spec().quantizes and recipe.weights.format == "int_min" and recipe.dtype != "float32":
        return (f"weights.format = int_min is read back from float32 numbers only, and the recipe's dtype is {recipe.dtype}: set dtype = float32 "
                "there; deploy --dtype bfloat16 keeps what is not packed in 16 bits all the same")
    if recipe.dtype == "float64":
        return "dtype = float64 is for proofs: packed weights have float32 steps; use float32 or bfloat16"
    return None


def deployed_folder(run_id: str) -> Path:
    """Where a run is deployed unless another folder is named."""
    return home() / "deployed" / run_id


def is_deployed(run_id: str) -> bool:
    """Whether a run's own folder is there; what is in it is not read."""
    return (deployed_folder(run_id) / DESCRIPTION).is_file()


def described(run_id: str) -> dict[str, Any] | None:
    """What a run's own folder says of itself; None where it was not deployed there."""
    try:
        return description_in(deployed_folder(run_id))
    except BrokenCheckpoint:
        return None


def description_in(folder: Path) -> dict[str, Any]:
    """What a deployed model's folder says of itself.

    Raises:
        BrokenCheckpoint: it is none, or of another layout.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BrokenCheckpoint(f"{folder} is not a deployed model ({error}); give a folder that rotviz deploy wrote") from error
    if description.get("version") != VERSION:
        raise BrokenCheckpoint(f"{folder} has layout {description.get('version')}, this program reads {VERSION}; deploy the run again")
    return description


def refuse_filled(target: Path) -> None:
    """Raises BadInput where something is there already."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadInput(f"{target} is there already; name a folder that is new or empty")


def keep_benchmark(record: dict[str, Any]) -> Path:
    """Keep a benchmark's record in place of the last one, for the page."""
    return write_atomically(_benchmark(), lambda target: target.write_text(json.dumps(record, allow_nan=False), encoding="utf-8"))


def kept_benchmark() -> dict[str, Any] | None:
    """The record that was kept last on this machine, or None."""
    try:
        return json.loads(_benchmark().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _benchmark() -> Path:
    return home() / "bench" / "deployment.json"
