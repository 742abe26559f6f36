"""How long runs will take, from what finished runs of their kind took on this machine. Without one, nothing is promised."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rotviz.models.loading import modality_of
from rotviz.pipeline.recipe import Recipe
from rotviz.reports.runs import classifies, dig, duration
from rotviz.rotations import ROTATIONS, learns
from rotviz.store.runs import RunRecord, Status, Store
from rotviz.types import FLOAT_BITS, Modality
from rotviz.ui.words import capital

TEXT_STAGES = ("walk", "score", "ablate", "checkpoint")


@dataclass(frozen=True, slots=True)
class Pace:
    """What finished runs of a kind took: `once` seconds whatever the text, and the rest for a text of `tokens`.

    How much of the rest grows with the text is known from two runs of different length (`per_token`); else it is None, and the
    truth lies between all and nothing.
    """

    once: float
    rest: float
    tokens: int
    per_token: float | None
    run_id: str

    def seconds(self, tokens: int) -> tuple[float, float]:
        """The least and the most that a run of so many tokens should take."""
        if self.per_token is not None:
            guess = self.once + max(self.rest + self.per_token * (tokens - self.tokens), 0.0)
            return guess, guess
        ends = self.once + self.rest, self.once + self.rest * tokens / self.tokens
        return min(ends), max(ends)


def pace(recipe: Recipe) -> Pace | None:
    """The pace of the newest finished runs of the recipe's kind on this machine; None before there is one."""
    kind, found = _kind(recipe.to_dict()), []
    for record in Store().list(status=Status.DONE, model=recipe.model, limit=200):
        tokens, stages = _tokens_fed(record), dig(record.result, "seconds")
        if tokens and stages and _kind(record.recipe) == kind and not _reused(record):
            rest = sum(stages.get(stage, 0.0) for stage in TEXT_STAGES)
            found.append(Pace(sum(stages.values()) - rest, rest, tokens, None, record.run_id))
    if not found:
        return None
    newest = found[0]
    other = next((p for p in found if not 0.75 < p.tokens / newest.tokens < 1.33), None)
    slope = max((newest.rest - other.rest) / (newest.tokens - other.tokens), 0.0) if other else None
    return replace(newest, per_token=slope)


def estimate(recipes: Sequence[Recipe]) -> str:
    """How long these recipes will take one after the other, in words that say what is known and what is not."""
    low = high = 0.0
    paces: dict[str, Pace | None] = {}
    unknown = 0
    for recipe in recipes:
        kind = repr(_kind(recipe.to_dict()))
        if kind not in paces:
            paces[kind] = pace(recipe)
        fed = _wanted(recipe)
        if paces[kind] is None or not fed:
            unknown += 1
            continue
        ends = paces[kind].seconds(fed)
        low, high = low + ends[0], high + ends[1]
    if unknown == len(recipes):
        return "time not measured yet on this machine"
    about = f"about {duration(high)}" if high < 1.1 * low + 1 else f"{duration(low)} to {duration(high)}"
    return f"{about}{f' and {unknown} of a kind not measured yet' if unknown else ''}"


def sentence(recipes: Sequence[Recipe]) -> str:
    """The estimate as a sentence."""
    return f"{capital(estimate(recipes))}."


def _wanted(recipe: Recipe) -> int:
    """Tokens, or images, that a recipe will feed; 0 = all that there are, which is not known before."""
    if modality_of(recipe.model) is Modality.IMAGE:
        return recipe.images.count
    return recipe.text.windows * recipe.text.length


def _kind(recipe: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a run's time depends on, apart from its text."""
    weights = recipe.get("weights", {})
    quantized = weights.get("method") != "none" and weights.get("bits") != FLOAT_BITS
    work = (weights.get("method"), str(weights.get("clip")), weights.get("group"), repr(weights.get(weights.get("method"))))
    return recipe.get("device"), recipe.get("dtype"), _rotation_work(recipe), work if quantized else None, repr(recipe.get("ablation"))


def _rotation_work(recipe: Mapping[str, Any]) -> Any:
    """Whether something is rotated, and where it is learned, all that says how long that takes."""
    method = dig(recipe, "rotation", "method")
    if dig(recipe, "rotation", "load") or method not in ROTATIONS or not learns(ROTATIONS[method]):
        return method != "none"
    return method, repr(dig(recipe, "rotation", method)), dig(recipe, "text", "samples"), dig(recipe, "text", "length")


def _reused(record: RunRecord) -> bool:
    """Whether a run found what an earlier one had learned, so that its time says nothing about learning."""
    return bool(dig(record.result, "learning", "reused")) and not dig(record.recipe, "rotation", "load")


def _tokens_fed(record: RunRecord) -> int:
    """Tokens that went through the model: one in each window is fed and not scored. Of a classifier the images."""
    if classifies(record):
        return int(dig(record.result, "classification", "images"))
    scored, length = dig(record.result, "perplexity", "quantized", "tokens"), dig(record.recipe, "text", "length")
    return round(scored * length / (length - 1)) if scored and length and length > 1 else 0
