"""rotviz bench NAME: measure on this machine.

    kernels           each kernel and size against this machine's ceilings, torch and peers
    deployment        a recipe's model in bits: bytes by part, tokens a second at prefill and decode beside the float model
    evaluation        windows a second of an evaluation beside plain transformers loops and lm-eval
    rounding-study    which choices of learned rounding matter
"""

import argparse
import re
import sys
from dataclasses import asdict
from typing import Any

from rotviz.cli import rounding_study
from rotviz.cli.output import Progress, print_json, print_table

NOT_MEASURED = "not measured"
BITS = re.compile(r"W(\d+)A(\d+)KV(\d+)", re.IGNORECASE)


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
    deployment = names.add_parser("deployment", help="a model in bits: bytes by part, tokens a second beside the float model")
    add_deployment_options(deployment)
    deployment.add_argument("--json", action="store_true", help="print one JSON object")
    deployment.set_defaults(handler=bench_deployment)
    _add_evaluation(names.add_parser("evaluation", help="windows a second beside plain loops and lm-eval"))
    rounding_study.add(names)


def add_deployment_options(parser: argparse.ArgumentParser) -> None:
    """What `deployment_record` reads."""
    parser.add_argument("--model", default="smollm2-135m", help="a model's name")
    parser.add_argument("--bits", action="append", metavar="WxAxKVx", help="such as W4A4KV4, more than once for several; W4A4KV4 and W4A16KV16")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="set one key of the recipe, such as rotation.method=none")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--dtype", default="", help="of the float model and of what stays in float; without it, the recipe's")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=16, help="tokens to decode")
    parser.add_argument("--context", type=int, default=2048, help="tokens of the KV cache that is weighed")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that each median is of")


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="smollm2-135m", help="a model's name")
    parser.add_argument("--text", default="wikitext2:test", help="an evaluation text")
    parser.add_argument("--windows", type=int, default=4, help="windows")
    parser.add_argument("--length", type=int, default=2048, help="tokens in a window")
    parser.add_argument("--rounds", type=int, default=1, help="rounds that each median is of")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--dtype", default="float32", help="of the model")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=bench_evaluation)


def bench_deployment(options: argparse.Namespace) -> int:
    """Deploy, weigh and time; print what was found and keep it for the page."""
    record = deployment_record(options)
    if options.json:
        print_json(record)
        return 0
    for row in record["rows"]:
        sys.stdout.write(f"{row['title']}, {row['dtype']}: {row['model_bytes']['deployed'] / 1e6:.4g} MB, float "
                         f"{row['model_bytes']['reference'] / 1e6:.4g} MB\n\n")
        print_table([{"part": p["name"], "MB": p["measured"] / 1e6, "predicted MB": p["predicted"] / 1e6, "16 bits MB": p["float16"] / 1e6}
                     for p in row["bytes"]], ["part", "MB", "predicted MB", "16 bits MB"])
        sys.stdout.write("\n")
        print_table([{"tokens/s": words, **{who: NOT_MEASURED if found[what] is None else found[what] for who, found in row["median"].items()}}
                     for what, words in (("prefill", "prefill"), ("decode", "decode"), ("replayed", "decode, a CUDA graph a step"))],
                    ["tokens/s", "reference", "deployed", "deployed_over_reference"])
        sys.stdout.write(f"\n{row['not_measured']}\n" if row["not_measured"] else "\n")
    return 0


def deployment_record(options: argparse.Namespace) -> dict[str, Any]:
    """A row for each number of bits, as plain values.

    Raises:
        BadInput: bits that are not written WxAxKVx, and as rotviz.deployment.bench.measure.
    """
    from rotviz.deployment.bench import measure
    from rotviz.deployment.shelf import keep_benchmark
    from rotviz.device import resolve_device, resolve_dtype
    from rotviz.models.loading import load

    recipes = [_recipe_with(bits, options) for bits in options.bits or ("W4A4KV4", "W4A16KV16")]
    progress = Progress()
    resolve_device(recipes[0].device)  # --set may name another device or model than the options
    loaded = load(recipes[0].model, resolve_dtype(recipes[0].dtype))
    rows = []
    for number, recipe in enumerate(recipes):
        def say(fraction: float, words: str, number: int = number, recipe: Any = recipe) -> None:
            progress((number + fraction) / len(recipes), f"{recipe.bits_title}: {words}")

        rows.append(measure(recipe, prompt=options.prompt, new=options.tokens, rounds=options.rounds, dtype=options.dtype, context=options.context,
                            loaded=loaded, say=say))
    progress.close()
    record = {"environment": rows[0]["environment"], "rows": rows}
    keep_benchmark(record)
    return record


def _recipe_with(bits: str, options: argparse.Namespace) -> Any:
    from rotviz.cli.run import assignment
    from rotviz.errors import BadInput
    from rotviz.pipeline.recipe import Recipe, with_changes

    found = BITS.fullmatch(bits)
    if found is None:
        raise BadInput(f"--bits {bits!r} is not written like W4A4KV4: bits of weights, activations and KV cache, 16 for float")
    weights, activations, cache = map(int, found.groups())
    changes = [("model", options.model), ("device", options.device), ("weights.bits", weights), ("activations.bits", activations), ("kv.bits", cache)]
    return Recipe.from_dict(with_changes({}, [*changes, *map(assignment, options.set)]))


def bench_evaluation(options: argparse.Namespace) -> int:
    """Time an evaluation each way and print what was found."""
    from rotviz.device import resolve_dtype
    from rotviz.pipeline.throughput import measure

    resolve_dtype(options.dtype)
    progress = Progress()
    record = measure(options.model, options.text, windows=options.windows, length=options.length, rounds=options.rounds, device=options.device,
                     dtype=options.dtype, say=progress)
    progress.close()
    if options.json:
        print_json(record)
        return 0
    first = record["rounds"][0]
    share = "share of the matrix rate"
    print_table([{"way": way, "windows/s": speed if speed is not None else first[way]["note"], share: record["floor"]["shares"].get(way),
                  "perplexity": first[way].get("perplexity")} for way, speed in record["windows_per_second"].items()],
                ["way", "windows/s", share, "perplexity"])
    sys.stdout.write("\nratios of windows/s: " + ", ".join(f"{name} {ratio:.3g}" for name, ratio in record["median_ratios"].items()) + "\n")
    return 0


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
    from rotviz.kernels.choice import kernels_missing
    from rotviz.pipeline.result import environment

    if repeats < 1:
        raise BadInput(f"repeats = {repeats}: a median is of at least one run")
    place = resolve_device(device)
    progress = Progress()
    ceilings, rows = {}, []
    for found in measure(place, quick=quick, repeats=repeats):
        if isinstance(found, Ceilings):
            why = kernels_missing(place)
            words = f"The Triton kernels are not measured ({why}): the times are of their references in torch." if why else ""
            ceilings = asdict(found) | {"not_measured": words}
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
