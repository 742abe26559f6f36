"""The text of tokens: joined they are the text, also where a character is several tokens."""

import pytest

from rotviz.models.loading import load
from rotviz.texts import prompt_tokens, token_texts
from rotviz.types import CONTINUED


@pytest.fixture(scope="module")
def tokenizer():
    return load("tiny-llama").tokenizer


@pytest.mark.parametrize("text", ["Grüße aus München.", "你好,世界", "a 👩‍🚀 flies 🏳️‍🌈", "naïve", "plain"])
def test_pieces_of_one_character_are_joined(tokenizer, text):
    tokens = prompt_tokens(text, tokenizer, 128, bos=False)
    found = token_texts(tokenizer, tokens)
    assert len(found) == len(tokens) and "\ufffd" not in "".join(found)
    assert "".join(t for t in found if t != CONTINUED).strip() == text
    if text == "你好,世界":
        assert found.count(CONTINUED) == len(tokens) - 5 and {"你", "好", "世", "界"} <= {t.strip() for t in found}


def test_broken_bytes_stay_broken(tokenizer):
    tokens = prompt_tokens("你好", tokenizer, 128, bos=False)
    found = token_texts(tokenizer, tokens[:-1])  # the last character lacks a byte
    assert len(found) == len(tokens) - 1 and "\ufffd" in found[-1]


def test_a_replacement_character_that_the_text_holds_is_kept(tokenizer):
    tokens = prompt_tokens("a \ufffd b", tokenizer, 128, bos=False)
    assert len(token_texts(tokenizer, tokens)) == len(tokens)
