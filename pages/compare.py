"""Compare: two to six finished runs side by side, all figures on the same axes, with one choice of block, site and token for all of them.

    recipes    every difference from the first run, ranked by its effect:  mean over pairs that differ in it alone of  log PPL_b - log PPL_a
    tokens     -log p(token | before) of a run minus the float model's or another run's, token by token along the evaluated text
    texts      greedy continuations of a prompt: t_n = argmax p(. | before); from the first divergence on, two models answer different texts

Choosing a point, a bar or a row moves every other view to its block, site or token; so do the select-boxes, and the link carries them.
"""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from rotviz.errors import RotvizError
from rotviz.pipeline.generation import LONGEST_PROMPT, MOST_TOKENS, Continuation, first_divergence
from rotviz.pipeline.token_scores import same_tokens
from rotviz.plots.continuation import continuation_html
from rotviz.plots.error_by_channel import draw_error_by_channel
from rotviz.plots.token_strip import draw_token_strip
from rotviz.plots.words import count, visible
from rotviz.reports.run_figures import COSTS, MEASURES, QUALITIES, pareto_figure
from rotviz.reports.runs import by_measure, classifies, measure_of, side_by_side, title_of
from rotviz.store.runs import RunRecord, Status, Store
from rotviz.types import SITE_WORDS, Site
from rotviz.ui.choices import framed
from rotviz.ui.compare import (
    CAPTURED,
    FLOAT,
    MOST,
    Tokens,
    block_bars,
    blocks_of,
    channel_lines,
    channel_rows,
    context_of,
    cost_words,
    divergence_bars,
    effects_table,
    generate,
    labels_of,
    loss_figure,
    perplexity_bars,
    ratio_maps,
    residual_lines,
    said,
    scaled_runs,
    scores_of,
    side_of,
    site_lines,
    sites_of,
    token_rows,
    worst_tokens,
)
from rotviz.ui.reports import report_buttons
from rotviz.ui.runs import linked, listed, reference_words, safe
from rotviz.ui.show import show
from rotviz.ui.turns import pick_name
from rotviz.ui.words import capital, plain, token_words

TABS = ("Numbers", "Blocks", "Channels", "Tokens", "Cost", "Texts")
PROMPT = "The three laws of thermodynamics are"
BOUND: dict[str, Any] = {"bind": "query-params"}


def draw() -> None:
    """The page."""
    framed()
    st.title("Compare runs")
    done = [record for record in listed(status=Status.DONE) if not classifies(record)]  # those of vision models: page Runs
    if len(done) < 2:
        st.info("Two finished runs are needed, both of language models. Queue recipes on the page Evaluate, or use `python -m rotviz run`.")
        return
    records = _chosen(done)
    if len(records) < 2:
        st.info(f"Choose two to {MOST} runs. The first is what the others are compared with.")
        return
    comparable = _measured_alike(records)
    with st.container(horizontal=True):
        report_buttons(records, "cmp-report")
    drawers = {"Numbers": lambda: _numbers(records, comparable), "Blocks": lambda: _blocks(records), "Channels": lambda: _channels(records),
               "Tokens": lambda: _tokens(records), "Cost": lambda: _cost(records, done), "Texts": lambda: _texts(records)}
    for name, tab in zip(TABS, st.tabs(list(TABS), key="ctab", on_change="rerun", **BOUND)):
        if tab.open:
            with tab:
                drawers[name]()


# Which runs


def _chosen(done: list[RunRecord]) -> list[RunRecord]:
    """The chosen runs in order; the link carries their ids."""
    known = {r.run_id: r for r in done}
    wanted = linked(MOST)
    if any(classifies(Store().get(i)) for i in wanted):
        st.warning("Compare is for language models: runs of the link that classify images are left out; the page Runs shows them.",
                   icon=":material/image:")
    elif any(i not in known for i in wanted):
        st.warning("Some runs of the link are not finished: they are left out.", icon=":material/hourglass_empty:")
    st.session_state["compared"] = [i for i in wanted if i in known]
    ids = st.multiselect("Runs", list(known), key="compared", max_selections=MOST, on_change=_into_link, placeholder=f"choose two to {MOST}",
                         format_func=lambda i: f"{title_of(known[i])} · seed {known[i].recipe.get('seed')} · {i}",
                         help="The first is what the others are compared with.")
    return [known[i] for i in ids]


def _into_link() -> None:
    st.query_params.pop("run", None)
    st.query_params["runs"] = ",".join(st.session_state["compared"])


