"""rotviz models: the models that can be had here by name; --fetch gets an embedded one."""

import argparse
import sys
from typing import Any

from rotviz.cli.output import Progress, print_json, print_table


def add(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("models", help="list models, fetch the embedded one", description=__doc__)
    parser.add_argument("--fetch", metavar="NAME", help="make a model ready for use without a network")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=handle)


def handle(options: argparse.Namespace) -> int:
    """List or fetch."""
    from rotviz.models.embedded import EMBEDDED, is_current

    if options.fetch in EMBEDDED and is_current(options.fetch) and not options.json:
        sys.stdout.write(f"{options.fetch} is ready\n")  # at once: every start of the app asks
        return 0
    from rotviz.models.families import FAMILIES
    from rotviz.models.loading import known_models, load

    if options.fetch:
        progress = Progress()
        load(options.fetch, progress=lambda words: progress(0.0, words))
        progress.close()
    models = known_models()
    if options.json:
        families = {name: list(family.architectures) for name, family in FAMILIES.items()}
        print_json({"models": models, "families": families})
    else:
        print_table([m | {"notes": "; ".join(m["notes"])} for m in models], ["name", "kind", "parameters", "size_mb", "ready", "notes"])
    return 0
