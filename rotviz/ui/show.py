"""A figure on a page: the picture, its words for those who cannot see it, its data, and downloads."""

from typing import Any

import streamlit as st

from rotviz.plots.drawing import Drawing
from rotviz.plots.export import config, to_csv


def show(drawing: Drawing, key: str, *, on_select: str = "ignore", selection_mode: Any = "points") -> Any:
    """Draw a figure with its alt text, and below it, folded away, the same in words and as a table to download.

    Args:
        drawing: what plots made.
        key: unique on the page; also the key of the selection.
        on_select, selection_mode: as for st.plotly_chart.
    """
    event = st.plotly_chart(drawing.figure, key=key, config=config(drawing.name), alt=drawing.alt, on_select=on_select, selection_mode=selection_mode)
    with st.expander("In words and numbers", expanded=False):
        st.caption(drawing.alt)
        st.dataframe(drawing.table, hide_index=True, height=min(38 + 35 * len(drawing.table), 280))
        st.download_button("Download as CSV", lambda: to_csv(drawing), f"{drawing.name}.csv", "text/csv", key=f"{key}-csv", on_click="ignore")
    return event
