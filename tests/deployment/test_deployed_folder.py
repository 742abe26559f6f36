"""A deployed model on disk: it comes back as it was, in another process too, without the original; broken folders are refused in words."""

import json
import os
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch
from safetensors.torch import load_file, save_file

from rotviz.cli import main
from rotviz.deployment.build import deploy
from rotviz.deployment.folder import ROTATIONS, WEIGHTS, load, save
from rotviz.deployment.shelf import DESCRIPTION, kept_benchmark
from rotviz.device import resolve_device
from rotviz.errors import BadInput, BrokenCheckpoint
from rotviz.jobs.execute import execute_now
from rotviz.models.loading import load as load_model
from rotviz.models.tiny import TINY
from rotviz.pipeline.recipe import Recipe, with_changes
from rotviz.store.runs import Store

ROOT = Path(__file__).resolve().parents[2]
CPU_ONLY = resolve_device("auto").type == "cpu"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text(topics["assignment"])
    return {"model": "tiny-llama", "kv": {"bits": 4},
            "text": {"windows": 1, "length": 32, "samples": 2, "evaluation": str(path), "calibration": str(path)}}


def tokens(length=40):
    ids = torch.randint(0, 256, (1, length), generator=torch.Generator().manual_seed(2))
    ids[:, 0] = 256
    return ids


@pytest.mark.parametrize("name", TINY)
def test_it_comes_back_as_it_was(name, base, tmp_path):
    deployed = deploy(Recipe.from_dict(base | {"model": name}))
    files = save(deployed, tmp_path / "out")
    assert {WEIGHTS, ROTATIONS, DESCRIPTION, "config.json", "tokenizer.json", "recipe.toml", "README.txt"} <= set(files)
    again = load(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(again.model(tokens(), use_cache=False).logits, deployed.model(tokens(), use_cache=False).logits)
    wanted, found = (d.model.generate(tokens(), max_new_tokens=5, do_sample=False, pad_token_id=0, eos_token_id=None) for d in (deployed, again))
    assert torch.equal(wanted, found) and again.recipe == deployed.recipe


@pytest.mark.parametrize("changes", [
    (("rotation.method", "orthogonal"),), (("weights.method", "none"),), (("rotation.method", "none"), ("kv.bits", 16)),
    (("scaling.method", "smoothquant"),), (("allocation.method", "listed"), ("allocation.listed.keep", ["1.q", "0.down=16"])),
    (("weights.group", 16), ("model", "tiny-llama-tied"), ("rotation.slots", ["R4"]))], ids=str)
def test_other_recipes_come_back(changes, base, tmp_path):
    deployed = deploy(Recipe.from_dict(with_changes(base, changes)), dtype="bfloat16")
    save(deployed, tmp_path / "out")
    again = load(tmp_path / "out")
    assert again.model.dtype == torch.bfloat16
    with torch.no_grad():
        assert torch.equal(again.model(tokens(), use_cache=False).logits, deployed.model(tokens(), use_cache=False).logits)


def test_a_run_is_deployed_and_continues_a_text_in_another_process(base, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path / "home"))
    run_id = execute_now(Store(), Recipe.from_dict(base))["run_id"]
    folder = tmp_path / "deployed"
    assert main(["deploy", run_id, "--to", str(folder), "--prompt", "The", "--tokens", "4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["run_id"] == run_id and told["folder"] == str(folder) and told["text"].startswith("The")
    assert {part["name"] for part in told["bytes"]} >= {"attention weights", "MLP weights", "KV cache"}
    script = f"""
from pathlib import Path
from rotviz.deployment.folder import load
deployed = load(Path({str(folder)!r}))
ids = deployed.tokenizer("The", return_tensors="pt")
print(repr(deployed.tokenizer.decode(deployed.model.generate(**ids, max_new_tokens=4, do_sample=False)[0], skip_special_tokens=True)))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ROTVIZ_HOME": str(tmp_path / "other-home")}
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=120, check=True)
    assert found.stdout.strip() == repr(told["text"])
    assert main(["deploy", run_id, "--to", str(folder)]) == 2 and "new or empty" in capsys.readouterr().err
    assert main(["deploy", run_id, "--device", "cuda" if CPU_ONLY else "abacus"]) == 2
    assert "device" in capsys.readouterr().err
    assert main(["deploy", run_id]) == 0
    assert (tmp_path / "home" / "deployed" / run_id / DESCRIPTION).is_file() and "KV cache" in capsys.readouterr().out


def test_only_finished_runs(base, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path))
    run_id = Store().create(Recipe.from_dict(base))
    assert main(["deploy", run_id, "--to", str(tmp_path / "x")]) == 2
    assert "only a finished run" in capsys.readouterr().err


def test_broken_folders_are_refused(base, tmp_path):
    with pytest.raises(BrokenCheckpoint, match="not a deployed model"):
        load(tmp_path)
    folder = tmp_path / "out"
    deployed = deploy(Recipe.from_dict(base))
    save(deployed, folder)
    with pytest.raises(BadInput, match="new or empty"):
        save(deployed, folder)
    with pytest.raises(BrokenCheckpoint, match="is a deployed model"):
        load_model(str(folder))
    tensors = load_file(folder / WEIGHTS)
    whole = (folder / WEIGHTS).read_bytes()
    tensors.pop("model.layers.1.mlp.down_proj.data")
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(BrokenCheckpoint, match=r"down_proj\.data; deploy the run again"):
        load(folder)
    (folder / WEIGHTS).write_bytes(whole[:-100])
    with pytest.raises(BrokenCheckpoint, match="cannot be read"):
        load(folder)
    (folder / WEIGHTS).write_bytes(whole)
    save_file({"nothing": torch.zeros(1)}, folder / ROTATIONS)
    with pytest.raises(BrokenCheckpoint, match="lacks r4"):
        load(folder)
    description = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps(description | {"version": 99}))
    with pytest.raises(BrokenCheckpoint, match="layout 99"):
        load(folder)


def test_bench_deployment(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path))
    assert kept_benchmark() is None
    few = ["--model", "tiny-llama", "--prompt", "8", "--tokens", "2", "--rounds", "1", "--context", "16", "--device", "cpu"]
    assert main(["bench", "deployment", *few, "--bits", "W4A4KV4", "--bits", "W8A16KV16", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [row["title"].split()[-2] for row in record["rows"]] == ["W4A4KV4", "W8A16KV16"] and kept_benchmark() == record
    assert record["environment"]["torch"] and "not measured" in record["rows"][0]["not_measured"]
    assert main(["bench", "deployment", *few, "--bits", "W4A4KV4"]) == 0
    assert record["rows"][0]["median"]["deployed"]["replayed"] is None
    out = capsys.readouterr().out
    assert "decode, a CUDA graph a step" in out and "predicted MB" in out and "not measured" in out
    assert main(["bench", "deployment", *few, "--bits", "four"]) == 2 and "W4A4KV4" in capsys.readouterr().err
    assert main(["bench", "deployment", *few, "--set", "weights.format=fp4", "--bits", "W4A4KV4"]) == 2
    capsys.readouterr()
    assert main(["bench", "deployment", *few, "--set", "model=tiny-llama-tied", "--bits", "W4A16KV16", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert row["recipe"]["model"] == "tiny-llama-tied" and row["model_bytes"]["reference"] != record["rows"][0]["model_bytes"]["reference"]
    if CPU_ONLY:
        assert main(["bench", "deployment", *few[:-1], "cuda"]) == 2 and "no CUDA device" in capsys.readouterr().err
