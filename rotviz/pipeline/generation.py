"""What the float model and the models of recipes say after a prompt, greedily, and where they part.

    recipe -> its whole quantized model (whole.py) -> greedy tokens -> kept under the cache folder

The weights of a run are not kept, so they are made again from its recipe: plain rounding in seconds, a calibrated method in the time that its run
took for weights. A continuation is kept by everything that decides it, so each is made once. All recipes of a comparison share the float model and
with it the tokens; the first divergence is the first position at which two of them chose different tokens.
"""

import json
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers

import rotviz
from rotviz.config import fingerprint
from rotviz.device import device_mark, resolve_dtype
from rotviz.errors import BadInput
from rotviz.evaluation.generate import greedy
from rotviz.home import home, write_atomically
from rotviz.models.loading import LoadedModel, load, require_text, weights_mark
from rotviz.pipeline.learn import rotation_marks
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.whole import quantized_model
from rotviz.quantizers import Progress
from rotviz.texts import prompt_tokens, text_mark

FORMAT = 1
"""Raise it when what a recipe generates changes."""
LONGEST_PROMPT, MOST_TOKENS = 512, 128


@dataclass(frozen=True)
class Continuation:
    """A model's greedy text.

    Attributes:
        prompt: the prompt's tokens as texts.
        tokens, texts, probabilities: of each new token its id, its text and the model's own probability for it.
        ended: whether the model ended the text by itself.
        seconds: what making the model and the text took.
    """

    prompt: tuple[str, ...]
    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    probabilities: tuple[float, ...]
    ended: bool
    seconds: float


def float_recipe(recipe: Recipe) -> Recipe:
    """The recipe that leaves the same model in float."""
    return Recipe.from_dict({"model": recipe.model, "device": recipe.device, "dtype": recipe.dtype, "rotation": {"method": "none"},
                             "weights": {"method": "none", "bits": 16}, "activations": {"bits": 16}, "kv": {"bits": 16}})


def kept_continuation(recipe: Recipe, prompt: str, count: int) -> Continuation | None:
    """The continuation of a recipe that was made before, or None."""
    try:
        plain = json.loads(_path(recipe, prompt, count).read_text(encoding="utf-8"))
        return Continuation(**{name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()})
    except (OSError, ValueError, TypeError):
        return None


def continuation(recipe: Recipe, prompt: str, count: int, loaded: LoadedModel | None = None,
                 stop_if_cancelled: Callable[[], None] = lambda: None) -> Generator[Progress, None, Continuation]:
    """What the model of a recipe says after a prompt, from the cache folder or made now.

    Args:
        count: how many new tokens at most.
        loaded: the recipe's float model where the caller has it in memory already; it is not changed.

    Raises:
        BadInput: the prompt is too short or too long, or the recipe's model or rotation cannot be had any more.
    """
    kept = kept_continuation(recipe, prompt, count)
    if kept is not None:
        return kept
    if not 1 <= count <= MOST_TOKENS:
        raise BadInput(f"{count} new tokens are asked for; 1 to {MOST_TOKENS} are possible")
    began = time.perf_counter()
    require_text(recipe.model, "a continuation")
    loaded = loaded or load(recipe.model, resolve_dtype(recipe.dtype))
    ids = prompt_tokens(prompt, loaded.tokenizer, LONGEST_PROMPT + 1)
    if len(ids) > LONGEST_PROMPT:
        raise BadInput(f"the prompt has more than {LONGEST_PROMPT} tokens; use a shorter one")
    model = yield from _scaled(quantized_model(recipe, loaded, stop_if_cancelled), 0.8)
    yield Progress(0.8, f"{count} new tokens")
    found = greedy(model, ids, count, _stops(loaded), lambda _: stop_if_cancelled())
    texts = [tuple(loaded.tokenizer.decode([i]) for i in part) for part in (ids.tolist(), found.tokens)]
    made = Continuation(texts[0], found.tokens, texts[1], found.probabilities, found.ended, time.perf_counter() - began)
    write_atomically(_path(recipe, prompt, count), lambda path: path.write_text(json.dumps(asdict(made)), encoding="utf-8"))
    return made


def first_divergence(a: Continuation, b: Continuation) -> int | None:
    """The first position at which two continuations differ; None where they are the same to their ends."""
    for i, (x, y) in enumerate(zip(a.tokens, b.tokens)):
        if x != y:
            return i
    return None if len(a.tokens) == len(b.tokens) else min(len(a.tokens), len(b.tokens))


def _path(recipe: Recipe, prompt: str, count: int) -> Path:
    plain = recipe.to_dict()
    plain["text"] = {name: value for name, value in plain["text"].items() if name not in ("evaluation", "windows")}
    plain["text"]["calibration"], plain["device"] = text_mark(recipe.text.calibration), device_mark(recipe.device)
    key = {"recipe": plain, "files": rotation_marks(recipe), "weights": weights_mark(recipe.model), "prompt": prompt, "count": count,
           "format": FORMAT, "versions": [rotviz.__version__, torch.__version__, transformers.__version__]}
    return home() / "continuations" / f"{fingerprint(key)}.json"


def _stops(loaded: LoadedModel) -> set[int]:
    """The ids that end a text, by the model's own settings and the tokenizer's."""
    stops = getattr(getattr(loaded.model, "generation_config", None), "eos_token_id", None)
    found = set(stops) if isinstance(stops, (list, tuple)) else {stops}
    return {i for i in (*found, loaded.tokenizer.eos_token_id) if i is not None}


def _scaled(steps: Generator, share: float) -> Generator[Progress, None, object]:
    while True:
        try:
            step = next(steps)
        except StopIteration as stop:
            return stop.value
        yield Progress(share * step.fraction, step.message)
