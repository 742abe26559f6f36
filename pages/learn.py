r"""Learn a rotation: methods that fit a rotation to a model's activations, watched while they learn, then held against plain luck.

A random Hadamard rotation is hard to beat: it costs nothing and spreads every outlier. A learned one has to lose less than the seeds of the
random one differ from each other. So each result here stands beside the spread of seeds, with a verdict:

    helps / hurts    outside   m \pm t_{n-1, 0.975} s \sqrt{1 + 1/n},   where one more random draw would fall (evaluation/verdict.py)
    no difference    inside

Learning is long work: the button queues runs that learn and are then measured on a short text; the same recipe does the same from the command line.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from rotviz.evaluation.sites import Turn, mark_of
from rotviz.evaluation.verdict import judge
from rotviz.jobs.queue import tend
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.saved import SavedRotation, saved_rotations
from rotviz.plots.channel_ribbons import draw_channel_ribbons
from rotviz.plots.error_scatter import draw_error_scatter
from rotviz.plots.frame import shared_range
from rotviz.plots.histogram import draw_histogram
from rotviz.plots.massive_ordinary import draw_massive_ordinary
from rotviz.plots.seed_spread import draw_seed_spread
from rotviz.plots.token_channels import draw_token_channels
from rotviz.plots.words import count, number
from rotviz.reports.run_figures import learning_curves
from rotviz.reports.runs import dig, method_of
from rotviz.rotations import ROTATIONS
from rotviz.types import SLOT_OF_SITE, QuantSpec, Site
from rotviz.ui.accumulated import queue_runs
from rotviz.ui.cache import counted, errors_by_token, percentiles, persistent_tokens, r1_errors_of, row_texts, rows_of_token, summary
from rotviz.ui.choices import Chosen, chosen
from rotviz.ui.forms import pick_text, plain_form
from rotviz.ui.learning import (
    BASELINE,
    LEARNED,
    R1,
    STARTS_OFFERED,
    Group,
    Wish,
    cost_and_gain,
    file_of,
    groups_of,
    learning_recipes,
    learning_words,
    lottery,
    start_turn,
    verdict_row,
    verdict_words,
)
from rotviz.ui.live import live_queue, stopped_runs
from rotviz.ui.pace import sentence
from rotviz.ui.runs import already_done, on_the_way, safe
from rotviz.ui.show import show
from rotviz.ui.turns import LAST_SEED, pick_name, pick_slots, pick_spec, saved_turn, spec_words
from rotviz.ui.words import percent, token_words

TABS = ("Cost and gain", "Massive and ordinary", "Seed lottery", "Before and after", "By token", "Learning")
LENGTHS = (64, 128, 256, 512, 1024, 2048)
SHOWN = 4  # saved rotations that are chosen at first
HEAVY = 100  # a crest factor beyond which axes are logarithmic
SCORES = {"perplexity": ("perplexity", "quantized", "value"), "KL": ("divergence", "kl_nats")}
SCORE_WORDS = {"perplexity": "exp of the mean negative log-likelihood", "KL": "divergence from the float model, nats a token"}


# What is asked for


def ask(view: Chosen) -> QuantSpec:
    """Methods, settings and the grid; the button that queues the runs."""
    with st.container(border=True):
        methods = st.pills("Methods", LEARNED, selection_mode="multi", default=["peak"], key="lm", bind="query-params",
                           help="\n\n".join(f"**{name}**: {ROTATIONS[name].summary}" for name in LEARNED))
        with st.container(horizontal=True, vertical_alignment="bottom"):
            start = pick_start(view)
            seed = int(st.number_input("Seed of learning", 0, LAST_SEED, 0, key="lseed", bind="query-params", width=150,
                                       help="Of the start and of every random choice."))
            seeds = int(st.number_input(f"{BASELINE.capitalize()} seeds", 0, 20, 3, key="lh", bind="query-params", width=150,
                                        help="Runs of the random rotation to compare perplexities with; a verdict needs two."))
        settings = {method: method_settings(method) | {"start": start} for method in methods or ()}
        text = pick_texts()
        slots = pick_slots()
        st.markdown("**The grid to aim at**, also that of the errors below")
        spec = pick_spec(Site.MLP_IN)
        with st.container(horizontal=True):
            weights = st.segmented_control("Weights", [16, 8, 4, 3], default=16, required=True, key="lw", bind="query-params",
                                           help="Bits of the weights in the runs, round to nearest; 16 = float.")
            cache = st.segmented_control("KV cache", [16, 8, 4], default=16, required=True, key="lkv", bind="query-params",
                                         help="Bits of keys and values in the runs; 16 = float.")
    recipes = learning_recipes(Wish(view.look.model, seed, text, slots, spec, weights, cache), settings, seeds) if text and settings else []
    queue_button(recipes)
    return spec


def pick_start(view: Chosen) -> str:
    """Where R1 and R2 start: a method's name, or a saved rotation's file, so that methods chain."""
    saved = {s.title: str(s.path) for s in saved_rotations(view.look.model)}
    name = st.selectbox("Start", [*STARTS_OFFERED, *saved], key="ls", bind="query-params", width=280,
                        help="Where R1 and R2 start. From a saved rotation methods chain, such as DartQuant and then DFRot.")
    return saved.get(name, name)


def method_settings(method: str) -> dict[str, Any]:
    """A method's own settings, folded away; the published values are the defaults."""
    with st.expander(f"Settings of {method}"):
        st.caption(ROTATIONS[method].summary)
        return plain_form(ROTATIONS[method], f"learn.{method}", skip=("start",))


