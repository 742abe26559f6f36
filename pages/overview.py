"""Overview: what the chosen model's problem is, in one look, with its own numbers, and where to go next.

The frame has drawn the first minute above: stored results of the embedded model (rotviz/ui/first_minute.py), which this page recomputes on request.

A grid at 4 bits has 16 levels, and its step is set by the largest number that it must hold. One number that is thousands of times the
median makes the step so wide that everything else rounds to zero. The first figure shows that number, the second what it costs.
"""

from pathlib import Path

import numpy as np
import streamlit as st

from rotviz.evaluation.sites import Turn
from rotviz.plots.drawing import Drawing
from rotviz.plots.error_by_block import draw_error_by_block
from rotviz.plots.magnitude_by_block import draw_magnitude_by_block
from rotviz.plots.words import visible
from rotviz.types import SITE_WORDS, QuantSpec, Site
from rotviz.ui.cache import errors_by_block, inspected, persistent_tokens, stream
from rotviz.ui.choices import Chosen, chosen
from rotviz.ui.recompute import recompute
from rotviz.ui.show import show
from rotviz.ui.words import heaviest, number_words, percent, plain, problem

SPEC = QuantSpec(4, True, clip=0.9)
METHODS = ("none", "orthogonal", "hadamard")
NEXT = (
    ("pages/outliers.py", "Outliers", "Every number of a site as a map, in 3-D and by channel, before and after a rotation."),
    ("pages/massive_tokens.py", "Massive tokens", "The few tokens that carry the spikes, marked in the text."),
    ("pages/rotate.py", "Rotate", "Two rotations against each other, token by token: why Hadamard beats a random one."),
    ("pages/evaluate.py", "Evaluate", "Perplexity with everything quantized, with error bars."),
)


def magnitudes(path: Path, tokens: tuple[str, ...]) -> Drawing:
    """The largest numbers of the residual stream against the median."""
    seen = stream(path)
    strongest = seen.peaks.argmax(axis=1)
    where = [f"token {t} {visible(tokens[t])}, channel {seen.channels[b, t]}" for b, t in enumerate(strongest)]
    return draw_magnitude_by_block(seen.top, seen.median, where=where)


def costs(path: Path, site: Site) -> Drawing:
    """What 4 bits lose at a site, block by block."""
    return draw_error_by_block({method: errors_by_block(path, site, Turn(method), SPEC).all for method in METHODS})


def metrics(view: Chosen) -> None:
    """The problem in four numbers."""
    path = view.capture.path
    worst = heaviest(inspected(view.look))
    bare, turned = (errors_by_block(path, view.site, Turn(method), SPEC).all for method in ("none", "hadamard"))
    block = int(np.nanargmax(bare))
    before, after = float(bare[block]), float(turned[block])
    gain = f"{number_words(round(before / after, 1))} times less" if 0 < after < before else "no gain"
    heavy, tokens = len({t.index for t in persistent_tokens(path)}), len(view.capture.tokens)
    numbers = (
        ("Massive tokens", str(heavy), f"of {tokens} tokens", "Tokens that keep a channel at 1,000 medians or more from block to block."),
        ("Worst kurtosis", number_words(worst.summary.kurtosis), f"{worst.site}, block {worst.block}",
         "Excess kurtosis, E[(x-m)^4]/s^4 - 3: 0 for a normal distribution. Heavy tails waste the levels of a grid."),
        (f"4-bit error, {view.site}", percent(before), f"worst block, {block}",
         "Share of the energy that 4-bit rounding (symmetric, clip 0.9) of this site loses without a rotation. Choose the site at the left."),
        ("with Hadamard", percent(after), gain, "The same block after a randomized Hadamard rotation (seed 0)."),
    )
    for column, (label, value, below, words) in zip(st.columns(len(numbers)), numbers, strict=True):
        column.metric(label, value, below, delta_color="off", delta_arrow="off", border=True, help=words)


view = chosen()
path = view.capture.path
recompute()
st.subheader(f"Your model and text: {plain(view.look.model)}", divider="gray")
st.markdown(f"#### {problem(view.capture.tokens, persistent_tokens(path), stream(path))}")
numbers = st.container()
left, right = st.columns(2)
with left:
    st.markdown("##### The residual stream after each block")
    show(magnitudes(path, view.capture.tokens), "magnitude",
         caption="The gap between the top line and the median is what one grid has to bridge.")
with right:
    st.markdown(f"##### What 4 bits lose of the {SITE_WORDS[view.site]}")
    show(costs(path, view.site), "costs", caption="Share of the energy that rounding loses in each block alone; lower is better.")
with numbers:
    metrics(view)

if view.capture.meta.get("notes"):
    st.info(f"About {plain(view.look.model)}: {plain(view.capture.meta['notes'])}.", icon=":material/info:")
st.markdown("##### Where to go next")
for column, (page, label, words) in zip(st.columns(len(NEXT)), NEXT, strict=True):
    with column.container(border=True, height="stretch"):
        st.page_link(page, label=f"**{label}**", icon=":material/arrow_forward:")
        st.caption(words)
