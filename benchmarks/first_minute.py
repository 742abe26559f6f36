"""What a newcomer sees before anything is loaded: assets/first_minute.json, made of results that are measured already.

    python benchmarks/first_minute.py [--look]

    comparison   perplexity of none, random orthogonal, randomized Hadamard and peak on the same three windows of 2048 tokens: of the runs in
                 results/rotations.json (ten windows) the first three, of those in results/learned_rotations.json all three
    massive      what rounding loses on the massive token and on the others (results/massive.json), medians over the seeds
    stream       the residual stream of the embedded text, block by block; measured here with --look (some seconds), else kept as it is

Each part carries the date and the machine of its own measurement. The perplexity of windows is exp of the mean of their mean negative
log-likelihoods, since all windows score the same number of tokens; a test holds the file to the raw results.
"""

import argparse
import json
import math
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from record import environment, load

TARGET = Path(__file__).parents[1] / "assets" / "first_minute.json"
WINDOWS = 3
METHODS = ("none", "orthogonal", "hadamard", "peak")
BLOCK, SITE = 14, "mlp_in"
DIGITS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--look", action="store_true", help="measure the residual stream anew")
    options = parser.parse_args()
    before = json.loads(TARGET.read_text()) if TARGET.exists() else {}
    record = distilled() | {"stream": measured_stream() if options.look or "stream" not in before else before["stream"]}
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    print(f"written to {TARGET}")


def distilled() -> dict[str, Any]:
    """Everything but the stream, from the committed results."""
    return {"model": "smollm2-135m", "comparison": comparison(load("rotations"), load("learned_rotations")), "massive": massive(load("massive"))}


def comparison(random: Mapping[str, Any], learned: Mapping[str, Any]) -> dict[str, Any]:
    """Perplexity by method and seed on the first windows; the Hadamard seeds are those of learned_rotations, which has more of them."""
    unlearned = [r for r in random["runs"].values() if r["recipe"]["rotation"]["method"] in ("none", "orthogonal")]
    others = [r for r in learned["runs"].values() if r["setting"] == "W16A4" and r["windows"] == WINDOWS and r["method"] in ("hadamard", "peak")]
    runs = [(r["recipe"]["rotation"]["method"], r["recipe"]["seed"], r) for r in (*unlearned, *others)]
    rows = []
    for method in METHODS:
        found = sorted((seed, first_windows(run, "quantized")) for name, seed, run in runs if name == method)
        rows.append({"method": method, "seeds": [seed for seed, _ in found], "perplexity": [rounded(value) for _, value in found]})
    taken = next(r for r in others if r["method"] == "hadamard")
    learning = [r["learning"]["seconds"] for r in others if r["method"] == "peak"]
    recipe = taken["recipe"]
    return {
        **made(random["environment"], *(r["environment"] for r in others)), "results": ["rotations", "learned_rotations"],
        "protocol": taken["perplexity"]["quantized"]["protocol"], "tokens": taken["perplexity"]["quantized"]["tokens"],
        "float": rounded(first_windows(taken, "reference")), "rows": rows,
        "recipe": {"model": recipe["model"], "weights": {"method": recipe["weights"]["method"]},
                   "activations": {key: recipe["activations"][key] for key in ("bits", "symmetric", "clip")},
                   "text": {key: recipe["text"][key] for key in ("calibration", "evaluation", "samples", "length", "windows")}},
        "learning": {"length": 512, "seconds": [round(s) for s in learning]},
    }


def first_windows(run: Mapping[str, Any], model: str) -> float:
    """Perplexity on the first windows."""
    return math.exp(statistics.mean(run["perplexity"][model]["by_window"][:WINDOWS]))


def massive(found: Mapping[str, Any]) -> dict[str, Any]:
    """The massive token and what each method loses on it and on the rest, at one site of one block."""
    rows = {}
    for method in METHODS[:3]:
        here = [e for e in found["errors"] if (e["block"], e["site"], e["method"]) == (BLOCK, SITE, method)]
        rows[method] = {kind: rounded(statistics.median(e[kind] for e in here)) for kind in ("massive", "ordinary")}
    return {**made(found["environment"]), "results": ["massive"], "block": BLOCK, "site": SITE, "token": found["massive_tokens"][0], "errors": rows}


def measured_stream() -> dict[str, Any]:
    """The three largest numbers and the median of the residual stream after every block, 512 tokens of the embedded text."""
    from rotviz.capture.inspect import Look, look
    from rotviz.evaluation.stream import stream_of

    seen = look(Look())
    found = stream_of(seen)
    strongest = found.peaks.argmax(axis=1)
    return {
        **made(environment()), "text": "pydoc", "tokens": len(seen.tokens),
        "top": [[rounded(v) for v in row] for row in found.top.tolist()], "median": [rounded(v) for v in found.median.tolist()],
        "where": [{"token": int(t), "text": seen.tokens[t], "channel": int(found.channels[b, t])} for b, t in enumerate(strongest)],
    }


def made(*environments: Mapping[str, Any]) -> dict[str, Any]:
    """When and on what."""
    return {"date": max(e["date"] for e in environments), "machine": alike(e["processor"] for e in environments),
            "threads": alike(str(e["threads"]) for e in environments),
            "versions": {name: alike(e[name] for e in environments) for name in ("rotviz", "torch", "transformers")}}


def alike(words: Iterable[str]) -> str:
    """One word where all are the same, else all of them."""
    return " or ".join(sorted(set(words)))


def rounded(value: float) -> float:
    """Six significant digits."""
    return float(f"{value:.{DIGITS}g}")


if __name__ == "__main__":
    main()
