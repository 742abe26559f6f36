"""Tokens a second of a deployed model beside the float model that it came from, in one run.

    prefill    P tokens of a prompt at once, an empty cache          P / seconds
    decode     N tokens one after another, greedily                  N / seconds
    replayed   the same with a cache of fixed length, the step a CUDA graph (rotviz.deployment.replay); on a GPU, where the cache does not slide

Both models see the same prompt, take turns (who goes first alternates), and keep their own kind of cache. One round of each that is not counted
comes first. On a CPU the packed products are references in torch that unpack the weights at every step: their times say what this machine does,
not what the kernels can.
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rotviz.deployment.build import Deployed, Say, cache_argument, deploy, silent
from rotviz.deployment.replay import Recorder, Replay
from rotviz.deployment.size import CONTEXT, measured_bytes, weigh
from rotviz.device import describe, resolve_device, resolve_dtype, wait_for
from rotviz.errors import BadInput
from rotviz.kernels.choice import kernels_missing
from rotviz.models.loading import LoadedModel, load
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.result import environment
from rotviz.texts import load_text, prompt_tokens

REFERENCES = ("The Triton kernels are not measured ({}): the deployed model ran on their references in torch, which unpack the weights at every "
              "step.")
WAYS = ("prefill", "decode", "replayed")
BEFORE = 2
"""Steps after which one has been recorded."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second; None where a step is not replayed."""

    prefill: float
    decode: float
    replayed: float | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """Both models, one after the other."""

    reference: Speed
    deployed: Speed


def rounds_of(deployed: Deployed, reference: Any, prompt: Tensor, new: int, rounds: int) -> Iterator[Round]:
    """Alternating rounds, after one that is not counted.

    Args:
        deployed: the model in bits.
        reference: the float model, a transformers model on the same device.
        prompt: [1, P] token ids.
        new: tokens to decode.
        rounds: how many.
    """
    ways = {"deployed": (deployed.model, deployed.new_cache), "reference": (reference, partial(plain_cache, reference))}
    for number in range(rounds + 1):
        names = list(ways) if number % 2 else list(reversed(ways))
        found = {name: replace(speed(*ways[name], prompt, new), replayed=replayed(*ways[name], prompt, new)) for name in names}
        if number:
            yield Round(**found)


def speed(model: Any, new_cache: Any, prompt: Tensor, new: int) -> Speed:
    """Prefill and decode of one model."""
    cache = {cache_argument(model.forward): new_cache(), "use_cache": True}
    with torch.no_grad():
        wait_for(prompt.device)
        began = time.perf_counter()
        token = model(prompt, logits_to_keep=1, **cache).logits[:, -1:].argmax(-1)
        wait_for(prompt.device)
        filled = time.perf_counter()
        for _ in range(new):
            token = model(token, **cache).logits[:, -1:].argmax(-1)
        wait_for(prompt.device)
        ended = time.perf_counter()
    return Speed(prompt.shape[1] / (filled - began), new / (ended - filled))


def replayed(model: Any, new_cache: Callable[[int], Any], prompt: Tensor, new: int, record: Recorder | None = None) -> float | None:
    """Tokens a second of one model that decodes by replay; None where it cannot: on a CPU, or with a cache that slides."""
    if record is None and not prompt.is_cuda:
        return None
    cache, replay = new_cache(prompt.shape[1] + BEFORE + new), Replay(record)
    arguments = {cache_argument(model.forward): cache, "use_cache": True}

    def next_of(tokens: Tensor) -> Tensor:
        return replay.step(model, cache, {"input_ids": tokens, **arguments}).logits[:, -1:].argmax(-1)

    with torch.no_grad():
        token = next_of(prompt)
        for _ in range(BEFORE):
            token = next_of(token)
        if not replay.has_recorded:
            return None
        wait_for(prompt.device)
        began = time.perf_counter()
        for _ in range(new):
            token = next_of(token)
        wait_for(prompt.device)
    return new / (time.perf_counter() - began)


def measure(recipe: Recipe, *, prompt: int, new: int, rounds: int, dtype: str = "", context: int = CONTEXT, loaded: LoadedModel | None = None,
            say: Say = silent) -> dict[str, Any]:
    """Deploy a recipe, weigh it, and time it beside its float model; plain values.

    Args:
        recipe: what to deploy.
        prompt, new, rounds: tokens of the prompt (of the embedded text), tokens decoded, rounds.
        dtype: of the float model, and of what stays in float in the deployed one; "" = the recipe's.
        context: tokens of the cache that is weighed.
        loaded: the recipe's model in the recipe's dtype where it is in memory already.
        say: told how far it is.

    Raises:
        BadInput: no such device, a recipe that cannot be deployed, a prompt or a number of rounds below one.
    """
    if min(prompt, new, rounds) < 1:
        raise BadInput(f"prompt = {prompt}, tokens = {new}, rounds = {rounds}: each is at least 1")
    device, kind = resolve_device(recipe.device), resolve_dtype(dtype or recipe.dtype)
    loaded = loaded or load(recipe.model, resolve_dtype(recipe.dtype))
    deployed = deploy(recipe, loaded, dtype=dtype, say=lambda share, words: say(0.5 * share, words))
    reference = loaded.model if kind == resolve_dtype(recipe.dtype) and device.type == "cpu" else _copy(loaded.model, kind, device)
    tokens = prompt_tokens(load_text("pydoc"), loaded.tokenizer, prompt)[None].to(device)
    found = []
    for one in rounds_of(deployed, reference, tokens, new, rounds):
        found.append(one)
        say(0.5 + 0.5 * len(found) / rounds, f"round {len(found)} of {rounds}")
    parts, why = weigh(deployed, context), kernels_missing(device)
    return {"environment": environment(describe(device)), "recipe": recipe.to_dict(), "title": recipe.title,
            "bits": recipe.bits_title, "dtype": str(kind).removeprefix("torch."),
            "prompt": tokens.shape[1], "tokens": new, "context": context, "bytes": [part.to_dict() for part in parts],
            "model_bytes": {"deployed": sum(measured_bytes(deployed).values()), "reference": float_bytes(reference)},
            "rounds": [asdict(one) for one in found], "median": _medians(found), "not_measured": REFERENCES.format(why) if why else ""}


def float_bytes(model: Any) -> int:
    """Bytes of a model's parameters."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _medians(rounds: list[Round]) -> dict[str, dict[str, float | None]]:
    """Tokens a second of both, and the ratios round by round."""
    def middle(values: list[float | None]) -> float | None:
        return None if None in values else statistics.median(values)

    def of(who: str, what: str) -> list[float | None]:
        return [getattr(getattr(one, who), what) for one in rounds]

    found = {who: {what: middle(of(who, what)) for what in WAYS} for who in ("reference", "deployed")}
    ratios = {what: middle([None if None in pair else pair[0] / pair[1] for pair in zip(of("deployed", what), of("reference", what))])
              for what in WAYS}
    return found | {"deployed_over_reference": ratios}


def _copy(model: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """The model's weights in that dtype, on that device; what it computes with besides (RoPE's frequencies) keeps its own."""
    twin = copy.deepcopy(model).to(device)
    for parameter in twin.parameters():
        parameter.data = parameter.data.to(dtype)
    return twin


def plain_cache(model: Any, length: int | None = None) -> Any:
    """transformers' own cache for a model: that grows, or of fixed length."""
    from transformers import DynamicCache, StaticCache

    config = model.config.get_text_config()
    return DynamicCache(config=config) if length is None else StaticCache(config=config, max_cache_len=length)
