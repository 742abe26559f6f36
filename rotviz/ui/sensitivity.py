"""What the pages Which layer hurts and Bit budget share: the recipe that is asked about, the estimate from gradients, the newest runs, tables.

The estimate is a file under the cache folder (pipeline/preview.py), so that it is made once for a model, a rotation and a grid. The pace of this
machine is measured on one block, once in the life of the server.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from rotviz.errors import RotvizError
from rotviz.evaluation.sites import Turn
from rotviz.models.loading import LoadedModel, load, weights_mark
from rotviz.numerics.statistics import rank_correlation
from rotviz.pipeline.ablation import Cost, Pace, cost_of, measure_pace, ranked
from rotviz.pipeline.budget import Calibration, Prediction, calibrated, predict, units_of_preview
from rotviz.pipeline.prepare import prepare
from rotviz.pipeline.preview import Preview, estimates, kept_preview, preview, preview_path
from rotviz.pipeline.recipe import Recipe
from rotviz.reports.runs import dig, duration, result_of, title_of
from rotviz.store.runs import Status, Store
from rotviz.types import FLOAT_BITS
from rotviz.ui.forms import pick_text
from rotviz.ui.progress import progress
from rotviz.ui.turns import BOUND, GROUPS, pick_slots, pick_turn

BITS = ("2", "3", "4", "5", "6", "8", "16")
CLIPS = ("mse", "none", "0.95", "0.9", "0.8")
LENGTHS = ("64", "128", "256", "512", "1024", "2048")
_WANTED = "estimate-wanted"
SAMPLES = 4
"""Windows that the estimate reads."""


# The recipe that is asked about


def pick_recipe(model: str, weight_bits: bool = True) -> Recipe | None:
    """Rotation, grids and text as a recipe; None below a message that says what is wrong.

    Args:
        weight_bits: whether the page asks for the bits of the weights; a budget decides them otherwise.
    """
    with st.container(border=True):
        left, right = st.columns(2, vertical_alignment="bottom")
        with right:
            slots = pick_slots()
        with left:
            turn = pick_turn("Rotation", "ra", "hadamard", "sa", slots, model)
        cells = st.columns(5 if weight_bits else 4, vertical_alignment="bottom")
        bits = cells[0].selectbox("Weight bits", BITS, BITS.index("4"), key="hw", **BOUND, help="16 = float.") if weight_bits else "4"
        rest = cells[1:] if weight_bits else cells
        clip = rest[0].selectbox("Weight clip", CLIPS, key="hclip", **BOUND, help="mse searches it for each scale, which takes longer.")
        group = rest[1].selectbox("Weight group", GROUPS, key="hgroup", **BOUND, help="Inputs that share a scale; 0 = a whole output channel.")
        entering = rest[2].selectbox("Activation bits", BITS, BITS.index("4" if weight_bits else "16"), key="hab" if weight_bits else "bab", **BOUND,
                                     help="Of the inputs of linears, asymmetric, token by token; 16 = float.")
        cache = rest[3].selectbox("KV cache bits", BITS, BITS.index("16"), key="hkv", **BOUND, help="16 = float.") if weight_bits else "16"
        cells = st.columns([3, 1, 1], vertical_alignment="bottom")
        with cells[0]:
            text = pick_text("Text", "ht", "Losses on different texts cannot be compared.")
        windows = cells[1].number_input("Windows", 1, 1000, 2, key="hn", **BOUND, help="Evaluation windows from the start of the text.")
        length = cells[2].selectbox("Length", LENGTHS, LENGTHS.index("256"), key="hl", **BOUND, help="Tokens in a window.")
    if text is None:
        return None
    return _recipe(model, turn, {
        "text": {"evaluation": text, "calibration": text, "windows": windows, "length": int(length), "samples": SAMPLES},
        "weights": {"bits": int(bits), "clip": clip if clip in ("mse", "none") else float(clip), "group": int(group)},
        "activations": {"bits": int(entering)}, "kv": {"bits": int(cache)}})


def _recipe(model: str, turn: Turn, plain: dict[str, Any]) -> Recipe | None:
    rotation = {"load": turn.file} if turn.file else {"method": turn.method}
    try:
        return Recipe.from_dict({"model": model, "seed": turn.seed, "rotation": {**rotation, "slots": [slot.value for slot in turn.slots]}, **plain})
    except RotvizError as error:
        st.error(str(error))
        return None


def with_ablation(recipe: Recipe, unit: str, kind: str) -> Recipe | None:
    """The recipe with its ablation; None below a message."""
    try:
        return Recipe.from_dict({**recipe.to_dict(), "ablation": {"unit": unit, "kind": kind}})
    except RotvizError as error:
        st.error(str(error))
        return None


# What is kept


def kept(recipe: Recipe) -> Preview | None:
    """The estimate of a recipe where it was made before."""
    path = preview_path(recipe)
    return _kept(path, path.stat().st_mtime_ns) if path.exists() else None


@st.cache_resource(max_entries=8, show_spinner=False)
def _kept(path: Path, changed: int) -> Preview | None:
    return kept_preview(path)


def _want(path: str) -> None:
    st.session_state[_WANTED] = path


def estimated(recipe: Recipe, key: str) -> Preview | None:
    """The estimate of a recipe, or the button that makes it, with a bar while it is made."""
    found = kept(recipe)
    if found is not None:
        return found
    path = str(preview_path(recipe))
    st.button("Estimate from gradients", key=key, icon=":material/bolt:", type="primary", on_click=_want, args=(path,))
    st.caption(f"{SAMPLES} windows of {recipe.text.length} tokens forward and back through the float model: some seconds for a small model.")
    if st.session_state.pop(_WANTED, None) == path:
        with progress("Estimating from gradients") as say:
            preview(recipe, loaded=_loaded(recipe.model, weights_mark(recipe.model)), progress=say)
        st.rerun()
    return None


@st.cache_resource(max_entries=1, ttl=900, show_spinner="Loading the model")
def _loaded(model: str, mark: str) -> LoadedModel:
    return load(model)


def ablation_cost(recipe: Recipe) -> tuple[Cost, float]:
    """What the recipe's ablation takes: its cost, and seconds on this machine."""
    blocks, modules, width, pace = _sizes(recipe.model, weights_mark(recipe.model), recipe.text.length, recipe.activations.bits, recipe.kv.bits)
    cost = cost_of(recipe, blocks, modules, width, recipe.text.windows)
    return cost, pace.seconds(cost, recipe, blocks, recipe.text.windows)


