"""Paired verdicts: the bootstrap covers a known truth and repeats itself; the verdict says what was planted."""

import json
import math

import numpy as np
import pytest
import torch

from rotviz.capture.inspect import Look, look
from rotviz.evaluation.paired import BLOCK, FEWEST, MARGIN, Interval, bootstrap, counted, judge_place, kind_of, moving_means, summary_words, verdicts
from rotviz.evaluation.sites import Turn, rotation_of, token_errors
from rotviz.evaluation.verdict import HELPS, HURTS, SAME, UNKNOWN
from rotviz.numerics import statistics
from rotviz.types import QUANTIZED_SITES, Granularity, QuantSpec, Site

SPEC = QuantSpec(4, True, Granularity.TOKEN, 0, 0.9)
NONE, HADAMARD = Turn("none"), Turn("hadamard")


@pytest.fixture(scope="module")
def seen():
    return look(Look("tiny-llama", tokens=160))


def test_moving_means_go_around_the_end():
    values = np.arange(10.0)
    assert moving_means(values, 3) == pytest.approx([np.take(values, range(t, t + 3), mode="wrap").mean() for t in range(10)])


def test_the_bootstrap_is_the_plain_one_written_out():
    values = np.random.default_rng(1).normal(size=50)
    draws = np.random.default_rng(7)
    starts = draws.integers(0, 50, (400, 7))
    means = [np.concatenate([np.take(values, range(s, s + 8), mode="wrap") for s in row]).mean() for row in starts]
    found = bootstrap(values, seed=7, resamples=400)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-12)
    assert found == bootstrap(values, seed=7, resamples=400) and found != bootstrap(values, seed=8, resamples=400)


def _cover(draw, truth, tries=300, **settings) -> float:
    found = [bootstrap(draw(np.random.default_rng(i)), seed=0, resamples=400, **settings) for i in range(tries)]
    return float(np.mean([f.low <= truth <= f.high for f in found]))


def _smooth(rng: np.random.Generator) -> np.ndarray:
    """Neighbours that resemble each other: a moving average of 6 draws, mean 0.2."""
    return 0.2 + np.convolve(rng.normal(size=261), np.ones(6) / 6, mode="valid")


def test_it_covers_the_truth_as_often_as_it_says():
    assert 0.90 <= _cover(lambda rng: rng.normal(0.2, 1.0, 256), 0.2) <= 0.98
    assert 0.89 <= _cover(lambda rng: rng.exponential(0.2, 256), 0.2) <= 0.98, "skewed values too"


def test_single_draws_would_be_too_sure_of_tokens_that_resemble_their_neighbours():
    together, alone = _cover(_smooth, 0.2), _cover(_smooth, 0.2, block=1)
    assert together >= 0.84 and alone < 0.7


@pytest.mark.parametrize(("interval", "kind"), [
    ((-0.5, -0.6, -0.4), HELPS), ((0.5, 0.4, 0.6), HURTS), ((-0.5, -1.1, 0.1), SAME), ((-0.005, -0.006, -0.004), SAME),
    ((-2 * MARGIN, -3 * MARGIN, -0.5 * MARGIN), SAME), ((math.nan, math.nan, math.nan), UNKNOWN)])
def test_kinds(interval, kind):
    assert kind_of(Interval(*interval)) == kind


def test_too_few_or_broken_values_tell_nothing():
    assert math.isnan(bootstrap(np.zeros(FEWEST * BLOCK - 1)).mean) and not math.isnan(bootstrap(np.zeros(FEWEST * BLOCK)).mean)
    assert math.isnan(bootstrap(np.full(64, np.inf)).low)


def test_the_numbers_are_those_of_the_rotate_page(seen):
    for site in QUANTIZED_SITES:
        place = judge_place(seen, 1, site, NONE, HADAMARD, SPEC)
        a, b = (token_errors(seen, 1, site, turn, SPEC) for turn in (NONE, HADAMARD))
        keep = ~a.massive
        assert place.ratio == pytest.approx(math.exp(np.log(b.relative[keep] / a.relative[keep]).mean()), rel=1e-6)
        assert place.low <= place.ratio <= place.high and place.tokens == keep.sum()
        assert (place.massive_a, place.massive_b) == pytest.approx((a.mean_massive, b.mean_massive), rel=1e-6)
        assert place.before.kurtosis == pytest.approx(statistics.summarize(_rows(seen, site)[torch.from_numpy(keep)]).kurtosis)


def _rows(seen, site):
    return seen.site(1, site)


def test_planted_outliers_are_found_and_a_rotation_back_is_the_mirror(seen):
    forth, back = (judge_place(seen, 0, Site.ATTN_IN, *pair, SPEC) for pair in ((NONE, HADAMARD), (HADAMARD, NONE)))
    assert forth.kind == HELPS and "outlier channels spread" in forth.reason
    assert back.kind == HURTS and "gathered" in back.reason
    assert forth.ratio * back.ratio == pytest.approx(1) and forth.low * back.high == pytest.approx(1, rel=1e-3)
    assert forth.massive == 1 and forth.massive_words in ("kept", "ruined", "as before") and forth.massive_words in forth.reason


def test_what_is_not_turned_makes_no_difference(seen):
    only_r1 = Turn("hadamard", slots=())
    for place in (judge_place(seen, 0, Site.KEY, NONE, only_r1, SPEC), judge_place(seen, 0, Site.ATTN_IN, HADAMARD, HADAMARD, SPEC)):
        assert (place.kind, place.ratio, place.low, place.high) == (SAME, 1.0, 1.0, 1.0)
    assert "neither turns" in judge_place(seen, 0, Site.KEY, NONE, only_r1, SPEC).reason


def test_gaussian_numbers_are_called_so(seen, monkeypatch):
    draws = torch.randn(160, 80, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("rotviz.evaluation.paired.site_rows", lambda capture, block, site, turn: draws if turn.method == "none" else
                        rotation_of(turn, site, 80, 0).apply(draws))
    place = judge_place(seen, 0, Site.ATTN_IN, NONE, HADAMARD, SPEC)
    assert place.kind == SAME and "already Gaussian" in place.reason


def test_the_whole_model_in_a_sentence_and_as_plain_values(seen):
    said = []
    places = verdicts(seen, NONE, HADAMARD, SPEC, progress=lambda share, words: said.append(share))
    assert len(places) == 2 * len(QUANTIZED_SITES) and said == [0.0, 0.5]
    counts = counted(places)
    assert sum(counts.values()) == len(places)
    sentence = summary_words(places, "none", "hadamard")
    assert f"helps at {counts[HELPS]} of {len(places)} places" in sentence and "Massive tokens: kept at" in sentence
    json.dumps([p.to_dict() for p in places])
    assert places == verdicts(seen, NONE, HADAMARD, SPEC)
