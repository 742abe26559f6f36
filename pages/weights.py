r"""Weights: what a grid makes of them, linear by linear; what runs report of theirs; a recipe taken apart step by step; a study of rounding.

$$\frac{|W - Q(W)|^2}{|W|^2} \qquad\text{and}\qquad \frac{|x\,(W - Q(W))^T|^2}{|x\,W^T|^2}$$

The first is what rounding loses of the weight, the second what that costs the layer's output on real inputs. A rotation usually makes the first
smaller, for it takes outliers out of the rows; the second can grow all the same, because the norm's gain is folded into the weight before.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import streamlit as st

from rotviz.allocation import ALLOCATIONS, is_budgeted
from rotviz.capture.inspect import Look
from rotviz.errors import RotvizError
from rotviz.evaluation.sites import Turn
from rotviz.evaluation.weights import FOLDED, ROTATED, STORED
from rotviz.jobs.queue import tend
from rotviz.models.loading import require_text, weights_mark
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.waterfall import FLOAT, Apart, Step, assembled, lines_of, recipes_of, rotation_name
from rotviz.plots.apart import draw_apart
from rotviz.plots.compare_errors import draw_compare_errors
from rotviz.plots.curves import draw_curves
from rotviz.plots.effect_by_switch import draw_effect_by_switch
from rotviz.plots.error_by_block import draw_error_by_block
from rotviz.plots.stack_waterfall import draw_stack_waterfall
from rotviz.plots.waterfall import draw_waterfall
from rotviz.plots.weight_grid import draw_weight_grid
from rotviz.plots.weight_map import draw_weight_map
from rotviz.plots.words import count, number
from rotviz.quantizers import QUANTIZERS, is_calibrated
from rotviz.reports.runs import dig, names_of, title_of
from rotviz.rotations import ROTATIONS
from rotviz.store.runs import RunRecord, Status, Store
from rotviz.types import QuantSpec
from rotviz.ui.accumulated import queue_runs
from rotviz.ui.apart import apart_table, apart_words, divergences, name_of, rows_of
from rotviz.ui.cache import captured
from rotviz.ui.choices import FIRST_BLOCK, chosen_model
from rotviz.ui.forms import SCALING_WORDS, evaluation_text, pick_text
from rotviz.ui.live import live_run, stopped_run
from rotviz.ui.pace import sentence
from rotviz.ui.runs import newest, stopped
from rotviz.ui.show import show
from rotviz.ui.study import base_and_band, base_words, command, drawn, effects_table, gain_words, kept_studies, step_lines, verdict_lines
from rotviz.ui.turns import BOUND, pick_name, pick_slots, pick_turn
from rotviz.ui.weights import (
    MEASURES,
    assembled_words,
    block_linears,
    common_range,
    form_loss,
    learned_by_linear,
    learned_losses,
    learned_names,
    learned_table,
    loss_table,
    losses_by_block,
    map_words,
    opened,
    pick_grid,
    run_errors,
    runs_with_weights,
    short_names,
    spread,
    stored_words,
    waterfall_words,
    what_happens,
    why,
)

TABS = ("One linear", "Every block", "From runs", "Waterfall", "Study")
VIEWS = {"by rotation": "what is rounded, step by step, without and with the rotation",
         "assembled": "first what rounds, by the plainest means, then each slot and each method for itself",
         "apart": "weights alone, activations (and cache) alone, and both: which half a rotation rescues, which it spoils, and what resolves it"}
MOST = 4
LIVE = 2  # runs on their way that are shown as they go
RATIOS = 3.0  # log2: colors reach from an eighth to eight times
LENGTHS = (64, 128, 256, 512, 1024, 2048)
ACTIVATION_BITS = (16, 8, 6, 4, 3)


def draw() -> None:
    """The page."""
    model = chosen_model()
    require_text(model, "this page")
    tend()
    st.title("Weights on a grid")
    found = opened(model)
    with st.container(border=True):
        left, right = st.columns(2, vertical_alignment="bottom")
        with right:
            slots = pick_slots()
        with left:
            turn = pick_turn("Rotation", "ra", "hadamard", "sa", slots, model)
        spec = pick_grid(found.widths)
    for note in found.notes:
        st.caption(f":material/info: {note[0].upper()}{note[1:]}.")
    tabs = st.tabs(list(TABS), key="wtab", bind="query-params", on_change="rerun")
    drawers = (lambda: one_linear(model, turn, spec), lambda: every_block(model, turn, spec), lambda: from_runs(model),
               lambda: waterfall(model, turn, spec), lambda: study(model))
    for tab, drawer in zip(tabs, drawers, strict=True):
        if tab.open:
            with tab:
                drawer()


def one_linear(model: str, turn: Turn, spec: QuantSpec) -> None:
    """A weight's distribution before and after, on its grid."""
    blocks, mark = len(opened(model).source), weights_mark(model)
    cells = st.columns([3, 2, 2], vertical_alignment="bottom")
    kept = st.session_state.get("b")
    if isinstance(kept, int) and kept > blocks - 1:  # a smaller model was chosen
        st.session_state["b"] = blocks - 1
    block = cells[0].slider("Block", 0, blocks - 1, min(FIRST_BLOCK, blocks // 2), key="b", **BOUND) if blocks > 1 else 0
    names = short_names(block_linears(model, block, turn, STORED))
    one = names[cells[1].selectbox("Linear", list(names), key="lin", **BOUND)]
    path, rows = one.path, len(one.weight)
    channel = cells[2].number_input("Output channel", -1, rows - 1, -1, key="ch", **BOUND, help="−1 = all output channels of the linear.")
    look = captured(Look(model))
    forms = (STORED,) if turn.method == "none" else (STORED, FOLDED, ROTATED)
    found = {form: form_loss(model, mark, look.path, block, path, turn, form, spec) for form in forms}
    st.markdown(f"{what_happens(found, spec)} {why(found)}")
    shown = {form: spread(model, mark, block, path, turn, form, spec, None if channel < 0 else int(channel)) for form in forms if form != FOLDED}
    in_steps = not any(s.own_unit for s in shown.values())  # in their own unit the folded gain makes the numbers smaller or larger
    view = (min(s.edges[0] for s in shown.values()), max(s.edges[-1] for s in shown.values())) if in_steps else None
    top = (0.6, 2.0 * max(float(s.counts.max()) for s in shown.values()))
    for cell, (form, one) in zip(st.columns(len(shown)) if len(shown) > 1 else [st.container()], shown.items(), strict=True):
        with cell:
            st.markdown(f"**{form[0].upper()}{form[1:]}**" + ("" if form == STORED else f" ({turn.label})"))
            what = "weight" if one.own_unit else "weight, in steps of its grid"
            show(draw_weight_grid(one.counts, one.edges, levels=one.levels, ends=(one.low, one.high), what=what, x_range=view, y_range=top,
                                  method="none" if form == STORED else turn.method), f"grid-{form}",
                 caption="Dotted lines are the grid's levels; in the shade weights are cut off to the last one.")
    st.dataframe(loss_table(found), hide_index=True, key="loss-table")
    st.caption("Folded: the norm's gain moved into the weight, nothing turned. Lost of the output: on the first 512 tokens of the Python "
               "documentation. Amplification: the output of a random weight of this size over this one's; the output's error is the "
               "weight's times it where errors are as random, which fits a rotated weight best.")
    stored = stored_words(found)
    if stored:
        st.caption(f":material/grid_on: {stored}")


def every_block(model: str, turn: Turn, spec: QuantSpec) -> None:
    """What every linear loses on the grid, plain and rotated."""
    measure = pick_name("Error", MEASURES, "wm")
    look = captured(Look(model))
    turns = [Turn("none"), turn] if turn.method != "none" else [turn]
    found = [losses_by_block(model, look.path, t, spec, measure) for t in turns]
    limits = common_range(found)
    medians = [float(np.nanmedian(f.values)) if np.isfinite(f.values).any() else float("nan") for f in found]
    if len(found) == 2:
        st.markdown(map_words(found[0], found[1], measure, spec))
    for cell, values, one, median in zip(st.columns(len(found)) if len(found) > 1 else [st.container()], found, turns, medians, strict=True):
        with cell:
            st.markdown(f"**{'As stored' if one.method == 'none' else one.label}**, median {number(median)}")
            show(draw_weight_map(values.values, values.roles, what=MEASURES[measure], color_range=limits), f"map-{one.method}",
                 caption="A sample of 64 output channels of each linear; both maps share their colors.")
    if any(np.isnan(f.values).any() for f in found):
        st.caption("Blank: experts, whose outputs are not measured here because each sees a part of the tokens only.")
    if len(found) == 2:
        show(draw_compare_errors(found[0].values, found[1].values, found[0].roles, name_a="as stored", name_b=turn.method,
                                 limit=RATIOS), "map-ratio",
             caption="Blue: the rotation loses less there; orange: more.")


def from_runs(model: str) -> None:
    """Errors and what was learned, of finished runs."""
    records = {r.run_id: r for r in runs_with_weights(model)}
    if not records:
        st.info("No finished run of this model has quantized weights yet. The tab *Waterfall* or the page *Evaluate* makes some.")
        return
    labels = names_of(list(records.values()))
    chosen = [records[i] for i in st.multiselect("Runs", list(records), list(records)[:2], key="wruns", max_selections=MOST, **BOUND,
                                                 format_func=lambda i: f"{title_of(records[i])} · {i[-6:]}", placeholder="up to four")]
    if not chosen:
        st.caption("Choose up to four runs.")
        return
    found = [run_errors(r) for r in chosen]
    limits, cells = common_range(found), st.columns(min(2, len(chosen)))
    for i, (record, values) in enumerate(zip(chosen, found, strict=True)):
        with cells[i % len(cells)]:
            st.markdown(f"**{labels[record.run_id]}**")
            show(draw_weight_map(values.values, values.roles, what=MEASURES["weight"], color_range=limits), f"run-map-{i}",
                 caption="Error of each quantized weight; the maps share their colors.")
    if len(chosen) > 1 and found[0].roles == found[1].roles and found[0].values.shape == found[1].values.shape:
        show(draw_compare_errors(found[0].values, found[1].values, found[0].roles, name_a=labels[chosen[0].run_id],
                                 name_b=labels[chosen[1].run_id], limit=RATIOS), "run-ratio",
             caption="A calibrated method may round its weights worse and still lose less: it minimizes the output's error, not the weight's.")
    _learned(chosen)


def _learned(chosen: Sequence[RunRecord]) -> None:
    """What calibrated methods report."""
    table = learned_table(chosen)
    if table.empty:
        st.caption("None of these runs used a calibrated method, which would report what it learned.")
        return
    st.markdown("#### What was learned")
    lines = learned_losses(chosen)
    if lines:
        show(draw_error_by_block(lines, unit="block loss after / before"), "learned-loss",
             caption="What a block's loss became, relative to plain rounding's; below 1 is a gain.")
    names = learned_names(chosen)
    if names:
        name = st.segmented_control("By linear", names, default=names[0], required=True, key="wlearned", **BOUND,
                                    help="objective: of the layer, over plain rounding's; fallback: channels that kept plain rounding; flips: share "
                                         "of codes that were moved; clip and range: mean share of the range that is kept; exponent: of a power grid, "
                                         "as learned; searched_exponent: where learning started.")
        for i, record in enumerate(chosen):
            values = learned_by_linear(record, name)
            if values.roles:
                show(draw_weight_map(values.values, values.roles, what=name), f"learned-{i}", caption=f"{names_of(chosen)[record.run_id]}: {name}.")
    st.dataframe(table, hide_index=True, height=250, key="learned-table")


def waterfall(model: str, turn: Turn, spec: QuantSpec) -> None:
    """A recipe taken apart: its steps with and without its rotation, or the stack put together piece by piece."""
    recipe = _recipe(model, turn, spec)
    if recipe is None:
        return
    view = pick_name("Steps", VIEWS, "wview")
    stack, halves = assembled(recipe), _halves(recipe) if view == "apart" else []
    wanted = {"by rotation": recipes_of(recipe), "assembled": [step.recipe for step in stack if step.recipe is not None],
              "apart": [r for row in halves for r in row.recipes]}[view]
    wanted = list({r.fingerprint: r for r in wanted}.values())
    if not wanted:
        return
    known = newest(model, wanted)
    missing = [r for r in wanted if r.fingerprint not in known]
    left, right = st.columns([2, 3], vertical_alignment="center")
    left.button(f"Queue {count(len(missing), 'missing run')}" if missing else "Nothing is missing", key="wqueue", type="primary",
                disabled=not missing, icon=":material/playlist_add:", on_click=queue_runs, args=(missing,))
    right.caption(sentence(missing) if missing else "Every step has a result or is on its way.")
    open_runs = sorted((r for r in known.values() if not r.over), key=lambda r: r.status is not Status.RUNNING)
    for record in open_runs[:LIVE]:
        live_run(record.run_id)
    if len(open_runs) > LIVE:
        st.caption(f"{len(open_runs) - LIVE} more are waiting.")
    over = stopped(model, missing)
    for record in over[:LIVE]:
        stopped_run(record)
    if len(over) > LIVE:
        st.caption(f"{len(over) - LIVE} more were cancelled or failed: page Runs.")
    lines = lines_of(recipe) if view == "by rotation" else {"": stack}
    done = {mark: record for mark, record in known.items() if record.status is Status.DONE}
    if not done:
        names = [name_of(row) for row in halves] or [step.name for step in next(iter(lines.values()))]
        st.info(f"No step of **{recipe.title}** has a result yet: {', '.join(names)}.")
    elif view == "apart":
        _apart(halves, done)
    else:
        _by_rotation(lines, done) if view == "by rotation" else _assembled(stack, done)


def _halves(recipe: Recipe) -> list[Apart]:
    """The rows of the view "apart": the recipe's halves under the rotations and weight methods that are chosen."""
    rotations = st.pills("Rotations beside the recipe's own", list(ROTATIONS), selection_mode="multi", default=["none", "hadamard"], key="wapr",
                         help="With their defaults.", **BOUND)
    methods = st.pills("Weight methods beside the recipe's own", [m for m in QUANTIZERS if m != "none"], selection_mode="multi", default=["rtn"],
                       key="wapm", help="With their defaults, on the recipe's grid.", **BOUND)
    rotations, methods = (list(dict.fromkeys((*chosen, own)))
                          for chosen, own in ((rotations, rotation_name(recipe)), (methods, recipe.weights.method)))
    rows, refused = rows_of(recipe, rotations, methods)
    for reason in refused[:MOST]:
        st.caption(f":material/info: {reason}")
    return rows


def _apart(rows: Sequence[Apart], done: Mapping[str, RunRecord]) -> None:
    """Which half of a recipe a rotation rescues and which it spoils."""
    st.markdown(apart_words(rows, done))
    show(draw_apart({name_of(row): divergences(row, done) for row in rows}), "wf-apart",
         caption="Distance of the next-token distribution from the float model's. Square: only weights are rounded; triangle: only activations (and "
                 "cache); circle: both. A rotation should move the circle to the left.")
    table = apart_table(rows, done)
    st.dataframe(table, hide_index=True, key="apart-table",
                 column_config={name: st.column_config.NumberColumn(format="%.4g") for name in table.columns[2:]})


def _by_rotation(lines: Mapping[str, Sequence[Step]], done: Mapping[str, RunRecord]) -> None:
    """What each part of the recipe costs under each rotation."""
    steps = [step.name for step in next(iter(lines.values()))]
    reference = dig(next(iter(done.values())).result, "perplexity", "reference", "value")
    perplexities = {name: _values(line, done, reference, "perplexity", "quantized", "value") for name, line in lines.items()}
    st.markdown(waterfall_words(steps, perplexities))
    left, right = st.columns(2)
    with left:
        errors = {name: _values(line, done, 0.0, "perplexity", "quantized", "stderr") for name, line in lines.items()}
        show(draw_waterfall(steps, perplexities, stderrs=errors, reference=reference), "wf-perplexity",
             caption="Each step rounds one thing more; a steep stretch is the thing that hurts.")
    with right:
        divergences = {name: _values(line, done, 0.0, "divergence", "kl_nats")[1:] for name, line in lines.items()}
        show(draw_waterfall(steps[1:], divergences, what="KL, nats a token"), "wf-kl",
             caption="Distance of the next-token distribution from the float model's (which has 0).")


def _assembled(stack: Sequence[Step], done: Mapping[str, RunRecord]) -> None:
    """What each piece of the stack is worth where it stands."""
    steps = [step.name for step in stack]
    reference = dig(next(iter(done.values())).result, "perplexity", "reference", "value")
    perplexities = _values(stack, done, reference, "perplexity", "quantized", "value")
    st.markdown(assembled_words(steps, perplexities))
    left, right = st.columns(2)
    with left:
        show(draw_stack_waterfall(steps, perplexities, stderrs=_values(stack, done, 0.0, "perplexity", "quantized", "stderr")), "wf-stack",
             caption="Orange: the step makes it worse; blue: better. The last step is the recipe itself.")
    with right:
        show(draw_stack_waterfall(steps[1:], _values(stack, done, 0.0, "divergence", "kl_nats")[1:], what="KL, nats a token"), "wf-stack-kl",
             caption="Distance of the next-token distribution from the float model's (which has 0).")


def _values(line: Sequence[Step], done: Mapping[str, RunRecord], of_float: float | None, *path: str) -> np.ndarray:
    """A result of every step of a line; NaN where there is none."""
    return np.array([_nan(of_float) if step.name == FLOAT else _nan(dig(getattr(done.get(step.recipe.fingerprint), "result", None), *path))
                     for step in line])


def study(model: str) -> None:
    """Which choices of learned rounding matter: a study's effects and verdicts."""
    studies = kept_studies(model)
    if not studies:
        st.info("No study of learned rounding has been made yet. This command makes one; it may be stopped and started.")
        st.code(command(model), language="sh")
        return
    chosen = st.selectbox("Study", list(studies), key="wstudy", **BOUND, help="Made by `rotviz bench rounding-study`; those of this model first.")
    record = studies[chosen]
    if record["base"]["model"] != model:
        st.caption(f":material/info: Not of {model}, for which this command makes one: `{command(model)}`.")
    st.markdown(gain_words(record))
    st.markdown(verdict_lines(record))
    base, band = base_and_band(record)
    left, right = st.columns([3, 2])
    with left:
        show(draw_effect_by_switch(drawn(record), base=base, band=band), "study-effects",
             caption="A dot is one run with one switch turned. Shaded: where one more seed of the base would fall; dots in it may be luck.")
    with right:
        steps, lines = step_lines(record)
        if lines:
            show(draw_curves(steps, lines, x_words="step, in units of the base's", what="KL, nats a token", x_log=True), "study-steps",
                 caption="Each optimizer and variable over the step. Where the lines are not parallel, they interact.")
        st.caption(base_words(record))
    st.dataframe(effects_table(record), hide_index=True, height=300, key="study-table", placeholder="–")
    st.caption("Flips: share of codes that learning moved away from plain rounding's. Range kept: mean share of a row's or group's range. The "
               "exponent is a power grid's, as learned and as the search found it.")


def _recipe(model: str, turn: Turn, spec: QuantSpec) -> Recipe | None:
    """The recipe to take apart: a run's, or one made of the grid and the rotation above."""
    source = st.segmented_control("Recipe", ["made here", "of a run"], default="made here", required=True, key="wsrc", **BOUND)
    if source == "of a run":
        records = {r.run_id: r for r in Store().list(model=model, limit=200)}
        if not records:
            st.info("This model has no runs yet.")
            return None
        chosen = st.selectbox("Run", list(records), key="wrun", **BOUND, format_func=lambda i: f"{title_of(records[i])} · {i[-6:]}")
        return Recipe.from_dict(records[chosen].recipe)
    cells = st.columns(4, vertical_alignment="bottom")
    method = cells[0].selectbox("Weight method", [m for m in QUANTIZERS if m != "none"], index=[m for m in QUANTIZERS if m != "none"].index("rtn"),
                                key="wmethod", **BOUND, help="\n\n".join(f"**{m}**: {cls.summary}" for m, cls in QUANTIZERS.items()))
    activations = cells[1].selectbox("Activation bits", ACTIVATION_BITS, ACTIVATION_BITS.index(4), key="wab", **BOUND)
    cache = cells[2].selectbox("KV cache bits", ACTIVATION_BITS, ACTIVATION_BITS.index(4), key="wkv", **BOUND)
    scaling = cells[3].selectbox("Scaling", ("none", "smoothquant"), key="wscale", **BOUND, help=SCALING_WORDS)
    budgeted = {name: cls for name, cls in ALLOCATIONS.items() if is_budgeted(cls)}  # a list is made on the page Bit budget
    cells = st.columns(4, vertical_alignment="bottom")
    sharing = cells[0].selectbox("Mixed precision", ("none", *budgeted), key="walloc", **BOUND,
                                 help="\n\n".join(f"**{name}**: {cls.summary}" for name, cls in budgeted.items()))
    windows = cells[1].number_input("Windows", 1, 10_000, 2, key="ww", **BOUND, help="Evaluation windows from the start of the text.")
    length = cells[2].selectbox("Length", LENGTHS, LENGTHS.index(512), key="wl", **BOUND, help="Tokens in a window.")
    beside = st.session_state.get("wview", st.query_params.get("wview")) == "apart"  # other methods than the recipe's own may learn there
    calibrated = beside or is_calibrated(QUANTIZERS[method]) or scaling != "none" or getattr(ALLOCATIONS.get(sharing), "needs_costs", False)
    left, right = st.columns(2)
    with left:
        text = {"evaluation": evaluation_text("wet"), "windows": windows, "length": length}
    with right:
        text |= {"calibration": pick_text("Calibration text", "wct", "What the methods learn from.", "wikitext2:validation")} if calibrated else {}
    if None in text.values():
        return None
    rotation = {"load": turn.file} if turn.file else {"method": turn.method}
    try:
        return Recipe.from_dict({
            "model": model, "seed": turn.seed, "text": text, "rotation": {**rotation, "slots": [slot.value for slot in turn.slots]},
            "weights": {"method": method, "bits": spec.bits, "symmetric": spec.symmetric, "group": spec.group, "clip": spec.clip,
                        "format": spec.number_format},
            "scaling": {"method": scaling}, "allocation": {"method": sharing}, "activations": {"bits": activations}, "kv": {"bits": cache}})
    except RotvizError as error:
        st.error(str(error))
        return None


def _nan(value: float | None) -> float:
    return float("nan") if value is None else float(value)


draw()
