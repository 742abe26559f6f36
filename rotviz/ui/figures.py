"""What the page of the papers' figures needs: its controls, made from a preset's settings, and figures kept between reruns."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from rotviz.config import settings_of
from rotviz.figures import FIGURES, Subject, unlearned
from rotviz.figures.files import BY_BROWSER, MEDIA, bundle, content
from rotviz.figures.make import PaperFigure, finished, make
from rotviz.pipeline.saved import saved_rotations
from rotviz.plots.export import missing
from rotviz.reports.runs import short_id, title_of
from rotviz.store.runs import RunRecord
from rotviz.ui.forms import plain_form

FORMATS = {".svg": "SVG", ".pdf": "PDF", ".png": "PNG", ".html": "HTML", ".csv": "CSV", ".json": "JSON", ".py": "Script"}


def pick_settings(name: str, model: str) -> dict[str, Any]:
    """The settings of a figure, each as the widget that fits it, all in the link."""
    preset, found = FIGURES[name], {}
    settings = {s.name: s for s in settings_of(preset)}
    if "rotations" in settings:
        one = settings["rotations"]
        options = [*unlearned(), *(saved.title for saved in saved_rotations(model))]
        found["rotations"] = st.multiselect("Rotations", options, list(one.default), key=f"{name}.rotations", bind="query-params",
                                            help=f"{one.help[0].upper()}{one.help[1:]}. Rotations learned on this model follow.")
    return found | plain_form(preset, name, columns=4, skip=("rotations",), link=True)


def pick_runs(name: str, model: str) -> tuple[str, ...] | None:
    """The runs of a figure, those that it would choose itself to begin with; None where the model has no finished run."""
    records = finished(model)
    if not records:
        return None
    labels = {run_label(record): record.run_id for record in records}
    chosen = [run_label(record) for record in FIGURES[name]().choose(records)]  # type: ignore[union-attr]
    picked = st.multiselect("Runs", list(labels), chosen, key=f"{name}.runs", bind="query-params", placeholder="choose finished runs",
                            help="Finished runs of this model; at first those that belong in one figure.")
    return tuple(labels[label] for label in picked)


def run_label(record: RunRecord) -> str:
    """`hadamard R1234 W4A4KV16 rtn, seed 0 · 7f3a9c`: the same whatever else is listed, so that a link keeps its meaning."""
    return f"{title_of(record)}, seed {record.recipe.get('seed')} · {short_id(record.run_id)}"


def made(name: str, subject: Subject, settings: Mapping[str, Any], capture: Path | None) -> PaperFigure:
    """The figure, drawn once for all sessions.

    Args:
        capture: the file that a figure of a text is made from, whose name follows the weights and the text.
    """
    key = tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in settings.items())
    return _made(name, subject, key, capture)


@st.cache_resource(max_entries=24, show_spinner="Drawing the figure")
def _made(name: str, subject: Subject, settings: tuple[tuple[str, Any], ...], capture: Path | None) -> PaperFigure:
    return make(name, subject, dict(settings))


def downloads(figure: PaperFigure) -> None:
    """A button for each format; what this machine cannot draw is said."""
    lacking = missing()
    with st.container(horizontal=True):
        for suffix, label in FORMATS.items():
            if not (lacking and suffix in BY_BROWSER):
                st.download_button(label, lambda suffix=suffix: content(figure, suffix), f"{figure.name}{suffix}", MEDIA[suffix], key=f"as{suffix}",
                                   on_click="ignore", icon=":material/download:")
        st.download_button("All (ZIP)", lambda: bundle(figure), f"{figure.name}.zip", "application/zip", key="as.zip", on_click="ignore",
                           icon=":material/folder_zip:", type="primary")
    if lacking:
        st.caption(f":material/info: {lacking}.")