def pick_texts() -> dict[str, Any] | None:
    """What is learned from and what is measured on; None while a text is missing."""
    left, right = st.columns(2)
    with left:
        calibration = pick_text("Calibration text", "lc", "What the rotation is learned from.", "wikitext2:validation")
    with right:
        evaluation = pick_text("Evaluation text", "le", "What perplexity is measured on.")
    with st.container(horizontal=True):
        samples = st.number_input("Calibration windows", 1, 1024, 8, key="ln", bind="query-params", width=170)
        windows = st.number_input("Evaluation windows", 1, 1000, 2, key="lwin", bind="query-params", width=170,
                                  help="From the start of the text. A few make a quick look; a number for a paper wants all of them (page Evaluate).")
        length = st.selectbox("Length", LENGTHS, LENGTHS.index(512), key="ll", bind="query-params", width=130, help="Tokens in a window of either.")
    if calibration is None or evaluation is None:
        st.info("Choose a text file (UTF-8, up to 20 MB).", icon=":material/upload_file:")
        return None
    return {"calibration": calibration, "evaluation": evaluation, "samples": int(samples), "windows": int(windows), "length": length}


def queue_button(recipes: Sequence[Recipe]) -> None:
    """How many runs, how long, and off they go."""
    done = already_done(recipes)
    waiting = on_the_way(recipes)
    wanted = [r for r in recipes if r.fingerprint not in waiting and r.fingerprint not in done]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(f"Put {count(len(wanted), 'run')} on the queue" if wanted else "Put on the queue", type="primary", key="go", disabled=not wanted,
                  on_click=queue_runs, args=(wanted,), icon=":material/model_training:")
        known = f" {count(len(done), 'run')} of these settings {'has' if len(done) == 1 else 'have'} a result already." if done else ""
        known += f" {count(len(waiting), 'run')} {'is' if len(waiting) == 1 else 'are'} on the queue." if waiting else ""
        st.caption((sentence(wanted) if wanted else "" if recipes else "Choose a method.") + known)


# What was learned


def choose_new(model: str, titles: list[str]) -> None:
    """What has been learned since the page was first drawn is chosen beside what was."""
    known = st.session_state.setdefault(f"learned-{model}", titles)
    new = [title for title in titles if title not in known]
    if new and "lr" in st.session_state:
        st.session_state["lr"] = [*st.session_state["lr"], *new]
    st.session_state[f"learned-{model}"] = titles


