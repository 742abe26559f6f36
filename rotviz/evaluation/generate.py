"""Greedy generation: after each token, the most likely next one.

    t_n = argmax_v p(v | t_0 ... t_n-1)

Nothing is drawn at random, so two models that choose differently at one step part there, and everything behind that first divergence follows from
it. Keys and values of earlier tokens are kept (transformers' own cache, in float); each step rounds them anew where the model rounds its cache, which
gives the same numbers as reading the whole text again.
"""

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


@dataclass(frozen=True, slots=True)
class Greedy:
    """What a model says after a prompt.

    tokens: the new ids; probabilities: the model's own, of each; ended: whether it ended by itself.
    """

    tokens: tuple[int, ...]
    probabilities: tuple[float, ...]
    ended: bool


def greedy(model: PreTrainedModel, prompt: Tensor, count: int, stops: Collection[int] = (),
           on_token: Callable[[int], None] = lambda _: None) -> Greedy:
    """Continue a prompt [T] by up to `count` tokens.

    Args:
        stops: ids after which a text is over; one of them ends it and is the last token.
        on_token: called with the number of tokens so far after each; may raise to stop.
    """
    tokens: list[int] = []
    probabilities: list[float] = []
    fed, kept = prompt[None].to(model.device), {_cache_argument(model): DynamicCache(config=model.config)}
    while len(tokens) < count:
        with torch.no_grad():
            logits = model(input_ids=fed, use_cache=True, logits_to_keep=1, **kept).logits
        likely = logits[0, -1].double().softmax(-1)
        best = int(likely.argmax())
        tokens.append(best)
        probabilities.append(float(likely[best]))
        on_token(len(tokens))
        if best in stops:
            return Greedy(tuple(tokens), tuple(probabilities), True)
        fed = torch.tensor([[best]], device=model.device)
    return Greedy(tuple(tokens), tuple(probabilities), False)


def _cache_argument(model: PreTrainedModel) -> str:
    """What this version of transformers calls the kept keys and values."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
