"""What each weight and each linear's input is thought to cost the loss, for any bits, before anything is rounded: some seconds, then from disk.

For a perturbation e of some numbers, to second order and with the empirical Fisher matrix in place of the Hessian, tokens and numbers independent,

    weights   loss increase  ~  1/2 sum_ij H_ij e_ij^2,      H_ij = 1/T sum_t g_ti^2 x_tj^2        e = w - Q_b(w)
    inputs    loss increase  ~  1/2 1/T sum_t sum_j (d_tj e_tj)^2                                  e = x - Q_b(x)

x [T, D] is what enters a linear, g [T, N] the gradient of the summed loss at its output, d = g W that at its input, over calibration windows of the
rewritten float model. Costs are in nats a token, so that they predict a perplexity: ppl ~ ppl_float exp(sum of costs). That is a prediction: errors
of many rounded layers neither stay small nor independent (budget.py says how it is calibrated and how wrong it was).

It differs from what a run with allocation.method = importance collects (importance.py) in that it looks at ROWS output channels of each linear only,
scaled up, for speed on two cores. `first` is the first-order cost of sensitivity.py on the same rows.
"""

import json
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rotviz.allocation import CHOICES
from rotviz.allocation.sensitivity import GradientSums, row_costs
from rotviz.config import fingerprint
from rotviz.device import device_mark
from rotviz.errors import Cancelled
from rotviz.home import home, write_atomically
from rotviz.models.family import BlockView, block_views
from rotviz.models.loading import LoadedModel, require_text, weights_mark
from rotviz.numerics.grids import fake_quantize
from rotviz.pipeline.gradients import at_output, begin_graph
from rotviz.pipeline.learn import plan_for, rotation_marks
from rotviz.pipeline.prepare import calibration_tokens, prepare
from rotviz.pipeline.recipe import Recipe
from rotviz.quantizers.block import linear_paths
from rotviz.surgery.plan import RotationPlan
from rotviz.surgery.whole import rewrite_model
from rotviz.texts import text_mark
from rotviz.types import FLOAT_BITS, FORMATS, QuantSpec

FORMAT = "2"
ROWS = 64
"""Output channels of each linear whose weights are weighed; evenly spread."""
ACTIVATION_CHOICES = (2, 3, 4, 5, 6, 7, 8)


@dataclass(frozen=True, slots=True)
class LinearCost:
    """One linear.

    Attributes:
        block, path, roles: which.
        elements, outputs: its weights, its output channels.
        magnitude: mean |w| of the sampled rows.
        weights, first: nats a token of rounding its weight to each choice of bits, second and first order.
        inputs: nats a token of rounding what enters it to each choice.
    """

    block: int
    path: str
    roles: tuple[str, ...]
    elements: int
    outputs: int
    magnitude: float
    weights: tuple[float, ...]
    first: tuple[float, ...]
    inputs: tuple[float, ...]

    @property
    def name(self) -> str:
        """As a list of kept linears and an ablation call it: "7.down"."""
        return f"{self.block}.{'+'.join(self.roles)}"


@dataclass(frozen=True)
class Preview:
    """All linears of a model.

    Attributes:
        linears: in the order of the walk.
        choices, input_choices: the bits that costs are known for.
        loss: mean -log p of the float model on the windows, nats.
        tokens: how many were scored.
        protocol: the windows in words.
        other_elements: parameters that are no quantized linear's weight (embeddings, norms, routers).
    """

    linears: tuple[LinearCost, ...]
    choices: tuple[int, ...]
    input_choices: tuple[int, ...]
    loss: float
    tokens: int
    protocol: str
    other_elements: int

    def weight_cost(self, linear: LinearCost, bits: int) -> float:
        """Nats a token of this linear's weight at so many bits; 0 in float."""
        return linear.weights[self.choices.index(bits)] if bits in self.choices else 0.0

    def input_cost(self, linear: LinearCost, bits: int) -> float:
        """Nats a token of its input at so many bits; 0 in float."""
        return linear.inputs[self.input_choices.index(bits)] if bits in self.input_choices else 0.0


