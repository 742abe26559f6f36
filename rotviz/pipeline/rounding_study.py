"""A study of learned rounding: which of its choices matter, one switch at a time from a base recipe at few bits.

Its hypotheses are stated before anything runs (HYPOTHESES). They follow the abstract of "Gradient-Based Post-Training Quantization: Challenging
the Status Quo" (arXiv 2308.07662); of the paper only that could be read, so the design is ours, and results are ours, not a replication.

Each setting is one run of the base recipe with one switch turned; the base itself is run with several seeds, which draw other calibration windows,
orders and selections. How they are compared is in study_verdicts.py. What is in the study's file is not run again.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from rotviz.device import resolve_dtype
from rotviz.errors import BadInput, unknown
from rotviz.home import home, write_atomically
from rotviz.models.loading import LoadedModel, load
from rotviz.pipeline.events import Event
from rotviz.pipeline.recipe import Recipe, with_changes
from rotviz.pipeline.run import finish, run
from rotviz.pipeline.study_verdicts import BASE, HYPOTHESES, NEAREST, RATES, step_name, verdicts, ways
from rotviz.quantizers.rounding import TRAVEL

NAME = "rounding-study"
LOSSES = ("layer", "block", "cosine", "importance", "kl")
FREEDOMS = ("up_down", "wide", "latent")
ALLOCATIONS = ("importance", "magnitude", "random")
_RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"

Changes = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Switch:
    """One choice: its words, the base's own value, and the other settings as changes of recipe keys by name."""

    words: str
    own: str
    settings: Mapping[str, Changes]


@dataclass(frozen=True)
class Planned:
    """One run of the study."""

    switch: str
    setting: str
    recipe: Recipe


def base_recipe(plain: Mapping[str, Any]) -> Recipe:
    """The base from plain values (model, seed, text, weights and other tables): learned rounding as it is by default, all else in float.

    Raises:
        BadInput: the recipe's weights.method is not rounding, or anything that a recipe refuses.
    """
    start = {"rotation": {"method": "none"}, "weights": {"method": "rounding", "bits": 3, "group": 64}, "activations": {"bits": 16}}
    merged = {**start, **{k: {**start.get(k, {}), **v} if isinstance(v, Mapping) else v for k, v in plain.items()}}
    base = Recipe.from_dict(merged)
    if base.weights.method != "rounding":
        raise BadInput(f"weights.method = {base.weights.method}: this study is of weights.method = rounding")
    if base.allocation.method != "none":
        raise BadInput("allocation.method is a switch of this study; leave it at none")
    return base.anchored()


