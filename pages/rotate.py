r"""Rotate: two rotations against each other on one site: which loses less, on which tokens, and why.

A rotation $R$ is orthogonal, so $(xR)(R^T W) = xW$: the layer computes the same, but what is rounded is $xR$. Both kinds spread an outlier
over all channels. They differ on massive tokens, which are nearly one spike $s e_c$: a Hadamard matrix turns it into $\pm s/\sqrt{D}$ in
every channel, two levels that any grid holds; a random orthogonal one into Gaussian numbers, which it does not (DFRot, arXiv 2412.00648).
"""

import numpy as np
import pandas as pd
import streamlit as st

from rotviz.evaluation.sites import BlockErrors, TokenErrors, Turn, mark_of
from rotviz.numerics.errors import sqnr_db
from rotviz.pipeline.saved import saved_rotations
from rotviz.plots.error_by_block import RELATIVE_MSE, SQNR_DB, draw_error_by_block
from rotviz.plots.error_by_channel import draw_error_by_channel
from rotviz.plots.error_scatter import draw_error_scatter
from rotviz.plots.seed_spread import draw_seed_spread
from rotviz.plots.words import count
from rotviz.types import SITE_WORDS, SLOT_OF_SITE, QuantSpec
from rotviz.ui.accumulated import matching, others, queue_runs, recipe_for, residual, run_name, watch
from rotviz.ui.cache import errors_by_block, errors_by_channel, errors_by_token, errors_of_methods, row_texts
from rotviz.ui.choices import Chosen, chosen
from rotviz.ui.show import show
from rotviz.ui.turns import UNLEARNED, names_of, pick_slots, pick_spec, pick_turn, saved_turn, spec_words, warn_idle
from rotviz.ui.words import percent, verdict

TABS = ("By token", "By block", "By channel", "All methods", "Accumulated")
KINDS = {"all": "all tokens", "massive": "massive tokens", "ordinary": "ordinary tokens"}
SPLIT = {"all": "all", "mean_massive": "massive", "mean_ordinary": "ordinary"}
SEEDS = 5
LEARNED_SHOWN = 12


def by_token(view: Chosen, a: Turn, b: Turn, spec: QuantSpec) -> None:
    """A point for each token, error under A against error under B."""
    path, names = view.capture.path, names_of(a, b)
    found = [errors_by_token(path, view.block, view.site, t, spec) for t in (a, b)]
    bare = errors_by_token(path, view.block, view.site, Turn("none"), spec)
    left, right = st.columns([3, 2])
    with left:
        show(draw_error_scatter(found[0].relative, found[1].relative, row_texts(path, view.block, view.site), name_a=names[0],
                                name_b=names[1], massive=np.flatnonzero(found[0].massive)), "scatter",
             caption="Each point is a token, below the diagonal B loses less; diamonds are massive tokens, where the methods differ most.")
    with right:
        table = {"none": bare, **dict(zip(names, found, strict=True))}
        st.dataframe(pd.DataFrame([{"method": name, **{words: percent(getattr(e, kind)) for kind, words in SPLIT.items()},
                                    "SQNR": f"{sqnr_db(e.all):.1f} dB"} for name, e in table.items()]), hide_index=True, key="split")
        st.caption("Share of the energy that rounding loses, over all tokens, the massive and the ordinary ones.")
        st.latex(r"\frac{\sum_t |x_t R - Q(x_t R)|^2}{\sum_t |x_t R|^2}")


def by_block(view: Chosen, a: Turn, b: Turn, spec: QuantSpec) -> None:
    """The same error at every block."""
    left, right = st.columns(2)
    with left:
        unit = st.segmented_control("Measure", [RELATIVE_MSE, SQNR_DB], default=RELATIVE_MSE, required=True, key="unit",
                                    bind="query-params")
    with right:
        kind = st.segmented_control("Tokens", list(KINDS), default="all", required=True, key="kind", bind="query-params")
    turns = {"none": Turn("none"), **dict(zip(names_of(a, b), (a, b), strict=True))}
    lines = {name: _line(errors_by_block(view.capture.path, view.site, t, spec), kind, unit) for name, t in turns.items()}
    show(draw_error_by_block(lines, unit=unit), "blocks",
         caption=f"Error of the {SITE_WORDS[view.site]} over {KINDS[kind]}, each block alone; "
         + ("higher is better, 6 dB are about one bit." if unit == SQNR_DB else "lower is better."))


def _line(errors: BlockErrors, kind: str, unit: str) -> np.ndarray:
    values = getattr(errors, kind)
    return np.array([sqnr_db(v) for v in values]) if unit == SQNR_DB else values


def by_channel(view: Chosen, a: Turn, b: Turn, spec: QuantSpec) -> None:
    """Where along the width the error sits."""
    sort = st.toggle("Sort from the largest error to the smallest", True, key="csort", bind="query-params")
    turns = {"none": Turn("none"), **dict(zip(names_of(a, b), (a, b), strict=True))}
    lines = {name: errors_by_channel(view.capture.path, view.block, view.site, t, spec) for name, t in turns.items()}
    show(draw_error_by_channel(lines, sort=sort), "channels",
         caption="A flat curve means that no channel is sacrificed; the mean of a curve is the share of the energy that is lost.")


