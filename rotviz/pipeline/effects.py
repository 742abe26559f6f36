"""What a difference between two recipes does, from pairs of runs that differ in it alone.

    effect of a change = mean over pairs (a, b) of log PPL_b - log PPL_a,    a and b equal but for the change, measured on the same windows
    interval           = mean +- t(n - 1, 0.975) s / sqrt(n)                 n pairs with standard deviation s; unknown for one pair

exp of it is the factor by which the change multiplies perplexity, the same whether the base is 20 or 2,000. Pairs differ in what else their recipes
hold (seeds, other bits), so the interval says how far the effect depends on that. Where no two runs differ in the change alone, its effect is not
known, however different the runs are.

A change is what a person would call one: switching a part on or off, or another method, takes the part's own settings along (a rotation its slots, a
weight quantizer its grid), and keys that decide nothing (the clip of activations that stay in float) are no difference. Inside a part
that both recipes have, every key counts by itself.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from rotviz.evaluation.verdict import LEVEL, t_quantile

FLOAT_BITS = 16
SWITCHES = {"rotation": "rotation.method", "weights": "weights.bits", "activations": "activations.bits", "kv": "kv.bits",
            "scaling": "scaling.method", "allocation": "allocation.method"}
"""By section the key that turns it on and off."""
MEASURE = ("model", "dtype", "text.evaluation", "text.length", "text.windows", "images.evaluation", "images.count")
"""Keys that change what is measured and on what: no perplexity can be compared across them."""

Item = tuple[str, str, str]
"""A key and its values on both sides, as text; a blank where a side has no such key."""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between two recipes.

    Attributes:
        key: the recipe key that names it.
        before, after: its values in words.
        items: every key that goes along, sorted.
    """

    key: str
    before: str
    after: str
    items: tuple[Item, ...]

    @property
    def measures(self) -> bool:
        """Whether it changes the measurement itself."""
        return self.key in MEASURE


@dataclass(frozen=True, slots=True)
class Effect:
    """What a change does to log perplexity, in nats a token.

    Attributes:
        mean: the mean paired change; NaN where no two runs differ in it alone.
        low, high: its 95 % interval; NaN below two pairs.
        pairs: how many pairs of runs.
    """

    mean: float
    low: float
    high: float
    pairs: int


Table = dict[str, str]


def settings_that_count(recipe: Mapping[str, Any]) -> Table:
    """A plain recipe as dotted keys and values in words, without the keys that decide nothing."""
    table = {key: _word(value) for key, value in _flat(recipe).items() if not key.startswith("ablation.")}  # it measures more, and changes nothing
    off = {"rotation": table.get("rotation.method") == "none" and not table.get("rotation.load"),
           "weights": table.get("weights.method") == "none" or table.get("weights.bits") == str(FLOAT_BITS),
           "activations": table.get("activations.bits") == str(FLOAT_BITS), "kv": table.get("kv.bits") == str(FLOAT_BITS),
           "scaling": table.get("scaling.method", "none") == "none", "allocation": table.get("allocation.method", "none") == "none"}
    for section, is_off in off.items():
        if is_off:
            table = {key: value for key, value in table.items() if not key.startswith(f"{section}.")}
            table[SWITCHES[section]] = str(FLOAT_BITS) if SWITCHES[section].endswith("bits") else "none"
    return table


def changes(a: Mapping[str, str], b: Mapping[str, str]) -> tuple[Change, ...]:
    """The differences between two tables of `settings_that_count`."""
    items = [(key, a.get(key, ""), b.get(key, "")) for key in {**a, **b} if a.get(key) != b.get(key)]
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(_owner(item, items), []).append(item)
    found = []
    for key, members in groups.items():
        before, after = (table.get(key, "") for table in (a, b))
        found.append(Change(key, before, after, tuple(sorted(members))))
    return tuple(found)


def effect_of(change: Change, runs: Sequence[tuple[Mapping[str, str], float]]) -> Effect:
    """The effect of a change.

    Args:
        runs: tables of `settings_that_count` and log perplexities of runs of one measure; of equal tables the first counts.
    """
    before = _without(runs, {key: a for key, a, _ in change.items})
    after = _without(runs, {key: b for key, _, b in change.items})
    steps = [after[rest] - before[rest] for rest in before.keys() & after.keys()]
    steps = [step for step in steps if math.isfinite(step)]
    if not steps:
        return Effect(math.nan, math.nan, math.nan, 0)
    reach = t_quantile((1 + LEVEL) / 2, len(steps) - 1) * stdev(steps) / math.sqrt(len(steps)) if len(steps) > 1 else math.nan
    mean = fmean(steps)
    return Effect(mean, mean - reach, mean + reach, len(steps))


def ranked(recipes: Sequence[Mapping[str, Any]], runs: Sequence[tuple[Mapping[str, Any], float]]) -> list[tuple[Change, Effect]]:
    """Every difference of some recipes from the first of them, the largest effect first and those that are not known last.

    Args:
        recipes: plain recipes.
        runs: plain recipes and log perplexities of stored runs of one measure, the newest first.
    """
    tables = [settings_that_count(recipe) for recipe in recipes]
    known = [(settings_that_count(recipe), value) for recipe, value in runs]
    found = dict.fromkeys(change for table in tables[1:] for change in changes(tables[0], table))
    effects = [(change, effect_of(change, known)) for change in found]
    return sorted(effects, key=lambda pair: (not pair[1].pairs, -abs(pair[1].mean)))


def _owner(item: Item, items: Sequence[Item]) -> str:
    """The key under which a difference is told: a method's own settings go with the method, a part's with the switch that brought them."""
    key, before, after = item
    section = key.partition(".")[0]
    if section not in SWITCHES or (before and after):
        return key
    moved = {k: bool(a and b) for k, a, b in items}
    method = f"{section}.method"
    if moved.get(method):
        return method
    return SWITCHES[section] if SWITCHES[section] in moved else key


def _without(runs: Sequence[tuple[Mapping[str, str], float]], items: Mapping[str, str]) -> dict[frozenset, float]:
    """What else the runs hold that have these items (a blank = not having the key), with their values; the first of equal ones."""
    found: dict[frozenset, float] = {}
    for table, value in runs:
        if all(table.get(key, "") == wanted for key, wanted in items.items()):
            found.setdefault(frozenset(pair for pair in table.items() if pair[0] not in items), value)
    return found


def _flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in plain.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _word(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