def results(view: Chosen, spec: QuantSpec) -> None:
    """Everything that is known of the chosen rotations."""
    saved = {s.title: s for s in saved_rotations(view.look.model)}
    choose_new(view.look.model, list(saved))
    groups = {g.label: g for g in groups_of(view.look.model)}
    titles = st.multiselect("Learned rotations of this model", list(saved), list(saved)[:SHOWN], key="lr", bind="query-params",
                            placeholder="none is learned yet" if not saved else "none chosen")
    left, right = st.columns([2, 5], vertical_alignment="bottom")
    seeds = int(left.number_input("Random seeds", 2, 64, 8, key="lot", bind="query-params",
                                  help="Random rotations of each kind to compare with: more make the interval of one lucky draw sharper."))
    group = groups[right.selectbox("Runs", list(groups), key="lg", bind="query-params",
                                   help="Perplexities are compared within one protocol and one grid only.")] if groups else None
    st.caption(f"Errors are those of the {spec_words(spec)} on the text in the sidebar, over what R1 turns (attn_in and mlp_in) in all blocks; "
               "perplexities are those of the runs.")
    shown = [saved[title] for title in titles]
    for name, tab in zip(TABS, st.tabs(list(TABS), key="ltab", bind="query-params", on_change="rerun"), strict=True):
        if tab.open:
            with tab:
                draw_tab(name, view, spec, shown, seeds, group)


def draw_tab(name: str, view: Chosen, spec: QuantSpec, shown: list[SavedRotation], seeds: int, group: Group | None) -> None:
    """One tab; those that are about learned rotations say so where there is none."""
    if name == "Massive and ordinary":
        massive_and_ordinary(view, spec, shown, seeds)
    elif name == "Seed lottery":
        seed_lottery(view, spec, shown, seeds, group)
    elif not shown:
        st.info("No learned rotation is chosen. Put a run on the queue above, or choose one of those that are learned already; the tabs "
                "*Massive and ordinary* and *Seed lottery* show what random rotations do.", icon=":material/info:")
    elif name == "Cost and gain":
        costs(view, spec, shown, group)
    elif name == "Learning":
        curves(shown)
    else:
        left, right = st.columns([3, 2], vertical_alignment="bottom")
        with left:
            one = saved_named(shown)
        with right:
            against = pick_against(one)
        (before_and_after if name == "Before and after" else by_token)(view, spec, one, against)


def saved_named(shown: Sequence[SavedRotation]) -> SavedRotation:
    """Which of the chosen rotations is looked at closely."""
    named = {s.title: s for s in shown}
    return named[st.selectbox("Rotation", list(named), key="lone", bind="query-params")]


def with_r1(shown: Sequence[SavedRotation]) -> list[SavedRotation]:
    """Those that hold an R1: the others turn nothing between the blocks."""
    return [s for s in shown if saved_turn(s, R1).acts_on(Site.ATTN_IN)]


def costs(view: Chosen, spec: QuantSpec, shown: list[SavedRotation], group: Group | None) -> None:
    """The price of each and what it bought."""
    turning = with_r1(shown)
    before = r1_errors_of(view.capture.path, [start_turn(s, R1) for s in turning], spec)
    after = r1_errors_of(view.capture.path, [saved_turn(s, R1) for s in turning], spec)
    table = cost_and_gain(turning, before, after, group.by_file() if group else {})
    share, fixed = st.column_config.NumberColumn(format="%.3e"), st.column_config.NumberColumn(format="%.4g")
    st.dataframe(table, hide_index=True, key="costs", placeholder="–", column_config={
        "seconds": st.column_config.NumberColumn(format="%.1f"), "peak MB": st.column_config.NumberColumn(format="%.0f"),
        "tokens": st.column_config.NumberColumn(format="localized", help="Calibration tokens looked at, each as often as it was."),
        **dict.fromkeys(("ordinary, start", "ordinary", "massive, start", "massive"), share), "perplexity": fixed, "KL": fixed,
        "calibration": st.column_config.TextColumn(width="medium")})
    st.caption("What learning took, whenever it was done, and the share of energy that rounding loses on ordinary and massive tokens: with the "
               "rotation that learning started from, and with the learned one. Perplexity and KL (nats a token) are those of the runs chosen above.")
    if len(turning) < len(shown):
        st.caption(f"{count(len(shown) - len(turning), 'rotation')} without R1 left out.")


