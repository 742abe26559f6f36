"""Does torch.compile pay? Forward passes of the float model and of a fake-quantized one, as they are and compiled, in turns.

    python benchmarks/compile.py [--device auto] [--dtype float32] [--length 512] [--rounds 7]

Compiling is over after three passes: a later one may meet a case that the first had not. Windows an evaluation must have before it has paid for
itself: seconds to compile over the seconds that a window gains; None where it gains none. On a GPU "reduce-overhead" (CUDA graphs) is tried as
well. W4A4KV4 under Hadamard, rounded to nearest: what it computes is sensitive to the last bit of a sum (a number that stood between two codes), so
mean losses are kept beside the times.
"""

import argparse
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # what was compiled before would not be compiled again

import torch
from record import environment, save
from torch import Tensor, nn

import rotviz
from rotviz.device import describe, resolve_device, wait_for
from rotviz.models.loading import load
from rotviz.pipeline.recipe import Recipe, with_changes
from rotviz.pipeline.whole import quantized_model
from rotviz.texts import evaluation_windows

WARM = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    device = resolve_device(options.device)
    recipe = Recipe.from_dict(with_changes({}, [("model", options.model), ("device", options.device), ("dtype", options.dtype), ("kv.bits", 4)]))
    loaded = load(recipe.model, getattr(torch, options.dtype))
    window = evaluation_windows("pydoc", loaded.tokenizer, options.length, 1).tokens.to(device)
    modes = ["default", "reduce-overhead"] if device.type == "cuda" else ["default"]
    found: dict[str, Any] = {}
    for name, model in models(recipe, loaded, device):
        for mode in modes:
            found[f"{name}, {mode}"] = compared(model, mode, window, options.rounds)
            print(name, mode, found[f"{name}, {mode}"])
        del model
        gc.collect()
    record = {"environment": environment() | {"device": describe(device)}, "recipe": recipe.to_dict(), "length": options.length, "rows": found}
    print(f"written to {save('compile' if device.type == 'cpu' else f'compile-{device.type}', record)}")


def models(recipe: Recipe, loaded: Any, device: torch.device) -> Iterator[tuple[str, nn.Module]]:
    """The float model and the fake-quantized one, one after the other."""
    yield "float", loaded.model.to(device)
    yield recipe.title, rotviz.finish(quantized_model(recipe, loaded))


@torch.no_grad()
def compared(model: nn.Module, mode: str, window: Tensor, rounds: int) -> dict[str, Any]:
    """Seconds of both, round by round."""
    torch.compiler.reset()
    plain = {"eager": model, "compiled": torch.compile(model, mode=mode, dynamic=False)}
    uncounted = {name: [clocked(way, window) for _ in range(WARM)] for name, way in plain.items()}
    seconds: dict[str, list[float]] = {name: [] for name in plain}
    for _ in range(rounds):
        for name, way in plain.items():
            seconds[name].append(clocked(way, window)[0])
    eager, quick = (statistics.median(seconds[name]) for name in plain)
    ratios = [a / b for a, b in zip(seconds["eager"], seconds["compiled"])]
    compiling = sum(took for took, _ in uncounted["compiled"]) - WARM * quick
    return {"seconds": seconds, "losses": {name: loss for name, [*_, (_, loss)] in uncounted.items()}, "seconds_to_compile": compiling,
            "eager_over_compiled": statistics.median(ratios), "windows_to_pay": compiling / (eager - quick) if eager > quick else None}


def clocked(model: Callable[..., Any], window: Tensor) -> tuple[float, float]:
    """Seconds of one forward pass, and its mean cross-entropy."""
    wait_for(window.device)
    began = time.perf_counter()
    logits = model(window, use_cache=False).logits
    wait_for(window.device)
    took = time.perf_counter() - began
    return took, nn.functional.cross_entropy(logits[0, :-1].float(), window[0, 1:]).item()


if __name__ == "__main__":
    main()
