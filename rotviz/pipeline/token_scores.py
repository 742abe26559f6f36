"""What every scored token cost, beside the result: `tokens.safetensors` in the run's folder.

    tokens      int32   [N, L]      the evaluation windows; a window's first token is read and not scored
    reference   float32 [N, L - 1]  -log p(token | the tokens before it in its window) of the float model, in nats
    quantized   float32 [N, L - 1]  the same of the quantized model; `perplexity` in result.json is exp of its mean
    kl          float32 [N, L - 1]  KL divergence between the two distributions, in nats
    same_top    uint8   [N, L - 1]  1 where both put the same token first
    massive     uint8   [N, L]      at the input of how many blocks the float model's token holds a number beyond 1000 times the median

The header has the text of every token that occurs (so that nobody needs the tokenizer again) and in how many windows massive tokens were looked for:
all, or the first batch where an older version kept the float model's stream without them. 17 bytes a token; no torch is needed to read it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rotviz.errors import BadInput
from rotviz.home import write_atomically

FILE = "tokens.safetensors"
ARRAYS = ("tokens", "reference", "quantized", "kl", "same_top", "massive")
MASSIVE_BLOCKS = 3
"""A token is called massive when it is at the input of so many blocks, or of all in a shallower model."""


@dataclass(frozen=True)
class TokenScores:
    """The arrays of the file; N windows of L tokens.

    Attributes:
        texts: the text of each token that occurs, by its id.
        massive_windows: in how many of the windows massive tokens were looked for.
        blocks: of the model.
    """

    tokens: np.ndarray
    reference: np.ndarray
    quantized: np.ndarray
    kl: np.ndarray
    same_top: np.ndarray
    massive: np.ndarray
    texts: dict[int, str]
    massive_windows: int
    blocks: int

    @property
    def loss_difference(self) -> np.ndarray:
        """What the quantized model loses on each token over the float model, nats [N, L - 1]."""
        return self.quantized - self.reference

    @property
    def is_massive(self) -> np.ndarray:
        """bool [N, L]."""
        return self.massive >= min(MASSIVE_BLOCKS, self.blocks)

    def text(self, window: int, position: int) -> str:
        """The text of one token."""
        return self.texts[int(self.tokens[window, position])]


def save_token_scores(path: Path, scores: TokenScores) -> None:
    """Write the file, whole or not at all.

    Raises:
        OutOfRoom: the disk is full.
    """
    arrays = {name: np.ascontiguousarray(getattr(scores, name)) for name in ARRAYS}
    header = {"texts": json.dumps({str(i): text for i, text in scores.texts.items()}), "massive_windows": str(scores.massive_windows),
              "blocks": str(scores.blocks)}
    write_atomically(path, lambda target: save_file(arrays, target, metadata=header))


def load_token_scores(path: Path) -> TokenScores:
    """Read it.

    Raises:
        BadInput: it is not there (the run is older than these files), or not readable.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in ARRAYS}
        texts = {int(i): text for i, text in json.loads(header["texts"]).items()}
        return TokenScores(**arrays, texts=texts, massive_windows=int(header["massive_windows"]), blocks=int(header["blocks"]))
    except FileNotFoundError as error:
        raise BadInput(f"there are no scores by token at {path}: the run is older than they are; run its recipe again to have them") from error
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise BadInput(f"cannot read {path} ({error}); run the recipe beside it again") from error


def texts_of(tokens: np.ndarray, decode: Callable[[list[int]], str]) -> dict[int, str]:
    """The text of each token that occurs, each decoded by itself; `decode` is the tokenizer's."""
    return {int(i): decode([int(i)]) for i in np.unique(tokens)}


def same_tokens(scores: list[TokenScores]) -> bool:
    """Whether runs scored the same tokens in the same windows, so that they may be compared one by one."""
    return all(np.array_equal(one.tokens, scores[0].tokens) for one in scores[1:])
