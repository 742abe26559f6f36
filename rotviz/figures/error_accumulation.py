"""Error accumulation: the error of the residual stream after each block, with all earlier blocks quantized and with this one alone.

    accumulated |h' - h|^2 / |h|^2      isolated: the same where only block b is quantized and its input is the float model's

A solid line that climbs while the dotted one is flat is error handed on; a dotted peak is a block that hurts by itself. The numbers are those that
runs measured on the way.

Reference: the layer-wise analysis of AIMET's QuantAnalyzer and of SmoothQuant (2211.10438)-style ablations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rotviz.config import setting
from rotviz.errors import BadInput
from rotviz.figures import FIGURES, Needs, Panel
from rotviz.reports.run_figures import residual_figure
from rotviz.reports.runs import by_measure, rotation_of_run
from rotviz.store.runs import RunRecord

DRAWN = 6


@FIGURES.register("error-accumulation")
@dataclass(frozen=True, slots=True)
class ErrorAccumulation:
    """See the top of the file."""

    title: ClassVar[str] = "Error accumulation over the blocks"
    paper: ClassVar[str] = "AIMET QuantAnalyzer; layer-wise ablations after SmoothQuant (2211.10438)"
    words: ClassVar[str] = ("Solid: the error that has arrived after each block; dotted: what that block does alone. Where the gap opens, "
                            "error is handed on.")
    needs: ClassVar[Needs] = Needs.RUNS

    measure: str = setting("relative_mse", "which error", choices=("relative_mse", "sqnr_db", "massive", "ordinary"))

    def choose(self, records: Sequence[RunRecord]) -> list[RunRecord]:
        """The newest run of each rotation, of the newest protocol."""
        group = next(iter(by_measure(records).values()), [])
        newest = {}
        for record in group:
            newest.setdefault((rotation_of_run(record), record.recipe["weights"]["bits"] if record.recipe["weights"]["method"] != "none" else 16,
                               record.recipe["activations"]["bits"]), record)
        return list(newest.values())[:DRAWN]

    def draw(self, records: Sequence[RunRecord]) -> list[Panel]:
        """One panel."""
        if len(by_measure(records)) > 1:
            raise BadInput("these runs read different texts or models, so their errors do not compare: choose runs of one protocol")
        return [Panel("", residual_figure(records, self.measure))]
