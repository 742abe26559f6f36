"""ViT classifiers (Dosovitskiy et al., arXiv 2010.11929): a pre-norm LayerNorm encoder over image patches, read out at one token.

    image [C, H, W] -> patches of P x P -> convolution to D + learned positions, a class token before them -> blocks -> LayerNorm -> classifier

Each block is OPT's: LayerNorm, attention with biases and without RoPE, LayerNorm, two linears. So the LayerNorm path holds here as well: where
every writer to the residual stream is centered first (the patch filters and their bias, class token and positions, output and down projections) the
stream has no mean, LayerNorm equals RMSNorm and R1 folds. Attention looks both ways and nothing is cached: what the recipe calls the KV cache is here
the keys and values that enter attention. Nothing but the class token is read out, so what rounding does to the patches counts as far as it reaches
that token.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rotviz.models.families import FAMILIES
from rotviz.models.family import Entrance, Family, LinearSlice, NormKind
from rotviz.types import Modality, Role

LINEARS = {Role.Q: "attention.q_proj", Role.K: "attention.k_proj", Role.V: "attention.v_proj", Role.O: "attention.o_proj",
           Role.UP: "mlp.fc1", Role.DOWN: "mlp.fc2"}


@dataclass(frozen=True)
class VisionTransformer(Family):
    """Where things are in an image classifier. `embeddings` names the module that holds patch projection, tokens and positions.

    second_head: the classifier of a second token (distilled DeiT), whose logits are averaged with the first's.
    """

    second_head: str | None = None

    def refusal(self, config: Any) -> str | None:
        if not config.num_labels:
            return "it has no classifier head (num_labels = 0), so there are no logits to measure; use a fine-tuned checkpoint"
        return None

    def arguments(self, inputs: Tensor) -> dict[str, Any]:
        """What the model is called with to read images [B, C, H, W]."""
        return {"pixel_values": inputs}

    def blank(self, hidden: Tensor, config: Any) -> Tensor:
        return torch.zeros(len(hidden), config.num_channels, *image_shape(config), device=hidden.device, dtype=hidden.dtype)

    def entrances(self, model: nn.Module) -> list[Entrance]:
        held = model.get_submodule(self.embeddings[0])
        patches = held.patch_embeddings.projection
        found = [Entrance(patches.weight, axis=0), Entrance(held.cls_token), Entrance(held.position_embeddings)]
        found += [Entrance(patches.bias)] if patches.bias is not None else []
        return found + ([Entrance(held.distillation_token)] if hasattr(held, "distillation_token") else [])

    def readouts(self, model: nn.Module) -> list[LinearSlice]:
        return [LinearSlice(model.get_submodule(path)) for path in (self.head, self.second_head) if path]


def image_shape(config: Any) -> tuple[int, int]:
    """Height and width of the images that a model takes."""
    size = config.image_size
    return tuple(size) if isinstance(size, Iterable) else (size, size)


def vision_family(architecture: str, prefix: str, head: str = "classifier", second_head: str | None = None) -> VisionTransformer:
    """The family of an architecture whose encoder stands under `prefix`."""
    return VisionTransformer(
        (architecture,), norm=NormKind.LAYER, blocks=f"{prefix}.layers", embeddings=(f"{prefix}.embeddings",), final_norm=f"{prefix}.layernorm",
        head=head, second_head=second_head, attention="attention", attn_norm="layernorm_before", mlp_norm="layernorm_after", rope=False,
        linears=LINEARS, modality=Modality.IMAGE,
    )


VIT = FAMILIES.register("vit")(vision_family("ViTForImageClassification", "vit"))
