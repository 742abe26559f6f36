"""The error that piles up over the blocks: finished runs of the looked-at model, and small new ones that a button queues."""

from collections.abc import Sequence

import numpy as np
import streamlit as st

from rotviz.capture.inspect import Look
from rotviz.errors import RotvizError
from rotviz.evaluation.sites import Turn
from rotviz.jobs.queue import submit
from rotviz.pipeline.recipe import Recipe
from rotviz.plots.drawing import Drawing
from rotviz.plots.error_by_block import draw_error_by_block
from rotviz.plots.words import count
from rotviz.reports.runs import dig, result_of, title_of
from rotviz.store.runs import RunRecord, Status, Store
from rotviz.types import QuantSpec, Site
from rotviz.ui.live import live_run

KEPT = 200
DRAWN = 4


def recipe_for(look: Look, turn: Turn, spec: QuantSpec) -> Recipe:
    """One window of the same text, weights in float, activations on the page's grid."""
    made = {"load": turn.file} if turn.file else {"method": turn.method}
    return Recipe.from_dict({
        "model": look.model, "seed": turn.seed,
        "text": {"evaluation": look.text, "length": look.tokens, "windows": 1},
        "rotation": {**made, "slots": [slot.value for slot in turn.slots]},
        "weights": {"method": "none", "bits": 16},
        "activations": {"bits": spec.bits, "symmetric": spec.symmetric, "group": spec.group, "clip": spec.clip},
    })


def matching(look: Look, recipes: Sequence[Recipe]) -> dict[str, RunRecord]:
    """The newest run of each recipe that has not failed, by fingerprint."""
    wanted, found = {recipe.fingerprint for recipe in recipes}, {}
    for record in Store().list(model=look.model, limit=KEPT):
        if record.fingerprint in wanted and record.status not in (Status.FAILED, Status.CANCELLED):
            found.setdefault(record.fingerprint, record)
    return found


def others(look: Look, taken: Sequence[RunRecord]) -> list[RunRecord]:
    """Further finished runs of the model that rounded something, newest first."""
    ids = {record.run_id for record in taken}
    return [r for r in Store().list(status=Status.DONE, model=look.model, limit=KEPT) if r.run_id not in ids]


def run_name(record: RunRecord) -> str:
    """`hadamard R1234 W16A4KV16 (seed 0)`."""
    return f"{title_of(record)} (seed {dig(record.recipe, 'seed')})"


def residual(records: Sequence[RunRecord], names: Sequence[str]) -> Drawing:
    """Accumulated error by block solid, isolated dotted."""
    solid, dotted = {}, {}
    for name, record in zip(names, records, strict=True):
        found = [e for e in result_of(record)["errors"] if e["site"] == Site.RESID]
        solid[name] = np.array([e["relative_mse"] for e in found], dtype=float)
        dotted[name] = np.array([e["isolated"] for e in found], dtype=float)
    return draw_error_by_block(solid, isolated=dotted)


def queue_runs(recipes: Sequence[Recipe]) -> None:
    """Put the recipes in line; equal ones that wait already are not doubled."""
    try:
        for recipe in recipes:
            submit(recipe)
    except RotvizError as error:  # a callback runs outside the frame that shows errors
        st.toast(str(error), icon=":material/error:")
    else:
        st.toast(f"In line: {count(len(recipes), 'run')}.", icon=":material/hourglass_empty:")


def watch(records: Sequence[RunRecord]) -> None:
    """The unfinished ones, redrawn every two seconds; the page is redrawn when one ends."""
    for record in records:
        live_run(record.run_id)
