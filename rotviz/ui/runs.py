"""What pages know about runs: lists and tables of them, what makes them comparable, and how they are put into words.

The store is the one truth and safe for many readers, so lists are read afresh on every redraw; whole results (a result.json never
changes) are cached by run and time of finishing. Nothing here is kept between sessions.

Perplexities may be compared only where the protocol, the text and the float model are the same: `Measure` holds these.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from rotviz.pipeline.checkpoint import FILE as CHECKPOINT_FILE
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.repeat import command_line, differences, flat
from rotviz.store.runs import RunRecord, Status, Store, StoredEvent
from rotviz.types import FLOAT_BITS, Slot

LISTED = 1000
BADGES = {
    Status.QUEUED: ("waiting", ":material/hourglass_empty:", "gray"), Status.RUNNING: ("running", ":material/play_arrow:", "blue"),
    Status.DONE: ("done", ":material/check:", "green"), Status.FAILED: ("failed", ":material/error:", "red"),
    Status.CANCELLED: ("cancelled", ":material/block:", "orange"),
}


# Lists


@dataclass(frozen=True, slots=True)
class Measure:
    """What two runs must share for their perplexities to be comparable.

    protocol: corpus, cut and count in words; text: the path where the text is a file, else ""; model and dtype: the float model.
    """

    protocol: str
    text: str
    model: str
    dtype: str


def listed(**wanted: Any) -> list[RunRecord]:
    """Runs, newest first; `wanted` as for Store.list."""
    return Store().list(limit=LISTED, **wanted)


def matching(records: Sequence[RunRecord], words: str = "", models: Sequence[str] = (), states: Sequence[str] = (),
             methods: Sequence[str] = ()) -> list[RunRecord]:
    """The records that pass every filter; an empty one lets all pass. Every word must be in the title, the id or a recipe's key=value."""
    wanted = words.lower().split()
    return [r for r in records if (not models or r.model in models) and (not states or r.status in states)
            and (not methods or dig(r.recipe, "rotation", "method") in methods) and all(word in _haystack(r) for word in wanted)]


def measure_of(record: RunRecord) -> Measure | None:
    """The measure of a finished run; None for any other."""
    if record.status is not Status.DONE or record.result is None:
        return None
    source = str(record.recipe.get("text", {}).get("evaluation", ""))
    text = source if "/" in source or "\\" in source or source.endswith((".txt", ".md")) else ""
    return Measure(dig(record.result, "perplexity", "quantized", "protocol") or "", text, record.model, record.recipe.get("dtype", ""))


def by_measure(records: Sequence[RunRecord]) -> dict[Measure, list[RunRecord]]:
    """Finished runs grouped by what makes them comparable, the newest group first."""
    groups: dict[Measure, list[RunRecord]] = {}
    for record in records:
        measure = measure_of(record)
        if measure is not None:
            groups.setdefault(measure, []).append(record)
    return groups


def measure_labels(groups: Mapping[Measure, Sequence[RunRecord]]) -> list[str]:
    """A short label for each group, in order: text and windows, with model, dtype and a number only where labels would be the same."""
    labels: list[str] = []
    for measure, records in groups.items():
        text = records[0].recipe["text"]
        source = text["evaluation"].rpartition("/")[2] if measure.text else text["evaluation"]
        label = f"{source}, {text['windows'] or 'all'} × {text['length']} tokens"
        label += "" if measure.dtype == "float32" else f", {measure.dtype}"
        same = sum(known == label or known.startswith(f"{label} (") for known in labels)
        labels.append(f"{label} ({same + 1})" if same else label)
    return labels


