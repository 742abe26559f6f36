"""Corpora by name, and how each turns into one long text.

A corpus says which splits it has, how it joins its rows (two papers that join differently measure different perplexities), and reads
a split: from the folder that ROTVIZ_DATA names if it is there, else through `datasets`, which is imported only then.

    @TEXTS.register("mycorpus")
    class MyCorpus:
        splits, default_split, join = ("all",), "all", "one document"

        def read(self, split: str) -> str: ...
"""

import importlib
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rotviz.errors import BadText, unknown
from rotviz.home import DATA_VARIABLE, file_mark
from rotviz.registry import Registry
from rotviz.texts.file import checked_text, read_file


class Corpus(Protocol):
    """What a registered class offers."""

    splits: tuple[str, ...]
    default_split: str
    join: str  # in words, for the protocol

    def read(self, split: str) -> str:
        """The whole split as one text. Raises BadText when it cannot be had."""
        ...


TEXTS: Registry[type[Corpus]] = Registry("text", package="rotviz.texts")


class Source(NamedTuple):
    """A source taken apart: a corpus and its split, or a path."""

    corpus: str | None
    split: str | None
    path: Path | None

    @property
    def words(self) -> str:
        """How the protocol names it: corpus and split and join, or the file's name without its folder."""
        if self.corpus is None:
            return f"file {self.path.name}, whole text"
        return f"{self.corpus} {self.split}, {TEXTS[self.corpus].join}"


def parse_source(source: str) -> Source:
    """A source taken apart, without reading it.

    Raises:
        UnknownName: a bare word that is neither a corpus nor a file, or a split that the corpus lacks.
        BadText: an empty name.
    """
    source = source.strip()
    if not source:
        raise BadText(f"no text is named; use one of {', '.join(TEXTS)} or the path of a .txt file")
    name, colon, split = source.partition(":")
    if name in TEXTS:
        corpus = TEXTS[name]
        if colon and split not in corpus.splits:
            raise unknown(f"split of {name}:", split, corpus.splits)
        return Source(name, split or corpus.default_split, None)
    path = Path(source).expanduser()
    if path.exists() or path.suffix or "/" in source or "\\" in source:
        return Source(None, None, path)
    raise unknown("text", source, [*TEXTS, "a path to a .txt file"])


def text_mark(source: str) -> str:
    """A mark of a text that is known without reading it: for cache keys. It changes when the file does; a corpus is marked by its name."""
    return source if source.strip().partition(":")[0] in TEXTS else file_mark(Path(source.strip()).expanduser())


def load_text(source: str) -> str:
    """The text that a source names, such as "wikitext2:test", "pydoc" or "notes.txt".

    Raises:
        UnknownName, BadText: there is no such text, it cannot be had here, or it is not text.
    """
    parsed = parse_source(source)
    if parsed.corpus is None:
        return read_file(parsed.path)
    return checked_text(TEXTS[parsed.corpus]().read(parsed.split), source)


def rows_from_hub(dataset: str, what: str, limit: int | None = None, **how: Any) -> list[str]:
    """The "text" column of a hub dataset.

    Args:
        dataset: hub id.
        what: what the user asked for, for messages.
        limit: so many rows from the start; None = all.
        how: passed to datasets.load_dataset.

    Raises:
        BadText: `datasets` is not installed, or the hub cannot be reached and nothing is cached.
    """
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise BadText(f"{what} is not on this machine, and the package datasets is not installed to fetch it; {_alternatives()}") from error
    try:
        rows = datasets.load_dataset(dataset, **how)
        return list(rows["text"][:limit] if limit else rows["text"])
    except Exception as error:  # whatever the hub, its cache and three HTTP libraries raise, it means the same to the user
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise BadText(f"{what} is not on this machine, and it cannot be fetched from the hub, as without a network or with "
                      f"HF_HUB_OFFLINE set ({reason}); {_alternatives()}") from error


def _alternatives() -> str:
    return (f"set {DATA_VARIABLE} to a folder that holds it (such as wikitext-2-raw/wiki.test.raw), or use pydoc, which ships with Python, "
            "or the path of a .txt file")
