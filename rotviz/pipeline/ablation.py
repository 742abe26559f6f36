"""Which layer hurts? One block or one module is quantized at a time, and all but one; what each costs the loss is measured.

    only      everything in float but unit u:      loss(only u) - loss(float)          what u costs alone
    all_but   everything quantized but unit u:     loss(all) - loss(all but u)         what keeping u in float gives back

A unit is a block, or a module: a block's linears of one role (weight and the rounding of its input), and the block's KV cache where that is
quantized. Both directions are needed: errors neither add nor stay small, and a unit that is cheap alone can be what the others cannot afford.

Quantized blocks are those of the recipe itself, as the walk over the blocks makes them (a calibrated method has seen the quantized prefix), so that
both directions speak of the model that would be deployed.

How. The walk has one block in memory and two streams of hidden states (float and all quantized). Every unit adds a stream per direction: it
branches off at the unit's block and is pushed through all later blocks, in batches, while they are in memory. With L blocks of m units and N windows
of T tokens,

    blocks pushed  m L (L + 1) / 2 for each window and direction  =  m (L + 1) / 2 forward passes of the model
    memory         m L N T D numbers for each direction

instead of m L passes for runs of their own. All streams live in the rewritten model, whose float blocks are what is left in float: in a LayerNorm
model the original blocks would take out a mean that a rounded projection adds, which the deployed ones keep. That the numbers equal those of whole
models with one unit swapped is tested.

Sources: one-at-a-time sensitivity as in the mixed-precision literature (HAQ 1811.08886, HAWQ-V2 1911.03852) and quantization debuggers (AIMET,
TensorFlow Lite); leave-one-out is its mirror.
"""

import math
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rotviz.device import wait_for
from rotviz.errors import BadInput
from rotviz.kernels.scores import score
from rotviz.models.attention import copy_block
from rotviz.models.family import BlockView
from rotviz.models.walk import Ends, Entry, forward, narrowed
from rotviz.pipeline.basis import turned
from rotviz.pipeline.batches import tokens_scored
from rotviz.pipeline.checkpoint import WalkState
from rotviz.pipeline.prepare import Prepared
from rotviz.pipeline.recipe import Recipe
from rotviz.quantizers import Progress
from rotviz.quantizers.block import linear_paths
from rotviz.surgery.online import quantize_activations, quantize_cache
from rotviz.surgery.plan import RotationPlan
from rotviz.types import FLOAT_BITS

QUICK = {"text": {"evaluation": "pydoc", "calibration": "pydoc", "windows": 2, "length": 256, "samples": 4}}
"""A recipe for a first answer: the defaults on little text."""
BATCH_TOKENS = 2048
KINDS = ("only", "all_but")
CACHE = "kv"
"""The name of the unit that is a block's KV cache."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What is quantized, or left out, at a time.

    name: "7", "7.down", "7.kv"; paths: its linears in the block; cache: whether the KV cache is part of it; elements: its weights.
    """

    name: str
    block: int
    role: str
    paths: tuple[str, ...]
    cache: bool
    elements: int


def units_of_block(view: BlockView, unit: str, cache: bool) -> list[Unit]:
    """The units of a rewritten block.

    Args:
        view: with experts as linears.
        unit: "block" or "module".
        cache: whether the KV cache is quantized.
    """
    linears = linear_paths(view)
    if unit == "block":
        return [Unit(str(view.index), view.index, "", tuple(linears), cache, sum(m.weight.numel() for m, _ in linears.values()))]
    by_role: dict[str, list[str]] = {}
    for path, (_, roles) in linears.items():
        by_role.setdefault("+".join(roles), []).append(path)
    found = [Unit(f"{view.index}.{role}", view.index, role, tuple(paths), False, sum(linears[p][0].weight.numel() for p in paths))
             for role, paths in by_role.items()]
    return found + ([Unit(f"{view.index}.{CACHE}", view.index, CACHE, (), True, 0)] if cache else [])


@dataclass(frozen=True, slots=True)
class Cost:
    """What an ablation takes before it starts.

    units: how many; passes: forward passes of the whole model over all windows; heads: times that a stream is scored over all windows;
    stream_mb: memory of the streams.
    """

    units: int
    passes: float
    heads: int
    stream_mb: float


