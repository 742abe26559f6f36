"""rotviz export RUN --to DIR: a finished run as a folder: recipe, numbers, errors as CSV, rotations as safetensors, and how to repeat it."""

import argparse
import sys
from pathlib import Path
from typing import Any

from rotviz.cli.output import print_json
from rotviz.errors import BadInput


def add(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("export", help="write a run to a folder", description=__doc__)
    parser.add_argument("run", help="a run id, or its beginning")
    parser.add_argument("--to", required=True, metavar="DIR", help="a folder that is new or empty")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=handle)


def handle(options: argparse.Namespace) -> int:
    """Export it."""
    from rotviz.pipeline.export import export_run
    from rotviz.pipeline.recipe import Recipe
    from rotviz.pipeline.token_scores import FILE
    from rotviz.store.runs import Status, Store

    store = Store()
    record = store.get(options.run)
    if record.status is not Status.DONE:
        raise BadInput(f"run {record.run_id} is {record.status}: only a finished run can be exported")
    target = Path(options.to).expanduser().absolute()
    files = export_run(record.run_id, Recipe.from_dict(record.recipe), store.result(record.run_id), target,
                       [store.folder(record.run_id) / FILE])
    if options.json:
        print_json({"run_id": record.run_id, "folder": str(target), "files": files})
    else:
        sys.stdout.write(f"{target}: {', '.join(files)}\n")
    return 0
