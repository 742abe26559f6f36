"""Time and memory of the weight methods against depth: random models of 4, 8 and 16 of SmolLM2-135M's blocks.

    python benchmarks/depth.py [--blocks 4 8 16] [--methods rtn gptq omniquant rounding] [--samples 8] [--length 256]

Every run has a process of its own. `added_mb` is its peak above what it held with the model loaded: one block's working copy, its gradients and
optimizer state, and the calibration windows' hidden states, none of which should grow with depth. `weights_seconds` is the time inside the
method, which should grow as the number of blocks; a line through the three sizes and its residual are kept for both.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from record import environment, save

SHAPE = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 4096}
METHODS = {"rtn": {}, "gptq": {}, "omniquant": {"omniquant": {"epochs": 1}}, "rounding": {"rounding": {"iterations": 10, "batch": 2}}}
CHILD = """
import json, sys
import torch
from rotviz.device import peak_memory_mb, reset_peak_memory
from rotviz.models.loading import load
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.run import finish, run
recipe, cpu = Recipe.from_dict(json.loads(sys.argv[1])), torch.device("cpu")
model = load(recipe.model)
reset_peak_memory(cpu)
before = peak_memory_mb(cpu)
result = finish(run(recipe, loaded=model))
print(json.dumps({"loaded_mb": before, "added_mb": result.peak_memory_mb - before, "weights_seconds": result.seconds["weights"],
                  "all_seconds": sum(result.seconds.values())}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    options = parser.parse_args()
    record = {"environment": environment(), "shape": SHAPE, "samples": options.samples, "length": options.length, "methods": {}}
    with tempfile.TemporaryDirectory() as folder:
        models = {blocks: made(Path(folder) / str(blocks), blocks) for blocks in options.blocks}
        for method in options.methods:
            runs = {blocks: measured(model, method, options) for blocks, model in models.items()}
            record["methods"][method] = {"runs": runs, **{name: line([run[name] for run in runs.values()], options.blocks)
                                                          for name in ("weights_seconds", "added_mb")}}
            print(method, runs, save("depth", record), file=sys.stderr, flush=True)


def made(folder: Path, blocks: int) -> Path:
    """A random Llama on disk."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rotviz.models.tiny import BOS, EOS, PAD, VOCABULARY, byte_tokenizer, fill

    symbols = {"vocab_size": VOCABULARY, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, **symbols, num_hidden_layers=blocks))
    fill(model, torch.Generator().manual_seed(0))
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def measured(model: Path, method: str, options: argparse.Namespace) -> dict[str, float]:
    """One run in a process of its own."""
    recipe = {"model": str(model), "rotation": {"method": "hadamard"}, "weights": {"method": method, **METHODS[method]}, "activations": {"bits": 16},
              "text": {"calibration": "pydoc", "evaluation": "pydoc", "samples": options.samples, "length": options.length, "windows": 2}}
    child = subprocess.run([sys.executable, "-c", CHILD, json.dumps(recipe)], check=True, capture_output=True, text=True)
    return json.loads(child.stdout.splitlines()[-1])


def line(values: list[float], blocks: list[int]) -> dict[str, float]:
    """The line through the values: its slope a block, its start, and the largest distance from it over the largest value."""
    slope, start = statistics.linear_regression(blocks, values)
    off = max(abs(value - slope * count - start) for value, count in zip(values, blocks))
    return {"a_block": slope, "start": start, "off_the_line": off / max(values)}


if __name__ == "__main__":
    main()
