"""What a model's problem is, in numbers: its massive tokens and the statistics of every site, from one short text.

`look` captures the text once and keeps the capture under the cache folder, keyed by the weights, the tokens and the form of the file; the same look
again reads it from there, without loading the model.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rotviz.capture.capture import FORMAT, Capture, capture, open_capture
from rotviz.config import fingerprint
from rotviz.errors import BadInput
from rotviz.home import home, write_atomically
from rotviz.models.loading import LoadedModel, load, require_text, weights_mark
from rotviz.numerics.massive import MassiveToken, find_massive, massive_tokens
from rotviz.numerics.statistics import Summary, summarize
from rotviz.texts import load_text, prompt_tokens, text_mark, token_texts
from rotviz.types import CONTINUED, Site

Progress = Callable[[float, str], None]
MAX_TOKENS = 8192
STATISTICS = "1"
"""Raise it when the statistics, or the rule for massive tokens, change."""


@dataclass(frozen=True)
class Look:
    """What to look at. Frozen, so that it can be a cache key.

    Attributes:
        model: as in a recipe.
        text: a source ("pydoc", "wikitext2:test", a path), unless a prompt is given.
        tokens: how many tokens at most.
        bos: with the special tokens that the tokenizer adds by default.
        prompt: the text itself, in place of a source.
    """

    model: str = "smollm2-135m"
    text: str = "pydoc"
    tokens: int = 512
    bos: bool = True
    prompt: str | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.tokens <= MAX_TOKENS:
            raise BadInput(f"tokens = {self.tokens} is out of range: a look takes 2 to {MAX_TOKENS} tokens")


@dataclass(frozen=True)
class SiteSummary:
    """The statistics of one site of one block."""

    block: int
    site: Site
    summary: Summary


@dataclass(frozen=True)
class Inspection:
    """A capture with what was found in it."""

    look: Look
    capture: Capture
    massive: tuple[MassiveToken, ...]
    sites: tuple[SiteSummary, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: `massive` and `sites` as DESIGN.md promises, and the tokens that persist."""
        tokens = [text.replace(CONTINUED, "") for text in self.capture.tokens]
        return {
            "model": self.look.model, "text": "prompt" if self.look.prompt else self.look.text, "tokens": len(tokens),
            "blocks": self.capture.blocks, "notes": self.capture.meta.get("notes", ""),
            "massive": [{"block": m.block, "index": m.index, "token": tokens[m.index], "channel": m.channel, "value": m.value, "ratio": m.ratio}
                        for m in self.massive],
            "massive_tokens": [asdict(t) | {"token": tokens[t.index]} for t in massive_tokens(self.massive)],
            "sites": [{"block": s.block, "site": str(s.site), "kurtosis": s.summary.kurtosis, "absmax": s.summary.absmax,
                       "median": s.summary.median_abs, "p99": s.summary.p99, "crest": s.summary.crest, "incoherence": s.summary.incoherence,
                       "peak_ratio": s.summary.peak_ratio} for s in self.sites],
        }


def look(wanted: Look, loaded: LoadedModel | None = None, progress: Progress | None = None) -> Capture:
    """The capture of a look: from the cache folder, or made now.

    Raises:
        BadInput: the model or the text cannot be used, with the reason.
    """
    require_text(wanted.model, "a look at the sites of a text")
    say = progress or (lambda fraction, words: None)
    path = capture_path(wanted)
    if path.exists():
        return open_capture(path)
    from rotviz.models.walk import BlockSource  # with transformers behind it

    say(0.0, f"loading {wanted.model}")
    loaded = loaded or load(wanted.model)
    say(0.3, "reading the text")
    tokens = prompt_tokens(text_of(wanted), loaded.tokenizer, wanted.tokens, wanted.bos)
    texts = token_texts(loaded.tokenizer, tokens)
    meta = {"model": wanted.model, "text": "prompt" if wanted.prompt else wanted.text, "notes": "; ".join(loaded.notes),
            "special_tokens": "yes" if _adds_tokens(loaded) else "no", "bos_token": _bos_as_text(loaded)}
    return capture(BlockSource(loaded.model), tokens, texts, path, meta,
                   lambda done, blocks: say(0.35 + 0.6 * done / blocks, f"block {done} of {blocks}"))


