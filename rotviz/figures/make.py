"""Make a figure of a paper for a model: capture or choose, draw, and say what it is and how it was come by.

    make(name, subject, settings)  ->  PaperFigure: panels, caption, protocol, and the script that makes it again

The page, the command line and a script get the same figure from the same values.
"""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from rotviz import __version__
from rotviz.capture.inspect import Look, look
from rotviz.config import from_mapping, to_mapping
from rotviz.errors import BadInput
from rotviz.figures import FIGURES, Needs, Panel, Say, Seen, Subject, of_runs
from rotviz.models.loading import weights_mark
from rotviz.plots.compose import side_by_side, width_of
from rotviz.plots.drawing import Drawing
from rotviz.plots.words import count
from rotviz.reports.runs import classifies, names_of
from rotviz.store.runs import RunRecord, Status, Store
from rotviz.types import SITE_WORDS

LIBRARIES = ("torch", "transformers", "plotly")
PLACES = {Needs.SITE: "{site} ({name}) of block {block}", Needs.WEIGHTS: "{site} ({name}) of block {block}",
          Needs.DEPTH: "{site} ({name}) of every block", Needs.STREAM: "residual stream after every block"}


@dataclass(frozen=True)
class PaperFigure:
    """A figure with all that a reader needs to trust it and to make it again.

    Attributes:
        name, title: of the preset.
        panels: from left to right, with locked axes.
        caption: what is shown, of what, after which paper; one paragraph.
        protocol: model, text, tokens, block, site, settings and versions, in words.
        script: a Python program that makes it again.
    """

    name: str
    title: str
    panels: tuple[Panel, ...]
    caption: str
    protocol: Mapping[str, str]
    script: str

    @cached_property
    def drawing(self) -> Drawing:
        """All panels in one figure, their words and their tables together."""
        if len(self.panels) == 1:
            only = self.panels[0]
            figure = side_by_side([(only.title, only.drawing)])
            return Drawing(self.name, figure, only.drawing.alt, only.drawing.table)
        figure = side_by_side([(p.title, p.drawing) for p in self.panels])
        tables = [p.drawing.table.assign(panel=p.title) for p in self.panels]
        table = pd.concat(tables, ignore_index=True)
        alt = " ".join(f"{p.title}: {p.drawing.alt}" for p in self.panels)
        return Drawing(self.name, figure, alt, table[["panel", *table.columns.drop("panel")]])

    @property
    def width(self) -> int:
        """Pixels across in a file."""
        return width_of(len(self.panels)) if len(self.panels) > 1 else 800


def make(name: str, subject: Subject, settings: Mapping[str, Any] | None = None, progress: Say | None = None) -> PaperFigure:
    """Make a figure.

    Args:
        name: registered name, as `FIGURES` lists them.
        subject: what it is of.
        settings: the preset's own, by name; those that are left out have their defaults.
        progress: called with the share done and a few words.

    Raises:
        UnknownName: no such figure, model, rotation or run.
        BadInput: a setting, the text or the runs do not fit the figure; says what would work.
    """
    preset = from_mapping(FIGURES[name], dict(settings or {}), name)
    say = progress or (lambda fraction, words: None)
    if of_runs(preset):
        return _of_runs(name, preset, subject)
    if subject.runs:
        raise BadInput(f"{name} is made from a text that the model reads, not from runs; "
                       f"these are made from runs: {', '.join(n for n, p in FIGURES.items() if of_runs(p))}")
    seen = see(subject, lambda fraction, words: say(0.6 * fraction, words))
    said = Seen(seen.capture, seen.look, seen.block, seen.site, lambda fraction, words: say(0.6 + 0.4 * fraction, words))
    panels = preset.draw(said)
    protocol = _protocol_of_text(name, preset, seen)
    where = (f"{', '.join(preset.sites)} of every block" if hasattr(preset, "sites") else
             PLACES[preset.needs].format(site=SITE_WORDS[seen.site], name=seen.site, block=seen.block))
    what = (f"{preset.title}: {where} in {subject.look.model}, {count(len(seen.capture.tokens), 'token')} of "
            f"{'a prompt' if subject.look.prompt is not None else _text_name(subject.look.text)}")
    return _figure(name, preset, panels, what, protocol, subject)


def see(subject: Subject, progress: Say | None = None) -> Seen:
    """The capture of a subject.

    Raises:
        BadInput: the model or text cannot be used, or there is no such block.
    """
    say = progress or (lambda fraction, words: None)
    capture = look(subject.look, progress=say)
    block = capture.blocks // 2 if subject.block is None else subject.block
    if not 0 <= block < capture.blocks:
        raise BadInput(f"block = {block}: {subject.look.model} has blocks 0 to {capture.blocks - 1}")
    return Seen(capture, subject.look, block, subject.site, say)


def finished(model: str) -> list[RunRecord]:
    """All finished runs of a model, newest first."""
    return Store().list(status=Status.DONE, model=model, limit=1000)


