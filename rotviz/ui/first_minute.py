"""The first minute: a finished comparison of the embedded model, drawn before torch or any model is loaded.

The numbers are in assets/first_minute.json, which benchmarks/first_minute.py makes of committed results; each part carries the date and the machine
of its measurement. Nothing here imports what computes: the figures stand while the rest of the app is still being loaded.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from rotviz.plots.drawing import Drawing
from rotviz.plots.magnitude_by_block import draw_magnitude_by_block
from rotviz.plots.perplexity_bars import draw_perplexity_bars
from rotviz.plots.words import number, visible
from rotviz.types import SITE_WORDS, Site
from rotviz.ui.show import show

STORED = Path(__file__).resolve().parents[2] / "assets" / "first_minute.json"
WORDS = {"none": "no rotation", "orthogonal": "random orthogonal", "hadamard": "randomized Hadamard", "peak": "peak (learned)"}


@lru_cache(maxsize=1)
def stored() -> dict[str, Any]:
    """What was measured."""
    return json.loads(STORED.read_text(encoding="utf-8"))


def draw_first_minute() -> None:
    """The page's title, the comparison in a sentence, and its two figures."""
    found = stored()
    st.title("Why does a model break at 4 bits?")
    st.markdown(headline(found))
    left, right = st.columns(2)
    with left:
        st.markdown("##### What each rotation does about it")
        show(comparison_figure(), "first-comparison",
             caption="Each bar starts at the float model (dashed): its length is what 4-bit activations cost. Means over seeds; lower is better.")
    with right:
        st.markdown("##### Where it comes from: one number")
        show(stream_figure(), "first-stream",
             caption="The residual stream after each block: a grid of 16 levels has to bridge the gap between the top line and the median.")
    st.caption(provenance(found))


def headline(found: Mapping[str, Any]) -> str:
    """The result in three sentences; Markdown."""
    mean, token = means(found["comparison"]), found["massive"]["token"]
    lost = {method: errors["massive"] for method, errors in found["massive"]["errors"].items()}
    place = f"the {SITE_WORDS[Site(found['massive']['site'])]} of block {found['massive']['block']}"
    return (f"On **{found['model']}**, 4-bit activations raise the perplexity from {number(found['comparison']['float'])} to "
            f"**{number(mean['none'])}**; a random rotation brings it to {number(mean['orthogonal'])}, a Hadamard matrix to "
            f"**{number(mean['hadamard'])}**, the learned *peak* to **{number(mean['peak'])}**. The culprit is token {token['index']} "
            f"“{visible(token['token'])}”: it carries {number(abs(token['value']))} in channel {token['channel']}, {token['ratio']:,.0f} times the "
            f"median. In {place} a Hadamard matrix loses {lost['orthogonal'] / lost['hadamard']:.2g} times less on it than a random one.")


def means(comparison: Mapping[str, Any]) -> dict[str, float]:
    """Mean perplexity over the seeds of each method."""
    return {row["method"]: float(np.mean(row["perplexity"])) for row in comparison["rows"]}


@lru_cache(maxsize=1)
def comparison_figure() -> Drawing:
    """Perplexity of every method against the float model's."""
    comparison = stored()["comparison"]
    mean = means(comparison)
    return draw_perplexity_bars([WORDS[method] for method in mean], np.array(list(mean.values())), reference=comparison["float"],
                                methods=list(mean))


@lru_cache(maxsize=1)
def stream_figure() -> Drawing:
    """The largest numbers of the residual stream against the median."""
    stream = stored()["stream"]
    where = [f"token {at['token']} {visible(at['text'])}, channel {at['channel']}" for at in stream["where"]]
    return draw_magnitude_by_block(np.array(stream["top"]), np.array(stream["median"]), where=where)


def provenance(found: Mapping[str, Any]) -> str:
    """Where the numbers come from."""
    comparison, stream = found["comparison"], found["stream"]
    seeds = ", ".join(f"{row['method']} {len(row['seeds'])}" for row in comparison["rows"])
    return (f"Stored results, not of this machine. Left: WikiText-2 test, first {comparison['recipe']['text']['windows']} windows of "
            f"{comparison['recipe']['text']['length']:,} tokens ({comparison['tokens']:,} scored), weights in float, activations "
            f"{comparison['recipe']['activations']['bits']} bits symmetric, clip {comparison['recipe']['activations']['clip']}; seeds: {seeds}; "
            f"{made(comparison)}. Right: {stream['tokens']} tokens of the Python documentation; {made(stream)}. The massive token's errors: medians "
            f"over three seeds; {made(found['massive'])}.")


def made(part: Mapping[str, Any]) -> str:
    """`measured on 2026-11-22, Intel(R) Xeon(R) Processor, 2 threads`."""
    return f"measured on {part['date']}, {part['machine']}, {part['threads']} thread{'' if part['threads'] == '1' else 's'}"
