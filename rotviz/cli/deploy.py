"""rotviz deploy RUN --to DIR: a finished run as a model that runs in bits, in a folder that stands on its own.

Packed weights, activations quantized on the fly, a KV cache of codes. rotviz.deployment.folder.load(DIR) gives a transformers model with `generate`;
--prompt lets the folder continue a text at once, read back from the disk.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from rotviz.cli.output import Progress, print_json, print_table
from rotviz.errors import BadInput


def add(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("deploy", help="pack a run into a model that runs in bits", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run id, or its beginning")
    parser.add_argument("--to", metavar="DIR", help="a folder that is new or empty; without it, one below ROTVIZ_HOME")
    parser.add_argument("--dtype", default="", help="of embedding, head and norms; without it, the recipe's")
    parser.add_argument("--device", default="", help="auto, cpu or cuda; without it, the recipe's")
    parser.add_argument("--prompt", help="a text to continue with the deployed model")
    parser.add_argument("--tokens", type=int, default=20, help="how many tokens to continue it by")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=handle)


def handle(options: argparse.Namespace) -> int:
    """Deploy it."""
    from dataclasses import replace

    from rotviz.deployment.build import deploy
    from rotviz.deployment.folder import load, save
    from rotviz.deployment.shelf import deployed_folder, refuse_filled
    from rotviz.deployment.size import weigh
    from rotviz.pipeline.recipe import Recipe
    from rotviz.store.runs import Status, Store

    record = Store().get(options.run)
    if record.status is not Status.DONE:
        raise BadInput(f"run {record.run_id} is {record.status}: only a finished run can be deployed")
    if options.tokens < 1:
        raise BadInput(f"tokens = {options.tokens}: at least 1")
    target = Path(options.to).expanduser().absolute() if options.to else deployed_folder(record.run_id)
    refuse_filled(target)
    recipe = Recipe.from_dict(record.recipe)
    recipe = replace(recipe, device=options.device) if options.device else recipe
    progress = Progress()
    deployed = deploy(recipe, dtype=options.dtype, say=progress)
    progress.close()
    files, parts = save(deployed, target), weigh(deployed)
    text = _continued(load(target, recipe.device), options.prompt, options.tokens) if options.prompt else None
    if options.json:
        print_json({"run_id": record.run_id, "folder": str(target), "files": files, "bytes": [part.to_dict() for part in parts], "text": text})
        return 0
    print_table([{"part": p.name, "MB": p.measured / 1e6, "predicted MB": p.predicted / 1e6, "16 bits MB": p.float16 / 1e6} for p in parts],
                ["part", "MB", "predicted MB", "16 bits MB"])
    sys.stdout.write(f"{target}: {', '.join(files)}\n" + (f"\n{text}\n" if text else ""))
    return 0


def _continued(deployed: Any, prompt: str, tokens: int) -> str:
    ids = deployed.tokenizer(prompt, return_tensors="pt").to(deployed.model.device)
    found = deployed.model.generate(**ids, max_new_tokens=tokens, do_sample=False)
    return deployed.tokenizer.decode(found[0], skip_special_tokens=True)
