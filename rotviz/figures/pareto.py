"""Bits and quality: the perplexity of finished runs against what they cost, with the frontier that no other run beats.

    on the frontier: no run has both a lower cost and a lower perplexity

Whiskers are one standard error: a frontier decided inside them is not decided.

Reference: the frontier of ModelOpt's AutoQuantize; the size-against-divergence charts of the GGUF community.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rotviz.config import setting
from rotviz.errors import BadInput
from rotviz.figures import FIGURES, Needs, Panel
from rotviz.reports.run_figures import COSTS, pareto_figure
from rotviz.reports.runs import by_measure
from rotviz.store.runs import RunRecord


@FIGURES.register("pareto")
@dataclass(frozen=True, slots=True)
class Pareto:
    """See the top of the file."""

    title: ClassVar[str] = "Bits and quality: the Pareto frontier"
    paper: ClassVar[str] = "ModelOpt AutoQuantize; size-against-divergence charts"
    words: ClassVar[str] = "A point is a run, cost across and perplexity up; whatever lies above and right of the line pays more for less."
    needs: ClassVar[Needs] = Needs.RUNS

    cost: str = setting("weights", "what is counted as cost", choices=tuple(COSTS))

    def choose(self, records: Sequence[RunRecord]) -> list[RunRecord]:
        """All runs of the protocol that has most of them; equal recipes once."""
        groups = [list({r.fingerprint: r for r in reversed(group)}.values())[::-1] for group in by_measure(records).values()]
        return max(groups, key=len, default=[])

    def draw(self, records: Sequence[RunRecord]) -> list[Panel]:
        """One panel."""
        if len(by_measure(records)) > 1:
            raise BadInput("these perplexities follow different protocols and must not be compared: choose runs of one text and model")
        return [Panel("", pareto_figure(records, self.cost))]
