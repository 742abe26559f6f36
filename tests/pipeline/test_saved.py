"""What was learned on this machine, as its files' headers tell."""

import os
from pathlib import Path

import pytest

from rotviz.jobs.execute import execute_now
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.saved import saved_rotations
from rotviz.store.runs import Store


def learned(method: str, model: str = "tiny-llama", seed: int = 0, **settings: object) -> None:
    execute_now(Store(), Recipe.from_dict({
        "model": model, "seed": seed, "text": {"calibration": "pydoc", "evaluation": "pydoc", "samples": 2, "length": 48, "windows": 1},
        "rotation": {"method": method, method: settings}, "weights": {"method": "none"}}))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory):
    home = tmp_path_factory.mktemp("saved-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROTVIZ_HOME", str(home))
        learned("peak", steps=2)
        learned("dfrot", seed=3, iterations=2)
        learned("dfrot", model="tiny-qwen3", iterations=1)
        times = {"peak": 1000, "dfrot": 2000}
        for path in (home / "rotations").glob("*.safetensors"):
            os.utime(path, (times[path.name.split("-")[0]],) * 2)
        yield home


def test_those_of_a_model_come_newest_first_with_their_cost(filled):
    dfrot, peak = saved_rotations("tiny-llama")
    assert (dfrot.method, dfrot.seed, dfrot.created, peak.method, peak.seed) == ("dfrot", 3, 2000, "peak", 0)
    assert peak.seconds > 0 and peak.peak_memory_mb > 0 and peak.tokens > 0 and peak.start == "hadamard"
    assert [m["step"] for m in peak.history if "step" in m][:3] == [0, 1, 2]
    assert peak.title == f"peak, seed 0, {peak.path.stem[-4:]}"
    assert [s.method for s in saved_rotations("tiny-qwen3")] == ["dfrot"]
    assert saved_rotations("smollm2-135m") == []


def test_broken_and_foreign_files_are_passed_over(filled):
    broken = filled / "rotations" / "broken-0000.safetensors"
    broken.write_bytes(b"not a file of tensors")
    assert len(saved_rotations("tiny-llama")) == 2
    broken.unlink()


def test_a_home_without_rotations_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path))
    assert saved_rotations("tiny-llama") == []
