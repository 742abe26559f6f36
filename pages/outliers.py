"""Outliers: one site of one block, before and after a rotation, on the same axes.

Three kinds of trouble look alike in a single number and different here: a massive activation (one token, one channel: a lone dot), an
outlier channel (one channel, all tokens: a line), and heavy tails everywhere. A rotation mixes all channels of a token, so it spreads the
first two over the whole width; the energy of each token stays.

    incoherence = max|X| sqrt(T D) / |X|_F     1 when all numbers have one size; a rotation lowers it
"""

from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from rotviz.evaluation.sites import Turn
from rotviz.numerics.statistics import Summary
from rotviz.plots.channel_ribbons import draw_channel_ribbons
from rotviz.plots.frame import shared_range
from rotviz.plots.histogram import draw_histogram
from rotviz.plots.kurtosis_by_block import draw_kurtosis_by_block
from rotviz.plots.magnitude_by_block import draw_magnitude_by_block
from rotviz.plots.qq import draw_qq
from rotviz.plots.spikes import draw_spikes
from rotviz.plots.token_channel_map import draw_token_channel_map
from rotviz.types import SITE_WORDS, SLOT_OF_SITE, Site
from rotviz.ui.cache import counted, inspected, percentiles, quantiles, row_texts, rows, summaries_by_block, summary, top_channels
from rotviz.ui.choices import Chosen, chosen
from rotviz.ui.show import show
from rotviz.ui.turns import pick_slots, pick_turn, warn_idle
from rotviz.ui.words import number_words

TABS = ("Map", "Channels", "Distribution", "By block")
BEFORE = Turn("none")
CELLS = (128, 192)  # of a map that is half a page wide
HEAVY = 100  # a crest factor beyond which axes and colors are logarithmic


def pair(turn: Turn) -> list[tuple[str, Turn, str]]:
    """The two sides: a title, the turn, a key."""
    return [("Before", BEFORE, "before"), (f"After {turn.label}" if turn.method != "none" else "After (no rotation)", turn, "after")]


def unit_of(numbers: Summary, in_rms: bool) -> float:
    """What a side's numbers are divided by: its own root mean square, or nothing."""
    return numbers.absmax / numbers.crest if in_rms and numbers.crest else 1.0


def maps(view: Chosen, turn: Turn, in_rms: bool, what: str) -> None:
    """Token by channel, flat or in 3-D."""
    flat = st.segmented_control("Form", ["map", "3-D"], default="map", required=True, key="form", bind="query-params",
                                label_visibility="collapsed") == "map"
    path, tokens = view.capture.path, row_texts(view.capture.path, view.block, view.site)
    numbers = {key: summary(path, view.block, view.site, t) for _, t, key in pair(turn)}
    units = {key: unit_of(n, in_rms) for key, n in numbers.items()}
    top = max(n.absmax / units[key] for key, n in numbers.items())
    low, heavy = min(n.median_abs / units[key] for key, n in numbers.items()), numbers["before"].crest > HEAVY
    for column, (title, t, key) in zip(st.columns(2), pair(turn), strict=True):
        values = rows(path, view.block, view.site, t) / np.float32(units[key])
        with column:
            st.markdown(f"**{title}**")
            if flat:
                show(draw_token_channel_map(values, tokens, log=heavy, color_max=top, color_min=low if heavy else 0.0,
                                            what=f"|{what}|", cells=CELLS),
                     f"map-{key}", caption="A bright column is an outlier channel, a lone bright dot a massive activation.")
            else:
                show(draw_spikes(values, tokens, z_max=top, color_max=top, what=f"|{what}|"), f"spikes-{key}",
                     caption="Needles are massive activations, a ridge is an outlier channel; drag to turn.")


def channels(view: Chosen, turn: Turn, in_rms: bool, what: str) -> None:
    """Percentile bands of every channel."""
    sort = st.toggle("Sort channels by their largest value", False, key="sort", bind="query-params")
    path = view.capture.path
    numbers = {key: summary(path, view.block, view.site, t) for _, t, key in pair(turn)}
    bands = {key: percentiles(path, view.block, view.site, t) / unit_of(numbers[key], in_rms) for _, t, key in pair(turn)}
    heavy = numbers["before"].crest > HEAVY
    limits = shared_range(*bands.values(), symmetric_log=heavy)
    for column, (title, _, key) in zip(st.columns(2), pair(turn), strict=True):
        with column:
            st.markdown(f"**{title}**")
            show(draw_channel_ribbons(bands[key], sort=sort, y_range=limits, symmetric_log=heavy, what=what), f"ribbons-{key}",
                 caption="A grid must reach a token's largest channel; what lies below a tenth of it shares one or two levels.")


