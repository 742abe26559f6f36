"""rotviz inspect: what a model's problem is: massive tokens and the statistics of every site."""

import argparse
import sys
from typing import Any

from rotviz.cli.looking import add_look, look_of
from rotviz.cli.output import Progress, print_json, print_table


def add(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("inspect", help="outliers and massive tokens of a model", description=__doc__)
    add_look(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=handle)


def handle(options: argparse.Namespace) -> int:
    """Inspect and print."""
    from rotviz.capture.inspect import inspect
    from rotviz.pipeline.result import without_nan

    progress = Progress()
    found = without_nan(inspect(look_of(options), progress=progress).to_dict())
    progress.close()
    print_json(found) if options.json else _print(found)
    return 0


def _print(found: dict[str, Any]) -> None:
    tokens = found["massive_tokens"]
    sys.stdout.write(f"{found['model']} on {found['tokens']} tokens of {found['text']}: {len(tokens)} massive token(s) that persist\n")
    for token in tokens:
        token["token"] = repr(token["token"])
    if tokens:
        print_table(tokens, ["index", "token", "channel", "value", "ratio", "block", "first_block", "last_block"])
    worst = sorted(found["sites"], key=lambda s: -(s["kurtosis"] or 0))[:10]
    sys.stdout.write("\nthe ten sites with the heaviest tails\n")
    print_table(worst, ["block", "site", "kurtosis", "absmax", "median", "p99"])
