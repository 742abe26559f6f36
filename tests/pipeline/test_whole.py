"""The quantized model as a whole gives the run's numbers; what it says after a prompt, and where two models part."""

import math
from pydoc_data.topics import topics

import pytest
import torch

from rotviz.device import resolve_device
from rotviz.errors import BadInput, Cancelled
from rotviz.evaluation.generate import greedy
from rotviz.models.loading import load
from rotviz.models.tiny import TINY
from rotviz.pipeline.generation import Continuation, _path, continuation, first_divergence, float_recipe, kept_continuation
from rotviz.pipeline.recipe import Recipe, with_changes
from rotviz.pipeline.run import finish, run
from rotviz.pipeline.whole import quantized_model
from rotviz.texts import evaluation_windows

ALL_ROUNDED = {"weights": {"bits": 4, "rounding": {"iterations": 2, "batch": 2}, "omniquant": {"epochs": 1}}, "activations": {"bits": 4},
               "kv": {"bits": 4}}
PROMPT = "Summer is warm. Winter is"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text(topics["assignment"])
    return str(path)


def recipe(text, *changes, **top):
    small = {"model": "tiny-llama", "text": {"evaluation": text, "calibration": text, "windows": 2, "length": 48, "samples": 2}, **ALL_ROUNDED}
    return Recipe.from_dict(with_changes({**small, **top}, changes))


def perplexity(model, tokens):
    logits = model(input_ids=tokens).logits[:, :-1].double()
    return math.exp(torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))


@pytest.mark.parametrize("changes", [
    [("rotation.method", "none")], [], [("weights.method", "gptq")], [("weights.method", "omniquant")], [("weights.method", "rounding")],
    [("scaling.method", "smoothquant"), ("rotation.method", "none")], [("allocation.method", "importance"), ("allocation.budget", 3.5)],
], ids=lambda changes: "-".join(str(value) for _, value in changes) or "hadamard")
def test_the_whole_model_is_the_runs(text, changes):
    wanted = recipe(text, *changes)
    loaded = load("tiny-llama")
    tokens = evaluation_windows(text, loaded.tokenizer, 48, 2).tokens
    assert perplexity(finish(quantized_model(wanted, loaded)), tokens) == pytest.approx(finish(run(wanted)).quantized.value, rel=1e-5)
    assert perplexity(loaded.model, tokens) == pytest.approx(finish(run(wanted)).reference.value, rel=1e-5), "the float model was changed"


@pytest.mark.parametrize("name", TINY)
def test_every_family_as_a_whole_and_token_by_token(text, name):
    """With kept keys and values, each step gives what reading the whole text again gives."""
    wanted = recipe(text, model=name)
    loaded = load(name)
    tokens = evaluation_windows(text, loaded.tokenizer, 48, 2).tokens
    model = finish(quantized_model(wanted, loaded))
    assert perplexity(model, tokens) == pytest.approx(finish(run(wanted)).quantized.value, rel=1e-5)
    said = greedy(model, tokens[0, :12], 6)
    whole = torch.cat([tokens[0, :12], torch.tensor(said.tokens)])
    again = model(input_ids=whole[None]).logits[0, 11:-1].softmax(-1)
    assert again.argmax(-1).tolist() == list(said.tokens)
    assert again.max(-1).values.tolist() == pytest.approx(list(said.probabilities), rel=1e-3)


def test_a_text_ends_at_a_stop():
    model = load("tiny-llama").model
    prompt = torch.arange(3, 9)
    free = greedy(model, prompt, 5)
    assert len(free.tokens) == 5 and not free.ended
    stopped = greedy(model, prompt, 5, stops={free.tokens[1]})
    assert stopped.ended and stopped.tokens == free.tokens[:free.tokens.index(free.tokens[1]) + 1]


def test_continuations_are_kept_and_refused_in_words(text, tmp_path, monkeypatch):
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path))
    wanted = recipe(text)
    assert kept_continuation(wanted, PROMPT, 5) is None
    fractions = []
    made = finish(continuation(wanted, PROMPT, 5), lambda step: fractions.append(step.fraction))
    assert len(made.tokens) == len(made.texts) == 5 and "".join(made.prompt).endswith(PROMPT)
    assert fractions == sorted(fractions) and fractions[-1] <= 1
    assert finish(continuation(wanted, PROMPT, 5)) == made == kept_continuation(recipe(text, ("text.windows", 1)), PROMPT, 5)
    assert kept_continuation(recipe(text, ("weights.bits", 3)), PROMPT, 5) is None
    assert kept_continuation(recipe(text, ("device", resolve_device("auto").type)), PROMPT, 5) == made, "auto is a device of this machine"
    edited = tmp_path / "edited.txt"
    edited.write_text("one")
    paths = [_path(recipe(text, ("text.calibration", str(edited))), PROMPT, 5)]
    edited.write_text("one and two")
    assert _path(recipe(text, ("text.calibration", str(edited))), PROMPT, 5) not in paths, "a text is more than its name"
    plain = finish(continuation(float_recipe(wanted), PROMPT, 5))
    assert plain.tokens == greedy(load("tiny-llama").model, load("tiny-llama").tokenizer(PROMPT, return_tensors="pt").input_ids[0], 5).tokens
    with pytest.raises(BadInput, match="512"):
        finish(continuation(wanted, "word " * 2000, 5))
    with pytest.raises(BadInput, match="1 to"):
        finish(continuation(wanted, PROMPT, 0))

    def stop():
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        finish(continuation(wanted, PROMPT, 6, stop_if_cancelled=stop))


def test_the_first_divergence_by_hand():
    def said(*tokens):
        return Continuation((), tokens, tuple(map(str, tokens)), tuple(0.5 for _ in tokens), False, 0.0)

    assert first_divergence(said(1, 2, 3), said(1, 2, 3)) is None
    assert first_divergence(said(1, 2, 3), said(1, 4, 3)) == 1
    assert first_divergence(said(1, 2, 3), said(1, 2)) == 2
