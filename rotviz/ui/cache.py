"""What pages keep between reruns: captures (files, shared by all sessions) and the numbers derived from them.

Keys are frozen values: the path of a capture (whose name follows the weights and the text), Turn, QuantSpec. A model is loaded only
where a capture is not on disk yet, used under a lock, and let go. What takes over a second shows a bar; the bar is drawn outside the
cached function.
"""

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

import rotviz
from rotviz.capture.capture import Capture, open_capture
from rotviz.capture.inspect import Inspection, Look, capture_path, inspect, kept_massive, look
from rotviz.config import fingerprint
from rotviz.evaluation.paired import Place, block_verdicts
from rotviz.evaluation.sites import BlockErrors, TokenErrors, Turn, block_errors, channel_errors, r1_error, site_rows, token_errors
from rotviz.evaluation.stream import Stream, stream_of
from rotviz.home import home, write_atomically
from rotviz.models import loading
from rotviz.models.loading import weights_mark
from rotviz.numerics import statistics
from rotviz.numerics.errors import SplitError
from rotviz.numerics.massive import PERSISTENCE, PersistentToken, find_massive, massive_tokens
from rotviz.numerics.statistics import Summary, channel_quantiles, histogram, normal_quantiles, summarize
from rotviz.plots.channel_ribbons import PERCENTILES
from rotviz.plots.words import number
from rotviz.types import QuantSpec, Site
from rotviz.ui.progress import progress

COMPUTING = threading.Lock()
"""One capture or examination at a time in this server: two would double the memory and take as long."""

Say = Callable[[float, str], None]


# A text read by a model


def captured(wanted: Look) -> Capture:
    """The capture of a look, made with a progress bar if it is not there yet."""
    if capture_path(wanted).exists():
        return _open(capture_path(wanted))
    with progress("Reading the text with the model") as say, COMPUTING:
        return look(wanted, progress=say)


def inspected(wanted: Look) -> Inspection:
    """Massive tokens and statistics of every site; some seconds the first time, then at once."""
    path = captured(wanted).path
    if path.with_suffix(".json").exists():
        return _inspected(wanted, path)
    with progress("Counting outliers") as say:
        inspect(wanted, progress=lambda fraction, words: say(max(0.0, 5 * fraction - 4), words))  # its first 0.8 are the capture
    return _inspected(wanted, path)


@st.cache_resource(max_entries=32, show_spinner=False)
def _inspected(wanted: Look, path: Path) -> Inspection:
    return inspect(wanted)


@st.cache_resource(max_entries=32, show_spinner=False)
def _open(path: Path) -> Capture:
    return open_capture(path)


@st.cache_data(max_entries=32, show_spinner="Looking for massive tokens")
def persistent_tokens(path: Path) -> list[PersistentToken]:
    """The massive tokens; in a model of two blocks two in a row are enough."""
    seen = _open(path)
    found = kept_massive(seen)  # counting the outliers of every site finds them too
    if found is None:
        found = find_massive((block, seen.site(block, Site.RESID)) for block in range(seen.blocks))
    return massive_tokens(found, min(PERSISTENCE, seen.blocks))


@st.cache_resource(max_entries=16, show_spinner=False)
def stream(path: Path) -> Stream:
    """The residual stream's size by block and token."""
    return stream_of(_open(path))


# One site of one block


@st.cache_resource(max_entries=8, show_spinner=False)
def rows(path: Path, block: int, site: Site, turn: Turn) -> np.ndarray:
    """Rows [T, width] of a site under a turn, float32, not to be written to."""
    found = site_rows(_open(path), block, site, turn).numpy()
    found.flags.writeable = False
    return found


@st.cache_data(max_entries=64, show_spinner=False)
def row_texts(path: Path, block: int, site: Site) -> list[str]:
    """The text of the token of each row: in a mixture, a token has a row of down_in for each expert it goes through."""
    seen = _open(path)
    owners = seen.tokens_of_rows(block, site)
    return list(seen.tokens) if owners is None else [seen.tokens[t] for t in owners.tolist()]


@st.cache_data(max_entries=1024, show_spinner=False)
def summary(path: Path, block: int, site: Site, turn: Turn) -> Summary:
    """Statistics of a site under a turn."""
    return summarize(site_rows(_open(path), block, site, turn))


@st.cache_data(max_entries=64, show_spinner=False)
def percentiles(path: Path, block: int, site: Site, turn: Turn) -> np.ndarray:
    """The percentiles of draw_channel_ribbons, [7, width]."""
    return channel_quantiles(site_rows(_open(path), block, site, turn), [p / 100 for p in PERCENTILES]).numpy()


@st.cache_data(max_entries=64, show_spinner=False)
def counted(path: Path, block: int, site: Site, turn: Turn) -> tuple[np.ndarray, np.ndarray]:
    """Counts [200] and edges [201] of a site's numbers."""
    counts, edges = histogram(site_rows(_open(path), block, site, turn))
    return counts.numpy(), edges.numpy()


