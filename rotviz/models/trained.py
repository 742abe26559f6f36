"""A small vision transformer that rotviz trains itself, in seconds, from a seed, on the drawn shapes: `tiny-vit-trained`.

Random weights show mechanics; what a quantizer is worth shows on weights that do something. Nothing is fetched: images and weights come from
seeds, AdamW with a warm-up and a cosine does the rest, and the result is kept as a safetensors folder under ROTVIZ_HOME/models. The same seed and
machine give the same weights; another processor or torch sums in another order and ends in slightly others, so a result's caches follow the
weights themselves.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rotviz.errors import BrokenCheckpoint, unknown
from rotviz.home import fill_folder_atomically, home
from rotviz.images.shapes import VERSION, draw_shapes
from rotviz.models.checkpoint import check_folder, quiet
from rotviz.models.tiny_vision import SIDE, new_classifier, new_processor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RECORD = "made_from.json"
TRAINING = 1  # raise it when the same settings give other weights
TRAIN_SPLIT = 0
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Training:
    """How a model is trained.

    images: how many are drawn; steps: of so many (`batch`) images; rate: the highest learning rate, after `warm_up` steps.
    """

    width: int = 48
    blocks: int = 3
    heads: int = 4
    mlp: int = 144
    images: int = 8192
    steps: int = 400
    batch: int = 64
    rate: float = 3e-3
    warm_up: int = 40
    decay: float = 0.05
    seed: int = 0


TRAINED = {"tiny-vit-trained": Training()}


def train(training: Training, progress: Progress | None = None) -> "PreTrainedModel":
    """A trained classifier in evaluation mode, without gradients."""
    generator = torch.Generator().manual_seed(training.seed)
    model = new_classifier("ViTForImageClassification", "ViTConfig", "sdpa", image_size=SIDE, patch_size=8, hidden_size=training.width,
                           num_hidden_layers=training.blocks, num_attention_heads=training.heads, intermediate_size=training.mlp)
    _initialize(model, generator)
    model.train().requires_grad_(True)
    images, labels = _images(training)
    optimizer = torch.optim.AdamW(model.parameters(), training.rate, weight_decay=training.decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, training))
    order: list[int] = []
    for step in range(training.steps):
        if len(order) < training.batch:
            order = torch.randperm(len(images), generator=generator).tolist()
        chosen, order = order[:training.batch], order[training.batch:]
        loss = nn.functional.cross_entropy(model(pixel_values=images[chosen]).logits, labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress and (step + 1) % 50 == 0:
            progress(f"training on drawn shapes (once): step {step + 1} of {training.steps}, loss {loss.item():.3f}")
    return model.eval().requires_grad_(False)


def ensure_trained(name: str, progress: Progress | None = None) -> Path:
    """The trained model as a safetensors folder, made on first use.

    Raises:
        UnknownName: no trained model of that name.
        OutOfRoom: the disk is full.
    """
    if name not in TRAINED:
        raise unknown("trained model", name, TRAINED)
    if not is_trained(name):
        model = train(TRAINED[name], progress)
        fill_folder_atomically(trained_path(name), lambda folder: _save(model, name, folder))
    return trained_path(name)


def is_trained(name: str) -> bool:
    """Whether a whole copy from these very settings is there."""
    folder = trained_path(name)
    try:
        if json.loads((folder / RECORD).read_text()) != record(name):
            return False
        check_folder(folder)
    except (OSError, ValueError, BrokenCheckpoint):
        return False
    return True


def trained_path(name: str) -> Path:
    """Where the model lies once it is there."""
    return home() / "models" / name


def record(name: str) -> dict[str, object]:
    """Everything that decides the weights but the machine."""
    return {"name": name, "training": TRAINING, "images": VERSION, **asdict(TRAINED[name])}


def shortened(training: Training, steps: int) -> Training:
    """The same training with fewer steps, for a look at it."""
    return replace(training, steps=steps, images=min(training.images, steps * training.batch))


def _initialize(model: nn.Module, generator: torch.Generator) -> None:
    """Weights of variance 1 / inputs from a generator of their own, residual writers smaller by the depth, the classifier and biases zero."""
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if name.startswith("classifier") or (name.endswith("bias")):
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(1)
            elif parameter.ndim == 3:  # tokens and positions
                parameter.copy_(0.02 * noise)
            else:
                deep = 2 * model.config.num_hidden_layers if ("o_proj" in name or "fc2" in name) else 1
                parameter.copy_(noise / math.sqrt(deep * parameter[0].numel()))


def _images(training: Training) -> tuple[Tensor, Tensor]:
    """Images [N, 3, side, side] as the processor would give them, and their labels [N]."""
    pixels, labels = draw_shapes(training.images, SIDE, (TRAIN_SPLIT, training.seed))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1, torch.from_numpy(labels)


def _rate(step: int, training: Training) -> float:
    """The share of the learning rate at a step."""
    if step < training.warm_up:
        return (step + 1) / training.warm_up
    done = (step - training.warm_up) / max(1, training.steps - training.warm_up)
    return 0.5 * (1 + math.cos(math.pi * done))


def _save(model: "PreTrainedModel", name: str, folder: Path) -> None:
    with quiet():
        model.save_pretrained(folder)
        new_processor().save_pretrained(folder)
    (folder / RECORD).write_text(json.dumps(record(name)))
