r"""Bit budget: which module gets how many bits at an average, how large the model is then, and which perplexity that predicts. Nothing runs yet.

$$\log \text{ppl} \approx L_\text{float} + f \sum_u \tfrac12 \sum_{ij} H^{(u)}_{ij} \big(w_{ij} - Q_{b_u}(w)_{ij}\big)^2$$

The costs come from gradients on a few windows; stored runs calibrate $f$ and say how wrong the prediction was. A button queues exactly what is shown.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import streamlit as st

from rotviz.errors import RotvizError
from rotviz.jobs.queue import tend
from rotviz.models.loading import require_text
from rotviz.pipeline.budget import STRATEGIES, Calibration, Prediction, listed_recipe
from rotviz.pipeline.preview import Preview, preview_path
from rotviz.pipeline.recipe import Recipe
from rotviz.plots.curves import draw_curves
from rotviz.plots.weight_map import draw_weight_map
from rotviz.plots.words import number
from rotviz.reports.runs import dig
from rotviz.store.runs import Status
from rotviz.ui.accumulated import queue_runs
from rotviz.ui.choices import chosen_model
from rotviz.ui.live import live_run, stopped_run
from rotviz.ui.runs import newest, stopped
from rotviz.ui.sensitivity import calibration_of, estimated, float_loss, grid_of, pick_recipe, predictions
from rotviz.ui.show import show
from rotviz.ui.turns import BOUND

STEPS = tuple(round(2 + i / 10, 1) for i in range(61))
"""The slider's stops: 2 to 8 bits."""
EACH = 4
"""Every fourth stop is a point of the curves."""
SHOWN = ("importance", *(name for name in STRATEGIES if name != "importance"))


def draw() -> None:
    """The page."""
    model = chosen_model()
    require_text(model, "this page")
    tend()
    st.title("Bit budget")
    st.markdown("Share out an **average number of bits** over the modules by what rounding each is estimated to cost.")
    recipe = pick_recipe(model, weight_bits=False)
    if recipe is None:
        return
    found = estimated(recipe, "bestimate")
    if found is None:
        return
    calibration = calibration_of(recipe, found)
    st.fragment(_dial)(recipe, found, calibration, *float_loss(recipe, found, calibration))
    _runs(calibration)


def _dial(recipe: Recipe, found: Preview, calibration: Calibration, loss_float: float, text: str) -> None:
    """The slider and everything that follows it; redrawn alone."""
    path = preview_path(recipe)
    left, right = st.columns(2, vertical_alignment="bottom")
    budget = left.select_slider("Average bits", STEPS, 4.0, key="bb", **BOUND, help="A weight, scales apart.")
    strategy = right.segmented_control("Allocation", SHOWN, default="importance", required=True, key="bs", **BOUND,
                                       help="importance: by estimated cost; magnitude: larger weights get more; random: by lot; uniform: all alike.")
    every = predictions(path, recipe, calibration, loss_float, STEPS, SHOWN)  # all stops at once, so that the slider only reads
    here = {name: line[STEPS.index(budget)] for name, line in every.items()}
    chosen = here[strategy]
    _metrics(chosen, loss_float, text, calibration)
    roles, grid = grid_of(chosen.bits, "module")
    show(draw_weight_map(grid, roles, what="bits", color_range=(float(found.choices[0]), float(found.choices[-1]))), "bmap",
         caption=f"Bits of each module under {strategy}: the darker, the more.")
    _against(every, budget, here)
    _queue(recipe, chosen)


def _metrics(chosen: Prediction, loss_float: float, text: str, calibration: Calibration) -> None:
    cells = st.columns(4)
    cells[0].metric("average bits", f"{chosen.average:.3g}")
    cells[1].metric("size", f"{number(float(f'{chosen.size_mb:.4g}'))} MB",
                    help="Codes as tight as they can lie, 16-bit scales, and embeddings, head and norms in 16 bits. A deployed model takes half a "
                         "byte for 2 to 4 bits, a byte for more, and 32-bit scales.")
    cells[2].metric("predicted perplexity", number(chosen.perplexity), help=f"A prediction, not a measurement; on {text}.")
    cells[3].metric("float model", number(float(np.exp(loss_float))), help=f"perplexity on {text}")
    st.caption(f":material/query_stats: The perplexity is {calibration.words}.")


def _against(every: Mapping[str, Sequence[Prediction]], budget: float, here: Mapping[str, Prediction]) -> None:
    """All strategies at this budget and over all budgets."""
    left, right = st.columns([3, 2])
    with left:
        lines = {name: np.array([min(p.perplexity, 1e6) for p in line[::EACH]]) for name, line in every.items()}
        show(draw_curves(np.array(STEPS[::EACH]), lines, now=budget, x_words="average bits", what="predicted perplexity"), "bcurves",
             caption="Predicted, at equal average bits; the dashed line is the slider.")
    with right:
        st.dataframe(pd.DataFrame([{"allocation": name, "average": p.average, "MB": p.size_mb, "perplexity": p.perplexity, "loss +": p.increase}
                                   for name, p in here.items()]), hide_index=True, key="btable",
                     alt="Average bits, size and predicted perplexity of each allocation",
                     column_config={"average": st.column_config.NumberColumn(format="%.2f"), "MB": st.column_config.NumberColumn(format="%.1f"),
                                    "perplexity": st.column_config.NumberColumn(format="%.4g", help="predicted"),
                                    "loss +": st.column_config.NumberColumn(format="%.3g", help="predicted increase, nats a token")})
        st.caption("Predicted, at this budget.")


def _queue(recipe: Recipe, chosen: Prediction) -> None:
    """The recipe that rounds exactly what is shown."""
    try:
        wanted = listed_recipe(recipe, chosen.bits)
    except RotvizError as error:
        st.error(str(error))
        return
    run = newest(recipe.model, [wanted]).get(wanted.fingerprint)
    with st.container(horizontal=True):
        st.button("Queue this recipe", key="bqueue", type="primary", icon=":material/playlist_add:", disabled=run is not None, on_click=queue_runs,
                  args=([wanted],))
        st.download_button("Recipe (TOML)", wanted.to_toml(), "budget.toml", "application/toml", key="btoml", on_click="ignore",
                           icon=":material/download:")
    if run is None:
        for one in stopped(recipe.model, [wanted]):
            stopped_run(one)
    elif not run.over:
        live_run(run.run_id)
    elif run.status is Status.DONE:
        st.success(f"Measured: perplexity **{number(dig(run.result, 'perplexity', 'quantized', 'value'))}** (predicted {number(chosen.perplexity)}), "
                   f"float {number(dig(run.result, 'perplexity', 'reference', 'value'))}.", icon=":material/check:")


def _runs(calibration: Calibration) -> None:
    """The runs behind the prediction."""
    if not calibration.runs:
        st.caption("Runs of this model with the same rotation, grids and activation bits calibrate the prediction: queue one or two.")
        return
    with st.expander(f"Measured against predicted ({len(calibration.runs)})"):
        st.dataframe(pd.DataFrame([{"run": r.run_id[-6:], "recipe": r.title, "bits": r.bits, "loss +, predicted": calibration.factor * r.predicted,
                                    "loss +, measured": r.measured, "off by": r.factor / calibration.factor} for r in calibration.runs]),
                     hide_index=True, key="bruns", alt="Loss increase of stored runs, predicted and measured", column_config={
                         name: st.column_config.NumberColumn(format="%.3g") for name in ("bits", "loss +, predicted", "loss +, measured", "off by")})


draw()
