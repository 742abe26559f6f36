"""What is known about stored runs: what makes them comparable, their names, their numbers as tables, how their recipes differ.

Perplexities may be compared only where the protocol, the text and the float model are the same: `Measure` holds these. Of a model that reads images
the same holds for top-1 agreement and accuracy.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rotviz.config import to_mapping
from rotviz.evaluation.sites import mark_of
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.repeat import command_line, differences
from rotviz.pipeline.saved import method_of_file
from rotviz.rotations import ROTATIONS
from rotviz.store.runs import RunRecord, Status, Store
from rotviz.types import FLOAT_BITS, Slot


@dataclass(frozen=True, slots=True)
class Measure:
    """What two runs must share for their perplexities (or agreements) to be comparable.

    protocol: corpus, cut and count in words; text: the path where the text is a file or the images are a folder, else ""; model and dtype: the
    float model.
    """

    protocol: str
    text: str
    model: str
    dtype: str


def measure_of(record: RunRecord) -> Measure | None:
    """The measure of a finished run; None for any other."""
    if record.status is not Status.DONE or record.result is None:
        return None
    source = str(Recipe.from_dict(record.recipe).images.evaluation if classifies(record) else dig(record.recipe, "text", "evaluation") or "")
    text = source if "/" in source or "\\" in source or source.endswith((".txt", ".md")) else ""
    return Measure(_protocol(record) or "", text, record.model, record.recipe.get("dtype", ""))


def classifies(record: RunRecord) -> bool:
    """Whether a finished run measured an image classifier."""
    return dig(record.result, "classification") is not None


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
        label = _images_label(records[0], measure) if classifies(records[0]) else _text_label(records[0], measure)
        label += "" if measure.dtype == "float32" else f", {measure.dtype}"
        same = sum(known == label or known.startswith(f"{label} (") for known in labels)
        labels.append(f"{label} ({same + 1})" if same else label)
    return labels


def _text_label(record: RunRecord, measure: Measure) -> str:
    text = record.recipe["text"]
    source = text["evaluation"].rpartition("/")[2] if measure.text else text["evaluation"]
    return f"{source}, {text['windows'] or 'all'} × {text['length']} tokens"


def _images_label(record: RunRecord, measure: Measure) -> str:
    source = Recipe.from_dict(record.recipe).images.evaluation
    return f"{Path(source).name if measure.text else source}, {dig(record.result, 'classification', 'images')} images"


def apart_from_rotation(record: RunRecord) -> str:
    """What a run's recipe and measure say besides the rotation and its seed: equal where runs differ in nothing else."""
    recipe = {key: value for key, value in record.recipe.items() if key != "seed"}
    recipe["rotation"] = record.recipe["rotation"]["slots"]
    return json.dumps([recipe, str(measure_of(record))], sort_keys=True)


def method_of(record: RunRecord) -> str:
    """The method that made a run's rotations, in this run or in the one that it loaded them from (whose recipe says only the file)."""
    file = dig(record.recipe, "rotation", "load")
    return str(dig(record.result, "learning", "method") or (method_of_file(file) if file else dig(record.recipe, "rotation", "method")))


def title_of(record: RunRecord) -> str:
    """The run's title; with a rotation from a file that rotation's method and mark in place of the recipe's method, which was not used."""
    table = record.recipe["rotation"]
    if not table.get("load"):
        return record.title
    return f"{method_of(record)} {mark_of(table['load'])}{record.title.removeprefix(str(table['method']))}"


def rotation_of_run(record: RunRecord) -> str:
    """`hadamard`; of a method with other than its usual settings `peak, steps 40`; of a rotation from a file `peak, 3f2a`."""
    table = record.recipe["rotation"]
    if table.get("load"):
        return f"{method_of(record)}, {mark_of(table['load'])}"
    method = str(table["method"])
    usual = to_mapping(ROTATIONS[method]()) if method in ROTATIONS else {}
    changed = [f"{key} {plain_value(value)}" for key, value in table.get(method, {}).items() if usual.get(key, value) != value]
    return ", ".join([method, *changed])


def names_of(records: Sequence[RunRecord]) -> dict[str, str]:
    """Short names that tell runs apart: rotation and bits, then slots, quantizer, seed and id only where they are needed."""
    parts = {r.run_id: _name_parts(r) for r in records}
    names = {run_id: p[0] for run_id, p in parts.items()}
    for extra in range(1, 4):
        same = {name: {parts[other][extra] for other, its in names.items() if its == name} for name in names.values()}
        names = {run_id: f"{name} {parts[run_id][extra]}".strip() if len(same[name]) > 1 else name for run_id, name in names.items()}
    if len({r.model for r in records}) > 1:
        names = {r.run_id: f"{names[r.run_id]} · {r.model}" for r in records}
    return names


def result_of(record: RunRecord) -> dict[str, Any]:
    """The whole result of a finished run, kept by run and time of finishing: not to be changed. Raises BadInput where there is none."""
    return _result(str(Store().home), record.run_id, record.finished or "")


