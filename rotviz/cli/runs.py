"""rotviz runs: what has been run, newest first."""

import argparse
import sys
from typing import Any

from rotviz.cli.output import print_json, print_table


def add(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("runs", help="list the runs", description=__doc__)
    parser.add_argument("--status", help="queued, running, done, failed or cancelled")
    parser.add_argument("--model", help="only runs of this model")
    parser.add_argument("--limit", type=int, default=50, help="at most so many")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=handle)


def handle(options: argparse.Namespace) -> int:
    """List them."""
    from rotviz.store.runs import Store

    records = Store().list(status=options.status, model=options.model, limit=options.limit)
    if options.json:
        print_json({"runs": [record.to_dict() for record in records]})
    elif records:
        print_table([row(record) for record in records], ["run", "status", "model", "recipe", "perplexity", "float", "KL", "seconds"])
    else:
        sys.stdout.write("no runs yet; start one with: rotviz run\n")
    return 0


def row(record: Any) -> dict[str, Any]:
    """One run as a row of a table."""
    result = record.result or {}
    perplexity = result.get("perplexity", {})
    return {
        "run": record.run_id, "status": str(record.status), "model": record.model, "recipe": record.title,
        "perplexity": perplexity.get("quantized", {}).get("value"), "float": perplexity.get("reference", {}).get("value"),
        "KL": result.get("divergence", {}).get("kl_nats"), "seconds": record.seconds,
    }
