"""Buttons that give a report of runs: pages Runs and Compare have them."""

from collections.abc import Sequence

import streamlit as st

from rotviz.reports.files import MEDIA, content
from rotviz.reports.report import MOST, report_of
from rotviz.reports.runs import classifies, short_id
from rotviz.store.runs import RunRecord, Status

LABELS = {".html": ("Report as HTML", ":material/description:", "One file that opens without a server or a network."),
          ".ipynb": ("Report as notebook", ":material/data_object:", "A Jupyter notebook with the numbers in it and cells that draw them again.")}


def report_buttons(records: Sequence[RunRecord], key: str = "report") -> None:
    """A button for each format; nothing where fewer than one or too many of the runs are finished, or one is of a vision model.

    Args:
        key: begins the key of every button.
    """
    ids = [record.run_id for record in records if record.status is Status.DONE]
    if any(map(classifies, records)):
        return
    if not 1 <= len(ids) <= MOST:
        return
    name = short_id(ids[0]) if len(ids) == 1 else f"{len(ids)}-runs"
    for suffix, (label, icon, words) in LABELS.items():
        st.download_button(label, lambda suffix=suffix: content(report_of(ids), suffix), f"rotviz-{name}{suffix}", MEDIA[suffix],
                           key=f"{key}{suffix}", on_click="ignore", icon=icon, help=words)
