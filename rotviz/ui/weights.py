"""What the page Weights keeps and says: a model's linears as stored, folded and rotated, what a grid makes of them, and runs by linear.

The model is kept for some minutes, for a reader goes from block to block; of every block a sample of output channels is kept, so that another grid
needs no model. The rows that the linears read come from the capture of the embedded text, the same that the page Outliers shows.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from rotviz.capture.capture import Capture, open_capture
from rotviz.evaluation.sites import Turn
from rotviz.evaluation.weights import (
    FORMS,
    ROTATED,
    SAMPLED_TOKENS,
    STORED,
    STORED_GROUP,
    Linear,
    Loss,
    Spread,
    amplification,
    distinct_in_groups,
    inputs_of,
    linears,
    loss_of,
    plan_of,
    sampled,
    sampled_block,
    spread_of,
)
from rotviz.models.loading import load, weights_mark
from rotviz.models.walk import BlockSource
from rotviz.plots.words import number
from rotviz.reports.runs import names_of, result_of
from rotviz.store.runs import RunRecord, Status, Store
from rotviz.surgery.doctor import source_sizes
from rotviz.surgery.plan import RotationPlan, Sizes
from rotviz.types import BITS, FORMATS, Granularity, QuantSpec
from rotviz.ui.progress import progress
from rotviz.ui.turns import BOUND, GROUPS
from rotviz.ui.words import percent

BEHIND_NORM = ("q", "k", "v", "gate", "up")
"""Roles that read a norm's output, whose gain is folded into them."""
MEASURES = {"output": "relative error of the layer's output", "weight": "relative MSE of the weight"}
CLIPS = ("mse", "none", "0.95", "0.9", "0.8", "0.7", "0.6", "0.5")
NOTHING = 1e-12
"""Shares of energy below this are float32's own rounding: the numbers lie on the grid."""
LOUDER = 1.2
"""Two errors are told apart in words from this factor on."""


@dataclass(frozen=True)
class Opened:
    """A loaded model, ready to be looked at block by block."""

    source: BlockSource
    sizes: Sizes
    notes: tuple[str, ...]

    @property
    def widths(self) -> set[int]:
        """The input widths of the quantized linears."""
        heads = self.source.original(0).heads
        return {self.sizes.width, heads.query * heads.width, *self.sizes.down_widths}


@dataclass(frozen=True)
class FormLoss:
    """One linear in one form on a grid: what is lost, how its input weighs it, how many values a stored group takes."""

    loss: Loss
    amplification: float
    distinct: int | None


@dataclass(frozen=True)
class ByLinear:
    """A number for each block and role, [L, R], NaN where there is none."""

    roles: tuple[str, ...]
    values: np.ndarray


# What is kept


def opened(model: str) -> Opened:
    """The model, loaded with a word on the page."""
    return _opened(model, weights_mark(model))


@st.cache_resource(max_entries=1, ttl=900, show_spinner="Loading the model")
def _opened(model: str, mark: str) -> Opened:
    loaded = load(model)
    source = BlockSource(loaded.model)
    return Opened(source, source_sizes(source), loaded.notes)


@st.cache_resource(max_entries=4, show_spinner="Making the rotations")
def _plan(mark: str, turn: Turn, _opened: Opened) -> RotationPlan:
    return plan_of(turn, _opened.sizes)


@st.cache_resource(max_entries=12, show_spinner=False)
def _linears(mark: str, block: int, turn: Turn, form: str, _opened: Opened) -> list[Linear]:
    return linears(_opened.source, _plan(mark, turn, _opened), block, form)


def block_linears(model: str, block: int, turn: Turn, form: str) -> list[Linear]:
    """The linears of a block in one of FORMS; of no rotation there is one form."""
    form, turn = (STORED, Turn("none")) if turn.method == "none" or form == STORED else (form, turn)
    return _linears(weights_mark(model), block, turn, form, opened(model))


