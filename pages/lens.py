r"""Rotation lens: the way from no rotation to a rotation, stop by stop, and how outliers melt on it.

    R(t) = exp(t log R)        R(0) = I,  R(1) = R

Every plane of the rotation turns by its own angle; at t each has turned by the share t of it. A spike $s e_c$ becomes $s$ times row $c$ of
R(t): at first nearly all of it stays in its channel, in the end a Hadamard matrix has dealt it out evenly. The largest number of a token sets the
step of the grid, so the error follows the spike down.
"""

import numpy as np
import streamlit as st

from rotviz.evaluation.lens import STOPS, Lens, Measures, Spike, Stop, channels_for
from rotviz.evaluation.sites import R1_SITES, Turn
from rotviz.plots.curves import draw_curves
from rotviz.plots.energy_spread import draw_energy_spread
from rotviz.plots.histogram import draw_histogram
from rotviz.plots.token_channel_map import draw_token_channel_map
from rotviz.plots.words import count, number, short, visible
from rotviz.types import SITE_WORDS, SLOT_OF_SITE, QuantSpec
from rotviz.ui.cache import row_texts
from rotviz.ui.choices import Chosen, chosen
from rotviz.ui.lens import counts, lens, lens_texts, stops
from rotviz.ui.show import show
from rotviz.ui.turns import pick_slots, pick_spec, pick_turn, spec_words, warn_idle
from rotviz.ui.words import number_words, percent, token_words

CELLS = (96, 144)
HEAVY = 100  # a crest factor beyond which colors are logarithmic
KINDS = {"all tokens": "all", "massive tokens": "massive", "ordinary tokens": "ordinary"}
SHARE = 0.9


def headline(start: Stop, now: Stop, end: Stop) -> None:
    """Three numbers at t, each against the start, and a sentence."""
    for column, (label, name, words) in zip(st.columns(3), (
        ("Energy lost by rounding", "error", percent), ("Excess kurtosis", "kurtosis", number_words),
        ("Peak ratio of a token", "peak_ratio", number_words)), strict=True):
        value, before = getattr(now.all, name), getattr(start.all, name)
        column.metric(label, words(value), f"{words(before)} at the start", delta_color="off", delta_arrow="off")
    st.markdown(f"At the end rounding loses **{percent(end.all.error)}** of the energy where it lost **{percent(start.all.error)}** without a "
                f"rotation; at t = {now.t:g} it loses **{percent(now.all.error)}**{apart(now)}.")


def apart(now: Stop) -> str:
    """Massive and ordinary tokens in words."""
    if now.massive is None or now.ordinary is None:
        return "; no token is massive in the stream that enters this block" if now.massive is None else ""
    return f": {percent(now.massive.error)} on massive tokens, {percent(now.ordinary.error)} on ordinary ones"


def pictures(view: Chosen, turn: Turn, seen: Lens, rows: np.ndarray, found: list[Stop], t: float) -> None:
    """The map and the histogram at t, on the axes and colors of the whole way."""
    where = (view.capture.path, view.block, view.site, turn)
    reach = max(stop.all.absmax for stop in found)
    start = seen.start.numpy()
    rms = float(np.sqrt(np.mean(np.square(start, dtype=np.float64))))
    heavy = float(np.abs(start).max()) > HEAVY * rms
    left, right = st.columns(2)
    with left:
        show(draw_token_channel_map(rows, lens_texts(*where), log=heavy, color_max=reach, color_min=rms / 10 if heavy else 0.0, cells=CELLS),
             "lens-map", caption="Dots are massive activations, columns are outlier channels: both melt on the way. Colors mean the same at every t.")
    with right:
        bars, edges = counts(*where, t, reach)
        up = (0.7, 2.0 * start.size)
        show(draw_histogram(bars, edges, normal=(0.0, rms), x_range=(-reach, reach), y_range=up), "lens-histogram",
             caption="The tails come in; the dashed curve is normal with the same energy, which is where rotations lead.")


def curves(found: list[Stop], t: float) -> None:
    """Error and kurtosis over the way."""
    name = st.segmented_control("Beside the error", ["kurtosis", "peak ratio"], default="kurtosis", required=True, key="shape", bind="query-params")
    left, right = st.columns(2)
    with left:
        show(draw_curves(STOPS, lines(found, "error"), now=t, what="relative error"), "lens-error",
             caption="Share of the energy that rounding loses. Where the curve rises, a rotation further along is worse.")
    with right:
        lines_of = lines(found, name.replace(" ", "_"))
        show(draw_curves(STOPS, lines_of, now=t, what="excess kurtosis" if name == "kurtosis" else name, symmetric_log=name == "kurtosis"),
             "lens-shape", caption="How heavy the tails are (0: normal)." if name == "kurtosis" else
             "Largest number of a token in units of its root mean square, on average: 1 at best, and the error grows with its square.")


