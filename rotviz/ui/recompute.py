"""The stored comparison of the first minute, carried out again on this machine: the same recipes on the queue, and both numbers side by side.

One seed of each method. The learned rotation takes two runs, as when it was stored: it learns from short windows, then it is measured on long ones,
so the second run can be named only when the first is done.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from rotviz.capture.inspect import Look
from rotviz.pipeline.recipe import Recipe
from rotviz.reports.runs import dig, result_of
from rotviz.rotations import ROTATIONS, learns
from rotviz.store.runs import RunRecord, Status
from rotviz.ui.accumulated import matching, queue_runs, watch
from rotviz.ui.first_minute import stored
from rotviz.ui.live import stopped_run
from rotviz.ui.pace import sentence
from rotviz.ui.runs import stopped

SEED = 0


def recompute() -> None:
    """A part of the page that is folded away until it is asked for; the link keeps it open."""
    folded = st.expander("Recompute the comparison on this machine", icon=":material/replay:", key="redo", on_change="rerun", bind="query-params")
    if folded.open:
        with folded:
            _recompute(stored()["comparison"])


def learning_recipe(comparison: Mapping[str, Any], method: str) -> Recipe:
    """The run in which a method learns its rotation; its own evaluation, one short window, is not used."""
    text = {**comparison["recipe"]["text"], "length": comparison["learning"]["length"], "windows": 1}
    return Recipe.from_dict({**comparison["recipe"], "seed": SEED, "rotation": {"method": method}, "text": text})


def measuring_recipe(comparison: Mapping[str, Any], method: str, file: str = "") -> Recipe:
    """The run that is compared, with a saved rotation where there is one."""
    rotation = {"method": method, **({"load": file} if file else {})}
    return Recipe.from_dict({**comparison["recipe"], "seed": SEED, "rotation": rotation})


def _recompute(comparison: Mapping[str, Any]) -> None:
    learning, measuring = _recipes(comparison)
    known = matching(Look(comparison["recipe"]["model"]), [*learning.values(), *measuring.values()])
    missing = [r for r in (*learning.values(), *measuring.values()) if r.fingerprint not in known]
    st.markdown("The same recipes, seed 0 of each method. WikiText-2 is read from `ROTVIZ_DATA` or fetched from the hub once; the worker goes on "
                "while you look at other pages. The learned rotation takes two runs: the second can start when the first is done.")
    left, right = st.columns([2, 3], vertical_alignment="center")
    left.button(f"Queue {len(missing)} run{'' if len(missing) == 1 else 's'}" if missing else "Nothing is missing", key="redo-queue",
                disabled=not missing, icon=":material/playlist_add:", on_click=queue_runs, args=(missing,))
    right.caption(sentence(missing) if missing else "Every recipe has a result or is on its way.")
    watch([record for record in known.values() if not record.over])
    for record in stopped(comparison["recipe"]["model"], missing):
        stopped_run(record)
    here = {method: known.get(recipe.fingerprint) for method, recipe in measuring.items()}
    st.dataframe(pd.DataFrame([_row(row, here.get(row["method"])) for row in comparison["rows"]]), hide_index=True, key="redo-table",
                 alt="Perplexity of each rotation, stored and from this machine",
                 column_config={name: st.column_config.NumberColumn(format=form) for name, form in
                                (("stored, seed 0", "%.2f"), ("stored, mean", "%.2f"), ("here, seed 0", "%.2f"), ("difference", "percent"))})
    st.caption("Perplexity. Another machine rounds differently in the last digits, and a learned rotation amplifies that; a random one should agree "
               "to a tenth of a percent.")


def _recipes(comparison: Mapping[str, Any]) -> tuple[dict[str, Recipe], dict[str, Recipe]]:
    """By method: runs that learn, and runs that measure, as far as they can be named by now."""
    learning, measuring = {}, {}
    for method in (row["method"] for row in comparison["rows"]):
        if not learns(ROTATIONS[method]):
            measuring[method] = measuring_recipe(comparison, method)
            continue
        learning[method] = learning_recipe(comparison, method)
        done = matching(Look(comparison["recipe"]["model"]), [learning[method]]).get(learning[method].fingerprint)
        file = dig(result_of(done), "learning", "file") if done is not None and done.status is Status.DONE else None
        if file and Path(file).is_file():
            measuring[method] = measuring_recipe(comparison, method, file)
    return learning, measuring


def _row(row: Mapping[str, Any], record: RunRecord | None) -> dict[str, Any]:
    then = row["perplexity"][row["seeds"].index(SEED)]
    now = dig(record.result, "perplexity", "quantized", "value") if record is not None and record.status is Status.DONE else None
    spread = float(np.std(row["perplexity"], ddof=1)) if len(row["seeds"]) > 1 else float("nan")
    return {"rotation": row["method"], "stored, mean": float(np.mean(row["perplexity"])), "deviation over seeds": round(spread, 2),
            "stored, seed 0": then, "here, seed 0": now, "difference": now / then - 1 if now else None}