def _measured_alike(records: list[RunRecord]) -> bool:
    """Whether their perplexities may be compared; says why where not."""
    groups = by_measure(records)
    if len(groups) == 1:
        st.caption(f":material/straighten: {safe(next(iter(groups)).protocol)}. {reference_words(records)}")
        return True
    names = labels_of(records)
    lines = "\n".join(f"- **{', '.join(names[r.run_id] for r in group)}**: {safe(m.protocol)}; {safe(m.model)} in {m.dtype}"
                      for m, group in groups.items())
    st.warning(f"Their perplexities must not be compared, for they were measured differently:\n{lines}", icon=":material/balance:")
    return False


# Numbers and recipes


def _numbers(records: list[RunRecord], comparable: bool) -> None:
    if comparable:
        left, right = st.columns(2)
        with left:
            show(perplexity_bars(records), "cmp-perplexity",
                 caption="Each bar starts at the float model's perplexity; whiskers are one standard error.")
        with right:
            show(divergence_bars(records), "cmp-divergence",
                 caption="How far the next-token distribution moved from the float model's; whiskers are one standard error.")
    st.markdown("##### What differs, and what it does")
    found = effects_table(records)
    if found.empty:
        st.caption("Their recipes are the same.")
    else:
        st.dataframe(found, hide_index=True, placeholder="–", alt="Recipe keys that differ, ranked by their effect on perplexity",
                     column_config={"nats a token": st.column_config.NumberColumn(format="%.4f", help="mean change of log perplexity")})
        st.caption("× multiplies perplexity: from pairs of all stored runs of this protocol that differ in that change alone, with the 95 % "
                   "interval of the mean. A part that is switched on takes its own settings along.")
    st.markdown("##### All numbers")
    numbers = side_by_side(records)
    st.dataframe(numbers, hide_index=True, alt="Main numbers of each run", height=38 + 35 * len(numbers))


# Blocks and sites


def _blocks(records: list[RunRecord]) -> None:
    sites, depth = sites_of(records), blocks_of(records)
    if not sites or not depth:
        st.info("Nothing was rounded in these runs, so there are no errors.")
        return
    first, second, third = st.columns([4, 2, 3], vertical_alignment="bottom")
    with first:
        measure = pick_name("Error", MEASURES, "err")
    site = _site(second, sites)
    block = _block(third, depth)
    left, right = st.columns(2)
    with left:
        show(site_lines(records, site, measure, block), "cmp-lines", on_select=_block_from_line,
             caption=f"Error of the {SITE_WORDS[site]} in every block. Choose a point: its block is looked at on the right.")
    with right:
        show(block_bars(records, block, measure, sites), "cmp-sites", on_select=_site_from_bar,
             caption=f"Errors in block {block}, site by site. Choose a bar: its site is drawn on the left.")
    show(residual_lines(records, measure, block), "cmp-residual", on_select=_block_from_residual,
         caption="Residual stream after each block: solid with all earlier blocks quantized too, dotted with this block alone.")
    maps = ratio_maps(records)
    if not maps:
        st.info("The first run has no site in common with the others, or they differ in depth: there is no cell to compare.")
        return
    st.markdown("##### Errors against the first run, cell by cell")
    st.caption("Blue: smaller than the first run's there; orange: larger. One color scale for all.")
    cells = st.columns(2) if len(maps) > 1 else [st.container()]
    for i, (name, drawing) in enumerate(maps.items()):
        with cells[i % len(cells)]:
            show(drawing, f"cmp-ratio-{i}", caption=f"{plain(name)} against the first.")


def _channels(records: list[RunRecord]) -> None:
    sites = [s for s in sites_of(records) if s is not Site.RESID]
    if not sites:
        st.info("No activations were rounded in these runs, so no channel has an error.")
        return
    first, second, third = st.columns([2, 3, 2], vertical_alignment="bottom")
    site, block = _site(first, sites), _block(second, blocks_of(records))
    lines, scaled = channel_lines(records, block, site), scaled_runs(records)
    if scaled:
        st.caption(f"Left out: {plain(', '.join(scaled))}. SmoothQuant scales channels before they are rounded, which this view does not do.")
    if not lines:
        st.info(f"None of {'the other' if scaled else 'these'} runs rounds the {SITE_WORDS[site]} of block {block}.")
        return
    width = min(len(values) for values in lines.values())
    kept = st.session_state.get("ch")
    if isinstance(kept, int) and kept >= width:
        st.session_state["ch"] = width - 1
    worst = int(max(lines.values(), key=lambda v: v.max()).argmax())
    channel = int(third.number_input("Channel", 0, width - 1, worst, key="ch", **BOUND, help="Counted from 0. At first the one that loses most."))
    show(draw_error_by_channel(lines, now=channel), "cmp-channels", on_select=_channel_from_figure,
         caption=f"Error of the {SITE_WORDS[site]} of block {block} when it is rounded as in each run, on the same {CAPTURED} tokens at most, each "
         "block alone, weights in float. Under a rotation a channel is a direction of its own basis.")
    st.dataframe(channel_rows(lines, channel), hide_index=True, alt="The chosen channel's error in each run",
                 column_config={"squared error / mean square": st.column_config.NumberColumn(format="%.3e"),
                                "share of the error": st.column_config.NumberColumn(format="percent")})


