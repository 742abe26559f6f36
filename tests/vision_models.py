"""A vision model for tests that learned something in few seconds: the named one's training cut short, as a folder."""

from pathlib import Path

from rotviz.models.tiny_vision import new_processor
from rotviz.models.trained import TRAINED, shortened, train

STEPS = 120


def save_short_training(folder: Path, steps: int = STEPS) -> Path:
    """Train and save as save_pretrained does."""
    train(shortened(TRAINED["tiny-vit-trained"], steps)).save_pretrained(folder)
    new_processor().save_pretrained(folder)
    return folder
