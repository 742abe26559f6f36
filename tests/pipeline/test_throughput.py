"""The benchmark of an evaluation: every way finds the same perplexity, a way that is not installed says so, the command prints one object."""

import json
import math
import os
import statistics
from pydoc_data.topics import topics

import pytest
import torch

from rotviz.cli import main
from rotviz.device import resolve_device
from rotviz.pipeline import throughput
from rotviz.pipeline.throughput import LM_EVAL, lm_eval_installed, measure


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "small.txt"
    path.write_text(topics["assignment"])
    return str(path)


def test_every_way_finds_the_same_perplexity(text):
    home = os.environ["ROTVIZ_HOME"]
    record = measure("tiny-llama", text, windows=2, length=48, rounds=2, device="cpu")
    first = record["rounds"][0]
    assert record["windows"] == 2 and record["length"] == 48 and len(record["rounds"]) == 2
    for way in ("plain", "compare", "first", "again"):
        assert first[way]["seconds"] > 0 and first[way]["perplexity"] == pytest.approx(first["plain"]["perplexity"], rel=1e-4)
        assert record["windows_per_second"][way] > 0
    assert {"per_model", "first", "again"} <= set(record["median_ratios"]) and os.environ["ROTVIZ_HOME"] == home
    floor = record["floor"]
    assert floor["seconds"] == pytest.approx(floor["operations"] / floor["matrix_operations"])
    for way, models in (("plain", 1), ("first", 2)):
        shares = [models * 2 * floor["seconds"] / r[way]["seconds"] for r in record["rounds"]]
        assert 0 < floor["shares"][way] == pytest.approx(statistics.median(shares))
    blocks = 2 * (2 * 80 * 80 + 2 * 40 * 80 + 3 * 80 * 224 + 2 * 80 * 24)
    assert floor["operations"] == 2 * 48 * (blocks + 260 * 80)
    if not lm_eval_installed():
        assert "not installed" in first[LM_EVAL]["note"] and record["windows_per_second"][LM_EVAL] is None


def test_rolling_likelihoods_become_a_perplexity(monkeypatch):
    """What lm-eval is asked, and what is made of its answer; with a stand-in for its request class, which is all that is taken from it here."""
    import sys
    from types import ModuleType, SimpleNamespace

    module = ModuleType("lm_eval.api.instance")
    module.Instance = lambda kind, doc, arguments, idx: SimpleNamespace(kind=kind, args=arguments)
    for name in ("lm_eval", "lm_eval.api"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "lm_eval.api.instance", module)

    class Evaluator:
        def loglikelihood_rolling(self, requests, disable_tqdm):
            assert [request.args for request in requests] == [("one",), ("two",)] and requests[0].kind == "loglikelihood_rolling"
            return [-10.0, -20.0]

    assert throughput.rolling(Evaluator(), ["one", "two"], 10) == pytest.approx(math.exp(3))


def test_the_command(text, capsys):
    few = ["bench", "evaluation", "--model", "tiny-llama", "--text", text, "--windows", "1", "--length", "32", "--device", "cpu"]
    assert main([*few, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["model"] == "tiny-llama" and record["environment"]["torch"] == torch.__version__
    assert main(few) == 0
    out = capsys.readouterr().out
    assert "windows/s" in out and "share of the matrix rate" in out and (lm_eval_installed() or "not installed" in out)
    assert main([*few, "--rounds", "0"]) == 2 and "at least 1" in capsys.readouterr().err
    assert main([*few, "--dtype", "float3"]) == 2
    if resolve_device("auto").type == "cpu":
        assert main([*few[:-1], "cuda"]) == 2 and "no CUDA device" in capsys.readouterr().err
