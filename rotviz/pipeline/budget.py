"""A bit budget before anything runs: which linear gets how many bits, how large the model is then, and which perplexity that predicts.

    loss      ~  loss_float + f sum_u (weight cost_u(b_u) + input cost_u)         preview.py's costs in nats a token
    ppl       =  exp(loss)
    size      =  sum_u n_u b_u / 8 + scales + everything else at 16 bits

The sum is second order: each linear alone, small errors. f calibrates it on what stored runs of the same model, rotation and grids measured: with the
measured increase m_r and the predicted p_r of run r,

    log f = mean_r log(m_r / p_r)          known error: the largest |log(m_r / p_r) - log f of the other runs|, as a factor of the increase

(each run judged by a factor that has not seen it). With one run f is known and its error is not, with none f = 1 and the number is a ranking more
than a perplexity; the page says which. Runs with another KV cache, scaling, method or activation bits than the recipe's do not count: the costs do
not know them.

The strategies are those of rotviz/allocation at equal average bits. What a budget decides is written as a list (allocation/listed.py), so that a run
rounds exactly what was shown.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from rotviz.allocation import ALLOCATIONS, Units, average_bits, is_budgeted
from rotviz.allocation.listed import parsed
from rotviz.errors import BadInput
from rotviz.pipeline.preview import LinearCost, Preview
from rotviz.pipeline.recipe import Recipe
from rotviz.types import FLOAT_BITS

STRATEGIES = tuple(name for name in ALLOCATIONS if is_budgeted(ALLOCATIONS[name]))
OTHER_BYTES = 2
"""Embeddings, norms and scales are counted in 16 bits."""

Bits = Mapping[str, int]
"""Bits by the name of a linear ("7.down"); all of a mixture's experts of one role share a name."""


def units_of_preview(preview: Preview) -> Units:
    """One unit for each name, with the preview's costs."""
    groups = by_name(preview)
    numbers = torch.tensor([sum(one.elements for one in group) for group in groups.values()])
    magnitude = torch.tensor([sum(one.magnitude * one.elements for one in group) for group in groups.values()]) / numbers
    cost = torch.tensor([[sum(one.weights[i] for one in group) for i in range(len(preview.choices))] for group in groups.values()],
                        dtype=torch.float64)
    return Units(numbers, magnitude, cost, preview.choices, tuple(groups))


def by_name(preview: Preview) -> dict[str, list[LinearCost]]:
    """The linears of each name, in the order of the walk."""
    groups: dict[str, list[LinearCost]] = {}
    for one in preview.linears:
        groups.setdefault(one.name, []).append(one)
    return groups


def allocate(units: Units, strategy: str, budget: float, seed: int = 0) -> dict[str, int]:
    """Bits by name under a strategy at an average of at most `budget`.

    Raises:
        BadInput: the budget cannot be met.
    """
    bits = ALLOCATIONS[strategy]().allocate(units, budget, torch.Generator().manual_seed(seed))
    return dict(zip(units.names, bits.tolist()))


def average_of(units: Units, bits: Bits) -> float:
    """The mean bits a weight."""
    return average_bits(torch.tensor([bits[name] for name in units.names]), units)


def increase(preview: Preview, bits: Bits, input_bits: int = FLOAT_BITS) -> float:
    """The predicted increase of the loss, nats a token, not calibrated."""
    return math.fsum(preview.weight_cost(one, bits[one.name]) + preview.input_cost(one, input_bits) for one in preview.linears)


def size_mb(preview: Preview, bits: Bits, group: int, symmetric: bool) -> float:
    """Megabytes of the whole model: codes, a 16-bit scale (and zero, on an asymmetric grid) for each group, everything else in 16 bits."""
    total = preview.other_elements * OTHER_BYTES
    for one in preview.linears:
        here = bits[one.name]
        total += one.elements * here / 8
        scales = one.elements // group if group else one.outputs
        total += 0 if here >= FLOAT_BITS else scales * OTHER_BYTES * (1 if symmetric else 2)
    return total / 1e6


