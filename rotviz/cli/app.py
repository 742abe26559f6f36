"""rotviz app: serve the laboratory in the browser."""

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from rotviz.errors import BadInput


def add(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("app", help="open the laboratory in a browser", description=__doc__)
    parser.add_argument("--port", type=int, default=8501)
    parser.add_argument("--address", default="localhost", help="who may connect; 0.0.0.0 = everybody")
    parser.add_argument("--open", action="store_true", help="open a browser window as well")
    parser.set_defaults(handler=handle)


def handle(options: argparse.Namespace) -> int:
    """Become the server process."""
    script = Path(__file__).resolve().parents[2] / "app.py"
    if importlib.util.find_spec("streamlit") is None:
        raise BadInput("the app needs Streamlit; install it with: pip install -r requirements.txt")
    if not script.is_file():
        raise BadInput(f"there is no {script}; the app runs from a checkout of the project, see the README")
    os.chdir(script.parent)  # .streamlit/config.toml is found from here
    sys.stdout.flush()
    arguments = ["-m", "rotviz.ui.serve", f"--server.port={options.port}", f"--server.address={options.address}",
                 f"--server.headless={'false' if options.open else 'true'}"]
    os.execv(sys.executable, [sys.executable, *arguments])
