"""A report as a file, by its ending: .html or .ipynb."""

from pathlib import Path

from rotviz.errors import BadInput
from rotviz.home import write_atomically
from rotviz.reports.html import to_html
from rotviz.reports.notebook import to_notebook
from rotviz.reports.report import Report

WRITERS = {".html": to_html, ".ipynb": to_notebook}
MEDIA = {".html": "text/html", ".ipynb": "application/x-ipynb+json"}


def content(report: Report, suffix: str) -> bytes:
    """A report in one format.

    Raises:
        BadInput: no such format.
    """
    if suffix not in WRITERS:
        raise BadInput(f"a report cannot be written as {suffix or 'a file without an ending'}: use {' or '.join(WRITERS)}")
    return WRITERS[suffix](report).encode()


def write_report(report: Report, target: Path) -> Path:
    """Write a report, whole or not at all.

    Raises:
        BadInput: the ending names no format.
        OutOfRoom: the disk is full.
    """
    found = content(report, target.suffix)
    return write_atomically(target, lambda path: path.write_bytes(found) and None)
