"""Carry out a recipe: a generator of events that returns the result.

    load -> text or images -> learn -> prove -> weigh -> walk over the blocks -> score

The walk takes one block at a time: a copy is folded, rotated and quantized, then every window goes through the block as it was and through the
copy, so that two streams of hidden states move along side by side. One block and the two streams are in memory, whatever the depth. After the
last block both streams are scored on the same windows (of a model that reads images: on the same images). Where an earlier run kept the float
model's stream (reference.py), only its first batch is pushed again, for the errors by block.

Where weights are learned or scaled, the calibration windows go along (weights.py); where bits are shared out by importance, the gradients come first
(importance.py). Where it asks which layer hurts, a stream for every block or module goes along as well (ablation.py).

Where the memory is too small for a batch, the batch is done again in halves and the result says so (batches.py).

With a checkpoint folder the walk's state is written after each block and picked up by itself: a killed run goes on where it was.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rotviz.device import describe, peak_memory_mb, reset_peak_memory
from rotviz.errors import BadInput, Cancelled, OutOfRoom
from rotviz.evaluation.classification import classification
from rotviz.evaluation.divergence import Divergence, divergence
from rotviz.evaluation.errors import SiteMeter, beyond, massive_limit, residual_error
from rotviz.evaluation.perplexity import Perplexity, perplexity
from rotviz.kernels.scores import Scores, score
from rotviz.models.family import BlockView
from rotviz.models.loading import LoadedModel
from rotviz.models.packed import packed_linears
from rotviz.models.walk import BlockArguments, Ends, forward, narrowed
from rotviz.numerics.errors import relative_mse
from rotviz.pipeline.ablation import Ablation
from rotviz.pipeline.basis import centered, straightened, turned
from rotviz.pipeline.batches import Batches, memory_is_full, tokens_at_once, tokens_scored
from rotviz.pipeline.checkpoint import WalkState, load_state, save_state
from rotviz.pipeline.events import Event
from rotviz.pipeline.importance import Importance, importance_of
from rotviz.pipeline.inputs import Inputs, calibration_inputs, evaluation_inputs
from rotviz.pipeline.learn import Learning, plan_for
from rotviz.pipeline.prepare import Prepared, prepare
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.reference import Reference, keep_reference, kept_reference, reference_path
from rotviz.pipeline.result import Result, Scored, environment
from rotviz.pipeline.token_scores import TokenScores, texts_of
from rotviz.pipeline.weights import Quantization, WeightStack, collected_notes, push_calibration, quantize_weights, stack_for
from rotviz.quantizers import Progress
from rotviz.surgery.online import quantize_activations, quantize_cache
from rotviz.surgery.plan import RotationPlan
from rotviz.surgery.proof import StepProof, prove, require
from rotviz.surgery.steps import Step, rewrite_block, rewrite_ends, steps_for
from rotviz.types import Modality

_PROVE_FROM, _WALK_FROM, _SCORE_FROM = 0.04, 0.15, 0.90
"""Shares of a run's time, as measured on SmolLM2-135M; the time left is estimated from them."""
_ABLATED_WALK, _ABLATED_FROM = 0.60, 0.64
"""The same of a run with an ablation: scoring its many streams takes nearly as long as pushing them."""
SAVE_SECONDS = 30.0
"""With an ablation the state is written this often at most: its streams can take gigabytes."""
_LEARN_SHARE = 0.5
"""The share of a run in which a rotation is learned; nobody knows it beforehand."""


def run(recipe: Recipe, *, checkpoint: Path | None = None, cancelled: Callable[[], bool] | None = None,
        loaded: LoadedModel | None = None) -> Generator[Event, None, Result]:
    """Carry out a recipe.

    Args:
        recipe: what to do.
        checkpoint: a folder for the state of the walk; a state of the same recipe found there is resumed.
        cancelled: asked between batches; when it says yes the run ends with Cancelled, its state kept.
        loaded: the recipe's model where the caller has it in memory already; it is not changed.

    Yields:
        Events, from 0 to 1.

    Raises:
        BadInput, RewriteBroken, OutOfRoom, Cancelled.
    """
    job = _Job(recipe, checkpoint, cancelled or (lambda: False))
    try:
        return (yield from job.carry_out(loaded))
    except (MemoryError, RuntimeError) as error:
        if not memory_is_full(error):
            raise
        kept = "blocks that were finished before the last checkpoint" if job.ablates else "blocks that were finished"
        raise OutOfRoom("the memory is full; use fewer windows (text.windows), shorter ones (text.length), or a smaller model; "
                        f"{kept} are kept") from error


