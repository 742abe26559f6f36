"""Making arrays small enough to send, without losing a spike.

A browser chart is at most about 2 MB, a hidden state of 2,048 tokens is 64 MB. So maps are pooled by their *maximum* (a mean would
turn 23,700 into 90) and lines keep the smallest and the largest point of every bucket. Numbers that are not finite become NaN,
are counted, and are skipped by the pooling.
"""

import math
from dataclasses import dataclass

import numpy as np

from rotviz.errors import BadInput

ROWS, COLUMNS, LINE_POINTS = 256, 288, 2000
_BIG = 1e30  # float32 has room for it and for its pooled sums


def cleaned(values: np.ndarray, dimensions: int, what: str = "values") -> tuple[np.ndarray, int]:
    """A float copy with NaN for what is not finite, and how many those are.

    Raises:
        BadInput: when the array has another number of dimensions.
    """
    array = np.array(values, dtype=np.float32 if np.size(values) > 100_000 else np.float64)
    if array.ndim != dimensions:
        raise BadInput(f"{what}: an array of {dimensions} dimension{'s' * (dimensions > 1)} is needed, not of shape {array.shape}")
    bad = ~np.isfinite(array)
    lost = int(bad.sum())
    if lost:
        array[bad] = np.nan
    if array.size:
        np.clip(array, -_BIG, _BIG, out=array)
    return array, lost


def note_lost(lost: int, what: str = "value") -> str:
    """The sentence for numbers that were left out; empty when there are none."""
    return f"{lost:,} {what}{' is' if lost == 1 else 's are'} not finite and left out." if lost else ""


@dataclass(frozen=True)
class Bins:
    """Neighbours merged into bins of equal width (the last may be narrower)."""

    size: int
    width: int

    @classmethod
    def up_to(cls, size: int, limit: int) -> "Bins":
        """The narrowest bins of which there are at most `limit`."""
        return cls(size, max(1, math.ceil(size / limit)))

    @property
    def starts(self) -> np.ndarray:
        return np.arange(0, self.size, self.width)

    def label(self, i: int) -> str:
        """`504`, or `504–507` when the bin holds several."""
        first, last = i * self.width, min((i + 1) * self.width, self.size) - 1
        return str(first) if first == last else f"{first}–{last}"


def max_pool(values: np.ndarray, rows: int = ROWS, columns: int = COLUMNS) -> tuple[np.ndarray, Bins, Bins]:
    """The largest number of every cell of a [rows, columns] array; NaN where a cell has none. Float32."""
    by_row, by_column = Bins.up_to(values.shape[0], rows), Bins.up_to(values.shape[1], columns)
    pooled = np.fmax.reduceat(values, by_column.starts, axis=1) if by_column.width > 1 else values
    pooled = np.fmax.reduceat(pooled, by_row.starts, axis=0) if by_row.width > 1 else pooled
    return np.ascontiguousarray(pooled, dtype=np.float32), by_row, by_column


def peak_positions(values: np.ndarray, limit: int) -> np.ndarray:
    """For each row of [N, D], the index of the largest number in each of at most `limit` bins: [N, bins]."""
    n, size = values.shape
    bins = Bins.up_to(size, limit)
    total = len(bins.starts) * bins.width
    padded = np.full((n, total), -np.inf, dtype=values.dtype)
    padded[:, :size] = np.where(np.isnan(values), -np.inf, values)
    return padded.reshape(n, -1, bins.width).argmax(axis=2) + bins.starts


def thinned(values: np.ndarray, limit: int = LINE_POINTS) -> np.ndarray:
    """The indices to draw of a line: all when few, else the ends and the smallest and largest of every bucket, in order."""
    size = len(values)
    if size <= limit:
        return np.arange(size)
    low, high = np.where(np.isnan(values), np.inf, values), np.where(np.isnan(values), -np.inf, values)
    keep = {0, size - 1}
    for bucket in np.array_split(np.arange(size), (limit - 2) // 2):
        keep.add(int(bucket[low[bucket].argmin()]))
        keep.add(int(bucket[high[bucket].argmax()]))
    return np.array(sorted(keep))


def largest(values: np.ndarray, top: int) -> list[tuple[int, ...]]:
    """The index tuples of the `top` largest numbers, largest first; NaN never."""
    flat = np.where(np.isnan(values), -np.inf, values).ravel()
    top = min(top, flat.size)
    if top == 0:
        return []
    found = np.argpartition(flat, flat.size - top)[flat.size - top :]
    found = found[np.argsort(-flat[found], kind="stable")]
    return [tuple(int(i) for i in np.unravel_index(int(f), values.shape)) for f in found if flat[f] > -np.inf]