def inspect(wanted: Look, loaded: LoadedModel | None = None, progress: Progress | None = None) -> Inspection:
    """A look with its massive tokens and the statistics of every site."""
    say = progress or (lambda fraction, words: None)
    seen = look(wanted, loaded, lambda fraction, words: say(0.8 * fraction, words))
    kept = _kept(seen)
    if kept is not None:
        return Inspection(wanted, seen, *kept)
    found = find_massive((block, seen.site(block, Site.RESID)) for block in range(seen.blocks))
    sites = []
    for block in range(seen.blocks):
        sites += [SiteSummary(block, site, summarize(seen.site(block, site))) for site in Site]
        say(0.8 + 0.2 * (block + 1) / seen.blocks, f"statistics of block {block + 1} of {seen.blocks}")
    _keep(seen, found, sites)
    return Inspection(wanted, seen, tuple(found), tuple(sites))


def kept_massive(seen: Capture) -> list[MassiveToken] | None:
    """The massive tokens of a capture that has been inspected before; None of one that has not."""
    kept = _kept(seen)
    return list(kept[0]) if kept is not None else None


def _keep(seen: Capture, found: list[MassiveToken], sites: list[SiteSummary]) -> None:
    """The numbers beside the capture, so that the next look at it need not sort millions of numbers again."""
    plain = {"format": STATISTICS, "massive": [asdict(m) for m in found], "sites": [[s.block, s.site, asdict(s.summary)] for s in sites]}
    write_atomically(seen.path.with_suffix(".json"), lambda path: path.write_text(json.dumps(plain), encoding="utf-8"))


def _kept(seen: Capture) -> tuple[tuple[MassiveToken, ...], tuple[SiteSummary, ...]] | None:
    path = seen.path.with_suffix(".json")
    if not path.exists() or path.stat().st_mtime_ns < seen.path.stat().st_mtime_ns:
        return None
    plain = json.loads(path.read_text(encoding="utf-8"))
    if plain["format"] != STATISTICS:
        return None
    massive = (MassiveToken(**m | {"spikes": tuple((c, v) for c, v in m["spikes"])}) for m in plain["massive"])
    return tuple(massive), tuple(SiteSummary(block, Site(site), Summary(**s)) for block, site, s in plain["sites"])


def _adds_tokens(loaded: LoadedModel) -> bool:
    """Whether the tokenizer puts tokens of its own around a text."""
    return loaded.tokenizer("a").input_ids != loaded.tokenizer("a", add_special_tokens=False).input_ids


def _bos_as_text(loaded: LoadedModel) -> str:
    """What to write for the tokenizer's first token inside a text; "" where that stays plain text, or where there is none."""
    written = loaded.tokenizer.bos_token
    known = written and loaded.tokenizer(written, add_special_tokens=False).input_ids == [loaded.tokenizer.bos_token_id]
    return written if known else ""


def text_of(wanted: Look) -> str:
    """The text of a look."""
    return wanted.prompt if wanted.prompt is not None else load_text(wanted.text)


def capture_path(wanted: Look) -> Path:
    """Where the capture of a look is kept. The name follows the weights and the text itself, not their names alone."""
    text = hashlib.sha256((wanted.prompt or "").encode()).hexdigest() if wanted.prompt is not None else text_mark(wanted.text)
    key = {"weights": weights_mark(wanted.model), "text": text, "tokens": wanted.tokens, "bos": wanted.bos, "format": FORMAT}
    return home() / "captures" / f"{fingerprint(key)}.safetensors"



