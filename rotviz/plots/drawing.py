"""What every figure function returns: the figure, the words for who cannot see it, and the numbers behind it."""

from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from rotviz.plots.frame import framed
from rotviz.plots.words import escape


@dataclass(frozen=True)
class Drawing:
    """A figure that can be shown, read aloud and downloaded.

    name: file stem for downloads, such as "token-channel-map".
    alt: one to three sentences made from the data: what is shown and its main numbers.
    table: the data behind the figure in readable, aggregated form.
    """

    name: str
    figure: go.Figure
    alt: str
    table: pd.DataFrame

    def to_json_size(self) -> int:
        """Bytes of the figure as a page sends it."""
        return len(self.figure.to_json().encode())


def nothing(name: str, why: str, title: str | None = None) -> Drawing:
    """The drawing of no data: an empty frame that says what is missing."""
    figure = framed(go.Figure(), title=title, height=240)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.add_annotation(text=escape(f"Nothing to show: {why}"), x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font_size=14)
    return Drawing(name, figure, f"Nothing to show (0 values): {why}.", pd.DataFrame({"note": [f"nothing to show: {why}"]}))
