"""A report as one HTML file that opens without a server or a network: figures that answer the mouse, light and dark, on paper too.

Plotly's script stands in the file once (about 4.7 MB), and every figure is its JSON. Static SVG would make a small file, but drawing it takes a
browser on the machine that writes the report, and a reader could neither hover nor zoom into 30 blocks. A content security policy forbids every
request, so opening a report tells nobody. Without scripts the words and the table under each figure remain; on paper figures turn dark on white.
"""

import html
import json
from collections.abc import Iterable

import pandas as pd
import plotly.graph_objects as go
import plotly.offline

from rotviz import __version__
from rotviz.plots.words import number
from rotviz.reports.report import Report, Shown

ROWS = 300
"""Rows of a figure's table at most; the rest is in the run's own files."""
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"

STYLE = """
:root{color-scheme:light dark;--page:#fff;--ink:#1c2430;--soft:#56606e;--line:#d5dae1;--band:#f3f5f8;--link:#005a9c}
@media (prefers-color-scheme:dark){:root{--page:#0e1117;--ink:#e8ebf0;--soft:#a7b0bd;--line:#343b47;--band:#181d26;--link:#7cc0f2}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:76rem;padding:1.5rem 1.25rem 4rem;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
h1{font-size:1.7rem;line-height:1.25;margin:.4rem 0}
h2{font-size:1.25rem;margin:2.4rem 0 .6rem;border-bottom:1px solid var(--line);padding-bottom:.25rem}
h3{font-size:1.02rem;margin:1.4rem 0 .3rem;overflow-wrap:anywhere}
a{color:var(--link)}nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;padding:0;margin:.6rem 0;list-style:none}
.soft,figcaption{color:var(--soft);font-size:.92rem}.lead li{margin:.35rem 0}
.scroll{overflow-x:auto;max-width:100%}.scroll:focus-visible{outline:2px solid var(--link)}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .7rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top;max-width:34rem;overflow-wrap:break-word}
td.n,th.n{text-align:right;white-space:nowrap}thead th{background:var(--band)}
figure{margin:.8rem 0 1.6rem}.plot{width:100%}
pre{background:var(--band);border:1px solid var(--line);border-radius:6px;padding:.8rem;overflow-x:auto;font-size:.85rem;white-space:pre-wrap;
overflow-wrap:anywhere}
summary{cursor:pointer;color:var(--link);font-size:.92rem}details>p{font-size:.92rem}
@media print{:root{--page:#fff;--ink:#000;--soft:#333;--line:#bbb;--band:#fff;--link:#000}body{max-width:none;padding:0;font-size:11pt}
nav,summary{display:none}figure,tr{break-inside:avoid}h2,h3{break-after:avoid}.scroll{overflow:visible}}
"""

SCRIPT = """
const dark = matchMedia('(prefers-color-scheme: dark)');
const ink = () => dark.matches ? '#e8ebf0' : '#1c2430';
const plots = [...document.querySelectorAll('.plot')];
for (const place of plots) {
  const figure = JSON.parse(document.getElementById(place.id + '-data').textContent);
  figure.layout.font = {...figure.layout.font, color: ink(), family: 'system-ui, sans-serif'};
  Plotly.newPlot(place, figure.data, figure.layout, {responsive: true, displaylogo: false,
    toImageButtonOptions: {format: 'svg', filename: place.dataset.name}});
}
const paint = color => { for (const place of plots) Plotly.relayout(place, {'font.color': color}); };
dark.addEventListener('change', () => paint(ink()));
addEventListener('beforeprint', () => paint('#000'));
addEventListener('afterprint', () => paint(ink()));
"""


def to_html(report: Report) -> str:
    """The whole file."""
    sections = [(title, body) for title, body in (
        ("Summary", _summary(report)), ("Numbers", _numbers(report)), ("What differs in the recipes", _table(report.differences)),
        ("Figures", "".join(_figure(i, shown) for i, shown in enumerate(report.figures))), ("Learned rotations", _learned(report)),
        ("Notes", _notes(report)), ("Proof", _proof(report)), ("Recipes and how to repeat them", _recipes(report)),
        ("Time and place", _table(report.environment)),
    ) if body]
    links = "".join(f"<li><a href='#part-{i}'>{title}</a></li>" for i, (title, _) in enumerate(sections))
    parts = "".join(f"<section aria-labelledby='part-{i}'><h2 id='part-{i}'>{title}</h2>{body}</section>" for i, (title, body) in enumerate(sections))
    title = html.escape(report.title)
    return (f"<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'><meta http-equiv='Content-Security-Policy' content=\"{POLICY}\">"
            f"<meta name='viewport' content='width=device-width, initial-scale=1'><meta name='generator' content='rotviz {__version__}'>"
            f"<title>{title}</title><style>{STYLE}</style></head>"
            f"<body><header><p class='soft'>rotviz {__version__} · report</p><h1>{title}</h1></header>"
            f"<nav aria-label='Sections'><ul>{links}</ul></nav><main>{parts}</main>"
            f"<script>{plotly.offline.get_plotlyjs()}</script><script>{SCRIPT}</script></body></html>\n")


