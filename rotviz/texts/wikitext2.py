"""WikiText-2, raw: the corpus on which almost every quantization paper reports perplexity (Merity et al. 2016, CC BY-SA 3.0).

    text = "\\n\\n".join(rows)          GPTQ's protocol; QuaRot, SpinQuant, OmniQuant and DartQuant do the same

On the hub (Salesforce/wikitext, wikitext-2-raw-v1) a row is one line of the original file with its newline kept, except that a blank
line (" \\n" in the file) is an empty string. The file gives the same rows, so both ways give the same text, character by character.
"""

from pathlib import Path

from rotviz.home import data_home
from rotviz.texts.source import TEXTS, rows_from_hub

FILES = {"train": "wiki.train.raw", "validation": "wiki.valid.raw", "test": "wiki.test.raw"}


@TEXTS.register("wikitext2")
class WikiText2:
    """Calibrate on `validation` (or `train`, which flatters the result), report on `test`."""

    splits = ("train", "validation", "test")
    default_split = "test"
    join = "raw rows joined by a blank line"

    def read(self, split: str) -> str:
        """All rows of a split joined by a blank line."""
        folder = data_home()
        path = folder / "wikitext-2-raw" / FILES[split] if folder else None
        rows = rows_of(path) if path and path.is_file() else rows_from_hub("Salesforce/wikitext", f"wikitext2:{split}",
                                                                           name="wikitext-2-raw-v1", split=split)
        return "\n\n".join(rows)


def rows_of(path: Path) -> list[str]:
    """The rows of a .raw file as the hub's dataset has them: newline kept, a blank line empty."""
    # Not str.splitlines, which also breaks at the Unicode line separators that some articles quote.
    with path.open(encoding="utf-8") as lines:
        return [line if line.strip() else "" for line in lines]
