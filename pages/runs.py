"""Runs: what has been run, by anyone who uses this folder. Find one, open it, take the numbers away, repeat it; several go on to Compare.

Two perplexities may be compared when their protocols agree: the same text, cut and counted in the same way, and the same float model.
Where they do not, this page says so. Links: ?run=ID opens a run, ?runs=ID,ID puts several side by side.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from rotviz.errors import RotvizError
from rotviz.jobs.queue import tend
from rotviz.reports.run_figures import (
    MEASURES,
    agreement_figure,
    divergence_figure,
    error_grid,
    site_errors_figure,
    weight_errors,
)
from rotviz.reports.runs import (
    classifies,
    duration,
    measure_of,
    method_of,
    recipe_toml,
    repeat_with,
    result_of,
    side_by_side,
    table,
    title_of,
)
from rotviz.store.runs import RunRecord, Status, Store
from rotviz.ui.choices import framed
from rotviz.ui.live import live_run, stopped_run
from rotviz.ui.reports import report_buttons
from rotviz.ui.runs import LISTED, column_config, error_log, headline, linked, listed, matching, safe
from rotviz.ui.show import show
from rotviz.ui.turns import pick_name

MOST = 8  # runs side by side
COMPARED = 6  # runs that the page Compare takes


def draw() -> None:
    """The page."""
    framed()
    st.title("What has been run?")
    tend()
    everything = listed()
    if not everything:
        st.info("Nothing has been run yet. Put a recipe on the queue on the page Evaluate, or use `python -m rotviz run`.")
        return
    shown = _filtered(everything)
    opened = _opened(shown)
    if not opened:
        st.caption("Choose one run to open it, two or more to compare them.")
    elif len(opened) == 1:
        _one(opened[0])
    else:
        _several(opened)


# Which runs


def _filtered(records: list[RunRecord]) -> list[RunRecord]:
    cells = st.columns([3, 2, 2, 2], vertical_alignment="bottom")
    words = cells[0].text_input("Search", key="q", bind="query-params", placeholder="title, id, key=value", icon=":material/search:",
                                help="All words must be found, in the title, the id, or the recipe as key=value such as kv.bits=4.")
    models = cells[1].multiselect("Model", sorted({r.model for r in records}), key="rm", bind="query-params", placeholder="all")
    states = cells[2].multiselect("Status", [str(s) for s in Status], key="rs", bind="query-params", placeholder="all")
    methods = cells[3].multiselect("Rotation", sorted({method_of(r) for r in records}), key="rr", bind="query-params",
                                   placeholder="all")
    shown = matching(records, words, models, states, methods)
    st.caption(f"{len(shown)} of {len(records)} runs, newest first." + (f" Older ones than the newest {LISTED} are in `rotviz runs`."
                                                                       if len(records) == LISTED else ""))
    return shown


def _opened(shown: list[RunRecord]) -> list[RunRecord]:
    """The chosen runs: from the link, the table or the box below it; all three say the same."""
    ids = [r.run_id for r in shown]
    opened = linked(MOST)
    marks = [ids.index(i) for i in opened if i in ids]
    # The table is a new one when what it lists or what is open has changed elsewhere, for its rows are known by number only.
    key = f"table-{hash(tuple(ids))}-{st.session_state.get('changed-elsewhere', 0)}"
    elsewhere = [i for i in opened if i not in ids]
    st.dataframe(table(shown).drop(columns=["protocol"]), key=key, hide_index=True, selection_mode="multi-row",
                 column_config=column_config(),
                 on_select=lambda: _open([*(ids[i] for i in st.session_state[key].selection.rows), *elsewhere]),
                 selection_default={"selection": {"rows": marks}}, height=min(38 + 35 * max(len(shown), 1), 353), placeholder="–",
                 alt="Runs, newest first, with their status and main numbers")
    known = {r.run_id: r for r in listed()}
    st.session_state["open"] = [i for i in opened if i in known]
    left, right = st.columns([4, 1], vertical_alignment="bottom")
    left.multiselect("Open", list(known), key="open", max_selections=MOST, on_change=_open_from_box,
                     format_func=lambda i: f"{title_of(known[i])} · seed {known[i].recipe.get('seed')} · {i}",
                     placeholder="choose runs here or in the table")
    right.download_button("Table as CSV", table(shown).to_csv(index=False), "runs.csv", "text/csv", key="csv", on_click="ignore",
                          icon=":material/download:", width="stretch")
    return [known[i] for i in opened if i in known]


def _open(ids: Sequence[str]) -> None:
    """Write the chosen runs into the link."""
    for name in ("run", "runs"):
        st.query_params.pop(name, None)
    if ids:
        st.query_params["run" if len(ids) == 1 else "runs"] = ",".join(ids[:MOST])


def _open_from_box() -> None:
    _open(st.session_state["open"])
    st.session_state["changed-elsewhere"] = st.session_state.get("changed-elsewhere", 0) + 1


# One run


def _one(record: RunRecord) -> None:
    took = f" · took {duration(record.seconds)}" if record.over and record.seconds else ""
    st.markdown(f"#### {headline(record)}")
    st.caption(f"{record.run_id} · {record.created[:16].replace('T', ' ')} UTC{took}")
    _buttons(record)
    if not record.over:
        live_run(record.run_id)
    elif record.status is not Status.DONE:
        stopped_run(record)
    _command(record)
    if record.status is Status.DONE:
        _result(record)
    else:
        with st.expander("Recipe"):
            st.code(recipe_toml(record), language="toml")
        log = error_log(record)
        if log:
            with st.expander("Error log"):
                st.code(log, language=None)


def _buttons(record: RunRecord) -> None:
    row = st.container(horizontal=True)
    row.download_button("Recipe as TOML", lambda: recipe_toml(record), f"{record.run_id}.toml", "application/toml", key="toml",
                        on_click="ignore", icon=":material/download:")
    if record.status is Status.DONE:
        row.download_button("Result as JSON", lambda: json.dumps(result_of(record), indent=1), f"{record.run_id}.json", "application/json",
                            key="json", on_click="ignore", icon=":material/download:")
        row.download_button("Errors as CSV", lambda: error_grid(result_of(record)).to_csv(), f"{record.run_id}-errors.csv", "text/csv",
                            key="errors-csv", on_click="ignore", icon=":material/download:")
    with row:
        report_buttons([record])
    if record.status is not Status.RUNNING and row.button("Delete", key="delete", icon=":material/delete:"):
        _confirm(record)


@st.dialog("Delete this run?")
def _confirm(record: RunRecord) -> None:
    st.markdown(headline(record))
    st.write("Its result, its events and its files go. The recipe can be run again as long as somebody has it.")
    if st.button("Delete", type="primary", key="delete-really", icon=":material/delete:", on_click=_delete, args=(record.run_id,)):
        st.rerun()


def _delete(run_id: str) -> None:
    try:
        Store().delete(run_id)
    except RotvizError as error:
        st.toast(str(error), icon=":material/error:")
    else:
        _open([])


def _command(record: RunRecord) -> None:
    st.caption("Repeat it on the command line:")
    st.code(repeat_with(record), language="bash", wrap_lines=True)


def _result(record: RunRecord) -> None:
    result = result_of(record)
    _numbers(result)
    names = ("Errors", "Recipe", "Proof", "Weights", "Time and place")
    for name, tab in zip(names, st.tabs(list(names), key="part", on_change="rerun", bind="query-params")):
        if tab.open:
            with tab:
                {"Errors": _errors, "Recipe": lambda _: st.code(recipe_toml(record), language="toml"), "Proof": _proof, "Weights": _weights,
                 "Time and place": _place}[name](result)


def _numbers(result: dict[str, Any]) -> None:
    (_classified if result.get("classification") else _perplexities)(result)
    for note in result["notes"]:
        st.caption(f":material/info: {safe(note)}")


def _classified(result: dict[str, Any]) -> None:
    """Of an image classifier."""
    found = result["classification"]
    accuracy = found["accuracy"] or {}
    cells = st.columns(4)
    for cell, (label, entry, help) in zip(cells, (
        ("Top-1 agreement", found["agreement"], "share of images that both models put into the same class ± one standard error"),
        ("KL, nats an image", found["kl_nats"], "mean divergence from the float model"),
        ("Accuracy", accuracy.get("quantized"), "of the quantized model, where labels are known"),
        ("Float accuracy", accuracy.get("reference"), "the same images, nothing quantized"),
    )):
        _metric(cell, label, entry, _short if label == "KL, nats an image" else _share, help)
    st.caption(f":material/straighten: {found['protocol']}.")
    if found["nan_images"]:
        st.warning(f"{found['nan_images']} images gave NaN; they agree with nothing.", icon=":material/warning:")


def _perplexities(result: dict[str, Any]) -> None:
    """Of a language model."""
    perplexity, divergence = result["perplexity"], result["divergence"]
    cells = st.columns(5)
    for cell, (label, name, help) in zip(cells, (
        ("Perplexity", "quantized", "of the quantized model ± one standard error"),
        ("Float model", "reference", "the same windows, nothing quantized"),
        ("Ratio", "ratio", "quantized over float, the error paired by window"),
    )):
        _metric(cell, label, perplexity[name], _short, help)
    kl = {"value": divergence["kl_nats"], "stderr": divergence.get("stderr")}
    _metric(cells[3], "KL, nats a token", kl, _short, "mean divergence from the float model ± one standard error")
    _metric(cells[4], "Same top token", {"value": divergence["same_top"]}, _share, "positions where both agree")
    st.caption(f":material/straighten: {perplexity['quantized']['protocol']}; {perplexity['quantized']['tokens']:,} scored tokens.")
    if perplexity["quantized"]["nan_windows"]:
        st.warning(f"{perplexity['quantized']['nan_windows']} windows gave NaN, so the perplexity is none.", icon=":material/warning:")


def _errors(result: dict[str, Any]) -> None:
    measure = pick_name("Error", MEASURES, "err1")
    show(site_errors_figure(result, measure), "site-errors",
         caption="Each site's line is what rounding loses there, on the numbers it is given; the residual stream's is all that has arrived.")
    st.dataframe(error_grid(result, measure), height=318, column_config={"block": st.column_config.NumberColumn(pinned=True)},
                 alt="Error by block and site")


def _proof(result: dict[str, Any]) -> None:
    if not result["proof"]:
        st.caption("Nothing was rotated, so there was nothing to prove.")
        return
    st.caption("Before anything was quantized: how much each step of the rewrite changed the logits, relative to their size.")
    rows = [{"step": p["step"], "in words": p["words"], "change": f"{p['error']:.1e}", "allowed": f"{p['tolerance']:.0e}",
             "holds": p["error"] <= p["tolerance"]} for p in result["proof"]]
    st.dataframe(rows, hide_index=True, alt="Steps of the rewrite with the change of the logits")


def _weights(result: dict[str, Any]) -> None:
    grid = weight_errors(result)
    if grid.empty:
        st.caption("The weights stayed in float.")
        return
    st.caption("Relative MSE of each quantized weight, by block and role.")
    st.dataframe(grid, alt="Relative MSE of the weights by block and role")


def _place(result: dict[str, Any]) -> None:
    left, right = st.columns(2)
    left.dataframe([{"stage": stage, "seconds": round(seconds, 2)} for stage, seconds in result["seconds"].items()], hide_index=True,
                   alt="Seconds by stage")
    left.caption(f"{duration(sum(result['seconds'].values()))} in all, peak memory {result['peak_memory_mb']:,.0f} MB.")
    right.dataframe([{"what": what, "value": str(value)} for what, value in result["environment"].items()], hide_index=True,
                    alt="Versions and machine")


# Several runs


def _several(records: list[RunRecord]) -> None:
    st.subheader(f"{len(records)} runs side by side")
    numbers = side_by_side(records)
    st.dataframe(numbers, hide_index=True, alt="Main numbers of each run", height=38 + 35 * len(numbers))
    done = [r for r in records if r.status is Status.DONE]
    with st.container(horizontal=True):
        report_buttons(done)
    if len(done) < 2:
        st.info("Comparing needs two finished runs.")
        return
    if len({measure_of(r) for r in done}) > 1:
        numbers = "numbers" if any(map(classifies, done)) else "perplexities"
        st.caption(f"They were measured differently, so their {numbers} must not be compared.")
    if any(map(classifies, done)):
        _several_classifiers(done)
        return
    if len(done) > COMPARED:
        st.caption(f"The first {COMPARED} of {len(done)} finished ones are compared.")
    if st.button("Compare these", key="compare", type="primary", icon=":material/compare_arrows:",
                 help="Figures with locked axes, what differs and what it does, losses token by token, generated texts."):
        st.switch_page("pages/compare.py", query_params={"runs": ",".join(r.run_id for r in done[:COMPARED])})


def _several_classifiers(done: list[RunRecord]) -> None:
    """Figures of vision models' runs; the page Compare is for losses by token and texts."""
    if len({measure_of(r) for r in done}) > 1:
        return
    left, right = st.columns(2)
    with left:
        show(agreement_figure(done), "several-agreement", caption="Images that a run puts into another class than the float model.")
    with right:
        show(divergence_figure(done), "several-divergence", caption="How far the class distribution moved from the float model's.")


def _metric(cell: Any, label: str, entry: Mapping[str, Any] | None, words: Callable[[float], str], help: str) -> None:
    """A number, its standard error below it where there is one: side by side the two are cut off in a narrow column."""
    value, error = (entry or {}).get("value"), (entry or {}).get("stderr")
    cell.metric(label, "–" if value is None else words(value), None if error is None else f"± {words(error)}", delta_color="off",
                delta_arrow="off", help=help)


def _share(value: float) -> str:
    return f"{value:.1%}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10_000 else f"{value:.4g}"


draw()
