"""The public names: all there, sorted, and free until used."""

import subprocess
import sys
from pathlib import Path

import pytest

import rotviz


def test_public_names_exist():
    assert rotviz.__all__ == sorted(rotviz.__all__)
    for name in rotviz.__all__:
        assert getattr(rotviz, name) is not None
    with pytest.raises(AttributeError, match=r"it has .*Recipe"):
        rotviz.recipe_maker  # noqa: B018 - the access is the test


def test_import_is_light():
    script = "import sys, rotviz; assert not {'torch', 'transformers', 'streamlit', 'plotly'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[1])
