"""How fast an evaluation goes, beside what people write themselves, on the same windows and in one run.

What an evaluation gives is two perplexities and the divergence between two models (here both are the float model: nothing is quantized, so that the
work is the same for everybody). The ways to it:

    plain     what everybody writes: for each window a forward of one model and its cross-entropy; two models take it twice, without divergence
    compare   the same with both models at once and KL from their log-probabilities
    walk      rotviz, the first time on these windows, and again, when the float model's stream is kept
    lm_eval   lm-eval's HFLM.loglikelihood_rolling on the texts of the windows, where it is installed; one model, without divergence

The floor is what the forward pass of a model takes if nothing but its matrix products takes time, at the rate of a large product in the same dtype,
measured here: 2 P L / rate a window, P multiply-adds a token that attends to half a window (rotviz.kernels.cost). Shares of it are for the whole
evaluation, divergence, errors by block and text included: models x windows x floor / seconds.

Ratios are windows a second of the walk over those of the other, round by round: `per_model` compares one model of the first walk with one of
`plain`; `first` and `again` compare whole evaluations with `compare`; `per_model_lm_eval` one model of the first walk with lm-eval. Text and
tokenization count for the walk and for lm-eval, not for the loops. lm-eval reads text: a window's text may come back as a few tokens more or fewer.
"""

import importlib.metadata
import importlib.util
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rotviz.device import describe, resolve_device, wait_for
from rotviz.errors import BadInput
from rotviz.home import home_of_its_own
from rotviz.kernels.bench import matrix_rate
from rotviz.kernels.cost import Shape, forward_operations
from rotviz.models.loading import LoadedModel, load, require_text
from rotviz.pipeline.recipe import Recipe, with_changes
from rotviz.pipeline.result import environment
from rotviz.pipeline.run import finish, run
from rotviz.texts import evaluation_windows

LM_EVAL = "lm_eval"
NOT_INSTALLED = "not measured: lm-eval is not installed here (pip install lm-eval)"
REPEATS = 20
"""Products that the matrix rate is the median of."""
RATIOS: dict[str, Callable[[dict[str, Any]], float]] = {
    "per_model": lambda r: 2 * r["plain"]["seconds"] / r["first"]["seconds"],
    "first": lambda r: r["compare"]["seconds"] / r["first"]["seconds"],
    "again": lambda r: r["compare"]["seconds"] / r["again"]["seconds"],
}
RATIOS_LM_EVAL: dict[str, Callable[[dict[str, Any]], float]] = {
    "per_model_lm_eval": lambda r: 2 * r[LM_EVAL]["seconds"] / r["first"]["seconds"],
}
MODELS = {"plain": 1, "compare": 2, "first": 2, LM_EVAL: 1}
"""Forward passes a window."""
Say = Callable[[float, str], None]


def measure(model: str, text: str, *, windows: int, length: int, rounds: int, device: str = "auto", dtype: str = "float32",
            say: Say = lambda fraction, words: None) -> dict[str, Any]:
    """Every way, several times; plain values.

    Raises:
        BadInput: no such model, text or device, or fewer than one round or window.
    """
    if min(windows, rounds) < 1:
        raise BadInput(f"windows = {windows}, rounds = {rounds}: each is at least 1")
    require_text(model, "this benchmark")
    recipe = float_recipe(model, text, windows, length, device, dtype)
    place = resolve_device(device)
    loaded = load(model, getattr(torch, dtype))
    loaded = replace(loaded, model=loaded.model.to(place))
    tokens = evaluation_windows(text, loaded.tokenizer, length, windows).tokens
    found = []
    for number in range(rounds):
        found.append(one_round(loaded, recipe, tokens.to(place)))
        say((number + 1) / rounds, f"round {number + 1} of {rounds}")
    floor = floor_of(loaded, tokens.shape[1], place)
    floor |= {"shares": shares_of(found, floor, len(tokens))}
    versions = environment(describe(place)) | ({LM_EVAL: importlib.metadata.version(LM_EVAL)} if lm_eval_installed() else {})
    return record_of(found, tokens) | {"floor": floor, "environment": versions, "model": model, "text": text, "dtype": dtype}


def float_recipe(model: str, text: str, windows: int, length: int, device: str = "auto", dtype: str = "float32") -> Recipe:
    """A recipe that quantizes nothing."""
    return Recipe.from_dict(with_changes({}, [
        ("model", model), ("device", device), ("dtype", dtype), ("rotation.method", "none"), ("weights.method", "none"), ("activations.bits", 16),
        ("text.evaluation", text), ("text.windows", windows), ("text.length", length)]))