@st.cache_data(max_entries=512, show_spinner="Rounding the weight")
def form_loss(model: str, mark: str, path: Path, block: int, linear: str, turn: Turn, form: str, spec: QuantSpec) -> FormLoss:
    """One linear in one form on a grid."""
    one = next(x for x in block_linears(model, block, turn, form) if x.path == linear)
    rows = _rows(open_capture(path), block, one, turn, form)
    return FormLoss(loss_of(one.weight, spec, rows), amplification(one.weight, rows) if rows is not None else float("nan"),
                    distinct_in_groups(one.weight))


@st.cache_data(max_entries=128, show_spinner=False)
def spread(model: str, mark: str, block: int, linear: str, turn: Turn, form: str, spec: QuantSpec, channel: int | None) -> Spread:
    """The distribution of one linear in one form."""
    one = next(x for x in block_linears(model, block, turn, form) if x.path == linear)
    return spread_of(one.weight, spec, channel)


@st.cache_resource(max_entries=256, show_spinner=False)
def _sample(mark: str, block: int, turn: Turn, form: str, _opened: Opened) -> list[Linear]:
    return sampled_block(_opened.source, _plan(mark, turn, _opened), block, form)


@st.cache_data(max_entries=8192, show_spinner=False)
def _block_losses(model: str, mark: str, path: Path, block: int, turn: Turn, form: str, spec: QuantSpec, measure: str) -> dict[str, float]:
    capture, found = open_capture(path), {}
    for one in _sample(mark, block, turn, form, opened(model)):
        rows = _rows(capture, block, one, turn, form, SAMPLED_TOKENS) if measure == "output" else None
        loss = loss_of(one.weight, spec, rows)
        found.setdefault(one.role, []).append(loss.output if measure == "output" else loss.weight)
    return {role: float(np.mean(values)) for role, values in found.items()}


def losses_by_block(model: str, path: Path, turn: Turn, spec: QuantSpec, measure: str) -> ByLinear:
    """What every linear of every block loses on a grid; with a bar the first time."""
    mark, form, blocks = weights_mark(model), STORED if turn.method == "none" else ROTATED, len(opened(model).source)
    found: list[dict[str, float]] = []
    with progress("Rounding every block") as say:
        for block in range(blocks):
            say(block / blocks, f"{turn.method}, block {block} of {blocks}")
            found.append(_block_losses(model, mark, path, block, turn, form, spec, measure))
    roles = tuple(dict.fromkeys(role for row in found for role in row))
    return ByLinear(roles, np.array([[row.get(role, np.nan) for role in roles] for row in found], dtype=float))


def _rows(capture: Capture, block: int, one: Linear, turn: Turn, form: str, most: int = 0) -> Any:
    """What a linear reads; None for an expert, which sees a part of the tokens only."""
    if not one.alone:
        return None
    rows = inputs_of(capture, block, one.roles[0], turn, form)
    return sampled(rows, most) if most else rows


# Choices


def pick_grid(widths: set[int]) -> QuantSpec:
    """The grid of the weights: number format, bits, symmetric, group, clip, in the link."""
    cells = st.columns([3, 2, 2, 2, 3], vertical_alignment="bottom")
    name = cells[0].selectbox("Format", list(FORMATS), key="wf", **BOUND,
                              help="\n\n".join(f"**{f}**: {known.words}" for f, known in FORMATS.items()))
    known = FORMATS[name]
    some = [str(b) for b in BITS if b in known.bits]
    bits = cells[1].selectbox("Bits", some, some.index("4") if "4" in some else 0, key=f"wbits{len(some)}", disabled=len(some) == 1,
                              help="Bits a weight.", **(BOUND if len(some) > 1 else {}))
    fitting = [g for g in GROUPS if not int(g) or all(width % int(g) == 0 for width in widths)]
    if known.block:
        cells[2].selectbox("Group", [str(known.block)], key=f"wblock{known.block}", disabled=True, help="The format's own blocks.")
        group = "0"
    else:
        group = cells[2].selectbox("Group", fitting, key="wgroup", **BOUND, help="Inputs that share a scale; 0 = a whole output channel.")
    clip = cells[3].selectbox("Clip", CLIPS, key="wclip", **BOUND,
                              help="The share of the range that the grid covers; mse searches it for each scale, none covers everything.")
    symmetric = known.symmetric
    if known.symmetric and known.asymmetric:
        symmetric = cells[4].toggle("Symmetric", True, key="wsym", **BOUND,
                                    help="A grid symmetric about zero; otherwise from the smallest to the largest weight.")
    return QuantSpec(int(bits), symmetric, Granularity.GROUP if int(group) else Granularity.CHANNEL, int(group),
                     clip if clip in ("mse", "none") else float(clip), name)


