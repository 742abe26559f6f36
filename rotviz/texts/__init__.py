"""Texts and the token windows made from them.

    source -> text -> tokens -> windows [N, L]

A source is a registered corpus with an optional split ("wikitext2:test", "pydoc") or the path of a .txt file. A new corpus is one new
file in this folder. What a perplexity was measured on is said in words by `TextWindows.protocol`: two numbers may stand in one column
only if their protocols are equal.
"""

from rotviz.texts.file import text_from_bytes
from rotviz.texts.source import TEXTS, load_text, text_mark
from rotviz.texts.windows import TextWindows, calibration_windows, evaluation_windows, prompt_tokens, token_texts, tokenize

__all__ = ["TEXTS", "TextWindows", "calibration_windows", "evaluation_windows", "load_text", "prompt_tokens", "text_from_bytes", "text_mark",
           "token_texts", "tokenize"]
