"""A continuation as text: the tokens of a greedy generation, the first that differs from the float model's marked.

HTML, as the token strip is, so that any script wraps and can be read aloud. What is the same stands plain; the first divergence has a vermilion
border and a sign; what follows from it is set back, for it answers another text.
"""

import html
from collections.abc import Sequence

from rotviz.plots.palette import VERMILION
from rotviz.plots.words import check_tokens, count, visible


def continuation_html(tokens: Sequence[str], *, diverges: int | None = None, probabilities: Sequence[float] | None = None, instead: str | None = None,
                      limit: int = 256) -> str:
    """HTML of some new tokens.

    Args:
        diverges: the position of the first token that differs; None = none does.
        probabilities: the model's own for each token, for the titles.
        instead: the token that stands there in what this is compared with.
        limit: tokens shown at most.
    """
    if not len(tokens):
        return "<p>Nothing to show: 0 tokens.</p>"
    if probabilities is not None:
        check_tokens(tokens, len(probabilities))
    boxes = "".join(_box(i, token, diverges, None if probabilities is None else probabilities[i], instead) for i, token in enumerate(tokens[:limit]))
    label = f"{count(len(tokens), 'token')}, " + ("none differs" if diverges is None else f"the first that differs is number {diverges}")
    return f"<div role='list' aria-label=\"{label}\" dir='auto' style='line-height:1.9;overflow-wrap:anywhere;font-size:15px'>{boxes}</div>"


def _box(index: int, token: str, diverges: int | None, probability: float | None, instead: str | None) -> str:
    said = f"token {index} “{visible(token)}”" + ("" if probability is None else f", probability {probability:.1%}")
    style, mark = "display:inline-block;white-space:pre-wrap;border-radius:4px;padding:0 0.05em;border:1px solid transparent;", ""
    if diverges is not None and index == diverges:
        said += f", the first that differs{f'; there it is “{visible(instead)}”' if instead is not None else ''}"
        style += f"border:2px solid {VERMILION};font-weight:700;padding:0 0.2em;"
        mark = f"<span aria-hidden='true' style='color:{VERMILION};background:#FFFFFF;border-radius:3px;margin-inline-end:0.15em'>≠</span>"
    elif diverges is not None and index > diverges:
        style += "opacity:0.72;"
    title = html.escape(said, quote=True)
    line_break = "<br>" * min(token.count("\n"), 3)
    return (f'<span role="listitem" title="{title}" aria-label="{title}" style="{style}">{mark}<bdi>{html.escape(visible(token))}</bdi></span>'
            f"{line_break}")