def preview(recipe: Recipe, loaded: LoadedModel | None = None, progress: Callable[[float, str], None] | None = None,
            cancelled: Callable[[], bool] | None = None) -> Preview:
    """The preview of a recipe's model, rotation and grids, from disk where it was made before.

    Only the recipe's model, dtype, seed, rotation, grids (without their bits) and calibration windows matter.

    Raises:
        BadInput: as a run of the recipe would.
        Cancelled.
    """
    path = preview_path(recipe)
    kept = kept_preview(path)
    if kept is None:
        kept = _made(recipe, loaded, progress or (lambda share, words: None), cancelled or (lambda: False))
        plain = {"format": FORMAT} | asdict(kept)
        write_atomically(path, lambda target: target.write_text(json.dumps(plain), encoding="utf-8"))
    return kept


def estimates(found: Preview, recipe: Recipe, unit: str) -> list[dict[str, Any]]:
    """What each block or module is thought to cost at the recipe's bits, nats a token, in the order of the walk: estimate, and its two parts."""
    rows: dict[str, dict[str, Any]] = {}
    for one in found.linears:
        name = str(one.block) if unit == "block" else one.name
        row = rows.setdefault(name, {"name": name, "block": one.block, "role": "" if unit == "block" else "+".join(one.roles), "elements": 0,
                                     "estimate": 0.0, "weights": 0.0, "inputs": 0.0})
        weights, inputs = found.weight_cost(one, recipe.weights.spec().bits), found.input_cost(one, recipe.activations.bits)
        row["elements"] += one.elements
        row["weights"], row["inputs"], row["estimate"] = row["weights"] + weights, row["inputs"] + inputs, row["estimate"] + weights + inputs
    return list(rows.values())


def preview_path(recipe: Recipe) -> Path:
    """Where the preview of a recipe is kept. The name follows all that decides it."""
    plain = recipe.to_dict()
    grids = {section: {k: plain[section][k] for k in ("symmetric", "group", "clip", "format")} for section in ("weights", "activations")}
    extra = recipe.weights.bits if recipe.weights.bits not in (*CHOICES, FLOAT_BITS) else None
    key = {"weights": weights_mark(recipe.model), "dtype": recipe.dtype, "seed": recipe.seed, "rotation": plain["rotation"], "grids": grids,
           "extra": extra,
           "files": rotation_marks(recipe), "text": [text_mark(recipe.text.calibration), recipe.text.samples, recipe.text.length],
           "device": device_mark(recipe.device), "format": FORMAT}
    return home() / "previews" / f"{fingerprint(key)}.json"


