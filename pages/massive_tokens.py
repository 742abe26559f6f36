r"""Massive tokens: the few tokens whose hidden state holds a few channels thousands of times the median.

Trained models make them in an early block (mostly from the first token, often from the first full stop or line break), keep them
through the middle and cancel them at the end; attention uses them as a place to look at when there is nothing to see. After RMSNorm such a
token is nearly a single spike of height $\sqrt{D}$. Sun et al., Massive Activations in Large Language Models (arXiv 2402.17762).
"""

import re
from pathlib import Path

import pandas as pd
import streamlit as st

from rotviz.evaluation.sites import Turn
from rotviz.evaluation.stream import Stream
from rotviz.numerics.massive import PersistentToken
from rotviz.plots.frame import shared_range
from rotviz.plots.massive_map import draw_massive_map
from rotviz.plots.token_channels import draw_token_channels
from rotviz.plots.token_strip import draw_token_strip
from rotviz.plots.words import visible
from rotviz.types import LINEAR_SITES, SITE_WORDS, Site
from rotviz.ui.cache import persistent_tokens, rows_of_token, stream
from rotviz.ui.choices import Chosen, chosen
from rotviz.ui.show import show
from rotviz.ui.turns import pick_slots, pick_turn, warn_idle
from rotviz.ui.words import capital, none_massive, problem, token_words

NEAREST = 8
STRIP = 600


def table(tokens: tuple[str, ...], massive: list[PersistentToken], seen: Stream) -> pd.DataFrame:
    """The massive tokens, or those that come nearest."""
    if massive:
        return pd.DataFrame([{"position": m.index, "token": visible(tokens[m.index]), "channel": m.channel, "value": m.value,
                              "times the median": m.ratio, "first block": m.first_block, "last block": m.last_block} for m in massive])
    return pd.DataFrame([{"position": t, "token": visible(tokens[t]), "channel": int(seen.channels[b, t]),
                          "value": float(seen.peaks[b, t]), "times the median": seen.ratio(b, t), "first block": b, "last block": b}
                         for b, t in seen.nearest_tokens(NEAREST)])


def from_table(listed: pd.DataFrame) -> None:
    """A row of the table was chosen: so is its token."""
    chosen_rows = st.session_state["massive-table"]["selection"]["rows"]
    if chosen_rows:
        st.session_state["tok"] = int(listed["position"][chosen_rows[0]])


def from_map(tokens: int) -> None:
    """A diamond of the map was clicked: so are its token and its block. Cells themselves give no event."""
    points = st.session_state["massive-map"]["selection"]["points"]
    if points:
        label = str(points[0].get("x", ""))
        found = re.search(r"largest at (\d+)", label) or re.match(r"\d+", label)
        if found and int(found[found.lastindex or 0]) < tokens:
            st.session_state["tok"] = int(found[found.lastindex or 0])
        st.session_state["b"] = int(points[0].get("y", st.session_state.get("b", 0)))


def strip(path: Path, tokens: tuple[str, ...], massive: set[int]) -> None:
    """The text, its tokens colored by how many medians they reach."""
    values = stream(path).ratios()
    with st.container(height=230 if len(tokens) > 120 else "content", border=True):
        st.html(draw_token_strip(tokens[:STRIP], values[:STRIP], massive, what="times the median", value_max=float(values.max())))
    more = f" The first {STRIP} of {len(tokens):,} tokens are shown." if len(tokens) > STRIP else ""
    st.caption(f"The text as the model reads it; color is a token's largest number anywhere in the residual stream, in medians.{more}")


def one_token(view: Chosen, token: int) -> None:
    """The channels of one token: before and behind the norm, before and after the rotation."""
    with st.container(border=True):
        first, second, third = st.columns([2, 3, 3])
        with first:
            names = [Site.RESID.value, *(s.value for s in LINEAR_SITES)]
            site = Site(st.selectbox("Where", names, key="at", bind="query-params",
                                     help="resid is before the next norm, attn_in and mlp_in are behind one.\n\n"
                                     + "\n\n".join(f"**{n}**: {SITE_WORDS[Site(n)]}" for n in names)))
        with third:
            slots = pick_slots()
        with second:
            turn = pick_turn("Rotation", "r", "hadamard", "seed", slots, view.look.model)
    warn_idle(site, [turn])
    log = st.toggle("Logarithmic", False, key="log", bind="query-params")
    sides = {"Before": Turn("none"), f"After {turn.label}": turn} if turn.method != "none" else {"Before": Turn("none")}
    values = {title: rows_of_token(view.capture.path, view.block, site, t, token) for title, t in sides.items()}
    if any(v is None for v in values.values()):
        st.info("No expert of this block reads this token here.", icon=":material/info:")
        return
    sizes = [abs(v) for v in values.values()]
    limits = shared_range(*sizes, log=True) if log else (0.0, 1.15 * max(float(size.max()) for size in sizes))
    for column, (title, channel_values) in zip(st.columns(len(sides)), values.items(), strict=True):
        with column:
            st.markdown(f"**{title}**, {SITE_WORDS[site]}, block {view.block}")
            drawing = draw_token_channels(channel_values, view.capture.tokens[token], token, top=3, log=log, y_range=limits)
            show(drawing, f"channels-{title[:5]}",
                 caption="A spike that holds most of the energy sets the grid; the dashed line is the same energy spread evenly.")


view = chosen()
seen, tokens, massive = stream(view.capture.path), view.capture.tokens, persistent_tokens(view.capture.path)
st.title("Massive tokens")
if massive:
    st.markdown(f"#### {problem(tokens, massive, seen)}")
else:
    st.markdown(f"#### {none_massive(tokens, seen)}")
    st.caption("The table lists the nearest tokens instead.")
if view.capture.meta.get("special_tokens") == "no":
    st.caption("This tokenizer puts no token of its own before a text: the switch BOS changes nothing here.")
strip(view.capture.path, tokens, {m.index for m in massive})

listed = table(tokens, massive, seen)
st.markdown("##### Massive tokens" if massive else "##### The nearest tokens")
st.dataframe(listed, hide_index=True, key="massive-table", on_select=lambda: from_table(listed), selection_mode="single-row",
             column_config={"value": st.column_config.NumberColumn(format="%.0f" if massive else "%.4g"),
                            "times the median": st.column_config.NumberColumn(format="%.0f")})
st.caption("Choose a row, a diamond of the map or a position below to see its channels.")
st.markdown("##### The largest number of every token after every block")
show(draw_massive_map(seen.peaks, tokens, massive=seen.massive, channels=seen.channels), "massive-map",
     on_select=lambda: from_map(len(tokens)),
     caption="Diamonds mark massive tokens, often the very first; bright bars without a diamond are large, not massive.")

st.markdown("##### The channels of one token")
default = int(listed["position"][0])
if st.session_state.get("tok", 0) is not None and int(st.session_state.get("tok", 0)) >= len(tokens):
    st.session_state["tok"] = default
position = int(st.number_input("Position", 0, len(tokens) - 1, default, key="tok", bind="query-params",
                               help="Which token, counted from 0."))
st.markdown(f"{capital(token_words(position, tokens[position]))}, up to **{seen.ratios()[position]:,.0f} times** the median.")
one_token(view, position)
