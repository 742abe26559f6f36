r"""Token microscope: the text itself, each token colored by what 4 bits cost it, and what happens to the sinks when the text is changed.

    error at a site     |x R - Q(x R)|^2 / |x|^2          of each token's row, in isolation
    loss difference     log p_float(t) - log p_quantized(t)   of each token, with the activations of every block rounded

Averages hide that a rotation may serve most tokens and fail the few that all others attend to. Put another token first, take the full stops away, or
leave BOS out: the massive tokens (sinks) move, and with them the place where rounding hurts. Gu et al., When Attention Sink Emerges (arXiv
2410.10781); Sun et al., Massive Activations (2402.17762).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import streamlit as st

from rotviz.evaluation.sites import Turn
from rotviz.numerics.massive import PersistentToken
from rotviz.plots.token_strip import draw_token_strip
from rotviz.plots.token_winners import draw_token_winners, winners
from rotviz.plots.words import visible
from rotviz.types import SITE_WORDS, QuantSpec
from rotviz.ui.cache import captured, persistent_tokens
from rotviz.ui.choices import Chosen, chosen
from rotviz.ui.microscope import losses, moved, pick_change, pick_methods, served, sinks, site_errors, too_long, worst
from rotviz.ui.turns import LAST_SEED, pick_name, pick_slots, pick_spec, spec_words, warn_idle
from rotviz.ui.words import capital, number_words, plain

MEASURES = {"error": "relative error of the token at the chosen site and block",
            "loss": "loss of the token under the quantized model minus that under the float model, nats"}
BEST = "best method"
SHOWN = 1024
HEIGHT = 380


@dataclass(frozen=True)
class Text:
    """One text under the microscope: its tokens, its massive tokens, and by method a number for each token [T]."""

    title: str
    tokens: tuple[str, ...]
    massive: list[PersistentToken]
    values: Mapping[str, np.ndarray]

    @property
    def sinks(self) -> set[int]:
        """Positions of massive tokens."""
        return {m.index for m in self.massive}


def pick_color(names: Sequence[str]) -> str:
    """What the colors show: one method's numbers, or which method is best."""
    options = [*names, BEST]
    if st.session_state.get("color", BEST) not in options:
        del st.session_state["color"]  # that method is no longer compared
    return st.selectbox("Colors show", options, options.index("hadamard") if "hadamard" in options else 0, key="color", bind="query-params",
                        help="One method's number on every token, or the method with the least of it.")


def measured(view: Chosen, turns: Mapping[str, Turn], spec: QuantSpec, measure: str) -> list[Text]:
    """The text as it is and, where something was changed, as it is then."""
    changed = pick_change(view.look, view.capture)
    looks = [view.look, changed] if changed != view.look else [view.look]
    captures = [view.capture, *(captured(look) for look in looks[1:])]
    paths = [capture.path for capture in captures]
    if measure == "loss":
        found = [{name: loss.difference for name, loss in by_method.items()} for by_method in losses(looks, paths, turns, spec)]
    else:
        found = [site_errors(path, view.block, view.site, turns, spec) for path in paths]
    titles = ("As it is", "Changed")
    return [Text(title, capture.tokens, persistent_tokens(capture.path), values)
            for title, capture, values in zip(titles, captures, found, strict=False)]


def in_words(view: Chosen, spec: QuantSpec, measure: str, text: Text, color: str) -> str:
    """What is measured, which method serves most tokens, and under the chosen one how much and where; Markdown."""
    where = f"{capital(SITE_WORDS[view.site])}, block {view.block}" if measure == "error" else "Weights in float, the inputs of all linears rounded"
    names, values = list(text.values), text.values.get(color)
    said = f"{where}; {spec_words(spec)}. {capital(served(winners(np.stack(list(text.values.values()))), names))}"
    if values is None or not np.isfinite(values).any():
        return said
    return f"{said} Under {plain(color)} the mean is **{number_words(mean(values))}**, the largest on {worst(text.tokens, values)}."


def strips(texts: Sequence[Text], color: str, what: str, log: bool) -> None:
    """The texts side by side, with one scale of colors."""
    shown = [text.values.get(color) for text in texts]
    known = np.concatenate([v[np.isfinite(v)] for v in shown if v is not None] or [np.empty(0)])
    known = known[known > 0] if log else known
    limits = {"value_min": float(known.min()), "value_max": float(known.max())} if known.size else {}
    for column, text, values in zip(st.columns(len(texts)), texts, shown, strict=True):
        with column:
            st.markdown(f"**{text.title}** · sinks: {sinks(text.tokens, text.massive)}")
            with st.container(height=HEIGHT if len(text.tokens) > 120 else "content", border=True):
                tokens, marked = text.tokens[:SHOWN], {i for i in text.sinks if i < SHOWN}
                if values is None:
                    st.html(draw_token_winners(tokens, {name: v[:SHOWN] for name, v in text.values.items()}, marked, what=what))
                else:
                    st.html(draw_token_strip(tokens, values[:SHOWN], marked, what=what, log=log, **limits))


