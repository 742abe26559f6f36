"""Broken models and a full disk, met by way of a page: one message in words, no traceback."""

import errno
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from streamlit.testing.v1 import AppTest

from rotviz.models.loading import load

APP = Path(__file__).resolve().parents[2] / "app.py"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    loaded = load("tiny-llama")
    loaded.model.save_pretrained(tmp_path / "model")
    loaded.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def message_of(model: str) -> str:
    at = AppTest.from_file(str(APP), default_timeout=60)
    at.query_params["m"], at.query_params["n"] = model, "32"
    at.switch_page("pages/overview.py").run()
    assert not at.exception and len(at.error) == 1
    return at.error[0].value


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def poisoned(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def another_architecture(folder: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = load("tiny-llama").tokenizer
    shutil.rmtree(folder)
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=260)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(("damage", "words"), [
    (truncated, "truncated|shorter|cut"), (pickled, "pickle"), (poisoned, "NaN|not a number|finite"),
    (lambda f: (f / "config.json").unlink(), "config.json"), (shutil.rmtree, "no folder or file"),
    (another_architecture, "GPT2LMHeadModel.*known"),
], ids=["truncated", "pickled", "NaN", "no config", "missing", "unknown architecture"])
def test_broken_models(folder, damage, words):
    damage(folder)
    assert re.search(words, message_of(str(folder)))


def test_a_full_disk(folder, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkstemp", full)
    assert "no room left" in message_of(str(folder))
