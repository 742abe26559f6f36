"""A report as a Jupyter notebook (nbformat 4.5): the same words, tables and figures as cells that run again.

The runs' numbers are in the notebook itself, so it opens and runs on a machine that has neither the store nor the model; rotviz has to be
installed, for its figures. What the cells put out is stored with them, so a viewer that runs nothing shows it too: tables as HTML, figures as
Plotly's MIME type.

    https://nbformat.readthedocs.io/en/latest/format_description.html
"""

import json
from typing import Any

import pandas as pd

from rotviz import __version__
from rotviz.plots.drawing import Drawing
from rotviz.reports.report import Report

MIME = "application/vnd.plotly.v1+json"


def to_notebook(report: Report) -> str:
    """The notebook as JSON text."""
    cells = [_text(f"# {report.title}\n\n" + "\n".join(f"- {_plain(s)}" for s in report.summary)
                   + "".join(f"\n\n*Measured as: {_plain(p)}.*" for p in report.protocols)),
             _text("The next cell holds the runs' numbers. On the machine that has the runs, "
                   "`from rotviz.reports.report import report_of` and `report = report_of(["
                   + ", ".join(repr(r.run_id) for r in report.records) + "])` reads them from its store."),
             _code(f"from rotviz.reports.report import Report\n\nreport = Report.from_json({report.to_json()!r})", hidden=True),
             _text("## Numbers"), _code("report.numbers", _shown(report.numbers))]
    if not report.differences.empty:
        cells += [_text("## What differs in the recipes"), _code("report.differences", _shown(report.differences))]
    cells += [_text("## Figures"), _code("figures = report.figures")]
    for i, shown in enumerate(report.figures):
        cells += [_text(f"### {_plain(shown.heading)}\n\n{_plain(shown.caption)} {_plain(shown.drawing.alt)}"),
                  _code(f"figures[{i}].drawing.figure", _drawn(shown.drawing))]
    if not report.learning.empty:
        cells += [_text("## Learned rotations\n\n" + "\n".join(f"- {_plain(s)}" for s in report.verdicts)),
                  _code("report.learning", _shown(report.learning))]
    notes = [f"- **{_plain(name)}**: {_plain(note)}" for name, notes in report.notes.items() for note in notes]
    if notes:
        cells.append(_text("## Notes\n\n" + "\n".join(notes)))
    cells.append(_text("## Recipes and how to repeat them"))
    cells += [_text(f"**{_plain(name)}**\n\n```\n{command}\n```\n\n```toml\n{toml}```") for name, (toml, command) in report.recipes.items()]
    cells += [_text("## Time and place"), _code("report.environment", _shown(report.environment))]
    numbered = [cell | {"id": f"cell-{i}"} for i, cell in enumerate(cells)]
    return json.dumps({"cells": numbered, "metadata": _METADATA, "nbformat": 4, "nbformat_minor": 5}, ensure_ascii=False, indent=1) + "\n"


_METADATA = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}, "language_info": {"name": "python"},
             "rotviz": {"version": __version__}}


def _text(markdown: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": markdown.splitlines(keepends=True)}


def _code(source: str, output: dict[str, Any] | None = None, hidden: bool = False) -> dict[str, Any]:
    result = [{"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": output}] if output else []
    return {"cell_type": "code", "metadata": {"jupyter": {"source_hidden": True}} if hidden else {}, "execution_count": None,
            "source": source.splitlines(keepends=True), "outputs": result}


def _shown(frame: pd.DataFrame) -> dict[str, Any]:
    """A table as a viewer shows it."""
    return {"text/html": frame.to_html(index=False, na_rep="–"), "text/plain": frame.to_string(index=False)}


def _drawn(drawing: Drawing) -> dict[str, Any]:
    """A figure as a viewer shows it, and its words for one that cannot."""
    return {MIME: json.loads(drawing.figure.to_json()), "text/plain": drawing.alt}


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]#<>|~$" else c for c in text)