def by_method(texts: Sequence[Text], what: str) -> None:
    """Means and wins of every method, before and after."""
    rows = []
    for text in texts:
        best = winners(np.stack(list(text.values.values())))
        ordinary = np.array([i not in text.sinks for i in range(len(text.tokens))])
        for i, (name, values) in enumerate(text.values.items()):
            rows.append({"text": text.title.lower(), "method": name, "all": mean(values), "massive": mean(values[~ordinary]),
                         "ordinary": mean(values[ordinary]), "best on": int((best == i).sum())})
    form = st.column_config.NumberColumn(format="%.3g")
    st.dataframe(table_of(rows, texts), hide_index=True, key="by-method", placeholder="–", alt="Means of every method and the tokens it is best on",
                 column_config={name: form for name in ("all", "massive", "ordinary")})
    st.caption(f"Mean {what} of all, the massive and the ordinary tokens; *best on* counts the tokens on which a method has the least.")


def mean(values: np.ndarray) -> float:
    """The mean of what is finite; NaN of nothing."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def by_token(text: Text, what: str) -> None:
    """A row for each token; a click on a column's head sorts by it."""
    names = list(text.values)
    table = np.stack(list(text.values.values()))
    best = winners(table)
    frame = pd.DataFrame({"position": np.arange(len(text.tokens)), "token": [visible(t) for t in text.tokens],
                          BEST: [names[i] if i >= 0 else "" for i in best], **dict(zip(names, table, strict=True)),
                          "massive": [i in text.sinks for i in range(len(text.tokens))]})
    st.dataframe(frame, hide_index=True, height=HEIGHT, key="by-token", placeholder="–", alt="Every token under each method",
                 column_config={name: st.column_config.NumberColumn(format="%.3g", help=what) for name in names})
    first = " Nothing comes before the first token, so it has no loss." if np.isnan(table[:, 0]).all() else ""
    st.caption(f"Every token with the number under each method; a column's head sorts. ⋯ is a further piece of the character above it.{first}")


def where_sinks_are(texts: Sequence[Text]) -> None:
    """The massive tokens of both texts."""
    rows = [{"text": text.title.lower(), "position": m.index, "token": visible(text.tokens[m.index]), "channel": m.channel, "value": m.value,
             "medians": m.ratio, "blocks": f"{m.first_block}–{m.last_block}"} for text in texts for m in text.massive]
    if not rows:
        st.caption("No token of these texts is massive.")
        return
    number = st.column_config.NumberColumn(format="%.0f")
    st.dataframe(table_of(rows, texts), hide_index=True, key="sinks", alt="The massive tokens", column_config={"value": number, "medians": number})
    st.caption("Value: the largest number of the token in that channel of the residual stream; medians: how many times the median that is.")


def table_of(rows: Sequence[Mapping[str, object]], texts: Sequence[Text]) -> pd.DataFrame:
    """The rows; which text one is of goes without saying where there is one text."""
    table = pd.DataFrame(rows)
    return table.drop(columns="text") if len(texts) == 1 else table


view = chosen()
st.title("Token microscope")
with st.container(border=True):
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    with left:
        slots = pick_slots()
    with right:
        spec = pick_spec(view.site)
    left, right = st.columns([5, 1], vertical_alignment="bottom")
    seed = int(right.number_input("Seed", 0, LAST_SEED, 0, key="seed", bind="query-params", help="Of the random rotations."))
    with left:
        turns = pick_methods(view.look.model, seed, slots)
    left, right = st.columns(2, vertical_alignment="bottom")
    with left:
        measure = pick_name("Measure", MEASURES, "measure")
    if not turns:
        st.info("Choose at least one method.", icon=":material/info:")
        st.stop()
    with right:
        color = pick_color(list(turns))
    place = st.container()
if measure == "error":
    warn_idle(view.site, list(turns.values()))
if measure == "loss" and too_long(view.capture):
    st.info("Losses by token are measured for texts of up to 1,024 tokens: choose fewer at the left.", icon=":material/info:")
    st.stop()
with place:
    texts = measured(view, turns, spec, measure)
what = "relative error" if measure == "error" else "loss difference"
st.markdown(in_words(view, spec, measure, texts[-1], color))
if len(texts) > 1:
    st.markdown(f"#### {moved((texts[0].tokens, texts[0].massive), (texts[1].tokens, texts[1].massive))}")
strips(texts, color, what, log=measure == "error")
st.caption("Hover over a token for its number; the table has them all. "
           + ("Change the prefix or the delimiters above to see two texts side by side." if len(texts) == 1 else "Both texts share their colors."))
left, right = st.columns(2)
with left:
    st.markdown("##### Token by token")
    shown = texts[0]
    if len(texts) > 1:
        title = st.segmented_control("Text", [text.title for text in texts], default=texts[0].title, required=True, key="which",
                                     bind="query-params", label_visibility="collapsed")
        shown = next(text for text in texts if text.title == title)
    by_token(shown, what)
with right:
    st.markdown("##### Method by method")
    by_method(texts, what)
    st.markdown("##### Where the sinks are")
    where_sinks_are(texts)
