"""The vocabulary: sites, slots, roles and how a tensor is quantized. Plain values, no torch.

    residual stream --norm--> attn_in -> q,k,v -> (RoPE) key, value -> attention -> o_in -> o -> + residual
                    --norm--> mlp_in  -> gate,up -> act(gate)*up    -> down_in  -> down   -> + residual = resid of the block

Slots (SpinQuant's names): R1 turns the residual stream (folded into weights), R2 the head between value and output projection
(folded), R3 queries and keys after RoPE (online), R4 the input of the down projection (online).
"""

from dataclasses import dataclass
from enum import StrEnum

from rotviz.config import setting
from rotviz.errors import BadInput, unknown


class Site(StrEnum):
    """A tensor that enters a linear layer or the KV cache; RESID is the residual stream after the block."""

    ATTN_IN = "attn_in"
    O_IN = "o_in"
    MLP_IN = "mlp_in"
    DOWN_IN = "down_in"
    KEY = "key"
    VALUE = "value"
    RESID = "resid"


LINEAR_SITES = (Site.ATTN_IN, Site.O_IN, Site.MLP_IN, Site.DOWN_IN)
CACHE_SITES = (Site.KEY, Site.VALUE)
QUANTIZED_SITES = LINEAR_SITES + CACHE_SITES

CONTINUED = "\ufdd0"
"""The text of a token that only continues the character which the token before it began (a code point that no text holds)."""

SITE_WORDS = {
    Site.ATTN_IN: "attention input", Site.O_IN: "output projection input", Site.MLP_IN: "MLP input",
    Site.DOWN_IN: "down projection input", Site.KEY: "key (after RoPE)", Site.VALUE: "value", Site.RESID: "residual stream",
}


class Slot(StrEnum):
    """A place a rotation can act."""

    R1 = "R1"
    R2 = "R2"
    R3 = "R3"
    R4 = "R4"


SLOT_WORDS = {
    Slot.R1: "residual stream, folded into the weights", Slot.R2: "value heads, folded into the weights",
    Slot.R3: "queries and keys after RoPE, online", Slot.R4: "down projection input, online",
}
SLOT_OF_SITE = {Site.ATTN_IN: Slot.R1, Site.MLP_IN: Slot.R1, Site.RESID: Slot.R1, Site.O_IN: Slot.R2, Site.VALUE: Slot.R2,
                Site.KEY: Slot.R3, Site.DOWN_IN: Slot.R4}


class Role(StrEnum):
    """What a linear layer does in its block."""

    Q = "q"
    K = "k"
    V = "v"
    O = "o"  # noqa: E741 - the field's letter
    GATE = "gate"
    UP = "up"
    DOWN = "down"
    ROUTER = "router"


SITE_OF_ROLE = {Role.Q: Site.ATTN_IN, Role.K: Site.ATTN_IN, Role.V: Site.ATTN_IN, Role.O: Site.O_IN,
                Role.GATE: Site.MLP_IN, Role.UP: Site.MLP_IN, Role.DOWN: Site.DOWN_IN}
"""The site each quantized linear reads. The router is left out: it stays in float (METHODS.md 16.22)."""


class Modality(StrEnum):
    """What a model reads."""

    TEXT = "text"
    IMAGE = "image"


class Granularity(StrEnum):
    """Which numbers share one scale."""

    TOKEN = "token"      # activations: all channels of a token
    CHANNEL = "channel"  # weights: all inputs of an output channel
    GROUP = "group"      # `group` neighbours on the last axis
    HEAD = "head"        # KV cache: one head of one token


FLOAT_BITS = 16
BITS = (2, 3, 4, 5, 6, 7, 8, FLOAT_BITS)


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """What a number format allows: bits, grids that are symmetric about zero or not, and the size of its own blocks (0 = the spec's group)."""

    bits: tuple[int, ...]
    asymmetric: bool = False
    block: int = 0
    words: str = ""
    symmetric: bool = True


