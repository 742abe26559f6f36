"""rotviz bench NAME: measure on this machine. `kernels`: each kernel and size against this machine's ceilings, torch and peers. `rounding-study`:
which choices of learned rounding matter.
"""

import argparse
import sys
from dataclasses import asdict
from typing import Any

from rotviz.cli import rounding_study
from rotviz.cli.output import Progress, print_json, print_table

NOT_MEASURED = "not measured"


def add(subparsers: Any) -> None:
    """Declare the command and the benchmarks it knows."""
    parser = subparsers.add_parser("bench", help="measure on this machine", description=__doc__)
    names = parser.add_subparsers(dest="benchmark", required=True, metavar="NAME")
    kernels = names.add_parser("kernels", help="each kernel: median time, bytes and operations moved, share of the measured ceiling")
    kernels.add_argument("--device", default="auto", help="auto, cpu or cuda")
    kernels.add_argument("--quick", action="store_true", help="small sizes (always so on a CPU)")
    kernels.add_argument("--repeats", type=int, default=20, help="runs that each median is of")
    kernels.add_argument("--json", action="store_true", help="print one JSON object")
    kernels.set_defaults(handler=bench_kernels)
    rounding_study.add(names)


def bench_kernels(options: argparse.Namespace) -> int:
    """Measure the kernels and print what was found."""
    record = kernels_record(options.device, options.quick, options.repeats)
    if options.json:
        print_json(record)
        return 0
    ceilings = record["ceilings"]
    sys.stdout.write(f"{ceilings['device']}, {ceilings['dtype']}: copies {ceilings['copy_bytes'] / 1e9:.4g} GB/s, "
                     f"multiplies {ceilings['matrix_operations'] / 1e9:.5g} billion operations/s\n\n")
    print_table([_table_row(row) for row in record["rows"]],
                ["kernel", "size", "MB moved", "million multiply-adds", "torch us", "triton us", "share of ceiling", "others"])
    if ceilings["not_measured"]:
        sys.stdout.write(f"\n{ceilings['not_measured']}\n")
    return 0


def kernels_record(device: str, quick: bool, repeats: int) -> dict[str, Any]:
    """Ceilings, rows and the environment as plain values.

    Raises:
        BadInput: no such device, or fewer than one repeat.
    """
    from rotviz.device import describe, resolve_device
    from rotviz.errors import BadInput
    from rotviz.kernels.bench import Ceilings, measure
    from rotviz.pipeline.result import environment

    if repeats < 1:
        raise BadInput(f"repeats = {repeats}: a median is of at least one run")
    place = resolve_device(device)
    progress = Progress()
    ceilings, rows = {}, []
    for found in measure(place, quick=quick, repeats=repeats):
        if isinstance(found, Ceilings):
            missing = "" if place.type == "cuda" else ("This machine shows no GPU: the times are of the torch references on the CPU, and the "
                                                       "Triton kernels are not measured.")
            ceilings = asdict(found) | {"not_measured": missing}
        else:
            rows.append(asdict(found))
            progress(min(0.99, len(rows) / 40), f"{found.kernel}, {found.size}")
    progress(1.0, f"{len(rows)} rows")
    progress.close()
    return {"environment": environment(describe(place)), "repeats": repeats, "ceilings": ceilings, "rows": rows}


def _table_row(row: dict[str, Any]) -> dict[str, Any]:
    seconds = row["seconds"]
    others = {k: v for k, v in seconds.items() if k not in ("torch", "triton")}
    return {"kernel": row["kernel"], "size": row["size"], "MB moved": row["bytes"] / 1e6, "million multiply-adds": row["multiply_adds"] / 1e6,
            "torch us": seconds["torch"] * 1e6, "triton us": NOT_MEASURED if seconds["triton"] is None else seconds["triton"] * 1e6,
            "share of ceiling": NOT_MEASURED if row["share"] is None else row["share"],
            "others": ", ".join(f"{name} {s * 1e6:.4g} us" for name, s in others.items()) or None}
