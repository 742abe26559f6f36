"""What the rotation lens keeps between reruns: the way of a rotation (seconds to find), and the numbers of its stops for each grid."""

from pathlib import Path

import numpy as np
import streamlit as st

from rotviz.capture.capture import open_capture
from rotviz.evaluation.lens import STOPS, Lens, Stop, lens_on
from rotviz.evaluation.sites import Turn
from rotviz.types import QuantSpec, Site
from rotviz.ui.cache import row_texts
from rotviz.ui.progress import progress


@st.cache_resource(max_entries=8, show_spinner="Looking for the way to this rotation")
def lens(path: Path, block: int, site: Site, turn: Turn) -> Lens:
    """The rows of a site on the way to a rotation."""
    return lens_on(open_capture(path), block, site, turn)


@st.cache_data(max_entries=4096, show_spinner=False)
def stop(path: Path, block: int, site: Site, turn: Turn, t: float, spec: QuantSpec) -> Stop:
    """The numbers of one stop."""
    return lens(path, block, site, turn).stop(t, spec)


def stops(path: Path, block: int, site: Site, turn: Turn, spec: QuantSpec) -> list[Stop]:
    """The numbers of every stop, with a bar where they take long."""
    with progress("Walking the way") as say:
        found = []
        for t in STOPS:
            say(t, f"t = {t:g}")
            found.append(stop(path, block, site, turn, t, spec))
    return found


@st.cache_data(max_entries=64, show_spinner=False)
def lens_texts(path: Path, block: int, site: Site, turn: Turn) -> list[str]:
    """The text of the token of each row in the lens."""
    texts = row_texts(path, block, site)
    return [texts[i] for i in lens(path, block, site, turn).positions]


@st.cache_data(max_entries=256, show_spinner=False)
def counts(path: Path, block: int, site: Site, turn: Turn, t: float, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Counts [200] and edges [201] of the numbers at a stop, on edges that all stops share."""
    return np.histogram(lens(path, block, site, turn).rows(t).numpy(), bins=200, range=(-reach, reach))
