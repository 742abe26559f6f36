"""Several figures side by side in one, for a file: each keeps its axes and its notes, all keep one legend.

On a page the panels stand in columns of their own, which fold on a phone; a paper wants one picture. What shares axes was given the same ranges
before, so nothing is changed here but the place: axes get the panel's share of the width, positions in paper coordinates are moved with them.
Maps of one color scale keep one color bar at the far right; where the scales differ each panel has its own beside it.
"""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from rotviz.plots.drawing import Drawing
from rotviz.plots.frame import LINE
from rotviz.plots.words import escape

WIDTH, GAP, TITLE, BAR = 640, 84, 26, 76
"""Pixels of a panel, between panels, of the line that their titles take, and of a color bar inside a panel's share."""


def side_by_side(panels: Sequence[tuple[str, Drawing]]) -> go.Figure:
    """One figure of the panels, each under its title, from left to right; of a single one without a title the figure itself."""
    if len(panels) == 1 and not panels[0][0]:
        return go.Figure(panels[0][1].figure)
    figure, seen = go.Figure(), set[str]()
    parts = [drawing.figure.to_plotly_json() for _, drawing in panels]
    layouts = [part["layout"] for part in parts]
    figure.update_layout({k: v for k, v in layouts[0].items() if not k.startswith(("xaxis", "yaxis", "scene", "annotations", "shapes", "title"))})
    margin = {side: max(layout.get("margin", {}).get(side, 0) for layout in layouts) for side in "lrtb"}
    height = max(layout.get("height", 0) for layout in layouts)
    plot = max(1, height - margin["t"] - margin["b"])
    figure.update_layout(margin=margin | {"t": margin["t"] + TITLE}, height=height + TITLE,
                         showlegend=any(layout.get("showlegend", False) for layout in layouts))
    if figure.layout.showlegend:
        figure.update_layout(legend_y=1 + (TITLE + 2) / plot)
    bar = BAR if len({_scale_of(trace) for part in parts for trace in part["data"] if "colorbar" in trace}) > 1 else 0
    for i, ((title, _), part) in enumerate(zip(panels, parts, strict=True)):
        place = _Place(i, len(panels), bar)
        for trace in part["data"]:
            figure.add_trace(place.trace(trace, seen))
        figure.update_layout(place.axes(part["layout"]))
        for annotation in part["layout"].get("annotations", ()):
            figure.add_annotation(place.moved(annotation))
        for shape in part["layout"].get("shapes", ()):
            figure.add_shape(place.moved(shape))
        figure.add_annotation(text=f"<b>{escape(title)}</b>", x=place.across(0.5), y=1, xref="paper", yref="paper", xanchor="center",
                              yanchor="bottom", yshift=4, showarrow=False, font_size=14)  # xanchor "auto" leans on the picture's edges
    for i in range(1, len(panels)):  # a line between scenes, whose axes do not show where one ends
        if "scene" in layouts[0]:
            at = (_Place(i - 1, len(panels)).right + _Place(i, len(panels)).left) / 2
            figure.add_shape(type="line", x0=at, x1=at, y0=0, y1=1, xref="paper", yref="paper", line={"color": LINE, "width": 1})
    return figure


def _scale_of(trace: dict[str, Any]) -> tuple[str, ...]:
    """What a color bar tells."""
    return tuple(str(part) for part in (trace.get("zmin"), trace.get("zmax"), trace["colorbar"].get("title")))


def width_of(panels: int) -> int:
    """Pixels of a figure of so many panels."""
    return WIDTH * panels + GAP * (panels - 1)


class _Place:
    """Where the i-th of n panels lies, and how its parts get there. `bar`: pixels at its right that are kept for a color bar of its own."""

    def __init__(self, i: int, n: int, bar: int = 0) -> None:
        gap = GAP / width_of(n)
        whole = (1 - gap * (n - 1)) / n
        self.share, self.bar = whole - bar / width_of(n), bar
        self.left = i * (whole + gap)
        self.right = self.left + self.share
        self.suffix = "" if i == 0 else str(i + 1)

    def across(self, x: float) -> float:
        """A place of the panel's own width in that of the whole."""
        return self.left + self.share * x

    def trace(self, trace: dict[str, Any], seen: set[str]) -> dict[str, Any]:
        """The trace on the panel's axes; in the legend only what is not there yet."""
        found = {k: v for k, v in trace.items() if k not in ("xaxis", "yaxis", "scene")}
        if trace["type"].endswith("3d") or trace["type"] == "surface":
            found["scene"] = f"scene{self.suffix}"
        else:
            found |= {"xaxis": f"x{self.suffix}", "yaxis": f"y{self.suffix}"}
        if self.bar and "colorbar" in trace:
            found["colorbar"] = trace["colorbar"] | {"x": self.right, "xanchor": "left"}
        name = str(trace.get("name", ""))
        if name in seen and trace.get("showlegend", True):
            found["showlegend"] = False
        elif trace.get("showlegend", True):
            seen.add(name)
        return found

    def axes(self, layout: dict[str, Any]) -> dict[str, Any]:
        """The panel's axes or scene, in its share of the width."""
        if "scene" in layout:
            return {f"scene{self.suffix}": layout["scene"] | {"domain": {"x": [self.left, self.right], "y": [0, 1]}}}
        across = dict(layout.get("xaxis", {})) | {"domain": [self.left, self.right], "anchor": f"y{self.suffix}"}
        up = dict(layout.get("yaxis", {})) | {"anchor": f"x{self.suffix}"}
        return {f"xaxis{self.suffix}": across, f"yaxis{self.suffix}": up}

    def moved(self, thing: dict[str, Any]) -> dict[str, Any]:
        """An annotation or a shape, moved with the panel."""
        found = dict(thing)
        if found.get("xref") == "paper":
            found |= {key: self.across(found[key]) for key in ("x", "x0", "x1") if key in found}
        for key in ("xref", "yref"):
            letter, _, rest = str(found.get(key, key[0])).partition(" ")
            if letter in ("x", "y"):
                found[key] = f"{letter}{self.suffix} {rest}".strip()
        return found
