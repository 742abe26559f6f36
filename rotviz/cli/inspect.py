"""rotviz inspect: what a model's problem is: massive tokens and the statistics of every site."""

import argparse
import sys
from pathlib import Path
from typing import Any

from rotviz.cli.output import Progress, print_json, print_table


def add(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("inspect", help="outliers and massive tokens of a model", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="an embedded name, a hub id, a folder, or a .gguf file")
    parser.add_argument("--text", default="pydoc", help="a text source: pydoc, wikitext2:test, a path to a .txt file")
    parser.add_argument("--prompt", help="the text itself, in place of a source")
    parser.add_argument("--tokens", type=int, default=512, help="how many tokens (2 to 8192)")
    parser.add_argument("--no-bos", action="store_true", help="without the special tokens that the tokenizer adds")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=handle)


def handle(options: argparse.Namespace) -> int:
    """Inspect and print."""
    from rotviz.capture.inspect import Look, inspect
    from rotviz.pipeline.result import without_nan

    progress = Progress()
    text = str(Path(options.text)) if options.text.endswith(".txt") else options.text
    wanted = Look(options.model, text, options.tokens, not options.no_bos, options.prompt)
    found = without_nan(inspect(wanted, progress=progress).to_dict())
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
