"""Token windows: what the model is calibrated on and what it is measured on.

Evaluation is GPTQ's protocol, the one behind the numbers in the papers: the whole text is tokenized once with the tokenizer's default
special tokens (so a <bos>, where the tokenizer adds one, stands at the very start only), cut into windows of L tokens that do not
overlap, the tail dropped; each window is fed alone and predicts its last L - 1 tokens.

    tokens [T] -> [T // L, L]

Calibration takes windows at random places, as GPTQ and QuaRot do: start = randint(0, T - L - 1).
"""

import hashlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from rotviz.errors import BadInput, BadText
from rotviz.texts.file import checked_text
from rotviz.texts.source import load_text, parse_source
from rotviz.types import CONTINUED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHORTEST = 2  # one token predicts nothing
CHARACTERS_PER_TOKEN = 64  # generous: no usual token is longer
BROKEN = "\ufffd"  # what a decoder shows of bytes that make no whole character
_TEXTS = 4
_TOKENIZED: "WeakKeyDictionary[PreTrainedTokenizerBase, dict[bytes, Tensor]]" = WeakKeyDictionary()
"""Tokens of the last texts of each tokenizer, by the text's hash: every run of a process reads the same."""
PIECES = 12  # tokens that are joined at most before their bytes are given up as broken


@dataclass(frozen=True)
class TextWindows:
    """Windows of one text.

    Attributes:
        source: what was asked for.
        tokens: [N, L] int64, on the CPU.
        protocol: how they were made, in words.
        total_tokens: T, of the whole text.
    """

    source: str
    tokens: Tensor
    protocol: str
    total_tokens: int


def tokenize(text: str, tokenizer: "PreTrainedTokenizerBase") -> Tensor:
    """The tokens [T] of a whole text, with the tokenizer's default special tokens once.

    Raises:
        BadText: the text is empty or blank.
    """
    known = _TOKENIZED.setdefault(tokenizer, {})
    mark = hashlib.blake2b(checked_text(text, "the text").encode()).digest()
    tokens = known.get(mark)
    if tokens is None:
        # verbose=False: a warning that the text is longer than the model's context is beside the point, it is cut afterwards
        tokens = known[mark] = torch.tensor(tokenizer(text, verbose=False)["input_ids"], dtype=torch.long)
        while len(known) > _TEXTS:
            known.pop(next(iter(known)), None)
    return tokens.clone()


def evaluation_windows(source: str, tokenizer: "PreTrainedTokenizerBase", length: int, windows: int) -> TextWindows:
    """The first windows of a text, not overlapping; 0 windows = all.

    Raises:
        BadText: the text has fewer tokens than that.
        BadInput: a length or a number that makes no window.
    """
    _check_counts(length, windows, "windows", least=0)
    tokens = _tokens_of(source, tokenizer, length * max(windows, 1), f"{windows or 1} window{'s' if windows > 1 else ''} of {length}")
    count = windows or len(tokens) // length
    cut = tokens[: count * length].view(count, length)
    protocol = _protocol(source, tokenizer, tokens, f"{'first ' if windows else 'all '}{count} x {length} tokens without overlap", length)
    return TextWindows(source, cut, protocol, len(tokens))


def calibration_windows(source: str, tokenizer: "PreTrainedTokenizerBase", length: int, samples: int, seed: int) -> TextWindows:
    """Windows at random places of a text; they may overlap. The same seed gives the same places.

    Raises:
        BadText: the text has fewer tokens than one window.
        BadInput: a length or a number that makes no window.
    """
    _check_counts(length, samples, "samples", least=1)
    tokens = _tokens_of(source, tokenizer, length, f"a window of {length}")
    rng = random.Random(seed)
    last = max(len(tokens) - length - 1, 0)  # GPTQ's bound, which leaves the very last window out
    starts = [rng.randint(0, last) for _ in range(samples)]
    cut = torch.stack([tokens[start : start + length] for start in starts])
    protocol = _protocol(source, tokenizer, tokens, f"{samples} x {length} tokens at random places (seed {seed})", length)
    return TextWindows(source, cut, protocol, len(tokens))


def prompt_tokens(text: str, tokenizer: "PreTrainedTokenizerBase", tokens: int, bos: bool = True) -> Tensor:
    """The first tokens of a text, for a look inside the model: [T] with 2 <= T <= tokens.

    Args:
        text: as long as you like; what is not needed is not tokenized.
        tokens: how many at most, special ones included.
        bos: with the special tokens that the tokenizer adds by default (many add none), as evaluation has them; False = none.

    Raises:
        BadText: fewer than two tokens.
        BadInput: fewer than two are asked for.
    """
    _check_counts(tokens, 1, "tokens", least=1)
    text = checked_text(text, "the prompt")
    # A cut in the middle of a word changes the last tokens only, and those are not kept.
    part = text[: max(tokens * CHARACTERS_PER_TOKEN, 4096)]
    ids = tokenizer(part, add_special_tokens=bos, verbose=False)["input_ids"]
    if len(ids) < tokens + 8 and len(part) < len(text):
        ids = tokenizer(text, add_special_tokens=bos, verbose=False)["input_ids"]
    if len(ids) < SHORTEST:
        raise BadText(f"the prompt has {len(ids)} token; at least {SHORTEST} are needed, so write a few more words")
    return torch.tensor(ids[:tokens], dtype=torch.long)


def token_texts(tokenizer: "PreTrainedTokenizerBase", tokens: Tensor) -> list[str]:
    """The text of each token of [T]; joined they are the text.

    A byte-level vocabulary cuts rare characters into bytes, so that one token alone is no text. The first of such pieces gets the whole
    character (or what the pieces make together), the others `CONTINUED`.
    """
    ids = tokens.tolist()
    texts, at = [tokenizer.decode([t]) for t in ids], 0
    while at < len(ids):
        end = at + 1
        if BROKEN in texts[at]:
            ends = range(at + 2, min(at + PIECES, len(ids)) + 1)
            whole = ((tokenizer.decode(ids[at:e]), e) for e in ends)
            text, end = next(((text, e) for text, e in whole if BROKEN not in text), (texts[at], end))
            texts[at:end] = [text] + [CONTINUED] * (end - at - 1)
        at = end
    return texts


def bos_words(tokenizer: "PreTrainedTokenizerBase", tokens: Tensor) -> str:
    """Whether the text's first token is the tokenizer's <bos>, in words."""
    if tokenizer.bos_token_id is not None and len(tokens) and int(tokens[0]) == tokenizer.bos_token_id:
        return "BOS once at the start of the text"
    return "no BOS (the tokenizer adds none)"


def _tokens_of(source: str, tokenizer: "PreTrainedTokenizerBase", needed: int, what: str) -> Tensor:
    tokens = tokenize(load_text(source), tokenizer)
    if len(tokens) < needed:
        raise BadText(f"{source} has {len(tokens)} tokens and {what} needs {needed}; use a longer text, a shorter length or fewer windows")
    return tokens


def _protocol(source: str, tokenizer: "PreTrainedTokenizerBase", tokens: Tensor, windows: str, length: int) -> str:
    return f"{parse_source(source).words}; tokenized once, {bos_words(tokenizer, tokens)}; {windows}; {length - 1} scored tokens per window"


def _check_counts(length: int, count: int, what: str, least: int) -> None:
    if length < SHORTEST:
        raise BadInput(f"length = {length}: a window needs at least {SHORTEST} tokens, because the first one predicts the second")
    if count < least:
        raise BadInput(f"{what} = {count}: give at least {least}" + (" (0 = all)" if least == 0 else ""))
