"""Named lines: one array or a mapping from names to arrays, cleaned; and the table and words that go with lines over the blocks."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from rotviz.plots.pool import cleaned
from rotviz.plots.words import number

Series = dict[str, np.ndarray]


def named_series(values: np.ndarray | Sequence[float] | Mapping[str, np.ndarray], name: str) -> tuple[Series, int]:
    """The series by name, with NaN for what is not finite, and how many such numbers there were."""
    mapping = values if isinstance(values, Mapping) else {name: np.asarray(values)}
    found, lost = {}, 0
    for key, array in mapping.items():
        found[str(key)], bad = cleaned(array, 1, str(key))
        lost += bad
    return found, lost


def any_number(series: Series) -> bool:
    """Whether there is something to draw."""
    return any(np.isfinite(v).any() for v in series.values())


def table_by(index_name: str, series: Series) -> pd.DataFrame:
    """A row for each index, a column for each series; shorter series end in blanks."""
    longest = max((len(v) for v in series.values()), default=0)
    columns = {name: np.append(v, np.full(longest - len(v), np.nan)) for name, v in series.items()}
    return pd.DataFrame({index_name: np.arange(longest), **columns})


def peaks_in_words(series: Series, place: str, most: int = 4) -> str:
    """`hadamard peaks at 0.31 in block 3; ...` for the first few series that have a number."""
    parts = []
    for name, values in series.items():
        if np.isfinite(values).any():
            i = int(np.nanargmax(values))
            parts.append(f"{name} is largest, {number(values[i])}, at {place} {i}")
    rest = f"; and {len(parts) - most} more" if len(parts) > most else ""
    return "; ".join(parts[:most]) + rest