def finish(events: Generator[Event, None, Result], on_event: Callable[[Event], None] | None = None) -> Result:
    """Drive a run to its end: result = finish(run(recipe))."""
    while True:
        try:
            event = next(events)
        except StopIteration as stop:
            return stop.value
        if on_event:
            on_event(event)


@dataclass
class _Job:
    """One run on its way: the clock, the checkpoint, the cancel switch."""

    recipe: Recipe
    checkpoint: Path | None
    cancelled: Callable[[], bool]
    seconds: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)
    batches: Batches | None = None
    """Windows or images that go through a block together; known when the inputs are."""
    scored: Batches | None = None
    """Tokens that are scored together."""
    before: float = 0.0
    """The share of the bar that learning a rotation took; the other stages share the rest."""
    ablation: Ablation | None = None
    outcome: Any = None
    saved: float = field(default_factory=time.perf_counter)
    """When the walk's state was last written, or the run began."""
    notes: list[str] = field(default_factory=list)

    @property
    def ablates(self) -> bool:
        """Whether units are quantized one at a time."""
        return self.recipe.ablation.unit != "none"

    def carry_out(self, loaded: LoadedModel | None) -> Generator[Event, None, Result]:
        yield self.event("load", 0.0, f"loading {self.recipe.model}")
        with self.timed("load"):
            prepared = prepare(self.recipe, loaded)
        reset_peak_memory(prepared.device)
        inputs = yield from self.read(prepared)
        plan, learning = yield from self.learn(prepared)
        config = prepared.loaded.model.config.get_text_config()
        active = getattr(config, "num_experts_per_tok", None) or 1
        more = tokens_at_once(prepared.source.original(0).block, prepared.device, active) // inputs.length
        self.batches = Batches(inputs.batch, inputs.unit, prepared.device, more)
        self.scored = Batches(tokens_scored(prepared.source.ends), "token", prepared.device)
        proofs = yield from self.prove(prepared, plan, inputs)
        steps = steps_for(plan, prepared.source.family)
        ends = prepared.source.ends, rewrite_ends(prepared.source.ends, steps)
        importance = yield from self.weigh(prepared, plan)
        if self.ablates:
            with self.timed("ablate"):
                self.ablation = Ablation(prepared, plan, ends, inputs.values, importance.input_bits, self.stop_if_cancelled)
        state = yield from self.walk(prepared, plan, steps, ends, inputs, importance)
        scored = yield from self.score(prepared, ends, inputs, state)
        ablation = yield from self.ablated(state, (scored.reference, scored.quantized))
        yield self.event("score", 1.0, scored.words)
        return Result(
            recipe=self.recipe.to_dict(), reference=scored.reference, quantized=scored.quantized, divergence=scored.divergence,
            classification=scored.classification, errors=tuple(state.errors), weight_errors=tuple(state.weight_errors),
            proofs=tuple(proofs), seconds=self.seconds, peak_memory_mb=peak_memory_mb(prepared.device),
            environment=environment(describe(prepared.device)),
            notes=(*self.recipe.notes, *prepared.loaded.notes, *inputs.notes, *(learning.notes if learning else ()), *collected_notes(state.learned),
                   *self.batches.notes, *self.scored.notes, *self.notes),
            learning=learning.to_dict() if learning else None, learned=tuple(state.learned), allocation=importance.table, scores=scored.tokens,
            ablation=ablation,
        )

    def read(self, prepared: Prepared) -> Generator[Event, None, Inputs]:
        """What the recipe is measured on, on the run's device."""
        if self.ablates and prepared.modality is Modality.IMAGE:
            raise BadInput(f"an ablation measures what units cost in perplexity, and {self.recipe.model} reads images: leave ablation.unit at none")
        stage, source = (("text", self.recipe.text.evaluation) if prepared.modality is Modality.TEXT else
                         ("images", self.recipe.images.evaluation))
        yield self.event(stage, 0.03, f"reading {source}")
        with self.timed(stage):
            inputs = evaluation_inputs(prepared)
            return replace(inputs, values=inputs.values.to(prepared.device))

    def learn(self, prepared: Prepared) -> Generator[Event, None, tuple[RotationPlan, Learning | None]]:
        """The rotations. While a method learns, its news are this run's; the rest of the run then shares what is left of the bar."""
        steps = plan_for(prepared, self.stop_if_cancelled)
        while True:
            with self.timed("learn"):
                try:
                    step = next(steps)
                except StopIteration as stop:
                    plan, learning = stop.value
                    break
            self.before = _LEARN_SHARE
            yield Event("learn", None, None, _PROVE_FROM + (_LEARN_SHARE - _PROVE_FROM) * step.fraction, step.message, step.metrics,
                        time.perf_counter() - self.began)
        reset_peak_memory(prepared.device)
        return plan, learning

    def prove(self, prepared: Prepared, plan: RotationPlan, inputs: Inputs) -> Generator[Event, None, list[StepProof]]:
        """Before anything is quantized: the rewrite keeps the logits."""
        if not plan.slots:
            return []
        yield self.event("prove", _PROVE_FROM, "proving that the rotated model keeps its logits")
        with self.timed("prove"):
            dtype = torch.float64 if self.recipe.dtype == "float64" else torch.float32
            proofs = prove(prepared.source, plan, inputs.probe, dtype, lambda *_: self.stop_if_cancelled())
        require(proofs)
        yield self.event("prove", _WALK_FROM, f"logits stay within {max(p.error for p in proofs):.1e}")
        return proofs

    def weigh(self, prepared: Prepared, plan: RotationPlan) -> Generator[Event, None, Importance]:
        """Bits and importances, where the recipe asks for them."""
        steps = importance_of(prepared, plan, lambda: calibration_inputs(prepared), self.stop_if_cancelled)
        while True:
            with self.timed("weigh"):
                try:
                    step = next(steps)
                except StopIteration as stop:
                    importance = stop.value
                    break
            yield self.event("weigh", _PROVE_FROM + (_WALK_FROM - _PROVE_FROM) * step.fraction, step.message, metrics=dict(step.metrics))
        if not importance.bits and not importance.fisher:
            del self.seconds["weigh"]  # nothing was asked for
        return importance

    def walk(self, prepared: Prepared, plan: RotationPlan, steps: list[Step], ends: tuple[Ends, Ends],
             inputs: Inputs, importance: Importance) -> Generator[Event, None, WalkState]:
        """Both streams through every block."""
        source = prepared.source
        with self.timed("reference"):
            path = reference_path(prepared, inputs.values)
            kept = None if self.ablates else kept_reference(path)  # an ablation needs the float stream before every block
        state = load_state(self.checkpoint, self.recipe.fingerprint) if self.checkpoint else None
        first, most = inputs.first, inputs.values[:self.batches.size]
        entries = [end.entry(values).arguments for end, values in ((ends[0], most), (ends[1], most), (ends[1], inputs.sample))]
        if state is None or (len(state.reference) < len(inputs) and kept is None):
            state = WalkState(0, self.embed(ends[0], inputs.values if kept is None else first), self.embed(ends[1], inputs.values))
        else:
            self.seconds.update({k: v + self.seconds.get(k, 0.0) for k, v in state.seconds.items()})
            yield self.event("walk", self.walk_fraction(state.block, len(source)), f"going on at block {state.block}", state.block, len(source))
        state.reference, state.quantized = state.reference.to(prepared.device), state.quantized.to(prepared.device)
        massive = torch.zeros(state.reference.shape[:2], dtype=torch.uint8) if state.massive is None else state.massive
        state.massive = massive.to(prepared.device)
        state.only, state.all_but = ([part.to(prepared.device) for part in parts] for parts in (state.only, state.all_but))
        with self.timed("weights"):
            stack = stack_for(prepared, ends[1], state, importance, self.stop_if_cancelled, self.batches,
                              self.ablation.keep_scaled if self.ablation else None)
        while state.block < len(source):
            rewritten = yield from self.weights(prepared, steps, stack, state)
            yield from self.ablate(rewritten, state)
            with self.timed("walk"):
                metrics = _walk_block(self, prepared, plan, rewritten, entries, state, inputs, importance.input_bits.get(state.block, {}))
            if stack.entry is not None:
                with self.timed("weights"):
                    push_calibration(rewritten, stack, state)
            state.block += 1
            if self.checkpoint and (state.block == len(source) or self.save_now()):
                self.save(state)
            yield self.event("walk", self.walk_fraction(state.block, len(source)), f"block {state.block} of {len(source)}", state.block - 1,
                             len(source), metrics)
        with self.timed("reference"):
            if len(state.reference) == len(inputs):
                keep_reference(path, Reference(state.reference, state.massive))
            else:
                state.reference = kept.hidden.to(prepared.device)
                state.massive = state.massive if kept.massive is None else kept.massive
        return state

    def embed(self, ends: Ends, values: Tensor) -> Tensor:
        """Hidden states [N, L, D] before the first block."""
        found: list[Tensor] = []
        self.batches.over(len(values), lambda part: found.append(ends.entry(values[part]).hidden), "the embedding")
        return torch.cat(found)

    def save_now(self) -> bool:
        """Whether the walk's state is written after this block: always, but for an ablation, whose streams are large, now and then. (Inside a
        block nothing can be written: the streams are pushed in place.)"""
        return not self.ablates or time.perf_counter() - self.saved >= SAVE_SECONDS

    def save(self, state: WalkState) -> None:
        """Write the walk's state. Where there is no room for an ablation's streams the run goes on without."""
        with self.timed("checkpoint"):
            state.seconds = dict(self.seconds)
            try:
                save_state(self.checkpoint, self.recipe.fingerprint, state)
            except OutOfRoom as error:
                if not self.ablates:
                    raise
                self.notes = [f"not all of the ablation's streams were kept on the way, so that a stopped run would have begun further back: {error}"]
            self.saved = time.perf_counter()

    def ablate(self, rewritten: BlockView, state: WalkState) -> Generator[Event, None, None]:
        """The streams of single units past a block."""
        if self.ablation is None:
            return
        steps, blocks = self.ablation.advance(rewritten, state), len(self.ablation.prepared.source)
        while (step := self.next_of(steps)) is not None:
            fraction = self.walk_fraction(state.block + step.fraction, blocks)
            yield self.event("ablate", fraction, f"block {state.block + 1} of {blocks}: {step.message}")

    def ablated(self, state: WalkState, whole: tuple[Perplexity, Perplexity]) -> Generator[Event, None, dict[str, Any] | None]:
        """What single units cost."""
        if self.ablation is None:
            return None
        steps = self.ablation.measured(state, tuple(list(p.by_window) for p in whole), whole[1].protocol)
        while (step := self.next_of(steps)) is not None:
            yield self.event("ablate", _ABLATED_FROM + (1 - _ABLATED_FROM) * step.fraction, f"one at a time: {step.message}")
        return self.outcome

    def next_of(self, steps: Generator[Progress, None, Any]) -> Progress | None:
        """The next step of an ablation, timed; None at its end, whose value is then the outcome."""
        with self.timed("ablate"):
            try:
                return next(steps)
            except StopIteration as stop:
                self.outcome = stop.value
                return None

    def weights(self, prepared: Prepared, steps: list[Step], stack: WeightStack, state: WalkState) -> Generator[Event, None, BlockView]:
        """The next block, rewritten and its weights quantized; its own copy."""
        with self.timed("rewrite"):
            rewritten = rewrite_block(prepared.source.owned(state.block), steps)
        progress = quantize_weights(rewritten, stack, state)
        while True:
            with self.timed("weights"):
                try:
                    step = next(progress)
                except StopIteration as stop:
                    found: Quantization = stop.value
                    break
            fraction = self.walk_fraction(state.block + 0.9 * step.fraction, len(prepared.source))
            yield self.event("weights", fraction, f"block {state.block + 1} of {len(prepared.source)}: {step.message}", metrics=dict(step.metrics))
        state.weight_errors += found.errors
        state.learned += found.report(state.block)
        return rewritten

    def score(self, prepared: Prepared, ends: tuple[Ends, Ends], inputs: Inputs, state: WalkState) -> Generator[Event, None, Scored]:
        """What the two streams predict, compared."""
        if inputs.modality is Modality.TEXT:
            return (yield from self.score_text(prepared, ends, inputs, state))
        return (yield from self.score_images(ends, inputs, state))

    def score_text(self, prepared: Prepared, ends: tuple[Ends, Ends], inputs: Inputs, state: WalkState) -> Generator[Event, None, Scored]:
        """Perplexities and divergence of the two streams, and what every token cost."""
        tokens, ends = inputs.values, (ends[0].packed(), ends[1].packed())
        found: list[Scores] = []
        for window in range(len(tokens)):
            self.stop_if_cancelled()
            with self.timed("score"):
                found.append(_score_window(ends, tokens[window], state.reference[window], state.quantized[window], self.scored))
            yield self.tell_scored(window + 1, len(tokens), "window")
        scored = tokens.shape[1] - 1
        means = {name: [float(getattr(one, name).mean()) for one in found] for name in ("reference", "quantized", "kl")}
        same = sum(float(one.same_top.sum()) for one in found) / (scored * len(found))
        reference, quantized = (perplexity(means[name], scored, inputs.protocol) for name in ("reference", "quantized"))
        return Scored(divergence(means["kl"], same, scored), reference, quantized, tokens=_token_scores(prepared, tokens.cpu(), state, found))

    def score_images(self, ends: tuple[Ends, Ends], inputs: Inputs, state: WalkState) -> Generator[Event, None, Scored]:
        """Agreement, divergence and, where labels are known, accuracy."""
        logits: tuple[list[Tensor], list[Tensor]] = ([], [])
        def score_part(part: slice) -> None:
            self.stop_if_cancelled()
            for found, one in zip(logits, [end.finish(stream[part]).cpu() for end, stream in zip(ends, (state.reference, state.quantized))]):
                found.append(one)

        with self.timed("score"):
            self.batches.over(len(inputs), score_part, "scoring")
        yield self.tell_scored(len(inputs), len(inputs), "image")
        found = classification(*(torch.cat(parts) for parts in logits), inputs.labels, inputs.protocol)
        return Scored(Divergence(found.kl_nats.value, found.agreement.value, found.images, found.kl_nats.stderr), classification=found)

    def tell_scored(self, done: int, count: int, what: str) -> Event:
        low, high = (_ABLATED_WALK, _ABLATED_FROM) if self.ablates else (_SCORE_FROM, 1.0)
        return self.event("score", low + (high - low) * done / count, f"scored {what} {done} of {count}")

    def event(self, stage: str, fraction: float, message: str, block: int | None = None, blocks: int | None = None,
              metrics: dict[str, float] | None = None) -> Event:
        return Event(stage, block, blocks, self.before + (1 - self.before) * fraction, message, metrics or {}, time.perf_counter() - self.began)

    def stop_if_cancelled(self) -> None:
        if self.cancelled():
            raise Cancelled("the run was cancelled; blocks that were finished are kept")

    def walk_fraction(self, done: float, blocks: int) -> float:
        """The share of the run after so many blocks; an ablation's streams grow with every block, so that its time goes with the square."""
        if self.ablates:
            return _WALK_FROM + (_ABLATED_WALK - _WALK_FROM) * (done / blocks) ** 2
        return _WALK_FROM + (_SCORE_FROM - _WALK_FROM) * done / blocks

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def _walk_block(job: _Job, prepared: Prepared, plan: RotationPlan, rewritten: BlockView, entries: list[list[BlockArguments]], state: WalkState,
                inputs: Inputs, input_bits: Mapping[str, int]) -> dict[str, float]:
    """One block: push both streams through it and its quantized copy, measure on the first batch."""
    index, where, sample = state.block, f"block {state.block}", inputs.sample_length
    first = state.reference[:inputs.batch].clone()
    limit, measured = massive_limit(first), 0
    meter = SiteMeter(beyond(first, limit).flatten())

    def mark_massive(part: slice) -> None:
        state.massive[part] += beyond(state.reference[part], limit)

    job.batches.over(len(state.reference), mark_massive, where)
    quantize_activations(rewritten, prepared.recipe.activations.spec(), meter, bits=input_bits)
    quantize_cache(rewritten, prepared.recipe.kv.spec(), meter)
    family = prepared.source.family
    isolated_in = turned(first[:1, :sample], plan, family)

    def push(stream: Tensor, block: BlockView, entry: list[BlockArguments], part: slice) -> None:
        job.stop_if_cancelled()
        stream[part] = forward(block.block, stream[part], narrowed(entry[index], part.stop - part.start))

    def push_quantized(part: slice) -> None:
        nonlocal measured
        meter.on = part.start == 0  # what the first batch of the quantized stream loses is enough
        if meter.on:
            meter.restart(beyond(first[part], limit).flatten())
        push(state.quantized, rewritten, entries[1], part)
        measured = measured or part.stop

    with packed_linears(rewritten.block):
        job.batches.over(len(state.quantized), push_quantized, where)
    meter.on = False
    with _many_times(prepared, index, len(inputs) > inputs.batch) as original:
        job.batches.over(len(state.reference), lambda part: push(state.reference, original, entries[0], part), where)
    reference = centered(state.reference[:measured], plan, family)
    isolated_out = straightened(forward(rewritten.block, isolated_in, entries[2][index]), plan)
    isolated = relative_mse(reference[:1, :sample], isolated_out)
    residual = residual_error(index, reference.flatten(0, 1), straightened(state.quantized[:measured], plan).flatten(0, 1), isolated)
    state.errors += [error.to_dict() for error in (*meter.errors(index), residual)]
    return {"accumulated": residual.relative_mse, "isolated": isolated}