FORMATS = {
    "int": NumberFormat(BITS[:-1], asymmetric=True, words="evenly spaced levels"),
    "int_min": NumberFormat(BITS[:-1], asymmetric=True, symmetric=False,
                            words="evenly spaced levels from the smallest number up, which is kept as it is (GGUF's Q4_1)"),
    "power": NumberFormat(BITS[:-1], words="levels at powers of even steps, finer near zero where the exponent is below one"),
    "fp8": NumberFormat((8,), words="E4M3 floating point, a float32 scale for each row or group"),
    "fp4": NumberFormat((4,), words="E2M1 floating point, a float32 scale for each row or group"),
    "mxfp4": NumberFormat((4,), block=32, words="E2M1, a power of two for each 32 numbers (OCP MX)"),
    "nvfp4": NumberFormat((4,), block=16, words="E2M1, an E4M3 scale for each 16 numbers and a float32 one for the tensor (NVIDIA)"),
}
"""Number formats by name; their grids are in rotviz.numerics.grids."""


@dataclass(frozen=True, slots=True)
class QuantSpec:
    """How a tensor is quantized along its last axis. `bits=16` means left in float.

    clip is a ratio of the range in (0, 1], or "mse" (the ratio that minimizes sum |x - Q(x)|^2.4, searched), or "none" (= 1).
    """

    bits: int = setting(FLOAT_BITS, "bits a number; 16 = float", choices=BITS)
    symmetric: bool = setting(True, "a grid symmetric about zero; otherwise from the smallest to the largest value")
    granularity: Granularity = setting(Granularity.TOKEN, "which numbers share one scale")
    group: int = setting(0, "numbers that share one scale; 0 = the whole axis", minimum=0)
    clip: float | str = setting(1.0, "none, mse, or the share of the range that is kept")
    number_format: str = setting("int", "which grid", choices=tuple(FORMATS))

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise BadInput(f"bits = {self.bits} has no grid; choose 2 to 8, or 16 for float")
        if self.group < 0:
            raise BadInput(f"group = {self.group}: a group has at least one number; 0 means the whole axis")
        check_clip(self.clip)
        self._check_format()

    def _check_format(self) -> None:
        if self.number_format not in FORMATS:
            raise unknown("number format", self.number_format, FORMATS)
        known = FORMATS[self.number_format]
        if not self.quantizes:
            return
        if self.bits not in known.bits:
            raise BadInput(f"the number format {self.number_format} has {' or '.join(map(str, known.bits))} bits, not {self.bits}")
        if not self.symmetric and not known.asymmetric:
            raise BadInput(f"the number format {self.number_format} is symmetric about zero: set symmetric = true, or choose int")
        if self.symmetric and not known.symmetric:
            raise BadInput(f"the number format {self.number_format} begins at the smallest number: set symmetric = false, or choose int")
        if known.block and self.group not in (0, known.block):
            raise BadInput(f"the number format {self.number_format} has blocks of its own, of {known.block}: leave group at 0")
        if self.number_format == "nvfp4" and self.clip == "mse" and self.granularity in (Granularity.TOKEN, Granularity.HEAD):
            raise BadInput("clip = mse with nvfp4 is for weights: a token's scales depend on each other, so give a ratio or none")

    @property
    def quantizes(self) -> bool:
        """Whether anything is rounded at all."""
        return self.bits < FLOAT_BITS

    def group_for(self, width: int) -> int:
        """The group size for an axis of `width` numbers.

        Raises:
            BadInput: when the group does not divide the width.
        """
        block = FORMATS[self.number_format].block
        group = self.group or block or width
        if width % group and block:
            raise BadInput(f"the blocks of {self.number_format}, of {block}, do not divide the width {width}; use another format, such as int or fp4")
        if width % group:
            fitting = [d for d in (16, 32, 48, 64, 96, 128, 192, 256) if width % d == 0]
            raise BadInput(f"group {group} does not divide the width {width}; these do: {', '.join(map(str, fitting)) or width}, or 0 for all")
        return group


def check_clip(clip: str | float) -> None:
    """Raises BadInput unless clip is "none", "mse" or a ratio in (0, 1]."""
    if isinstance(clip, str):
        if clip not in ("none", "mse"):
            raise BadInput(f"clip = {clip!r} is unknown; use none, mse or a ratio above 0 and up to 1")
    elif not 0 < clip <= 1:
        raise BadInput(f"clip = {clip} is out of range; use none, mse or a ratio above 0 and up to 1")
