"""What pages do with runs: lists and filters, the look of their table, and their state in Markdown (rotviz/reports/runs.py knows the rest).

The store is the one truth and safe for many readers, so lists are read afresh on every redraw.
"""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from rotviz.errors import UnknownName
from rotviz.pipeline.checkpoint import FILE as CHECKPOINT_FILE
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.repeat import flat
from rotviz.reports.runs import classifies, dig, method_of, plain_value, short_id, title_of
from rotviz.store.runs import RunRecord, Status, Store, StoredEvent

LISTED = 1000
BADGES = {
    Status.QUEUED: ("waiting", ":material/hourglass_empty:", "gray"), Status.RUNNING: ("running", ":material/play_arrow:", "blue"),
    Status.DONE: ("done", ":material/check:", "green"), Status.FAILED: ("failed", ":material/error:", "red"),
    Status.CANCELLED: ("cancelled", ":material/block:", "orange"),
}


# Lists


def linked(most: int) -> list[str]:
    """Whole ids of the runs that the link names (?runs=ID,ID or ?run=ID); ends of ids do too, and an unknown one is said."""
    named = [*st.query_params.get("runs", "").split(","), st.query_params.get("run", "")]
    found: list[str] = []
    for name in filter(None, (n.strip() for n in named)):
        try:
            found.append(Store().get(name).run_id)
        except UnknownName as error:
            st.warning(str(error), icon=":material/search_off:")
    return list(dict.fromkeys(found))[:most]


def listed(**wanted: Any) -> list[RunRecord]:
    """Runs, newest first; `wanted` as for Store.list."""
    return Store().list(limit=LISTED, **wanted)


def matching(records: Sequence[RunRecord], words: str = "", models: Sequence[str] = (), states: Sequence[str] = (),
             methods: Sequence[str] = ()) -> list[RunRecord]:
    """The records that pass every filter; an empty one lets all pass. Every word must be in the title, the id or a recipe's key=value."""
    wanted = words.lower().split()
    return [r for r in records if (not models or r.model in models) and (not states or r.status in states)
            and (not methods or method_of(r) in methods) and all(word in _haystack(r) for word in wanted)]


def reference_words(records: Sequence[RunRecord]) -> str:
    """The float model's perplexity (or accuracy); a warning in its place where runs disagree on it, for then something else changed."""
    if any(classifies(r) for r in records):
        known = {v for v in (dig(r.result, "classification", "accuracy", "reference", "value") for r in records) if v is not None}
        if len(known) == 1:
            return f"Float model: accuracy {known.pop():.2%}."
        return ":orange[The float model's accuracy itself differs between these runs.]" if known else "Accuracy is not known: no labels."
    found = [v for v in (dig(r.result, "perplexity", "reference", "value") for r in records) if v is not None]
    if not found:
        return "The float model's perplexity is no number."
    if max(found) > 1.001 * min(found):
        return (f":orange[The float model's perplexity itself differs between these runs ({min(found):.5g} to {max(found):.5g}): "
                "the text or the model has changed in between, so compare ratios, not perplexities.]")
    return f"Float model: perplexity {found[0]:.5g}."


def column_config() -> dict[str, Any]:
    """How the table's columns are shown."""
    number = st.column_config.NumberColumn
    return {
        "perplexity": number(format="%.5g", help="exp of the mean negative log-likelihood; lower is better"),
        "± ppl": number(format="%.2g", help="standard error of the perplexity over windows; unknown with one window"),
        "ratio": number(format="%.4f", help="perplexity over the float model's on the same windows"),
        "± ratio": number(format="%.2g", help="standard error, paired by window"),
        "KL": number(format="%.4g", help="mean KL divergence from the float model, nats a token (of a classifier: an image)"),
        "same top": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1,
                                                    help="positions where both models put the same token first (of a classifier: top-1 agreement)"),
        "accuracy": number(format="percent", help="share of images in the class of their label, after quantization"),
        "± acc": number(format="percent", help="standard error of the accuracy"), "float accuracy": number(format="percent"),
        "images": number(format="%d", help="images that were classified"),
        "seconds": number(format="%.0f"), "peak MB": number(format="%.0f"), "tokens": number(format="%d", help="scored tokens"),
        "created": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm"),
        "run": st.column_config.TextColumn(width="small"), "recipe": st.column_config.TextColumn(width="medium"),
    }


