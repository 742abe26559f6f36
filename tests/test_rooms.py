"""The rooms keep apart: what may import what, and that the core runs where the app's libraries are missing."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_import_contracts():
    found = subprocess.run([Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_core_runs_without_streamlit_plotly_datasets_gguf(tmp_path):
    """A run from start to end with those libraries blocked, as on a GPU server that has none of them."""
    script = """
import sys
for name in ("streamlit", "plotly", "datasets", "gguf"):
    sys.modules[name] = None          # importing it now raises ImportError
from rotviz.cli import main
status = main(["run", "--model", "tiny-llama", "--set", "text.evaluation=pydoc", "--set", "text.windows=1", "--set", "text.length=64", "--json"])
import rotviz.jobs.worker, rotviz.capture.inspect
sys.exit(status)
"""
    import os

    environment = {**os.environ, "ROTVIZ_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr


def test_no_heap_of_utils():
    names = [path.name for path in ROOT.glob("rotviz/**/*.py")]
    assert not {"utils.py", "helpers.py", "common.py", "misc.py"} & set(names)


def test_every_file_opens_by_teaching():
    silent = [str(path) for path in ROOT.glob("rotviz/**/*.py") if path.read_text().strip() and not path.read_text().startswith('"""')]
    assert not silent, silent