def names_of(records: Sequence[RunRecord]) -> dict[str, str]:
    """Short names that tell runs apart: rotation and bits, then slots, quantizer, seed and id only where they are needed."""
    parts = {r.run_id: _name_parts(r) for r in records}
    names = {run_id: p[0] for run_id, p in parts.items()}
    for extra in range(1, 4):
        taken = list(names.values())
        names = {run_id: f"{name} {parts[run_id][extra]}".strip() if taken.count(name) > 1 else name for run_id, name in names.items()}
    if len({r.model for r in records}) > 1:
        names = {r.run_id: f"{names[r.run_id]} · {r.model}" for r in records}
    return names


def reference_words(records: Sequence[RunRecord]) -> str:
    """The float model's perplexity; a warning in its place where runs disagree on it, for then something else changed."""
    found = [v for v in (dig(r.result, "perplexity", "reference", "value") for r in records) if v is not None]
    if not found:
        return "The float model's perplexity is no number."
    if max(found) > 1.001 * min(found):
        return (f":orange[The float model's perplexity itself differs between these runs ({min(found):.5g} to {max(found):.5g}): "
                "the text or the model has changed in between, so compare ratios, not perplexities.]")
    return f"Float model: perplexity {found[0]:.5g}."


def table(records: Sequence[RunRecord]) -> pd.DataFrame:
    """A row for each run with its main numbers; blank where there are none."""
    return pd.DataFrame([_row(r) for r in records], columns=list(_COLUMNS))


def column_config() -> dict[str, Any]:
    """How the table's columns are shown."""
    number = st.column_config.NumberColumn
    return {
        "perplexity": number(format="%.5g", help="exp of the mean negative log-likelihood; lower is better"),
        "± ppl": number(format="%.2g", help="standard error of the perplexity over windows; unknown with one window"),
        "ratio": number(format="%.4f", help="perplexity over the float model's on the same windows"),
        "± ratio": number(format="%.2g", help="standard error, paired by window"),
        "KL": number(format="%.4g", help="mean KL divergence from the float model, nats a token"),
        "same top": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1,
                                                    help="positions where both models put the same token first"),
        "seconds": number(format="%.0f"), "peak MB": number(format="%.0f"), "tokens": number(format="%d", help="scored tokens"),
        "created": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm"),
        "run": st.column_config.TextColumn(width="small"), "recipe": st.column_config.TextColumn(width="medium"),
    }


def result_of(record: RunRecord) -> dict[str, Any]:
    """The whole result of a finished run. Raises BadInput where there is none."""
    return _result(str(Store().home), record.run_id, record.finished or "")


@st.cache_data(max_entries=64, show_spinner=False)
def _result(home: str, run_id: str, finished: str) -> dict[str, Any]:
    return Store(Path(home)).result(run_id)


def already_done(recipes: Sequence[Recipe]) -> dict[str, str]:
    """Fingerprint -> run id of the recipes that have a finished run: the same recipe gives the same numbers."""
    store, found = Store(), {}
    for recipe in recipes:
        runs = store.list(status=Status.DONE, fingerprint=recipe.fingerprint, limit=1)
        if runs:
            found[recipe.fingerprint] = runs[0].run_id
    return found


# Words


def short_id(run_id: str) -> str:
    """The last part of a run's id, which every command takes as well."""
    return run_id.rpartition("-")[2]


def duration(seconds: float | None) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if whole < 120:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s".removesuffix(" 0 s")
    return f"{whole // 3600} h {whole % 3600 // 60} min".removesuffix(" 0 min")


def badge(status: Status) -> str:
    """The status as Markdown: an icon, a word and a colour."""
    word, icon, colour = BADGES[status]
    return f":{colour}-badge[{icon} {word}]"


