"""Evaluation throughput: the walk over the blocks against plain transformers loops, on the same windows, in one run.

    python benchmarks/throughput.py [--windows 16] [--rounds 3]

What an evaluation gives is two perplexities and the divergence between the models (here both are the float model: nothing is quantized, so that the
work is the same for everybody). Three ways to it:

    plain     what everybody writes: for each window a forward of one model and its cross-entropy; two models take it twice, without divergence
    compare   the same with both models at once and KL from their log-probabilities
    walk      rotviz, the first time on these windows, and again, when the float model's stream is kept

Ratios are windows a second of the walk over those of the loop, round by round: `per_model` compares one model of the first walk with one of `plain`;
`first` and `again` compare whole evaluations with `compare`. Text and tokenization count for the walk and not for the loops.
"""

import argparse
import math
import os
import statistics
import tempfile
import time

import torch
from record import environment, save

from rotviz.models.loading import load
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.run import finish, run
from rotviz.texts import evaluation_windows

RATIOS = {
    "per_model": lambda r: 2 * r["plain"]["seconds"] / r["first"]["seconds"],
    "first": lambda r: r["compare"]["seconds"] / r["first"]["seconds"],
    "again": lambda r: r["compare"]["seconds"] / r["again"]["seconds"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    loaded = load("smollm2-135m")
    windows = evaluation_windows("wikitext2:test", loaded.tokenizer, 2048, options.windows).tokens
    rounds = [measure(loaded, windows) for _ in range(options.rounds)]
    record = {"environment": environment(), "windows": len(windows), "length": windows.shape[1], "rounds": rounds,
              "median_ratios": {name: statistics.median(map(ratio, rounds)) for name, ratio in RATIOS.items()}}
    print(record["median_ratios"], save("throughput", record))


def measure(loaded, windows: torch.Tensor) -> dict[str, dict[str, float]]:
    """Seconds for all windows, each way, with the perplexity that it found."""
    with tempfile.TemporaryDirectory() as home:
        before, os.environ["ROTVIZ_HOME"] = os.environ.get("ROTVIZ_HOME"), home
        try:
            return {name: timed(way, loaded, windows) for name, way in
                    (("plain", plain), ("compare", compare), ("first", walk), ("again", walk))}
        finally:
            os.environ.pop("ROTVIZ_HOME")
            os.environ |= {"ROTVIZ_HOME": before} if before else {}


def timed(way, loaded, windows: torch.Tensor) -> dict[str, float]:
    began = time.perf_counter()
    perplexity = way(loaded, windows)
    return {"seconds": time.perf_counter() - began, "perplexity": perplexity}


def plain(loaded, windows: torch.Tensor) -> float:
    """One forward a window, cross-entropy of the shifted targets."""
    return math.exp(statistics.mean(loss_of(logits_of(loaded, window), window) for window in windows))


def compare(loaded, windows: torch.Tensor) -> float:
    """Two forwards a window, both cross-entropies, KL."""
    losses, kl = [], 0.0
    for window in windows:
        one, other = logits_of(loaded, window), logits_of(loaded, window)
        losses.append(loss_of(other, window))
        loss_of(one, window)
        kl += torch.nn.functional.kl_div(other.log_softmax(-1), one.log_softmax(-1), log_target=True, reduction="sum").item()
    return math.exp(statistics.mean(losses))


def logits_of(loaded, window: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return loaded.model(window[None], use_cache=False).logits[0, :-1].float()


def loss_of(logits: torch.Tensor, window: torch.Tensor) -> float:
    return torch.nn.functional.cross_entropy(logits, window[1:]).item()


def walk(loaded, windows: torch.Tensor) -> float:
    """rotviz's own path, with nothing quantized."""
    recipe = Recipe.from_dict({"rotation": {"method": "none"}, "weights": {"method": "none"}, "activations": {"bits": 16},
                               "text": {"windows": len(windows)}})
    return finish(run(recipe, loaded=loaded)).quantized.value


if __name__ == "__main__":
    main()
