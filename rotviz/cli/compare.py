"""rotviz compare RUN RUN...: runs side by side, and in what their recipes differ."""

import argparse
import sys
from typing import Any

from rotviz.cli.output import print_json, print_table
from rotviz.errors import BadInput


def add(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("compare", help="compare runs", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="two or more run ids, or their beginnings")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=handle)


def handle(options: argparse.Namespace) -> int:
    """Compare them."""
    from rotviz.cli.runs import row
    from rotviz.pipeline.repeat import differences
    from rotviz.store.runs import Store

    if len(options.runs) < 2:
        raise BadInput("compare takes two or more runs; rotviz runs lists them")
    records = [Store().get(run) for run in options.runs]
    rows = [row(record) for record in records]
    found = differences([record.recipe for record in records])
    protocols = {(r.result or {}).get("perplexity", {}).get("quantized", {}).get("protocol") for r in records} - {None}
    if options.json:
        print_json({"runs": rows, "differences": found, "same_protocol": len(protocols) <= 1})
        return 0
    print_table(rows, ["run", "status", "recipe", "perplexity", "float", "KL", "seconds"])
    sys.stdout.write("\nwhat differs in their recipes\n")
    print_table([{"key": key} | {r.run_id: value for r, value in zip(records, values)} for key, values in found.items()],
                ["key", *(r.run_id for r in records)])
    if len(protocols) > 1:
        sys.stdout.write("\nTheir perplexities follow different protocols and must not be compared:\n" + "\n".join(sorted(protocols)) + "\n")
    return 0