@st.cache_data(max_entries=64, show_spinner=False)
def quantiles(path: Path, block: int, site: Site, turn: Turn) -> tuple[np.ndarray, np.ndarray]:
    """Normal and observed quantiles of a site's numbers, [200] each."""
    theoretical, observed = normal_quantiles(site_rows(_open(path), block, site, turn))
    return theoretical.numpy(), observed.numpy()


@st.cache_data(max_entries=256, show_spinner=False)
def top_channels(path: Path, block: int, site: Site, turn: Turn, unit: float = 1.0, top: int = 3) -> str:
    """The largest channels of a site with their peaks in some unit, in words."""
    found = statistics.top_channels(site_rows(_open(path), block, site, turn), top)
    return ", ".join(f"{c.channel} ({number(float(f'{c.absmax / unit:.4g}'))})" for c in found)


def rows_of_token(path: Path, block: int, site: Site, turn: Turn, token: int) -> np.ndarray | None:
    """The channels of one token; of its first row where it has several, None where it has none."""
    owners = _open(path).tokens_of_rows(block, site)
    found = [token] if owners is None else (owners == token).nonzero().flatten().tolist()
    return rows(path, block, site, turn)[found[0]] if found else None


# What rounding loses


@st.cache_data(max_entries=1024, show_spinner=False)
def errors_by_token(path: Path, block: int, site: Site, turn: Turn, spec: QuantSpec) -> TokenErrors:
    """Error of every token at one site."""
    return token_errors(_open(path), block, site, turn, spec)


@st.cache_data(max_entries=512, show_spinner=False)
def errors_by_channel(path: Path, block: int, site: Site, turn: Turn, spec: QuantSpec) -> np.ndarray:
    """Mean squared error of every channel."""
    return channel_errors(_open(path), block, site, turn, spec)


@st.cache_data(max_entries=256, show_spinner="Rounding every block")
def errors_by_block(path: Path, site: Site, turn: Turn, spec: QuantSpec) -> BlockErrors:
    """Error of one site at every block."""
    return block_errors(_open(path), site, turn, spec)


@st.cache_data(max_entries=256, show_spinner="Counting every block")
def summaries_by_block(path: Path, site: Site, turn: Turn) -> list[Summary]:
    """Statistics of one turned site at every block (an inspection has those of the original)."""
    seen = _open(path)
    return [summarize(site_rows(seen, block, site, turn)) for block in range(seen.blocks)]


@st.cache_data(max_entries=512, show_spinner=False)
def r1_errors(path: Path, turn: Turn, spec: QuantSpec) -> SplitError:
    """Error over everything that R1 turns, all blocks together."""
    return r1_error(_open(path), turn, spec)


def r1_errors_of(path: Path, turns: Sequence[Turn], spec: QuantSpec) -> list[SplitError]:
    """The same for many rotations, with a bar where they take long."""
    with progress("Rounding every block under many rotations") as say:
        found = []
        for i, turn in enumerate(turns):
            say(i / len(turns), turn.label)
            found.append(r1_errors(path, turn, spec))
    return found


def errors_of_methods(path: Path, block: int, site: Site, turns: tuple[Turn, ...], spec: QuantSpec) -> list[TokenErrors]:
    """Errors of many rotations at one site, with a bar where they take long."""
    with progress("Rounding under every method") as say:
        found = []
        for i, turn in enumerate(turns):
            say(i / len(turns), turn.label)
            found.append(errors_by_token(path, block, site, turn, spec))
    return found


# Which of two rotations helps where


def places(path: Path, a: Turn, b: Turn, spec: QuantSpec) -> list[Place]:
    """The verdict on B against A at every block and site, with a bar where it takes long."""
    blocks, found = _open(path).blocks, []
    with progress("Rounding every site under both rotations") as say:
        for block in range(blocks):
            say(block / blocks, f"block {block + 1} of {blocks}")
            found += _places_of(path, block, a, b, spec)
    return found


@st.cache_data(max_entries=1024, show_spinner=False)
def _places_of(path: Path, block: int, a: Turn, b: Turn, spec: QuantSpec) -> list[Place]:
    return block_verdicts(_open(path), block, a, b, spec)


# The model itself


def examined(model: str, method: str, seed: int) -> dict[str, Any]:
    """The architecture doctor's findings as plain values: architecture, family, facts, slots, proof. Kept on disk."""
    mark = fingerprint({"weights": weights_mark(model), "method": method, "seed": seed, "rotviz": rotviz.__version__})
    path = home() / "doctor" / f"{mark}.json"
    if not path.exists():
        from rotviz.pipeline.examine import examine

        with progress("Rewriting the model step by step") as say, COMPUTING:
            diagnosis, proofs = examine(model, method, seed, say)
        plain = asdict(diagnosis) | {"proof": [asdict(p) | {"holds": p.holds} for p in proofs]}
        write_atomically(path, lambda target: target.write_text(json.dumps(plain), encoding="utf-8"))
    return json.loads(path.read_text(encoding="utf-8"))


@st.cache_data(ttl=30, show_spinner=False)
def model_names() -> list[str]:
    """Names for the model box; anything else may be typed."""
    return loading.model_names()
