"""Figures of runs: of several that share a measure, of one, and of one against another. Records or results in, a Drawing out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from rotviz.plots.compare_errors import draw_compare_errors
from rotviz.plots.divergence_bars import draw_divergence_bars
from rotviz.plots.drawing import Drawing, nothing
from rotviz.plots.error_by_block import RELATIVE_MSE, SQNR_DB, draw_error_by_block
from rotviz.plots.frame import Range, shared_range
from rotviz.plots.learning_curve import draw_learning_curve
from rotviz.plots.pareto import draw_pareto
from rotviz.plots.perplexity_bars import draw_perplexity_bars
from rotviz.plots.progress_by_block import draw_progress_by_block
from rotviz.plots.words import count
from rotviz.reports.runs import classifies, dig, method_of, names_of, result_of
from rotviz.store.runs import RunRecord, Store
from rotviz.types import FLOAT_BITS, SITE_WORDS, Site

DRAWN = 24  # bars in one figure; the table has the rest
LOG_FROM = 20.0  # ratio of the largest to the smallest
MEASURES = {"relative_mse": RELATIVE_MSE, "sqnr_db": SQNR_DB, "massive": "relative MSE of massive tokens",
            "ordinary": "relative MSE of ordinary tokens"}
COSTS = {"activations": "bits an activation", "weights": "bits a weight", "kv": "bits a KV cache number", "seconds": "seconds of the run",
         "memory": "peak memory of the run, MB"}
QUALITIES = {"perplexity": ("perplexity", ("perplexity", "quantized", "value")), "KL": ("KL divergence, nats a token", ("divergence", "kl_nats"))}
"""What is paid for, in words, and where a result has it; its standard error stands beside it."""

Results = Mapping[str, Mapping[str, Any]]
History = Sequence[Mapping[str, float]]


def perplexity_figure(records: Sequence[RunRecord]) -> Drawing:
    """Perplexity of each run against the float model's."""
    shown, names = _drawn(records)
    reference = dig(shown[0].result, "perplexity", "reference") or {} if shown else {}
    values, stderrs = (_numbers(shown, "perplexity", "quantized", what) for what in ("value", "stderr"))
    return draw_perplexity_bars(names, values, stderrs, reference=reference.get("value"), reference_stderr=reference.get("stderr"),
                                methods=_methods(shown))


def agreement_figure(records: Sequence[RunRecord]) -> Drawing:
    """Of image classifiers: the share of images that a run puts into another class than the float model, in percent."""
    shown, names = _drawn(records)
    values, stderrs = (100 * _numbers(shown, "classification", "agreement", what) for what in ("value", "stderr"))
    if not (values < 100).any():
        return nothing("agreement", f"{count(len(shown), 'run')}: every image is in the class that the float model puts it into")
    drawing = draw_perplexity_bars(names, 100 - values, stderrs, methods=_methods(shown), log=False, what="images in another class, %")
    return replace(drawing, name="agreement")


def divergence_figure(records: Sequence[RunRecord]) -> Drawing:
    """KL divergence from the float model and agreement on the top token, of image classifiers on the class."""
    shown, names = _drawn(records)
    kl = _numbers(shown, "divergence", "kl_nats")
    apart = kl[np.isfinite(kl) & (kl > 0)]
    log = bool(apart.size and apart.max() / apart.min() > LOG_FROM)
    room = None if log or not apart.size else (0.0, 2.8 * float(apart.max()))  # for the words at a bar's end, in a narrow column too
    words = {"per": "image", "top": "class"} if any(classifies(r) for r in shown) else {}
    return draw_divergence_bars(names, kl, _numbers(shown, "divergence", "same_top"), methods=_methods(shown),
                                log=log, x_range=room, **words)


def pareto_figure(records: Sequence[RunRecord], cost: str, quality: str = "perplexity", methods: Sequence[str] | None = None) -> Drawing:
    """Perplexity or divergence (one of QUALITIES) against a cost, one of COSTS; `methods` for the colors, None = the rotations'."""
    names = names_of(records)
    words, path = QUALITIES[quality]
    if any(classifies(r) for r in records):  # of image classifiers the divergence, whatever is asked for
        quality, words, path = "divergence", "KL, nats an image", ("divergence", "kl_nats")
    reference = dig(records[0].result, "perplexity", "reference", "value") if records and quality == "perplexity" else None
    return draw_pareto([names[r.run_id] for r in records], np.array([_cost(r, cost) for r in records], dtype=float),
                       _numbers(records, *path), stderrs=_numbers(records, *path[:-1], "stderr"), methods=methods or _methods(records),
                       reference=reference, cost_title=COSTS[cost], what=words)


def residual_figure(records: Sequence[RunRecord], measure: str = "relative_mse", results: Results | None = None,
                    names: Mapping[str, str] | None = None, now: int | None = None) -> Drawing:
    """Error of the residual stream after each block: accumulated solid, this block alone dotted.

    Args:
        results: by run id; None = from the store.
        names: by run id; None = short ones.
        now: a block to mark.
    """
    methods, solid, dotted = _methods(records), {}, {}
    if names is None:  # a method's own name brings its own color
        own = len(set(methods)) == len(methods)
        names = {r.run_id: method for r, method in zip(records, methods)} if own else names_of(records)
    for record in records:
        result = results[record.run_id] if results else result_of(record)
        rows = [e for e in result["errors"] if e["site"] == Site.RESID]
        solid[names[record.run_id]] = _line(rows, measure)
        if measure == "relative_mse":
            dotted[names[record.run_id]] = _line(rows, "isolated")
    return draw_error_by_block(solid, isolated=dotted, unit=MEASURES[measure], now=now)