def kept_preview(path: Path) -> Preview | None:
    """A preview that was made before, or None."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if plain.pop("format", None) != FORMAT:
        return None
    linears = tuple(LinearCost(**{k: tuple(v) if isinstance(v, list) else v for k, v in one.items()}) for one in plain.pop("linears"))
    return Preview(linears, **{k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()})


def _made(recipe: Recipe, loaded: LoadedModel | None, say: Callable[[float, str], None], cancelled: Callable[[], bool]) -> Preview:
    def stop() -> None:
        if cancelled():
            raise Cancelled("the preview was cancelled")

    require_text(recipe.model, "a preview of a bit budget")
    say(0.0, f"loading {recipe.model}")
    prepared = prepare(recipe, loaded)
    plan = _driven(plan_for(prepared, stop), say)
    model = rewrite_model(prepared.loaded.model, plan).to(prepared.device)
    views = block_views(model, prepared.source.family)
    windows = calibration_tokens(prepared)
    choices = tuple(b for b in sorted({*CHOICES, recipe.weights.bits}) if b in FORMATS[recipe.weights.format].bits)
    entering = tuple(b for b in ACTIVATION_CHOICES if b in FORMATS[recipe.activations.format].bits)
    books = {(view.index, path): _Book(module, recipe.activations, entering) for view in views for path, (module, _) in linear_paths(view).items()}
    loss = _read(model, books, views, windows.to(prepared.device), say, stop)
    linears = []
    for view in views:
        say(0.6 + 0.4 * view.index / len(views), f"rounding block {view.index + 1} of {len(views)}")
        stop()
        linears += [books[view.index, path].cost(view.index, path, roles, recipe.weights, choices) for path, (_, roles) in linear_paths(view).items()]
    counted = sum(one.elements for one in linears)
    every = sum(p.numel() for p in prepared.loaded.model.parameters())
    return Preview(tuple(linears), choices, entering, loss, windows.numel() - len(windows), _protocol(recipe), every - counted)


def _driven(steps: Generator[Any, None, tuple[RotationPlan, Any]], say: Callable[[float, str], None]) -> RotationPlan:
    """The rotations; a method that learns does so now."""
    while True:
        try:
            step = next(steps)
        except StopIteration as stop:
            return stop.value[0]
        say(0.05, f"learning the rotation: {step.message}")


def _read(model: nn.Module, books: "dict[tuple[int, str], _Book]", views: list[BlockView], tokens: Tensor, say: Callable[[float, str], None],
          stop: Callable[[], None]) -> float:
    """Every window forward and back; the float model's mean loss."""
    handles = [book.module.register_forward_hook(at_output(book.add)) for book in books.values()]
    handles.append(views[0].block.register_forward_pre_hook(begin_graph, with_kwargs=True))
    total = 0.0
    try:
        for i, window in enumerate(tokens):
            stop()
            with torch.enable_grad():
                logits = model(input_ids=window[None], use_cache=False).logits[0, :-1]
                loss = nn.functional.cross_entropy(logits.float(), window[1:], reduction="sum")
                loss.backward()
            total += float(loss.detach())
            say(0.1 + 0.5 * (i + 1) / len(tokens), f"gradients of window {i + 1} of {len(tokens)}")
    finally:
        for handle in handles:
            handle.remove()
    scored = tokens.shape[1] - 1
    for book in books.values():
        book.tokens = len(tokens) * scored
    return total / (len(tokens) * scored)


class _Book:
    """Adds up what one linear sees."""

    def __init__(self, module: nn.Module, activations: Any, choices: tuple[int, ...]) -> None:
        weight = module.weight.data
        step = max(1, len(weight) // ROWS)
        self.module, self.rows = module, torch.arange(0, len(weight), step, device=weight.device)[:ROWS]
        self.specs = [_with_bits(activations, bits) for bits in choices]
        self.sums, self.inputs, self.tokens = GradientSums.of(weight, self.rows), [0.0] * len(choices), 0

    def add(self, x: Tensor, gradient: Tensor) -> None:
        """Inputs [T, D] and gradients [T, N] at the output."""
        x, gradient = x.float(), gradient.float()
        self.sums.add(x, gradient)
        entering = (gradient @ self.module.weight.data.float()).square()
        for i, spec in enumerate(self.specs):
            self.inputs[i] += 0.5 * float((entering * (x - fake_quantize(x, spec)).square()).sum(dtype=torch.float64))

    def cost(self, block: int, path: str, roles: tuple[str, ...], table: Any, choices: tuple[int, ...]) -> LinearCost:
        """The linear's costs, scaled from the sampled rows to all."""
        weight = self.module.weight.data
        rows, scale = weight[self.rows].float(), len(weight) / len(self.rows)
        tokens = max(1, self.tokens)
        gradient, spec = self.sums.mean(tokens), _with_bits(table, choices[0])
        found = {kind: (scale * row_costs(rows, gradient, spec, choices, kind).sum(0)).tolist() for kind in ("curvature", "first")}
        return LinearCost(block, path, tuple(map(str, roles)), weight.numel(), len(weight), float(rows.abs().mean()), tuple(found["curvature"]),
                          tuple(found["first"]), tuple(v / tokens for v in self.inputs))


def _with_bits(table: Any, bits: int) -> QuantSpec:
    """A table's grid at so many bits, whatever bits or method it has itself."""
    return replace(replace(table, bits=bits, **({"method": "rtn"} if hasattr(table, "method") else {})).spec(), bits=bits)


def _protocol(recipe: Recipe) -> str:
    text = recipe.text
    return f"{text.samples} windows of {text.length} tokens of {text.calibration} at random places, seed {recipe.seed}"
