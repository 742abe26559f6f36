"""The ways rotviz says no.

    RotvizError
    |- BadInput            what was asked cannot be done as asked; the message says what would work (exit status 2)
    |  |- UnknownName      a name that no registry, family or key knows, with the nearest known one
    |  |- UnknownFamily    a model whose architecture has no family file
    |  |- BrokenCheckpoint a checkpoint that is missing, truncated, pickled, or holds NaN
    |  |- BadText          a text that is missing, binary, or too short
    |  `- BadImages        images that are missing, broken, or too few
    |- RewriteBroken       a function-preserving rewrite that did not preserve the function; names the step
    |- OutOfRoom           the disk or the memory is full; what had been finished is kept
    `- Cancelled           the user asked to stop (exit status 130)

One line each, no traceback for the reader: a page shows the message, the command line prints it.
"""

import difflib
from collections.abc import Iterable


class RotvizError(Exception):
    """Any error that rotviz raises on purpose."""


class BadInput(RotvizError):
    """What was asked for cannot be done as asked."""


class UnknownName(BadInput, KeyError):
    """A name that nothing is registered under."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the quotes of repr


class UnknownFamily(BadInput):
    """A model architecture that no family file describes."""


class BrokenCheckpoint(BadInput):
    """A checkpoint that cannot be trusted or read."""


class BadText(BadInput):
    """A text that cannot be read or is too short."""


class BadImages(BadInput):
    """Images that cannot be read or are too few."""


class RewriteBroken(RotvizError):
    """A rewrite that should keep the logits did not."""


class OutOfRoom(RotvizError):
    """The disk or the memory is full."""


class Cancelled(RotvizError):
    """The user asked to stop."""


def not_among(where: str, value: object, choices: Iterable[object]) -> UnknownName:
    """The error for a value that is not among a setting's choices; the choices in their own order."""
    names = [str(c) for c in choices]
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.6) if isinstance(value, str) else []
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UnknownName(f"{where} = {value!r} is not possible; {hint}choose from {', '.join(names)}")


def unknown(kind: str, name: object, known: Iterable[str]) -> UnknownName:
    """The error for a name that is not among the known ones; names the nearest."""
    names = sorted(str(k) for k in known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UnknownName(f"no {kind} {str(name)!r}{hint} Known: {', '.join(names)}." if hint else
                       f"no {kind} {str(name)!r}; known: {', '.join(names)}.")