@dataclass(frozen=True, slots=True)
class Measured:
    """A stored run against the prediction: increases of the loss in nats a token."""

    run_id: str
    title: str
    bits: float
    predicted: float
    measured: float
    loss_float: float

    @property
    def factor(self) -> float:
        return self.measured / self.predicted


@dataclass(frozen=True)
class Calibration:
    """What stored runs say of the prediction.

    factor: f; error: by which factor the increase was wrong at most, each run judged by the others (NaN with fewer than two runs).
    """

    factor: float = 1.0
    error: float = math.nan
    runs: tuple[Measured, ...] = ()

    @property
    def words(self) -> str:
        """How far the prediction can be trusted."""
        if not self.runs:
            return ("a prediction that no run has checked: second order, each linear alone. It ranks allocations; the perplexity itself may be far "
                    "off, most of all at few bits")
        if len(self.runs) == 1:
            return f"a prediction, scaled by {self.factor:.3g} to fit the one run of this kind there is; its error is not known"
        return (f"a prediction, scaled by {self.factor:.3g} to fit {len(self.runs)} runs of this kind; predicted from the others, the loss increase "
                f"of each was off by a factor of up to {self.error:.3g}")


def calibrated(preview: Preview, recipe: Recipe, results: Iterable[tuple[str, str, Mapping[str, Any]]]) -> Calibration:
    """The calibration from finished runs of the recipe's model.

    Args:
        results: run id, title and whole result of each.
    """
    found = [m for m in (_compared(preview, recipe, *one) for one in results) if m is not None]
    if not found:
        return Calibration()
    logs = [math.log(m.factor) for m in found]
    errors = [abs(log - fmean(logs[:i] + logs[i + 1:])) for i, log in enumerate(logs)] if len(logs) > 1 else []
    return Calibration(math.exp(fmean(logs)), math.exp(max(errors)) if errors else math.nan, tuple(found))


def _compared(preview: Preview, recipe: Recipe, run_id: str, title: str, result: Mapping[str, Any]) -> Measured | None:
    """A run against the prediction; None of a run of another kind, or one that lost nothing."""
    theirs = Recipe.from_dict(result["recipe"])
    if _kind(theirs) != _kind(recipe):
        return None
    bits = _bits_of(preview, theirs, result.get("allocation"))
    quantized, reference = (result["perplexity"][name]["value"] for name in ("quantized", "reference"))
    if bits is None or quantized is None or not quantized > reference:
        return None
    predicted = increase(preview, bits, theirs.activations.bits)
    measured = math.log(quantized / reference)
    if not predicted > 0:
        return None
    average = math.fsum(one.elements * bits[one.name] for one in preview.linears) / sum(one.elements for one in preview.linears)
    return Measured(run_id, title, average, predicted, measured, math.log(reference))


def _kind(recipe: Recipe) -> dict[str, Any]:
    """What two recipes share where one's runs calibrate the other's prediction: all but bits, text and seeds of nothing."""
    plain = recipe.to_dict()
    grids = {section: {k: plain[section][k] for k in ("symmetric", "group", "clip", "format")} for section in ("weights", "activations")}
    if not recipe.activations.spec().quantizes:
        del grids["activations"]
    return {"model": plain["model"], "rotation": plain["rotation"], "seed": recipe.seed if recipe.slots else None, "grids": grids,
            "method": recipe.weights.method, "scaling": recipe.scaling.method, "kv": recipe.kv.bits, "activations": recipe.activations.bits}