def lines(found: list[Stop], name: str) -> dict[str, np.ndarray]:
    """A line for all, massive and ordinary tokens, where there are such."""
    measures: dict[str, list[Measures | None]] = {words: [getattr(stop, kind) for stop in found] for words, kind in KINDS.items()}
    if measures["massive tokens"][0] is None:
        measures = {"all tokens": measures["all tokens"]}
    return {words: np.array([getattr(m, name) for m in of]) for words, of in measures.items() if of[0] is not None}


def spike(view: Chosen, seen: Lens, rows: np.ndarray, t: float) -> None:
    """Where the energy of one large number goes."""
    st.markdown("##### Where a spike goes")
    texts, listed = row_texts(view.capture.path, view.block, view.site), seen.spikes()
    names = {f"{s.position}:{s.channel}": s for s in listed}
    left, right = st.columns([2, 3])
    with left:
        kept = st.session_state.get("spike")
        if kept is not None and kept not in names:  # another site has other spikes
            del st.session_state["spike"]
        one = names[st.selectbox("Spike (row:channel)", list(names), key="spike", bind="query-params",
                                 help="The largest number of each of the tokens that hold the largest ones.\n\n"
                                 + "\n\n".join(f"**{name}**: {spike_words(s, texts)}" for name, s in names.items()))]
        weights = seen.row_of_rotation(one.channel, t)
        token = rows[one.row]
        needed, whole = channels_for(SHARE, weights**2), channels_for(SHARE, token**2)
        st.markdown(f"{spike_words(one, texts)} at the start. At t = {t:g} its own channel keeps **{percent(float(weights[one.channel] ** 2))}** "
                    f"of its energy, and **{count(needed, 'channel')}** hold {percent(SHARE)} of it; the whole token's energy takes {whole:,}.")
        st.latex(r"s\,e_c R(t) = s\,\bigl(R(t)_{c1}, \dots, R(t)_{cD}\bigr)")
        st.latex(r"\textstyle\sum_j R(t)_{cj}^2 = 1")
    with right:
        show(draw_energy_spread({"the spike": weights.astype(np.float64) ** 2, "its whole token": token.astype(np.float64) ** 2}), "lens-spread",
             caption="Share of the energy in the largest channels; diamond and circle mark 90 %. The lower the curve, the more even.")


def spike_words(one: Spike, texts: list[str]) -> str:
    """`23,700 in channel 507 of token 0 “Summer”`."""
    return f"**{number(float(f'{one.value:.4g}'))}** in channel {one.channel} of {token_words(one.position, short(visible(texts[one.position]), 24))}"


def notes(view: Chosen, seen: Lens, spec: QuantSpec) -> None:
    """What a reader has to know to trust the picture."""
    whole = len(row_texts(view.capture.path, view.block, view.site))
    said = [f"Rounded to a {spec_words(spec)}."]
    if view.site in R1_SITES:
        said.append("The start is without the norm's gain, which is folded into the weights before R1 turns; other pages show the site with it.")
    if len(seen.positions) < whole:
        said.append(f"Seen on {len(seen.positions)} of {whole:,} tokens, evenly chosen, every massive one among them, so that the slider can follow.")
    if seen.flipped:
        said.append("This rotation is a reflection: no way of rotations leads there, so the way ends with one channel mirrored, which a symmetric "
                    "grid does not notice.")
    if len(seen.ways) * seen.seen.shape[2] > 1:
        said.append(f"It acts head by head: {seen.ways[0].angles.numel()} channels turn together.")
    st.caption(" ".join(said))


view = chosen()
st.title("Rotation lens")
with st.container(border=True):
    left, right = st.columns([3, 2])
    with right:
        slots = pick_slots()
    with left:
        turn = pick_turn("Rotation", "r", "hadamard", "seed", slots, view.look.model)
    spec = pick_spec(view.site)
st.markdown(f"The **{SITE_WORDS[view.site]}** (`{view.site}`) of **block {view.block}** on the straight way from no rotation to **{turn.label}**; "
            f"slot {SLOT_OF_SITE[view.site]} turns it.")
if not turn.acts_on(view.site):
    warn_idle(view.site, [turn])
    st.info("There is no way to go: choose a rotation that turns this site.", icon=":material/info:")
    st.stop()
seen = lens(view.capture.path, view.block, view.site, turn)
t = st.slider("t, the share of the way: 0 is no rotation, 1 the whole one", 0.0, 1.0, 0.5, 0.05, key="way", bind="query-params")
found = stops(view.capture.path, view.block, view.site, turn, spec)
now = min(found, key=lambda stop: abs(stop.t - t))
headline(found[0], now, found[-1])
rows = seen.rows(now.t).numpy()
pictures(view, turn, seen, rows, found, now.t)
curves(found, now.t)
spike(view, seen, rows, now.t)
notes(view, seen, spec)
