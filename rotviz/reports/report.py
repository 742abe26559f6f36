"""A run, or several side by side, as everything a reader wants to know: words, tables and figures, whatever file they end in.

    report = report_of(["20261122-0341-7f3a9c", ...])
    report.title, report.summary, report.numbers, report.differences, report.figures, report.learning, ...

Two perplexities are compared where their protocols agree, and then by the ratio paired by window, exp(mean_w(a_w - b_w)) with a_w the mean
negative log-likelihood of window w: what is hard in a window is hard for both runs and cancels. A learned rotation is judged against the seeds of the
unlearned one that the store holds for the same recipe (evaluation/verdict.py). A report holds plain values alone, so that it travels as JSON.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import pandas as pd

from rotviz.errors import BadInput
from rotviz.evaluation.perplexity import Perplexity, perplexity, ratio
from rotviz.evaluation.verdict import UNKNOWN, Verdict, judge
from rotviz.plots.drawing import Drawing
from rotviz.plots.words import count, number
from rotviz.reports.run_figures import (
    divergence_figure,
    learning_curves,
    perplexity_figure,
    ratio_figure,
    residual_figure,
    site_errors_figure,
    sites_range,
)
from rotviz.reports.runs import (
    apart_from_rotation,
    classifies,
    dig,
    duration,
    measure_of,
    names_of,
    plain_value,
    recipe_differences,
    recipe_toml,
    repeat_with,
    rotation_of_run,
    side_by_side,
    title_of,
)
from rotviz.store.runs import RunRecord, Status, Store

BASELINE = "hadamard"
"""The unlearned rotation whose seeds judge a learned one."""
MOST = 12
"""Runs in one report."""


@dataclass(frozen=True)
class Shown:
    """A figure of a report: what stands over it, how to read it, and the drawing."""

    heading: str
    caption: str
    drawing: Drawing


@dataclass(frozen=True)
class Report:
    """See the top of the file.

    Attributes:
        records: the runs, in the order they are told.
        results: their whole results, by run id.
        peers: further runs of the store that differ from one of them in the rotation's seed alone; they judge learned rotations.
    """

    records: tuple[RunRecord, ...]
    results: Mapping[str, Mapping[str, Any]]
    peers: tuple[RunRecord, ...] = ()

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """The report that `to_json` wrote."""
        plain = json.loads(text)
        records, peers = ([RunRecord(**r | {"status": Status(r["status"])}) for r in plain[key]] for key in ("records", "peers"))
        return cls(tuple(records), plain["results"], tuple(peers))

    def to_json(self) -> str:
        """Everything, as one JSON text."""
        return json.dumps({"records": [r.to_dict() for r in self.records], "peers": [r.to_dict() for r in self.peers], "results": self.results},
                          ensure_ascii=False, allow_nan=False)

    @cached_property
    def names(self) -> dict[str, str]:
        """Short names of the runs by id."""
        return names_of(self.records)

    def __iter__(self) -> Iterator[tuple[str, RunRecord, Mapping[str, Any]]]:
        """Name, record and result of each run."""
        return ((self.names[r.run_id], r, self.results[r.run_id]) for r in self.records)

    @property
    def comparable(self) -> bool:
        """Whether the perplexities follow one protocol."""
        return len({measure_of(r) for r in self.records}) == 1

    @property
    def title(self) -> str:
        """`hadamard R1234 W4A4KV16 rtn of smollm2-135m`, or how many runs of what."""
        models = ", ".join(dict.fromkeys(r.model for r in self.records))
        return f"{title_of(self.records[0])} of {models}" if len(self.records) == 1 else f"{len(self.records)} runs of {models} compared"

    @property
    def summary(self) -> list[str]:
        """What came out, in sentences."""
        said = [_outcome(name, record.model, result) for name, record, result in self]
        if len(self.records) > 1:
            said += self._ranking() if self.comparable else ["These runs follow different protocols: their perplexities must not be compared."]
        return [*said, *self.verdicts]

    @property
    def protocols(self) -> list[str]:
        """How the perplexities were measured, each protocol once."""
        found = ((r["perplexity"]["quantized"]["protocol"], r["perplexity"]["quantized"]["tokens"]) for _, _, r in self)
        return [f"{protocol}; {tokens:,} scored tokens" for protocol, tokens in dict.fromkeys(found)]

    @property
    def numbers(self) -> pd.DataFrame:
        """The main numbers, a column for each run; with the protocol only where it differs."""
        found = side_by_side(self.records)
        return found[found["number"] != "protocol"] if self.comparable else found

    @property
    def differences(self) -> pd.DataFrame:
        """The recipe keys in which the runs differ; empty for one run."""
        return recipe_differences(self.records)

    @cached_property
    def figures(self) -> list[Shown]:
        """The figures, those of all runs first."""
        found = [Shown("Error of the residual stream by block", "Solid: with all earlier blocks quantized too; dotted: this block alone quantized.",
                       residual_figure(self.records, results=self.results))]
        if len(self.records) > 1 and self.comparable:
            found = [Shown("Perplexity", "Each bar starts at the float model's perplexity; whiskers are one standard error.",
                           perplexity_figure(self.records)),
                     Shown("Divergence", "How far the next-token distribution moved from the float model's.", divergence_figure(self.records)),
                     *found]
        limits = sites_range([result for _, _, result in self])
        for name, _, result in self:
            of = f" of {name}" if len(self.records) > 1 else ""
            if result["errors"]:
                found.append(Shown(f"Error by site and block{of}", "What each rounding loses on the numbers it is given; the residual stream's is "
                                   "all that has arrived.", site_errors_figure(result, y_range=limits)))
        return [*found, *self._ratio(), *self._curves()]

    @property
    def learning(self) -> pd.DataFrame:
        """What the learned rotations cost, a row for each; empty where nothing was learned."""
        rows = []
        for name, _, result in self:
            one = result.get("learning")
            if one:
                rows.append({"run": name, "method": one["method"], "seconds": one["seconds"], "peak MB": one["peak_memory_mb"],
                             "tokens seen": one["tokens"], "steps": one["steps"], "calibration": one["protocol"],
                             "learned": "by an earlier run" if one["reused"] else "in this run"})
        return pd.DataFrame(rows)

    @property
    def verdicts(self) -> list[str]:
        """What each learned rotation gained against the seeds of the unlearned one."""
        said = []
        for name, record, result in self:
            if result.get("learning"):
                value = dig(result, "perplexity", "quantized", "value")
                said.append(_verdict(name, judge(float("nan") if value is None else value, self._baseline(record))))
        return said

    @property
    def notes(self) -> dict[str, list[str]]:
        """What a reader should know of each run, where there is anything."""
        return {name: list(result["notes"]) for name, _, result in self if result["notes"]}

    @property
    def proof(self) -> pd.DataFrame:
        """What each step of the rewrite changed in the logits; empty where nothing was rotated."""
        return pd.DataFrame([{"run": name, "step": p["step"], "in words": p["words"], "change": p["error"], "allowed": p["tolerance"],
                              "holds": p["error"] <= p["tolerance"]} for name, _, result in self for p in result["proof"]])

    @property
    def environment(self) -> pd.DataFrame:
        """Versions and machine, time by stage and memory; a column for each run."""
        columns = {}
        for name, record, result in self:
            times = {f"{stage}, seconds": round(seconds, 2) for stage, seconds in result["seconds"].items()}
            columns[name] = {"run": record.run_id, "finished": (record.finished or "")[:16].replace("T", " "), **result["environment"], **times,
                             "all stages": duration(sum(result["seconds"].values())), "peak memory, MB": round(result["peak_memory_mb"])}
        return pd.DataFrame(columns).map(plain_value).rename_axis("what").reset_index()

    @property
    def recipes(self) -> dict[str, tuple[str, str]]:
        """The recipe as TOML, and the command that repeats it, by name."""
        return {name: (recipe_toml(record), repeat_with(record)) for name, record, _ in self}

    def _ranking(self) -> list[str]:
        """From the lowest perplexity on, each against the next, paired by window."""
        known = [(name, _perplexity(result)) for name, _, result in self if dig(result, "perplexity", "quantized", "value") is not None]
        ordered = sorted(known, key=lambda pair: pair[1].value)
        said = [f"Lowest perplexity: {ordered[0][0]}."] if ordered else []
        for (name, better), (other, worse) in pairwise(ordered):
            factor, error = ratio(worse, better)
            told = ", less than two standard errors, so they cannot be told apart" if factor - 1 < 2 * error else ""
            said.append(f"{other} has {_factor(factor, error)} {name}{told} (paired by window).")
        return said

    def _baseline(self, record: RunRecord) -> list[float]:
        """Perplexities of the seeds of the unlearned rotation under the same recipe."""
        wanted = apart_from_rotation(record)
        found = {r.fingerprint: dig(r.result, "perplexity", "quantized", "value") for r in (*self.peers, *self.records)
                 if rotation_of_run(r) == BASELINE and apart_from_rotation(r) == wanted}
        return [float(value) for value in found.values() if value is not None]

    def _ratio(self) -> list[Shown]:
        if len(self.records) != 2:
            return []
        (a, _, first), (b, _, second) = self
        drawing = ratio_figure(first, second, (a, b))
        words = f"Blue: {b} has the smaller error there; orange: the larger."
        return [] if drawing is None else [Shown(f"{b} against {a}, cell by cell", words, drawing)]

    def _curves(self) -> list[Shown]:
        words = {"loss": "Loss while the rotation is learned", "errors": "Error of rounding while the rotation is learned",
                 "heads": "Loss of the heads' rotation by block"}
        return [Shown(f"{words[kind]}: {name}", "Measured on calibration tokens while the method learned.", drawing) for name, _, result in self
                for kind, drawing in learning_curves(dig(result, "learning", "history") or ()).items()]


def report_of(runs: Sequence[str], store: Store | None = None) -> Report:
    """The report of stored runs.

    Args:
        runs: ids, or their beginnings or last parts.

    Raises:
        UnknownName: there is no such run.
        BadInput: none or too many, one twice, one that is not finished, or one of a vision model.
    """
    store = store or Store()
    records = list({r.run_id: r for r in (store.get(run) for run in runs)}.values())
    if not 1 <= len(records) <= MOST:
        raise BadInput(f"a report is of 1 to {MOST} runs, not {len(records)}; rotviz runs lists them")
    waiting = [r.run_id for r in records if r.status is not Status.DONE]
    if waiting:
        raise BadInput(f"{', '.join(waiting)} {'is' if len(waiting) == 1 else 'are'} not finished: a report is of finished runs")
    vision = [r.run_id for r in records if classifies(r)]
    if vision:
        raise BadInput(f"a report tells of perplexity, and {', '.join(vision)} measured images; rotviz export gives a vision run's numbers as files")
    wanted = {apart_from_rotation(r) for r in records if dig(r.result, "learning")}
    ids = {r.run_id for r in records}
    peers = [r for model in dict.fromkeys(r.model for r in records) for r in store.list(status=Status.DONE, model=model, limit=1000)
             if r.run_id not in ids and rotation_of_run(r) == BASELINE and apart_from_rotation(r) in wanted] if wanted else []
    return Report(tuple(records), {r.run_id: store.result(r.run_id) for r in records}, tuple(peers))


def _perplexity(result: Mapping[str, Any]) -> Perplexity:
    return perplexity(result["perplexity"]["quantized"]["by_window"], 1, "")


def _outcome(name: str, model: str, result: Mapping[str, Any]) -> str:
    float_model, quantized = result["perplexity"]["reference"], result["perplexity"]["quantized"]
    if quantized["value"] is None:
        return (f"{name}: the perplexity of {model} is no number ({quantized['nan_windows']} windows gave NaN); the float model's is "
                f"{_with(float_model)}.")
    factor, divergence = result["perplexity"]["ratio"], result["divergence"]
    said = f"{name}: perplexity {_with(quantized)}, the float {model}'s is {_with(float_model)}, a ratio of {_with(factor)}"
    kl = "" if divergence["kl_nats"] is None else f"; KL divergence {number(divergence['kl_nats'])} nats a token"
    same = "" if divergence["same_top"] is None else f", the same top token at {100 * divergence['same_top']:.1f} % of the positions"
    return f"{said}{kl}{same}."


def _factor(factor: float, error: float) -> str:
    """`a perplexity 3.1 % ± 0.4 % above that of`, or `178 ± 7.4 times the perplexity of` where it is far above."""
    known = not math.isnan(error)
    if factor >= 2:
        return f"{number(float(f'{factor:.3g}'))}{f' ± {_short(error)}' if known else ''} times the perplexity of"
    return f"a perplexity {100 * (factor - 1):.1f} %{f' ± {100 * error:.1f} %' if known else ''} above that of"


def _short(error: float) -> str:
    """A standard error in two digits."""
    return number(float(f"{error:.2g}"))


def _with(entry: Mapping[str, Any]) -> str:
    """A number with its standard error."""
    return number(entry["value"]) + ("" if entry.get("stderr") is None else f" ± {_short(entry['stderr'])}")


def _verdict(name: str, verdict: Verdict) -> str:
    if verdict.kind == UNKNOWN:
        return (f"Whether the learned rotation of {name} gained anything cannot be told: that takes at least two finished {BASELINE} seeds of "
                f"the same recipe, and there {'is' if verdict.seeds == 1 else 'are'} {verdict.seeds}.")
    share = f" ({100 * verdict.difference / verdict.mean:+.1f} %)".replace("-", "−")
    return (f"The learned rotation of {name}: {verdict.kind}. Perplexity {number(verdict.value)} against a mean of {number(verdict.mean)} over "
            f"{count(verdict.seeds, f'{BASELINE} seed')}{share}; one more seed would fall between {number(verdict.low)} and {number(verdict.high)} "
            "with 95 % probability.")