def _summary(report: Report) -> str:
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in report.summary)
    return f"<ul class='lead'>{items}</ul>" + "".join(f"<p class='soft'>Measured as: {html.escape(protocol)}.</p>" for protocol in report.protocols)


def _numbers(report: Report) -> str:
    words = "± is one standard error over windows; of the ratio it is paired by window. KL in nats a token."
    return f"{_table(report.numbers)}<p class='soft'>{words}</p>"


def _learned(report: Report) -> str:
    if report.learning.empty:
        return ""
    gains = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in report.verdicts)
    return f"<h3>Cost</h3>{_table(report.learning)}<h3>Gain</h3>{gains}"


def _notes(report: Report) -> str:
    lists = {name: "".join(f"<li>{html.escape(note)}</li>" for note in notes) for name, notes in report.notes.items()}
    return "".join(f"<h3>{html.escape(name)}</h3><ul>{items}</ul>" for name, items in lists.items())


def _proof(report: Report) -> str:
    if report.proof.empty:
        return ""
    words = "Before anything was quantized: how much each step of the rewrite changed the logits, relative to their size."
    return f"<p class='soft'>{words}</p>{_table(report.proof)}"


def _recipes(report: Report) -> str:
    return "".join(f"<h3>{html.escape(name)}</h3><p class='soft'>Repeat it with:</p><pre><code>{html.escape(command)}</code></pre>"
                   f"<details><summary>The whole recipe</summary><pre><code>{html.escape(toml)}</code></pre></details>"
                   for name, (toml, command) in report.recipes.items())


def _figure(i: int, shown: Shown) -> str:
    drawing, place = shown.drawing, f"figure-{i}"
    cut = f" The first {ROWS} of {len(drawing.table):,} rows." if len(drawing.table) > ROWS else ""
    return (f"<h3>{html.escape(shown.heading)}</h3><figure><div class='plot' id='{place}' data-name='{drawing.name}' role='img' "
            f"aria-label='{html.escape(drawing.alt, quote=True)}' style='min-height:{drawing.figure.layout.height or 420}px'></div>"
            f"<figcaption>{html.escape(shown.caption)}</figcaption><details><summary>In words and numbers</summary>"
            f"<p>{html.escape(drawing.alt)}{cut}</p>{_table(drawing.table.head(ROWS))}</details></figure>"
            f"<script type='application/json' id='{place}-data'>{_data(drawing.figure)}</script>")


def _data(figure: go.Figure) -> str:
    """The figure's JSON, safe inside a script element."""
    plain = json.loads(figure.to_json())
    plain["layout"].pop("template", None)
    plain["layout"].pop("width", None)
    return json.dumps(plain, ensure_ascii=True).replace("<", "\\u003c")


def _table(frame: pd.DataFrame) -> str:
    """A table that scrolls by itself where it is wider than the page; numbers right, the first column its rows' heads."""
    if frame.empty:
        return ""
    numeric = [pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind) for kind in frame.dtypes]
    head = "".join(f"<th scope='col'{' class=n' if right else ''}>{html.escape(str(name))}</th>"
                   for name, right in zip(frame.columns, numeric, strict=True))
    rows = "".join(f"<tr>{_cells(row, numeric)}</tr>" for row in frame.itertuples(index=False, name=None))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<div class='scroll' role='region' aria-label='Table' tabindex='0'>{table}</div>"


def _cells(row: Iterable[object], numeric: list[bool]) -> str:
    cells = []
    for i, (value, right) in enumerate(zip(row, numeric, strict=True)):
        tag = "th scope='row'" if i == 0 else "td"
        cells.append(f"<{tag}{' class=n' if right else ''}>{html.escape(_words(value))}</{tag[:2]}>")
    return "".join(cells)


def _words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value != value:
        return "–"
    return number(value) if isinstance(value, float) else str(value)
