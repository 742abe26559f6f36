"""What 4 bits cost SmolLM2-135M in weights alone, in activations alone and in both, with and without rotations, and which weight method mends it.

    python benchmarks/weights_and_activations.py [--windows 8] [--rotations none hadamard peak] [--weights float rtn ...]

A Hadamard rotation rescues 4-bit activations and makes round-to-nearest weights worse. Every rotation is measured with float weights, with weights
rounded six ways, and each of those again with 4-bit activations (symmetric, a scale a token, clip 0.9). Beside perplexity and KL the record has
what explains them: the relative squared error of each weight, in the basis in which it is rounded. Evaluation is on windows of 512 of the test
split, calibration on 16 of the validation split. Runs that are in results/weights_and_activations.json already are not repeated.
"""

import argparse
import statistics
import sys
from typing import Any

from record import environment, keep, load, save

from rotviz.models.loading import load as load_model
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.run import finish, run

NAME = "weights_and_activations"
ROTATIONS = ("none", "hadamard", "peak")
FOUR = {"bits": 4, "symmetric": True, "clip": 0.9}
WEIGHTS: dict[str, dict[str, Any]] = {
    "float": {"method": "none"},
    "rtn": {"method": "rtn"},
    "rtn, no clip": {"method": "rtn", "clip": "none"},
    "rtn g32 int_min": {"method": "rtn", "group": 32, "symmetric": False, "clip": "none", "format": "int_min"},
    "rtn g64": {"method": "rtn", "group": 64},
    "rtn g32 asymmetric": {"method": "rtn", "group": 32, "symmetric": False},
    "gptq": {"method": "gptq"},
}
TEXT = {"samples": 16, "length": 512}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--rotations", nargs="+", default=list(ROTATIONS), choices=ROTATIONS)
    parser.add_argument("--weights", nargs="+", default=list(WEIGHTS), choices=list(WEIGHTS))
    options = parser.parse_args()
    model = load_model("smollm2-135m")
    for weights in options.weights:
        for rotation in options.rotations:
            for bits in (16, 4):
                key = f"{rotation} | {weights} | A{bits}"
                if not (weights == "float" and bits == 16) and key not in (load(NAME) or {"runs": {}})["runs"]:
                    found = keep(NAME, key, measured(rotation, weights, bits, options.windows, model))[key]
                    print(key, found["perplexity"]["quantized"]["value"], found["divergence"]["kl_nats"], file=sys.stderr, flush=True)
    record = load(NAME)
    print(save(NAME, record | {"table": table(record["runs"])}))


def measured(rotation: str, weights: str, bits: int, windows: int, model: Any) -> dict[str, Any]:
    recipe = Recipe.from_dict({"rotation": {"method": rotation}, "weights": {"bits": 4, **WEIGHTS[weights]},
                               "activations": FOUR if bits == 4 else {"bits": 16}, "text": TEXT | {"windows": windows}})
    result = finish(run(recipe, loaded=model)).to_dict()
    kept = ("recipe", "perplexity", "divergence", "seconds", "peak_memory_mb", "weight_errors")
    return {"environment": environment(), "rotation": rotation, "weights": weights, "activation_bits": bits, **{name: result[name] for name in kept}}


def table(runs: dict[str, Any]) -> list[dict[str, Any]]:
    """KL of weights alone, of activations alone and of both, a row for each rotation and weight method."""
    def kl(rotation: str, weights: str, bits: int) -> float | None:
        found = runs.get(f"{rotation} | {weights} | A{bits}")
        return found["divergence"]["kl_nats"] if found else None

    return [{"rotation": rotation, "weights": weights, "weights_alone": kl(rotation, weights, 16), "activations_alone": kl(rotation, "float", 4),
             "both": kl(rotation, weights, 4), "relative_mse": median_error(runs.get(f"{rotation} | {weights} | A16"))}
            for rotation in ROTATIONS for weights in WEIGHTS if weights != "float"]


def median_error(found: dict[str, Any] | None) -> float | None:
    """The median relative squared error of the weights of a run."""
    rows = [row["relative_mse"] for row in (found or {}).get("weight_errors") or []]
    return statistics.median(rows) if rows else None


if __name__ == "__main__":
    main()