def cost_of(recipe: Recipe, blocks: int, modules: int, width: int, windows: int) -> Cost:
    """The cost of a recipe's ablation, known from sizes alone.

    Args:
        blocks, modules, width: of the model: blocks, kinds of linears in one, residual width.
        windows: evaluation windows.
    """
    each = 1 if recipe.ablation.unit == "block" else modules + (1 if recipe.kv.spec().quantizes else 0)
    directions = len(directions_of(recipe))
    units, size = each * blocks, 8 if recipe.dtype == "float64" else 4 if recipe.dtype == "float32" else 2
    return Cost(units, directions * each * (blocks + 1) / 2, directions * units,
                directions * units * windows * recipe.text.length * width * size / 1e6)


def directions_of(recipe: Recipe) -> tuple[str, ...]:
    """The directions that a recipe measures."""
    return KINDS if recipe.ablation.kind == "both" else (recipe.ablation.kind,)


class Ablation:
    """The streams of one run's units on their way through the blocks; they live in the walk's state.

    Args:
        prepared, plan: the run's.
        ends: of the float and of the rewritten model.
        tokens: evaluation windows [N, T].
        input_bits: for each block the bits of inputs of linears by path, where they differ.
        stop_if_cancelled: raises Cancelled.
    """

    def __init__(self, prepared: Prepared, plan: RotationPlan, ends: tuple[Ends, Ends], tokens: Tensor,
                 input_bits: Mapping[int, Mapping[str, int]], stop_if_cancelled: Callable[[], None]) -> None:
        self.prepared, self.plan, self.recipe = prepared, plan, prepared.recipe
        self.ends, self.tokens, self.input_bits, self.stop = ends, tokens, input_bits, stop_if_cancelled  # ends: float, rewritten
        self.rows = max(1, BATCH_TOKENS // tokens.shape[1])
        same = tokens[:1].expand(self.rows, -1)  # a block's arguments do not depend on the tokens, only on how many there are
        self.entry: Entry = ends[1].entry(same)
        self.scaled: BlockView | None = None
        """The block before rounding, its scales in place: what is left in float."""

    def keep_scaled(self, view: BlockView) -> None:
        """Remember a rewritten block before its weights are rounded."""
        self.scaled = copy_block(view)

    def advance(self, rewritten: BlockView, state: WalkState) -> Generator[Progress, None, None]:
        """All streams past one block, and the block's own units added.

        Args:
            rewritten: the block with its weights quantized, nothing rounded online yet; not changed.
            state: the streams before the block.
        """
        cache = self.recipe.kv.spec().quantizes
        units = units_of_block(rewritten, self.recipe.ablation.unit, cache)
        if self.recipe.ablation.unit == "module":
            _require_plain_rounding(self.scaled, rewritten, self.recipe)
        kinds = directions_of(self.recipe)
        before = {kind: sum(map(len, getattr(state, kind))) for kind in kinds}
        total, done = sum(before.values()) + len(kinds) * len(units), 0
        for kind in kinds:
            block = self.scaled if kind == "only" else self.variant(rewritten, units, every=True)
            for _ in self._push(block.block, rewritten.index, getattr(state, kind)):
                yield Progress(min(1.0, (done + 1) / total), f"{before[kind]} streams of earlier units")
            done += before[kind]
            fresh = state.quantized.new_empty(len(units), *state.quantized.shape)
            for i, unit in enumerate(units):
                fresh[i] = self._branch(kind, unit, units, rewritten, state)
                done += 1
                yield Progress(done / total, f"{'only' if kind == 'only' else 'all but'} {unit.name}")
            getattr(state, kind).append(fresh)
        state.units += [{"name": u.name, "block": u.block, "role": u.role, "elements": u.elements} for u in units]

    def _branch(self, kind: str, unit: Unit, units: list[Unit], rewritten: BlockView, state: WalkState) -> Tensor:
        """The stream [N, T, D] of a unit after its own block."""
        if kind == "only":
            block = self.variant(rewritten, [unit])
            return self._pushed(block.block, turned(state.reference, self.plan, self.prepared.source.family).clone(), rewritten.index)
        block = self.variant(rewritten, [u for u in units if u is not unit])
        return self._pushed(block.block, state.quantized.clone(), rewritten.index)

    def variant(self, rewritten: BlockView, units: list[Unit], every: bool = False) -> BlockView:
        """A block of its own in which only these units are quantized. `every`: all of them, whatever else the method moved with them."""
        whole = every or (self.recipe.ablation.unit == "block" and bool(units))
        twin = copy_block(rewritten if whole else self.scaled)
        paths = {path for unit in units for path in unit.paths}
        source = linear_paths(rewritten)
        own, bits = self.input_bits.get(rewritten.index, {}), {}
        for path, (module, _) in linear_paths(twin).items():
            if path in paths:
                module.weight = nn.Parameter(source[path][0].weight.data, requires_grad=False)
                bits |= {path: own[path]} if path in own else {}
            else:
                bits[path] = FLOAT_BITS
        quantize_activations(twin, self.recipe.activations.spec(), bits=bits)
        if any(unit.cache for unit in units):
            quantize_cache(twin, self.recipe.kv.spec())
        return twin

    def _pushed(self, block: nn.Module, stream: Tensor, index: int) -> Tensor:
        """A stream [N, T, D] through a rewritten block, in place."""
        for start in range(0, len(stream), self.rows):
            self.stop()
            part = slice(start, start + self.rows)
            stream[part] = forward(block, stream[part], narrowed(self.entry.arguments[index], len(stream[part])))
        return stream

    def _push(self, block: nn.Module, index: int, streams: list[Tensor]) -> Generator[None, None, None]:
        """The streams [U, N, T, D] of each earlier block's units through a block, in place, in batches."""
        for flat in (own.view(-1, *own.shape[2:]) for own in streams):
            for start in range(0, len(flat), self.rows):
                self.stop()
                part = slice(start, start + self.rows)
                flat[part] = forward(block, flat[part], narrowed(self.entry.arguments[index], len(flat[part])))
                yield

    def measured(self, state: WalkState, likelihoods: tuple[list[float], list[float]], protocol: str) -> Generator[Progress, None, dict[str, Any]]:
        """Score every stream; what it says of each unit, for the result.

        Args:
            state: after the last block.
            likelihoods: mean -log p by window, nats, of the float and of the whole quantized model.
        """
        began = time.perf_counter()
        kinds = directions_of(self.recipe)
        sums = {kind: torch.zeros(len(state.units), len(self.tokens), 3, dtype=torch.float64) for kind in kinds}
        for window in range(len(self.tokens)):
            for share in self._score_window(window, state, sums):
                yield Progress((window + share) / len(self.tokens), f"scoring window {window + 1} of {len(self.tokens)}")
        scored = self.tokens.shape[1] - 1
        rows = [unit | {kind: _row(kind, sums[kind][i] / scored, likelihoods) for kind in kinds} for i, unit in enumerate(state.units)]
        return {"unit": self.recipe.ablation.unit, "kind": self.recipe.ablation.kind, "protocol": protocol, "windows": len(self.tokens),
                "tokens": scored * len(self.tokens), "loss_float": sum(likelihoods[0]) / len(likelihoods[0]),
                "loss_quantized": sum(likelihoods[1]) / len(likelihoods[1]), "seconds_scoring": time.perf_counter() - began, "units": rows}

    def _score_window(self, window: int, state: WalkState, sums: dict[str, Tensor]) -> Generator[float, None, None]:
        tokens, last = self.tokens[window], self.tokens.shape[1] - 1
        step = tokens_scored(self.ends[0])
        starts, done = range(0, last, step), 0
        total = len(starts) * len(sums) * len(state.units)
        streams = {kind: [stream for own in getattr(state, kind) for stream in own] for kind in sums}
        for start in starts:
            part = slice(start, min(start + step, last))
            logits = self.ends[0].finish(state.reference[window][None, part])[0]
            for kind in sums:
                for i in range(len(sums[kind])):
                    self.stop()
                    found = score(logits, self.ends[1].finish(streams[kind][i][window][None, part])[0], tokens[1:][part])
                    sums[kind][i, window] += torch.stack([found.quantized.sum(), found.kl.sum(), found.same_top.sum()]).cpu()
                    done += 1
                    if done % 8 == 0 or done == total:
                        yield done / total


def _row(kind: str, found: Tensor, likelihoods: tuple[list[float], list[float]]) -> dict[str, float]:
    """A unit's numbers in one direction from [N, 3]: -log p, KL, same top, means over the tokens of each window."""
    loss = found[:, 0]
    base = torch.tensor(likelihoods[0 if kind == "only" else 1], dtype=torch.float64)
    change = loss - base if kind == "only" else base - loss
    error = float(change.std() / math.sqrt(len(change))) if len(change) > 1 else math.nan
    return {"loss_increase" if kind == "only" else "loss_saved": float(change.mean()), "stderr": error, "loss": float(loss.mean()),
            "kl_nats": float(found[:, 1].mean()), "same_top": float(found[:, 2].mean())}


def ranked(ablation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The units of a result's ablation, worst first: by what keeping one gives back where that was measured, else by what one costs alone."""
    kind, field = ("all_but", "loss_saved") if ablation["kind"] != "only" else ("only", "loss_increase")

    def harm(row: Mapping[str, Any]) -> float:
        value = row[kind][field]
        return -math.inf if value is None or math.isnan(value) else value

    return sorted(ablation["units"], key=harm, reverse=True)


def _require_plain_rounding(scaled: BlockView, rewritten: BlockView, recipe: Recipe) -> None:
    """Modules can be swapped one by one only where nothing but their own weights changed."""
    weights = {f"{path}.weight" for path in linear_paths(rewritten)}
    before = dict(scaled.block.state_dict())
    moved = [name for name, value in rewritten.block.state_dict().items()
             if name not in weights and (name not in before or not torch.equal(value, before[name]))]
    if moved:
        raise BadInput(f"weights.method = {recipe.weights.method} also moves {moved[0]}, which several modules share, so that none of them can be "
                       "quantized alone; use ablation.unit = block, or a method that only rounds (rtn, gptq, rounding)")


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds that this machine takes, as measured: one block on one window, in float and quantized; one window's logits and their score."""

    block: float
    quantized_block: float
    head: float

    def seconds(self, cost: Cost, recipe: Recipe, blocks: int, windows: int) -> float:
        """What an ablation will take, loading and quantizing apart."""
        directions = directions_of(recipe)
        pushes = cost.passes / len(directions) * blocks * windows
        return sum(pushes * (self.block if kind == "only" else self.quantized_block) for kind in directions) + cost.heads * windows * self.head


def measure_pace(prepared: Prepared, length: int) -> Pace:
    """Push one window of `length` tokens through one block and through the head: under a second for a small model."""
    ends, recipe = prepared.source.ends, prepared.recipe
    tokens = torch.zeros(1, length, dtype=torch.long, device=prepared.device)
    entry, view = ends.entry(tokens), prepared.source.owned(0)
    plain = _fastest(lambda: forward(view.block, entry.hidden, entry.arguments[0]), prepared.device)
    quantize_activations(view, recipe.activations.spec())
    quantize_cache(view, recipe.kv.spec())
    rounded = _fastest(lambda: forward(view.block, entry.hidden, entry.arguments[0]), prepared.device)

    def scored() -> None:
        step = tokens_scored(ends)
        for start in range(0, length - 1, step):
            part = slice(start, min(start + step, length - 1))
            logits = ends.finish(entry.hidden[:, part])[0]
            score(logits, logits, tokens[0, 1:][part])

    return Pace(plain, rounded, _fastest(scored, prepared.device))


def _fastest(work: Callable[[], Any], device: torch.device, tries: int = 3) -> float:
    found = []
    for _ in range(tries):
        wait_for(device)
        began = time.perf_counter()
        work()
        wait_for(device)
        found.append(time.perf_counter() - began)
    return min(found)