def newest(model: str, recipes: Sequence[Recipe]) -> dict[str, RunRecord]:
    """The newest run of each recipe that has not failed, by fingerprint; finished ones first."""
    marks, found = {r.fingerprint for r in recipes}, {}
    records = [r for r in Store().list(model=model, limit=500) if r.fingerprint in marks]
    for record in sorted(records, key=lambda r: r.status is not Status.DONE):
        if record.status not in (Status.FAILED, Status.CANCELLED):
            found.setdefault(record.fingerprint, record)
    return found


def stopped(model: str, recipes: Sequence[Recipe]) -> list[RunRecord]:
    """The newest failed or cancelled run of each recipe: for those of which `newest` finds none."""
    marks, found = {r.fingerprint for r in recipes}, {}
    for record in Store().list(model=model, limit=500):
        if record.fingerprint in marks and record.status in (Status.FAILED, Status.CANCELLED):
            found.setdefault(record.fingerprint, record)
    return list(found.values())


def already_done(recipes: Sequence[Recipe]) -> dict[str, str]:
    """Fingerprint -> run id of the recipes that have a finished run: the same recipe gives the same numbers."""
    store, found = Store(), {}
    for recipe in recipes:
        runs = store.list(status=Status.DONE, fingerprint=recipe.fingerprint, limit=1)
        if runs:
            found[recipe.fingerprint] = runs[0].run_id
    return found


def on_the_way(recipes: Sequence[Recipe]) -> set[str]:
    """Fingerprints of the recipes whose run waits or goes on."""
    store = Store()
    return {recipe.fingerprint for recipe in recipes
            if any(store.list(status=status, fingerprint=recipe.fingerprint, limit=1) for status in (Status.QUEUED, Status.RUNNING))}


# Words


def badge(status: Status) -> str:
    """The status as Markdown: an icon, a word and a color."""
    word, icon, color = BADGES[status]
    return f":{color}-badge[{icon} {word}]"


def safe(text: str) -> str:
    """Text of a user or a model in Markdown: nothing in it is markup."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]()#+!|$<>~:" else c for c in text)


def headline(record: RunRecord) -> str:
    """A run in one line of Markdown."""
    seed, mark = record.recipe.get("seed"), short_id(record.run_id)
    return f"{badge(record.status)} **{safe(title_of(record))}** · seed {seed} · {safe(record.model)} · `{mark}`"


def why_stopped(record: RunRecord) -> str:
    """Why a run ended without a result and where it would go on."""
    store = Store()
    event = store.latest_event(record.run_id)
    kept = (store.checkpoint(record.run_id) / CHECKPOINT_FILE).is_file()
    done = _last_block(store.events_since(record.run_id)) if kept else None
    onward = f"Resume goes on at block {done + 1}." if done is not None else "Resume begins from the start: no block was finished."
    if record.status is Status.CANCELLED:
        where = "before it began" if event is None else f"during “{event.event.message}”"
        return f"Cancelled {where}. {onward}"
    return f"{record.error or 'No reason was recorded'}. {onward}".replace("..", ".")


def error_log(record: RunRecord) -> str:
    """The traceback that a failed run left, or nothing."""
    try:
        return (Store().folder(record.run_id) / "error.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _haystack(record: RunRecord) -> str:
    keys = " ".join(f"{key}={plain_value(value)}" for key, value in flat(record.recipe).items())
    return f"{title_of(record)} {record.run_id} {keys}".lower()


def _last_block(events: Sequence[StoredEvent]) -> int | None:
    blocks = [e.event.block for e in events if e.event.block is not None and e.event.metrics]
    return max(blocks) if blocks else None
