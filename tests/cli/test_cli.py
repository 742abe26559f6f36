"""The command line's promises: one JSON object on standard output, progress on standard error, exit status 0, 2 or 130, one line that says why."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import asked, call

from rotviz.store.runs import Store

SMALL = ["--model", "tiny-llama", "--set", "text.evaluation=pydoc", "--set", "text.windows=2", "--set", "text.length=64"]


def test_run_show_runs_compare(capsys, home):
    first = asked(capsys, "run", *SMALL)
    assert {"run_id", "recipe", "perplexity", "divergence", "seconds", "peak_memory_mb", "errors"} <= set(first)
    second = asked(capsys, "run", *SMALL, "--rotation.method", "none", "--set", "weights.bits=3")
    assert second["recipe"]["rotation"]["method"] == "none" and second["recipe"]["weights"]["bits"] == 3
    listed = asked(capsys, "runs")["runs"]
    assert [r["run_id"] for r in listed] == [second["run_id"], first["run_id"]]
    shown = asked(capsys, "show", first["run_id"])
    assert shown["result"]["perplexity"] == first["perplexity"]
    compared = asked(capsys, "compare", first["run_id"], second["run_id"])
    assert compared["differences"]["weights.bits"] == [4, 3] and compared["same_protocol"]
    assert [effect["key"] for effect in compared["effects"]] == ["rotation.method", "weights.bits"] and compared["continuations"] is None
    assert all(effect["pairs"] == 0 and effect["words"].startswith("not known") for effect in compared["effects"])
    for command in (["runs"], ["show", first["run_id"]], ["compare", first["run_id"], second["run_id"]], ["models"]):
        status, out, _ = call(capsys, *command)
        assert status == 0 and out.strip()


def test_compare_ranks_differences_sums_up_tokens_and_continues_a_text(capsys, home):
    first, bits, rotation = (asked(capsys, "run", *SMALL, "--set", "weights.method=none", *more) for more in
                             (["--kv.bits", "4"], [], ["--kv.bits", "4", "--rotation.method", "none"]))
    ids = [result["run_id"] for result in (first, bits, rotation)]
    compared = asked(capsys, "compare", *ids, "--prompt", "Summer is warm.", "--new-tokens", "4")
    effects = {effect["key"]: effect for effect in compared["effects"]}
    assert set(effects) == {"kv.bits", "rotation.method"} and abs(compared["effects"][0]["nats"]) >= abs(compared["effects"][1]["nats"])
    ratio = bits["perplexity"]["quantized"]["value"] / first["perplexity"]["quantized"]["value"]
    assert effects["kv.bits"]["factor"] == pytest.approx(ratio) and effects["kv.bits"]["pairs"] == 1 and effects["kv.bits"]["low"] is None
    assert compared["tokens"]["same_tokens"]
    for result, found in zip((first, bits, rotation), compared["tokens"]["runs"]):
        perplexity = result["perplexity"]
        assert found["tokens"] == perplexity["quantized"]["tokens"]
        assert found["mean"] == pytest.approx(math.log(perplexity["quantized"]["value"] / perplexity["reference"]["value"]), abs=1e-6)
        assert len(found["largest"]) == 10 and found["largest"][0]["difference"] >= found["p99"] >= found["median"]
    said = compared["continuations"]
    assert [one["run"] for one in said] == [None, *ids] and all(len(one["tokens"]) == 4 for one in said) and said[0]["first_divergence"] is None
    (home / "runs" / ids[0] / "tokens.safetensors").unlink()
    assert asked(capsys, "compare", *ids)["tokens"]["runs"][0] is None
    status, out, _ = call(capsys, "compare", *ids, "--prompt", "Summer is warm.", "--new-tokens", "4")
    assert status == 0 and "float model" in out and "loss by token" in out
    status, _, err = call(capsys, "compare", *ids, "--prompt", "")
    assert status == 2 and "prompt" in err


def test_export_writes_a_folder_that_stands_on_its_own(capsys, home, tmp_path):
    from rotviz.pipeline.recipe import load_recipe
    from rotviz.surgery.saved import load_plan

    first = asked(capsys, "run", *SMALL, "--seed", "3")
    target = tmp_path / "kept"
    exported = asked(capsys, "export", first["run_id"], "--to", str(target))
    assert exported["files"] == ["README.txt", "errors.csv", "recipe.toml", "result.json", "rotation.safetensors", "tokens.safetensors",
                                 "weight_errors.csv"]
    assert load_recipe(target / "recipe.toml").to_dict() == first["recipe"]
    assert json.loads((target / "result.json").read_text())["perplexity"] == first["perplexity"]
    assert (target / "errors.csv").read_text().splitlines()[0].startswith("block,site,relative_mse")
    assert [slot.value for slot in load_plan(target / "rotation.safetensors")[0].slots] == ["R1", "R2", "R3", "R4"]
    again = asked(capsys, "run", str(target / "recipe.toml"), "--set", f"rotation.load={target / 'rotation.safetensors'}")
    assert again["perplexity"]["quantized"]["value"] == pytest.approx(first["perplexity"]["quantized"]["value"], rel=1e-4)
    status, _, err = call(capsys, "export", first["run_id"], "--to", str(target))
    assert status == 2 and "new or empty" in err
    status, _, err = call(capsys, "export", "20990101", "--to", str(tmp_path / "other"))
    assert status == 2 and not (tmp_path / "other").exists()


def test_the_shown_command_line_repeats_the_run(capsys, home):
    import shlex

    first = asked(capsys, "run", *SMALL, "--seed", "3")
    _, out, _ = call(capsys, "show", first["run_id"])
    line = next(x for x in out.splitlines() if x.startswith("repeat it with: "))
    again = asked(capsys, *shlex.split(line.split("python -m rotviz ")[1]))
    assert again["perplexity"] == first["perplexity"] and again["recipe"] == first["recipe"]


STUDY = ["bench", "rounding-study", "--quick", "--seeds", "2", "--iterations", "2", "--windows", "1", "--length", "32", "--samples", "2"]


def test_a_rounding_study_is_planned_made_and_gone_on_with(capsys, home, tmp_path):
    plan = asked(capsys, *STUDY, "--plan")
    assert {p["state"] for p in plan["plan"]} == {"missing"} and len(plan["plan"]) > 30 and plan["base"]["model"] == "tiny-llama"
    first = asked(capsys, *STUDY, "--switches", "augmentation", "--most", "3")
    assert len(first["runs"]) == 3 and first["missing"] == 2 and first["file"].startswith(str(home))
    status, out, err = call(capsys, *STUDY, "--switches", "augmentation")
    assert status == 0 and "H1 not measured" in out and "H1: The choice of the loss" in err and "0.03" in out
    assert len(json.loads(Path(first["file"]).read_text())["runs"]) == 5
    named = asked(capsys, *STUDY, "--switches", "augmentation", "--most", "1", "--to", str(tmp_path / "named.json"), "--set", "weights.bits=2")
    assert named["file"] == str(tmp_path / "named.json") and named["base"]["weights"]["bits"] == 2
    for bad, words in ((["--seeds", "1"], "at least two seeds"), (["--switches", "losses"], "loss"), (["--most", "-1"], "--most"),
                       (["--set", "weights.method=gptq"], "rounding"), (["--to", str(tmp_path / "named.json")], "another base")):
        status, out, err = call(capsys, *STUDY, *bad)
        assert status == 2 and not out and words in err


def test_a_recipe_file_gives_the_same_numbers_as_python(capsys, home, tmp_path):
    from rotviz.pipeline.recipe import Recipe
    from rotviz.pipeline.run import finish, run

    plain = {"model": "tiny-qwen2", "text": {"evaluation": "pydoc", "windows": 2, "length": 64}, "kv": {"bits": 4}}
    recipe = Recipe.from_dict(plain)
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    through_cli = asked(capsys, "run", str(tmp_path / "recipe.toml"))
    assert through_cli["perplexity"] == finish(run(recipe)).to_dict()["perplexity"]


def test_inspect_doctor_models(capsys, home):
    found = asked(capsys, "inspect", "--model", "tiny-llama", "--tokens", "64")
    assert {"massive", "sites"} <= set(found) and found["massive"][0]["index"] == 0
    prompt = asked(capsys, "inspect", "--model", "tiny-llama", "--prompt", "Grüße, 世界", "--tokens", "32")
    assert prompt["tokens"] == 16  # <bos> and 15 bytes
    checked = asked(capsys, "doctor", "--model", "tiny-gemma2")
    assert all(p["holds"] for p in checked["proof"]) and len(checked["slots"]) == 4
    models = asked(capsys, "models")
    assert "smollm2-135m" in [m["name"] for m in models["models"]] and "llama" in models["families"]


def folder_of_tiny(tmp_path: Path) -> Path:
    from rotviz.models.loading import load

    loaded = load("tiny-llama")
    loaded.model.save_pretrained(tmp_path / "model")
    loaded.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_local_folder_works(capsys, home, tmp_path):
    folder = folder_of_tiny(tmp_path)
    result = asked(capsys, "run", "--model", str(folder), *SMALL[2:])
    assert result["perplexity"]["quantized"]["value"] == pytest.approx(asked(capsys, "run", *SMALL)["perplexity"]["quantized"]["value"], rel=1e-6)


def truncated(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def poisoned(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(("damage", "words"), [
    (truncated, "truncated|shorter|cut"), (pickled, "pickle"), (poisoned, "NaN|not a number|finite"),
    (lambda f: (f / "config.json").unlink(), "config.json"), (lambda f: shutil.rmtree(f), "no folder or file"),
])
@pytest.mark.parametrize("command", ["run", "inspect"])
def test_broken_checkpoints(capsys, home, tmp_path, damage, words, command):
    folder = folder_of_tiny(tmp_path)
    damage(folder)
    status, out, err = call(capsys, command, "--model", str(folder), *(SMALL[2:] if command == "run" else []))
    last = err.strip().splitlines()[-1]
    assert status == 2 and out == "" and last.startswith("rotviz: ") and re.search(words, last), err


@pytest.mark.parametrize(("arguments", "words"), [
    (["run", "--model", "smolm2-135m"], "did you mean 'smollm2-135m'"),
    (["run", "--set", "weights.bits=0"], "choose from 2"),
    (["run", "--set", "weights.bits=17"], "choose from 2"),
    (["run", "--weights.bits", "17"], "choose from 2"),
    (["run", "--set", "weihgts.bits=4"], "did you mean 'weights'"),
    (["run", "--set", "weights.bits"], "not KEY=VALUE"),
    (["run", *SMALL, "--set", "weights.group=7"], "does not divide"),
    (["run", "missing.toml"], "cannot read the recipe"),
    (["run", *SMALL, "--set", "text.evaluation=missing.txt"], "missing.txt"),
    (["inspect", "--model", "tiny-llama", "--prompt", ""], "empty"),
    (["inspect", "--model", "tiny-llama", "--prompt", "x", "--no-bos"], "at least 2|2 are needed|few more words"),
    (["inspect", "--model", "tiny-llama", "--tokens", "1"], "2 to 8192"),
    (["show", "20990101"], "no run"),
    (["compare", "20990101"], "two or more"),
    (["runs", "--status", "lost"], "lost"),
    (["doctor", "--model", "tiny-llama", "--method", "hadamrd"], "did you mean 'hadamard'"),
])
def test_bad_input_is_one_line_and_exit_status_2(capsys, home, arguments, words):
    status, out, err = call(capsys, *arguments)
    assert status == 2 and out == ""
    assert re.search(words, err.strip().splitlines()[-1]) and "Traceback" not in err


def test_binary_and_one_token_texts(capsys, home, tmp_path):
    binary, short = tmp_path / "a.txt", tmp_path / "b.txt"
    binary.write_bytes(bytes(range(256)) * 4)
    short.write_text("a")
    for file, words in ((binary, "binary|UTF-8"), (short, "tokens")):
        status, _, err = call(capsys, "run", "--model", "tiny-llama", "--set", f"text.evaluation={file}", "--set", "text.length=64")
        assert status == 2 and re.search(words, err)


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "ROTVIZ_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])}


def test_interrupt_is_exit_status_130_and_resume_finishes(home):
    command = [sys.executable, "-m", "rotviz", "run", "--model", "tiny-llama", "--set", "text.evaluation=pydoc", "--set",
               "text.windows=300", "--set", "text.length=512", "--json"]
    listening = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # where the tests run in a shell's background, SIGINT is ignored
    process = subprocess.Popen(command, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **listening)
    deadline = time.monotonic() + 90
    while not list(home.glob("runs/*/checkpoint/walk.safetensors")) and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == "" and re.search("cancelled|stopped", err.splitlines()[-1])
    run_id = next(home.glob("runs/*")).name
    again = subprocess.run([*command[:4], "--resume", run_id, "--json"], env=environment(home), capture_output=True, text=True, timeout=180)
    assert again.returncode == 0 and json.loads(again.stdout)["run_id"] == run_id
    assert any("going on at block" in e.event.message for e in Store(home).events_since(run_id))


def test_a_full_disk_is_said_in_one_line(tmp_path):
    """No file may grow beyond 300 kB, which the system reports as it reports a full disk: in the middle of a write."""
    home = tmp_path / "home"
    home.mkdir()
    script = ("import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
              "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)); from rotviz.cli import main; sys.exit(main(sys.argv[1:]))")
    found = subprocess.run([sys.executable, "-c", script, "run", *SMALL[:4], "--set", "text.windows=40", "--set", "text.length=64"],
                           env=environment(home), capture_output=True, text=True, timeout=120)
    last = found.stderr.strip().splitlines()[-1]
    assert found.returncode == 1 and last.startswith("rotviz: ") and "room" in last and "Traceback" not in found.stderr, found.stderr


def test_reading_commands_do_not_wait_for_torch(home):
    script = "import sys; from rotviz.cli import main; main(['runs']); assert 'torch' not in sys.modules and 'streamlit' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], env=environment(home), check=True, capture_output=True, timeout=60)