def _channel_from_figure() -> None:
    _move("cmp-channels", "x", lambda x: st.session_state.update(ch=int(x)))


def _site(place: Any, sites: Sequence[Site]) -> Site:
    names = [s.value for s in sites]
    if st.session_state.get("s") not in (None, *names):
        st.session_state["s"] = names[-1]
    default = names.index(Site.MLP_IN.value) if Site.MLP_IN in sites else 0
    return Site(place.selectbox("Site", names, default, key="s", **BOUND,
                                help="\n\n".join(f"**{s}**: {SITE_WORDS[s]}" for s in sites)))


def _block(place: Any, depth: int) -> int:
    if depth < 2:
        return 0
    kept = st.session_state.get("b")
    if isinstance(kept, int) and kept > depth - 1:
        st.session_state["b"] = depth - 1
    return place.slider("Block", 0, depth - 1, min(12, depth // 2), key="b", **BOUND, help="Decoder layer, counted from 0.")


def _block_from_line() -> None:
    _move("cmp-lines", "x", lambda x: st.session_state.update(b=int(x)))


def _block_from_residual() -> None:
    _move("cmp-residual", "x", lambda x: st.session_state.update(b=int(x)))


def _site_from_bar() -> None:
    _move("cmp-sites", "x", lambda x: st.session_state.update(s=x))


def _move(figure: str, axis: str, use: Any) -> None:
    """What a choice in a figure does, where a point was chosen (and not merely let go)."""
    points = st.session_state[figure]["selection"]["points"]
    if points and points[0].get(axis) is not None:
        use(points[0][axis])


# Tokens


def _tokens(records: list[RunRecord]) -> None:
    runs, missing = scores_of(records)
    if missing:
        st.info(f"No scores by token: {plain(', '.join(missing))}. Runs made before rotviz kept them have none; run the recipe again to have them.",
                icon=":material/history:")
    if len(runs) < 2 or not same_tokens(list(runs.values())):
        if len(runs) > 1:
            st.info("These runs scored different tokens (another text, length or tokenizer), so there is no token to compare.")
        return
    first, second, third = st.columns([4, 2, 2], vertical_alignment="bottom")
    names = [FLOAT, *runs]
    base = first.selectbox("Compared with", [str(i) for i in range(len(names))], key="vs", **BOUND,
                           format_func=lambda i: "the float model" if i == "0" else names[int(i)])
    tokens = side_of(runs, names[int(base)])
    whole = third.toggle("The whole text", True, key="whole", **BOUND, help="Off: the window of the chosen token alone.")
    kept = st.session_state.get("tk")
    if isinstance(kept, int) and kept >= tokens.total:
        st.session_state["tk"] = tokens.total - 1
    start = int(worst_tokens(tokens, 0, True)["token"].iloc[0])
    token = int(second.number_input("Token", 0, tokens.total - 1, start, key="tk", **BOUND,
                                    help=f"Counted along the text; a window has {tokens.length}. At first where the runs are farthest apart."))
    show(loss_figure(tokens, token, whole), "cmp-loss", on_select=_token_from_figure,
         caption="Higher: the run makes this token less likely. All rows on one scale; the dashed line is the chosen token, faint lines are windows."
         + (f" Massive tokens are known in the first {count(tokens.one.massive_windows, 'window')} only."
            if tokens.one.massive_windows < len(tokens.one.tokens) else ""))
    _one_token(tokens, token)
    st.markdown("##### Where they are farthest apart")
    rows = worst_tokens(tokens, token, whole)
    st.dataframe(rows, hide_index=True, key="cmp-worst", on_select=lambda: _token_from_table(rows["token"].tolist()), selection_mode="single-row",
                 alt="Tokens with the largest differences of loss", column_config={name: st.column_config.NumberColumn(format="%.3f")
                                                                                   for name in tokens.differences()})
    st.caption("Differences in nats. Choose a row to look at its token above.")


def _token_from_figure() -> None:
    _move("cmp-loss", "x", lambda x: st.session_state.update(tk=int(x)))


def _token_from_table(numbers: list[int]) -> None:
    chosen = st.session_state["cmp-worst"]["selection"]["rows"]
    if chosen:
        st.session_state["tk"] = numbers[chosen[0]]


def _one_token(tokens: Tokens, token: int) -> None:
    """The chosen token with its context in every run."""
    window, position = divmod(token, tokens.length)
    st.markdown(f"##### {capital(token_words(token, tokens.texts[token]))}, number {position} of window {window}")
    rows = token_rows(tokens, token)
    if rows.empty:
        st.info("The first token of a window is read and not scored.", icon=":material/info:")
    else:
        number = st.column_config.NumberColumn
        st.dataframe(rows, hide_index=True, alt="The chosen token's loss under each model",
                     column_config={"probability": number(format="percent"), "KL": number(format="%.4f"), "loss, nats": number(format="%.4f"),
                                    "over the base": number(format="%+.4f")})
    start, end = context_of(tokens, token)
    lines = {name: values[start:end] for name, values in tokens.differences().items()}
    top = max(0.1, *(float(v[v == v].max(initial=0.1)) for v in lines.values()))
    for name, values in lines.items():
        st.markdown(f"**{plain(name)}**")
        st.html(draw_token_strip(tokens.texts[start:end], values, tokens.massive.tolist(), what="extra loss, nats", log=False, value_min=0.0,
                                 value_max=top, first=start, chosen=token))


# Cost and quality


def _cost(records: list[RunRecord], done: list[RunRecord]) -> None:
    first, second, third = st.columns([5, 3, 3], vertical_alignment="bottom")
    with first:
        cost = pick_name("Cost", COSTS, "cost")
    with second:
        quality = pick_name("Quality", {name: words for name, (words, _) in QUALITIES.items()}, "quality")
    every = third.toggle("All runs of this protocol", False, key="every", **BOUND, help="Off: the chosen runs alone.")
    alike = [r for r in records if measure_of(r) == measure_of(records[0])]
    if len(alike) < len(records):
        st.caption("Only those that were measured as the first one are drawn.")
    shown = [r for r in done if measure_of(r) == measure_of(records[0])] if every else alike
    ids = {r.run_id for r in records}
    methods = [("chosen" if r.run_id in ids else "others") for r in shown] if every else list(labels_of(shown).values())
    show(pareto_figure(shown, cost, quality, methods), "cmp-pareto",
         caption="Lower and further left is better; the line joins the runs that no other beats on both axes. Names say the bits of "
         "weights (W), activations (A) and cache (KV); scales are not counted. Seconds and memory are the run's own, on the machine it ran on.")


# Texts


def _texts(records: list[RunRecord]) -> None:
    alike = [r for r in records if (r.model, r.recipe.get("dtype")) == (records[0].model, records[0].recipe.get("dtype"))]
    if len(alike) < len(records):
        st.info(f"Only runs of {safe(records[0].model)} in {records[0].recipe.get('dtype')} continue the text: the others have another float model.")
    left, right = st.columns([5, 1], vertical_alignment="bottom")
    prompt = left.text_area("Prompt", PROMPT, key="gp", max_chars=8000, height=90, **BOUND, help=f"Up to {LONGEST_PROMPT} tokens.")
    new = int(right.number_input("New tokens", 1, MOST_TOKENS, 32, key="gn", **BOUND))
    found = said(alike, prompt, new)
    if found.missing:
        st.caption(cost_words(alike, found.missing))
        if st.button(f"Generate with {count(len(found.missing), 'model')}", key="generate", type="primary", icon=":material/play_arrow:"):
            try:
                generate(found.missing, prompt, new)
            except RotvizError as error:
                st.error(str(error), icon=":material/error:")
            found = said(alike, prompt, new)
    if "float model" in found.made:
        _continuations(found.made)


def _continuations(made: dict[str, Continuation]) -> None:
    plain_model = made["float model"]
    cells = [cell for _ in range(0, len(made), 2) for cell in st.columns(2)]  # row by row, so that a phone keeps the order
    for cell, (name, one) in zip(cells, made.items()):
        where = first_divergence(plain_model, one)
        with cell.container(border=True, height="stretch"):
            words = "the reference" if one is plain_model else "says the same" if where is None else f"first divergence at new token {where}"
            st.markdown(f"**{plain(name)}** · {words}")
            instead = plain_model.texts[where] if where is not None and where < len(plain_model.texts) else None
            st.html(continuation_html(one.texts, diverges=where, probabilities=one.probabilities, instead=instead))
    longest = max(len(one.texts) for one in made.values())
    rows = [{"new token": i, **{name: visible(one.texts[i]) if i < len(one.texts) else "" for name, one in made.items()}} for i in range(longest)]
    with st.expander("Token by token"):
        st.dataframe(rows, hide_index=True, alt="The new tokens of each model side by side")
    st.caption("Greedy: always the most likely next token. ≠ marks the first token that differs from the float model's; what follows "
               "continues another text. Hover a token for its probability.")


draw()