def distribution(view: Chosen, turn: Turn, in_rms: bool, what: str) -> None:
    """Histogram with the normal curve, and Q-Q plot."""
    path = view.capture.path
    numbers = {key: summary(path, view.block, view.site, t) for _, t, key in pair(turn)}
    units = {key: unit_of(n, in_rms) for key, n in numbers.items()}
    found = {key: counted(path, view.block, view.site, t) for _, t, key in pair(turn)}
    bends = {key: quantiles(path, view.block, view.site, t) for _, t, key in pair(turn)}
    across = shared_range(*(edges / units[key] for key, (_, edges) in found.items()))
    up = (0.7, 2 * max(float(counts.max()) for counts, _ in found.values()))
    bend = shared_range(*(observed for _, observed in bends.values()))
    for column, (title, _, key) in zip(st.columns(2), pair(turn), strict=True):
        counts, edges = found[key]
        with column:
            st.markdown(f"**{title}**")
            curve = (numbers[key].mean / units[key], numbers[key].std / units[key])
            show(draw_histogram(counts, edges / units[key], normal=curve, x_range=across, y_range=up, what=what), f"histogram-{key}",
                 caption="Bars outside the dashed normal curve are the tails that stretch the grid.")
            show(draw_qq(*bends[key], y_range=bend, what="activation in standard deviations"), f"qq-{key}",
                 caption="Points on the straight line are normally distributed; ends that bend away are heavy tails. The outermost points are "
                         "at 0.25 and 99.75 %; rarer numbers are in the histogram.")


def by_block(view: Chosen, turn: Turn, in_rms: bool, what: str) -> None:
    """Magnitude and kurtosis over the depth of the model."""
    names = [s.value for s in Site]
    picked = st.pills("Sites", names, selection_mode="multi", default=[view.site.value], key="ks", bind="query-params") or [view.site.value]
    sites = [Site(name) for name in names if name in picked]
    tails = {key: {str(site): _kurtosis(by_site(view, site, t)) for site in sites} for _, t, key in pair(turn)}
    limits = shared_range(*(v for side in tails.values() for v in side.values()), symmetric_log=True)
    sizes = {key: sizes_of(by_site(view, view.site, t), in_rms) for _, t, key in pair(turn)}
    up = shared_range(*sizes.values(), log=True)
    for column, (title, _, key) in zip(st.columns(2), pair(turn), strict=True):
        with column:
            st.markdown(f"**{title}**")
            show(draw_kurtosis_by_block(tails[key], y_range=limits), f"kurtosis-{key}",
                 caption="Excess kurtosis: 0 for a normal distribution, and the higher the more a few numbers dominate.")
            show(draw_magnitude_by_block(sizes[key][:, :1], sizes[key][:, 1], y_range=up, what=f"|{what}|"), f"magnitude-{key}",
                 caption="The gap between the largest number and the median is what one grid has to bridge.")


def sizes_of(found: list[Summary], in_rms: bool) -> np.ndarray:
    """Largest and median |x| of every block, [L, 2]."""
    return np.array([[s.absmax / unit_of(s, in_rms), s.median_abs / unit_of(s, in_rms)] for s in found])


def by_site(view: Chosen, site: Site, turn: Turn) -> list[Summary]:
    """Statistics of a site at every block; those of the original model are in the inspection."""
    if turn.acts_on(site):
        return summaries_by_block(view.capture.path, site, turn)
    return [s.summary for s in inspected(view.look).sites if s.site is site]


def _kurtosis(found: list[Summary]) -> np.ndarray:
    return np.array([s.kurtosis for s in found])


def statistics(path: Path, view: Chosen, turn: Turn, in_rms: bool) -> pd.DataFrame:
    """Before and after, in numbers, sizes in the figures' units."""
    unit = " / rms" if in_rms else ""
    sizes = {"absmax": f"largest |x|{unit}", "median_abs": f"median |x|{unit}", "p99": f"99th percentile of |x|{unit}"}
    shapes = {"kurtosis": "excess kurtosis", "crest": "crest factor, max|x| / rms", "incoherence": "incoherence",
              "peak_ratio": "peak ratio of a token (mean)"}
    columns = {}
    for title, t, _ in pair(turn):
        found = summary(path, view.block, view.site, t)
        one = unit_of(found, in_rms)
        columns[title] = [*(number_words(getattr(found, name) / one) for name in sizes), *(number_words(getattr(found, name)) for name in shapes),
                          top_channels(path, view.block, view.site, t, one)]
    return pd.DataFrame({"statistic": [*sizes.values(), *shapes.values(), "top channels"], **columns})


view = chosen()
st.title("Outliers, before and after a rotation")
with st.container(border=True):
    left, right = st.columns([3, 2])
    with right:
        slots = pick_slots()
    with left:
        turn = pick_turn("Rotation", "r", "hadamard", "seed", slots, view.look.model)
st.markdown(f"The **{SITE_WORDS[view.site]}** (`{view.site}`) of **block {view.block}**; slot {SLOT_OF_SITE[view.site]} turns it. "
            "Both sides share their axes and colors.")
warn_idle(view.site, [turn])
in_rms = st.toggle("In units of each side's root mean square", True, key="rms", bind="query-params",
                   help="A norm's gain is folded into the weights before R1 turns, which changes the scale of a site but not how hard it is "
                   "to round: only ratios count. Switch off to see the numbers themselves.")
what = "activation / rms" if in_rms else "activation"
drawers = dict(zip(TABS, (maps, channels, distribution, by_block), strict=True))
for name, tab in zip(TABS, st.tabs(list(TABS), key="tab", bind="query-params", on_change="rerun"), strict=True):
    if tab.open:
        with tab:
            drawers[name](view, turn, in_rms, what)
st.markdown("##### In numbers")
st.dataframe(statistics(view.capture.path, view, turn, in_rms), hide_index=True, key="statistics")