def error_grid(result: Mapping[str, Any], measure: str = "relative_mse") -> pd.DataFrame:
    """Errors by block (rows) and site (columns) in the order of the block's computation; NaN where nothing was rounded."""
    frame = pd.DataFrame(result["errors"])
    if frame.empty:
        return pd.DataFrame()
    grid = frame.pivot_table(index="block", columns="site", values=measure, aggfunc="first", dropna=False).astype(float)
    return grid[[s for s in map(str, Site) if s in grid.columns]].sort_index()


def site_errors_figure(result: Mapping[str, Any], measure: str = "relative_mse", y_range: Range | None = None) -> Drawing:
    """Lines of error over the blocks, one for each site."""
    grid = error_grid(result, measure)
    lines = {SITE_WORDS[Site(site)]: grid[site].to_numpy() for site in grid.columns}
    return draw_error_by_block(lines, unit=MEASURES[measure], y_range=y_range)


def sites_range(results: Sequence[Mapping[str, Any]], measure: str = "relative_mse") -> Range:
    """Limits for several runs' site errors side by side."""
    return shared_range(*(error_grid(r, measure).to_numpy() for r in results), log=not MEASURES[measure].endswith("(dB)"))


def weight_errors(result: Mapping[str, Any]) -> pd.DataFrame:
    """Relative MSE of the weights by block and role; empty where weights stayed in float."""
    frame = pd.DataFrame(result["weight_errors"])
    return frame if frame.empty else frame.pivot_table(index="block", columns="role", values="relative_mse", aggfunc="first", sort=False)


def ratio_figure(a: Mapping[str, Any], b: Mapping[str, Any], names: tuple[str, str]) -> Drawing | None:
    """Heat map of log2(error of B / error of A) by block and site; None where they share no site or differ in depth."""
    grids = error_grid(a), error_grid(b)
    sites = [s for s in grids[0].columns if s in grids[1].columns]
    if not sites or len(grids[0]) != len(grids[1]):
        return None
    return draw_compare_errors(grids[0][sites].to_numpy(), grids[1][sites].to_numpy(), sites, name_a=names[0], name_b=names[1])


def progress_figure(run_id: str) -> Drawing | None:
    """Error of the residual stream over the blocks finished so far; None before the first."""
    events = [e.event for e in Store().events_since(run_id) if e.event.block is not None and e.event.metrics and e.event.blocks]
    if not events:
        return None
    done = max(e.block for e in events) + 1
    lines = {name: np.full(done, np.nan) for name in ("accumulated", "isolated")}
    for event in events:
        for name, line in lines.items():
            line[event.block] = event.metrics.get(name, np.nan)
    return draw_progress_by_block(lines, events[-1].blocks, done=done)


def learning_curves(history: History) -> dict[str, Drawing]:
    """The figures that a learner's numbers allow: its loss, the errors of rounding, and R2's loss before and after by block."""
    found = {}
    if any("loss" in m for m in history):
        found["loss"] = draw_learning_curve({"loss": _steps(history, "loss")}, what="loss")
    kinds = [kind for kind in ("ordinary", "massive") if any(kind in m for m in history)]
    if kinds:
        found["errors"] = draw_learning_curve({kind: _steps(history, kind) for kind in kinds}, what="relative error")
    heads = [m for m in history if "head_loss" in m]
    if heads:
        lines = {name: np.full(int(max(m["block"] for m in heads)) + 1, np.nan) for name in ("start", "learned")}
        for m in heads:
            lines["start"][int(m["block"])], lines["learned"][int(m["block"])] = m["head_loss_before"], m["head_loss"]
        found["heads"] = draw_learning_curve({name: (np.arange(len(v)), v) for name, v in lines.items()}, what="loss of R2", x="block")
    return found


def _methods(records: Sequence[RunRecord]) -> list[str]:
    return [method_of(r) for r in records]


def _drawn(records: Sequence[RunRecord]) -> tuple[list[RunRecord], list[str]]:
    """The runs of a bar chart, best first, and their names."""
    def cost(record: RunRecord) -> float:
        value = dig(record.result, *(("divergence", "kl_nats") if classifies(record) else ("perplexity", "quantized", "value")))
        return np.inf if value is None else value

    order = sorted(records, key=cost)[:DRAWN]
    names = names_of(order)
    return order, [names[r.run_id] for r in order]


def _cost(record: RunRecord, cost: str) -> float:
    if cost == "seconds":
        return float(sum((dig(record.result, "seconds") or {}).values()))
    if cost == "memory":
        return float(dig(record.result, "peak_memory_mb") or np.nan)
    if cost == "weights":
        return _weight_bits(record)
    return float(dig(record.recipe, cost, "bits") or np.nan)


def _weight_bits(record: RunRecord) -> float:
    """Average bits a weight, scales apart: the average that an allocation reached where there is one."""
    if dig(record.recipe, "weights", "method") == "none":
        return float(FLOAT_BITS)
    return float(dig(record.result, "allocation", "average") or dig(record.recipe, "weights", "bits") or np.nan)


def _numbers(records: Sequence[RunRecord], *path: str) -> np.ndarray:
    found = [dig(r.result, *path) for r in records]
    return np.array([np.nan if v is None else v for v in found], dtype=float)


def _line(rows: Sequence[Mapping[str, Any]], measure: str) -> np.ndarray:
    line = np.full(max((row["block"] for row in rows), default=-1) + 1, np.nan)
    for row in rows:
        line[row["block"]] = np.nan if row[measure] is None else row[measure]
    return line


def _steps(history: History, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values; of a step that was taken twice (a resumed run) the later one."""
    points = {m["step"]: m[name] for m in history if "step" in m and name in m}
    steps = sorted(points)
    return np.array(steps, dtype=float), np.array([points[s] for s in steps], dtype=float)
