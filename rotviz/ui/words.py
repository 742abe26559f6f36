"""Results as sentences: what a number means for somebody who has not read the papers. Markdown out."""

import math
from collections.abc import Sequence

from rotviz.capture.inspect import Inspection, SiteSummary
from rotviz.evaluation.sites import TokenErrors
from rotviz.evaluation.stream import Stream
from rotviz.numerics.massive import RATIO, PersistentToken
from rotviz.plots.words import count, number, visible
from rotviz.types import SITE_WORDS, Site

MARKDOWN = "\\`*_{}[]()#+-!|~$<>:"


def plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in MARKDOWN else c for c in text)


def token_words(index: int, text: str) -> str:
    """`token 0 “Summer”`, safe in Markdown."""
    shown = visible(text)
    return f"token {index} “{plain(shown if len(shown) <= 24 else shown[:23] + '…')}”"


def problem(tokens: Sequence[str], massive: Sequence[PersistentToken], stream: Stream) -> str:
    """The model's problem in one or two sentences."""
    if not massive:
        return none_massive(tokens, stream)
    first = massive[0]
    span = (first.first_block, first.last_block)
    where = f"from block {span[0]} to {span[1]}" if span[0] < span[1] else f"in block {span[0]}"
    others = len({m.index for m in massive}) - 1
    more = f" {count(others, 'more token')} of this text {'does' if others == 1 else 'do'} the same." if others else ""
    name = token_words(first.index, tokens[first.index])
    return (f"{capital(name)} carries **{number(abs(first.value))}** in channel **{first.channel}** of the residual stream "
            f"{where}, where the median is {_rough(abs(first.value) / first.ratio)} (**{first.ratio:,.0f} times**).{more}")


def capital(words: str) -> str:
    """The first letter large, the rest as it is."""
    return words[:1].upper() + words[1:]


def none_massive(tokens: Sequence[str], stream: Stream) -> str:
    """That a model has no massive token on this text, and how near the nearest comes."""
    block, token = stream.nearest
    return (f"No token of this text is massive. The nearest is {token_words(token, tokens[token])}: after block {block} it holds "
            f"{number(float(stream.peaks[block, token]))} in channel {int(stream.channels[block, token])}, "
            f"{number(stream.ratio(block, token))} times the median (a massive activation is {RATIO:,.0f} times).")


def heaviest(found: Inspection) -> SiteSummary:
    """The quantized site with the heaviest tails."""
    return max((s for s in found.sites if s.site is not Site.RESID), key=lambda s: s.summary.kurtosis)


def percent(share: float) -> str:
    """`1.3 %`; a share of energy."""
    if not math.isfinite(share):
        return "–"
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.2g} %"


def number_words(value: float) -> str:
    """A statistic for a table."""
    return number(float(f"{value:.4g}")) if math.isfinite(value) else "–"


def verdict(name_a: str, a: TokenErrors, name_b: str, b: TokenErrors) -> str:
    """Which of two rotations loses less, on which tokens, by how much."""
    parts = [_compared(name_a, a.all, name_b, b.all, "Over all tokens")]
    if math.isfinite(a.mean_massive) and math.isfinite(b.mean_massive):
        which = "On the massive token" if a.massive.sum() == 1 else f"On the {a.massive.sum()} massive tokens"
        parts += [_compared(name_a, a.mean_massive, name_b, b.mean_massive, which),
                  _compared(name_a, a.mean_ordinary, name_b, b.mean_ordinary, "On the ordinary ones")]
    return " ".join(parts)


def _compared(name_a: str, a: float, name_b: str, b: float, where: str) -> str:
    if not (math.isfinite(a) and math.isfinite(b)) or max(a, b) <= 0:
        return f"{where} there is nothing to compare."
    if min(a, b) <= 0 or max(a, b) / min(a, b) < 1.01:
        return f"{where} {name_a} and {name_b} lose the same, {percent(a)} of the energy."
    (better, low), (worse, high) = sorted(((name_a, a), (name_b, b)), key=lambda pair: pair[1])
    factor = number(round(high / low, 2))
    return f"{where} **{better}** loses {percent(low)} of the energy and {worse} {percent(high)}: **{factor} times** less."


def _rough(value: float) -> str:
    return number(float(f"{value:.2g}"))


def site_words(site: Site) -> str:
    """`MLP input (mlp_in)`."""
    return f"{SITE_WORDS[site]} ({site})"
