"""rotviz figure NAME: a figure of a paper for your model, as SVG, PDF, PNG, HTML, CSV, JSON, a script, or all of them in a folder.

Without a name the figures are listed. Without --to the figure is told in words and numbers.
"""

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

from rotviz.cli.looking import add_look, look_of
from rotviz.cli.output import Progress, print_json, print_table
from rotviz.errors import BadInput


def add(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("figure", help="make a paper's figure for your model", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", metavar="NAME", help="which figure, such as channel-ribbons; none = list them")
    add_look(parser)
    parser.add_argument("--block", type=int, help="decoder layer, counted from 0; the middle one if not given")
    parser.add_argument("--site", default="mlp_in", help="attn_in, o_in, mlp_in, down_in, key, value or resid")
    parser.add_argument("--run", action="append", default=[], metavar="RUN", help="a finished run, for figures of runs; may be given several times")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the figure, such as rotations=none,hadamard")
    parser.add_argument("--to", metavar="FILE", help=".svg, .pdf, .png, .html, .csv, .json, .py or .txt; or a folder for all of them")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=handle)


def handle(options: argparse.Namespace) -> int:
    """Make it, write it, say what was made."""
    if importlib.util.find_spec("plotly") is None:
        raise BadInput("figures need Plotly; install it with: pip install plotly")
    from rotviz.figures import Subject
    from rotviz.figures.files import words, write
    from rotviz.figures.make import make
    from rotviz.plots.export import missing

    if options.name is None:
        return _list(options.json)
    progress = Progress()
    subject = Subject(look_of(options), options.block, _site(options.site), tuple(options.run))
    made = make(options.name, subject, _settings(options.set), progress)
    progress.close()
    files = [str(path) for path in write(made, Path(options.to).expanduser().absolute())] if options.to else []
    if options.json:
        print_json({"figure": made.name, "title": made.title, "caption": made.caption, "description": made.drawing.alt,
                    "protocol": dict(made.protocol), "files": files, "missing": missing()})
        return 0
    sys.stdout.write("".join(f"{file}\n" for file in files) or words(made))
    if not files:
        sys.stdout.write("\n")
        print_table(made.drawing.table.head(20).to_dict("records"), list(made.drawing.table.columns))
    elif missing() and not Path(options.to).suffix:
        sys.stderr.write(f"rotviz: {missing()}\n")
    return 0


def _list(as_json: bool) -> int:
    from rotviz.config import settings_of
    from rotviz.figures import FIGURES

    rows = [{"name": name, "title": preset.title, "after": preset.paper, "made from": str(preset.needs), "words": preset.words,
             "settings": ", ".join(s.name for s in settings_of(preset))} for name, preset in FIGURES.items()]
    if as_json:
        print_json({"figures": rows})
    else:
        print_table(rows, ["name", "title", "made from", "settings"])
    return 0


def _site(name: str) -> Any:
    from rotviz.errors import not_among
    from rotviz.types import Site

    if name not in list(Site):
        raise not_among("site", name, list(Site))
    return Site(name)


def _settings(pairs: list[str]) -> dict[str, str]:
    found = {}
    for text in pairs:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise BadInput(f"--set {text!r} is not KEY=VALUE, such as rotations=none,hadamard")
        found[key.strip()] = value.strip()
    return found
