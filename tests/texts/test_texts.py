"""Texts: the same text by every way it can be had, windows that are what their protocol says, and refusals one can act on."""

import gzip
import json
import random
from pydoc_data.topics import topics

import pytest
import torch

from rotviz.errors import BadInput, BadText, RotvizError, UnknownName
from rotviz.models.tiny import BOS, byte_tokenizer
from rotviz.texts import (
    TEXTS,
    calibration_windows,
    evaluation_windows,
    load_text,
    prompt_tokens,
    source,
    text_from_bytes,
    tokenize,
)

RAW = " \n = Title = \n \n A paragraph \u2028 with a line separator . \n Another @-@ one . \n"
ROWS = ["", " = Title = \n", "", " A paragraph \u2028 with a line separator . \n", " Another @-@ one . \n"]


@pytest.fixture
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with local corpora."""
    (tmp_path / "wikitext-2-raw").mkdir()
    (tmp_path / "wikitext-2-raw" / "wiki.test.raw").write_text(RAW, encoding="utf-8")
    monkeypatch.setenv("ROTVIZ_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def letters(tmp_path):
    """A file of 100 bytes: 101 tokens."""
    path = tmp_path / "letters.txt"
    path.write_text("abcdefghij" * 10)
    return str(path)


def refused(call, *words: str, error: type[RotvizError] = BadText) -> None:
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


class FakeDatasets:
    """Stands for the package `datasets`: answers with rows, or fails."""

    def __init__(self, rows=None):
        self.rows, self.asked = rows, []

    def load_dataset(self, dataset, /, **how):
        self.asked.append((dataset, how))
        if self.rows is None:
            raise ConnectionError("Couldn't reach the hub")
        return {"text": self.rows}


def use(monkeypatch, datasets):
    real = source.importlib.import_module
    monkeypatch.setattr(source.importlib, "import_module", lambda name: datasets if name == "datasets" else real(name))
    return datasets


def test_the_registry_finds_the_files():
    assert set(TEXTS) == {"wikitext2", "c4", "pydoc"}
    for name, corpus in TEXTS.items():
        assert corpus.default_split in corpus.splits and corpus.join and corpus.__doc__, name


def test_wikitext_from_a_file_is_wikitext_from_the_hub(data, monkeypatch):
    from_file = load_text("wikitext2:test")
    assert from_file == load_text("wikitext2") == "\n\n".join(ROWS)
    monkeypatch.delenv("ROTVIZ_DATA")
    hub = use(monkeypatch, FakeDatasets(ROWS))
    assert load_text("wikitext2:test") == from_file
    assert hub.asked == [("Salesforce/wikitext", {"name": "wikitext-2-raw-v1", "split": "test"})]


def test_c4_takes_the_first_documents(data):
    (data / "c4").mkdir()
    with gzip.open(data / "c4" / "c4-validation.00000-of-00008.json.gz", "wt") as file:
        file.writelines(json.dumps({"text": f"doc{i}", "url": "x"}) + "\n" for i in range(1200))
    text = load_text("c4:validation")
    assert text.startswith("doc0 doc1 ") and text.endswith(" doc1099")


def test_damaged_c4(data):
    (data / "c4").mkdir()
    (data / "c4" / "x.json.gz").write_bytes(b"no gzip")
    refused(lambda: load_text("c4"), "x.json.gz", "no shard of C4")


def test_pydoc_is_always_there_and_its_halves_are_disjoint(monkeypatch):
    use(monkeypatch, FakeDatasets())
    whole, validation, test = (load_text(f"pydoc{split}") for split in ("", ":validation", ":test"))
    assert len(whole) > 100_000
    assert 0.9 * len(whole) < len(validation) + len(test) <= len(whole)
    for topic in topics.values():
        assert topic in whole and (topic in validation) != (topic in test)


def test_offline_names_the_alternatives(monkeypatch):
    use(monkeypatch, FakeDatasets())
    for name in ("wikitext2:test", "c4"):
        refused(lambda name=name: load_text(name), "cannot be fetched", "ROTVIZ_DATA", "pydoc")


def test_a_split_that_the_folder_lacks_comes_from_the_hub(data, monkeypatch):
    use(monkeypatch, FakeDatasets(["a", "b"]))
    assert load_text("wikitext2:train") == "a\n\nb"


def test_datasets_not_installed(monkeypatch):
    def missing(name):
        raise ImportError(name)

    list(TEXTS)  # found before imports fail
    monkeypatch.setattr(source.importlib, "import_module", missing)
    refused(lambda: load_text("wikitext2"), "datasets is not installed", "ROTVIZ_DATA", "pydoc")


def test_data_folder_that_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("ROTVIZ_DATA", str(tmp_path / "nothing"))
    refused(lambda: load_text("wikitext2"), "ROTVIZ_DATA", "no folder", error=BadInput)


@pytest.mark.parametrize(("name", "error", "words"), [
    ("wikitext", UnknownName, ["did you mean 'wikitext2'"]),
    ("wikitext2:valid", UnknownName, ["did you mean 'validation'"]),
    ("", BadText, ["no text is named", "pydoc"]),
    ("missing.txt", BadText, ["no text file missing.txt"]),
    ("a/b", BadText, ["no text file a/b"]),
])
def test_names_that_stand_for_nothing(name, error, words):
    refused(lambda: load_text(name), *words, error=error)


# What somebody brings.


@pytest.mark.parametrize(("content", "word"), [
    (b"", "empty"),
    (b" \n\t ", "empty"),
    (b"\xef\xbb\xbf", "empty"),
    (b"\x89PNG\r\n\x1a\n\0\0\0", "binary"),
    ("text".encode("utf-16"), "UTF-16"),
    ("café".encode("latin-1"), "not UTF-8"),
])
def test_bytes_that_are_no_text(content, word, tmp_path):
    refused(lambda: text_from_bytes(content, "upload.txt"), "upload.txt", word)
    path = tmp_path / "t.txt"
    path.write_bytes(content)
    refused(lambda: load_text(str(path)), "t.txt", word)


def test_bytes_become_text():
    assert text_from_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree \xf0\x9f\x99\x82", "x") == "one\ntwo\nthree 🙂"


def test_a_folder_is_no_text(tmp_path):
    refused(lambda: load_text(str(tmp_path)), "is a folder")


# Windows.


def test_tokenize_puts_bos_once(tokenizer):
    ids = tokenize("naïve", tokenizer)
    assert ids.dtype == torch.long and ids.tolist() == [BOS, *"naïve".encode()]
    refused(lambda: tokenize("  ", tokenizer), "empty")
    refused(lambda: tokenize("half \ud83d", tokenizer), "surrogate", "position 5")


def test_evaluation_windows_are_the_text_without_its_tail(letters, tokenizer):
    everything = tokenize(load_text(letters), tokenizer)
    found = evaluation_windows(letters, tokenizer, 30, 0)
    assert found.tokens.shape == (3, 30) and found.total_tokens == 101
    assert torch.equal(found.tokens.flatten(), everything[:90])
    assert torch.equal(evaluation_windows(letters, tokenizer, 30, 2).tokens, found.tokens[:2])


def test_protocol_says_what_was_done(letters, tokenizer, data):
    protocol = evaluation_windows(letters, tokenizer, 30, 0).protocol
    for words in ("letters.txt", "BOS once", "all 3 x 30", "29 scored"):
        assert words in protocol
    assert str(data) not in protocol, "a protocol is shown to others: no folders"
    protocol = evaluation_windows("wikitext2:test", tokenizer, 16, 2).protocol
    for words in ("wikitext2 test", "joined by a blank line", "first 2 x 16"):
        assert words in protocol
    bare = byte_tokenizer()
    bare.backend_tokenizer.post_processor = None
    protocol = calibration_windows(letters, bare, 30, 4, seed=5).protocol
    for words in ("4 x 30", "seed 5", "no BOS"):
        assert words in protocol


def test_calibration_windows_are_those_of_gptq(letters, tokenizer):
    everything = tokenize(load_text(letters), tokenizer)
    found = calibration_windows(letters, tokenizer, 30, 5, seed=3)
    rng = random.Random(3)
    starts = [rng.randint(0, 101 - 30 - 1) for _ in range(5)]
    assert torch.equal(found.tokens, torch.stack([everything[s : s + 30] for s in starts]))
    assert torch.equal(found.tokens, calibration_windows(letters, tokenizer, 30, 5, seed=3).tokens)
    assert not torch.equal(found.tokens, calibration_windows(letters, tokenizer, 30, 5, seed=4).tokens)


def test_calibration_leaves_the_global_generator_alone(letters, tokenizer):
    random.seed(1)
    expected = random.random()
    random.seed(1)
    calibration_windows(letters, tokenizer, 30, 5, seed=3)
    assert random.random() == expected


def test_a_window_as_long_as_the_text(letters, tokenizer):
    assert evaluation_windows(letters, tokenizer, 101, 1).tokens.shape == (1, 101)
    assert calibration_windows(letters, tokenizer, 101, 2, seed=0).tokens.shape == (2, 101)


def test_too_few_tokens_says_how_many(letters, tokenizer):
    refused(lambda: evaluation_windows(letters, tokenizer, 30, 4), "101 tokens", "4 windows of 30", "120")
    refused(lambda: evaluation_windows(letters, tokenizer, 102, 0), "101 tokens", "102")
    refused(lambda: calibration_windows(letters, tokenizer, 2048, 4, seed=0), "101 tokens", "2048")


def test_counts_that_make_no_window(letters, tokenizer):
    refused(lambda: evaluation_windows(letters, tokenizer, 1, 1), "length = 1", error=BadInput)
    refused(lambda: evaluation_windows(letters, tokenizer, 30, -1), "windows = -1", "0 = all", error=BadInput)
    refused(lambda: calibration_windows(letters, tokenizer, 30, 0, seed=0), "samples = 0", error=BadInput)


def test_prompt_tokens(tokenizer):
    assert prompt_tokens("abc", tokenizer, 10).tolist() == [BOS, *b"abc"]
    assert prompt_tokens("abc", tokenizer, 10, bos=False).tolist() == [*b"abc"]
    assert prompt_tokens("abc", tokenizer, 3).tolist() == [BOS, *b"ab"]
    long = "🙂 word " * 5000
    assert prompt_tokens(long, tokenizer, 500).tolist() == tokenize(long, tokenizer)[:500].tolist()
    refused(lambda: prompt_tokens("a", tokenizer, 10, bos=False), "1 token", "at least 2")
    refused(lambda: prompt_tokens("", tokenizer, 10), "empty")
    refused(lambda: prompt_tokens("abc", tokenizer, 1), error=BadInput)