# Words and tables


def short_names(found: Sequence[Linear]) -> dict[str, Linear]:
    """The linears by the end of their path (`gate_proj`), or by the whole path where ends are the same (experts)."""
    ends = [one.path.rpartition(".")[2] for one in found]
    return {end if ends.count(end) == 1 else one.path: one for end, one in zip(ends, found, strict=True)}


def short(value: float) -> str:
    return number(float(f"{value:.3g}"))


def grid_words(spec: QuantSpec) -> str:
    """`4-bit symmetric int grid (a scale for each output channel, clip searched)`."""
    kind = "symmetric" if spec.symmetric else "asymmetric"
    block = spec.group or FORMATS[spec.number_format].block
    shared = f"a scale for every {block} inputs" if block else "a scale for each output channel"
    clip = "clip searched" if spec.clip == "mse" else "no clip" if spec.clip in ("none", 1.0) else f"clipped to {spec.clip:g} of the range"
    return f"{spec.bits}-bit {kind} {spec.number_format} grid ({shared}, {clip})"


def loss_table(found: Mapping[str, FormLoss]) -> pd.DataFrame:
    """A row for each form."""
    return pd.DataFrame([{
        "weight": form, "lost of the weight": _lost(f.loss.weight), "SQNR, dB": round(_decibel(f.loss.weight), 1),
        "lost of the output": _lost(f.loss.output) if np.isfinite(f.loss.output) else "–",
        "amplification": round(f.amplification, 2), "cut off": f"{f.loss.clipped:.2%}"} for form, f in found.items()])


def _lost(share: float) -> str:
    """A share of energy in percent; what lies on the grid loses none."""
    return "0 %" if share < NOTHING else percent(share)


def _decibel(error: float) -> float:
    return float("inf") if error < NOTHING else -10 * float(np.log10(error))


def what_happens(found: Mapping[str, FormLoss], spec: QuantSpec) -> str:
    """The linear's losses in one or two sentences, before and after."""
    before = found[STORED].loss
    if ROTATED not in found:
        return f"The {grid_words(spec)} loses **{_lost(before.weight)}** of this weight's energy{_at_output(before)}."
    after = found[ROTATED].loss
    return (f"The {grid_words(spec)} loses **{_lost(before.weight)}** of this weight's energy as stored and **{_lost(after.weight)}** rotated"
            + (f"; of the layer's output **{_lost(before.output)}** and **{_lost(after.output)}**." if np.isfinite(after.output) else "."))


def _at_output(loss: Loss) -> str:
    return f" and **{_lost(loss.output)}** of the layer's output" if np.isfinite(loss.output) else ""


