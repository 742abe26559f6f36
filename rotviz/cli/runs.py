"""rotviz runs: what has been run, newest first."""

import argparse
import sys
from collections.abc import Mapping, Sequence
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
        rows = [row(record) for record in records]
        print_table(rows, ["run", "status", "model", "recipe", *measured_columns(rows), "seconds"])
    else:
        sys.stdout.write("no runs yet; start one with: rotviz run\n")
    return 0


def row(record: Any) -> dict[str, Any]:
    """One run as a row of a table."""
    result = record.result or {}
    perplexity, images = result.get("perplexity") or {}, result.get("classification") or {}
    accuracy = images.get("accuracy") or {}
    return {
        "run": record.run_id, "status": str(record.status), "model": record.model, "recipe": record.title,
        "perplexity": perplexity.get("quantized", {}).get("value"), "float": perplexity.get("reference", {}).get("value"),
        "KL": (result.get("divergence") or {}).get("kl_nats"), "seconds": record.seconds, "agreement": images.get("agreement", {}).get("value"),
        "accuracy": accuracy.get("quantized", {}).get("value"), "float accuracy": accuracy.get("reference", {}).get("value"),
    }


def measured_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of numbers that these rows need: perplexity, or where there are vision models agreement and accuracy."""
    images = [name for name in ("agreement", "accuracy", "float accuracy") if any(r[name] is not None for r in rows)]
    text = ["perplexity", "float"] if not images or any(r["perplexity"] is not None for r in rows) else []
    return [*text, *images, "KL"]


def protocol_of(result: Mapping[str, Any] | None) -> str | None:
    """What a result was measured on, in words."""
    plain = result or {}
    return ((plain.get("perplexity") or {}).get("quantized") or plain.get("classification") or {}).get("protocol")
