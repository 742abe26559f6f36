"""The options of every command that looks at a text through a model, and the Look that they ask for."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rotviz.capture.inspect import Look


def add_look(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument("--model", default="smollm2-135m", help="an embedded name, a hub id, a folder, or a .gguf file")
    parser.add_argument("--text", default="pydoc", help="a text source: pydoc, wikitext2:test, a path to a .txt file")
    parser.add_argument("--prompt", help="the text itself, in place of a source")
    parser.add_argument("--tokens", type=int, default=512, help="how many tokens (2 to 8192)")
    parser.add_argument("--no-bos", action="store_true", help="without the special tokens that the tokenizer adds")


def look_of(options: argparse.Namespace) -> "Look":
    """The Look of parsed options."""
    from rotviz.capture.inspect import Look

    return Look(options.model, options.text, options.tokens, not options.no_bos, options.prompt)
