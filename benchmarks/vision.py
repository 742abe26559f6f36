"""What each weight method is worth on a vision transformer: tiny-vit-trained on drawn shapes, from W4A16 to W2A16, and W4A4 under two rotations.

    python benchmarks/vision.py [--count 2000] [--seeds 0 1 2] [--settings W3A16 ...] [--methods rtn gptq omniquant rounding]

The model is trained first where it is not there yet. Calibration is on 64 images of the validation split, chosen anew by each seed; evaluation is
top-1 agreement with the float model, KL and accuracy on the first images of the test split, the same for all. Round-to-nearest uses nothing
random without a rotation, so one seed stands for all there. Every method has its defaults; weights are symmetric, a whole output channel has one
scale. Runs that are in results/vision.json already are not repeated.
"""

import argparse
import sys
from typing import Any

from record import environment, load, save

from rotviz.models.loading import load as load_model
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.run import finish, run

NAME, MODEL = "vision", "tiny-vit-trained"
NONE, FLOAT = {"rotation": {"method": "none"}}, {"activations": {"bits": 16}}
SETTINGS: dict[str, dict[str, Any]] = {
    "W4A16": NONE | FLOAT | {"weights": {"bits": 4}},
    "W3A16": NONE | FLOAT | {"weights": {"bits": 3}},
    "W2A16": NONE | FLOAT | {"weights": {"bits": 2}},
    "W4A4": NONE | {"weights": {"bits": 4}, "activations": {"bits": 4}},
    "W4A4 hadamard": {"rotation": {"method": "hadamard"}, "weights": {"bits": 4}, "activations": {"bits": 4}},
}
METHODS = ("rtn", "gptq", "omniquant", "rounding")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    options = parser.parse_args()
    record = load(NAME) or {"runs": {}}
    record["environment"], model = environment(), load_model(MODEL)
    for setting in options.settings:
        for method in options.methods:
            for seed in options.seeds[:1] if method == "rtn" and SETTINGS[setting]["rotation"]["method"] == "none" else options.seeds:
                key = f"{setting} {method} seed {seed} {options.count}"
                if key not in record["runs"]:
                    record["runs"][key] = measured(recipe_for(setting, method, seed, options.count), model)
                    found = record["runs"][key]["classification"]
                    print(key, found["agreement"], found["accuracy"]["quantized"], file=sys.stderr, flush=True)
                    save(NAME, record)
    print(save(NAME, record))


def recipe_for(setting: str, method: str, seed: int, count: int) -> Recipe:
    plain = SETTINGS[setting]
    return Recipe.from_dict({**plain, "model": MODEL, "seed": seed, "images": {"count": count}, "weights": {**plain["weights"], "method": method}})


def measured(recipe: Recipe, model: Any) -> dict[str, Any]:
    result = finish(run(recipe, loaded=model)).to_dict()
    kept = ("recipe", "classification", "divergence", "seconds", "peak_memory_mb", "notes")
    return {name: result[name] for name in kept}


if __name__ == "__main__":
    main()
