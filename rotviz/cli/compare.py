"""rotviz compare RUN RUN...: runs side by side, in what their recipes differ and what that does, losses by token, and what their models say.

With --prompt the float model and each run's model continue a text greedily; a run keeps no weights, so they are made again from its recipe.
"""

import argparse
import math
import sys
from typing import Any

from rotviz.cli.output import Progress, print_json, print_table
from rotviz.errors import BadInput


def add(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("compare", help="compare runs", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="two or more run ids, or their beginnings")
    parser.add_argument("--prompt", help="let the float model and every run's model continue this text")
    parser.add_argument("--new-tokens", type=int, default=32, metavar="N", help="how many tokens at most (32)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=handle)


def handle(options: argparse.Namespace) -> int:
    """Compare them."""
    from rotviz.cli.runs import measured_columns, protocol_of, row
    from rotviz.pipeline.repeat import differences
    from rotviz.reports.compare import effects_of, known_scores, token_summary
    from rotviz.store.runs import Store

    if len(options.runs) < 2:
        raise BadInput("compare takes two or more runs; rotviz runs lists them")
    store = Store()
    records = [store.get(run) for run in options.runs]
    rows = [row(record) for record in records]
    found = differences([record.recipe for record in records])
    protocols = {protocol_of(r.result) for r in records} - {None}
    effects = effects_of(store, records)
    tokens = token_summary(known_scores(store, records))
    texts = _continuations(records, options.prompt, options.new_tokens) if options.prompt is not None else None
    if options.json:
        print_json({"runs": rows, "differences": found, "same_protocol": len(protocols) <= 1,
                    "effects": [_effect(change, effect) for change, effect in effects], "tokens": tokens, "continuations": texts})
        return 0
    print_table(rows, ["run", "status", "recipe", *measured_columns(rows), "seconds"])
    sys.stdout.write("\nwhat differs in their recipes\n")
    print_table([{"key": key} | {r.run_id: value for r, value in zip(records, values)} for key, values in found.items()],
                ["key", *(r.run_id for r in records)])
    if any(row["perplexity"] is not None for row in rows):
        _print_effects(effects)
    _print_tokens(records, tokens)
    for one in texts or []:
        where = "" if one["first_divergence"] is None else f" (differs from token {one['first_divergence']})"
        sys.stdout.write(f"\n{one['run'] or 'float model'}{where}: {one['text']}\n")
    if len(protocols) > 1:
        sys.stdout.write("\nTheir numbers follow different protocols and must not be compared:\n" + "\n".join(sorted(protocols)) + "\n")
    return 0


def _effect(change: Any, effect: Any) -> dict[str, Any]:
    """One difference from the first run as plain values; the step is of log perplexity, factors multiply perplexity."""
    from rotviz.reports.compare import effect_words

    numbers = {name: value if math.isfinite(value) else None
               for name, value in (("nats", effect.mean), ("low", effect.low), ("high", effect.high))}
    return {"key": change.key, "before": change.before, "after": change.after, "pairs": effect.pairs, **numbers,
            "factor": math.exp(effect.mean) if effect.pairs else None, "words": effect_words(change, effect),
            "with": [{"key": key, "before": before, "after": after} for key, before, after in change.items]}


def _print_effects(effects: Any) -> None:
    if not effects:
        return
    from rotviz.reports.compare import effect_words

    sys.stdout.write("\nwhat the differences from the first run do to perplexity (mean over pairs of runs that differ in it alone, 95 % interval)\n")
    print_table([{"key": change.key, "from": change.before, "to": change.after, "effect": effect_words(change, effect), "pairs": effect.pairs}
                 for change, effect in effects], ["key", "from", "to", "effect", "pairs"])


def _print_tokens(records: Any, tokens: dict[str, Any]) -> None:
    rows = [{"run": r.run_id, "mean": found["mean"], "median": found["median"], "p99": found["p99"], "worse by a nat": found["worse_by_a_nat"],
             "worst token": repr(found["largest"][0]["token"]), "its extra loss": found["largest"][0]["difference"]}
            for r, found in zip(records, tokens["runs"]) if found]
    if rows:
        sys.stdout.write("\nloss by token over the float model, nats\n")
        print_table(rows, ["run", "mean", "median", "p99", "worse by a nat", "worst token", "its extra loss"])


def _continuations(records: Any, prompt: str, count: int) -> list[dict[str, Any]]:
    """What the float model (first, without a run) and every run's model say."""
    from rotviz.pipeline.generation import continuation, first_divergence, float_recipe
    from rotviz.pipeline.recipe import Recipe
    from rotviz.pipeline.run import finish

    if len({(r.model, r.recipe.get("dtype")) for r in records}) > 1:
        raise BadInput("these runs have different models, so they do not share a float model to continue a text from; compare runs of one model")
    recipes = [Recipe.from_dict(r.recipe) for r in records]
    progress, found = Progress(), []
    names = [None, *(r.run_id for r in records)]
    for i, (name, recipe) in enumerate(zip(names, [float_recipe(recipes[0]), *recipes])):
        said = finish(continuation(recipe, prompt, count),
                      lambda step, i=i, name=name: progress((i + step.fraction) / len(names), f"{name or 'float model'}: {step.message}"))
        found.append((name, said))
    progress.close()
    return [{"run": name, "text": "".join(said.texts), "tokens": list(said.tokens), "texts": list(said.texts), "ended": said.ended,
             "probabilities": list(said.probabilities), "first_divergence": first_divergence(found[0][1], said)} for name, said in found]