def _of_runs(name: str, preset: Any, subject: Subject) -> PaperFigure:
    store = Store()
    records = [store.get(run) for run in subject.runs] or preset.choose(finished(subject.look.model))
    vision = [record.run_id for record in records if classifies(record)]
    if vision:
        raise BadInput(f"{', '.join(vision)} measured images: the papers' figures are of language models")
    unfinished = [record.run_id for record in records if record.status is not Status.DONE]
    if unfinished:
        raise BadInput(f"{', '.join(unfinished)} {'is' if len(unfinished) == 1 else 'are'} not finished: only finished runs can be drawn")
    if not records:
        raise BadInput(f"no finished run of {subject.look.model} to draw {name} from: start some on the page Evaluate or with "
                       f"rotviz run --model {subject.look.model}")
    named = Subject(Look(model=records[0].model), runs=tuple(record.run_id for record in records))
    what = f"{preset.title}: {count(len(records), 'run')} of {', '.join(dict.fromkeys(record.model for record in records))}"
    return _figure(name, preset, preset.draw(records), what, _protocol_of_runs(name, preset, records), named)


def _figure(name: str, preset: Any, panels: Sequence[Panel], what: str, protocol: dict[str, str], subject: Subject) -> PaperFigure:
    shown = f"; from left to right {', '.join(p.title for p in panels)}" if len(panels) > 1 else f"; {panels[0].title}" if panels[0].title else ""
    caption = f"{what}{shown}. {preset.words} After {preset.paper}. Drawn by rotviz {__version__}."
    return PaperFigure(name, preset.title, tuple(panels), caption, protocol, script_for(name, subject, preset, caption))


def _protocol_of_text(name: str, preset: Any, seen: Seen) -> dict[str, str]:
    wanted, meta = seen.look, seen.capture.meta
    text = f"prompt: {wanted.prompt}" if wanted.prompt is not None else wanted.text
    found = {"figure": name, "after": preset.paper, "model": wanted.model, "weights": weights_mark(wanted.model),
             "text": text, "tokens": str(len(seen.capture.tokens)), "tokenizer's own tokens": _own_tokens(wanted, meta)}
    if preset.needs in (Needs.SITE, Needs.WEIGHTS):
        found |= {"block": str(seen.block), "site": f"{seen.site} ({SITE_WORDS[seen.site]})"}
    elif preset.needs is Needs.DEPTH:
        found |= {"block": f"all, 0 to {seen.capture.blocks - 1}"} | ({} if hasattr(preset, "sites") else {"site": str(seen.site)})
    return found | _settings(preset) | ({"notes": meta["notes"]} if meta.get("notes") else {}) | versions()


def _own_tokens(wanted: Look, meta: Mapping[str, str]) -> str:
    if meta.get("special_tokens") == "no":
        return "it has none"
    return "added" if wanted.bos else "left out"


def _protocol_of_runs(name: str, preset: Any, records: Sequence[RunRecord]) -> dict[str, str]:
    names = names_of(records)
    protocols = dict.fromkeys(r.result["perplexity"]["quantized"]["protocol"] for r in records)
    return {"figure": name, "after": preset.paper, "model": ", ".join(dict.fromkeys(r.model for r in records)),
            "protocol": "; ".join(protocols), "runs": "; ".join(f"{r.run_id} ({names[r.run_id]})" for r in records)} | _settings(preset) | versions()


def _settings(preset: Any) -> dict[str, str]:
    return {key: ", ".join(map(str, value)) if isinstance(value, list) else str(value) for key, value in to_mapping(preset).items()}


def versions() -> dict[str, str]:
    """Of rotviz and what it computes and draws with."""
    return {"rotviz": __version__} | {library: importlib.metadata.version(library) for library in LIBRARIES}


def script_for(name: str, subject: Subject, preset: Any, caption: str) -> str:
    """The Python program that makes a figure again: the same call with everything that decides it."""
    settings = ", ".join(f"{key!r}: {value!r}" for key, value in to_mapping(preset).items())
    if of_runs(preset):
        target = f"Subject(Look(model={subject.look.model!r}), runs={subject.runs!r})"
    else:
        fields = ", ".join(f"{key}={getattr(subject.look, key)!r}" for key in ("model", "text", "tokens", "bos", "prompt"))
        target = f"Subject(Look({fields}), block={subject.block!r}, site=Site({str(subject.site)!r}))"
    preset_file = type(preset).__module__
    computes = "drawn from" if of_runs(preset) else "computed from"
    return (f"# {caption.replace(chr(10), ' ')}\n"
            f"# What is {computes} what stands in {preset_file.replace('.', '/')}.py. Needs rotviz {__version__} and the same model.\n"
            "from rotviz.capture.inspect import Look\nfrom rotviz.figures import Subject\nfrom rotviz.figures.make import make\n"
            "from rotviz.types import Site  # noqa: F401\n\n"
            f"made = make({name!r}, {target}, {{{settings}}})\n"
            "figure = made.drawing.figure  # plotly: figure.show(), figure.write_image('figure.svg'), figure.update_layout(...)\n"
            "table = made.drawing.table  # pandas: the numbers\n"
            f"figure.write_html({name + '.html'!r}, include_plotlyjs=True)\n"
            f"table.to_csv({name + '.csv'!r}, index=False)\n")


def _text_name(text: str) -> str:
    """A source's name; of a file its own without the folders."""
    return Path(text).name if text.endswith((".txt", ".md")) else text