@st.cache_data(max_entries=32, show_spinner="Timing one block")
def _sizes(model: str, mark: str, length: int, activation_bits: int, cache_bits: int) -> tuple[int, int, int, Pace]:
    plain = {"model": model, "activations": {"bits": activation_bits}, "kv": {"bits": cache_bits}}
    prepared = prepare(Recipe.from_dict(plain), _loaded(model, mark))
    modules = len({roles for roles in prepared.source.original(0).quantized_modules().values()})
    return len(prepared.source), modules, prepared.sizes.width, measure_pace(prepared, length)


def cost_words(cost: Cost, seconds: float) -> str:
    """The cost before the start."""
    return (f"{cost.units} units: as much work as {cost.passes:,.0f} forward passes of these windows and {cost.heads} scorings, "
            f"**about {duration(seconds)}** on this machine, and {cost.stream_mb:,.0f} MB of hidden states")


# Runs


def calibration_of(recipe: Recipe, found: Preview) -> Calibration:
    """What stored runs of the model say of the prediction."""
    records = Store().list(status=Status.DONE, model=recipe.model, limit=200)
    kept = (r for r in records if r.recipe["weights"]["method"] == recipe.weights.method)
    return calibrated(found, recipe, ((r.run_id, title_of(r), result_of(r)) for r in kept))


def float_loss(recipe: Recipe, found: Preview, calibration: Calibration) -> tuple[float, str]:
    """The float model's loss, nats a token, and the windows that it is of: the recipe's own where a run measured them, else the estimate's."""
    wanted = _windows(recipe.anchored().to_dict())
    for run in calibration.runs:
        record = Store().get(run.run_id)
        if _windows(record.recipe) == wanted:
            return run.loss_float, str(dig(record.result, "perplexity", "quantized", "protocol") or "the recipe's windows")
    return found.loss, found.protocol


