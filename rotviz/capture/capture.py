"""A capture: every site of every block while a model reads one text, kept on disk and read back piece by piece.

One safetensors file holds, for each block, the rows of each site [T, width] in float32 and the gains of the two norms. A reader maps the file and
touches only what it asks for, so that a page which shows one block of a large model reads one block, and ten browsers share one copy.

Sites behind a norm are kept without its gain ("folded": x / rms(x), what R1 turns) and given back either way:

    folded   x / rms(x)                 what a rotated model's linears read (before the rotation)
    plain    gain * x / rms(x) + beta   what the original model's linears read
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rotviz.errors import BadText
from rotviz.home import write_atomically
from rotviz.models.family import BlockView, NormKind, norm_gain
from rotviz.types import Site

if TYPE_CHECKING:
    from rotviz.models.walk import BlockSource

NORMED_SITES = (Site.ATTN_IN, Site.MLP_IN)
FORMAT = "3"


@dataclass(frozen=True)
class Capture:
    """A captured text, on disk.

    Attributes:
        path: the safetensors file.
        tokens: the text of each token.
        blocks: number of blocks.
        kv_heads, head_width: shape of keys, values and of the heads in o_in.
        meta: model, text and when, in words.
    """

    path: Path
    tokens: tuple[str, ...]
    blocks: int
    kv_heads: int
    head_width: int
    meta: dict[str, str]

    def site(self, block: int, site: Site, folded: bool = False) -> Tensor:
        """Rows [T, width] of a site, float32; see the file's head for `folded`."""
        x = self._read(f"{block}.{site}")
        if folded or site not in NORMED_SITES:
            return x
        plain = x * self._read(f"{block}.{site}.gain")
        return plain + self._read(f"{block}.{site}.offset") if self._has(f"{block}.{site}.offset") else plain

    def tokens_of_rows(self, block: int, site: Site) -> Tensor | None:
        """In a mixture, the token of each row of down_in; None where row t is token t."""
        name = f"{block}.{site}.tokens"
        return self._read(name) if self._has(name) else None

    def embedding(self) -> Tensor:
        """The residual stream before the first block, [T, D]."""
        return self._read("embedding")

    def _has(self, name: str) -> bool:
        with safe_open(self.path, framework="pt") as file:
            return name in file.keys()  # noqa: SIM118 - a safe_open handle has no __contains__

    def _read(self, name: str) -> Tensor:
        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(name)


def capture(source: "BlockSource", tokens: Tensor, texts: list[str], path: Path, meta: dict[str, str] | None = None,
            progress: Callable[[int, int], None] | None = None) -> Capture:
    """Push one sequence through the model block by block and keep every site.

    Args:
        source: the model.
        tokens: ids [T].
        texts: the text of each token.
        path: where to keep the file; written whole or not at all.
        meta: words to keep with it.
        progress: called with blocks done and all blocks.
    """
    from rotviz.capture.taps import tapped  # with transformers behind them, which a reader of captures does not wait for
    from rotviz.models.walk import forward
    from rotviz.surgery.steps import fold_block, linearize_experts

    if len(tokens) < 2:
        raise BadText(f"the text has {len(tokens)} token(s); a look at a model needs at least 2")
    device = source.ends.model.device
    entry = source.ends.entry(tokens[None].to(device))
    hidden, kept = entry.hidden, {"embedding": entry.hidden[0]}
    heads = source.original(0).heads
    for index in range(len(source)):
        view = source.owned(index)
        linearize_experts(view)
        kept |= _gains(view)
        fold_block(view, centered=False)
        with tapped(view) as seen:
            hidden = forward(view.block, hidden, entry.arguments[index])
        kept |= {f"{index}.{site}": rows for site, rows in seen.rows.items()}
        if seen.tokens_of_rows is not None:
            kept[f"{index}.{Site.DOWN_IN}.tokens"] = seen.tokens_of_rows
        if progress:
            progress(index + 1, len(source))
    header = {"format": FORMAT, "tokens": json.dumps(texts), "blocks": str(len(source)), "kv_heads": str(heads.kv),
              "head_width": str(heads.width), "meta": json.dumps(meta or {})}
    write_atomically(path, lambda target: save_file({k: _plain(v) for k, v in kept.items()}, target, metadata=header))
    return open_capture(path)


def open_capture(path: Path) -> Capture:
    """A capture that is already on disk."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    return Capture(path, tuple(json.loads(header["tokens"])), int(header["blocks"]), int(header["kv_heads"]), int(header["head_width"]),
                   json.loads(header["meta"]))


def _plain(x: Tensor) -> Tensor:
    return (x.float() if x.is_floating_point() else x).cpu().contiguous().clone()


def _gains(view: BlockView) -> dict[str, Tensor]:
    """What the two norms multiply by and add, under the names the reader looks for."""
    kept = {}
    for path, site in ((view.family.attn_norm, Site.ATTN_IN), (view.family.mlp_norm, Site.MLP_IN)):
        norm = view.norm(path)
        kept[f"{view.index}.{site}.gain"] = norm_gain(norm, view.family.norm)
        if view.family.norm is NormKind.LAYER:
            kept[f"{view.index}.{site}.offset"] = norm.bias.data
    return kept
