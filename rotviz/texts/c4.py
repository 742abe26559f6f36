"""C4, QuaRot's variant: the first 1,100 documents of validation shard 0, joined by a space.

GPTQ and OmniQuant instead draw 256 random windows from random documents; the two perplexities differ, so the protocol names the variant.
The shard is `en/c4-validation.00000-of-00008.json.gz` of allenai/c4 (ODC-BY): one JSON object a line with the key "text".
"""

import gzip
import json
from itertools import islice
from pathlib import Path

from rotviz.errors import BadText
from rotviz.home import data_home
from rotviz.texts.source import TEXTS, rows_from_hub

SHARD = "c4-validation.00000-of-00008.json.gz"
DOCUMENTS = 1100


@TEXTS.register("c4")
class C4:
    """The validation shard; a local copy goes into the folder c4/ of ROTVIZ_DATA."""

    splits = ("validation",)
    default_split = "validation"
    join = f"first {DOCUMENTS} documents of shard 0 joined by a space (QuaRot's variant)"

    def read(self, split: str) -> str:
        """The first documents joined by a space."""
        folder = data_home()
        found = sorted((folder / "c4").glob("*.json.gz")) if folder else []
        path = next((p for p in found if p.name == SHARD), found[0] if found else None)
        rows = documents(path, DOCUMENTS) if path else rows_from_hub(
            "allenai/c4", "c4:validation", limit=DOCUMENTS, data_files={split: f"en/{SHARD}"}, split=split)
        return " ".join(rows)


def documents(path: Path, count: int) -> list[str]:
    """The texts of the first `count` documents of a gzipped JSON-lines file.

    Raises:
        BadText: the file is damaged or has another shape.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return [json.loads(line)["text"] for line in islice(lines, count)]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise BadText(f"{path} is no shard of C4 ({type(error).__name__}): it takes gzipped JSON lines with a \"text\" each; "
                      "download it again") from error
