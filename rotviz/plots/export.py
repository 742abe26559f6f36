"""Figures and tables as files.

SVG, PDF and PNG are made on this machine by kaleido, which needs Chrome or Chromium. Where there is none, the camera button in a figure's own
toolbar makes an SVG in the reader's browser: `config(name)` sets its file name.
"""

import importlib.util
import logging
import os
import shutil
from typing import Any

import plotly.graph_objects as go

from rotviz.errors import BadInput
from rotviz.plots.drawing import Drawing

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "chrome.exe", "msedge")
_ADVICE = "install Chromium or Chrome, or use the camera button in the figure's own toolbar, which needs neither"


def config(name: str) -> dict[str, Any]:
    """Plotly's settings for `st.plotly_chart(config=...)`: the toolbar's camera saves an SVG called `name`."""
    return {
        "displaylogo": False, "responsive": True,
        "toImageButtonOptions": {"format": "svg", "filename": name, "scale": 1},
    }


def to_svg(drawing: Drawing, width: int = 800, height: int | None = None) -> bytes:
    """The figure as SVG on a clear background.

    Raises:
        BadInput: where there is no browser to draw it; says what would work.
    """
    return _image(drawing, "svg", width, height, 1.0)


def to_png(drawing: Drawing, width: int = 800, height: int | None = None, scale: float = 2.0) -> bytes:
    """The figure as PNG on white, `scale` pixels for each of the page's.

    Raises:
        BadInput: where there is no browser to draw it; says what would work.
    """
    return _image(drawing, "png", width, height, scale)


def to_pdf(drawing: Drawing, width: int = 800, height: int | None = None) -> bytes:
    """The figure as a PDF of one page, on white.

    Raises:
        BadInput: where there is no browser to draw it; says what would work.
    """
    return _image(drawing, "pdf", width, height, 1.0)


def missing() -> str:
    """What SVG, PDF and PNG lack on this machine, in words; empty where they can be drawn."""
    if importlib.util.find_spec("kaleido") is None:
        return f"SVG, PDF and PNG are drawn by kaleido, which is not installed: pip install kaleido; or {_ADVICE.partition(', or ')[2]}"
    return "" if browser() else f"SVG, PDF and PNG need a browser to draw them with: {_ADVICE}"


def to_csv(drawing: Drawing) -> str:
    """The table behind the figure."""
    return drawing.table.to_csv(index=False)


def browser() -> str | None:
    """The Chrome or Chromium that kaleido would use, if there is one."""
    named = os.environ.get("BROWSER_PATH")
    if named:
        return named if os.path.exists(named) else None
    return next((path for path in map(shutil.which, BROWSERS) if path), None)


def _image(drawing: Drawing, kind: str, width: int, height: int | None, scale: float) -> bytes:
    if browser() is None:
        raise BadInput(f"no browser to draw {kind.upper()} with: {_ADVICE}")
    figure = go.Figure(drawing.figure)
    figure.update_layout(template="plotly_white")  # the figure leaves its font colour to the page's theme; a file has none
    if kind != "svg":
        figure.update_layout(paper_bgcolor="#FFFFFF")
    logging.getLogger("choreographer").setLevel(logging.CRITICAL)  # tells the terminal of every odd byte from the browser, with a traceback
    try:
        return figure.to_image(format=kind, width=width, height=height or figure.layout.height or 450, scale=scale)
    except Exception as error:  # kaleido and its browser fail in many ways; all of them mean the same to the reader
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"the browser could not draw the {kind.upper()} ({reason}): {_ADVICE}") from error
