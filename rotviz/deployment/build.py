"""From a recipe to a model that runs in bits.

The blocks are those of a run (rotviz.pipeline.whole): rotated, quantized. The codes of every weight are read back from its fake-quantized numbers
and proved to give them again, bit for bit (rotviz.numerics.recover), whichever method made them; then each linear is replaced by a packed one.
Mixed precision packs each linear with the bits it got; where the output channels of one differ, in the largest of them. A linear that got 16 bits
stays in float. What enters a linear that is kept at more bits is rounded to those bits, apart from what its neighbours read.

Embedding, output head, norms and routers stay in float. R1 and R2 are in the weights, R3 is carried out by the KV cache, R4 by the down projections'
inputs.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rotviz.deployment.cache import CacheCoder, PackedCache
from rotviz.deployment.linear import LinearInput, PackedLinear, RoundedLinear
from rotviz.deployment.shelf import refusal
from rotviz.device import resolve_dtype
from rotviz.errors import BadInput
from rotviz.kernels.packed import BYTE, NIBBLE, Packed, check_spec, pack
from rotviz.models.attention import set_edit
from rotviz.models.family import Family, block_views
from rotviz.models.loading import LoadedModel, require_text
from rotviz.numerics.recover import recover
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.whole import Assembled, QuantizedBlock, assembled
from rotviz.quantizers import Progress
from rotviz.quantizers.block import linear_paths
from rotviz.surgery.plan import RotationPlan
from rotviz.types import FLOAT_BITS, SITE_OF_ROLE, QuantSpec, Role

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Say = Callable[[float, str], None]
CACHE_NAMES = ("cache", "past_key_values")
"""What transformers calls the KV cache: the name changed within version 5."""
STATIC = "static"
DEFAULT_NEW = 20
"""Tokens that transformers generates if it is not told how many."""


def silent(fraction: float, words: str) -> None:
    """Progress that nobody reads."""


@dataclass(frozen=True)
class Deployed:
    """A model that runs in bits.

    Attributes:
        model: a transformers model; `generate` uses a packed KV cache, as `new_cache` makes it, unless it is given another.
        tokenizer: its tokenizer.
        recipe: what it was made from.
        family: how it is laid out.
        coder: how its cache stores keys and values.
        r4: its online rotations by width.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    recipe: Recipe
    family: Family
    coder: CacheCoder
    r4: dict[int, Any]

    def new_cache(self, length: int | None = None) -> Any:
        """An empty KV cache; with room for so many tokens, so that steps can be replayed, or one that grows."""
        return self.model.new_cache(length)


def deploy(recipe: Recipe, loaded: LoadedModel | None = None, *, dtype: str = "", say: Say = silent) -> Deployed:
    """Carry a recipe's quantization out in bits.

    Args:
        recipe: what to deploy; its texts matter where weights or rotations are learned.
        loaded: the recipe's model where it is in memory already; it is not changed.
        dtype: of what stays in float (embedding, head, norms) and of activations between the linears; "" = the recipe's. Codes are the same.
        say: told how far it is.

    Raises:
        BadInput: the recipe cannot be packed (see shelf.refusal), or its device or model is not there.
    """
    require_text(recipe.model, "a deployed model")
    obstacle = refusal(recipe)
    if obstacle:
        raise BadInput(obstacle)
    kept = resolve_dtype(dtype or recipe.dtype)
    found = _driven(assembled(recipe, lambda block, plan: packed_block(block, recipe, plan), loaded), say)
    model, coder = found.model, CacheCoder(recipe.kv.spec(), found.plan.r3)
    for view in block_views(model, found.prepared.source.family):
        set_edit(view.attention, coder.edit() if coder.acts else None)
    _tie_again(model)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(kept)
    with_packed_cache(model, coder)
    model.config.source_tied = is_tied(found.prepared.loaded.model)
    model.config.tie_word_embeddings = is_tied(model)
    model.config.dtype = kept
    return Deployed(model, found.prepared.loaded.tokenizer, recipe, found.prepared.source.family, coder, dict(found.plan.r4))


def packed_block(quantized: QuantizedBlock, recipe: Recipe, plan: RotationPlan) -> nn.Module:
    """A block with quantized numbers, its linears replaced by packed ones; in place. Its attention keeps its edits."""
    view = quantized.view
    weights, activations = recipe.weights.spec(), recipe.activations.spec()
    sources: dict[tuple, LinearInput] = {}
    for path, (module, roles) in linear_paths(view).items():
        rotation = plan.r4.get(module.weight.shape[1]) if roles[0] is Role.DOWN else None
        entering = replace(activations, bits=quantized.input_bits.get(path, activations.bits))
        key = SITE_OF_ROLE[roles[0]], module.weight.shape[1], entering.bits
        source = sources.setdefault(key, LinearInput(entering, rotation))
        try:
            view.set_module(path, _replaced(module, weights, quantized.bits.get(path), source))
        except BadInput as error:
            raise BadInput(f"block {view.index}, {path}: {error}") from error
    return view.block


