"""What learned rotations gain over random ones: SmolLM2-135M, WikiText-2, round-to-nearest weights, four bit settings.

    python benchmarks/learned_rotations.py [--windows 3] [--settings W16A4 W4A8 W4A4 W4A4KV4] [--methods none orthogonal ...] [--only SEED...]

Each rotation is made once, for 4-bit activations and weights in float, as SpinQuant advises, and used in all four settings. Calibration is 16
windows of 512 tokens of the validation split, the same for every method at a seed. Weights are symmetric, clip searched ("mse"); activations
symmetric with clip 0.9 at 4 bits and 1.0 at 8; the KV cache asymmetric with clip 0.95. Runs that are in results/learned_rotations.json already
are not repeated, so the script may be stopped, started, and run twice at once; each says when and on what machine it was made.

A learned method helps where its mean lies below the lower end of the 95 % prediction interval of one more Hadamard seed (rotviz.evaluation.verdict).
"""

import argparse
import statistics
import sys
from typing import Any

from record import environment, keep, load, save

from rotviz.models.loading import load as load_model
from rotviz.pipeline.recipe import Recipe, with_changes
from rotviz.pipeline.run import finish, run
from rotviz.rotations import ROTATIONS, learns

NAME = "learned_rotations"
SEEDS = {"none": 1, "orthogonal": 5, "hadamard": 5, "dfrot": 3, "dfrot 5": 3, "dartquant": 3, "dartquant uniform": 3, "dartquant 8192": 3, "peak": 3,
         "spinquant": 3}
VARIANTS = {"dartquant uniform": {"method": "dartquant", "dartquant": {"sinks": False}},
            "dartquant 8192": {"method": "dartquant", "dartquant": {"batch": 8192}},
            "dfrot 5": {"method": "dfrot", "dfrot": {"gamma": 5.0, "iterations": 40}}}
"""DartQuant as in the paper, massive tokens in the sample by chance; with 8192 rows a step, a sixth of what the sample has; DFRot with massive tokens
weighted less than its paper's gamma of 100 does."""
FOUR = {"bits": 4, "symmetric": True, "clip": 0.9}
SETTINGS = {
    "W16A4": {"weights": {"method": "none"}, "activations": FOUR},
    "W4A4": {"activations": FOUR},
    "W4A4KV4": {"activations": FOUR, "kv": {"bits": 4}},
    "W4A8": {"activations": {"bits": 8, "symmetric": True, "clip": 1.0}},
}
CALIBRATION = {"samples": 16, "length": 512}
EVALUATED_LENGTH = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--methods", nargs="+", default=list(SEEDS), choices=list(SEEDS))
    parser.add_argument("--only", type=int, nargs="+", default=list(range(5)), help="seeds")
    options = parser.parse_args()
    model = load_model("smollm2-135m")
    for method in options.methods:
        for seed in (s for s in range(SEEDS[method]) if s in options.only):
            for setting in options.settings:
                key = f"{setting} {method} {seed} {options.windows}"
                if key not in (load(NAME) or {"runs": {}})["runs"]:
                    keep(NAME, key, measured(setting, method, seed, options.windows, model))
    record = load(NAME)
    record["summary"] = summary(record["runs"])
    print(f"written to {save(NAME, record)}")
    for row in record["summary"]:
        print(row)


def measured(setting: str, method: str, seed: int, windows: int, model: Any) -> dict[str, Any]:
    """One run; the rotation is learned (or found from an earlier run) first."""
    rotation = VARIANTS.get(method, {"method": method})
    base = {"seed": seed, "rotation": rotation, "text": CALIBRATION | {"windows": 1}}
    learned = learned_rotation(base, model) if learns(ROTATIONS[rotation["method"]]) else None
    text = {"text": {"windows": windows, "length": EVALUATED_LENGTH}}
    loaded = {"rotation": {**rotation, "load": learned["file"]}} if learned else {}
    recipe = Recipe.from_dict({**base, **SETTINGS[setting], **text, **loaded})
    result = finish(run(recipe, loaded=model)).to_dict()
    kept = {"environment": environment(), "setting": setting, "method": method, "seed": seed, "windows": windows, "perplexity": result["perplexity"],
            "divergence": result["divergence"], "seconds": result["seconds"], "peak_memory_mb": result["peak_memory_mb"],
            "recipe": with_changes(recipe.to_dict(), [("rotation.load", "")] if learned else []),
            "learning": {k: learned[k] for k in ("seconds", "peak_memory_mb", "tokens", "steps", "protocol", "history")} if learned else None}
    print(f"{setting} {method} {seed}: {kept['perplexity']['quantized']['value']:.3f}, KL {kept['divergence']['kl_nats']:.4f}",
          file=sys.stderr, flush=True)
    return kept


def learned_rotation(base: dict[str, Any], model: Any) -> dict[str, Any]:
    """What a method learns for W16A4, on a run with one short window (the evaluation of that run is not used)."""
    return finish(run(Recipe.from_dict({**base, **SETTINGS["W16A4"]}), loaded=model)).learning


def summary(runs: dict[str, Any]) -> list[dict[str, Any]]:
    """Mean and spread by setting and method."""
    found = []
    for setting in SETTINGS:
        for method in SEEDS:
            rows = [r for r in runs.values() if r["setting"] == setting and r["method"] == method]
            if rows:
                found.append(row_of(setting, method, rows))
    return found


def row_of(setting: str, method: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One line of the table."""
    values, kl = [r["perplexity"]["quantized"]["value"] for r in rows], [r["divergence"]["kl_nats"] for r in rows]
    learning = [r["learning"] for r in rows if r["learning"]]
    return {
        "setting": setting, "method": method, "seeds": len(rows), "float": rows[0]["perplexity"]["reference"]["value"],
        "perplexity": statistics.mean(values), "perplexity_spread": statistics.stdev(values) if len(values) > 1 else None,
        "kl_nats": statistics.mean(kl), "kl_spread": statistics.stdev(kl) if len(kl) > 1 else None,
        "learning_seconds": statistics.median(entry["seconds"] for entry in learning) if learning else 0.0,
        "learning_peak_mb": statistics.median(entry["peak_memory_mb"] for entry in learning) if learning else None,
    }


if __name__ == "__main__":
    main()
