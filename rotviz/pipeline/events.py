"""What a run says while it goes: plain values that a progress bar, a live chart and a log line all read."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """One piece of news.

    Attributes:
        stage: load, text (or images), learn, prove, weigh, weights (inside a block), ablate (single units), walk (a block done) or score.
        block, blocks: which block is done, of how many; None outside the walk.
        fraction: share of the whole run that is done, 0 to 1.
        message: the news in words.
        metrics: numbers by name, such as "accumulated" (relative MSE of the residual stream so far).
        seconds: since the run began.
    """

    stage: str
    block: int | None
    blocks: int | None
    fraction: float
    message: str
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Event":
        """From plain values."""
        return cls(**plain)
