"""Figures and tables as files.

SVG, PDF and PNG are made on this machine by kaleido, which needs Chrome or Chromium. Where there is none, the camera button in a figure's own
toolbar makes an SVG in the reader's browser: `config(name)` sets its file name.
"""

import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
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


def to_png(drawing: Drawing, width: int = 800, height: int | None = None, scale: float = 2.0) -> bytes:
    """The figure as PNG on white, `scale` pixels for each of the page's; raises as `to_images`."""
    return to_images(drawing, ["png"], width, height, scale)["png"]


def to_images(drawing: Drawing, kinds: Sequence[str], width: int = 800, height: int | None = None, scale: float = 2.0) -> dict[str, bytes]:
    """The figure as several of "svg" (on a clear background), "pdf" and "png" (on white), with one start of the browser, which takes seconds.

    MathJax, which kaleido would fetch from the network, is left out: no label of ours is TeX.

    Args:
        scale: a PNG's pixels for each of the page's.

    Raises:
        BadInput: where there is no browser to draw with; says what would work.
    """
    names = ", ".join(kind.upper() for kind in kinds)
    if missing():
        raise BadInput(missing())
    import kaleido

    logging.getLogger("choreographer").setLevel(logging.CRITICAL)  # tells the terminal of every odd byte from the browser, with a traceback
    with tempfile.TemporaryDirectory() as folder:
        paths = {kind: Path(folder) / f"figure.{kind}" for kind in kinds}
        size = {"width": width, "height": height or drawing.figure.layout.height or 450}
        wanted = [{"fig": _on_paper(drawing, kind), "path": path, "opts": size | {"format": kind, "scale": scale if kind == "png" else 1}}
                  for kind, path in paths.items()]
        try:
            kaleido.write_fig_from_object_sync(wanted, kopts={"mathjax": False})
            return {kind: path.read_bytes() for kind, path in paths.items()}
        except Exception as error:  # kaleido and its browser fail in many ways; all of them mean the same to the reader
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise BadInput(f"the browser could not draw the {names} ({reason}): {_ADVICE}") from error


def _on_paper(drawing: Drawing, kind: str) -> dict[str, Any]:
    """The figure as kaleido takes it, with a font color, which figures leave to the page's theme."""
    figure = go.Figure(drawing.figure)
    figure.update_layout(template="plotly_white")
    if kind != "svg":
        figure.update_layout(paper_bgcolor="#FFFFFF")
    return figure.to_dict()


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
