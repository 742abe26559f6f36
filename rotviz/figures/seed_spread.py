"""Seed spread: perplexity of each rotation method over several seeds, everything else in the recipe the same.

    shaded: mean +- t(n-1, 0.975) s sqrt(1 + 1/n)      where one more seed of the unlearned method would fall (evaluation/verdict.py)

Random rotations differ from draw to draw, so one number proves nothing. SpinQuant shows accuracy over 100 random rotations; here are the runs of
this machine.

Reference: SpinQuant (2405.16406), Fig. 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rotviz.errors import BadInput
from rotviz.evaluation.verdict import prediction_interval
from rotviz.figures import FIGURES, Needs, Panel
from rotviz.plots.seed_spread import draw_seed_spread
from rotviz.reports.runs import apart_from_rotation, dig, rotation_of_run
from rotviz.store.runs import RunRecord

BANDS = ("hadamard", "orthogonal")
"""Whose seeds make the band: the first of these that has two."""


@FIGURES.register("seed-spread")
@dataclass(frozen=True, slots=True)
class SeedSpread:
    """See the top of the file."""

    title: ClassVar[str] = "Spread over the seeds of random rotations"
    paper: ClassVar[str] = "SpinQuant (2405.16406), Fig. 4"
    words: ClassVar[str] = ("A dot is a run with another seed; the shaded band is where one more random draw would fall, so a learned rotation "
                            "inside it gained nothing.")
    needs: ClassVar[Needs] = Needs.RUNS

    def choose(self, records: Sequence[RunRecord]) -> list[RunRecord]:
        """The largest group that differs in rotation and seed alone; equal recipes once."""
        groups: dict[str, dict[str, RunRecord]] = {}
        for record in records:
            groups.setdefault(apart_from_rotation(record), {}).setdefault(record.fingerprint, record)
        return max((list(group.values()) for group in groups.values()), key=_seeds, default=[])

    def draw(self, records: Sequence[RunRecord]) -> list[Panel]:
        """One panel."""
        if len({apart_from_rotation(record) for record in records}) > 1:
            raise BadInput("these runs differ in more than the rotation and its seed, so their spread says nothing about seeds: choose runs of one "
                           "recipe")
        if _seeds(records)[0] < 2:
            raise BadInput("no rotation has runs with two seeds yet: queue some on the page Evaluate (choose several seeds), or use "
                           "rotviz run --set seed=1")
        values: dict[str, list[float]] = {}
        seeds: dict[str, list[int]] = {}
        for record in sorted(records, key=lambda r: int(r.recipe["seed"])):
            value = dig(record.result, "perplexity", "quantized", "value")
            values.setdefault(rotation_of_run(record), []).append(np.nan if value is None else value)
            seeds.setdefault(rotation_of_run(record), []).append(int(record.recipe["seed"]))
        band = next((prediction_interval(values[name]) for name in BANDS if len(values.get(name, ())) > 1), None)
        return [Panel("", draw_seed_spread({k: np.array(v) for k, v in values.items()}, seeds={k: np.array(v) for k, v in seeds.items()}, band=band,
                                           reference=dig(records[0].result, "perplexity", "reference", "value")))]


def _seeds(records: Sequence[RunRecord]) -> tuple[int, int]:
    """The most seeds of one rotation, and how many runs there are."""
    names = [rotation_of_run(record) for record in records]
    return max((names.count(name) for name in names), default=0), len(names)
