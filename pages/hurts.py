r"""Which layer hurts? One block or module is quantized at a time, and all but one; then a recipe keeps the worst at more bits.

$$\text{costs alone} = L(\text{only } u) - L(\text{float}) \qquad \text{gives back} = L(\text{all}) - L(\text{all but } u)$$

An estimate from gradients comes first, in seconds; measuring is a run on the queue. Beside each other they say whether the estimate can be trusted.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import streamlit as st

from rotviz.errors import RotvizError
from rotviz.jobs.queue import tend
from rotviz.models.loading import require_text
from rotviz.pipeline.ablation import ranked
from rotviz.pipeline.budget import mended_recipe
from rotviz.pipeline.recipe import Recipe
from rotviz.plots.bars import draw_bars
from rotviz.plots.drawing import Drawing
from rotviz.plots.estimate_scatter import draw_estimate_scatter
from rotviz.plots.weight_map import draw_weight_map
from rotviz.plots.words import count, number
from rotviz.reports.runs import dig, result_of
from rotviz.store.runs import RunRecord, Status
from rotviz.ui.accumulated import queue_runs
from rotviz.ui.choices import chosen_model
from rotviz.ui.commands import hurts_command
from rotviz.ui.live import live_run, stopped_run
from rotviz.ui.runs import newest, stopped
from rotviz.ui.sensitivity import (
    ablation_cost,
    agreement,
    bits_words,
    cost_words,
    estimate_rows,
    estimated,
    grid_of,
    harms,
    pick_recipe,
    ranked_table,
    with_ablation,
)
from rotviz.ui.show import show
from rotviz.ui.turns import BOUND, pick_name

UNITS = {"block": "whole blocks", "module": "modules: the linears of one role in a block, and its KV cache"}
KINDS = {"both": "both directions", "only": "only the unit quantized", "all_but": "all but the unit quantized"}
KEEP_BITS = (5, 6, 8, 16)
WORST = 3
COLUMNS = {"gives back": "what keeping it in float gives back of the loss, nats a token", "± back": "standard error over windows",
           "costs alone": "what it costs when everything else is float, nats a token", "± alone": "standard error over windows",
           "KL alone": "KL divergence from the float model, nats a token", "estimate": "from gradients, nats a token",
           "of weights": "the weights' part", "of inputs": "the inputs' part"}


def draw() -> None:
    """The page."""
    model = chosen_model()
    require_text(model, "this page")
    tend()
    st.title("Which layer hurts?")
    st.markdown("Quantize **one block or module at a time**, and **all but one**: what each costs the loss, in nats a token.")
    recipe = pick_recipe(model)
    left, right = st.columns(2)
    with left:
        unit = pick_name("Unit", UNITS, "hu")
    with right:
        kind = pick_name("Direction", KINDS, "hk")
    asked = with_ablation(recipe, unit, kind) if recipe is not None else None
    if asked is None:
        return
    left, right = st.columns(2, gap="medium")
    with left:
        estimate = _estimated(recipe, unit)
    with right:
        ablation = _measured(model, asked)
    if not estimate and ablation is None:
        return
    _agreement(estimate, ablation)
    st.subheader("The worst first")
    _ranking(ablation, estimate, asked)
    _mend(recipe, asked, ablation, estimate)


def _estimated(recipe: Recipe, unit: str) -> dict[str, dict[str, Any]]:
    """The estimate from gradients, by unit."""
    st.subheader("Estimated")
    found = estimated(recipe, "hestimate")
    if found is None:
        return {}
    rows = estimate_rows(found, recipe, unit)
    show(_figure({name: row["estimate"] for name, row in rows.items()}, unit, "estimate, nats a token"), "estimated",
         caption=f"Second order, from gradients on {found.protocol}; the KV cache is not in it.")
    return rows


def _measured(model: str, asked: Recipe) -> Mapping[str, Any] | None:
    """The newest measurement, or what it would take and the button that queues it."""
    st.subheader("Measured")
    record = newest(model, [asked]).get(asked.fingerprint)
    if record is not None and not record.over:
        live_run(record.run_id)
        return None
    if record is None:
        st.button("Measure", key="hmeasure", type="primary", icon=":material/playlist_add:", on_click=queue_runs, args=([asked],))
        st.caption(f"{cost_words(*ablation_cost(asked))}. It goes on the queue, can be cancelled and goes on where it was.")
        for one in stopped(model, [asked]):
            stopped_run(one)
        return None
    ablation = result_of(record)["ablation"]
    name = "gives back, nats a token" if ablation["kind"] != "only" else "costs alone, nats a token"
    words = "What keeping each in float gives back of the loss." if ablation["kind"] != "only" else "What each costs when all else is float."
    errors = f", quantized {number(ablation['loss_quantized'])}" if ablation["loss_quantized"] is not None else ""
    show(_figure(harms(ablation), ablation["unit"], name), "measured",
         caption=f"{words} Loss in float {number(ablation['loss_float'])}{errors} nats a token, {ablation['tokens']:,} tokens. "
                 f"{ablation['protocol']}.")
    return ablation


def _figure(values: Mapping[str, float], unit: str, what: str) -> Drawing:
    """Bars of blocks, or a map of blocks by roles."""
    if unit == "block":
        return draw_bars(list(values), {what: np.array(list(values.values()))}, what=what, x_words="block")
    roles, grid = grid_of(values, unit)
    return draw_weight_map(grid, roles, what=what)


def _agreement(estimate: Mapping[str, Mapping[str, Any]], ablation: Mapping[str, Any] | None) -> None:
    """Whether the cheap numbers name the same units as the measured ones."""
    if not estimate or ablation is None:
        return
    measured = harms(ablation)
    rho = agreement(estimate, measured)
    both = [name for name in measured if name in estimate]
    top_e = set(sorted(both, key=lambda n: -estimate[n]["estimate"])[:WORST])
    top_m = set(sorted(both, key=lambda n: -measured[n])[:WORST])
    trust = "they name the same units" if rho > 0.8 else "they agree roughly" if rho > 0.5 else "a weak guide" if rho > 0.3 else "no guide here"
    st.markdown(f"Rank correlation of estimate and measurement: **{rho:.2f}**, {trust}; of the {WORST} worst as measured the estimate has "
                f"{len(top_e & top_m)} among its own {WORST}." if np.isfinite(rho) else "Too few units for a rank correlation.")
    with st.expander("Estimate against measurement"):
        show(draw_estimate_scatter(np.array([estimate[n]["estimate"] for n in both]), np.array([measured[n] for n in both]), both,
                                   correlation=rho, x_words="estimate, nats a token", y_words="measured, nats a token"), "agreement",
             caption="On the diagonal the estimate is right; a cloud beside it ranks right and is off by a factor.")


def _ranking(ablation: Mapping[str, Any] | None, estimate: Mapping[str, Mapping[str, Any]], asked: Recipe) -> None:
    table = ranked_table(ablation, estimate)
    st.dataframe(table, hide_index=True, key="hranking", alt="What each unit costs, the worst first", height=min(38 + 35 * len(table), 318),
                 column_config={name: st.column_config.NumberColumn(format="%.3g", help=words) for name, words in COLUMNS.items() if name in table})
    st.caption("The same from the command line, with `--preview` for the estimate:")
    st.code(hurts_command(asked), language="bash", wrap_lines=True)


def _mend(recipe: Recipe, asked: Recipe, ablation: Mapping[str, Any] | None, estimate: Mapping[str, Mapping[str, Any]]) -> None:
    """A recipe that keeps the worst at more bits, and what it came to."""
    st.subheader("Keep the worst at more bits")
    order = [row["name"] for row in ranked(ablation)] if ablation is not None else sorted(estimate, key=lambda n: -estimate[n]["estimate"])
    names = {name.partition("+")[0]: name for name in order if not name.endswith(".kv")}
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    keep = left.multiselect("Keep", list(names), list(names)[:WORST], key=f"hkeep-{asked.fingerprint}-{ablation is not None}",
                            help="Blocks (11) or linears (7.down); their inputs are kept as well.")
    bits = right.selectbox("at bits", KEEP_BITS, KEEP_BITS.index(8), key="hkb", **BOUND, help="16 = float.")
    if not keep:
        st.caption("Name at least one unit.")
        return
    try:
        mended = mended_recipe(recipe, keep, int(bits))
    except RotvizError as error:
        st.error(str(error))
        return
    plain = Recipe.from_dict(recipe.to_dict())
    known = newest(recipe.model, [mended, plain, asked])
    run = known.get(mended.fingerprint)
    with st.container(horizontal=True):
        st.button(f"Queue: keep {count(len(keep), 'unit')} in {bits_words(int(bits))}", key="hmend", type="primary", icon=":material/playlist_add:",
                  disabled=run is not None, on_click=queue_runs, args=([mended],))
        st.download_button("Recipe (TOML)", mended.to_toml(), "mended.toml", "application/toml", key="htoml", on_click="ignore",
                           icon=":material/download:")
    if run is None:
        for one in stopped(recipe.model, [mended]):
            stopped_run(one)
    elif not run.over:
        live_run(run.run_id)
    before = known.get(asked.fingerprint) or known.get(plain.fingerprint)
    if run is not None and run.status is Status.DONE:
        _outcome(before, run)
    with st.expander("The recipe as TOML"):
        st.code(mended.to_toml(), language="toml")


def _outcome(before: RunRecord | None, after: RunRecord) -> None:
    """What the mend came to, on the same windows."""
    cells = st.columns(3)
    reference = dig(after.result, "perplexity", "reference", "value")
    cells[0].metric("float model", number(reference), help="perplexity")
    was = dig(before.result, "perplexity", "quantized", "value") if before is not None else None
    cells[1].metric("all quantized", number(was) if was is not None else "not measured", help="perplexity of the recipe above")
    now = dig(after.result, "perplexity", "quantized", "value")
    change = None if was is None or now is None else f"{'-' if now < was else '+'}{number(abs(now - was))}"  # st.metric reads the sign
    cells[2].metric("with these kept", number(now), delta=change, delta_color="inverse", help="perplexity")
    table = result_of(after)["allocation"]
    st.caption(f"Perplexity on the same windows. The kept recipe has {table['average']:.3g} bits a weight on average.")


draw()
