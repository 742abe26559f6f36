"""The grid that figures round activations with: symmetric, a scale for each token, clipped to a share of its range."""

from rotviz.errors import BadInput
from rotviz.types import QuantSpec

CLIP_WORDS = "share of a token's range that the grid covers, or mse (searched)"


def grid(bits: int, clip: str) -> QuantSpec:
    """A symmetric grid by token.

    Raises:
        BadInput: the clip is neither a ratio nor mse.
    """
    try:
        return QuantSpec(bits, True, clip=clip if clip in ("mse", "none") else float(clip))
    except ValueError as error:
        raise BadInput(f"clip = {clip!r} is unknown; use none, mse or a ratio above 0 and up to 1") from error
