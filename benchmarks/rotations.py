"""What each rotation does for 4-bit activations: SmolLM2-135M, WikiText-2 test, 16-bit weights, R1 to R4, three seeds.

    python benchmarks/rotations.py [--windows 10] [--seeds 0 1 2]

Activations are symmetric, 4 bits, clip 0.9, as in QuaRot. Runs that are in results/rotations.json already are not repeated.
"""

import argparse
import statistics
import sys
from typing import Any

from record import environment, load, save

from rotviz.models.loading import load as load_model
from rotviz.pipeline.events import Event
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.run import finish, run

NAME = "rotations"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    record = load(NAME) or {"runs": {}}
    record["environment"] = environment()
    model = load_model("smollm2-135m")
    for method, seed in [("none", 0), *((m, s) for s in options.seeds for m in ("hadamard", "orthogonal"))]:
        recipe = recipe_for(method, seed, options.windows)
        if recipe.fingerprint in record["runs"]:
            continue
        record["runs"][recipe.fingerprint] = carry_out(recipe, model)
        save(NAME, record)
    record["summary"] = summary(record["runs"].values())
    print(f"written to {save(NAME, record)}")
    for row in record["summary"]:
        print(row)


def recipe_for(method: str, seed: int, windows: int) -> Recipe:
    return Recipe.from_dict({
        "seed": seed, "rotation": {"method": method}, "weights": {"method": "none"},
        "activations": {"bits": 4, "symmetric": True, "clip": 0.9}, "text": {"windows": windows},
    })


def carry_out(recipe: Recipe, model: Any) -> dict[str, Any]:
    def say(event: Event) -> None:
        print(f"{recipe.title} seed {recipe.seed}: {event.fraction:4.0%} {event.message}", file=sys.stderr)

    result = finish(run(recipe, loaded=model), say).to_dict()
    result.pop("environment")
    return result


def summary(runs: Any) -> list[dict[str, Any]]:
    """Mean and spread over the seeds of each method."""
    found = []
    for method in ("none", "orthogonal", "hadamard"):
        chosen = [r for r in runs if r["recipe"]["rotation"]["method"] == method]
        values = [r["perplexity"]["quantized"]["value"] for r in chosen]
        found.append({
            "method": method, "seeds": [r["recipe"]["seed"] for r in chosen], "perplexity": values, "mean": statistics.mean(values),
            "spread": statistics.stdev(values) if len(values) > 1 else None,
            "kl_nats": statistics.mean(r["divergence"]["kl_nats"] for r in chosen),
            "same_top": statistics.mean(r["divergence"]["same_top"] for r in chosen),
            "float": chosen[0]["perplexity"]["reference"]["value"], "tokens": chosen[0]["perplexity"]["reference"]["tokens"],
        })
    return found


if __name__ == "__main__":
    main()
