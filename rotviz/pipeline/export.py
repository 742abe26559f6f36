"""A finished run as a folder that stands on its own.

    recipe.toml            everything that determines the result
    result.json            the numbers
    errors.csv             error by block and site;  weight_errors.csv  by block and linear, where weights were quantized
    tokens.safetensors     what every token cost (pipeline/token_scores.py), where the run kept it
    rotation.safetensors   the rotations of every slot that acts (surgery/saved.py says how to read them)
    README.txt             what this is, and the command that repeats it

The rotations are the run's own: a learned one is copied, one that comes from the seed is made again, which takes the model's sizes and no second
run.
"""

import csv
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rotviz.errors import BadInput
from rotviz.home import fill_folder_atomically
from rotviz.pipeline.learn import plan_for
from rotviz.pipeline.prepare import prepare
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.repeat import command_line
from rotviz.surgery.plan import RotationPlan
from rotviz.surgery.saved import save_plan


def export_run(run_id: str, recipe: Recipe, result: Mapping[str, Any], target: Path, files: Sequence[Path] = ()) -> list[str]:
    """Write the folder; the names of the files in it.

    Args:
        files: large arrays beside the result, copied as they are; those that a run does not have are left out.

    Raises:
        BadInput: the target is there already and not empty, or the recipe's model or rotation cannot be had any more.
        OutOfRoom: the disk is full; nothing is left behind.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadInput(f"{target} is there already; name a folder that is new or empty")
    plan = _plan(recipe)

    def fill(folder: Path) -> None:
        (folder / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
        (folder / "result.json").write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        for name in ("errors", "weight_errors"):
            if result.get(name):
                (folder / f"{name}.csv").write_text(_csv(result[name]), encoding="utf-8")
        if plan.slots:
            save_plan(folder / "rotation.safetensors", plan, {"method": recipe.rotation.method, "recipe": recipe.to_dict(), "run": run_id})
        for file in files:
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
        (folder / "README.txt").write_text(_words(run_id, recipe, result), encoding="utf-8")

    fill_folder_atomically(target, fill)
    return sorted(file.name for file in target.iterdir())


def _plan(recipe: Recipe) -> RotationPlan:
    """The run's rotations; one that was learned is found where it was kept, or learned again."""
    if not recipe.slots:
        return RotationPlan()
    steps = plan_for(prepare(recipe), lambda: None)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value[0]


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _words(run_id: str, recipe: Recipe, result: Mapping[str, Any]) -> str:
    return (f"rotviz run {run_id}: {recipe.title} of {recipe.model}\n\n{_measured(result)}\n\nrepeat it with:\n  {command_line(recipe)}\n\n"
            "rotation.safetensors, where it is there: r1 [D, D], r2 [blocks, kv heads, K, K], r3 [K, K] act on row vectors (x R); r4.* is\n"
            "dense, or the signs and base of diag(signs) (base (x) Sylvester), Sylvester's matrix normalized.\n\n"
            "tokens.safetensors, where it is there: tokens [N, L] of the evaluation windows; reference, quantized [N, L - 1]: -log p of every token\n"
            "but a window's first under the float and the quantized model, in nats; kl [N, L - 1]; the header holds the tokens' texts.\n")


def _measured(result: Mapping[str, Any]) -> str:
    """The main number and what it was measured on."""
    images = result.get("classification")
    if images:
        agreement = images["agreement"]
        return f"top-1 agreement with the float model {agreement['value']:.4f} +- {_number(agreement['stderr'])}\n{images['protocol']}"
    quantized, reference = result["perplexity"]["quantized"], result["perplexity"]["reference"]
    return f"perplexity {_number(quantized['value'])} +- {_number(quantized['stderr'])}, float {_number(reference['value'])}\n{quantized['protocol']}"


def _number(value: float | None) -> str:
    return "nan" if value is None else f"{value:.4f}"
