"""rotviz doctor: which rotations can act on a model, how, at what price; and the proof that its logits stay."""

import argparse
import sys
from dataclasses import asdict
from typing import Any

from rotviz.cli.output import Progress, print_json, print_table


def add(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("doctor", help="which rotations can act on a model, with proof", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="an embedded name, a hub id, a folder, or a .gguf file")
    parser.add_argument("--method", default="hadamard", help="the rotation to prove it with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=handle)


def handle(options: argparse.Namespace) -> int:
    """Examine, prove, print. Exit status 1 if a step does not hold."""
    from rotviz.pipeline.examine import examine
    from rotviz.pipeline.result import without_nan

    progress = Progress()
    diagnosis, proofs = examine(options.model, options.method, options.seed, progress)
    progress.close()
    if options.json:
        print_json(without_nan(asdict(diagnosis) | {"proof": [asdict(p) | {"holds": p.holds} for p in proofs]}))
    else:
        sys.stdout.write(f"{diagnosis.architecture} (family {diagnosis.family})\n")
        print_table([{"fact": k, "value": v} for k, v in diagnosis.facts], ["fact", "value"])
        sys.stdout.write("\n")
        print_table([asdict(s) for s in diagnosis.slots], ["slot", "acts", "how", "size", "construction", "remark"])
        sys.stdout.write("\n")
        print_table([asdict(p) | {"holds": p.holds} for p in proofs], ["name", "words", "error", "tolerance", "holds"])
    return 0 if all(p.holds for p in proofs) else 1
