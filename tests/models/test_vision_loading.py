"""Image classifiers by name: folders through the real loading code, the trained one, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rotviz.errors import BadInput, BrokenCheckpoint, RotvizError, UnknownFamily, UnknownName
from rotviz.models import attention, loading, trained
from rotviz.models.loading import SourceKind, known_models, load, modality_of, model_names, require_text, resolve, weights_mark
from rotviz.models.tiny_vision import TINY_VISION, tiny_vision
from rotviz.models.trained import TRAINED, shortened, train, trained_path
from rotviz.types import Modality

PIXELS = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def save(name: str, folder: Path) -> Path:
    model, processor = tiny_vision(name)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save("tiny-vit", tmp_path_factory.mktemp("vision") / "model")


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return shutil.copytree(saved, tmp_path / "model")


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder: Path, words: str, error: type[RotvizError] = BrokenCheckpoint) -> None:
    with pytest.raises(error, match=words) as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", TINY_VISION)
def test_a_saved_folder_is_the_same_model(name, tmp_path):
    loaded, original = load(str(save(name, tmp_path / "m"))), tiny_vision(name, attention=attention.ATTENTION)[0]
    with torch.no_grad():
        assert torch.equal(loaded.model(pixel_values=PIXELS).logits, original(pixel_values=PIXELS).logits)
    assert loaded.tokenizer is None and loaded.processor.size["height"] == 32 and loaded.processor.backend == "pil"
    assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.model.config._attn_implementation == loading.ATTENTION
    assert modality_of(str(tmp_path / "m")) is Modality.IMAGE


def test_names_of_hub_checkpoints_load(folder):
    """The hub's ViT checkpoints keep the names of the first release; transformers renames them."""
    renamed = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        for new, old in (("vit.layers.", "vit.encoder.layer."), ("attention.q_proj", "attention.attention.query"),
                         ("attention.k_proj", "attention.attention.key"), ("attention.v_proj", "attention.attention.value"),
                         ("attention.o_proj", "attention.output.dense"), ("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense")):
            name = name.replace(new, old)
        renamed[name] = tensor
    assert "vit.encoder.layer.0.attention.attention.query.weight" in renamed
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    with torch.no_grad():
        assert torch.equal(load(str(folder)).model(pixel_values=PIXELS).logits, load("tiny-vit").model(pixel_values=PIXELS).logits)


def test_what_is_refused(folder, tmp_path):
    edit_config(folder, architectures=["SwinForImageClassification"])
    refused(folder, "SwinForImageClassification.*known: .*ViTForImageClassification", UnknownFamily)
    edit_config(folder, architectures=["ViTModel"])
    refused(folder, r"no classifier \(ViTModel\)")
    edit_config(folder, architectures=["ViTForImageClassification"], hidden_size=48)
    refused(folder, "belong together")
    edit_config(folder, hidden_size=96)
    weights = load_file(folder / "model.safetensors")
    dropped = dict(list(weights.items())[1:])
    save_file(dropped, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, "lacks weights")
    weights[next(iter(weights))].view(-1)[0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, "holds NaN")
    (folder / "preprocessor_config.json").unlink()
    refused(folder, "no preprocessor_config.json")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "pickle")


def test_the_image_processor_is_the_checkpoint_s_own(folder):
    path = folder / "preprocessor_config.json"
    plain = json.loads(path.read_text())
    path.write_text(json.dumps(plain | {"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]}))
    pixels = load(str(folder)).processor(images=[torch.full((3, 40, 24), 255, dtype=torch.uint8).numpy()], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 32, 32) and torch.allclose(pixels, torch.ones_like(pixels))
    path.write_text("{ not json")
    refused(folder, "image processor.*cannot be read")


def test_names_and_kinds():
    assert resolve("tiny-vit").kind == SourceKind.TINY and resolve("tiny-vit-trained").kind == SourceKind.TRAINED
    assert {modality_of(name) for name in (*TINY_VISION, *TRAINED)} == {Modality.IMAGE}
    assert modality_of("tiny-llama") is modality_of("smollm2-135m") is modality_of("google/some-vit") is Modality.TEXT
    listed = {entry["name"]: entry for entry in known_models()}
    assert {*TINY_VISION, *TRAINED} <= set(listed) and set(listed) <= set(model_names())
    assert len({weights_mark(name) for name in (*TINY_VISION, *TRAINED)}) == len(TINY_VISION) + len(TRAINED)
    with pytest.raises(UnknownName, match="did you mean 'tiny-vit-trained'"):
        resolve("tiny-vit-traned")


def test_a_vision_model_is_refused_where_text_is_needed():
    require_text("tiny-llama", "this")
    with pytest.raises(BadInput, match="tiny-vit reads images, and the page Rotate needs"):
        require_text("tiny-vit", "the page Rotate")


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """The trained model with a training of a second, in a cache folder of its own."""
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path))
    monkeypatch.setitem(TRAINED, "tiny-vit-trained", shortened(TRAINED["tiny-vit-trained"], 8))


@pytest.mark.usefixtures("quick")
def test_the_trained_model_is_trained_once_and_kept(monkeypatch):
    said = []
    first = load("tiny-vit-trained", progress=said.append)
    assert first.notes == (loading.TRAINED_NOTE,) and first.model.config.id2label[0] == "disc"
    monkeypatch.setattr(trained, "train", lambda *_: pytest.fail("trained twice"))
    with torch.no_grad():
        assert torch.equal(load("tiny-vit-trained").model(pixel_values=PIXELS).logits, first.model(pixel_values=PIXELS).logits)
    (trained_path("tiny-vit-trained") / "model.safetensors").unlink()
    with pytest.raises(pytest.fail.Exception, match="trained twice"):  # a damaged copy is made anew
        load("tiny-vit-trained")


def test_training_repeats_from_its_seed_and_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    short = shortened(TRAINED["tiny-vit-trained"], 3)
    one, two = (train(short).state_dict() for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[name], two[name]) for name in one)
