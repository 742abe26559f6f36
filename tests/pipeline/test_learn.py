"""A run that learns its rotation: what it keeps, finds again, loads, chains and refuses."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from rotviz.errors import BadInput, Cancelled
from rotviz.pipeline import run as pipeline
from rotviz.pipeline.recipe import Recipe, with_changes
from rotviz.pipeline.run import run
from rotviz.surgery.saved import load_plan
from rotviz.types import Slot

SMALL = {"model": "tiny-llama", "weights": {"method": "none"},
         "text": {"calibration": "pydoc", "evaluation": "pydoc", "windows": 2, "length": 64, "samples": 2},
         "rotation": {"method": "dartquant", "dartquant": {"epochs": 1, "share": 0.5}}}


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path / "home"))


def finish(*changes, **keys):
    events = []
    recipe = Recipe.from_dict(with_changes(SMALL, changes))
    return pipeline.finish(run(recipe, **keys), events.append), events


def test_what_is_learned_is_kept_and_found_again():
    first, events = finish()
    learning = first.learning
    assert {"learn", "prove", "walk", "score"} <= {e.stage for e in events}
    assert [e.fraction for e in events] == sorted(e.fraction for e in events)
    assert any("loss" in e.metrics for e in events if e.stage == "learn")
    assert not learning["reused"] and learning["seconds"] > 0 and learning["history"]
    assert 64 <= learning["tokens"] <= 66  # half of 128, and the first of each window
    again, events = finish()
    assert again.learning["reused"] and again.learning["seconds"] == learning["seconds"] and again.learning["file"] == learning["file"]
    assert again.quantized == first.quantized and not any("R1 step" in e.message for e in events)
    json.dumps(again.to_dict(), allow_nan=False)


def test_recipes_that_ask_the_same_of_it_share_it_and_others_do_not():
    file = finish()[0].learning["file"]
    assert finish(("activations.bits", 8), ("kv.bits", 4))[0].learning["file"] == file  # Whip knows no grid
    assert finish(("seed", 1))[0].learning["file"] != file
    assert finish(("rotation.dartquant.loss", "quantization"))[0].learning["file"] != file
    assert finish(("text.samples", 3))[0].learning["file"] != file


def test_a_saved_rotation_is_used_as_it_is():
    learned, _ = finish()
    loaded, _ = finish(("rotation.method", "hadamard"), ("rotation.load", learned.learning["file"]))
    assert loaded.quantized == learned.quantized and loaded.learning["method"] == "dartquant"
    part, _ = finish(("rotation.load", learned.learning["file"]), ("rotation.slots", ["R1", "R4"]))
    assert {p.name for p in part.proofs} >= {"R1", "R4"} and not {"R2", "R3"} & {p.name for p in part.proofs}


def test_the_file_says_what_it_is_and_another_program_can_read_it():
    file = finish()[0].learning["file"]
    plan, meta = load_plan(file_path(file))
    assert meta["method"] == "dartquant" and meta["recipe"]["model"] == "tiny-llama" and meta["seconds"] > 0 and meta["environment"]["torch"]
    tensors = load_file(file)
    assert tensors["r1"].dtype == torch.float64 and tensors["r2"].shape[:2] == (2, 2)
    width = next(int(name.split(".")[1]) for name in tensors if name.startswith("r4."))
    base, signs = tensors[f"r4.{width}.base"], tensors[f"r4.{width}.signs"]
    sylvester = torch.ones(1, 1, dtype=torch.float64)
    while len(sylvester) * len(base) < width:
        sylvester = torch.cat([torch.cat([sylvester, sylvester], 1), torch.cat([sylvester, -sylvester], 1)]) / math.sqrt(2)
    torch.testing.assert_close(plan.r4[width].dense(), signs[:, None] * torch.kron(base, sylvester))


def test_methods_chain():
    first = finish()[0].learning["file"]
    second, _ = finish(("rotation.method", "dfrot"), ("rotation.dfrot.start", first), ("rotation.dfrot.iterations", 0))
    one, other = load_plan(file_path(first))[0], load_plan(file_path(second.learning["file"]))[0]
    torch.testing.assert_close(other.r1.dense(), one.r1.dense(), rtol=0, atol=1e-6)
    assert all(torch.equal(a.dense(), b.dense()) for x, y in zip(one.r2, other.r2) for a, b in zip(x, y))


def test_slots_that_are_not_learned_need_no_learning():
    result, events = finish(("rotation.slots", ["R3", "R4"]))
    assert result.learning is None and "learn" not in {e.stage for e in events}


def test_cancelled_while_it_learns(tmp_path):
    learned = []
    with pytest.raises(Cancelled):
        pipeline.finish(run(Recipe.from_dict(SMALL), cancelled=lambda: len(learned) > 3), lambda e: learned.append(e) if e.stage == "learn" else None)
    assert not list((tmp_path / "home" / "rotations").rglob("*.safetensors")), "neither a rotation nor sampled rows are left"
    assert finish()[0].learning["reused"] is False


def test_a_rotation_of_another_model_is_refused():
    file = finish()[0].learning["file"]
    with pytest.raises(BadInput, match="is for another model"):
        finish(("model", "tiny-opt"), ("rotation.load", file))


@pytest.mark.parametrize(("make", "words"), [
    (lambda path: None, "no saved rotation"),
    (lambda path: path.write_bytes(b"PK\x03\x04 not safetensors"), "cannot be read"),
    (lambda path: save_file({"weight": torch.eye(3)}, path), "holds no rotations"),
    (lambda path: save_file({"r1": torch.ones(96, 96)}, path), "not orthogonal"),
    (lambda path: save_file({"r1": torch.full((96, 96), math.nan)}, path), "not orthogonal"),
])
def test_a_file_that_is_no_rotation_is_refused(make, words, tmp_path):
    path = tmp_path / "mine.safetensors"
    make(path)
    with pytest.raises(BadInput, match=words):
        finish(("rotation.load", str(path)))


def test_slots_of_a_plan_can_be_told():
    plan, _ = load_plan(file_path(finish()[0].learning["file"]))
    assert plan.slots == tuple(Slot)


def file_path(name):
    from pathlib import Path

    return Path(name)
