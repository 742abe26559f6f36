"""What every token cost: the file beside the result agrees with the result, survives a resume, and finds the massive tokens."""

import math
from dataclasses import replace

import numpy as np
import pytest

from rotviz.errors import BadInput, Cancelled
from rotviz.jobs.execute import execute_now
from rotviz.models.loading import load
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.reference import kept_reference
from rotviz.pipeline.run import finish, run
from rotviz.pipeline.token_scores import FILE, load_token_scores, same_tokens, save_token_scores
from rotviz.store.runs import Store

SMALL = {"model": "tiny-llama", "text": {"evaluation": "pydoc", "windows": 45, "length": 96}}  # three batches of at most 21 windows


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path / "home"))


def test_the_file_agrees_with_the_result_and_finds_the_planted_sink():
    store = Store()
    result = execute_now(store, Recipe.from_dict(SMALL))
    scores = load_token_scores(store.folder(result["run_id"]) / FILE)
    assert scores.tokens.shape == (45, 96) and scores.quantized.shape == (45, 95)
    for name in ("reference", "quantized"):
        assert math.exp(getattr(scores, name).mean(dtype=np.float64)) == pytest.approx(result["perplexity"][name]["value"], rel=1e-6)
        assert getattr(scores, name).mean(1, dtype=np.float64) == pytest.approx(result["perplexity"][name]["by_window"], rel=1e-6)
    assert scores.kl.mean(dtype=np.float64) == pytest.approx(result["divergence"]["kl_nats"], rel=1e-5)
    windows = scores.kl.mean(1, dtype=np.float64)
    assert result["divergence"]["stderr"] == pytest.approx(windows.std(ddof=1) / 45**0.5, rel=1e-4)
    assert scores.same_top.mean() == pytest.approx(result["divergence"]["same_top"])
    assert scores.text(0, 3) == load("tiny-llama").tokenizer.decode([int(scores.tokens[0, 3])])
    assert scores.massive_windows == 45 and (scores.is_massive == (scores.tokens == scores.tokens[0, 0])).all(), "the sink is planted on <bos>"
    assert (store.folder(result["run_id"]) / FILE).stat().st_size < 18 * 45 * 96 + 20_000


def test_a_kept_reference_and_a_resume_give_the_same_scores(tmp_path):
    wanted = Recipe.from_dict(SMALL)
    first = finish(run(wanted)).scores
    kept = finish(run(wanted)).scores
    walked = []
    with pytest.raises(Cancelled):
        finish(run(wanted, checkpoint=tmp_path, cancelled=lambda: bool(walked)), lambda e: walked.append(e) if e.stage == "walk" else None)
    resumed = finish(run(wanted, checkpoint=tmp_path)).scores
    for other in (kept, resumed):
        for name in ("tokens", "reference", "quantized", "kl", "same_top", "massive"):
            np.testing.assert_array_equal(getattr(first, name), getattr(other, name))
        assert (other.texts, other.massive_windows) == (first.texts, 45)


def test_a_reference_of_before_knows_massive_tokens_of_its_first_batch(tmp_path):
    from safetensors.torch import save_file

    wanted = Recipe.from_dict(SMALL)
    finish(run(wanted))
    path = next((tmp_path / "home" / "references").glob("*.safetensors"))
    save_file({"hidden": kept_reference(path).hidden}, path)
    scores = finish(run(wanted)).scores
    assert scores.massive_windows == 21 and scores.is_massive[0, 0] and not scores.is_massive[21:].any()


def test_what_cannot_be_read_is_said(tmp_path):
    scores = finish(run(Recipe.from_dict(SMALL))).scores
    save_token_scores(tmp_path / FILE, scores)
    again = load_token_scores(tmp_path / FILE)
    np.testing.assert_array_equal(again.loss_difference, scores.loss_difference)
    assert same_tokens([scores, again]) and not same_tokens([scores, replace(again, tokens=again.tokens + 1)])
    with pytest.raises(BadInput, match="older"):
        load_token_scores(tmp_path / "elsewhere" / FILE)
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:100])
    with pytest.raises(BadInput, match="again"):
        load_token_scores(tmp_path / FILE)
