"""Tiny random image classifiers: the real transformers classes with two blocks, for tests and demonstrations of the vision path.

As with the language models (tiny.py) a mistake in a rewrite shows: gains are not ones, biases are not zeros, no width is a power of two. Outlier
channels are planted in the norms; there is no massive token, for the one token that is read out would be the worst place for it. The classes are
those of the drawn shapes, so that accuracy can be measured (and is that of guessing).
"""

from typing import TYPE_CHECKING, Any

import torch

from rotviz.errors import unknown
from rotviz.images.shapes import CLASSES
from rotviz.models.tiny import OUTLIER_GAIN, fill, is_norm

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel

SIDE = 32
_SHAPE = {"image_size": SIDE, "patch_size": 8, "hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 224, "num_hidden_layers": 2}

TINY_VISION = {
    "tiny-vit": ("ViTForImageClassification", "ViTConfig"),
    "tiny-deit": ("DeiTForImageClassification", "DeiTConfig"),
    "tiny-deit-distilled": ("DeiTForImageClassificationWithTeacher", "DeiTConfig"),
}


def tiny_vision(
    name: str, *, seed: int = 0, outliers: bool = True, dtype: torch.dtype = torch.float32, attention: str = "eager"
) -> tuple["PreTrainedModel", "BaseImageProcessor"]:
    """A tiny classifier in evaluation mode without gradients, and its image processor; arguments as `tiny`.

    Raises:
        UnknownName: no tiny classifier of that name.
    """
    if name not in TINY_VISION:
        raise unknown("tiny vision model", name, TINY_VISION)
    architecture, config = TINY_VISION[name]
    model = new_classifier(architecture, config, attention, **_SHAPE)
    generator = torch.Generator().manual_seed(seed)
    fill(model, generator)
    if outliers:
        _plant_outliers(model, generator)
    return model.to(dtype).eval().requires_grad_(False), new_processor()


def new_classifier(architecture: str, config: str, attention: str, **values: Any) -> "PreTrainedModel":
    """A classifier of the drawn shapes with transformers' initial weights; the global generator is left alone."""
    import transformers

    labels = dict(enumerate(CLASSES))
    made = getattr(transformers, config)(**values, id2label=labels, label2id={name: i for i, name in labels.items()}, architectures=[architecture])
    with torch.random.fork_rng(devices=[]):
        return getattr(transformers, architecture)._from_config(made, attn_implementation=attention, dtype=torch.float32)


def new_processor() -> "BaseImageProcessor":
    """What brings images to the tiny classifiers' size and range."""
    from transformers import ViTImageProcessorPil

    return ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def _plant_outliers(model: "PreTrainedModel", generator: torch.Generator) -> None:
    """Two channels of every block's norms twenty times their neighbours. In place."""
    channels = torch.randperm(model.config.hidden_size, generator=generator)[:2]
    with torch.no_grad():
        for name, module in model.named_modules():
            if is_norm(module) and "layers." in name:
                module.weight[channels] *= OUTLIER_GAIN
