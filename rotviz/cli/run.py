"""rotviz run RECIPE: carry out a recipe here and now, keep it in the store, print what came out.

Settings come from the file (or the defaults), then from --set KEY=VALUE and from flags that carry the recipe's own keys (--weights.bits 3), which are
derived from the configurations: `rotviz run --help` lists them all.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rotviz.cli.output import Progress, print_json, print_table, short
from rotviz.errors import BadInput


def add(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("run", help="carry out a recipe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", type=Path, help="a .toml or .json file; without one, the defaults")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="set one key, such as weights.bits=3")
    parser.add_argument("--resume", metavar="RUN", help="go on with a run that was cancelled or failed")
    parser.add_argument("--queue", action="store_true", help="put it on the queue for the worker instead of running it here")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=handle)


def add_recipe_keys(parser: argparse.ArgumentParser) -> None:
    """A flag for every recipe key. Separate from `add`, because reading the methods' configurations imports torch."""
    from rotviz.pipeline.recipe import recipe_settings

    group = parser.add_argument_group("recipe keys")
    for key, setting in recipe_settings().items():
        choices = f" [{', '.join(map(str, setting.choices))}]" if setting.choices else ""
        default = ",".join(setting.default) if isinstance(setting.default, tuple) else setting.default
        words = f"{setting.help}{choices}; default {default}".replace("%", "%%")
        group.add_argument(f"--{key}", dest=f"key:{key}", metavar="VALUE", help=words)


def handle(options: argparse.Namespace) -> int:
    """Run it."""
    from rotviz.jobs.execute import execute, execute_now
    from rotviz.jobs.queue import submit
    from rotviz.store.runs import Store

    store, progress = Store(), Progress()
    if options.resume:
        run_id = store.resume(options.resume).run_id
        result = execute(store, run_id, on_event=lambda e: progress(e.fraction, e.message))
    else:
        recipe = recipe_from(options)
        if options.queue:
            run_id = submit(recipe)
            return print_json({"run_id": run_id}) if options.json else sys.stdout.write(f"{run_id}\n") and 0
        result = execute_now(store, recipe, on_event=lambda e: progress(e.fraction, e.message),
                             on_start=lambda run_id: sys.stderr.write(f"run {run_id}\n"))
    progress.close()
    print_json(result) if options.json else print_result(result)
    return 0


def recipe_from(options: argparse.Namespace) -> Any:
    """The recipe that file, --set and flags describe, later ones winning in that order."""
    from rotviz.pipeline.recipe import Recipe, read_recipe_file, with_changes

    plain = read_recipe_file(options.recipe) if options.recipe else {}
    flags = [(name[4:], _value(text)) for name, text in vars(options).items() if name.startswith("key:") and text is not None]
    return Recipe.from_dict(with_changes(plain, [*map(assignment, options.set), *flags])).anchored()


def print_result(result: dict[str, Any]) -> None:
    """A run's result for people."""
    (_print_classification if result.get("classification") else _print_perplexity)(result)
    sys.stdout.write(f"{sum(result['seconds'].values()):.0f} s, peak memory {result['peak_memory_mb']:.0f} MB; "
                     f"rotviz show {result['run_id']} for more\n")


def _print_perplexity(result: dict[str, Any]) -> None:
    perplexity, divergence = result["perplexity"], result["divergence"]
    rows = [{"": name, "perplexity": p["value"], "stderr": p["stderr"], "tokens": p["tokens"]}
            for name, p in (("float", perplexity["reference"]), ("quantized", perplexity["quantized"]))]
    print_table(rows, ["", "perplexity", "stderr", "tokens"])
    ratio = perplexity["ratio"]
    sys.stdout.write(f"ratio {short(ratio['value'])} +- {short(ratio['stderr'])}; KL {short(divergence['kl_nats'])} nats; "
                     f"same top token {divergence['same_top']:.1%}\n{perplexity['quantized']['protocol']}\n")


def _print_classification(result: dict[str, Any]) -> None:
    found = result["classification"]
    rows = [{"": "top-1 agreement with the float model", **found["agreement"]}, {"": "KL from the float model, nats an image", **found["kl_nats"]}]
    if found["accuracy"]:
        rows += [{"": f"accuracy, {words}", **found["accuracy"][name]}
                 for name, words in (("reference", "float"), ("quantized", "quantized"), ("difference", "difference"))]
    print_table(rows, ["", "value", "stderr"])
    sys.stdout.write(f"{found['protocol']}\n" + "".join(f"{note}\n" for note in result["notes"] if note.startswith("accuracy")))


def assignment(text: str) -> tuple[str, Any]:
    """KEY=VALUE as a pair, the value read as JSON where it is.

    Raises:
        BadInput: there is no = in it, or nothing before it.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise BadInput(f"--set {text!r} is not KEY=VALUE, such as weights.bits=3")
    return key.strip(), _value(value.strip())


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
