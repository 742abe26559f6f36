"""What is true of every figure: small, described, safe, never broken by bad numbers; and that pooling keeps the spike."""

import base64
import importlib
import json
import pkgutil
import re

import numpy as np
import plot_cases as cases
import pytest

import rotviz.plots
from rotviz.errors import BadInput
from rotviz.plots import export, palette
from rotviz.plots.apart import draw_apart
from rotviz.plots.bars import draw_bars
from rotviz.plots.boxes_by_block import draw_boxes_by_block
from rotviz.plots.butterflies import draw_butterflies
from rotviz.plots.channel_ribbons import channel_percentiles, draw_channel_ribbons
from rotviz.plots.compare_errors import draw_compare_errors
from rotviz.plots.compose import side_by_side
from rotviz.plots.curves import draw_curves
from rotviz.plots.divergence_bars import draw_divergence_bars
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.effect_by_switch import draw_effect_by_switch
from rotviz.plots.energy_spread import draw_energy_spread
from rotviz.plots.error_by_block import SQNR_DB, draw_error_by_block
from rotviz.plots.error_by_channel import draw_error_by_channel
from rotviz.plots.error_scatter import draw_error_scatter
from rotviz.plots.estimate_scatter import draw_estimate_scatter
from rotviz.plots.frame import decades, shared_range, symlog, symlog_axis, symlog_back, tick_words
from rotviz.plots.grid_cells import draw_grid_cells
from rotviz.plots.histogram import draw_histogram
from rotviz.plots.kurtosis_by_block import draw_kurtosis_by_block
from rotviz.plots.learning_curve import draw_learning_curve
from rotviz.plots.magnitude_by_block import draw_magnitude_by_block
from rotviz.plots.massive_map import draw_massive_map
from rotviz.plots.massive_ordinary import draw_massive_ordinary
from rotviz.plots.memory_by_part import draw_memory_by_part
from rotviz.plots.pareto import draw_pareto, frontier
from rotviz.plots.perplexity_bars import draw_perplexity_bars
from rotviz.plots.pool import max_pool, thinned
from rotviz.plots.progress_by_block import draw_progress_by_block
from rotviz.plots.qq import draw_qq
from rotviz.plots.roofline import draw_roofline
from rotviz.plots.seed_spread import draw_seed_spread
from rotviz.plots.spikes import chosen_tokens, draw_spikes
from rotviz.plots.stack_waterfall import draw_stack_waterfall
from rotviz.plots.token_channel_map import draw_token_channel_map
from rotviz.plots.token_channels import draw_token_channels
from rotviz.plots.token_loss import draw_token_loss
from rotviz.plots.token_strip import draw_token_strip
from rotviz.plots.token_winners import draw_token_winners, letters_for, winners
from rotviz.plots.verdict_map import draw_verdict_map
from rotviz.plots.waterfall import draw_waterfall
from rotviz.plots.weight_grid import draw_weight_grid
from rotviz.plots.weight_map import draw_weight_map
from rotviz.plots.words import escape, number, unit_text, units, visible
from rotviz.types import CONTINUED

LIMIT = 2_000_000
NAN, INF = float("nan"), float("inf")


def arrays_in(node):
    """Every numpy array of a figure's JSON, decoded."""
    if isinstance(node, dict):
        if "bdata" in node:
            yield np.frombuffer(base64.b64decode(node["bdata"]), dtype=node["dtype"])
        else:
            for value in node.values():
                yield from arrays_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from arrays_in(value)


def as_text(drawing: Drawing) -> str:
    """The figure's JSON with its characters as they are (Plotly writes < as an escape)."""
    return json.dumps(json.loads(drawing.figure.to_json()), ensure_ascii=False)


def check(drawing: Drawing) -> None:
    assert drawing.to_json_size() < LIMIT
    assert re.search(r"\d", drawing.alt) and drawing.alt.endswith(".")
    assert len(drawing.alt) < 900
    assert len(drawing.table) > 0
    assert re.fullmatch(r"[a-z0-9-]+", drawing.name)
    assert drawing.figure.layout.paper_bgcolor == "rgba(0,0,0,0)" and drawing.figure.layout.font.color is None
    layout = drawing.figure.layout.to_plotly_json()
    layout.pop("template", None)
    assert all(int(size) >= 12 for size in re.findall(r"'size': (\d+)", str(layout)))


