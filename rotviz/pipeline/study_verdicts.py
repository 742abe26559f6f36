"""What a study of learned rounding says: effects against the spread of seeds, and a verdict on each hypothesis.

Each setting is one run of the base recipe with one switch turned (rounding_study.py). What is compared is x = ln(KL), KL the mean divergence in nats
of the quantized model from the float one on the evaluation windows, so that differences are factors. The base itself is run with several seeds.
From their x, with mean m, standard deviation s and n seeds,

    reach = t(n - 1, 0.975) s sqrt(1 + 1/n)         how far one more seed of the base would fall from m (95 %; evaluation/verdict.py)

is the yardstick: a setting helps or hurts where its x lies outside m +- reach, and of two effects one is larger where it is so by more than reach.
An effect of a switch is the range of x over its settings, the base among them. Steps are crossed with optimizers and variables, and interact where
the table of x differs by more than reach from the best sum of a row's and a column's effect.

Settings are run once, so what is found holds for one draw, one model and one number of bits. A range grows with the number of settings.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from rotviz.evaluation.verdict import HELPS, HURTS, SAME, UNKNOWN, prediction_interval

BASE, NEAREST = "base", "nearest"
SUPPORTED, NOT_SUPPORTED, UNDECIDED, NOT_MEASURED = "supported", "not supported", "undecided", "not measured"
RATES = (0.25, 1.0, 4.0)
Record = Mapping[str, Any]
"""A study as its file holds it."""


@dataclass(frozen=True)
class Hypothesis:
    """What is claimed, and the switches that it takes to judge it."""

    name: str
    words: str
    switches: tuple[str, ...]


HYPOTHESES = (
    Hypothesis("H1", "The choice of the loss matters more than the choice of the calibration set.", ("loss", "calibration")),
    Hypothesis("H2", "More freedom than going up or down helps.", ("freedom",)),
    Hypothesis("H3", "A power grid helps at 4 bits and below.", ("grid",)),
    Hypothesis("H4", "The step that is best depends on the optimizer and the variable.", ("step",)),
    Hypothesis("H5", "Bits shared out by importance beat equal bits at the same average.", ("allocation",)),
    Hypothesis("H6", "Which weights are learned, noise on the inputs and the calibration set are second order: their effects are smaller than those "
               "of loss, freedom and grid.", ("selection", "augmentation", "calibration", "loss", "freedom", "grid")),
)


def effects(record: Record) -> list[dict[str, Any]]:
    """Every run against the base: switch, setting, kl_nats, factor (of the seeds' geometric mean), verdict, and what else it reported."""
    low, high, mean = yardstick(record)
    rows = []
    for r in record["runs"]:
        x = _log(r["kl_nats"])
        verdict = UNKNOWN if x is None or math.isnan(low) else HELPS if x < low else HURTS if x > high else SAME
        factor = math.exp(x - mean) if x is not None and mean is not None else None
        rows.append({**{k: r.get(k) for k in ("switch", "setting", "kl_nats")}, "factor": factor, "verdict": "" if r["switch"] == BASE else verdict,
                     "perplexity": r["perplexity"]["quantized"]["value"],
                     **{k: r["learned"].get(k) for k in ("loss", "flips", "range", "exponent", "searched_exponent")},
                     "seconds": sum(r["seconds"].values())})
    return rows


def by_switch(record: Record) -> dict[str, dict[str, float]]:
    """ln(KL) of each switch's settings by name, its own value in the base first; of "base" by seed. Settings without a finite KL are left out."""
    base, found = base_value(record), {}
    for r in record["runs"]:
        name, x = r["switch"], _log(r["kl_nats"])
        if name == NEAREST or x is None:
            continue
        own = {} if name == BASE or base is None else {record["switches"][name]["base"]: base}
        found.setdefault(name, own)[r["setting"]] = x
    return found


def spreads(record: Record) -> dict[str, float]:
    """The effect of each switch that was run: the range of ln(KL) over its settings and the base; of "base" over its seeds."""
    return {name: max(x.values()) - min(x.values()) for name, x in by_switch(record).items() if len(x) > 1}


def spread_rows(record: Record) -> list[dict[str, Any]]:
    """A row for each switch: how many settings, where the KL is smallest and largest, and their ratio; the largest effect first."""
    found, sizes = by_switch(record), spreads(record)
    return [{"switch": name, "settings": len(found[name]), "smallest KL": min(found[name], key=found[name].get),
             "largest KL": max(found[name], key=found[name].get), "largest / smallest": math.exp(size)}
            for name, size in sorted(sizes.items(), key=lambda item: -item[1])]


def verdicts(record: Record) -> list[dict[str, str]]:
    """Each hypothesis with its verdict and the numbers it rests on, in words."""
    found = []
    for hypothesis in HYPOTHESES:
        if _reach(record) is None:
            kind, words = NOT_MEASURED, "the base has fewer than two seeds yet"
        else:
            kind, words = _JUDGES[hypothesis.name](record)
        found.append({"name": hypothesis.name, "words": hypothesis.words, "verdict": kind, "because": words})
    return found


# How each hypothesis is judged


def _judge_h1(record: Record) -> tuple[str, str]:
    return _larger(record, ("loss",), ("calibration",))


def _judge_h2(record: Record) -> tuple[str, str]:
    x = _values(record, "freedom") | {record["base"]["weights"]["rounding"]["freedom"]: base_value(record)}
    return _better(record, {k: x.get(k) for k in ("wide", "latent")}, {k: x.get(k) for k in ("up_down", "signround")})


def _judge_h3(record: Record) -> tuple[str, str]:
    bits, x = record["base"]["weights"]["bits"], _values(record, "grid")
    if bits > 4:
        return NOT_MEASURED, f"the base has {bits} bits"
    if record["base"]["weights"]["format"] == "power":
        return _better(record, {"power": base_value(record)}, {"int": x.get("int")})
    return _better(record, {k: v for k, v in x.items() if k.startswith("power")}, {"int": base_value(record)})


def _judge_h4(record: Record) -> tuple[str, str]:
    table = step_table(record)
    reach = _reach(record)
    rows = {name: row for name, row in table.items() if all(v is not None for v in row.values())}
    if len(rows) < 2:
        return NOT_MEASURED, "fewer than two optimizers with all their steps"
    x = np.array([list(row.values()) for row in rows.values()], dtype=float)
    rest = x - x.mean(1, keepdims=True) - x.mean(0, keepdims=True) + x.mean()
    best = "; ".join(f"{name} {min(row, key=row.get)}" for name, row in rows.items())
    largest = float(np.abs(rest).max())
    words = f"largest interaction a factor {math.exp(largest):.3g}, seeds reach {math.exp(reach):.4g}; best steps: {best}"
    return (SUPPORTED if largest > reach else NOT_SUPPORTED), words


def _judge_h5(record: Record) -> tuple[str, str]:
    x = _values(record, "allocation")
    return _better(record, {"importance": x.get("importance")}, {"equal": base_value(record)})


def _judge_h6(record: Record) -> tuple[str, str]:
    return _larger(record, ("loss", "freedom", "grid"), ("selection", "augmentation", "calibration"), each=True)


_JUDGES: dict[str, Callable[[Record], tuple[str, str]]] = {
    "H1": _judge_h1, "H2": _judge_h2, "H3": _judge_h3, "H4": _judge_h4, "H5": _judge_h5, "H6": _judge_h6}


def step_table(record: Record) -> dict[str, dict[str, float | None]]:
    """ln(KL) by optimizer and variable, and by step (`1/4`, `1`, `4` times 1 / iterations); None where it is missing."""
    x = _values(record, "step")
    own = record["base"]["weights"]["rounding"]
    x[step_name(own["optimizer"], own["variable"], 1.0)] = base_value(record)
    return {f"{optimizer}, {variable}": {_rate_words(rate): x.get(step_name(optimizer, variable, rate)) for rate in RATES}
            for optimizer, variable in ways(own["optimizer"])}


def _larger(record: Record, first: Sequence[str], second: Sequence[str], each: bool = False) -> tuple[str, str]:
    """Whether the largest effect of some switches, or `each` of them, is larger than those of others."""
    found, reach = spreads(record), _reach(record)
    missing = [name for name in (*first, *second) if name not in found]
    if missing:
        return NOT_MEASURED, f"no settings yet of {', '.join(missing)}"
    compared = (min if each else max)(first, key=found.__getitem__), max(second, key=found.__getitem__)
    a, b = (found[name] for name in compared)
    words = f"{compared[0]} a factor {math.exp(a):.3g}, {compared[1]} {math.exp(b):.3g}, seeds reach {math.exp(reach):.4g}"
    return _kind(b - a, reach), words


def _better(record: Record, first: Mapping[str, float | None], second: Mapping[str, float | None]) -> tuple[str, str]:
    """Whether the best of some settings is better than the best of others."""
    missing = [name for x in (first, second) for name, value in x.items() if value is None]
    if missing or not first or not second:
        return NOT_MEASURED, f"no result yet of {', '.join(missing) or 'these settings'}"
    a, b = (min(x, key=x.get) for x in (first, second))
    reach = _reach(record)
    words = f"{a} has {math.exp(first[a] - second[b]):.3g} times the KL of {b}, seeds reach {math.exp(reach):.4g}"
    return _kind(first[a] - second[b], reach), words


def _kind(difference: float, reach: float) -> str:
    """Supported where a difference is below -reach, not where it is above; between them nothing can be told."""
    return SUPPORTED if difference < -reach else NOT_SUPPORTED if difference > reach else UNDECIDED


# Pieces


def ways(optimizer: str) -> Iterator[tuple[str, str]]:
    """The pairs of optimizer and variable that are crossed with steps."""
    yield from ((name, "codes") for name in ("sign", "sgd", "adam"))
    yield optimizer, "weights"


def step_name(optimizer: str, variable: str, rate: float) -> str:
    return f"{optimizer}, {variable}, step {_rate_words(rate)}"


def _rate_words(rate: float) -> str:
    return f"{rate:g}" if rate >= 1 else f"1/{1 / rate:g}"


def _log(kl: float | None) -> float | None:
    return math.log(kl) if kl is not None and kl > 0 else None


def base_value(record: Record) -> float | None:
    """ln(KL) of the base itself: the seed that the settings share."""
    return next((_log(r["kl_nats"]) for r in record["runs"] if r["switch"] == BASE and r["recipe"]["seed"] == record["base"]["seed"]), None)


def _seed_values(record: Record) -> list[float]:
    return [x for r in record["runs"] if r["switch"] == BASE and (x := _log(r["kl_nats"])) is not None]


def yardstick(record: Record) -> tuple[float, float, float | None]:
    """The interval of one more seed of the base, and the seeds' mean."""
    seeds = _seed_values(record)
    return *prediction_interval(seeds), fmean(seeds) if seeds else None


def _reach(record: Record) -> float | None:
    low, high, _ = yardstick(record)
    return None if math.isnan(low) else (high - low) / 2


def _values(record: Record, switch: str) -> dict[str, float | None]:
    return {r["setting"]: _log(r["kl_nats"]) for r in record["runs"] if r["switch"] == switch}
