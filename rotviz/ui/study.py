"""What the page Weights shows of studies of learned rounding: which there are, what was done, and what each hypothesis came to.

A study is a JSON file that `rotviz bench rounding-study` makes: in the cache folder, or with the code's own results.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from rotviz.errors import BadInput
from rotviz.pipeline.rounding_study import found_studies, load_study
from rotviz.pipeline.study_verdicts import (
    BASE,
    NOT_MEASURED,
    NOT_SUPPORTED,
    SUPPORTED,
    UNDECIDED,
    base_value,
    by_switch,
    effects,
    step_table,
    yardstick,
)
from rotviz.plots.words import count, number
from rotviz.ui.words import plain

COLORS = {SUPPORTED: "green", NOT_SUPPORTED: "orange", UNDECIDED: "gray", NOT_MEASURED: "gray"}
SEEDS = "seeds of the base"
COMMITTED = "rounding_study"
"""The file's name of the study that comes with the code."""


def kept_studies(model: str) -> dict[str, dict[str, Any]]:
    """Every readable study by its label, those of the model first."""
    found: dict[str, dict[str, Any]] = {}
    for path in found_studies():
        try:
            record = load_study(path)
        except BadInput:
            continue  # half of somebody's edit; the command says so when it meets it
        if record["runs"]:
            found[_label(record, path.stem)] = record
    return dict(sorted(found.items(), key=lambda item: item[1]["base"]["model"] != model))


def command(model: str) -> str:
    """The command that makes a study of a model."""
    quick = " --quick" if model.startswith("tiny-") else ""
    return f"python -m rotviz bench rounding-study{quick} --model {model}"


def base_words(record: Mapping[str, Any]) -> str:
    """The base recipe, the texts and the machine in two sentences."""
    base, text, own = record["base"], record["base"]["text"], record["base"]["weights"]["rounding"]
    group = f"groups of {base['weights']['group']}" if base["weights"]["group"] else "a scale for each output channel"
    seeds = len(by_switch(record).get(BASE, {}))
    environment = record["environment"]
    return (f"Base: {plain(base['model'])}, {base['weights']['bits']}-bit {base['weights']['format']} weights, {group}; freedom {own['freedom']}, "
            f"loss {own['loss']}, {own['optimizer']} steps, {count(own['iterations'], 'step')} a block; learned from "
            f"{count(text['samples'], 'window')} of {text['length']} tokens ({plain(text['calibration'])}), compared on "
            f"{text['windows'] or 'all'} of {plain(text['evaluation'])}. "
            f"{count(seeds, 'seed')} of the base, {count(len(record['runs']), 'run')} in all; {plain(str(environment.get('processor', '')))}, "
            f"{environment.get('date', '')}.")


def verdict_lines(record: Mapping[str, Any]) -> str:
    """Each hypothesis with its verdict and what it rests on, as a Markdown list."""
    return "\n".join(f"- :{COLORS[v['verdict']]}-badge[{v['verdict']}] **{v['name']}** {v['words']} *{plain(v['because'])}.*"
                     for v in record["verdicts"])


def drawn(record: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """KL in nats by switch and setting, the base's seeds among them."""
    found = {name: {s: math.exp(x) for s, x in settings.items()} for name, settings in by_switch(record).items()}
    return {SEEDS if name == BASE else name: settings for name, settings in found.items()}


def base_and_band(record: Mapping[str, Any]) -> tuple[float | None, tuple[float, float] | None]:
    """KL of the base, and where one more seed of it would fall."""
    low, high, _ = yardstick(record)
    base = base_value(record)
    return None if base is None else math.exp(base), None if math.isnan(low) else (math.exp(low), math.exp(high))


def step_lines(record: Mapping[str, Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """KL over the step (in units of the base's) of every optimizer and variable that has all its steps."""
    table = {name: row for name, row in step_table(record).items() if all(x is not None for x in row.values())}
    steps = next(iter(table.values()), {})
    return (np.array([_value(step) for step in steps]), {name: np.exp(np.array(list(row.values()), dtype=float)) for name, row in table.items()})


def effects_table(record: Mapping[str, Any]) -> pd.DataFrame:
    """Every run with what it came to and what it learned."""
    frame = pd.DataFrame(effects(record)).rename(columns={
        "kl_nats": "KL, nats", "factor": "times the base", "loss": "block loss after / before", "range": "range kept",
        "searched_exponent": "searched exponent"})
    return frame.dropna(axis="columns", how="all").round({"seconds": 1})


def gain_words(record: Mapping[str, Any]) -> str:
    """What learning gains over plain rounding, and which setting is best."""
    rows = [r for r in effects(record) if r["kl_nats"] is not None]
    nearest = next((r["kl_nats"] for r in rows if r["switch"] == "nearest"), None)
    base, _ = base_and_band(record)
    best = min(rows, key=lambda r: r["kl_nats"], default=None)
    if best is None or base is None:
        return ""
    start = f"Plain rounding has a KL of **{number(nearest)}** nats a token, the base **{number(base)}**. " if nearest is not None else ""
    return (f"{start}The least is **{number(best['kl_nats'])}**, with {best['switch']} = {plain(best['setting'])}; chosen among {len(rows)}, it is "
            "the luckiest as well as the best.")


def _label(record: Mapping[str, Any], stem: str) -> str:
    base = record["base"]
    return (f"{base['model'].rpartition('/')[2]} W{base['weights']['bits']}g{base['weights']['group']}, {len(record['runs'])} runs, "
            f"{'as committed' if stem == COMMITTED else stem[-12:]}")


def _value(step: str) -> float:
    above, _, below = step.partition("/")
    return float(above) / float(below or 1)