def why(found: Mapping[str, FormLoss]) -> str:
    """Why the output's error moved otherwise than the weight's, where it did; else nothing."""
    if ROTATED not in found or not np.isfinite(found[ROTATED].loss.output):
        return ""
    before, folded, after = (found[form] for form in FORMS)
    if before.loss.output < NOTHING:
        return "The stored weights lie on this grid; the rotation takes them off it." if after.loss.output >= NOTHING else ""
    moved = folded.amplification / before.amplification if before.amplification else 1.0
    output, alone = (form.loss.output / before.loss.output if before.loss.output else 1.0 for form in (after, folded))
    weighs = (f"The norm's gain decides it: as stored, the weight reads the gained stream; R1 needs the gain folded into the weight, and then the "
              f"same relative error weighs **{short(moved)} times** as much at the output (amplification {short(before.amplification)} → "
              f"{short(folded.amplification)}).")
    if output > LOUDER and moved > LOUDER and alone > LOUDER:
        return (f"The rotation costs this linear: its output's error is {short(output)} times as large. {weighs} The gain had held the stream's "
                "largest channels down; now rounding errors meet them at full size.")
    if output > LOUDER:
        return f"The rotation costs this linear: its output's error is {short(output)} times as large."
    if output < 1 / LOUDER:
        helps = f"The rotation helps this linear: its output's error is {short(1 / output)} times smaller."
        return f"{helps} {weighs}" if moved < 1 / LOUDER and alone < 1 / LOUDER else helps
    return "At the layer's output the rotation changes little here."


def map_words(before: ByLinear, after: ByLinear, measure: str, spec: QuantSpec) -> str:
    """What a rotation does to all linears at once."""
    ratio = after.values / before.values
    known = np.isfinite(ratio)
    if not known.any():
        return ""
    i, j = (int(v) for v in np.unravel_index(int(np.nanargmax(np.where(known, ratio, np.nan))), ratio.shape))
    medians = {role: float(np.median(column[np.isfinite(column)])) for column, role in zip(ratio.T, after.roles) if np.isfinite(column).any()}
    grown = [role for role, factor in medians.items() if role in BEHIND_NORM and factor > LOUDER]
    median = short(float(np.median(ratio[known])))
    text = (f"On the {grid_words(spec)} the rotation multiplies the {MEASURES[measure]} by **{median}** in the median, "
            f"by **{short(float(ratio[i, j]))}** at most ({after.roles[j]} in block {i}).")
    if measure == "weight":
        return f"{text} That is not yet what the model loses: the output's error counts, and it can move the other way."
    if grown:
        return (f"{text} It grows at {', '.join(grown)}, which read a norm: the gain that held the stream's largest channels down is folded into the "
                "weight first, and rounding errors then meet them at full size. *One linear* takes one apart.")
    return text


def stored_words(found: Mapping[str, FormLoss]) -> str:
    """That a weight has been through 4 bits before, where its numbers show it."""
    before = found[STORED].distinct
    if before is None or before > 16:
        return ""
    after = found[ROTATED].distinct if ROTATED in found else None
    turned = f" Rotated, they take {after}: the old grid is gone." if after and after > before else ""
    lost = found[STORED].loss.weight
    meets = ("The grid chosen here is that one, and rounding loses nothing." if lost < NOTHING else
             f"The grid chosen here does not meet those values (its zero is a level or its scale another), so that rounding loses {percent(lost)} "
             "all the same.")
    return (f"In any {STORED_GROUP} neighboring inputs an output channel's stored weights take at most {before} values: they have been through "
            f"4 bits once, on a grid with a minimum of its own for each group.{turned} {meets}")


def waterfall_words(steps: Sequence[str], lines: Mapping[str, np.ndarray]) -> str:
    """Where a rotation loses and where it wins, step by step, as far as both lines have results."""
    if len(lines) < 2:
        return ""
    (_, plain), (name, turned) = lines.items()
    said = []
    for i in range(1, len(steps)):
        if np.isfinite(plain[i]) and np.isfinite(turned[i]):
            verb = "loses" if turned[i] > plain[i] else "wins"
            said.append(f"at *{steps[i]}* it {verb} ({short(plain[i])} → **{short(turned[i])}**)")
    return f"{name[:1].upper()}{name[1:]} against no rotation, perplexity: {', '.join(said)}." if said else ""