def curves(shown: Sequence[SavedRotation]) -> None:
    """The loss and the errors of each while it learned."""
    for saved in shown:
        st.markdown(f"**{saved.title}**, {safe(saved.protocol)}")
        found = learning_curves(saved.history)
        for column, (name, drawing) in zip(st.columns(max(len(found), 1)), found.items(), strict=False):
            with column:
                show(drawing, f"curve-{name}-{saved.mark}")
        st.caption(learning_words(saved.history))


def errors_by_method(view: Chosen, spec: QuantSpec, shown: Sequence[SavedRotation], seeds: int) -> tuple[dict[str, list], dict[str, list[str]]]:
    """Errors over all blocks of random and of learned rotations, and what each is called."""
    turns = lottery(seeds)
    labels = {method: [f"seed {t.seed}" for t in found] for method, found in turns.items()}
    for saved in with_r1(shown):
        turns.setdefault(saved.method, []).append(saved_turn(saved, R1))
        labels.setdefault(saved.method, []).append(f"seed {saved.seed}, {saved.mark}")
    flat = [turn for found in turns.values() for turn in found]
    errors = dict(zip(flat, r1_errors_of(view.capture.path, flat, spec), strict=True))
    return {method: [errors[turn] for turn in found] for method, found in turns.items()}, labels


def massive_and_ordinary(view: Chosen, spec: QuantSpec, shown: Sequence[SavedRotation], seeds: int) -> None:
    """DFRot's finding, on this model."""
    errors, labels = errors_by_method(view, spec, shown, seeds)
    points = {m: (np.array([e.ordinary for e in found]), np.array([e.massive for e in found])) for m, found in errors.items()}
    st.markdown(finding(points))
    if np.isnan(points[BASELINE][1]).all():
        show(draw_seed_spread({m: ordinary for m, (ordinary, _) in points.items()}, what="relative error"), "ordinary-only",
             caption="Without massive tokens there is one kind of error; a dot is a rotation.")
        return
    show(draw_massive_ordinary(points, labels=labels), "massive-ordinary",
         caption="Where random orthogonal and Hadamard rotations stand above each other, they differ on massive tokens alone. What learning gains "
         "shows as marks further down, or further left, than all seeds.")