def _windows(recipe: Mapping[str, Any]) -> tuple[Any, ...]:
    """What decides the float model's loss."""
    return recipe["dtype"], *(recipe["text"][key] for key in ("evaluation", "windows", "length"))


# Tables and numbers


def estimate_rows(found: Preview, recipe: Recipe, unit: str) -> dict[str, dict[str, Any]]:
    """The estimates by unit."""
    return {row["name"]: row for row in estimates(found, recipe, unit)}


def grid_of(values: Mapping[str, float], unit: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Numbers by unit as roles and [L, R]; with blocks as units, one column."""
    if not values:
        return (), np.zeros((0, 0))
    split = {name: (int(name.partition(".")[0]), name.partition(".")[2] or "block") for name in values}
    roles = list(dict.fromkeys(role for _, role in split.values()))
    grid = np.full((max(b for b, _ in split.values()) + 1, len(roles)), np.nan)
    for name, (block, role) in split.items():
        grid[block, roles.index(role)] = values[name]
    return tuple(roles), grid


def harms(ablation: Mapping[str, Any]) -> dict[str, float]:
    """What each unit costs by the direction that ranks it, nats a token."""
    kind, name = ("all_but", "loss_saved") if ablation["kind"] != "only" else ("only", "loss_increase")
    return {row["name"]: np.nan if row[kind][name] is None else row[kind][name] for row in ablation["units"]}


def ranked_table(ablation: Mapping[str, Any] | None, estimate: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """A row a unit, worst first: measured in both directions, and the estimate."""
    if ablation is None:
        rows = sorted(estimate.values(), key=lambda row: -row["estimate"])
        return pd.DataFrame([{"unit": r["name"], "estimate": r["estimate"], "of weights": r["weights"], "of inputs": r["inputs"]} for r in rows])
    found = []
    for row in ranked(ablation):
        line: dict[str, Any] = {"unit": row["name"]}
        if "all_but" in row:
            line |= {"gives back": row["all_but"]["loss_saved"], "± back": row["all_but"]["stderr"]}
        if "only" in row:
            line |= {"costs alone": row["only"]["loss_increase"], "± alone": row["only"]["stderr"], "KL alone": row["only"]["kl_nats"]}
        found.append(line | {"estimate": estimate.get(row["name"], {}).get("estimate")})
    return pd.DataFrame(found).dropna(axis="columns", how="all")  # no standard error of one window


def agreement(estimate: Mapping[str, Mapping[str, Any]], measured: Mapping[str, float]) -> float:
    """Rank correlation of estimates and measurements over the units that have both; NaN below three."""
    names = [name for name in measured if name in estimate and np.isfinite(measured[name])]
    return rank_correlation(np.array([estimate[n]["estimate"] for n in names]), np.array([measured[n] for n in names]))


def predictions(path: Path, recipe: Recipe, calibration: Calibration, loss_float: float, budgets: Sequence[float],
                strategies: Sequence[str]) -> dict[str, list[Prediction]]:
    """Each strategy's prediction at each budget; kept, so that a slider only reads it."""
    return _predictions(path, path.stat().st_mtime_ns, recipe, calibration.factor, loss_float, tuple(budgets), tuple(strategies))


@st.cache_resource(max_entries=8, show_spinner="Sharing out bits")
def _predictions(path: Path, changed: int, recipe: Recipe, factor: float, loss_float: float, budgets: tuple[float, ...],
                 strategies: tuple[str, ...]) -> dict[str, list[Prediction]]:
    found = kept_preview(path)
    units, calibration = units_of_preview(found), Calibration(factor)
    return {name: [predict(found, units, recipe, name, budget, calibration, loss_float) for budget in budgets] for name in strategies}


def bits_words(bits: int) -> str:
    """`8 bits`, `float`."""
    return "float" if bits >= FLOAT_BITS else f"{bits} bits"
