"""Which weights matter: gradients of the model's loss on the calibration windows (or images), and the bits that follow from them.

The float model is rewritten whole (gains folded, rotations in force), so that a gradient belongs to the weight that will be rounded, and every window
goes forward and back through it once. That takes the whole model in memory with two numbers beside each weight; the walk over the blocks does not.
Only recipes that share out bits by importance, or weigh a loss by it, pay for it.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rotviz.allocation import CHOICES, average_bits, is_budgeted
from rotviz.allocation.sensitivity import GradientSums, bits_by_name, row_costs, units_of
from rotviz.models.family import BlockView, block_views
from rotviz.pipeline.gradients import at_output, begin_graph
from rotviz.pipeline.inputs import Inputs
from rotviz.pipeline.prepare import Prepared
from rotviz.pipeline.recipe import Recipe
from rotviz.quantizers import Progress
from rotviz.quantizers.block import linear_paths
from rotviz.surgery.plan import RotationPlan
from rotviz.surgery.steps import linearize_experts
from rotviz.surgery.whole import rewrite_model
from rotviz.types import Modality

Name = tuple[int, str]
"""A weight: its block and its path there."""


@dataclass(frozen=True)
class Importance:
    """What the gradients gave.

    Attributes:
        bits: for each block the bits of each linear by path; empty without allocation.
        input_bits: for each block the bits of the inputs of linears by path, where they differ from the recipe's.
        fisher: for each block the second moments [D, D] of the gradient at its output; empty where nothing asks for them.
        table: for the result: the average reached, and by weight its bits and its cost at each choice.
    """

    bits: Mapping[int, dict[str, int | Tensor]] = field(default_factory=dict)
    input_bits: Mapping[int, dict[str, int]] = field(default_factory=dict)
    fisher: Mapping[int, Tensor] = field(default_factory=dict)
    table: dict[str, Any] | None = None


def importance_of(prepared: Prepared, plan: RotationPlan, inputs: Callable[[], Inputs],
                  stop_if_cancelled: Callable[[], None]) -> Generator[Progress, None, Importance]:
    """What a recipe needs to know of its weights before the walk; nothing where it does not ask. `inputs` gives the calibration windows or images."""
    recipe = prepared.recipe
    allocates = recipe.allocation.method != "none"
    costly = allocates and recipe.allocation_settings.needs_costs
    fisher = recipe.weights.spec().quantizes and getattr(recipe.weight_settings, "needs_fisher", False)
    if not (allocates or fisher):
        return Importance()
    if allocates and not is_budgeted(recipe.allocation_settings) and not fisher:
        return _listed(prepared)  # names alone decide: no whole model is needed
    model = rewrite_model(prepared.loaded.model, plan).to(prepared.device)
    views = block_views(model, prepared.source.family)
    book = _Book(views, bool(costly), bool(fisher))
    if costly or fisher:
        learned_from = inputs()
        yield from _collect(model, book, _losses(model, learned_from, prepared.device), len(learned_from), stop_if_cancelled)
    moments = {index: total / book.rows for index, total in book.fisher.items()}
    if not allocates:
        return Importance(fisher=moments)
    if not is_budgeted(recipe.allocation_settings):
        return replace(_listed(prepared), fisher=moments)
    bits, table = _allocate(recipe, views, book, stop_if_cancelled)
    return Importance(bits, fisher=moments, table=table)


class _Book:
    """What the gradients of single windows add up to."""

    def __init__(self, views: list[BlockView], weights: bool, fisher: bool) -> None:
        self.views, self.wants_fisher = views, fisher
        self.gradients: dict[Name, GradientSums] = {}
        self.modules: dict[Name, nn.Module] = {}
        self.fisher: dict[int, Tensor] = {}
        self.rows = self.count = 0
        for view in views if weights else []:
            for path, (module, _) in linear_paths(view).items():
                self.gradients[view.index, path], self.modules[view.index, path] = GradientSums.of(module.weight.data), module

    def hooks(self) -> list[RemovableHandle]:
        """Forward hooks that fill the book when a loss goes back; an expert that no token reaches stays at nothing."""
        handles = [module.register_forward_hook(at_output(self.gradients[name].add)) for name, module in self.modules.items()]
        return handles + [view.block.register_forward_hook(self.watch(view.index)) for view in self.views if self.wants_fisher]

    def watch(self, index: int) -> Callable:
        """A forward hook that adds up the gradient at a block's output."""
        def add(gradient: Tensor) -> None:
            rows = gradient.detach().reshape(-1, gradient.shape[-1]).float()
            self.rows += len(rows) if index == 0 else 0
            self.fisher[index] = self.fisher.get(index, 0) + rows.T @ rows

        def hook(_: nn.Module, __: tuple, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            hidden.register_hook(add)

        return hook


def _losses(model: nn.Module, inputs: Inputs, device: torch.device) -> Iterator[tuple[Callable[[], Tensor], int]]:
    """The model's loss on each window or image, summed, and over how many tokens or images: of the next tokens, or of the label. Where an image's
    label is not known the class that the model finds most likely stands for it."""
    for i, one in enumerate(inputs.values.to(device)):
        if inputs.modality is Modality.TEXT:
            yield lambda one=one: nn.functional.cross_entropy(model(input_ids=one[None], use_cache=False).logits[0, :-1].float(), one[1:],
                                                              reduction="sum"), len(one) - 1
        else:
            label = None if inputs.labels is None else inputs.labels[i:i + 1].to(device)
            yield lambda one=one, label=label: _loss_of_image(model, one, label), 1


def _loss_of_image(model: nn.Module, pixels: Tensor, label: Tensor | None) -> Tensor:
    logits = model(pixel_values=pixels[None]).logits.float()
    return nn.functional.cross_entropy(logits, logits.detach().argmax(-1) if label is None else label)


def _collect(model: nn.Module, book: _Book, losses: Iterator[tuple[Callable[[], Tensor], int]], windows: int,
             stop_if_cancelled: Callable[[], None]) -> Generator[Progress, None, None]:
    handles = [book.views[0].block.register_forward_pre_hook(begin_graph, with_kwargs=True), *book.hooks()]
    try:
        for i, (loss, count) in enumerate(losses):
            stop_if_cancelled()
            with torch.enable_grad():
                loss().backward()
            book.count += count
            yield Progress((i + 1) / windows, f"gradients of window {i + 1} of {windows}")
    finally:
        for handle in handles:
            handle.remove()


def _allocate(recipe: Recipe, views: list[BlockView], book: _Book, stop_if_cancelled: Callable[[], None]) -> tuple[dict, dict[str, Any]]:
    table = recipe.allocation
    weights = {(view.index, path): module.weight.data for view in views for path, (module, _) in linear_paths(view).items()}
    costs = {}
    for name, weight in weights.items():
        stop_if_cancelled()
        sums = book.gradients.get(name)
        nothing = torch.zeros(len(weight), len(CHOICES), dtype=torch.float64)
        costs[name] = nothing if sums is None else row_costs(weight, sums.mean(book.count), recipe.weights.spec(), CHOICES, table.sensitivity).cpu()
    by_row = table.unit == "channel"
    labels = {(view.index, path): f"{view.index}.{'+'.join(roles)}" for view in views for path, (_, roles) in linear_paths(view).items()}
    units = units_of(weights, costs, by_row, CHOICES, labels)
    found = recipe.allocation_settings.allocate(units, recipe.average_bits, torch.Generator().manual_seed(recipe.seed))
    named = bits_by_name(found, weights, by_row)
    rows = [{"block": block, "path": path, "elements": weights[block, path].numel(), "bits": _average(named[block, path]),
             "costs": costs[block, path].sum(0).tolist() if book.gradients else None} for block, path in weights]
    summary = {"average": average_bits(found, units), "budget": recipe.average_bits, "choices": list(CHOICES), "unit": table.unit, "weights": rows}
    return {view.index: {path: bits for (block, path), bits in named.items() if block == view.index} for view in views}, summary


def _listed(prepared: Prepared) -> Importance:
    """Bits by name: one block at a time, whatever the size of the model."""
    recipe, source, kept = prepared.recipe, prepared.source, prepared.recipe.allocation_settings
    names, rows = [], []
    for index in range(len(source)):
        view = source.owned(index)
        linearize_experts(view)
        for path, (module, roles) in linear_paths(view).items():
            names.append(f"{index}.{'+'.join(roles)}")
            rows.append({"block": index, "path": path, "role": "+".join(roles), "elements": module.weight.numel(), "costs": None})
    here = kept.kept(tuple(names))
    base = recipe.weights.spec().bits
    weight_bits = [max(bits, base) for bits in here]
    input_bits = [max(bits, recipe.activations.bits) if kept.inputs else recipe.activations.bits for bits in here]
    for row, bits, entering in zip(rows, weight_bits, input_bits):
        row |= {"bits": float(bits), "input_bits": entering}
    elements = sum(row["elements"] for row in rows)
    table = {"average": sum(row["elements"] * row["bits"] for row in rows) / elements, "budget": float(base), "choices": sorted({*weight_bits}),
             "unit": "tensor", "weights": rows}
    by_block = range(len(source))
    return Importance({b: {r["path"]: int(r["bits"]) for r in rows if r["block"] == b} for b in by_block},
                      {b: {r["path"]: r["input_bits"] for r in rows if r["block"] == b} for b in by_block}, table=table)


def _average(bits: int | Tensor) -> float:
    return float(bits) if isinstance(bits, int) else float(bits.double().mean())
