"""Images that somebody brings: a folder of files, or a folder with one folder for each class.

    pictures/a.png, pictures/b.jpg               no classes
    pictures/cat/a.png, pictures/dog/b.jpg       the folders' names are the classes

With classes, the first n images go round the classes (one of each, then the next of each), so that a few images do not all come from one. Files are
taken in the order of their names; a draw takes a random n of them.
"""

import random
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

from rotviz.errors import BadImages

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def read_folder(folder: Path, count: int, draw: int | None) -> tuple[list[np.ndarray], tuple[str, ...] | None]:
    """Images [H, W, 3] uint8 and their classes, None where there are no folders for classes.

    Args:
        folder: where they are.
        count: how many; 0 = all.
        draw: chooses them at random; None = the first.

    Raises:
        BadImages: fewer images than that, images both in the folder and in class folders, or one that cannot be read.
    """
    files, classified = _files(folder)
    if len(files) < max(count, 1):
        raise BadImages(f"{folder} holds {len(files)} images ({', '.join(SUFFIXES)}) where {max(count, 1)} are asked for; add some, or ask for fewer")
    if draw is not None:
        files = random.Random(draw).sample(files, count or len(files))
    files = files[:count] if count else files
    return [_pixels(file) for file in files], tuple(file.parent.name for file in files) if classified else None


def _files(folder: Path) -> tuple[list[Path], bool]:
    loose = _images_in(folder)
    by_class = [found for sub in sorted(p for p in folder.iterdir() if p.is_dir()) if (found := _images_in(sub))]
    if loose and by_class:
        raise BadImages(f"{folder} holds images of its own and folders with images; put every image into the folder of its class, or all into one")
    if loose:
        return loose, False
    return [file for file in chain.from_iterable(zip_longest(*by_class)) if file is not None], True


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


def _pixels(file: Path) -> np.ndarray:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise BadImages("reading image files takes the package pillow: pip install pillow; or use shapes, which are drawn") from error
    try:
        with Image.open(file) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))  # a camera's picture may lie on its side
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadImages(f"{file} cannot be read as an image ({error}); remove it or save it again") from error