def assembled_words(steps: Sequence[str], values: np.ndarray) -> str:
    """What rounding costs in all, which step mends most, and where the whole stack ends."""
    known = [i for i in range(len(steps)) if np.isfinite(values[i])]
    if len(known) < 2:
        return ""
    factors = {steps[b]: values[b] / values[a] for a, b in itertools.pairwise(known)}
    worst, best = max(factors, key=factors.get), min(factors, key=factors.get)
    said = [f"From {short(values[known[0]])} the perplexity goes to **{short(max(values[known]))}** and ends at **{short(values[known[-1]])}**."]
    if factors[worst] > 1:
        said.append(f"*{worst}* hurts most ({short(factors[worst])} times)")
    if factors[best] < 1:
        said.append(f"*{best}* mends most ({short(factors[best])} times)")
    return said[0] + (f" {'; '.join(said[1:])}." if said[1:] else "")


# Runs


def runs_with_weights(model: str) -> list[RunRecord]:
    """Finished runs of a model that quantized weights, newest first."""
    return [r for r in Store().list(status=Status.DONE, model=model, limit=200)
            if r.recipe["weights"]["method"] != "none" and r.recipe["weights"]["bits"] < 16]


def run_errors(record: RunRecord) -> ByLinear:
    """Relative MSE of a run's weights by block and role; the mean where a role has several (experts)."""
    frame = pd.DataFrame(result_of(record)["weight_errors"])
    if frame.empty:
        return ByLinear((), np.zeros((0, 0)))
    return _grid(frame, "role", "relative_mse")


def learned_names(records: Sequence[RunRecord]) -> list[str]:
    """What the runs' calibrated methods report of single linears: objective, flips, clip_low ..."""
    return sorted({name.rpartition(".")[2] for r in records for e in result_of(r)["learned"] for name in e["metrics"]
                   if "." in name and not name.startswith("scale.")})


def learned_by_linear(record: RunRecord, name: str) -> ByLinear:
    """One reported number by block and linear."""
    rows = [{"block": e["block"], "role": path.rpartition(".")[0].rpartition(".")[2].removesuffix("_proj"), "value": value}
            for e in result_of(record)["learned"] for path, value in e["metrics"].items()
            if path.rpartition(".")[2] == name and "." in path and not path.startswith("scale.")]
    return _grid(pd.DataFrame(rows), "role", "value") if rows else ByLinear((), np.zeros((0, 0)))


def learned_losses(records: Sequence[RunRecord]) -> dict[str, np.ndarray]:
    """Loss after over loss before of each block, by run."""
    names, lines = names_of(records), {}
    for record in records:
        found = result_of(record)["learned"]
        line = np.full(max((e["block"] for e in found), default=-1) + 1, np.nan)
        for entry in found:
            before, after = entry["metrics"].get("loss_before"), entry["metrics"].get("loss_after")
            line[entry["block"]] = after / before if before and after is not None else np.nan
        if np.isfinite(line).any():
            lines[names[record.run_id]] = line
    return lines


def learned_table(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Every reported number over the blocks: mean, smallest and largest."""
    names, rows = names_of(records), []
    for record in records:
        frame = pd.DataFrame([{"what": name, "value": value} for e in result_of(record)["learned"] for name, value in e["metrics"].items()])
        if not frame.empty:
            for what, values in frame.groupby("what", sort=False)["value"]:
                rows.append({"run": names[record.run_id], "what": what, "mean": values.mean(), "least": values.min(), "most": values.max()})
    return pd.DataFrame(rows)


def _grid(frame: pd.DataFrame, columns: str, values: str) -> ByLinear:
    grid = frame.pivot_table(index="block", columns=columns, values=values, aggfunc="mean", sort=False).sort_index().astype(float)
    return ByLinear(tuple(map(str, grid.columns)), grid.to_numpy())


def common_range(found: Sequence[ByLinear]) -> tuple[float, float] | None:
    """Limits of the colors that maps share."""
    known = np.concatenate([f.values[np.isfinite(f.values) & (f.values > 0)] for f in found]) if found else np.empty(0)
    return (float(known.min()), float(known.max())) if known.size and known.max() > known.min() else None
