"""rotviz bench rounding-study: which choices of learned rounding matter, on any model, one switch at a time from a base recipe at few bits.

The hypotheses are printed before anything runs and judged at the end. Every run is kept at once in a JSON file (with machine, versions, seeds and
every number); what is in it is not run again, so the study may be stopped and started.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from rotviz.cli.output import Progress, print_json, print_table

FULL = {"model": "smollm2-135m", "text": "wikitext2:test", "calibration": "wikitext2:validation", "samples": 16, "windows": 8, "length": 512,
        "bits": 3, "group": 64, "iterations": 200, "batch": 8, "seeds": 3, "calibrations": ["wikitext2:validation", "pydoc"]}
QUICK = {"model": "tiny-llama", "text": "pydoc", "calibration": "pydoc", "samples": 4, "windows": 2, "length": 64, "bits": 3, "group": 16,
         "iterations": 10, "batch": 2, "seeds": 3, "calibrations": ["pydoc"]}
"""What is not said: small enough for a tiny model in a minute or two."""


def add(names: Any) -> None:
    """Declare the benchmark."""
    parser = names.add_parser("rounding-study", help="which choices of learned rounding matter: hypotheses and verdicts", description=__doc__)
    for name, kind, words in (
        ("model", str, "an embedded name, a hub id, a folder, or a .gguf file"), ("text", str, "text that the models are compared on"),
        ("calibration", str, "text that the base learns from"), ("samples", int, "calibration windows"),
        ("windows", int, "evaluation windows; 0 = all"), ("length", int, "tokens in a window"), ("bits", int, "bits a weight"),
        ("group", int, "inputs that share a scale; 0 = an output channel"), ("iterations", int, "steps on each block"),
        ("batch", int, "windows in a step"), ("seeds", int, "seeds of the base, the yardstick; 3 or more, for two may agree by luck"),
    ):
        parser.add_argument(f"--{name}", type=kind, help=f"{words} (default {FULL[name]}; quick {QUICK[name]})")
    parser.add_argument("--calibrations", nargs="+", metavar="TEXT", help="texts of the switch calibration (default "
                        f"{' '.join(FULL['calibrations'])}; quick {' '.join(QUICK['calibrations'])})")
    parser.add_argument("--switches", nargs="+", default=[], metavar="SWITCH", help="only these: loss, freedom, grid, step, calibration, selection, "
                        "augmentation, allocation")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="set one recipe key of the base, such as seed=1")
    parser.add_argument("--most", type=int, default=0, metavar="N", help="stop after N new runs; 0 = all")
    parser.add_argument("--plan", action="store_true", help="only say what would run")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few steps")
    parser.add_argument("--to", type=Path, metavar="FILE", help="the study's file; without one, in the cache folder, where the page Weights finds it")
    parser.add_argument("--json", action="store_true", help="print one JSON object: the study's file")
    parser.set_defaults(handler=handle)


def handle(options: argparse.Namespace) -> int:
    """Run what is missing and print what the study says."""
    from rotviz.device import describe, resolve_device
    from rotviz.errors import BadInput
    from rotviz.pipeline.result import environment
    from rotviz.pipeline.rounding_study import Study, planned, study_path, switches_of
    from rotviz.pipeline.study_verdicts import HYPOTHESES

    if options.most < 0:
        raise BadInput(f"--most {options.most}: give the number of new runs, or 0 for all")
    said = {name: value for name, value in vars(options).items() if name in FULL and value is not None}
    chosen = (QUICK if options.quick else FULL) | said
    base = base_of(chosen, options.set)
    switches = switches_of(base, chosen["calibrations"])
    study = Study(base, planned(base, chosen["seeds"], switches, options.switches), switches, options.to or study_path(base),
                  environment(describe(resolve_device(base.device))))
    for hypothesis in HYPOTHESES:
        sys.stderr.write(f"{hypothesis.name}: {hypothesis.words}\n")
    if options.plan:
        return _print_plan(study, options.json)
    progress = Progress()
    record = study.carry_out(progress, options.most)
    progress.close()
    if options.json:
        print_json({"file": str(study.path), "missing": len(study.missing), **record})
    else:
        print_study(record, study.path, len(study.missing))
    return 0


def base_of(chosen: dict[str, Any], changes: list[str]) -> Any:
    """The base recipe of the options, --set last."""
    from rotviz.cli.run import assignment
    from rotviz.pipeline.recipe import with_changes
    from rotviz.pipeline.rounding_study import base_recipe

    plain = {"model": chosen["model"],
             "text": {"evaluation": chosen["text"], **{k: chosen[k] for k in ("calibration", "samples", "windows", "length")}},
             "weights": {"bits": chosen["bits"], "group": chosen["group"],
                         "rounding": {"iterations": chosen["iterations"], "batch": chosen["batch"]}}}
    return base_recipe(with_changes(plain, map(assignment, changes)))


def print_study(record: dict[str, Any], path: Path, missing: int) -> None:
    """Effects, spreads and verdicts for people."""
    from rotviz.pipeline.study_verdicts import effects, spread_rows

    print_table([{**row, "setting": row["setting"], "KL, nats": row["kl_nats"], "times the base": row["factor"], "loss after/before": row["loss"]}
                 for row in effects(record)],
                ["switch", "setting", "KL, nats", "times the base", "verdict", "perplexity", "loss after/before", "flips", "exponent", "seconds"])
    sys.stdout.write("\n")
    print_table(spread_rows(record), ["switch", "settings", "smallest KL", "largest KL", "largest / smallest"])
    sys.stdout.write("\n")
    for one in record["verdicts"]:
        sys.stdout.write(f"{one['name']} {one['verdict']}: {one['words']} ({one['because']})\n")
    left = f"{missing} runs are missing; the same command goes on. " if missing else ""
    sys.stdout.write(f"\n{left}{path}\n")


def _print_plan(study: Any, as_json: bool) -> int:
    known = {p.recipe.fingerprint for p in study.missing}
    rows = [{"switch": p.switch, "setting": p.setting, "state": "missing" if p.recipe.fingerprint in known else "done"} for p in study.plan]
    if as_json:
        print_json({"file": str(study.path), "base": study.base.to_dict(), "plan": rows})
    else:
        print_table(rows, ["switch", "setting", "state"])
    return 0