def methods(view: Chosen, a: Turn, b: Turn, spec: QuantSpec) -> None:
    """Every method over several seeds, and what was learned on this model."""
    turns = [Turn(name, seed, a.slots) for name in UNLEARNED for seed in range(1 if name == "none" else SEEDS)]
    turns += [saved_turn(saved, a.slots) for saved in saved_rotations(view.look.model)[:LEARNED_SHOWN]]
    found = errors_of_methods(view.capture.path, view.block, view.site, tuple(turns), spec)
    names = dict.fromkeys(t.method for t in turns if t.method != "none")
    errors = {name: np.array([e.all for t, e in zip(turns, found, strict=True) if t.method == name]) for name in names}
    left, right = st.columns(2)
    with left:
        show(draw_seed_spread(errors, what="relative MSE"), "seeds",
             caption=f"A dot is one of {SEEDS} seeds, or a rotation that was learned here: a gain inside the spread of seeds is no gain.")
    with right:
        st.dataframe(pd.DataFrame([_row(t, e) for t, e in zip(turns, found, strict=True)]), hide_index=True, key="methods",
                     column_config={name: st.column_config.NumberColumn(format="%.2e") for name in KINDS})
        st.caption("Share of the energy that rounding loses at this site, by method and seed; SQNR in decibels, higher is better.")


def _row(turn: Turn, errors: TokenErrors) -> dict[str, object]:
    method = f"{turn.method}, {mark_of(turn.file)}" if turn.file else turn.method
    return {"method": method, "seed": turn.seed, "all": errors.all, "massive": errors.mean_massive, "ordinary": errors.mean_ordinary,
            "SQNR": round(sqnr_db(errors.all), 1)}


def accumulated(view: Chosen, a: Turn, b: Turn, spec: QuantSpec) -> None:
    """All blocks quantized at once: what arrives at the end."""
    st.markdown("With **every** block quantized, errors are handed on. A small run of one window measures that: weights stay in float, "
                f"activations go on the {spec_words(spec)}.")
    if view.look.prompt is not None:
        st.info("A run reads a corpus: choose another text in the sidebar.", icon=":material/info:")
        return
    wanted = {"none": Turn("none", 0, a.slots), **dict(zip(names_of(a, b), (a, b), strict=True))}
    recipes = {name: recipe_for(view.look, t, spec) for name, t in wanted.items()}
    known = matching(view.look, list(recipes.values()))
    missing = [r for r in recipes.values() if r.fingerprint not in known]
    if missing:
        st.button(f"Queue {count(len(missing), 'small run')}", key="queue-small", icon=":material/playlist_add:", on_click=queue_runs,
                  args=(missing,))
    watch([record for record in known.values() if not record.over])
    here = {name: known[r.fingerprint] for name, r in recipes.items() if r.fingerprint in known and known[r.fingerprint].over}
    rest = {f"{run_name(r)} · {r.run_id[-6:]}": r for r in others(view.look, list(here.values()))}
    extra = st.multiselect("Also show finished runs", list(rest), key="more-runs", placeholder="of this model", bind="query-params") if rest else []
    here |= {name: rest[name] for name in extra}
    if not here:
        st.caption("No finished run of this model has these settings yet.")
        return
    show(residual(list(here.values()), list(here)), "accumulated",
         caption="Error of the residual stream after each block: solid with all earlier blocks quantized too, dotted this block alone.")


view = chosen()
st.title("Rotate: A against B")
with st.container(border=True):
    left, right = st.columns(2)
    with right:
        second = st.container()
    with left:
        first = st.container()
    lower_left, lower_right = st.columns([1, 2], vertical_alignment="bottom")
    with lower_left:
        slots = pick_slots()
    with lower_right:
        spec = pick_spec(view.site)
    with first:
        a = pick_turn("A", "ra", "orthogonal", "sa", slots, view.look.model)
    with second:
        b = pick_turn("B", "rb", "hadamard", "sb", slots, view.look.model)
warn_idle(view.site, [a, b])
name_a, name_b = names_of(a, b)
pair = [errors_by_token(view.capture.path, view.block, view.site, t, spec) for t in (a, b)]
bare = errors_by_token(view.capture.path, view.block, view.site, Turn("none"), spec)
st.markdown(f"{view.at[0].upper()}{view.at[1:]} (slot {SLOT_OF_SITE[view.site]}), {spec_words(spec)}. "
            f"{verdict(name_a, pair[0], name_b, pair[1])} Without rotation rounding loses {percent(bare.all)}.")
drawers = dict(zip(TABS, (by_token, by_block, by_channel, methods, accumulated), strict=True))
for name, tab in zip(TABS, st.tabs(list(TABS), key="rtab", bind="query-params", on_change="rerun"), strict=True):
    if tab.open:
        with tab:
            drawers[name](view, a, b, spec)
