"""A figure as files: SVG, PDF, PNG, HTML, CSV, JSON, the script, and the caption; what goes with it is inside where the format has room for it.

    .svg    <title> and <desc> hold caption and protocol     .png    iTXt chunks Title and Description
    .html   one file that opens without a server             .json   figure (every drawn point), tables, caption, protocol
    .csv    the table                                        .py     the program that makes it again
    .pdf    one page                                         .txt    caption, words for who cannot see it, protocol

A PDF and a CSV have no room for words that every reader shows, so a .txt of the same name lies beside them. SVG, PDF and PNG are drawn by a
browser; where there is none, `missing` says so and the others are written all the same.
"""

import base64
import html
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.io

from rotviz.errors import BadInput
from rotviz.figures.make import PaperFigure
from rotviz.home import write_atomically
from rotviz.plots.export import missing, to_csv, to_images

BY_BROWSER = (".svg", ".pdf", ".png")
BARE = (".pdf", ".csv")
"""Formats without room for the caption."""
FORMATS = (*BY_BROWSER, ".html", ".csv", ".json", ".py", ".txt")
MEDIA = {".svg": "image/svg+xml", ".pdf": "application/pdf", ".png": "image/png", ".html": "text/html", ".csv": "text/csv",
         ".json": "application/json", ".py": "text/x-python", ".txt": "text/plain"}


def content(made: PaperFigure, suffix: str) -> bytes:
    """A figure in one format.

    Raises:
        BadInput: no such format, or it takes a browser and there is none; says what would work.
    """
    if suffix not in FORMATS:
        raise BadInput(f"a figure cannot be written as {suffix or 'a file without an ending'}: use {', '.join(FORMATS)}, or a folder for all")
    return contents(made, [suffix])[suffix]


def contents(made: PaperFigure, suffixes: Sequence[str]) -> dict[str, bytes]:
    """A figure in several formats by their endings; the browser is started once for all that it draws."""
    drawn = [suffix for suffix in suffixes if suffix in BY_BROWSER]
    images = to_images(made.drawing, [suffix[1:] for suffix in drawn], made.width) if drawn else {}
    return {suffix: _PICTURES[suffix](made, images[suffix[1:]]) if suffix in drawn else _TEXTS[suffix](made)
            for suffix in suffixes}


def write(made: PaperFigure, target: Path) -> list[Path]:
    """Write one file (by its ending), or into a folder (no ending, or one that exists) everything that can be made; the paths.

    Raises:
        BadInput: as for `content`.
    """
    if target.suffix and not target.is_dir():
        first = content(made, target.suffix)
        found = [_put(target, first)]
        return found + ([_put(target.with_suffix(".txt"), content(made, ".txt"))] if target.suffix in BARE else [])
    return [_put(target / f"{made.name}{suffix}", found) for suffix, found in contents(made, possible()).items()]


def possible() -> list[str]:
    """The endings that can be written on this machine."""
    return [suffix for suffix in FORMATS if not (suffix in BY_BROWSER and missing())]


def bundle(made: PaperFigure) -> bytes:
    """Everything that can be made, as a ZIP."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for suffix, found in contents(made, possible()).items():
            archive.writestr(f"{made.name}{suffix}", found)
    return packed.getvalue()


def words(made: PaperFigure) -> str:
    """Caption, words for those who cannot see the figure, and protocol."""
    return f"{made.caption}\n\n{made.drawing.alt}\n\n" + "\n".join(f"{key}: {value}" for key, value in made.protocol.items()) + "\n"


def _put(path: Path, found: bytes) -> Path:
    return write_atomically(path, lambda place: place.write_bytes(found) and None)


def _svg(made: PaperFigure, drawn: bytes) -> bytes:
    inside = f"<title>{html.escape(made.title)}</title><desc>{html.escape(words(made))}</desc>"
    return re.sub(r"(<svg\b[^>]*>)", lambda found: found[1] + inside, drawn.decode(), count=1).encode()


def _png(made: PaperFigure, drawn: bytes) -> bytes:
    head = 8 + 25  # signature, and IHDR with its length, name and checksum
    return drawn[:head] + _chunk("Title", made.title) + _chunk("Description", words(made)) + drawn[head:]


def _chunk(key: str, text: str) -> bytes:
    """An iTXt chunk: keyword, not compressed, no language, text in UTF-8."""
    body = b"iTXt" + key.encode("latin-1") + b"\0\0\0\0\0" + text.encode()
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def _html(made: PaperFigure) -> bytes:
    """One file with Plotly's own script in it."""
    figure = plotly.io.to_html(made.drawing.figure, full_html=False, include_plotlyjs=True, config={"displaylogo": False, "responsive": True},
                               default_width="100%", div_id="figure")
    rows = "".join(f"<tr><th scope='row'>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>" for key, value in made.protocol.items())
    title = html.escape(made.title)
    return (f"<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
            "<meta name='viewport' content='width=device-width, initial-scale=1'><style>body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;"
            "max-width:90rem;padding:0 1rem;background:#fff;color:#222}th{text-align:left;padding-right:1.5em;vertical-align:top}"
            f"td{{overflow-wrap:anywhere}}</style></head><body><h1>{title}</h1><figure role='group'><div role='img' "
            f"aria-label='{html.escape(made.drawing.alt, quote=True)}'>{figure}</div><figcaption>{html.escape(made.caption)}</figcaption></figure>"
            f"<h2>In words</h2><p>{html.escape(made.drawing.alt)}</p>"
            f"<h2>Protocol</h2><table>{rows}</table></body></html>").encode()


def _json(made: PaperFigure) -> bytes:
    figure = numbers(json.loads(made.drawing.figure.to_json()))
    figure["layout"].pop("template", None)
    tables = [{"panel": p.title, "rows": json.loads(p.drawing.table.to_json(orient="records"))} for p in made.panels]
    return json.dumps({"name": made.name, "title": made.title, "caption": made.caption, "description": made.drawing.alt,
                       "protocol": dict(made.protocol), "tables": tables, "figure": figure}, ensure_ascii=False, indent=1).encode()


def numbers(node: Any) -> Any:
    """A figure's JSON with its packed arrays as lists, so that any language reads it."""
    if isinstance(node, dict) and "bdata" in node:
        found = np.frombuffer(base64.b64decode(node["bdata"]), dtype=node["dtype"])
        if "shape" in node:
            found = found.reshape([int(n) for n in str(node["shape"]).split(",")])
        return json.loads(json.dumps(found.tolist()).replace("NaN", "null").replace("-Infinity", "null").replace("Infinity", "null"))
    if isinstance(node, dict):
        return {key: numbers(value) for key, value in node.items()}
    return [numbers(value) for value in node] if isinstance(node, list) else node


_PICTURES: dict[str, Callable[[PaperFigure, bytes], bytes]] = {".svg": _svg, ".pdf": lambda made, drawn: drawn, ".png": _png}
_TEXTS: dict[str, Callable[[PaperFigure], bytes]] = {
    ".html": _html, ".csv": lambda made: to_csv(made.drawing).encode(), ".json": _json, ".py": lambda made: made.script.encode(),
    ".txt": lambda made: words(made).encode(),
}
