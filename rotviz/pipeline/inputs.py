"""What a model is measured on and learns from: token windows of a text, or images, in one shape that the walk can take.

    text    ids [N, L]              L positions a window        tokenizer; perplexity is measured
    images  pixels [N, C, H, W]     patches + tokens an image   the checkpoint's own image processor; top-1 agreement is measured

Labels are known where every class that the images name is one of the model's own (its id2label, whose entries may list synonyms between commas).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rotviz.errors import BadInput
from rotviz.images import ImageSet, calibration_images, evaluation_images
from rotviz.models.families.vit import image_shape
from rotviz.pipeline.prepare import Prepared, calibration_tokens, probe_tokens, windows_for
from rotviz.types import Modality

BATCH_TOKENS = 2048
"""Positions pushed through a block at a time; whole windows or images, at least one."""
ISOLATED_TOKENS = 512
"""Tokens of the first window on which a block's isolated error is measured; a sample keeps a third forward of every block cheap."""
PROCESSED = 64
"""Images that go through the image processor at a time."""
PROBED = 4
"""Images of a proof."""


@dataclass(frozen=True)
class Inputs:
    """Windows or images, on the CPU or a device.

    Attributes:
        values: ids [N, L], or pixels [N, C, H, W] float32.
        length: positions of the residual stream that one of them takes.
        protocol: how they were made, in words.
        modality: which of the two they are.
        labels: the class [N] of each image, where it is known.
        notes: what a reader should know.
    """

    values: Tensor
    length: int
    protocol: str
    modality: Modality = Modality.TEXT
    labels: Tensor | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    @property
    def batch(self) -> int:
        """How many go through a block at a time."""
        return min(len(self), max(1, BATCH_TOKENS // self.length))

    @property
    def unit(self) -> str:
        """What one of them is called."""
        return "window" if self.modality is Modality.TEXT else "image"

    @property
    def first(self) -> Tensor:
        """The first batch."""
        return self.values[:self.batch]

    @property
    def sample_length(self) -> int:
        """Positions on which a block's isolated error is measured. Attention in an image looks both ways, so an image is not cut."""
        return min(self.length, ISOLATED_TOKENS) if self.modality is Modality.TEXT else self.length

    @property
    def sample(self) -> Tensor:
        """What the isolated error is measured on: the beginning of the first window, or the first image."""
        return self.values[:1, :self.sample_length] if self.modality is Modality.TEXT else self.values[:1]

    @property
    def probe(self) -> Tensor:
        """What a rewrite is proved on: 64 tokens, or a few images."""
        return probe_tokens(self.values) if self.modality is Modality.TEXT else self.values[:PROBED]


def evaluation_inputs(prepared: Prepared) -> Inputs:
    """What a recipe is measured on.

    Raises:
        BadInput: a text or images that are not there, too few, or not of the size that the model takes.
    """
    if prepared.modality is Modality.TEXT:
        windows = windows_for(prepared)
        return Inputs(windows.tokens, windows.tokens.shape[1], windows.protocol)
    images = prepared.recipe.images
    return image_inputs(prepared, evaluation_images(images.evaluation, images.count, _side(prepared)))


def calibration_inputs(prepared: Prepared) -> Inputs:
    """What a recipe's methods learn from; its seed chooses.

    Raises:
        as evaluation_inputs.
    """
    recipe = prepared.recipe
    if prepared.modality is Modality.TEXT:
        tokens = calibration_tokens(prepared)
        return Inputs(tokens, tokens.shape[1], "")
    return image_inputs(prepared, calibration_images(recipe.images.calibration, recipe.images.samples, _side(prepared), recipe.seed))


def probe_images(prepared: Prepared) -> Tensor:
    """A few drawn images of the model's size, for a proof that needs no recipe."""
    return image_inputs(prepared, evaluation_images("shapes:validation", PROBED, _side(prepared))).values


def image_inputs(prepared: Prepared, images: ImageSet) -> Inputs:
    """Images as the model takes them, through its own image processor."""
    config, processor = prepared.source.ends.model.config, prepared.loaded.processor
    parts = [processor(images=list(images.pixels[i:i + PROCESSED]), return_tensors="pt", input_data_format="channels_last")["pixel_values"]
             for i in range(0, len(images.pixels), PROCESSED)]
    pixels = torch.cat(parts).float()
    wanted = (config.num_channels, *image_shape(config))
    if tuple(pixels.shape[1:]) != wanted:
        raise BadInput(f"the model's image processor makes images of {_by(pixels.shape[1:])}, and its config.json asks for {_by(wanted)}; "
                       "correct size or crop_size in preprocessor_config.json")
    labels, note = _labels(images.classes, config.id2label)
    length = prepared.source.ends.entry(pixels[:1].to(prepared.device)).hidden.shape[1]
    return Inputs(pixels, length, images.words, Modality.IMAGE, labels, (note,) if note else ())


def _labels(classes: tuple[str, ...] | None, names: dict[int, str]) -> tuple[Tensor | None, str]:
    """The labels of classes by name, or none and why."""
    if classes is None:
        return None, "accuracy is not known: the images come without classes (a folder for each class would give them)"
    known = {part.strip().lower(): index for index, name in names.items() for part in (name, *str(name).split(","))}
    strange = next((name for name in classes if name.lower() not in known), None)
    if strange is not None:
        return None, f"accuracy is not known: {strange!r}, a class of the images, is none of the model's"
    return torch.tensor([known[name.lower()] for name in classes]), ""


def _side(prepared: Prepared) -> int:
    return max(image_shape(prepared.source.ends.model.config))


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
