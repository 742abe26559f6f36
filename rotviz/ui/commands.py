"""Command lines that give what a page shows, every choice of the page in them."""

import shlex

from rotviz.capture.inspect import Look
from rotviz.evaluation.sites import Turn
from rotviz.pipeline.ablation import QUICK
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.repeat import set_arguments
from rotviz.types import QuantSpec


def look_arguments(look: Look) -> list[str]:
    """What is looked at."""
    text = f"--prompt {shlex.quote(look.prompt)}" if look.prompt is not None else f"--text {shlex.quote(look.text)}"
    return [f"--model {shlex.quote(look.model)}", text, f"--tokens {look.tokens}", *([] if look.bos else ["--no-bos"])]


def verdict_command(look: Look, a: Turn, b: Turn, spec: QuantSpec) -> str:
    """`rotviz verdict` of B against A."""
    turns = [f"--{name} {shlex.quote(turn.file or turn.method)}" for name, turn in (("a", a), ("b", b))]
    seeds = [f"--seed-{name} {turn.seed}" for name, turn in (("a", a), ("b", b)) if turn.seed and not turn.file]
    grid = [f"--bits {spec.bits}", f"--clip {spec.clip}", *([f"--group {spec.group}"] if spec.group else []),
            *([] if spec.symmetric else ["--asymmetric"])]
    slots = ",".join(slot.value for slot in b.slots)
    return " ".join(["python -m rotviz verdict", *look_arguments(look), *turns, *seeds, f"--slots {shlex.quote(slots)}", *grid, "--json"])


def hurts_command(recipe: Recipe) -> str:
    """`rotviz hurts` with the recipe's ablation."""
    changed = set_arguments(recipe, QUICK, without=("model", "ablation."))
    return " ".join(["python -m rotviz hurts", f"--model {shlex.quote(recipe.model)}", f"--unit {recipe.ablation.unit}",
                     f"--kind {recipe.ablation.kind}", *changed, "--json"])