def packed_weight(values: Tensor, spec: QuantSpec, bits: "int | Tensor | None" = None) -> Packed:
    """A fake-quantized weight [N, D] in codes: in half a byte up to 4 bits, in a byte otherwise, also where a row is odd.

    Args:
        values: the numbers, on the spec's grid.
        spec: the grid.
        bits: where they differ from the spec's: one number, or one for each output channel.
    """
    most = spec.bits if bits is None else int(torch.as_tensor(bits).max())
    found = recover(values, replace(spec, bits=most, clip="none"))
    container = NIBBLE if most <= NIBBLE and values.shape[-1] % 2 == 0 else BYTE
    return pack(replace(found, spec=replace(found.spec, bits=container)))


def with_packed_cache(model: "PreTrainedModel", coder: CacheCoder) -> None:
    """Give a model `new_cache`, and a `generate` that uses one."""
    kind = type(model)
    model.__class__ = type(kind.__name__, (_GeneratesPacked, kind), {"__module__": kind.__module__})
    model.cache_coder = coder


def is_tied(model: "PreTrainedModel") -> bool:
    """Whether head and embedding are one matrix."""
    head = model.get_output_embeddings()
    return head is not None and head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def _tie_again(model: "PreTrainedModel") -> None:
    """Rewriting gives the head a matrix of its own; where nothing has changed it (no R1) it need not be stored twice."""
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    if model.config.tie_word_embeddings and torch.equal(head.weight, table.weight):
        head.weight = table.weight


def cache_argument(call: Callable) -> str:
    """What a model's forward calls its cache."""
    import inspect

    parameters = inspect.signature(call).parameters
    return next(name for name in CACHE_NAMES if name in parameters)


def _driven(steps: Generator[Progress, None, Assembled], say: Say) -> Assembled:
    while True:
        try:
            step = next(steps)
        except StopIteration as stop:
            return stop.value
        say(step.fraction, step.message)


class _GeneratesPacked:
    """Comes before a transformers class among the bases."""

    cache_coder: CacheCoder

    def new_cache(self, length: int | None = None) -> PackedCache:
        """An empty cache of the deployed model's kind; with room for so many tokens, or one that grows."""
        return PackedCache(self.config, self.cache_coder, length)

    def generate(self, inputs: Tensor | None = None, generation_config: Any = None, *args: Any, **kwargs: Any) -> Any:
        """transformers' generate; with a packed cache unless it is given a cache, or told to do without or with a kind of its own.

        With the argument cache_implementation = "static" the packed cache has a fixed length, and on a GPU steps are replayed
        (rotviz.deployment.replay).
        """
        configs = [config for config in (generation_config, self.generation_config) if config is not None]
        prompt = next((found for found in (inputs, kwargs.get("input_ids"), kwargs.get("inputs_embeds")) if found is not None), None)
        kind = kwargs.get("cache_implementation")
        has_cache = any(kwargs.get(name) is not None for name in CACHE_NAMES) or any(config.cache_implementation for config in configs)
        if kwargs.get("use_cache", True) and not has_cache and (kind is None or (kind == STATIC and prompt is not None)):
            length = None if kind is None else _room(prompt.shape[1], kwargs, configs)
            kwargs |= {cache_argument(self.forward): self.new_cache(length), "use_cache": True}  # the configuration of a loaded model says no
            kwargs |= {} if kind is None else {"cache_implementation": None, "disable_compile": True}
        return super().generate(inputs, generation_config, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        cache = next((kwargs[name] for name in CACHE_NAMES if kwargs.get(name) is not None), None)
        replay = getattr(cache, "replay", None)
        return super().__call__(*args, **kwargs) if args or replay is None else replay.step(self, cache, kwargs)


def _room(prompt: int, arguments: dict[str, Any], configs: list[Any]) -> int:
    """The most tokens that `generate` will have seen, by transformers' rules: an argument, else the given configuration, else the model's own."""
    def told(name: str) -> int | None:
        return next((value for value in (arguments.get(name), *(getattr(config, name, None) for config in configs)) if value is not None), None)

    new = told("max_new_tokens")
    return prompt + new if new is not None else max(told("max_length") or 0, prompt + DEFAULT_NEW)


def _replaced(module: nn.Linear, weights: QuantSpec, bits: "int | Tensor | None", source: LinearInput) -> nn.Module:
    if source.spec.quantizes:
        check_spec(source.spec, module.weight.shape[1])
    if not weights.quantizes or (isinstance(bits, int) and bits >= FLOAT_BITS):
        return RoundedLinear(module, source) if source.acts else module
    return PackedLinear(packed_weight(module.weight.data, weights, bits), None if module.bias is None else module.bias.data, source)
