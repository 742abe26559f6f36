"""The lessons' numbers, each by hand or against another way to the same, and that every lesson asks a question with one true answer."""

from itertools import product

import numpy as np
import pytest
import torch

from rotviz.capture.inspect import Look, look
from rotviz.lessons import LESSONS, material
from rotviz.lessons.butterflies import stages
from rotviz.lessons.clipping import parts
from rotviz.lessons.grid import levels
from rotviz.lessons.lesson import Material, nearest, peak_ratios, typical, with_bits
from rotviz.lessons.outlier import error_without
from rotviz.lessons.scales import errors_by_sharing
from rotviz.lessons.turning import error_at, turned
from rotviz.lessons.whip import LOSSES, descend, error_of
from rotviz.numerics.errors import relative_mse
from rotviz.numerics.grids import fake_quantize, quantize
from rotviz.numerics.hadamard import hadamard_matrix
from rotviz.plots.drawing import Drawing
from rotviz.types import Site


@pytest.fixture(scope="module")
def tiny():
    return look(Look("tiny-llama", "pydoc", 48, True, None))


@pytest.fixture(scope="module")
def rows(tiny) -> Material:
    return material(tiny, 1, Site.MLP_IN)


def settings(lesson):
    """Every end of every dial, one dial after the other, the others at their defaults."""
    default = {dial.key: dial.default for dial in lesson.dials}
    yield default
    for dial in lesson.dials:
        ends = dial.options or ((False, True) if isinstance(dial.default, bool) else (dial.low, dial.high))
        yield from (default | {dial.key: end} for end in ends if end != dial.default)


@pytest.mark.parametrize("name", list(LESSONS))
def test_lesson_has_one_true_answer_whatever_the_dials(rows, name):
    lesson = LESSONS[name]
    for dials in settings(lesson):
        found = lesson.find(rows, dials)
        assert 0 <= found.right < len(found.answers) == len(set(found.answers)) and len(found.answers) >= 3
        assert found.question.endswith("?") and found.why.endswith(".") and "nan" not in found.why
        assert found.before and found.after
        for drawing, caption in (*found.before, *found.after):
            assert isinstance(drawing, Drawing) and caption and drawing.to_json_size() < 200_000


@pytest.mark.parametrize("name", list(LESSONS))
def test_lesson_is_short_and_whole(name):
    lesson = LESSONS[name]
    assert 2 <= lesson.idea.count(". ") + 1 <= 4 and len(lesson.idea) < 420 and lesson.formulas
    assert 3 <= sum(lesson.notes.count(mark) for mark in (". ", "? ", "). ")) + 1 <= 7
    assert 1 <= len(lesson.dials) <= 3


def test_dials_of_all_lessons_have_keys_of_their_own():
    keys = [dial.key for lesson in LESSONS.values() for dial in lesson.dials]
    assert len(keys) == len(set(keys)) and len(LESSONS) == 8


@pytest.mark.parametrize(("site", "block"), product([Site.KEY, Site.DOWN_IN, Site.RESID], [0, 1]))
def test_every_site_can_be_taught(tiny, site, block):
    found = material(tiny, block, site)
    for lesson in LESSONS.values():
        assert lesson.find(found, {dial.key: dial.default for dial in lesson.dials}).answers


def test_text_without_massive_tokens_has_a_stand_in():
    found = material(look(Look("tiny-llama", "pydoc", 32, False, None)), 0, Site.MLP_IN)
    assert found.stand_in and found.massive.sum() == 1 and found.massive[int(peak_ratios(found.rows).argmax())]
    assert "stands in" in LESSONS["Massive tokens"].find(found, {"bits7": 4, "seed7": 0}).before[0][1]


def test_levels_are_what_numbers_are_rounded_to():
    x = torch.tensor([-3.0, -1.2, 0.4, 2.0])
    for symmetric in (True, False):
        spec = with_bits(3, symmetric)
        assert set(fake_quantize(x[None], spec).flatten().tolist()) <= set(levels(x, spec).tolist())
        assert len(levels(x, spec)) == 8 == 2 ** quantize(x[None], spec).spec.bits


def test_two_parts_of_clipping_make_the_whole(rows):
    for clip in (1.0, 0.6):
        whole = relative_mse(rows.rows, fake_quantize(rows.rows, with_bits(4, clip=clip)))
        inside, cut = parts(rows.rows, 4, clip)
        assert inside + cut == pytest.approx(whole, rel=1e-5) and (cut == 0) == (clip == 1.0)


def test_outlier_kept_in_float_costs_nothing():
    x = torch.tensor([[7.0, 1.0, -1.0, 1.0], [0.0, 0.0, 9.0, 0.0]])
    assert error_without(x, 1, 4) == 0
    assert error_without(torch.tensor([[100.0, 1.0, -1.0, 1.0]]), 0, 4) == pytest.approx(3 / 10003)


def test_scale_for_each_channel_serves_an_outlier_channel():
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    x[:, 3] *= 50
    whole, token, channel = errors_by_sharing(x, with_bits(4))
    assert channel < whole and token <= whole * 1.01 and token == pytest.approx(relative_mse(x, fake_quantize(x, with_bits(4))))


def test_turning_keeps_distances_and_comes_around():
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(turned(x, 33).norm(dim=1), x.norm(dim=1), atol=1e-5)
    assert torch.allclose(turned(torch.tensor([[1.0, 0.0]]), 90), torch.tensor([[0.0, 1.0]]), atol=1e-6)
    assert error_at(x, 0, 4) == pytest.approx(error_at(x, 90, 4), rel=1e-3)


@pytest.mark.parametrize("n", [2, 8, 16])
def test_butterflies_are_the_hadamard_transform(n):
    x = torch.randn(n, generator=torch.Generator().manual_seed(2)).double()
    found = stages(x)
    assert len(found) == n.bit_length() and torch.allclose(found[-1], x @ hadamard_matrix(n).double() / n**0.5)
    assert all(float(stage.norm()) == pytest.approx(float(x.norm())) for stage in found)


def test_all_equal_grows_until_signs_are_flipped(rows):
    find = LESSONS["Butterflies"].find
    dials = {"n6": "16", "kind6": "all equal", "signs6": False}
    assert "grows" in find(rows, dials).answers[find(rows, dials).right]
    assert "grows" not in find(rows, dials | {"signs6": True}).answers[find(rows, dials | {"signs6": True}).right]


def test_descent_stays_orthogonal_and_gains():
    x = torch.randn(60, 16, generator=torch.Generator().manual_seed(3)).double()
    x[:, 0] *= 6
    for name, objective in LOSSES.items():
        path = list(descend(x, objective, with_bits(4), 40, 0))
        assert len(path) == 41 and torch.allclose(path[-1].T @ path[-1], torch.eye(16, dtype=torch.float64), atol=1e-10)
        if name != "the error itself":
            assert error_of(x, path[-1], with_bits(4)) < error_of(x, path[0], with_bits(4))


def test_small_tools():
    assert nearest(0.26, (1.0, 0.5, 0.25)) == 2 and nearest(0.0, (1.0, 0.1)) == 1
    x = torch.tensor([[1.0, 1, 1, 1], [4, 0, 0, 0], [2, 1, 1, 1]])
    assert np.allclose(peak_ratios(x), [1, 2, 2 / (7 / 4) ** 0.5]) and typical(x, np.ones(3, dtype=bool)) == 2
