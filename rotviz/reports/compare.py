"""Finished runs against each other: what their differences do, and what each token cost them.

The effect of a difference is taken from pairs of stored runs of one measure (pipeline/effects.py), the losses by token from the files beside the
results (pipeline/token_scores.py).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rotviz.errors import BadInput
from rotviz.pipeline.effects import Change, Effect, ranked
from rotviz.pipeline.token_scores import FILE, TokenScores, load_token_scores, same_tokens
from rotviz.reports.runs import dig, measure_of
from rotviz.store.runs import RunRecord, Status, Store

READ = 2000
"""The newest runs among which pairs are looked for."""
LARGEST = 10


def effects_of(store: Store, records: Sequence[RunRecord]) -> list[tuple[Change, Effect]]:
    """Every difference of some runs from the first of them with its effect on log perplexity, from pairs of all stored runs of the first
    finished one's measure; the largest first."""
    measure = next((m for m in map(measure_of, records) if m is not None), None)
    stored = store.list(status=Status.DONE, model=measure.model, limit=READ) if measure else []
    runs = [(r.recipe, _log(dig(r.result, "perplexity", "quantized", "value"))) for r in stored if measure_of(r) == measure]
    return ranked([r.recipe for r in records], runs)


def effect_words(change: Change, effect: Effect) -> str:
    """The effect of a change as a factor on perplexity, or why it has none."""
    if change.measures:
        return "changes what is measured: perplexities cannot be compared across it"
    if not effect.pairs:
        return "not known: no two runs differ in this alone"
    span = "; one pair, so no interval" if effect.pairs == 1 else f" ({_factor(effect.low)} to {_factor(effect.high)})"
    return f"× {_factor(effect.mean)}{span}"


def token_scores(store: Store, record: RunRecord) -> TokenScores:
    """What every token cost a finished run.

    Raises:
        BadInput: the run is older than these files, or the file cannot be read.
    """
    return load_token_scores(store.folder(record.run_id) / FILE)


def token_summary(scores: Sequence[TokenScores | None]) -> dict[str, Any]:
    """Losses by token in a few numbers, for --json: for each run in order its losses over the float model in nats, or null where it has none, and
    whether all scored the same tokens."""
    known = [one for one in scores if one is not None]
    return {"same_tokens": len(known) == len(scores) and same_tokens(known), "runs": [None if one is None else _summary(one) for one in scores]}


def _summary(scores: TokenScores) -> dict[str, Any]:
    difference = scores.loss_difference.astype(np.float64)
    heavy = scores.is_massive[:, :-1]  # the token that is read when the next one is predicted
    order = np.argsort(-np.nan_to_num(difference, nan=-np.inf), axis=None)[:LARGEST]
    found = [(int(w), int(p)) for w, p in zip(*np.unravel_index(order, difference.shape))]
    return {
        "tokens": difference.size, "mean": _plain(difference.mean()), "median": _plain(np.median(difference)),
        "p99": _plain(np.quantile(difference, 0.99)), "worse_by_a_nat": _plain((difference > 1).mean()),
        "after_massive": _plain(difference[heavy].mean()) if heavy.any() else None,
        "after_ordinary": _plain(difference[~heavy].mean()) if (~heavy).any() else None,
        "largest": [{"window": w, "position": p + 1, "token": scores.text(w, p + 1), "loss": _plain(scores.quantized[w, p]),
                     "float_loss": _plain(scores.reference[w, p]), "difference": _plain(difference[w, p])} for w, p in found],
    }


def known_scores(store: Store, records: Sequence[RunRecord]) -> list[TokenScores | None]:
    """The scores of each run, None where there are none or the run is not finished."""
    found: list[TokenScores | None] = []
    for record in records:
        try:
            found.append(token_scores(store, record) if record.status is Status.DONE else None)
        except BadInput:
            found.append(None)
    return found


def _log(value: float | None) -> float:
    return math.log(value) if value else math.nan


def _factor(step: float) -> str:
    return f"{math.exp(min(step, 700)):.4g}"


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
