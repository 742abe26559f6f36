"""rotviz report RUN [RUN...] --to FILE: a run, or a comparison, as one HTML file that opens without a server, or as a notebook (.ipynb)."""

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

from rotviz.cli.output import print_json
from rotviz.errors import BadInput


def add(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("report", help="write a run or a comparison as HTML or a notebook", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="one or more run ids, or their beginnings")
    parser.add_argument("--to", required=True, metavar="FILE", help="a file that ends in .html or .ipynb")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=handle)


def handle(options: argparse.Namespace) -> int:
    """Write it."""
    if importlib.util.find_spec("plotly") is None:
        raise BadInput("reports have figures, which need Plotly; install it with: pip install plotly")
    from rotviz.reports.files import write_report
    from rotviz.reports.report import report_of

    report = report_of(options.runs)
    path = write_report(report, Path(options.to).expanduser().absolute())
    if options.json:
        print_json({"title": report.title, "summary": report.summary, "runs": [r.run_id for r in report.records], "file": str(path)})
    else:
        sys.stdout.write("".join(f"{sentence}\n" for sentence in report.summary) + f"{path}\n")
    return 0
