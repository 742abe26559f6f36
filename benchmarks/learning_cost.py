"""What learning costs: DartQuant, DFRot and Peak against SpinQuant, on the same calibration windows, in one run.

    python benchmarks/learning_cost.py [--samples 16] [--length 512] [--rounds 1] [--seed 0] [--methods dartquant peak dfrot spinquant]
    python benchmarks/learning_cost.py --published [--samples 16] [--length 2048]

SmolLM2-135M, 4-bit activations, weights in float. Every method learns in a process of its own with a fresh cache, so that its peak memory is its
own: the process's high-water mark while it learns, the loaded model's 540 MB among it (`baseline_mb` tells how much was there before). SpinQuant
takes its 100 steps of one window each. Times are of learning alone, sampling included, evaluation not. What was learned is left in the user's
cache, where learned_rotations.py finds it.

SpinQuant's own budget is 100 steps of 8 windows of 2048 tokens, which takes some nine hours on one core. `--published` runs three steps of one such
window, takes the time between two of them, and multiplies by 800: `projected_seconds` is that product and not a measurement. DartQuant learns whole,
from the same windows, with the paper's 131,072 rows a step and with 8192.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile

from record import environment, load, save

METHODS = ("dartquant", "peak", "dfrot", "spinquant")
PUBLISHED = {"dartquant": {"method": "dartquant"}, "dartquant 8192": {"method": "dartquant", "dartquant": {"batch": 8192}},
             "spinquant": {"method": "spinquant", "spinquant": {"steps": 3, "batch": 1, "held_out": 1}}}
PUBLISHED_WINDOWS = 800
"""Windows that go forward and back in SpinQuant's 100 steps of 8."""
CHILD = """
import json, sys
from rotviz.device import peak_memory_mb, reset_peak_memory
from rotviz.models.loading import load
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.run import finish, run
import torch
model = load("smollm2-135m")
reset_peak_memory(torch.device("cpu"))
before = peak_memory_mb(torch.device("cpu"))
times = []
take = lambda event: times.append(event.seconds) if "loss" in event.metrics else None
learning = finish(run(Recipe.from_dict(json.loads(sys.argv[1])), loaded=model), take).learning
kept = {k: learning[k] for k in ("seconds", "peak_memory_mb", "tokens", "steps", "protocol")}
print(json.dumps({"baseline_mb": before, "step_seconds": [b - a for a, b in zip(times, times[1:])], **kept}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--published", action="store_true")
    options = parser.parse_args()
    if options.published:
        print(json.dumps(published(options), indent=1))
        return
    record = load("learning_cost") | {"environment": environment(), "rounds": []}
    for _ in range(options.rounds):
        found = {method: learned({"method": method}, options) for method in options.methods}
        if "spinquant" in found:
            for row in found.values():
                row["time_ratio"] = found["spinquant"]["seconds"] / row["seconds"]
                row["memory_ratio"] = found["spinquant"]["peak_memory_mb"] / row["peak_memory_mb"]
        record["rounds"].append(found)
        print(json.dumps(found, indent=1), save("learning_cost", record))


def published(options: argparse.Namespace) -> dict:
    """DartQuant whole against SpinQuant's own budget, projected from single steps."""
    options.length = max(options.length, 2048)
    found = {name: learned(rotation, options) for name, rotation in PUBLISHED.items()}
    spinquant = found["spinquant"]
    spinquant["projected_seconds"] = PUBLISHED_WINDOWS * min(spinquant["step_seconds"])
    for row in found.values():
        row["time_ratio"] = spinquant["projected_seconds"] / row["seconds"]
        row["memory_ratio"] = spinquant["peak_memory_mb"] / row["peak_memory_mb"]
        row["memory_ratio_beyond_baseline"] = ((spinquant["peak_memory_mb"] - spinquant["baseline_mb"])
                                               / (row["peak_memory_mb"] - row["baseline_mb"]))
    save("learning_cost", load("learning_cost") | {"published": found | {"environment": environment()}})
    return found


def learned(rotation: dict, options: argparse.Namespace) -> dict:
    """One method in a process of its own."""
    recipe = {"seed": options.seed, "rotation": rotation, "weights": {"method": "none"},
              "activations": {"bits": 4, "symmetric": True, "clip": 0.9},
              "text": {"samples": options.samples, "length": options.length, "windows": 1}}
    with tempfile.TemporaryDirectory() as home:
        user = os.environ.get("ROTVIZ_HOME", os.path.expanduser("~/.cache/rotviz"))
        os.symlink(os.path.join(user, "models"), os.path.join(home, "models"))
        child = subprocess.run([sys.executable, "-c", CHILD, json.dumps(recipe)], env=os.environ | {"ROTVIZ_HOME": home}, check=True,
                               capture_output=True, text=True)
        shutil.copytree(os.path.join(home, "rotations"), os.path.join(user, "rotations"), dirs_exist_ok=True)
    return json.loads(child.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