@pytest.mark.parametrize("name", list(cases.DRAWINGS))
def test_small_and_described(name):
    check(cases.DRAWINGS[name]())


@pytest.mark.parametrize("name", list(cases.DRAWINGS))
def test_large_stays_under_two_megabytes(name):
    check(cases.DRAWINGS[name](2048, 8192))


def test_every_figure_is_covered():
    found = set()
    for info in pkgutil.iter_modules(rotviz.plots.__path__):
        module = importlib.import_module(f"rotviz.plots.{info.name}")
        own = [n for n in vars(module) if n.startswith("draw_") and vars(module)[n].__module__ == module.__name__]
        if own:
            assert f"draw_{info.name}" in own, f"{info.name}.py draws, but has no draw_{info.name}"
            assert len(module.__doc__) > 200 and "Source" in module.__doc__, f"{info.name}.py has no teaching docstring"
            found.add(info.name)
    assert found == {*cases.DRAWINGS, *cases.STRIPS}


T, D, L = 6, 10, 4
TOKENS = ["<script>alert(1)</script>", " a", "\n", "", "$x$", "%{y} ↵ <b>"]
BAD = {
    "nan": lambda *shape: np.full(shape, NAN), "inf": lambda *shape: np.full(shape, -INF), "zero": lambda *shape: np.zeros(shape),
    "empty": lambda *shape: np.zeros((0, *shape[1:]) if len(shape) > 1 else 0), "huge": lambda *shape: np.full(shape, 1e300),
    "one nan": lambda *shape: np.where(np.arange(np.prod(shape)).reshape(shape) == 1, NAN, 2.0),
    "one inf": lambda *shape: np.where(np.arange(np.prod(shape)).reshape(shape) == 0, INF, 3.0),
    "negative": lambda *shape: -np.ones(shape), "tiny": lambda *shape: np.full(shape, 1e-300),
}


def few(n: int) -> list[str]:
    return [TOKENS[i % len(TOKENS)] for i in range(n)]


