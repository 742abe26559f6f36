r"""Does rotation help here? A verdict at every block and site: B against A, paired token by token, with an interval and the reason.

$$r_t = \log\frac{e_t(B)}{e_t(A)},\qquad e_t = \frac{|x_t R - Q(x_t R)|^2}{|x_t R|^2}$$

The mean of $r_t$ over the ordinary tokens decides, with a 95 % bootstrap interval that must lie beyond 1 %. Massive tokens are few and often go the
other way, so they stand beside it.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import streamlit as st

from rotviz.evaluation.paired import Place, counted, summary_words
from rotviz.evaluation.verdict import HELPS, HURTS, SAME, UNKNOWN
from rotviz.plots.verdict_map import draw_verdict_map
from rotviz.types import QUANTIZED_SITES
from rotviz.ui.cache import places
from rotviz.ui.choices import Chosen, chosen
from rotviz.ui.commands import verdict_command
from rotviz.ui.show import show
from rotviz.ui.turns import names_of, pick_slots, pick_spec, pick_turn, spec_words
from rotviz.ui.words import capital, percent, plain

ICONS = {HELPS: ":material/trending_down:", SAME: ":material/remove:", HURTS: ":material/close:", UNKNOWN: ":material/question_mark:"}
ORDERS = {"worst first": lambda p: _last(-p.ratio), "best first": lambda p: _last(p.ratio),
          "by block": lambda p: (p.block, list(QUANTIZED_SITES).index(p.site))}


def draw() -> None:
    """The page."""
    view = chosen()
    st.title("Does rotation help here?")
    with st.container(border=True):
        left, right = st.columns(2)
        lower_left, lower_right = st.columns([1, 2], vertical_alignment="bottom")
        with lower_left:
            slots = pick_slots()
        with lower_right:
            spec = pick_spec(view.site)
        with left:
            a = pick_turn("A", "ra", "none", "sa", slots, view.look.model)
        with right:
            b = pick_turn("B", "rb", "hadamard", "sb", slots, view.look.model)
    found = places(view.capture.path, a, b, spec)
    names = names_of(a, b)
    st.markdown(f"On the {spec_words(spec)}: **{plain(capital(summary_words(found, *names)))}**")
    left, right = st.columns([2, 3], gap="medium")
    with left:
        _map(found, view.capture.blocks, names)
    with right:
        _metrics(found)
        _here(view, found, names)
        _table(found)
        st.caption("The same from the command line:")
        st.code(verdict_command(view.look, a, b, spec), language="bash", wrap_lines=True)


def _metrics(found: Sequence[Place]) -> None:
    """How many places of each kind."""
    kinds = {kind: n for kind, n in counted(found).items() if n or kind != UNKNOWN}
    for cell, (kind, n) in zip(st.columns(len(kinds)), kinds.items(), strict=True):
        cell.metric(f"{ICONS[kind]} {kind}", n, f"of {len(found)}", delta_color="off", delta_arrow="off")


def _map(found: Sequence[Place], blocks: int, names: tuple[str, str]) -> None:
    shape = (blocks, len(QUANTIZED_SITES))
    grid = [found[i:i + shape[1]] for i in range(0, len(found), shape[1])]
    show(draw_verdict_map(np.array([p.ratio for p in found]).reshape(shape), [[p.kind for p in row] for row in grid], list(QUANTIZED_SITES),
                          ruined=np.array([p.massive_words == "ruined" for p in found]).reshape(shape),
                          reasons=[[p.reason for p in row] for row in grid], name_a=names[0], name_b=names[1]), "verdicts",
         caption="Color: error under B over error under A, geometric mean over ordinary tokens. A triangle: the error falls, a cross: it rises, "
                 "beyond 1 % over the whole interval; a bar: no difference.")


def _here(view: Chosen, found: Sequence[Place], names: tuple[str, str]) -> None:
    """The place that the sidebar names."""
    place = next((p for p in found if (p.block, p.site) == (view.block, view.site)), None)
    if place is None:
        st.info("The residual stream is not rounded: choose another site in the sidebar to read its verdict.", icon=":material/info:")
        return
    said = f"**{capital(view.at)}**: {plain(names[1])} **{_verb(place.kind)}**"
    if place.kind == UNKNOWN:
        st.markdown(f"{said}: {plain(place.reason)}.")
        return
    st.markdown(f"{said}. It loses {place.ratio:.3g} times what {plain(names[0])} loses "
                f"(95 % interval {place.low:.3g} to {place.high:.3g}, {place.tokens} ordinary tokens). {capital(plain(place.reason))}.")
    st.page_link("pages/rotate.py", label="Token by token on the page Rotate", icon=":material/sync:")


def _table(found: Sequence[Place]) -> None:
    order = st.segmented_control("Order", list(ORDERS), default="worst first", required=True, key="vorder", bind="query-params")
    kinds = st.pills("Show", list(ICONS), selection_mode="multi", default=list(ICONS)[:3], key="vkinds", bind="query-params")
    if all(p.kind == UNKNOWN for p in found):
        kinds = [UNKNOWN]  # there is nothing else to show
    shown = [p for p in sorted(found, key=ORDERS[order]) if p.kind in kinds]
    if not shown:
        st.caption("No place has such a verdict.")
        return
    st.dataframe(pd.DataFrame([{"block": p.block, "site": str(p.site), "verdict": p.kind, "B / A": p.ratio, "why": p.reason, "from": p.low,
                                "to": p.high, "lost under A": percent(p.error_a), "under B": percent(p.error_b), "massive": p.massive_words or "–"}
                               for p in shown]),
                 hide_index=True, height=min(38 + 35 * len(shown), 388), key="places", alt="The verdict at each place",
                 column_config={name: st.column_config.NumberColumn(format="%.3g") for name in ("B / A", "from", "to")})
    st.caption("Lost: median share of a token's energy.")


def _last(value: float) -> float:
    """Not a number sorts behind all numbers."""
    return math.inf if math.isnan(value) else value


def _verb(kind: str) -> str:
    return {HELPS: "helps", SAME: "makes no difference", HURTS: "hurts", UNKNOWN: "cannot be judged"}[kind]


draw()
