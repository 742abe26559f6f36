"""Evaluation throughput: the walk over the blocks against a plain transformers loop, on the same windows, in one run.

    python benchmarks/throughput.py [--windows 4] [--rounds 3]

Both score the float model: the same tokens, the same perplexity. The walk pushes two streams side by side (float and quantized, here both in
float), so its time is halved to compare one model with one model. Rounds alternate; the ratio is taken round by round and its median reported.
"""

import argparse
import math
import statistics
import time

import torch
from record import environment, save

from rotviz.models.loading import load
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.run import finish, run
from rotviz.texts import evaluation_windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    loaded = load("smollm2-135m")
    windows = evaluation_windows("wikitext2:test", loaded.tokenizer, 2048, options.windows).tokens
    rounds = [measure(loaded, windows) for _ in range(options.rounds)]
    record = {"environment": environment(), "windows": len(windows), "length": windows.shape[1], "rounds": rounds,
              "median_ratio": statistics.median(r["plain_seconds"] / r["walk_seconds"] for r in rounds)}
    print(f"windows per second, walk / plain: {record['median_ratio']:.2f}; written to {save('throughput', record)}")


def measure(loaded, windows: torch.Tensor) -> dict[str, float]:
    """Seconds for all windows: plain loop, and one stream of the walk."""
    start = time.perf_counter()
    plain = plain_perplexity(loaded.model, windows)
    middle = time.perf_counter()
    walk = walk_perplexity(loaded, len(windows))
    end = time.perf_counter()
    return {"plain_seconds": middle - start, "walk_seconds": (end - middle) / 2, "plain_perplexity": plain, "walk_perplexity": walk}


def plain_perplexity(model, windows: torch.Tensor) -> float:
    """What everybody writes: one forward a window, cross-entropy of the shifted targets."""
    losses = []
    for window in windows:
        with torch.no_grad():
            logits = model(window[None], use_cache=False).logits
        losses.append(torch.nn.functional.cross_entropy(logits[0, :-1].float(), window[1:]).item())
    return math.exp(statistics.mean(losses))


def walk_perplexity(loaded, windows: int) -> float:
    """rotviz's own path, with nothing quantized."""
    recipe = Recipe.from_dict({"rotation": {"method": "none"}, "weights": {"method": "none"}, "activations": {"bits": 16},
                               "text": {"windows": windows}})
    return finish(run(recipe, loaded=loaded)).quantized.value


if __name__ == "__main__":
    main()
