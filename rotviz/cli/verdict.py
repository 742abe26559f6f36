"""rotviz verdict: does a rotation help here? B against A at every block and site, paired by token, with intervals and reasons."""

import argparse
import math
import sys
from typing import Any

from rotviz.cli.looking import add_look, look_of
from rotviz.cli.output import Progress, print_json, print_table
from rotviz.errors import BadInput, not_among

WORST = 10


def add(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("verdict", help="where a rotation helps and where it hurts", description=__doc__)
    add_look(parser)
    parser.add_argument("--a", default="none", metavar="ROTATION", help="what B is held against: a method, or a saved rotation (.safetensors)")
    parser.add_argument("--b", default="hadamard", metavar="ROTATION", help="the rotation that is judged")
    parser.add_argument("--seed-a", type=int, default=0)
    parser.add_argument("--seed-b", type=int, default=0)
    parser.add_argument("--slots", default="R1,R2,R3,R4", help="slots in which they act, with commas between them")
    parser.add_argument("--bits", type=int, default=4, help="bits a number (2 to 8)")
    parser.add_argument("--clip", default="0.9", help="the share of the range that the grid covers, or mse")
    parser.add_argument("--group", type=int, default=0, help="numbers that share a scale; 0 = a whole token or head")
    parser.add_argument("--asymmetric", action="store_true", help="a grid from the smallest to the largest value")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=handle)


def handle(options: argparse.Namespace) -> int:
    """Judge and print."""
    from rotviz.capture.inspect import look
    from rotviz.evaluation.paired import counted, summary_words, verdicts
    from rotviz.pipeline.result import without_nan

    a, b = turn_from(options.a, options.seed_a, options.slots), turn_from(options.b, options.seed_b, options.slots)
    spec, progress = spec_from(options), Progress()
    capture = look(look_of(options), progress=lambda share, words: progress(0.3 * share, words))
    places = verdicts(capture, a, b, spec, options.seed, progress=lambda share, words: progress(0.3 + 0.7 * share, words))
    progress.close()
    summary = summary_words(places, a.label, b.label)
    if options.json:
        print_json(without_nan({"model": options.model, "tokens": len(capture.tokens), "blocks": capture.blocks, "a": a.label, "b": b.label,
                                "summary": summary, "counts": counted(places), "places": [p.to_dict() for p in places]}))
    else:
        _print(summary, places)
    return 0


def turn_from(name: str, seed: int, slots: str) -> Any:
    """A rotation as the command line names it.

    Raises:
        BadInput: no such method, file or slot.
    """
    from rotviz.evaluation.sites import Turn, saved_plan
    from rotviz.rotations import ROTATIONS, learns
    from rotviz.types import Slot

    known = [s.value for s in Slot]
    wanted = [s.strip() for s in slots.split(",") if s.strip()]
    for slot in wanted:
        if slot not in known:
            raise not_among("--slots", slot, known)
    acting = tuple(Slot(s) for s in known if s in wanted)
    if name.endswith(".safetensors"):
        saved_plan(name)  # says in words what is wrong with the file
        return Turn("saved", seed, acting, file=name)
    if learns(ROTATIONS[name]):
        raise BadInput(f"{name} has to be learned first: give the file of a saved rotation (.safetensors), which a run with "
                       f"rotation.method = {name} leaves in the cache folder under rotations/")
    return Turn(name, 0 if name == "none" else seed, acting)


def spec_from(options: argparse.Namespace) -> Any:
    """The grid."""
    from rotviz.types import Granularity, QuantSpec

    try:
        clip = options.clip if options.clip in ("mse", "none") else float(options.clip)
    except ValueError:
        raise BadInput(f"--clip {options.clip} is neither mse, none nor a share of the range such as 0.9") from None
    return QuantSpec(options.bits, not options.asymmetric, Granularity.GROUP if options.group else Granularity.TOKEN, options.group, clip)


def _print(summary: str, places: list[Any]) -> None:
    sys.stdout.write(f"{summary}\n\nwhere B gains least\n")
    rows = [{"block": p.block, "site": p.site, "verdict": p.kind, "B / A": p.ratio, "from": p.low, "to": p.high, "massive": p.massive_words or None,
             "why": p.reason} for p in _worst_first(places)[:WORST]]
    print_table(rows, list(rows[0]))


def _worst_first(places: list[Any]) -> list[Any]:
    """By B / A; places that cannot be told (NaN) last."""
    return sorted(places, key=lambda p: (math.isnan(p.ratio), -p.ratio))