def finding(points: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Orthogonal against Hadamard in words."""
    (ordinary_o, massive_o), (ordinary_h, massive_h) = points["orthogonal"], points[BASELINE]
    words = f"On **ordinary** tokens a random orthogonal rotation loses {percent(ordinary_o.mean())} of the energy and a Hadamard one "
    words += f"{percent(ordinary_h.mean())}. "
    if np.isnan(massive_h).all():
        return words + "No token of this text is **massive** in this model, so that there is nothing else to tell them apart."
    low, high = sorted((float(massive_o.mean()), float(massive_h.mean())))
    times = f", {number(float(f'{high / low:.2g}'))} times apart" if low > 0 else ""
    return words + f"On **massive** ones it is {percent(massive_o.mean())} against {percent(massive_h.mean())}{times}."


def seed_lottery(view: Chosen, spec: QuantSpec, shown: Sequence[SavedRotation], seeds: int, group: Group | None) -> None:
    """The spread of random rotations with the learned ones beside it, and the verdicts."""
    errors, labels = errors_by_method(view, spec, shown, seeds)
    values = {method: np.array([e.all for e in found]) for method, found in errors.items()}
    rows, words = [], []
    for method, found in errors.items():
        for label, error in zip(labels[method], found, strict=True):
            if method in ("orthogonal", BASELINE):
                continue
            verdicts = {kind: judge(getattr(error, kind), [getattr(e, kind) for e in errors[BASELINE]]) for kind in ("all", "ordinary", "massive")}
            words.append(verdict_words(f"{method}, {label}", verdicts["all"], "the relative error is"))
            rows += [verdict_row(f"{method}, {label}", f"error, {kind} tokens", v) for kind, v in verdicts.items() if np.isfinite(v.value)]
    left, right = st.columns(2)
    with left:
        st.markdown("**Error of rounding**")
        band = judge(np.nan, values[BASELINE])
        show(draw_seed_spread(values, band=(band.low, band.high), what="relative error"), "lottery",
             caption=f"All blocks, all tokens. Shaded: where one more {BASELINE} seed would fall (95 %). Inside it a gain is luck.")
        for sentence in words:
            st.markdown(sentence)
    with right:
        st.markdown("**Perplexity and KL of runs**")
        rows += run_lottery(group)
    if rows:
        st.markdown("**Verdicts**")
        st.dataframe(pd.DataFrame(rows), hide_index=True, key="verdicts", height=min(38 + 35 * len(rows), 600),
                     column_config={c: st.column_config.NumberColumn(format="%.4g")
                                    for c in ("value", f"{BASELINE} mean", "low", "high", "difference")})
        st.latex(r"m \pm t_{n-1,\,0.975}\; s\, \sqrt{1 + 1/n}")
        st.caption(f"low and high: where one more {BASELINE} seed would fall, from the mean m, standard deviation s and number n of seeds.")


def run_lottery(group: Group | None) -> list[dict[str, Any]]:
    """The same for the runs of one protocol and grid; rows for the table of verdicts."""
    if group is None:
        st.info("No finished run of a learned rotation of this model yet. Queue one above, with a few seeds of the random one beside it.",
                icon=":material/info:")
        return []
    score = pick_name("Measure", SCORE_WORDS, "lscore")
    methods = group.by_method()
    values = {m: np.array([dig(r.result, *SCORES[score]) or np.nan for r in found], dtype=float) for m, found in methods.items()}
    names = {m: np.array([r.recipe["seed"] for r in found]) for m, found in methods.items()}
    band = judge(np.nan, values.get(BASELINE, ()))
    reference = dig(group.records[0].result, "perplexity", "reference", "value") if score == "perplexity" else None
    show(draw_seed_spread(values, seeds=names, reference=reference, band=(band.low, band.high), what=score), "run-lottery",
         caption=f"{group.label}. Shaded: where one more {BASELINE} seed would fall (95 %).")
    rows = []
    for what, path in SCORES.items():
        for record, verdict in group.verdicts(*path):
            name = f"{method_of(record)}, seed {record.recipe['seed']}, {mark_of(file_of(record))}"
            rows.append(verdict_row(name, f"{what} of the run", verdict))
            if what == score:
                st.markdown(verdict_words(name, verdict, f"the {score} is" if score == "perplexity" else "KL is"))
    return rows


def pick_against(saved: SavedRotation) -> tuple[str, Turn]:
    """What the learned rotation is held against: the original model, or the rotation that learning started from."""
    start = start_turn(saved, Turn("none").slots)
    other = st.segmented_control("Against", ["start", "original"], default="start", required=True, key="lagainst", bind="query-params",
                                 help="start: the rotation that learning started from; original: no rotation.")
    return (f"Start: {start.label}", start) if other == "start" and start.method != "none" else ("Original, no rotation", Turn("none"))


def before_and_after(view: Chosen, spec: QuantSpec, saved: SavedRotation, against: tuple[str, Turn]) -> None:
    """Histogram, channels and a massive token on the same axes."""
    sides = [(*against, "before"), (f"Learned: {saved.title}", saved_turn(saved, Turn("none").slots), "after")]
    slot = SLOT_OF_SITE[view.site]
    learned = ROTATIONS[saved.method].learned_slots if saved.method in LEARNED else ()
    st.markdown(f"{view.at[0].upper()}{view.at[1:]}, turned by {slot}, in units of each side's root mean square."
                + ("" if slot in learned else f" {slot} is not learned by {saved.method}: choose another site in the sidebar to see it."))
    path, place = view.capture.path, (view.block, view.site)
    numbers = {key: summary(path, *place, turn) for _, turn, key in sides}
    units = {key: n.absmax / n.crest if n.crest else 1.0 for key, n in numbers.items()}
    counts = {key: counted(path, *place, turn) for _, turn, key in sides}
    bands = {key: percentiles(path, *place, turn) / units[key] for _, turn, key in sides}
    heavy = max(n.crest for n in numbers.values()) > HEAVY
    across = shared_range(*(edges / units[key] for key, (_, edges) in counts.items()))
    up, limits = (0.7, 2 * max(float(c.max()) for c, _ in counts.values())), shared_range(*bands.values(), symmetric_log=heavy)
    for column, (title, turn, key) in zip(st.columns(2), sides, strict=True):
        with column:
            lost = errors_by_token(path, *place, turn, spec).all
            st.markdown(f"**{title}**  \nlargest number {number(round(numbers[key].crest, 2))} rms, rounding loses {percent(lost)}")
            found, edges = counts[key]
            curve = (numbers[key].mean / units[key], numbers[key].std / units[key])
            show(draw_histogram(found, edges / units[key], normal=curve, x_range=across, y_range=up, what="activation / rms"), f"histogram-{key}",
                 caption="Bars outside the dashed normal curve stretch the grid.")
            show(draw_channel_ribbons(bands[key], y_range=limits, symmetric_log=heavy, what="activation / rms"), f"ribbons-{key}",
                 caption="Percentiles of every channel.")
    massive_token(view, sides)


def massive_token(view: Chosen, sides: Sequence[tuple[str, Turn, str]]) -> None:
    """The channels of the first massive token, where there is one."""
    massive = persistent_tokens(view.capture.path)
    token = massive[0].index if massive else 0
    values = {key: rows_of_token(view.capture.path, view.block, view.site, turn, token) for _, turn, key in sides}
    if not massive or any(v is None for v in values.values()):
        return
    st.markdown(f"**The channels of massive {token_words(token, view.capture.tokens[token])}**")
    limits = (0.0, 1.15 * max(float(np.abs(v).max()) for v in values.values()))
    for column, (title, _, key) in zip(st.columns(2), sides, strict=True):
        with column:
            show(draw_token_channels(values[key], view.capture.tokens[token], token, top=1, y_range=limits), f"token-{key}",
                 caption=f"{title}. Few levels round well; a smooth spread does not.")


def by_token(view: Chosen, spec: QuantSpec, saved: SavedRotation, against: tuple[str, Turn]) -> None:
    """Every token's error: the start, or the original model, against what was learned."""
    title, turn = against
    place, new = (view.capture.path, view.block, view.site), saved_turn(saved, Turn("none").slots)
    before, after = errors_by_token(*place, turn, spec), errors_by_token(*place, new, spec)
    names = (turn.label if turn.method != "none" else "no rotation", saved.method)
    show(draw_error_scatter(before.relative, after.relative, row_texts(*place), name_a=names[0], name_b=names[1],
                            massive=np.flatnonzero(before.massive)), "scatter",
         caption=f"{view.at[0].upper()}{view.at[1:]}. Each point is a token, below the diagonal the learned rotation loses less; diamonds are "
         "massive tokens.")
    kinds = {"all tokens": "all", "massive tokens": "mean_massive", "ordinary tokens": "mean_ordinary"}
    st.dataframe(pd.DataFrame([{"tokens": words, title: percent(getattr(before, kind)), f"Learned: {saved.title}": percent(getattr(after, kind))}
                               for words, kind in kinds.items()]), hide_index=True, key="split")


view = chosen()
tend()
st.title("Learn a rotation")
st.markdown("A **random** Hadamard rotation costs nothing. A **learned** one must lose less than random ones differ from each other: choose methods, "
            "watch them learn, and see whether it was worth it.")
spec = ask(view)
st.subheader("Queue")
live_queue()
stopped_runs(view.look.model)
st.subheader("What was learned")
results(view, spec)