def _bits_of(preview: Preview, recipe: Recipe, table: Mapping[str, Any] | None) -> dict[str, int] | None:
    """Bits by name that a run used; None where the preview has no cost for them, or linears have no bits of their own."""
    if table and table.get("unit") == "channel":
        return None
    if not table:
        base = recipe.weights.spec().bits
        return {one.name: base for one in preview.linears} if base in (*preview.choices, FLOAT_BITS) else None
    used = {(row["block"], row["path"]): row for row in table["weights"]}
    found: dict[str, int] = {}
    for one in preview.linears:
        row = used.get((one.block, one.path))
        if row is None or row["bits"] not in (*preview.choices, FLOAT_BITS):
            return None
        if row.get("input_bits", recipe.activations.bits) != recipe.activations.bits:
            return None
        found[one.name] = int(row["bits"])
    return found


@dataclass(frozen=True, slots=True)
class Prediction:
    """One allocation: bits by name, their average, size in MB, loss increase (nats a token, calibrated) and perplexity."""

    strategy: str
    bits: Bits
    average: float
    size_mb: float
    increase: float
    perplexity: float


def predict(preview: Preview, units: Units, recipe: Recipe, strategy: str, budget: float, calibration: Calibration, loss_float: float) -> Prediction:
    """What a strategy gives at a budget, on a text on which the float model loses `loss_float`.

    Raises:
        BadInput: the budget cannot be met.
    """
    bits = allocate(units, strategy, budget, recipe.seed)
    more = calibration.factor * increase(preview, bits, recipe.activations.bits)
    return Prediction(strategy, bits, average_of(units, bits), size_mb(preview, bits, recipe.weights.group, recipe.weights.symmetric), more,
                      math.exp(min(loss_float + more, 700.0)))


def as_list(bits: Bits) -> tuple[int, tuple[str, ...]]:
    """Bits by name as a recipe says them: weights.bits for the fewest, and a list of all that get more, whole blocks and roles together."""
    base = min(bits.values())
    blocks: dict[str, dict[str, int]] = {}
    for name, own in bits.items():
        blocks.setdefault(name.partition(".")[0], {})[name] = own
    entries: list[str] = []
    for block, inside in blocks.items():
        levels = set(inside.values())
        if len(levels) == 1:
            entries += [f"{block}={own}" for own in levels if own > base]
        else:
            entries += [f"{_entry(name)}={own}" for name, own in inside.items() if own > base]
    return base, tuple(entries)


def _entry(name: str) -> str:
    """A fused linear is listed by its first role."""
    block, _, roles = name.partition(".")
    return f"{block}.{roles.partition('+')[0]}"


def listed_recipe(recipe: Recipe, bits: Bits) -> Recipe:
    """The recipe whose weights get exactly these bits; inputs stay as they are."""
    base, keep = as_list(bits)
    plain = recipe.to_dict()
    plain["weights"] = {**plain["weights"], "bits": base}
    plain["allocation"] = {"method": "listed", "listed": {"keep": list(keep), "inputs": False}} if keep else {"method": "none"}
    return Recipe.from_dict(plain)


def mended_recipe(recipe: Recipe, keep: Sequence[str], bits: int) -> Recipe:
    """The recipe with these blocks or linears kept at more bits, inputs included; an ablation in it is left out. What the recipe keeps already stays
    kept, and its list goes on to say whether inputs are.

    Raises:
        BadInput: the recipe shares out bits by a budget; the bits keep nothing.
    """
    kept, places = recipe.allocation_settings, {}
    if kept is not None and is_budgeted(kept):
        raise BadInput(f"the recipe shares out its bits by allocation.method = {recipe.allocation.method}, and a list of what is kept would replace "
                       "that; set allocation.method = none, or give it a larger allocation.budget")
    if kept is not None:
        places = {name.partition("=")[0]: parsed(name).bits or kept.bits for name in kept.keep}
    places |= {name: max(bits, places.get(name, 0)) for name in keep}
    plain = recipe.to_dict()
    plain.pop("ablation", None)
    listed = {"keep": [name if own == bits else f"{name}={own}" for name, own in places.items()], "bits": bits}
    plain["allocation"] = {"method": "listed", "listed": listed | ({} if kept is None else {"inputs": kept.inputs})}
    return Recipe.from_dict(plain)