@contextmanager
def _many_times(prepared: Prepared, index: int, several: bool) -> Iterator[BlockView]:
    """The float block to push batches through; a packed copy where there are several (the block itself is everybody's). Where the float stream is
    kept only the first one goes through it, packed as well: its last digits are those of the run that kept it."""
    if not several:
        yield prepared.source.original(index)
        return
    own = prepared.source.owned(index)
    with packed_linears(own.block):
        yield own


def _score_window(ends: tuple[Ends, Ends], tokens: Tensor, reference: Tensor, quantized: Tensor, together: Batches) -> Scores:
    """What each token of one window but its first scored, on the CPU."""
    parts: list[Scores] = []

    def score_part(part: slice) -> None:
        logits = [end.finish(stream[None, part])[0] for end, stream in zip(ends, (reference, quantized))]
        parts.append(score(*logits, tokens[1:][part]))

    together.over(len(tokens) - 1, score_part, "scoring")
    return Scores(*(torch.cat([getattr(one, name) for one in parts]).cpu() for name in ("reference", "quantized", "kl", "same_top")))


def _token_scores(prepared: Prepared, tokens: Tensor, state: WalkState, found: list[Scores]) -> TokenScores:
    """The file beside the result. Where massive tokens are known in the first windows only, the others count as ordinary."""
    plain = tokens.numpy().astype(np.int32)
    massive = np.zeros(plain.shape, dtype=np.uint8)
    massive[:len(state.massive)] = state.massive.cpu().numpy()
    columns = {name: np.stack([getattr(one, name).numpy().astype(kind) for one in found])
               for name, kind in (("reference", np.float32), ("quantized", np.float32), ("kl", np.float32), ("same_top", np.uint8))}
    return TokenScores(plain, **columns, massive=massive, texts=texts_of(plain, prepared.loaded.tokenizer.decode),
                       massive_windows=len(state.massive), blocks=len(prepared.source))