AWKWARD = {
    "weight_grid": lambda make: draw_weight_grid(c := make(D), np.arange(len(c) + 1.0), levels=c, ends=(1.0, 4.0), what="<b>w"),
    "weight_map": lambda make: draw_weight_map(make(L, 3), ["<b>q", "k", "v"]),
    "estimate_scatter": lambda make: draw_estimate_scatter(v := make(L), v, few(len(v)), correlation=NAN),
    "estimate_scatter off": lambda make: draw_estimate_scatter(v := make(L), np.full(len(v), 1e-9), ["<b>mine"] * len(v), correlation=0.5),
    "verdict_map": lambda make: draw_verdict_map(r := make(L, 2), [["helps", "hurts"]] * len(r), ["key", "<b>"], ruined=r > 1, name_b="<b>mine",
                                                 reasons=[["<script>", "x"]] * len(r)),
    "waterfall": lambda make: draw_waterfall(few(len(v := make(L))), {"none": v, "<b>mine": v}, stderrs={"none": v}, reference=2.0),
    "waterfall linear": lambda make: draw_waterfall(few(len(v := make(L))), {"none": v}, log=False),
    "effect_by_switch": lambda make: draw_effect_by_switch({"<b>mine": dict(zip(few(len(v := make(L))), v)), "b": {"a": 2.0}}, base=2.0,
                                                           band=(1.9, 2.1)),
    "effect_by_switch bare": lambda make: draw_effect_by_switch({"a": dict(zip(few(len(v := make(L))), v))}, band=(NAN, NAN)),
    "stack_waterfall": lambda make: draw_stack_waterfall(few(len(v := make(L))), v, stderrs=v),
    "apart": lambda make: draw_apart({t: np.resize(v, 3) if len(v) else np.full(3, NAN) for t, v in zip(few(L), [make(L)] * L)}),
    "token_channel_map": lambda make: draw_token_channel_map(a := make(T, D), few(len(a))),
    "token_channel_map linear": lambda make: draw_token_channel_map(a := make(T, D), few(len(a)), log=False),
    "spikes": lambda make: draw_spikes(a := make(T, D), few(len(a))),
    "channel_ribbons": lambda make: draw_channel_ribbons(channel_percentiles(make(T, D)), symmetric_log=True),
    "channel_ribbons sorted": lambda make: draw_channel_ribbons(np.sort(make(7, D), 0) if len(make(7, D)) else np.zeros((7, 0)), sort=True),
    "histogram": lambda make: draw_histogram(np.abs(c := make(D)), np.arange(len(c) + 1.0)),
    "histogram normal": lambda make: draw_histogram({"a": np.abs(c := make(D))}, np.arange(len(c) + 1.0), normal=(0, 1), levels=c,
                                                    log=False),
    "qq": lambda make: draw_qq(np.arange(len(v := make(D))) - 4.5, {"none": v, "<b>mine": v}),
    "magnitude_by_block": lambda make: draw_magnitude_by_block(a := make(L, 3), np.ones(len(a))),
    "magnitude_by_block median": lambda make: draw_magnitude_by_block(np.ones((len(m := make(L)), 2)), m),
    "kurtosis_by_block": lambda make: draw_kurtosis_by_block({"key": make(L), "attn_in": np.ones(L)}),
    "kurtosis_by_block methods": lambda make: draw_kurtosis_by_block({"none": {"key": make(L)}, "dfrot": {"key": make(L)}}),
    "curves": lambda make: draw_curves(np.arange(len(v := make(T))), {"a": v, "<b>mine": v}, now=0.0),
    "curves symlog": lambda make: draw_curves(np.arange(1, 1 + len(v := make(T))), v, symmetric_log=True, x_log=bool(len(v)), now=1.0),
    "energy_spread": lambda make: draw_energy_spread({"the spike": np.abs(v := make(D)), "b": v}),
    "bars": lambda make: draw_bars(few(len(v := make(T))), {"a": v, "<b>mine": v}),
    "grid_cells": lambda make: draw_grid_cells(make(T, 2), 0.5),
    "grid_cells empty": lambda make: draw_grid_cells(make(T, 2), NAN),
    "boxes_by_block": lambda make: draw_boxes_by_block(make(L, 7)),
    "butterflies": lambda make: draw_butterflies(make(4, 8)),
    "massive_map": lambda make: draw_massive_map(a := make(L, T), few(T), massive=a > 1),
    "token_channels": lambda make: draw_token_channels(make(D), "<script>", 0),
    "token_channels log": lambda make: draw_token_channels(make(D), "\n", 3, log=True),
    "error_scatter": lambda make: draw_error_scatter(e := make(T), e * 2, few(len(e)), name_a="<i>A", massive={0}),
    "error_scatter half": lambda make: draw_error_scatter(e := make(T), np.ones(len(e)), few(len(e)), massive={1, 99}),
    "error_by_block": lambda make: draw_error_by_block({"none": make(L), "mine": make(L)}, isolated={"none": make(L)}),
    "error_by_block dB": lambda make: draw_error_by_block({"none": make(L)}, unit=SQNR_DB),
    "error_by_channel": lambda make: draw_error_by_channel({"none": make(D), "rtn": np.ones(D)}, sort=True),
    "error_by_channel linear": lambda make: draw_error_by_channel({"none": make(D)}, log=False),
    "perplexity_bars": lambda make: draw_perplexity_bars(few(len(v := make(L))), v, v, reference=5.0, reference_stderr=NAN),
    "perplexity_bars bare": lambda make: draw_perplexity_bars(few(len(v := make(L))), v, log=True),
    "divergence_bars": lambda make: draw_divergence_bars(few(len(v := make(L))), v, v, stderrs=v),
    "divergence_bars log": lambda make: draw_divergence_bars(few(len(v := make(L))), v, log=True),
    "pareto": lambda make: draw_pareto(few(len(v := make(L))), v, v, stderrs=v, reference=5.0),
    "pareto log": lambda make: draw_pareto(few(len(v := make(L))), np.abs(v), v, log_x=True, methods=["none"] * len(v)),
    "progress_by_block": lambda make: draw_progress_by_block({"key": make(L)}, 8),
    "progress_by_block nothing yet": lambda make: draw_progress_by_block({}, 8),
    "seed_spread": lambda make: draw_seed_spread({"none": make(D), "dfrot": make(1)}, reference=5.0),
    "seed_spread band": lambda make: draw_seed_spread({"none": make(D)}, band=(NAN, NAN)),
    "learning_curve": lambda make: draw_learning_curve({"loss": (np.arange(len(v := make(D))), v), "<b>mine": (np.arange(2), np.ones(2))}),
    "learning_curve errors": lambda make: draw_learning_curve({"massive": (np.arange(len(v := make(D))), v)}, log=True, x="block"),
    "massive_ordinary": lambda make: draw_massive_ordinary({"hadamard": (v := make(L), v), "<b>mine": (np.ones(2), np.ones(2))}),
    "massive_ordinary alone": lambda make: draw_massive_ordinary({"peak": (np.ones(len(v := make(L))), v)}, labels={"peak": few(L)}),
    "compare_errors": lambda make: draw_compare_errors(a := make(L, 2), np.ones_like(a), ["key", "<b>"]),
    "compare_errors same": lambda make: draw_compare_errors(a := make(L, 2), a, ["key", "value"]),
    "token_loss": lambda make: draw_token_loss({"none": (v := make(T)), "<b>mine": v}, few(len(v)), massive={0, 99}, length=2, now=1),
    "token_loss alone": lambda make: draw_token_loss({"none": (v := make(T))}, few(len(v)), first=7, methods=["rtn"]),
    "memory_by_part": lambda make: draw_memory_by_part(few(len(v := make(L))), v, v / 2, limit=1e9),
    "roofline": lambda make: draw_roofline(few(len(v := make(L))), few(len(v)), v, np.ones(len(v)), v, copy_rate=1.0, matrix_rate=5.0),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", list(BAD))
@pytest.mark.parametrize("name", list(AWKWARD))
def test_bad_numbers_do_not_break_a_figure(name, kind):
    try:
        drawing = AWKWARD[name](BAD[kind])
    except BadInput as refusal:
        pytest.fail(f"refused: {refusal}")
    check(drawing)
    text = as_text(drawing)
    assert "<script>" not in text and "<b>mine" not in text and "<i>A" not in text
    assert "Infinity" not in text


def test_awkward_cases_cover_every_figure():
    assert {name.split()[0] for name in AWKWARD} == set(cases.DRAWINGS)


def test_what_is_missing_is_said():
    values = cases.hidden(8, 16)
    values[2, 3] = NAN
    figure = draw_token_channel_map(values, few(8)).figure
    assert "1 value is not finite" in figure.layout.xaxis.title.text
    assert "Nothing to show" in nothing("x", "0 blocks").figure.layout.annotations[0].text


@pytest.mark.parametrize("draw", [draw_token_channel_map, draw_spikes])
def test_the_spike_survives_pooling(draw):
    values = np.random.default_rng(0).standard_normal((2048, 8192), dtype=np.float32)
    values[1234, 5077] = -cases.SPIKE
    before = values.copy()
    drawing = draw(values, cases.texts(2048))
    assert np.array_equal(values, before)
    assert max(a.max() for a in arrays_in(json.loads(drawing.figure.to_json())["data"]) if a.dtype == np.float32) == cases.SPIKE
    assert "23,700" in drawing.alt and "5077" in drawing.alt and "1234" in drawing.alt
    assert drawing.table.iloc[0]["channel"] == 5077


def test_rows_of_token_losses_share_their_axes_and_keep_the_spike():
    total = 20_000
    quiet, loud = np.full(total, 0.01), np.full(total, 0.02)
    loud[12_345] = 13.0
    drawing = draw_token_loss({"hadamard": quiet, "none": loud}, cases.texts(total), massive={12_345}, length=2000, now=12_345)
    layout = drawing.figure.layout
    assert layout.yaxis.range == layout.yaxis2.range and layout.yaxis.range[1] > 13
    assert layout.yaxis.domain[0] > layout.yaxis2.domain[1]
    points = [trace for trace in drawing.figure.data if trace.mode == "markers" and trace.yaxis == "y2"]
    assert 12_345 in points[0].x and list(points[1].x) == [12_345] and points[1].marker.symbol == "diamond"
    assert "most 13 at token 12345" in drawing.alt and drawing.table.iloc[0]["token"] == 12_345


def test_max_pool_by_hand():
    pooled, rows, columns = max_pool(np.array([[1, 5, 2], [3, 0, 9], [4, 4, NAN]]), rows=2, columns=2)
    assert pooled.tolist() == [[5, 9], [4, pytest.approx(NAN, nan_ok=True)]]
    assert (rows.label(0), rows.label(1), columns.label(1)) == ("0–1", "2", "2")


def test_thinning_keeps_ends_and_extremes():
    values = np.sin(np.arange(50_000) / 900.0)
    values[31_337], values[77] = 40, -40
    keep = thinned(values, 2000)
    assert len(keep) <= 2000 and {0, 77, 31_337, 49_999} <= set(keep.tolist()) and (np.diff(keep) > 0).all()


def test_band_of_the_seeds_is_shaded_and_said():
    drawing = draw_seed_spread({"hadamard": np.array([1.0, 1.2, 0.9]), "peak": np.array([0.7])}, band=(0.8, 1.3))
    shape = drawing.figure.layout.shapes[0]
    assert (shape.y0, shape.y1) == (0.8, 1.3) and "Shaded: from 0.8 to 1.3" in drawing.alt
    assert len([t for t in drawing.figure.data if t.mode == "lines"]) == 1  # one result has no mean


def test_effects_are_sorted_and_told_apart_by_the_band():
    drawing = draw_effect_by_switch({"loss": {"a": 1.0, "b": 4.0}, "grid": {"int": 1.0, "power": 1.2}}, base=1.0, band=(0.9, 1.1))
    assert list(drawing.figure.layout.yaxis.ticktext) == ["grid", "loss"], "the largest effect on top"
    assert list(drawing.figure.data[3].marker.symbol) == ["circle", "triangle-right"]
    assert {a.text for a in drawing.figure.layout.annotations} == {"b", "power"}, "what lies in the band is not named"
    assert drawing.alt.startswith("Effect of each switch on KL, nats a token, largest first: loss a factor 4 (a least, b most)")


def test_a_step_without_a_result_is_bridged():
    drawing = draw_stack_waterfall(["float", "W4", "+ A4", "+ R1"], np.array([10.0, NAN, 100.0, 50.0]))
    assert drawing.table["times the step before"].tolist() == [pytest.approx(NAN, nan_ok=True)] * 2 + [10.0, 0.5]
    assert "1 step without a result" in drawing.figure.layout.xaxis.title.text
    assert [t.marker.symbol for t in drawing.figure.data if t.mode == "markers"] == ["circle", "triangle-right", "triangle-left"]


def test_what_loses_next_to_nothing_stands_at_the_edge():
    drawing = draw_apart({"none · rtn": np.array([1e-10, 5.0, 5.1]), "hadamard · rtn": np.array([0.4, 0.5, NAN])})
    weights, left = drawing.figure.data[2], 10 ** drawing.figure.layout.xaxis.range[0]
    assert weights.name == "weights alone" and list(weights.x) == [pytest.approx(left), 0.4] and 0.2 < left < 0.4
    assert {a.text for a in drawing.figure.layout.annotations} == {"1e-10", "5", "5.1", "0.4", "0.5"}
    assert "1 place without a result" in drawing.figure.layout.xaxis.title.text
    with pytest.raises(BadInput, match="both are needed"):
        draw_apart({"none": np.array([1.0, 2.0])})


def test_massive_and_ordinary_axes_are_logarithmic_where_that_helps():
    near = draw_massive_ordinary({"orthogonal": (np.array([0.01, 0.0101]), np.array([0.012, 0.013]))}).figure.layout
    assert near.xaxis.type is None and near.xaxis.range[1] / near.xaxis.range[0] > 1.4  # one percent is no gulf
    far = draw_massive_ordinary({"orthogonal": (np.array([0.01, 0.01]), np.array([0.012, 0.0012]))}).figure.layout
    assert far.xaxis.type is None and far.yaxis.type == "log"


def test_side_by_side_keeps_axes_notes_and_one_legend():
    panels = [("one", cases.error_scatter()), ("two <b>", cases.error_scatter()), ("three", cases.seed_spread())]
    figure = side_by_side(panels)
    assert {t.xaxis for t in figure.data} == {"x", "x2", "x3"} and {t.yaxis for t in figure.data} == {"y", "y2", "y3"}
    assert figure.layout.xaxis2.range == panels[1][1].figure.layout.xaxis.range and figure.layout.yaxis3.anchor == "x3"
    ends = [figure.layout[f"xaxis{i}"].domain for i in ("", "2", "3")]
    assert ends[0][0] == 0 and ends[2][1] == pytest.approx(1) and ends[0][1] < ends[1][0] and ends[1][1] < ends[2][0]
    named = [t.name for t in figure.data if t.showlegend is not False and t.name]
    assert len(named) == len(set(named)) == 2
    assert "two &lt;b&gt;" in as_text(Drawing("x", figure, "", None)) and figure.layout.shapes[0].xref == "x3 domain"
    scenes = side_by_side([("a", cases.spikes()), ("b", cases.spikes())])
    assert {t.scene for t in scenes.data} == {"scene", "scene2"} and scenes.layout.scene2.domain.x[0] > scenes.layout.scene.domain.x[1]
    assert side_by_side([("", cases.pareto())]) == cases.pareto().figure


def test_inputs_are_left_alone():
    values, edges = np.array([1.0, NAN, -3.0, INF]), np.arange(5.0)
    copy = values.copy()
    draw_token_channels(values, "a", 0)
    draw_error_by_channel({"none": values}, sort=True)
    draw_seed_spread({"none": values})
    draw_histogram(np.abs(values), edges)
    draw_error_scatter(values, values, few(4))
    np.testing.assert_array_equal(values, copy)


def test_tokens_are_shown_safely():
    drawing = draw_massive_map(np.ones((2, 3)), ["<script>", "\n a", "$x$ %{x}"], massive=np.ones((2, 3)))
    text = as_text(drawing)
    assert "<script>" not in text and "$x$" not in text and "↵·a" in text
    assert [visible(t) for t in (" a\t", "", "\x07", "冬")] == ["·a⇥", "∅", "\\x07", "冬"]
    assert escape("a<b>&$%{x}") == "a&lt;b&gt;&amp;&#36;%&#123;x}"


def test_wrong_shapes_are_refused_in_words():
    with pytest.raises(BadInput, match="3 token texts for 6 tokens"):
        draw_spikes(np.ones((6, 4)), few(3))
    with pytest.raises(BadInput, match="2 dimensions"):
        draw_token_channel_map(np.ones(4), few(4))
    with pytest.raises(BadInput, match="as many"):
        draw_error_scatter(np.ones(3), np.ones(4), few(3))
    with pytest.raises(BadInput, match="rising order"):
        draw_histogram(np.ones(2), np.array([0.0, 2.0, 1.0]))
    with pytest.raises(BadInput, match="5 errors for a model of 4 blocks"):
        draw_progress_by_block({"key": np.ones(5)}, 4)
    with pytest.raises(BadInput, match="7"):
        draw_channel_ribbons(np.ones((5, 3)))


def test_shared_ranges():
    assert shared_range([1, 3], [NAN, 2], [INF]) == (0.9, 3.1)
    low, high = shared_range([1, 1000], [-5, 0], log=True)
    assert 0 < low < 1 and high > 1000
    assert shared_range([], [NAN]) == (0.0, 1.0) and shared_range([0], log=True) == (0.1, 1.0)
    low, high = shared_range([-1.2, 1e6], symmetric_log=True)
    assert -4 < low < -1.2 and 1e6 < high < 1e7
    two = [draw_token_channels(np.array(v), "a", 0, y_range=(0, 50)).figure.layout.yaxis.range for v in ([1.0, 2.0], [3.0, 40.0])]
    assert two[0] == two[1] == (0, 50)
    assert draw_token_channels(np.ones(4), "a", 0, log=True, y_range=(0, 5)).figure.layout.yaxis.range[1] == pytest.approx(np.log10(5))
    maps = [draw_token_channel_map(np.full((2, 2), v), few(2), color_max=100).figure.data[0].zmax for v in (1.0, 50.0)]
    assert maps[0] == maps[1] == 2.0


def test_axes_have_readable_ticks():
    assert decades(0.02, 30) == [0.1, 1, 10] or len(decades(0.02, 30)) <= 7
    assert [tick_words(v) for v in (0, 0.01, 1, 1000, 10_000, 3e6, 1e-6)] == ["0", "0.01", "1", "1,000", "10k", "3M", "1e−6"]
    assert symlog_axis((-1.3, 1e6))["ticktext"][:3] == ["-1", "0", "1"]
    assert symlog_back(float(symlog(-250.0))) == pytest.approx(-250)
    assert [number(v) for v in (23_700, 1.7, 3.2e-6, NAN, 0, 0.1234567)] == ["23,700", "1.7", "3.2e-06", "no number", "0", "0.1235"]


def test_spikes_choose_the_large_tokens():
    peaks = np.ones(512)
    peaks[[3, 400]] = 100
    chosen = chosen_tokens(peaks, 64)
    assert len(chosen) <= 64 and {3, 400, 0} <= set(chosen) and chosen == sorted(chosen)


def test_frontier_by_hand():
    cost, value = np.array([4.0, 2, 3, 3, 8]), np.array([6.0, 9, 7, 8, 6])
    assert frontier(cost, value, np.ones(5, dtype=bool)) == [1, 2, 0]


def test_scatter_counts_sides():
    drawing = draw_error_scatter(np.array([1.0, 2, 3, 4]), np.array([2.0, 1, 1, 4]), few(4), name_a="rtn", name_b="gptq", massive={1})
    assert "gptq is better on 2, rtn on 1, 1 tie" in drawing.alt
    assert drawing.figure.data[-1].marker.symbol == "diamond"


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return float(np.dot([0.2126, 0.7152, 0.0722], [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]))


def test_colors_stand_out_on_light_and_dark():
    colors = {s.color for s in (*palette.NAMED.values(), *palette.SPARE)} | {palette.VERMILION} | {c for _, c in palette.LINES}
    for color in colors:
        for page in ("#FFFFFF", "#0E1117"):
            a, b = sorted((luminance(color), luminance(page)))
            assert (b + 0.05) / (a + 0.05) >= 3, (color, page)


def test_methods_keep_their_own_look():
    rotations = [palette.NAMED[m] for m in cases.METHODS]
    assert len({s.color for s in rotations}) == len({s.symbol for s in rotations}) == 6
    assert palette.styles_for(["mine", "hadamard"])["hadamard"] == palette.style_of("hadamard")
    many = palette.styles_for([f"run {i}" for i in range(9)])
    assert len(set(many.values())) == 9
    assert len({(s.color, s.symbol) for s in palette.styles_for(["hadamard", *(f"run {i}" for i in range(50))]).values()}) == 51
    assert all(s.symbol != "diamond" and s.color != palette.VERMILION for s in (*palette.NAMED.values(), *palette.SPARE))


def test_kernels_are_told_apart_though_others_are_left_out():
    """Six with arithmetic come after six without: what is left out takes neither a look nor room in the legend."""
    moves, does = [f"quantize {i}" for i in range(6)], ["hadamard", *(f"product {i}" for i in range(5))]
    operations = np.array([0.0] * 6 + [1e9] * 6)
    drawn = draw_roofline(moves + does, ["8 x 8"] * 12, operations, np.full(12, 1e7), np.full(12, 1e-3), copy_rate=1e11, matrix_rate=1e13).figure
    points = [t for t in drawn.data if t.mode == "markers"]
    assert [t.name for t in points] == does and len({(t.marker.color, t.marker.symbol) for t in points}) == 6
    alone = draw_roofline(does, ["8 x 8"] * 6, operations[6:], np.full(6, 1e7), np.full(6, 1e-3), copy_rate=1e11, matrix_rate=1e13).figure
    assert drawn.layout.margin.t == alone.layout.margin.t


def test_token_strip_is_safe_and_accessible():
    texts = ["<script>alert(1)</script>", ' "x', "\n", "冬天", "&"]
    strip = draw_token_strip(texts, np.array([1.0, NAN, 3.0, 1e5, 0.0]), {3}, what='error "e"')
    assert "<script>" not in strip and "&lt;script&gt;" in strip and "冬天" in strip
    assert strip.count('role="listitem"') == 5 and strip.count("aria-label") == 6
    assert "massive" in strip and "↵" in strip and "<br>" in strip
    assert 'title="token 3 “冬天”, error &quot;e&quot; 100,000, massive"' in strip
    for background, ink in re.findall(r"background:(#[0-9A-F]{6});color:(#[0-9A-F]{6});", strip):
        a, b = sorted((luminance(background), luminance(ink)))
        assert (b + 0.05) / (a + 0.05) >= 4.5
    assert "0 tokens" in draw_token_strip([])
    assert "2 more tokens" in draw_token_strip(["a"] * 5, limit=3)
    for make in BAD.values():
        values = make(4)
        assert draw_token_strip(few(len(values)), values)
    with pytest.raises(BadInput, match="token texts"):
        draw_token_strip(["a"], np.ones(2))
    assert all(len(draw(2048)) < 1_500_000 for draw in cases.STRIPS.values())


def test_pieces_of_one_character_share_a_box():
    tokens = ["a", "冬", CONTINUED, CONTINUED, " e", "\u0301", "👩", "\u200d", CONTINUED, "🚀", "👍", "🏽"]
    assert [list(unit) for unit in units(tokens)] == [[0], [1, 2, 3], [4, 5], [6, 7, 8, 9], [10, 11]] and unit_text(tokens, units(tokens)[1]) == "冬"
    strip = draw_token_strip(tokens, np.arange(12.0) + 1, {2}, what="error")
    assert strip.count('role="listitem"') == 5 and "tokens 1–3 “冬”, error 2, 3, 4, massive" in strip and CONTINUED not in strip
    assert "👩\u200d🚀" in strip and units([]) == [] and [list(u) for u in units([CONTINUED, "\u0301"])] == [[0, 1]]
    won = draw_token_winners(tokens, {"none": np.ones(12), "hadamard": np.full(12, 0.5)}, what="error")
    assert won.count('role="listitem"') == 5 and "tokens 1–3 “冬”, hadamard is best; error: none 1, hadamard 0.5" in won
    assert visible(CONTINUED) == "⋯"


def test_token_winners_are_safe_and_say_who_won_in_words_and_letters():
    values = {"none": np.array([3.0, 1.0, NAN]), "hadamard": np.array([1.0, 1.0, NAN]), "<b>hand": np.array([2.0, 5.0, NAN])}
    strip = draw_token_winners(["<script>", "b", "c"], values, {0}, what="error")
    assert "<script>" not in strip and "<b>" not in strip and "hadamard is best; error: none 3, hadamard 1" in strip and ", massive" in strip
    assert ">H</span>" in strip and ">N</span>" in strip and "none (1 token)" in strip and "hadamard (1 token)" in strip
    assert winners(np.array([[1.0, NAN], [NAN, NAN]])).tolist() == [0, -1]
    assert letters_for(["hadamard", "none", "hadamard, seed 1"]) == {"hadamard": "H", "none": "N", "hadamard, seed 1": "3"}
    for background, color in re.findall(r"background:(#[0-9A-F]{6});color:(#[0-9A-F]{6})", strip):
        a, b = sorted((luminance(background), luminance(color)))
        assert (b + 0.05) / (a + 0.05) >= 4.5
    assert "0 tokens" in draw_token_winners([], {"none": np.empty(0)}) and "0 methods" in draw_token_winners(["a"], {})
    with pytest.raises(BadInput, match="token texts"):
        draw_token_winners(["a"], {"none": np.ones(2)})


FONT = re.compile(r"font-size: ?(\d+(?:\.\d+)?)px")


def sizes_in(node, path=""):
    """Every font size of a figure's JSON, with where it stands."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "size" and path.endswith("font"):
                yield path, value
            elif key != "template":
                yield from sizes_in(value, f"{path}.{key}")
    elif isinstance(node, list):
        for value in node:
            yield from sizes_in(value, path)
    elif isinstance(node, str):
        yield from ((path, float(size)) for size in FONT.findall(node))


@pytest.mark.parametrize("name", list(cases.DRAWINGS))
def test_no_text_of_a_figure_is_smaller_than_12_pixels(name):
    """In layout, traces, color bars, annotations and inline styles; what says nothing gets the figure's own size."""
    drawing = cases.DRAWINGS[name]()
    plain = json.loads(drawing.figure.to_json())
    assert drawing.figure.layout.font.size >= 12 and drawing.figure.layout.hoverlabel.font.size >= 12
    small = [(path, size) for path, size in sizes_in({"data": plain["data"], "layout": plain["layout"]}) if size < 12]
    assert not small, small


@pytest.mark.parametrize("name", list(cases.STRIPS))
def test_no_text_of_a_strip_is_smaller_than_12_pixels(name):
    strip = cases.STRIPS[name]()
    assert FONT.findall(strip) and min(float(size) for size in FONT.findall(strip)) >= 12


def test_export():
    drawing = cases.perplexity_bars()
    assert export.to_csv(drawing).splitlines()[0].startswith("run,perplexity")
    settings = export.config("my-figure")
    assert settings["toImageButtonOptions"]["filename"] == "my-figure" and settings["toImageButtonOptions"]["format"] == "svg"
    assert settings["displaylogo"] is False


def test_export_without_a_browser_says_what_would_work(monkeypatch):
    monkeypatch.setattr(export, "browser", lambda: None)
    with pytest.raises(BadInput, match="install Chromium"):
        export.to_png(cases.perplexity_bars())


@pytest.mark.browser
@pytest.mark.skipif(export.browser() is None, reason="no Chrome or Chromium here")
def test_export_draws():
    drawing = cases.perplexity_bars()
    images = export.to_images(drawing, ["svg", "pdf", "png"])
    assert b"<svg" in images["svg"][:200] and images["pdf"].startswith(b"%PDF") and images["png"].startswith(b"\x89PNG")