def record_of(rounds: list[dict[str, dict[str, Any]]], windows: Tensor) -> dict[str, Any]:
    """What is kept of the rounds: the raw seconds, windows a second, and the median ratios."""
    ratios = RATIOS if "note" in rounds[0][LM_EVAL] else RATIOS | RATIOS_LM_EVAL
    speeds = {way: None if "note" in rounds[0][way] else len(windows) / statistics.median(r[way]["seconds"] for r in rounds) for way in rounds[0]}
    return {"windows": len(windows), "length": windows.shape[1], "rounds": rounds, "windows_per_second": speeds,
            "median_ratios": {name: statistics.median(map(ratio, rounds)) for name, ratio in ratios.items()}}


def floor_of(loaded: LoadedModel, length: int, device: torch.device) -> dict[str, Any]:
    """Operations of a window, the rate of a large matrix product, and the seconds that follow."""
    rate = matrix_rate(device, loaded.model.dtype, small=device.type != "cuda", repeats=REPEATS)
    operations = 2 * length * forward_operations(Shape.from_config(loaded.model.config), length // 2)
    return {"operations": operations, "matrix_operations": rate, "seconds": operations / rate}


def shares_of(rounds: list[dict[str, dict[str, Any]]], floor: dict[str, Any], windows: int) -> dict[str, float]:
    """The median share of the matrix rate that each way keeps."""
    return {way: statistics.median(models * windows * floor["seconds"] / r[way]["seconds"] for r in rounds)
            for way, models in MODELS.items() if "note" not in rounds[0][way]}


def one_round(loaded: LoadedModel, recipe: Recipe, windows: Tensor) -> dict[str, dict[str, Any]]:
    """Seconds for all windows, each way, with the perplexity that it found; a note where a way is not there."""
    ways: dict[str, Callable[[], float]] = {
        "plain": lambda: plain(loaded, windows), "compare": lambda: compare(loaded, windows), "first": lambda: walk(loaded, recipe),
        "again": lambda: walk(loaded, recipe)}
    with home_of_its_own():
        found = {name: _timed(way, windows.device) for name, way in ways.items()}
    return found | {LM_EVAL: _timed_lm_eval(loaded, windows)}


def plain(loaded: LoadedModel, windows: Tensor) -> float:
    """One forward a window, cross-entropy of the shifted targets."""
    return math.exp(statistics.mean(_loss(_logits(loaded, window), window) for window in windows))


def compare(loaded: LoadedModel, windows: Tensor) -> float:
    """Two forwards a window, both cross-entropies, KL."""
    losses, kl = [], 0.0
    for window in windows:
        one, other = _logits(loaded, window), _logits(loaded, window)
        losses.append(_loss(other, window))
        _loss(one, window)
        kl += torch.nn.functional.kl_div(other.log_softmax(-1), one.log_softmax(-1), log_target=True, reduction="sum").item()
    return math.exp(statistics.mean(losses))


def walk(loaded: LoadedModel, recipe: Recipe) -> float:
    """rotviz's own path, with nothing quantized."""
    return finish(run(recipe, loaded=loaded)).quantized.value


def rolling(evaluator: Any, texts: list[str], tokens: int) -> float:
    """lm-eval's rolling log-likelihood of the windows' texts; perplexity over `tokens` tokens."""
    from lm_eval.api.instance import Instance

    requests = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
    found = evaluator.loglikelihood_rolling(requests, disable_tqdm=True)
    return math.exp(-sum(found) / tokens)


def lm_eval_installed() -> bool:
    """Whether lm-eval can be imported; it is not imported to find out."""
    return importlib.util.find_spec(LM_EVAL) is not None


def _timed_lm_eval(loaded: LoadedModel, windows: Tensor) -> dict[str, Any]:
    if not lm_eval_installed():
        return {"note": NOT_INSTALLED}
    from lm_eval.models.huggingface import HFLM

    # a little longer than a window, so that one whose text comes back as a few tokens more stays one window
    evaluator = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=1, max_length=windows.shape[1] + 16)
    texts = [loaded.tokenizer.decode(window) for window in windows]
    return _timed(lambda: rolling(evaluator, texts, windows.numel()), windows.device)


def _timed(way: Callable[[], float], device: torch.device) -> dict[str, Any]:
    wait_for(device)
    began = time.perf_counter()
    perplexity = way()
    wait_for(device)
    return {"seconds": time.perf_counter() - began, "perplexity": perplexity}


def _logits(loaded: LoadedModel, window: Tensor) -> Tensor:
    with torch.no_grad():
        return loaded.model(window[None], use_cache=False).logits[0, :-1].float()


def _loss(logits: Tensor, window: Tensor) -> float:
    return torch.nn.functional.cross_entropy(logits, window[1:]).item()
