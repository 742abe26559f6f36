"""The same recipes on the CPU in float32, on the GPU in float32 and in bfloat16: perplexity, KL and seconds by stage.

    python benchmarks/devices.py [--device cuda] [--windows 4] [--text wikitext2:test]

results/devices-DEVICE.json. float32 on both must agree to the order of sums (W4A4 to what a number at a tie moves); bfloat16 shows what 16 bits cost.
Each recipe runs twice on a GPU: kernels are compiled in the first run. The CPU comes last; rows are kept as they are measured.
"""

import argparse
from typing import Any

import torch
from record import environment, file_word, save

import rotviz
from rotviz.device import describe, resolve_device
from rotviz.home import home_of_its_own
from rotviz.models.loading import load
from rotviz.pipeline.recipe import Recipe, with_changes

RECIPES: dict[str, dict[str, Any]] = {
    "float": {"rotation.method": "none", "weights.method": "none", "activations.bits": 16},
    "A4, Hadamard": {"weights.method": "none", "activations.bits": 4},
    "W4A4KV4, Hadamard, GPTQ": {"weights.method": "gptq", "activations.bits": 4, "kv.bits": 4},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--text", default="wikitext2:test")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--windows", type=int, default=4)
    options = parser.parse_args()
    device = resolve_device(options.device)
    places = [*([("cuda", "float32"), ("cuda", "bfloat16")] * 2 if device.type == "cuda" else []), ("cpu", "float32")]
    file = f"devices-{file_word(describe(device))}"
    record = {"environment": environment() | {"device": describe(device)}, "text": options.text, "windows": options.windows, "rows": []}
    for place, dtype in places:
        for name, changes in RECIPES.items():
            row = {"recipe": name, "device": place, "dtype": dtype, **measured(options, changes, place, dtype)}
            record["rows"].append(row)
            print({key: value for key, value in row.items() if key != "seconds"}, flush=True)
            save(file, record)


def measured(options: argparse.Namespace, changes: dict[str, Any], device: str, dtype: str) -> dict[str, Any]:
    """One run, which finds nothing kept: the float model's stream of the run before would spare it half of the work."""
    given = {"model": options.model, "device": device, "dtype": dtype, "text.evaluation": options.text, "text.windows": options.windows,
             "text.calibration": "pydoc", "text.samples": 16, **changes}
    loaded = load(options.model, getattr(torch, dtype))
    with home_of_its_own():
        result = rotviz.finish(rotviz.run(Recipe.from_dict(with_changes({}, list(given.items()))), loaded=loaded))
    return {"perplexity": result.quantized.value, "reference": result.reference.value, "kl_nats": result.divergence.kl_nats,
            "seconds": result.seconds, "total": sum(result.seconds.values()), "peak_memory_mb": result.peak_memory_mb, "notes": list(result.notes)}


if __name__ == "__main__":
    main()
