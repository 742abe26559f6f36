"""What the page Compare shows: figures and tables of two to six runs, in the order and with the colors that the reader chose them in.

A run keeps its color in every figure, because all of them name the runs in the same order. Scores by token are large and never change: they are kept
as shared resources. Continuations are made under a lock, one model at a time, and kept on disk (pipeline/generation.py).
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from rotviz.capture.inspect import Look
from rotviz.errors import BadInput
from rotviz.evaluation.sites import Turn
from rotviz.pipeline.effects import Change
from rotviz.pipeline.generation import Continuation, continuation, float_recipe, kept_continuation
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.run import finish
from rotviz.pipeline.token_scores import TokenScores
from rotviz.plots.bars import draw_bars
from rotviz.plots.compare_errors import draw_compare_errors
from rotviz.plots.divergence_bars import draw_divergence_bars
from rotviz.plots.drawing import Drawing
from rotviz.plots.error_by_block import draw_error_by_block
from rotviz.plots.perplexity_bars import draw_perplexity_bars
from rotviz.plots.token_loss import draw_token_loss
from rotviz.plots.words import visible
from rotviz.reports.compare import effect_words, effects_of, token_scores
from rotviz.reports.run_figures import LOG_FROM, MEASURES, error_grid, residual_figure
from rotviz.reports.runs import dig, duration, method_of, names_of, result_of
from rotviz.store.runs import RunRecord, Store
from rotviz.types import CACHE_SITES, SITE_OF_ROLE, Role, Site
from rotviz.ui.cache import captured, errors_by_channel
from rotviz.ui.progress import progress

MOST = 6
FLOAT = "float"
CAPTURED = 512
"""Tokens of the text on which channels are looked at."""
CONTEXT = 24
"""Tokens shown on either side of the chosen one."""
WORST = 20
STAGES = ("load", "weigh", "rewrite", "weights")
"""The stages of a run that making its model again repeats; a learned rotation is kept."""

_GENERATING = threading.Lock()
"""One at a time in this server: each holds two models."""


def labels_of(records: Sequence[RunRecord]) -> dict[str, str]:
    """What figures and tables call the runs: the rotation alone where nothing else tells them apart, which brings its own color."""
    names = names_of(records)
    methods = {r.run_id: method_of(r) for r in records}
    rest = {names[i].removeprefix(method) for i, method in methods.items()}
    return methods if len(set(methods.values())) == len(records) and len(rest) == 1 else names


# Numbers of whole runs


def perplexity_bars(records: Sequence[RunRecord]) -> Drawing:
    """Perplexity of each run against the float model's, in the chosen order."""
    names = list(labels_of(records).values())
    reference = dig(records[0].result, "perplexity", "reference") or {}
    values, stderrs = (_numbers(records, "perplexity", "quantized", what) for what in ("value", "stderr"))
    return draw_perplexity_bars(names, values, stderrs, reference=reference.get("value"), reference_stderr=reference.get("stderr"))


def divergence_bars(records: Sequence[RunRecord]) -> Drawing:
    """KL divergence from the float model with its standard error where the run has one."""
    names = list(labels_of(records).values())
    kl, stderrs = _numbers(records, "divergence", "kl_nats"), _numbers(records, "divergence", "stderr")
    apart = kl[np.isfinite(kl) & (kl > 0)]
    return draw_divergence_bars(names, kl, stderrs=stderrs, log=bool(apart.size and apart.max() / apart.min() > LOG_FROM))


