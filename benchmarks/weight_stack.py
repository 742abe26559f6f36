"""What each weight method is worth: SmolLM2-135M, WikiText-2, from W4A16 to W2A16 in groups of 64, W6A6, and W4A4KV4 under two rotations.

    python benchmarks/weight_stack.py [--windows 8] [--settings W3A16g64 ...] [--methods rtn gptq omniquant rounding mixed]
    python benchmarks/weight_stack.py --table > benchmarks/results/weight_stack.md     # of what is there; nothing runs

Calibration is 16 windows of 512 tokens of the validation split for every method; evaluation is on windows of 512 of the test split. Weights are
symmetric with a searched clip where the method takes one, asymmetric for OmniQuant as in its paper and at 2 bits (a symmetric grid has one level
above zero there: "W2A16g64 symmetric" shows what that does). "mixed" is round-to-nearest with bits shared out by importance at the same average.
Steps and epochs are fewer than published (see each run's recipe), so that a CPU can do it. Peak memory is the process's, which runs one recipe after
another. Runs that are in results/weight_stack.json already are not repeated, so the script may be stopped, started, and run twice at once.
"""

import argparse
import sys
from typing import Any

from record import environment, keep, load

from rotviz.models.loading import load as load_model
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.run import finish, run

NAME = "weight_stack"
NONE = {"rotation": {"method": "none"}}
FOUR = {"activations": {"bits": 4, "symmetric": True, "clip": 0.9}, "kv": {"bits": 4}}
SETTINGS: dict[str, dict[str, Any]] = {
    "W4A16": NONE | {"weights": {"bits": 4}, "activations": {"bits": 16}},
    "W4A16g64": NONE | {"weights": {"bits": 4, "group": 64}, "activations": {"bits": 16}},
    "W3A16g64": NONE | {"weights": {"bits": 3, "group": 64}, "activations": {"bits": 16}},
    "W2A16g64": NONE | {"weights": {"bits": 2, "group": 64, "symmetric": False}, "activations": {"bits": 16}},
    "W2A16g64 symmetric": NONE | {"weights": {"bits": 2, "group": 64}, "activations": {"bits": 16}},
    "W6A6": NONE | {"weights": {"bits": 6}, "activations": {"bits": 6, "symmetric": False, "clip": 1.0}},
    "W4A4KV4 hadamard": {"rotation": {"method": "hadamard"}, "weights": {"bits": 4}} | FOUR,
    "W4A4KV4 peak": {"rotation": {"method": "peak"}, "weights": {"bits": 4}} | FOUR,
}
METHODS: dict[str, dict[str, Any]] = {
    "rtn": {"weights": {"method": "rtn"}},
    "gptq": {"weights": {"method": "gptq"}},
    "omniquant": {"weights": {"method": "omniquant", "symmetric": False, "omniquant": {"epochs": 2}}},
    "rounding": {"weights": {"method": "rounding", "rounding": {"iterations": 60, "batch": 2}}},
    "mixed": {"weights": {"method": "rtn"}, "allocation": {"method": "importance"}},
}
CALIBRATION = {"samples": 16, "length": 512}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--table", action="store_true", help="print what was measured as a table")
    options = parser.parse_args()
    if options.table:
        print(table(load(NAME)["runs"], options.windows))
        return
    model = load_model("smollm2-135m")
    for setting in options.settings:
        for method in options.methods:
            key = f"{setting} {method} {options.windows}"
            if key not in (load(NAME) or {"runs": {}})["runs"]:
                found = keep(NAME, key, measured(recipe_for(setting, method, options.windows), model))[key]
                print(key, found["perplexity"]["quantized"]["value"], file=sys.stderr, flush=True)


def recipe_for(setting: str, method: str, windows: int) -> Recipe:
    """Setting and method merged, table by table."""
    plain: dict[str, Any] = {"text": CALIBRATION | {"windows": windows}}
    for part in (SETTINGS[setting], METHODS[method]):
        for section, table in part.items():
            plain[section] = {**plain.get(section, {}), **table}
    return Recipe.from_dict(plain)


def measured(recipe: Recipe, model: Any) -> dict[str, Any]:
    result = finish(run(recipe, loaded=model)).to_dict()
    kept = ("recipe", "perplexity", "divergence", "seconds", "peak_memory_mb", "weight_errors", "notes")
    return {"environment": environment()} | {name: result[name] for name in kept}


def table(runs: dict[str, Any], windows: int) -> str:
    """Markdown: perplexity, its ratio to the float model's and KL, each with its standard error, and what it cost."""
    lines = ["| setting | method | perplexity | times float | KL, nats | same top token | seconds for weights | peak memory of the process, MB |",
             "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for setting in SETTINGS:
        for method in METHODS:
            run = runs.get(f"{setting} {method} {windows}")
            if run:
                perplexity, kl = run["perplexity"], run["divergence"]
                seconds = run["seconds"].get("weights", 0) + run["seconds"].get("weigh", 0)
                lines.append(f"| {setting} | {method} | {_with_error(perplexity['quantized'])} | {_with_error(perplexity['ratio'])} | "
                             f"{kl['kl_nats']:.3f} ± {kl['stderr']:.3f} | {kl['same_top']:.1%} | {seconds:,.0f} | {run['peak_memory_mb']:,.0f} |")
    return "\n".join(lines)


def _with_error(found: dict[str, float]) -> str:
    value, error = found["value"], found["stderr"]
    return f"{value:,.2f} ± {error:,.2f}" if value < 100 else f"{value:,.0f} ± {error:,.0f}"


if __name__ == "__main__":
    main()