def switches_of(base: Recipe, calibrations: Sequence[str] = ()) -> dict[str, Switch]:
    """The switches of a base. `calibrations`: other texts to learn from."""
    own, key, text = base.weight_settings, "weights.rounding.", base.text
    samples = {n: f"{n} window{'s' * (n > 1)}" for n in (max(1, text.samples // 4), text.samples * 2) if n != text.samples}
    other_target = "same" if own.target == "float" else "float"
    found = {
        "loss": Switch("what is minimized", own.loss, {
            **{loss: ((f"{key}loss", loss),) for loss in (*LOSSES, "normalized") if loss != own.loss},
            f"{own.loss}, target {other_target}": ((f"{key}target", other_target),)}),
        "freedom": Switch("what a weight may do", f"{own.freedom}, range {_fixed(own.learn_range)}", {
            **{freedom: ((f"{key}freedom", freedom),) for freedom in (*FREEDOMS, "signround") if freedom != own.freedom},
            f"{own.freedom}, range {_fixed(not own.learn_range)}": ((f"{key}learn_range", not own.learn_range),)}),
        "grid": Switch("levels", base.weights.format, {
            "int": (("weights.format", "int"),),
            "power, exponent searched": (("weights.format", "power"), (f"{key}learn_exponent", False)),
            "power, exponent learned": (("weights.format", "power"), (f"{key}learn_exponent", True))}),
        "step": _steps(base),
        "calibration": Switch("what is learned from", f"{text.calibration}, {text.samples} windows", {
            **{name: (("text.calibration", name),) for name in calibrations if name != text.calibration},
            **{words: (("text.samples", n),) for n, words in samples.items()}}),
        "selection": Switch("which weights are learned", f"share {own.share:g}", {
            f"share {share:g}, {kind}": ((f"{key}share", share), (f"{key}selection", kind))
            for share, kind in ((0.1, "channels"), (0.5, "channels"), (0.5, "weights"), (0.5, "undecided"))}),
        "augmentation": Switch("noise on what a block reads", f"{own.augment:g}", {
            f"{amount:g}": ((f"{key}augment", amount),) for amount in (0.0, 0.03, 0.1) if amount != own.augment}),
        "allocation": Switch("how bits are shared out", "equal", {
            method: (("allocation.method", method), ("allocation.budget", float(base.weights.bits))) for method in ALLOCATIONS}),
    }
    return {name: _without(base, switch) for name, switch in found.items()}


def planned(base: Recipe, seeds: int, switches: Mapping[str, Switch], wanted: Sequence[str] = ()) -> list[Planned]:
    """All runs of a study in order: the base's seeds, plain rounding, every setting of every wanted switch.

    Raises:
        BadInput: fewer than two seeds, which have no spread.
        UnknownName: no such switch.
    """
    if seeds < 2:
        raise BadInput(f"seeds = {seeds}: the yardstick is the spread of at least two seeds")
    for name in wanted:
        if name not in switches:
            raise unknown("switch", name, list(switches))
    plain = base.to_dict()
    found = [Planned(BASE, f"seed {base.seed + i}", Recipe.from_dict({**plain, "seed": base.seed + i})) for i in range(seeds)]
    found.append(Planned(NEAREST, "rtn", Recipe.from_dict(with_changes(plain, [("weights.method", "rtn")]))))
    return found + [Planned(name, setting, Recipe.from_dict(with_changes(_deep(plain), changes)))
                    for name, switch in switches.items() if not wanted or name in wanted for setting, changes in switch.settings.items()]


def study_path(base: Recipe) -> Path:
    """Where the study of a base is kept."""
    model = "".join(c if c.isalnum() else "-" for c in Path(base.model).name)
    return home() / "studies" / f"rounding-{model}-W{base.weights.bits}g{base.weights.group}-{base.fingerprint}.json"


def found_studies() -> list[Path]:
    """Every study that is kept, newest first: those made here, then the ones that come with the code."""
    made = sorted((home() / "studies").glob("rounding-*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [*made, *sorted(_RESULTS.glob("rounding_study*.json"))]


def load_study(path: Path) -> dict[str, Any]:
    """A study's record.

    Raises:
        BadInput: no such file, or it holds no study.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInput(f"cannot read the study {path}: {error}") from error
    if not isinstance(record, dict) or record.get("study") != NAME:
        raise BadInput(f"{path} holds no {NAME}; name another file, or remove this one")
    return record


@dataclass
class Study:
    """A study on its way: what is in its file is not run again.

    Args:
        base: the base recipe.
        plan: all runs.
        switches: as `switches_of` gives them.
        path: the file.
        environment: machine and versions, as pipeline.result.environment gives them; each run keeps those that it was made with.
    """

    base: Recipe
    plan: list[Planned]
    switches: Mapping[str, Switch]
    path: Path
    environment: Mapping[str, Any]
    record: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        kept = load_study(self.path) if self.path.exists() else {"runs": []}
        if kept["runs"] and kept["base"] != self.base.to_dict():
            raise BadInput(f"{self.path} holds the study of another base recipe; name another file with --to")
        self.record = {
            "study": NAME, "environment": kept.get("environment", {}), "base": self.base.to_dict(),
            "hypotheses": [{"name": h.name, "words": h.words, "switches": list(h.switches)} for h in HYPOTHESES],
            "switches": {name: {"words": s.words, "base": s.own, "settings": list(s.settings)} for name, s in self.switches.items()},
            "runs": kept["runs"]}

    @property
    def missing(self) -> list[Planned]:
        """What is not in the file yet."""
        known = {r["fingerprint"] for r in self.record["runs"]}
        return [p for p in self.plan if p.recipe.fingerprint not in known]

    def carry_out(self, on_event: Callable[[float, str], None], most: int = 0, loaded: LoadedModel | None = None) -> dict[str, Any]:
        """Run what is missing (at most so many; 0 = all), saving after each; the record with its verdicts."""
        missing = self.missing[:most or None]
        if missing:
            self.record["environment"] = {"date": datetime.now(UTC).date().isoformat(), **self.environment}
            loaded = loaded or load(self.base.model, resolve_dtype(self.base.dtype))
        for i, one in enumerate(missing):
            def said(event: Event, i: int = i, one: Planned = one) -> None:
                on_event((i + event.fraction) / len(missing), f"{one.switch}, {one.setting}: {event.message}")

            result = finish(run(one.recipe, loaded=loaded), said).to_dict()
            self.record["runs"].append(_entry(one, result, self.record["environment"]))
            self._save()
        self._save()
        return self.record

    def _save(self) -> None:
        self.record["verdicts"] = verdicts(self.record)
        text = json.dumps(self.record, indent=1, allow_nan=False) + "\n"
        write_atomically(self.path, lambda target: target.write_text(text, encoding="utf-8"))



def _entry(one: Planned, result: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run is kept: every raw number that the study rests on."""
    return {"switch": one.switch, "setting": one.setting, "fingerprint": one.recipe.fingerprint, "recipe": result["recipe"],
            "kl_nats": result["divergence"]["kl_nats"], "same_top": result["divergence"]["same_top"], "perplexity": result["perplexity"],
            "learned": _learned(result["learned"]), "seconds": result["seconds"], "peak_memory_mb": result["peak_memory_mb"],
            "notes": result["notes"], "environment": dict(environment)}


def _learned(by_block: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over the blocks' linears of what they report; `loss`: of the blocks' loss after over before."""
    metrics = [entry["metrics"] for entry in by_block]
    pairs = [(m["loss_after"], m["loss_before"]) for m in metrics if m.get("loss_before") and m.get("loss_after") is not None]
    found = {"loss": fmean(after / before for after, before in pairs)} if pairs else {}
    for name in ("flips", "range", "exponent", "searched_exponent"):
        values = [value for m in metrics for path, value in m.items() if path.endswith(f".{name}") and value is not None]
        found |= {name: fmean(values)} if values else {}
    return found


def _steps(base: Recipe) -> Switch:
    own, key = base.weight_settings, "weights.rounding."
    once = own.rate or TRAVEL[own.freedom] / own.iterations
    settings = {step_name(optimizer, variable, rate): ((f"{key}optimizer", optimizer), (f"{key}variable", variable), (f"{key}rate", rate * once))
                for optimizer, variable in ways(own.optimizer) for rate in RATES}
    return Switch("optimizer, variable and step (in units of the base's)", step_name(own.optimizer, own.variable, 1.0), settings)


def _fixed(learned: bool) -> str:
    return "learned" if learned else "fixed"


def _without(base: Recipe, switch: Switch) -> Switch:
    """A switch without settings that are the base itself."""
    plain = base.to_dict()
    settings = {name: changes for name, changes in switch.settings.items()
                if name != switch.own and Recipe.from_dict(with_changes(_deep(plain), changes)) != base}
    return Switch(switch.words, switch.own, settings)


def _deep(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested plain values."""
    return json.loads(json.dumps(plain))