def effects_table(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Every difference of the runs from the first, ranked by what it does to perplexity."""
    return pd.DataFrame([{"recipe key": change.key, "first run": change.before, "other": change.after,
                          "effect on perplexity": effect_words(change, effect), "nats a token": effect.mean, "pairs of runs": effect.pairs,
                          "goes along": _along(change)} for change, effect in effects_of(Store(), records)],
                        columns=["recipe key", "first run", "other", "effect on perplexity", "nats a token", "pairs of runs", "goes along"])


def _along(change: Change) -> str:
    """What else a change takes along, with its values where it is switched on or other than before."""
    return ", ".join(f"{key} = {after}" if after else f"no {key}" for key, _, after in change.items if key != change.key)


# Errors by block and site


def sites_of(records: Sequence[RunRecord]) -> list[Site]:
    """The sites at which some run has errors, in the order of the block's computation."""
    found = {site for r in records for site in error_grid(result_of(r)).columns}
    return [site for site in Site if str(site) in found]


def blocks_of(records: Sequence[RunRecord]) -> int:
    """The depth of the deepest run."""
    return max((len(error_grid(result_of(r))) for r in records), default=0)


def site_lines(records: Sequence[RunRecord], site: Site, measure: str, block: int) -> Drawing:
    """Error at one site over the blocks, a line for each run; `block` is marked."""
    names = labels_of(records)
    lines = {}
    for record in records:
        grid = error_grid(result_of(record), measure)
        lines[names[record.run_id]] = grid[str(site)].to_numpy() if str(site) in grid.columns else np.full(len(grid), np.nan)
    return draw_error_by_block(lines, unit=MEASURES[measure], now=block)


def block_bars(records: Sequence[RunRecord], block: int, measure: str, sites: Sequence[Site]) -> Drawing:
    """Errors in one block, site by site, a bar for each run."""
    names = labels_of(records)
    bars = {}
    for record in records:
        grid = error_grid(result_of(record), measure)
        bars[names[record.run_id]] = np.array([_cell(grid, block, str(site)) for site in sites], dtype=float)
    known = np.concatenate([v[np.isfinite(v)] for v in bars.values()])
    return draw_bars([site.value for site in sites], bars, what=MEASURES[measure], x_words="site", labelled=False, log=bool((known > 0).all()),
                     blank="No bar: that run rounds nothing there.")


def residual_lines(records: Sequence[RunRecord], measure: str, block: int) -> Drawing:
    """The residual stream's error over the blocks, a line for each run; `block` is marked."""
    return residual_figure(records, measure, names=labels_of(records), now=block)


def ratio_maps(records: Sequence[RunRecord]) -> dict[str, Drawing]:
    """By name of every run but the first: where its errors are smaller and larger than the first one's, all on one color scale."""
    names = labels_of(records)
    first = error_grid(result_of(records[0]))
    pairs = {}
    for record in records[1:]:
        grid = error_grid(result_of(record))
        sites = [s for s in first.columns if s in grid.columns]
        if sites and len(grid) == len(first):
            pairs[names[record.run_id]] = (grid[sites].to_numpy(), sites)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = [np.abs(np.log2(values / first[sites].to_numpy())) for values, sites in pairs.values()]
    top = max((float(r[np.isfinite(r)].max()) for r in ratios if np.isfinite(r).any()), default=1.0)
    return {name: draw_compare_errors(first[sites].to_numpy(), values, sites, name_a=names[records[0].run_id], name_b=name, limit=max(1.0, top))
            for name, (values, sites) in pairs.items()}


# Channels


def turn_of(record: RunRecord) -> Turn:
    """The rotation of a run: built again from its seed, or as it was learned or loaded.

    Raises:
        BadInput: what was learned is not on this machine any more.
    """
    recipe = Recipe.from_dict(record.recipe)
    file = str(dig(result_of(record), "learning", "file") or recipe.rotation.load)
    if file and not Path(file).is_file():
        raise BadInput(f"the rotation of run {record.run_id} was kept in {file}, which is gone; run the recipe again to have it")
    return Turn(recipe.rotation.method, recipe.seed, recipe.slots, None if file else recipe.rotation_settings, file)


def channel_lines(records: Sequence[RunRecord], block: int, site: Site) -> dict[str, np.ndarray]:
    """By run the error of every channel of a site (over its mean square) when it is rounded as in the run, on the first tokens of the first
    run's text.

    Runs of another model, runs that round nothing there and those of `scaled_runs` are left out. Where linears that read the site keep its input at
    more bits of their own, the fewest bits that any of them reads it with count.

    Raises:
        RotvizError: the text or a rotation cannot be had any more.
    """
    text = records[0].recipe["text"]
    seen = captured(Look(records[0].model, text["evaluation"], min(int(text["length"]), CAPTURED)))
    found = {}
    for record, name in zip(records, labels_of(records).values(), strict=True):
        recipe = Recipe.from_dict(record.recipe)
        spec = recipe.kv.spec() if site in CACHE_SITES else replace(recipe.activations.spec(), bits=_input_bits(record, block, site))
        if recipe.scaling.method == "none" and record.model == records[0].model and spec.quantizes:
            found[name] = errors_by_channel(seen.path, block, site, turn_of(record), spec)
    return found


def scaled_runs(records: Sequence[RunRecord]) -> list[str]:
    """Names of the runs that scale channels before they are rounded, which looking at one site alone does not do."""
    return [name for record, name in zip(records, labels_of(records).values(), strict=True) if dig(record.recipe, "scaling", "method") != "none"]


def _input_bits(record: RunRecord, block: int, site: Site) -> int:
    """Bits of a site's input as the run rounded it."""
    rows = dig(result_of(record), "allocation", "weights") or ()
    kept = [row["input_bits"] for row in rows if row["block"] == block and "role" in row and SITE_OF_ROLE[Role(row["role"].split("+")[0])] == site]
    return min(kept, default=record.recipe["activations"]["bits"])


def channel_rows(lines: Mapping[str, np.ndarray], channel: int) -> pd.DataFrame:
    """What one channel loses in each run, its share of the site's error, and its rank among the channels (1 = the largest error)."""
    return pd.DataFrame([{
        "run": name, "squared error / mean square": float(v[channel]), "share of the error": float(v[channel] / v.sum()) if v.sum() else 0.0,
        "rank": int((v > v[channel]).sum()) + 1} for name, v in lines.items()])


# Token by token


@dataclass(frozen=True)
class Tokens:
    """Runs that scored the same tokens, one by one: T = windows x length tokens in a row.

    runs: by name their scores; against: the name of what they are compared with; texts and massive: of all T tokens; methods: names for the colors.
    """

    runs: Mapping[str, TokenScores]
    against: str
    texts: Sequence[str]
    massive: np.ndarray
    length: int

    @property
    def total(self) -> int:
        return len(self.texts)

    @property
    def one(self) -> TokenScores:
        return next(iter(self.runs.values()))

    def differences(self) -> dict[str, np.ndarray]:
        """By run the loss over what it is compared with, [T]; NaN for the first token of a window. A run compared with itself is left out."""
        base = None if self.against == FLOAT else self.runs[self.against].quantized
        return {name: self.row(s.quantized - (s.reference if base is None else base)) for name, s in self.runs.items() if name != self.against}

    def row(self, scored: np.ndarray) -> np.ndarray:
        """Numbers of scored tokens [N, L - 1] as one row [T] with NaN where nothing is scored."""
        blank = np.full((len(scored), 1), np.nan)
        return np.concatenate([blank, scored.astype(np.float64)], axis=1).ravel()

    def window_of(self, token: int) -> tuple[int, int]:
        """The first token of the token's window, and the first of the next."""
        start = token // self.length * self.length
        return start, start + self.length


def scores_of(records: Sequence[RunRecord]) -> tuple[dict[str, TokenScores], list[str]]:
    """By name the scores of the runs that have them, and the names of those that have none."""
    found, missing = {}, []
    for run_id, name in labels_of(records).items():
        record = next(r for r in records if r.run_id == run_id)
        try:
            found[name] = _scores(str(Store().home), record)
        except BadInput:
            missing.append(name)
    return found, missing


@st.cache_resource(max_entries=24, show_spinner=False, hash_funcs={RunRecord: lambda r: (r.run_id, r.finished)})
def _scores(home: str, record: RunRecord) -> TokenScores:
    return token_scores(Store(Path(home)), record)


def side_of(runs: Mapping[str, TokenScores], against: str) -> Tokens:
    """The runs' scores beside each other; they must have scored the same tokens."""
    one = next(iter(runs.values()))
    texts = [one.texts[i] for i in one.tokens.ravel().tolist()]
    massive = np.any([s.is_massive for s in runs.values()], axis=0)
    return Tokens(runs, against, texts, np.flatnonzero(massive.ravel()), one.tokens.shape[1])


def loss_figure(tokens: Tokens, token: int, whole: bool) -> Drawing:
    """Loss differences along the text, or along the chosen token's window."""
    start, end = (0, tokens.total) if whole else tokens.window_of(token)
    lines = {name: values[start:end] for name, values in tokens.differences().items()}
    what = "loss over the float model, nats" if tokens.against == FLOAT else f"loss over {tokens.against}, nats"
    return draw_token_loss(lines, tokens.texts[start:end], massive=tokens.massive.tolist(), length=tokens.length, first=start, now=token, what=what)


def worst_tokens(tokens: Tokens, token: int, whole: bool) -> pd.DataFrame:
    """The tokens at which some run is farthest from what it is compared with."""
    lines = tokens.differences()
    size = np.max([np.abs(np.nan_to_num(v)) for v in lines.values()], axis=0)
    start, end = (0, tokens.total) if whole else tokens.window_of(token)
    order = start + np.argsort(-size[start:end], kind="stable")[:WORST]
    heavy = set(tokens.massive.tolist())
    return pd.DataFrame([{"token": int(i), "text": visible(tokens.texts[i]), "after": _before(tokens, int(i)), "massive": int(i) in heavy,
                          **{name: float(values[i]) for name, values in lines.items()}} for i in order])


def token_rows(tokens: Tokens, token: int) -> pd.DataFrame:
    """What the chosen token cost each run and the float model; empty for the first of a window."""
    window, position = divmod(token, tokens.length)
    if position == 0:
        return pd.DataFrame()
    at = window, position - 1
    rows = [{"run": "float model", "loss": float(tokens.one.reference[at]), "KL": 0.0, "same top token": True}]
    rows += [{"run": name, "loss": float(s.quantized[at]), "KL": float(s.kl[at]), "same top token": bool(s.same_top[at])}
             for name, s in tokens.runs.items()]
    base = rows[0]["loss"] if tokens.against == FLOAT else next(r["loss"] for r in rows if r["run"] == tokens.against)
    return pd.DataFrame([{"run": r["run"], "loss, nats": r["loss"], "probability": float(np.exp(-r["loss"])), "over the base": r["loss"] - base,
                          "KL": r["KL"], "same top token": r["same top token"]} for r in rows])


def context_of(tokens: Tokens, token: int) -> tuple[int, int]:
    """The stretch of the token's window that is shown with it."""
    start, end = tokens.window_of(token)
    return max(start, token - CONTEXT), min(end, token + CONTEXT + 1)


def _before(tokens: Tokens, token: int) -> str:
    start = max(tokens.window_of(token)[0], token - 6)
    return visible("".join(tokens.texts[start:token]))


# Texts


@dataclass(frozen=True)
class Said:
    """The continuations of a prompt that are there, by name of the run ("float model" first), and the recipes of those that are not."""

    made: Mapping[str, Continuation]
    missing: Mapping[str, Recipe]


def said(records: Sequence[RunRecord], prompt: str, count: int) -> Said:
    """What has been generated from a prompt so far."""
    recipes = {"float model": float_recipe(Recipe.from_dict(records[0].recipe))}
    recipes |= {name: Recipe.from_dict(r.recipe) for r, name in zip(records, labels_of(records).values(), strict=True)}
    made = {name: kept_continuation(recipe, prompt, count) for name, recipe in recipes.items()}
    return Said({name: found for name, found in made.items() if found}, {name: recipes[name] for name, found in made.items() if found is None})


def generate(missing: Mapping[str, Recipe], prompt: str, count: int) -> None:
    """Make the continuations that are not there, with a bar; each is kept as soon as it is made.

    Raises:
        RotvizError: the prompt or a recipe cannot be used any more.
    """
    with progress("Generating") as say, _GENERATING:
        for i, (name, recipe) in enumerate(missing.items()):
            finish(continuation(recipe, prompt, count),
                   lambda step, i=i, name=name: say((i + step.fraction) / len(missing), f"{name}: {step.message}"))


def cost_words(records: Sequence[RunRecord], missing: Mapping[str, Recipe]) -> str:
    """What making the missing models again will cost, from what their own runs took for it."""
    names = labels_of(records)
    seconds = {names[r.run_id]: sum((dig(r.result, "seconds") or {}).get(stage, 0.0) for stage in STAGES) for r in records}
    known = {name: seconds[name] for name in missing if name in seconds}
    if not known:
        return "The float model alone: loading it, and the text."
    slowest = max(known, key=known.__getitem__)
    most = f", most of it {slowest} with {duration(known[slowest])}" if len(known) > 1 else ""
    return (f"Runs keep no weights, so they are made again: that took the runs themselves {duration(sum(known.values()))}{most}. Each new token is "
            "one more pass through each model. Two models are in memory meanwhile.")


# Small things


def _numbers(records: Sequence[RunRecord], *path: str) -> np.ndarray:
    found = [dig(r.result, *path) for r in records]
    return np.array([np.nan if v is None else v for v in found], dtype=float)


def _cell(grid: pd.DataFrame, block: int, site: str) -> Any:
    return grid.at[block, site] if block in grid.index and site in grid.columns else np.nan