def safe(text: str) -> str:
    """Text of a user or a model in Markdown: nothing in it is markup."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]()#+!|$<>~:" else c for c in text)


def headline(record: RunRecord) -> str:
    """A run in one line of Markdown."""
    seed, mark = record.recipe.get("seed"), short_id(record.run_id)
    return f"{badge(record.status)} **{safe(record.title)}** · seed {seed} · {safe(record.model)} · `{mark}`"


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


def side_by_side(records: Sequence[RunRecord]) -> pd.DataFrame:
    """The main numbers, a column for each run."""
    names = names_of(records)
    frame = table(records).drop(columns=["status", "run", "created"])
    frame.index = [names[r.run_id] for r in records]
    return frame.T.map(_plain).rename_axis("number").reset_index()


def recipe_differences(records: Sequence[RunRecord]) -> pd.DataFrame:
    """The recipe keys in which runs differ, a column for each run."""
    names = names_of(records)
    found = differences([r.recipe for r in records])
    return pd.DataFrame([{"key": key} | {names[r.run_id]: _plain(v) for r, v in zip(records, values)} for key, values in found.items()],
                        columns=["key", *(names[r.run_id] for r in records)])


def repeat_with(record: RunRecord) -> str:
    """The command line that repeats a run."""
    return command_line(Recipe.from_dict(record.recipe))


def recipe_toml(record: RunRecord) -> str:
    """The recipe of a run as TOML."""
    return Recipe.from_dict(record.recipe).to_toml()


def error_log(record: RunRecord) -> str:
    """The traceback that a failed run left, or nothing."""
    try:
        return (Store().folder(record.run_id) / "error.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# Small things

_COLUMNS = ("status", "recipe", "perplexity", "± ppl", "ratio", "± ratio", "KL", "same top", "seconds", "peak MB", "model", "seed",
            "tokens", "protocol", "run", "created")


def _row(record: RunRecord) -> dict[str, Any]:
    result = record.result or {}
    stages = result.get("seconds") or {}
    return {
        "status": str(record.status), "recipe": record.title, "perplexity": dig(result, "perplexity", "quantized", "value"),
        "± ppl": dig(result, "perplexity", "quantized", "stderr"), "ratio": dig(result, "perplexity", "ratio", "value"),
        "± ratio": dig(result, "perplexity", "ratio", "stderr"), "KL": dig(result, "divergence", "kl_nats"),
        "same top": dig(result, "divergence", "same_top"), "seconds": sum(stages.values()) if stages else None,
        "peak MB": result.get("peak_memory_mb"), "model": record.model, "seed": record.recipe.get("seed"),
        "tokens": dig(result, "perplexity", "quantized", "tokens"), "protocol": dig(result, "perplexity", "quantized", "protocol"),
        "run": record.run_id, "created": datetime.fromisoformat(record.created).astimezone().replace(tzinfo=None),
    }


def _haystack(record: RunRecord) -> str:
    keys = " ".join(f"{key}={_plain(value)}" for key, value in flat(record.recipe).items())
    return f"{record.title} {record.run_id} {keys}".lower()


def _name_parts(record: RunRecord) -> tuple[str, str, str, str]:
    recipe = record.recipe
    bits = [dig(recipe, section, "bits") or FLOAT_BITS for section in ("weights", "activations", "kv")]
    if dig(recipe, "weights", "method") == "none":
        bits[0] = FLOAT_BITS
    cache = f"KV{bits[2]}" if bits[2] != FLOAT_BITS else ""
    slots = dig(recipe, "rotation", "slots") or []
    partly = "+".join(slots) if dig(recipe, "rotation", "method") != "none" and len(slots) != len(Slot) else ""
    return (f"{dig(recipe, 'rotation', 'method')} W{bits[0]}A{bits[1]}{cache}", f"{partly} {dig(recipe, 'weights', 'method')}".strip(),
            f"seed {recipe.get('seed')}", short_id(record.run_id))


def _last_block(events: Sequence[StoredEvent]) -> int | None:
    blocks = [e.event.block for e in events if e.event.block is not None and e.event.metrics]
    return max(blocks) if blocks else None


def dig(plain: Mapping[str, Any] | None, *path: str) -> Any:
    for key in path:
        plain = plain.get(key) if isinstance(plain, Mapping) else None
    return plain


def _plain(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:.5g}" if isinstance(value, float) else str(value)
