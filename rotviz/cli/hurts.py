"""rotviz hurts RECIPE: which layer hurts. One block or module is quantized at a time, and all but one; the loss tells.

Without a recipe: the defaults on two windows of 256 tokens of the embedded text. --preview estimates the same from gradients in some seconds.
--keep N names the N units that give back most (or cost most alone) and, with --to FILE, writes the recipe that keeps them at --bits.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rotviz.cli.output import Progress, print_json, print_table
from rotviz.errors import BadInput

SHOWN = 15


def add(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("hurts", help="which block or module costs most", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", type=Path, help="a .toml or .json file; without one, the defaults")
    parser.add_argument("--model", help="an embedded name, a hub id, a folder, or a .gguf file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="set one key, such as weights.bits=3")
    parser.add_argument("--unit", choices=("block", "module"), default="block", help="what is quantized at a time (block)")
    parser.add_argument("--kind", choices=("both", "only", "all_but"), default="both", help="only it, all but it, or both")
    parser.add_argument("--preview", action="store_true", help="estimate from gradients in place of measuring")
    parser.add_argument("--keep", type=int, default=0, metavar="N", help="make a recipe that keeps the N worst")
    parser.add_argument("--bits", type=int, default=8, help="bits that they are kept at (8); 16 = float")
    parser.add_argument("--to", type=Path, metavar="FILE", help="write that recipe to a .toml file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=handle)


def handle(options: argparse.Namespace) -> int:
    """Measure or estimate, rank, print."""
    from rotviz.pipeline.budget import mended_recipe
    from rotviz.pipeline.result import without_nan

    if options.to and options.keep < 1:
        raise BadInput("--to needs --keep N: how many of the worst units the recipe keeps")
    recipe, progress = recipe_from(options), Progress()
    if options.keep:
        mended_recipe(recipe, ["0"], options.bits)  # refused now where it would be refused after minutes of measuring
    found = _estimated(recipe, options.unit, progress) if options.preview else _measured(recipe, progress)
    progress.close()
    found["recipe"] = recipe.to_dict()
    if options.keep:
        keep = [row["name"] for row in found["units"] if not row["name"].endswith(".kv")][:options.keep]
        mended = mended_recipe(recipe, [_entry(name) for name in keep], options.bits)
        found["mended"] = mended.to_dict()
        if options.to:
            options.to.write_text(mended.to_toml(), encoding="utf-8")
    print_json(without_nan(found)) if options.json else _print(found, options)
    return 0


def recipe_from(options: argparse.Namespace) -> Any:
    """The recipe with its ablation."""
    from rotviz.cli.run import assignment
    from rotviz.pipeline.ablation import QUICK
    from rotviz.pipeline.recipe import Recipe, read_recipe_file, with_changes

    plain = read_recipe_file(options.recipe) if options.recipe else QUICK
    changes = [("model", options.model)] if options.model else []
    changes += [*map(assignment, options.set), ("ablation.unit", options.unit), ("ablation.kind", options.kind)]
    return Recipe.from_dict(with_changes(plain, changes)).anchored()


def _measured(recipe: Any, progress: Progress) -> dict[str, Any]:
    from rotviz.jobs.execute import execute_now
    from rotviz.pipeline.ablation import ranked
    from rotviz.store.runs import Store

    result = execute_now(Store(), recipe, on_event=lambda e: progress(e.fraction, e.message), on_start=lambda run: sys.stderr.write(f"run {run}\n"))
    return {"run_id": result["run_id"], "measured": True} | result["ablation"] | {"units": ranked(result["ablation"])}


def _estimated(recipe: Any, unit: str, progress: Progress) -> dict[str, Any]:
    from rotviz.pipeline.preview import estimates, preview

    found = preview(recipe, progress=progress)
    rows = sorted(estimates(found, recipe, unit), key=lambda row: -row["estimate"])
    return {"measured": False, "unit": unit, "protocol": found.protocol, "loss_float": found.loss, "units": rows}


def _entry(name: str) -> str:
    """A fused linear is kept by its first role."""
    return name.partition("+")[0]


def _print(found: dict[str, Any], options: argparse.Namespace) -> None:
    rows = []
    for row in found["units"][:SHOWN]:
        shown = {"unit": row["name"]}
        if "estimate" in row:
            shown |= {"estimate, nats": row["estimate"], "of weights": row["weights"], "of inputs": row["inputs"]}
        if "only" in row:
            shown |= {"alone costs, nats": row["only"]["loss_increase"], "+-": row["only"]["stderr"], "KL": row["only"]["kl_nats"]}
        if "all_but" in row:
            shown |= {"kept gives back": row["all_but"]["loss_saved"], "+- ": row["all_but"]["stderr"]}
        rows.append(shown)
    print_table(rows, list(rows[0]))
    loss = f"loss {found['loss_float']:.4g} in float"
    loss += f", {found['loss_quantized']:.4g} quantized" if found["measured"] else ""
    sys.stdout.write(f"{len(found['units'])} units, the worst first; {loss} (nats a token)\n{found['protocol']}\n")
    if "mended" in found:
        sys.stdout.write(f"kept: {json.dumps(found['mended']['allocation']['listed'])}{f', written to {options.to}' if options.to else ''}\n")
