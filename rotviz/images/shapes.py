"""Shapes drawn by a seed: ten classes on textured grounds, for a vision model that needs no download.

A pixel at (x, y) in [-1, 1]^2 belongs to the shape where an inequality in the shape's own coordinates holds,

    (u, v) = turn(angle) (x - cx, y - cy) / radius           disc: u^2 + v^2 < 1     square: max(|u|, |v|) < 0.85     diamond: |u| + |v| < 1.1     ...

Ground and shape are each a color with stripes of some wave and direction over it, and every pixel gets noise. Place, radius (0.55 to 0.85), angle
(up to 0.2 either way, so that a plus stays a plus), colors and stripes are drawn for each image. The shape is the brighter of the two, which a
small transformer learns in seconds; where the two are near each other an image is hard.

Everything comes from numpy's PCG64 seeded by (version, split, draw), image after image: the first n images are the same however many are drawn. The
splits share no image.
"""

from collections.abc import Callable

import numpy as np

from rotviz.images.source import IMAGES

VERSION = 1  # raise it when the same seed gives other images
NOISE = 0.08      # standard deviation
REACH = 0.12      # of the center from the middle
SPREAD = 0.45     # of the colors: a ground has 0.05 to 0.5 in each channel, a shape 0.5 to 0.95
STRIPES = 0.1     # amplitude
CHUNK = 256

Field = np.ndarray
SHAPES: dict[str, Callable[[Field, Field], Field]] = {
    "disc": lambda u, v: u * u + v * v < 1,
    "ring": lambda u, v: abs(u * u + v * v - 0.65) < 0.35,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) < 0.85,
    "frame": lambda u, v: abs(np.maximum(abs(u), abs(v)) - 0.7) < 0.2,
    "diamond": lambda u, v: abs(u) + abs(v) < 1.1,
    "triangle": lambda u, v: (v < 0.75) & (abs(u) < 0.58 * (v + 0.95)),
    "plus": lambda u, v: (np.minimum(abs(u), abs(v)) < 0.28) & (np.maximum(abs(u), abs(v)) < 1),
    "saltire": lambda u, v: (np.minimum(abs(u + v), abs(u - v)) < 0.4) & (np.maximum(abs(u), abs(v)) < 0.75),
    "bar": lambda u, v: (abs(v) < 0.32) & (abs(u) < 1),
    "pillar": lambda u, v: (abs(u) < 0.32) & (abs(v) < 1),
}
CLASSES = tuple(SHAPES)

_CLASS, _CX, _CY, _RADIUS, _ANGLE, _GROUND, _SHAPE, _STRIPES = 0, 1, 2, 3, 4, slice(5, 8), slice(8, 11), slice(11, 17)
_NUMBERS = 17


@IMAGES.register("shapes")
class Shapes:
    """Three splits that share no image: to train, to calibrate and to report on."""

    splits = ("train", "validation", "test")
    default_split = "test"
    words = f"ten shapes drawn by rotviz, version {VERSION}"

    def read(self, split: str, count: int, size: int, draw: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """Images [count, size, size, 3] uint8 and their classes."""
        pixels, labels = draw_shapes(count, size, (self.splits.index(split), draw))
        return pixels, tuple(CLASSES[label] for label in labels)


def draw_shapes(count: int, size: int, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Images [count, size, size, 3] uint8 and the indices [count] of their classes."""
    numbers = np.random.default_rng([VERSION, *seed, 0]).random((count, _NUMBERS))
    noise = np.random.default_rng([VERSION, *seed, 1])
    labels = (numbers[:, _CLASS] * len(CLASSES)).astype(np.int64)
    parts = [_painted(numbers[i:i + CHUNK], labels[i:i + CHUNK], size, noise) for i in range(0, count, CHUNK)]
    return np.concatenate(parts), labels


def _painted(numbers: np.ndarray, labels: np.ndarray, size: int, noise: np.random.Generator) -> np.ndarray:
    line = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    x, y = np.broadcast_arrays(line[None, None, :], line[None, :, None])
    inside = _inside(numbers.astype(np.float32), labels, x, y)[..., None]
    ground = _textured(0.05 + SPREAD * numbers[:, _GROUND], numbers[:, _STRIPES][:, :3], x, y)
    shape = _textured(0.95 - SPREAD * numbers[:, _SHAPE], numbers[:, _STRIPES][:, 3:], x, y)
    painted = np.where(inside, shape, ground) + NOISE * noise.standard_normal((len(numbers), size, size, 3), dtype=np.float32)
    return (255 * painted.clip(0, 1)).round().astype(np.uint8)


def _inside(numbers: np.ndarray, labels: np.ndarray, x: Field, y: Field) -> np.ndarray:
    """Where the shapes are, bool [N, size, size]."""
    place = [numbers[:, column, None, None] for column in (_CX, _CY, _RADIUS, _ANGLE)]
    cx, cy, radius, angle = REACH * (2 * place[0] - 1), REACH * (2 * place[1] - 1), 0.55 + 0.3 * place[2], 0.4 * place[3] - 0.2
    cosine, sine = np.cos(angle), np.sin(angle)
    u, v = (cosine * (x - cx) + sine * (y - cy)) / radius, (cosine * (y - cy) - sine * (x - cx)) / radius
    inside = np.zeros(u.shape, dtype=bool)
    for label, name in enumerate(CLASSES):
        of_class = labels == label
        inside[of_class] = SHAPES[name](u[of_class], v[of_class])
    return inside


def _textured(color: np.ndarray, stripes: np.ndarray, x: Field, y: Field) -> np.ndarray:
    """A color with stripes over it, [N, size, size, 3]."""
    wave, direction, phase = (stripes[:, i, None, None].astype(np.float32) for i in range(3))
    turned = np.cos(np.pi * direction) * x + np.sin(np.pi * direction) * y
    pattern = STRIPES * np.sin((4 + 16 * wave) * turned + 2 * np.pi * phase)
    return color.astype(np.float32)[:, None, None, :] + pattern[..., None]
