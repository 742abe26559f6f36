"""Learned rotations on pages: their curves, the recipes that learn them, what they cost and gained, and the runs that they are compared in."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rotviz.evaluation.sites import Turn
from rotviz.evaluation.verdict import HELPS, HURTS, SAME, UNKNOWN, Verdict, judge
from rotviz.numerics.errors import SplitError
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.saved import SavedRotation
from rotviz.plots.words import count, number
from rotviz.reports.run_figures import History
from rotviz.reports.runs import Measure, dig, measure_labels, measure_of, method_of
from rotviz.rotations import ROTATIONS, learns
from rotviz.rotations.learning import STARTS, is_file
from rotviz.store.runs import RunRecord, Status, Store
from rotviz.types import QuantSpec, Slot
from rotviz.ui.runs import listed
from rotviz.ui.words import capital

LEARNED = tuple(name for name, method in ROTATIONS.items() if learns(method))
"""The methods that learn."""
STARTS_OFFERED = ("hadamard", "orthogonal", "identity")
R1 = (Slot.R1,)
BASELINE = "hadamard"
"""What a learned rotation has to beat."""


# While a method learns, and afterwards


def learning_history(run_id: str) -> list[dict[str, float]]:
    """The numbers that a run's learner has given so far."""
    return [e.event.metrics for e in Store().events_since(run_id) if e.event.stage == "learn" and e.event.metrics]


def learning_words(history: History) -> str:
    """What the curves are, and how orthogonal the matrix is."""
    orthogonality = [m["orthogonality"] for m in history if "orthogonality" in m]
    exact = f" Orthogonality error |RᵀR − I| now {orthogonality[-1]:.0e}; the result is made exact in float64." if orthogonality else ""
    return "The loss that the method minimizes, and what rounding loses on calibration tokens, massive and ordinary ones apart." + exact


# The recipes that learn


@dataclass(frozen=True)
class Wish:
    """What the form asks for: everything but the methods."""

    model: str
    seed: int
    text: Mapping[str, Any]
    slots: tuple[Slot, ...]
    spec: QuantSpec
    weight_bits: int
    kv_bits: int


def learning_recipes(wish: Wish, methods: Mapping[str, Mapping[str, Any]], baseline_seeds: int) -> list[Recipe]:
    """A recipe for each method with its settings, and one for each seed of the rotation that they are compared with.

    Raises:
        BadInput: a setting is out of its limits.
    """
    rotations = [({"method": method, method: dict(settings)}, wish.seed) for method, settings in methods.items()]
    rotations += [({"method": BASELINE}, seed) for seed in range(baseline_seeds)]
    return [_recipe(wish, rotation, seed) for rotation, seed in rotations]


def _recipe(wish: Wish, rotation: dict[str, Any], seed: int) -> Recipe:
    spec = wish.spec
    return Recipe.from_dict({
        "model": wish.model, "seed": seed, "text": dict(wish.text), "rotation": {**rotation, "slots": [slot.value for slot in wish.slots]},
        "weights": {"method": "none", "bits": 16} if wish.weight_bits == 16 else {"bits": wish.weight_bits},
        "activations": {"bits": spec.bits, "symmetric": spec.symmetric, "group": spec.group, "clip": spec.clip},
        "kv": {"bits": wish.kv_bits},
    })


# What was learned


def start_turn(saved: SavedRotation, slots: tuple[Slot, ...]) -> Turn:
    """The rotation that learning started from."""
    if is_file(saved.start):
        return Turn("saved", saved.seed, slots, file=saved.start) if Path(saved.start).is_file() else Turn(BASELINE, saved.seed, slots)
    name = STARTS.get(saved.start, saved.start)
    return Turn(name if name in ROTATIONS and not learns(ROTATIONS[name]) else BASELINE, saved.seed, slots)


def lottery(seeds: int) -> dict[str, list[Turn]]:
    """Random rotations of the residual stream by method."""
    return {method: [Turn(method, seed, R1) for seed in range(seeds)] for method in ("orthogonal", BASELINE)}


def cost_and_gain(saved: Sequence[SavedRotation], before: Sequence[SplitError], after: Sequence[SplitError],
                  runs: Mapping[str, RunRecord]) -> pd.DataFrame:
    """A row for each rotation: what it cost, the errors at its start and now, and perplexity where a run measured it (by file)."""
    rows = []
    for one, old, new in zip(saved, before, after, strict=True):
        result = runs[str(one.path)].result if str(one.path) in runs else None
        rows.append({"rotation": one.title, "seconds": one.seconds, "peak MB": one.peak_memory_mb, "tokens": one.tokens,
                     "ordinary, start": old.ordinary, "ordinary": new.ordinary, "massive, start": old.massive, "massive": new.massive,
                     "perplexity": dig(result, "perplexity", "quantized", "value"), "KL": dig(result, "divergence", "kl_nats"),
                     "steps": one.steps, "calibration": one.protocol})
    return pd.DataFrame(rows)


