"""What pages keep between reruns: captures (files, shared by all sessions) and the numbers derived from them.

Keys are frozen, hashable choices (Look, Turn, QuantSpec) and never objects by identity. A model is loaded only where a capture is not on disk
yet, used under a lock, and let go.
"""

import threading
from collections.abc import Callable

import numpy as np
import streamlit as st

from rotviz.capture.capture import Capture
from rotviz.capture.inspect import Inspection, Look, capture_path, inspect, look
from rotviz.evaluation.sites import BlockErrors, TokenErrors, Turn, block_errors, channel_errors, site_rows, token_errors
from rotviz.models.loading import known_models
from rotviz.numerics.statistics import Summary, summarize
from rotviz.types import QuantSpec, Site
from rotviz.ui.progress import progress

_CAPTURING = threading.Lock()
"""One capture at a time in this server: two would double the memory and take as long."""


def captured(wanted: Look) -> Capture:
    """The capture of a look, made with a progress bar if it is not there yet."""
    if capture_path(wanted).exists():
        return _open(wanted)
    with progress("Reading the text with the model") as say, _CAPTURING:
        return look(wanted, progress=say)


@st.cache_resource(max_entries=16, show_spinner=False)
def _open(wanted: Look) -> Capture:
    return look(wanted)


def inspected(wanted: Look) -> Inspection:
    """Massive tokens and statistics of every site; about a second the first time, then at once."""
    captured(wanted)
    return _inspected(wanted)


@st.cache_resource(max_entries=16, show_spinner="Counting outliers")
def _inspected(wanted: Look) -> Inspection:
    return inspect(wanted)


@st.cache_data(max_entries=64, show_spinner=False)
def rows(wanted: Look, block: int, site: Site, turn: Turn) -> np.ndarray:
    """Rows [T, width] of a site under a turn, float32."""
    return site_rows(_open(wanted), block, site, turn).numpy()


@st.cache_data(max_entries=512, show_spinner=False)
def summary(wanted: Look, block: int, site: Site, turn: Turn) -> Summary:
    """Statistics of a site under a turn."""
    return summarize(site_rows(_open(wanted), block, site, turn))


@st.cache_data(max_entries=512, show_spinner=False)
def errors_by_token(wanted: Look, block: int, site: Site, turn: Turn, spec: QuantSpec) -> TokenErrors:
    """Error of every token at one site."""
    return token_errors(_open(wanted), block, site, turn, spec)


@st.cache_data(max_entries=512, show_spinner=False)
def errors_by_channel(wanted: Look, block: int, site: Site, turn: Turn, spec: QuantSpec) -> np.ndarray:
    """Mean squared error of every channel."""
    return channel_errors(_open(wanted), block, site, turn, spec)


@st.cache_data(max_entries=256, show_spinner="Rounding every block")
def errors_by_block(wanted: Look, site: Site, turn: Turn, spec: QuantSpec) -> BlockErrors:
    """Error of one site at every block."""
    return block_errors(_open(wanted), site, turn, spec)


@st.cache_data(ttl=30, show_spinner=False)
def model_names() -> list[str]:
    """Names for the model box; anything else may be typed."""
    return [model["name"] for model in known_models()]


Say = Callable[[float, str], None]
