"""rotviz show RUN: one run, whole: its recipe, its numbers, and how to repeat it."""

import argparse
import sys
from typing import Any

from rotviz.cli.output import print_json, print_table


def add(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("show", help="show one run", description=__doc__)
    parser.add_argument("run", help="a run id, or its beginning")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=handle)


def handle(options: argparse.Namespace) -> int:
    """Show it."""
    from rotviz.cli.run import print_result
    from rotviz.pipeline.recipe import Recipe
    from rotviz.pipeline.repeat import command_line
    from rotviz.store.runs import Status, Store

    store = Store()
    record = store.get(options.run)
    done = record.status is Status.DONE
    result = store.result(record.run_id) if done else None
    if options.json:
        print_json(record.to_dict() | ({"result": result} if result else {}))
        return 0
    recipe = Recipe.from_dict(record.recipe)
    sys.stdout.write(f"{record.run_id}  {record.status}  {record.title}\n{record.error or ''}\n{recipe.to_toml()}\n")
    if result:
        print_result({**result, "run_id": record.run_id})
        sys.stdout.write("\n")
        print_table([e for e in result["errors"] if e["site"] == "resid"], ["block", "relative_mse", "sqnr_db", "massive", "ordinary", "isolated"])
    sys.stdout.write(f"\nrepeat it with: {command_line(recipe)}\n")
    return 0