def verdict_words(name: str, verdict: Verdict, what: str) -> str:
    """One verdict as a sentence in Markdown."""
    if verdict.kind == UNKNOWN:
        return f"**{name}**: cannot be told, for it takes at least two {BASELINE} seeds with a number."
    share = f" ({100 * verdict.difference / verdict.mean:+.1f} %)".replace("-", "−") if verdict.mean else ""
    color = {HELPS: "green", SAME: "gray", HURTS: "red"}[verdict.kind]
    return (f"**{name}** :{color}-badge[{verdict.kind}] {capital(what)} {number(verdict.value)} against a mean of {number(verdict.mean)} over "
            f"{count(verdict.seeds, f'{BASELINE} seed')}{share}; one more seed would fall between {number(verdict.low)} and "
            f"{number(verdict.high)}.")


def verdict_row(name: str, what: str, verdict: Verdict) -> dict[str, Any]:
    """One verdict as a row of a table."""
    return {"rotation": name, "measure": what, "value": verdict.value, f"{BASELINE} mean": verdict.mean, "low": verdict.low,
            "high": verdict.high, "difference": verdict.difference, "verdict": verdict.kind}


# Runs that may be compared


@dataclass(frozen=True)
class Group:
    """Finished runs that share text, windows, slots and grids, so that nothing but the rotation differs; newest first, no recipe twice."""

    label: str
    records: tuple[RunRecord, ...]

    def by_method(self) -> dict[str, list[RunRecord]]:
        """The runs of each method, in the order of their seeds; the unlearned methods first."""
        found: dict[str, list[RunRecord]] = {}
        for record in sorted(self.records, key=lambda r: (file_of(r) != "", method_of(r), r.recipe["seed"])):
            if method_of(record) != "none":
                found.setdefault(method_of(record), []).append(record)
        return found

    def by_file(self) -> dict[str, RunRecord]:
        """The newest run of each saved rotation."""
        return {file_of(r): r for r in reversed(self.records) if file_of(r)}

    def verdicts(self, *path: str) -> list[tuple[RunRecord, Verdict]]:
        """Every run of a learned rotation, judged by a number of its result against the seeds of the baseline."""
        seeds = [dig(r.result, *path) for r in self.by_method().get(BASELINE, [])]
        known = [float(v) for v in seeds if v is not None]
        return [(r, judge(float(dig(r.result, *path)), known)) for r in self.by_file().values() if dig(r.result, *path) is not None]


def groups_of(model: str) -> list[Group]:
    """The groups of a model's runs in which a learned rotation was measured, newest first."""
    found: dict[tuple[Measure, str], dict[str, RunRecord]] = {}
    for record in listed(status=Status.DONE, model=model):
        measure = measure_of(record)
        if measure is not None:
            found.setdefault((measure, _grids(record)), {}).setdefault(record.fingerprint, record)
    kept = {key: tuple(runs.values()) for key, runs in found.items() if any(file_of(r) for r in runs.values())}
    texts = measure_labels({measure: runs for (measure, _), runs in kept.items()})
    by_measure = dict(zip(dict.fromkeys(measure for measure, _ in kept), texts, strict=True))
    labels: list[str] = []
    for (measure, _), runs in kept.items():
        label = f"{_bits(runs[0])} · {by_measure[measure]}"
        labels.append(label if label not in labels else f"{label} ({len(labels) + 1})")
    return [Group(label, runs) for label, runs in zip(labels, kept.values(), strict=True)]


def file_of(record: RunRecord) -> str:
    """The saved rotation of a run, or nothing."""
    return str(dig(record.result, "learning", "file") or "")


def _grids(record: RunRecord) -> str:
    """Everything of a recipe that is not the rotation, the text or the seed."""
    recipe = record.recipe
    rest = {k: v for k, v in recipe.items() if k not in ("model", "seed", "text", "rotation")}
    return json.dumps([rest, dig(recipe, "rotation", "slots")], sort_keys=True)


def _bits(record: RunRecord) -> str:
    recipe = Recipe.from_dict(record.recipe)
    grid = recipe.activations
    kind = "symmetric" if grid.symmetric else "asymmetric"
    quantizer = f" {recipe.weights.method}" if recipe.weights.spec().quantizes else ""
    return f"{recipe.bits_title}{quantizer}, {kind}, clip {grid.clip}"
