"""Whose bits? Ways to share out 3 bits a weight on SmolLM2-135M at equal average: uniform, lots, magnitude, and importance by three estimates.

    python benchmarks/mixed_precision.py [--windows 8]

Weights are rounded to nearest on the asymmetric grid, in groups of 64 with a searched clip; activations stay in float. A unit is a linear, for
curvature also an output channel. Gradients come from 16 windows of 512 tokens of the validation split, evaluation is on windows of 512 of the test
split. Lots are drawn with two seeds. Runs that are in results/mixed_precision.json already are not repeated.
"""

import argparse
import sys
from typing import Any

from record import environment, keep, load

from rotviz.models.loading import load as load_model
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.run import finish, run

NAME = "mixed_precision"
STRATEGIES: dict[str, dict[str, Any]] = {
    "uniform": {"method": "none"},
    "magnitude": {"method": "magnitude"},
    **{f"random {seed}": {"method": "random"} for seed in range(2)},
    "importance curvature": {"method": "importance", "sensitivity": "curvature"},
    "importance both": {"method": "importance", "sensitivity": "both"},
    "importance first": {"method": "importance", "sensitivity": "first"},
    "importance curvature channel": {"method": "importance", "sensitivity": "curvature", "unit": "channel"},
}
TEXT = {"samples": 16, "length": 512}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--budget", type=float, default=3)
    options = parser.parse_args()
    model = load_model("smollm2-135m")
    for name, allocation in STRATEGIES.items():
        key = f"{name} {options.budget:g} {options.windows}"
        if key not in (load(NAME) or {"runs": {}})["runs"]:
            seed = int(name.split()[1]) if name.startswith("random") else 0
            found = keep(NAME, key, measured(allocation, seed, options, model))[key]
            print(key, found["perplexity"]["quantized"]["value"], found["divergence"]["kl_nats"], file=sys.stderr, flush=True)


def measured(allocation: dict[str, Any], seed: int, options: argparse.Namespace, model: Any) -> dict[str, Any]:
    plain = {"seed": seed, "rotation": {"method": "none"}, "activations": {"bits": 16}, "text": TEXT | {"windows": options.windows},
             "weights": {"method": "rtn", "bits": int(options.budget), "group": 64, "symmetric": False}, "allocation": allocation}
    result = finish(run(Recipe.from_dict(plain), loaded=model)).to_dict()
    kept = ("recipe", "perplexity", "divergence", "seconds", "peak_memory_mb", "allocation")
    return {"environment": environment(), **{name: result[name] for name in kept}}


if __name__ == "__main__":
    main()
