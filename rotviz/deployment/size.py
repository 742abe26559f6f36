"""What a deployed model weighs: bytes by part, measured on its tensors, beside what rotviz.kernels.cost predicts from its shape.

    attention weights, MLP weights    codes, steps and zeros of the packed linears (or the floats of those left alone)
    embedding, output head            as they are; one matrix where they are tied, counted as the embedding
    norms and routers                 every other parameter, biases too
    channel sums                      what the integer product keeps for asymmetric activations: an int32 for each output channel
    KV cache                          of one sequence of so many tokens, filled to be measured

The prediction follows from the model's shape, of which R1 gives a tied head a matrix of its own, and, where a recipe shares out bits,
from what each linear was given; it counts floats in 16 bits and knows no biases and no channel sums. Norms whose gains are folded away weigh nothing.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rotviz.deployment.build import Deployed, is_tied
from rotviz.deployment.linear import PackedLinear, RoundedLinear
from rotviz.kernels.cost import Shape, memory_by_part, row_bytes
from rotviz.models.family import block_views, heads_of
from rotviz.types import QuantSpec

ATTENTION, MLP, EMBEDDING, HEAD = "attention weights", "MLP weights", "embedding", "output head"
SMALL, SUMS, CACHE = "norms and routers", "channel sums", "KV cache"
CONTEXT = 2048


@dataclass(frozen=True, slots=True)
class Weighed:
    """One part: bytes that were measured, that were predicted for the recipe, and that it takes in 16 bits; 0 where there is no such part."""

    name: str
    measured: int
    predicted: int
    float16: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def weigh(deployed: Deployed, context: int = CONTEXT) -> tuple[Weighed, ...]:
    """Bytes by part, with a KV cache of one sequence of `context` tokens."""
    measured = measured_bytes(deployed) | {CACHE: cache_bytes(deployed, context)}
    recipe = deployed.recipe
    config = deployed.model.config
    tied = getattr(config, "source_tied", config.tie_word_embeddings)
    shape = replace(Shape.from_config(config), tied=tied)
    parts = {part.name: part for part in memory_by_part(shape, recipe.weights.spec(), recipe.activations.spec(), recipe.kv.spec(), context=context,
                                                        in_flight=1, r1=tied and not config.tie_word_embeddings)}
    if recipe.allocation.method != "none":
        parts |= {name: replace(parts[name], recipe=size) for name, size in _allocated_bytes(deployed).items()}
    names = [name for name in (ATTENTION, MLP, EMBEDDING, HEAD, SMALL, SUMS, CACHE) if measured.get(name) or name in parts]
    return tuple(Weighed(name, measured.get(name, 0), parts[name].recipe if name in parts else 0, parts[name].float16 if name in parts else 0)
                 for name in names)


def measured_bytes(deployed: Deployed) -> dict[str, int]:
    """Bytes of the model's parameters and codes by part; what RoPE computes and what rotations hold (a few kilobytes) is left out."""
    model = deployed.model
    places = _places(deployed)
    sizes = dict.fromkeys((ATTENTION, MLP, EMBEDDING, HEAD, SMALL, SUMS), 0)
    for module in model.modules():
        if isinstance(module, PackedLinear):
            sizes[places[module]] += module.packed.nbytes
            sizes[SUMS] += _bytes(module.sums)
        for name, parameter in module.named_parameters(recurse=False):
            sizes[places.get(module, SMALL) if name == "weight" else SMALL] += _bytes(parameter)
    if is_tied(model):
        sizes[HEAD] = 0
    return sizes


def cache_bytes(deployed: Deployed, tokens: int) -> int:
    """Bytes of a cache that holds one sequence of so many tokens, all blocks together. Sliding windows keep the last of them."""
    model = deployed.model
    heads = heads_of(model.config.get_text_config())
    cache = deployed.new_cache()
    numbers = torch.zeros(1, heads.kv, tokens, heads.width, dtype=model.dtype, device=model.device)
    for index in range(len(block_views(model, deployed.family))):
        cache.update(numbers, numbers, index)
    return sum(_bytes(part) for layer in cache.layers for part in (layer.keys, layer.values))


def _allocated_bytes(deployed: Deployed) -> dict[str, int]:
    """What the linears of each part take at the bits that they were given: shape and bits alone, no tensor's size."""
    found = dict.fromkeys((ATTENTION, MLP), 0)
    for module, part in _places(deployed).items():
        if part in found:
            shape = (module.out_features, module.in_features) if isinstance(module, PackedLinear) else module.weight.shape
            found[part] += row_bytes(*shape, module.spec if isinstance(module, PackedLinear) else QuantSpec())
    return found


def _places(deployed: Deployed) -> dict[nn.Module, str]:
    """The part that a module's weight belongs to. A tied head is no part of its own."""
    model = deployed.model
    found: dict[nn.Module, str] = {model.get_submodule(path): EMBEDDING for path in deployed.family.embeddings}
    found[model.get_output_embeddings()] = HEAD
    for view in block_views(model, deployed.family):
        attention = set(view.attention.modules())
        found |= {module: ATTENTION if module in attention else MLP for module in view.block.modules()
                  if isinstance(module, (PackedLinear, RoundedLinear, nn.Linear))}
    return found


def _bytes(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.numel() * tensor.element_size()
