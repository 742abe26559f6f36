"""A figure on a page: the picture, its words for those who cannot see it, its data, and downloads."""

from typing import Any

import streamlit as st

from rotviz.plots.drawing import Drawing
from rotviz.plots.export import config, missing, to_csv, to_png


def show(drawing: Drawing, key: str, *, caption: str = "", on_select: str = "ignore", selection_mode: Any = "points") -> Any:
    """Draw a figure with its alt text, and below it, folded away, the same in words and as a table to download.

    Args:
        drawing: what plots made.
        key: unique on the page; also the key of the selection.
        caption: one sentence that says how to read it.
        on_select, selection_mode: as for st.plotly_chart.
    """
    event = st.plotly_chart(drawing.figure, key=key, config=config(drawing.name), alt=drawing.alt, on_select=on_select,
                            selection_mode=selection_mode)
    if caption:
        st.caption(caption)
    folded = st.expander("In words and numbers", expanded=False, key=f"{key}-folded", on_change="rerun")
    if not folded.open:  # a table that nobody sees costs every page a component to load and rows to send
        return event
    with folded:
        st.markdown(_plain(drawing.alt))
        st.dataframe(drawing.table, hide_index=True, height=min(38 + 35 * len(drawing.table), 280), key=f"{key}-table",
                     alt=f"The numbers of the figure {drawing.name}")
        with st.container(horizontal=True):
            st.download_button("CSV", lambda: to_csv(drawing), f"{drawing.name}.csv", "text/csv", key=f"{key}-csv", on_click="ignore",
                               icon=":material/download:", help="The table; the camera in the figure's toolbar saves it as SVG.")
            if not missing():
                st.download_button("PNG", lambda: to_png(drawing), f"{drawing.name}.png", "image/png", key=f"{key}-png",
                                   on_click="ignore", icon=":material/image:", help="The figure on white, drawn on this machine.")
    return event


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: a token may be `*` or `$`."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#+-.!|~$<>:" else c for c in text)
