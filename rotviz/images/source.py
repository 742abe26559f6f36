"""Image sets by name, and what comes out of them.

    @IMAGES.register("myset")
    class MySet:
        splits, default_split, words = ("test",), "test", "where they come from"

        def read(self, split: str, count: int, size: int, draw: int) -> ImageSet: ...

Evaluation takes the first images of a source, in an order of its own; calibration takes others by the recipe's seed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from rotviz.errors import BadImages, BadInput, unknown
from rotviz.images.folder import read_folder
from rotviz.registry import Registry

EVALUATION = 0
"""The draw that evaluation sees; calibration's are from 1 on."""


@dataclass(frozen=True)
class ImageSet:
    """Images of one source.

    Attributes:
        pixels: uint8 [H, W, 3] each, RGB; they may differ in size.
        classes: the class of each by name, None where the source does not say.
        words: source, split and count, for the protocol.
    """

    pixels: tuple[np.ndarray, ...]
    classes: tuple[str, ...] | None
    words: str


class DrawnSet(Protocol):
    """What a registered class offers."""

    splits: tuple[str, ...]
    default_split: str
    words: str

    def read(self, split: str, count: int, size: int, draw: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """So many images [count, size, size, 3] of a split and their classes; another `draw`, other images."""
        ...


IMAGES: Registry[type[DrawnSet]] = Registry("image set", package="rotviz.images")


class Source(NamedTuple):
    """A source taken apart: a set and its split, or a folder."""

    name: str | None
    split: str | None
    folder: Path | None


def parse_images(source: str) -> Source:
    """A source taken apart, without reading it.

    Raises:
        UnknownName: a bare word that is neither a set nor a folder, or a split that the set lacks.
        BadImages: an empty name, or a path to no folder.
    """
    source = source.strip()
    name, colon, split = source.partition(":")
    if name in IMAGES:
        if colon and split not in IMAGES[name].splits:
            raise unknown(f"split of {name}:", split, IMAGES[name].splits)
        return Source(name, split or IMAGES[name].default_split, None)
    folder = Path(source).expanduser()
    if source and folder.is_dir():
        return Source(None, None, folder)
    if not source or "/" in source or "\\" in source or folder.exists():
        raise BadImages(f"there is no folder of images {source!r}; give the path of a folder with PNG or JPEG files (perhaps in a folder for "
                        f"each class), or use {', '.join(IMAGES)}, which need no files")
    raise unknown("image set", source, [*IMAGES, "a path to a folder of images"])


def evaluation_images(source: str, count: int, size: int) -> ImageSet:
    """The first images of a source; 0 = all that a folder holds.

    Args:
        source: such as "shapes:test", or a folder.
        count: how many.
        size: pixels on each side, for sets that are drawn; a folder's images keep their own.

    Raises:
        UnknownName, BadImages: there is no such source, or it has fewer images.
    """
    return _read(source, count, size, EVALUATION)


def calibration_images(source: str, count: int, size: int, seed: int) -> ImageSet:
    """Images by a seed; the same seed gives the same ones."""
    if count < 1:
        raise BadInput(f"{count} calibration images: a method learns from at least one")
    return _read(source, count, size, seed + 1)


def _read(source: str, count: int, size: int, draw: int) -> ImageSet:
    parsed = parse_images(source)
    which = f"first {count}" if draw == EVALUATION else f"{count} by seed {draw - 1}"
    if parsed.folder is not None:
        pixels, classes = read_folder(parsed.folder, count, None if draw == EVALUATION else draw)
        which = which if count else f"all {len(pixels)}"
        return ImageSet(tuple(pixels), classes, f"folder {parsed.folder.name}, {which} images")
    if not count:
        raise BadImages(f"{source} is drawn without end: say how many images (images.count)")
    drawn = IMAGES[parsed.name]
    pixels, classes = drawn().read(parsed.split, count, size, draw)
    return ImageSet(tuple(pixels), classes, f"{parsed.name} {parsed.split} ({drawn.words}), {which} images of {size} x {size}")