@lru_cache(maxsize=64)
def _result(home: str, run_id: str, finished: str) -> dict[str, Any]:
    return Store(Path(home)).result(run_id)


def table(records: Sequence[RunRecord]) -> pd.DataFrame:
    """A row for each run with its main numbers; blank where there are none. Columns that are for texts or for images alone are there where a run
    has any of them (for texts also where no run has a result)."""
    images = any(classifies(r) for r in records)
    text = not images or any(dig(r.result, "perplexity") for r in records)
    columns = [c for c in _COLUMNS if (text or c not in _TEXT_ONLY) and (images or c not in _IMAGES_ONLY)]
    return pd.DataFrame([_row(r) for r in records], columns=columns)


def side_by_side(records: Sequence[RunRecord]) -> pd.DataFrame:
    """The main numbers, a column for each run."""
    names = names_of(records)
    frame = table(records).drop(columns=["status", "run", "created"])
    frame.index = [names[r.run_id] for r in records]
    return frame.T.map(plain_value).rename_axis("number").reset_index()


def recipe_differences(records: Sequence[RunRecord]) -> pd.DataFrame:
    """The recipe keys in which runs differ, a column for each run."""
    names = names_of(records)
    found = differences([r.recipe for r in records])
    return pd.DataFrame([{"key": key} | {names[r.run_id]: plain_value(v) for r, v in zip(records, values)} for key, values in found.items()],
                        columns=["key", *(names[r.run_id] for r in records)])


def repeat_with(record: RunRecord) -> str:
    """The command line that repeats a run."""
    return command_line(Recipe.from_dict(record.recipe))


def recipe_toml(record: RunRecord) -> str:
    """The recipe of a run as TOML."""
    return Recipe.from_dict(record.recipe).to_toml()


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


def dig(plain: Mapping[str, Any] | None, *path: str) -> Any:
    """The value at a path of keys; None where one is missing."""
    for key in path:
        plain = plain.get(key) if isinstance(plain, Mapping) else None
    return plain


def plain_value(value: Any) -> str:
    """A value of a recipe or a result in few characters."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:.5g}" if isinstance(value, float) else str(value)


_COLUMNS = ("status", "recipe", "perplexity", "± ppl", "ratio", "± ratio", "KL", "same top", "accuracy", "± acc", "float accuracy", "seconds",
            "peak MB", "model", "seed", "tokens", "images", "protocol", "run", "created")
_TEXT_ONLY = ("perplexity", "± ppl", "ratio", "± ratio", "tokens")
_IMAGES_ONLY = ("accuracy", "± acc", "float accuracy", "images")


def _row(record: RunRecord) -> dict[str, Any]:
    result = record.result or {}
    stages = result.get("seconds") or {}
    return {
        "status": str(record.status), "recipe": title_of(record), "perplexity": dig(result, "perplexity", "quantized", "value"),
        "± ppl": dig(result, "perplexity", "quantized", "stderr"), "ratio": dig(result, "perplexity", "ratio", "value"),
        "± ratio": dig(result, "perplexity", "ratio", "stderr"), "KL": dig(result, "divergence", "kl_nats"),
        "same top": dig(result, "divergence", "same_top"), "seconds": sum(stages.values()) if stages else None,
        "peak MB": result.get("peak_memory_mb"), "model": record.model, "seed": record.recipe.get("seed"),
        "tokens": dig(result, "perplexity", "quantized", "tokens"), "protocol": _protocol(record),
        "accuracy": dig(result, "classification", "accuracy", "quantized", "value"), "images": dig(result, "classification", "images"),
        "± acc": dig(result, "classification", "accuracy", "quantized", "stderr"),
        "float accuracy": dig(result, "classification", "accuracy", "reference", "value"),
        "run": record.run_id, "created": datetime.fromisoformat(record.created).astimezone().replace(tzinfo=None),
    }


def _protocol(record: RunRecord) -> str | None:
    return dig(record.result, "perplexity", "quantized", "protocol") or dig(record.result, "classification", "protocol")


def _name_parts(record: RunRecord) -> tuple[str, str, str, str]:
    recipe = record.recipe
    bits = [dig(recipe, section, "bits") or FLOAT_BITS for section in ("weights", "activations", "kv")]
    if dig(recipe, "weights", "method") == "none":
        bits[0] = FLOAT_BITS
    cache = f"KV{bits[2]}" if bits[2] != FLOAT_BITS else ""
    slots = dig(recipe, "rotation", "slots") or []
    partly = "+".join(slots) if dig(recipe, "rotation", "method") != "none" and len(slots) != len(Slot) else ""
    return (f"{method_of(record)} W{bits[0]}A{bits[1]}{cache}", f"{partly} {dig(recipe, 'weights', 'method')}".strip(),
            f"seed {recipe.get('seed')}", short_id(record.run_id))
