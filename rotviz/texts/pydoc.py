"""The text that is always there: the topics of Python's own help system (`pydoc_data.topics`), English technical prose and code.

It ships with every CPython, so a first run needs no network. Its words change a little from one Python version to the next, which is
why the protocol names the version: compare perplexities on it only within one version.
"""

import platform
from pydoc_data.topics import topics

from rotviz.texts.source import TEXTS


@TEXTS.register("pydoc")
class Pydoc:
    """`all` topics, or two halves that share none: one to calibrate on (`validation`), one to report on (`test`)."""

    splits = ("all", "validation", "test")
    default_split = "all"
    join = f"topics of CPython {'.'.join(platform.python_version_tuple()[:2])} in order of their names joined by a blank line"

    def read(self, split: str) -> str:
        """The topics of a split, sorted by name, joined by a blank line."""
        every = [topics[name] for name in sorted(topics)]
        once = list(dict.fromkeys(every))  # some topics are filed under two names: neither half may hold the other's text
        return "\n\n".join({"all": every, "validation": once[0::2], "test": once[1::2]}[split])
