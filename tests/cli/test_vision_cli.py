"""The command line on a vision model: the promised JSON, tables in the right words, and what needs a text refused."""



from commands import asked, call

SMALL = ["--model", "tiny-vit", "--set", "images.count=40"]


def test_run_show_runs_compare_export(capsys, tmp_path):
    first = asked(capsys, "run", *SMALL)
    assert {"run_id", "recipe", "perplexity", "divergence", "classification", "seconds", "peak_memory_mb", "errors"} <= set(first)
    assert first["perplexity"] is None and first["classification"]["images"] == 40
    _, out, _ = call(capsys, "run", *SMALL, "--weights.bits", "2")
    assert "top-1 agreement with the float model" in out and "accuracy, quantized" in out and "shapes test" in out and "perplexity" not in out
    rows = asked(capsys, "runs")["runs"]
    assert rows[1]["result"]["classification"]["agreement"] == first["classification"]["agreement"]
    ids = [row["run_id"] for row in rows]
    shown = asked(capsys, "show", ids[1])
    assert shown["result"]["classification"] == first["classification"]
    compared = asked(capsys, "compare", *ids)
    assert compared["same_protocol"] and compared["differences"] == {"weights.bits": [2, 4]}
    assert compared["runs"][1]["agreement"] == first["classification"]["agreement"]["value"] and compared["runs"][1]["perplexity"] is None
    _, out, _ = call(capsys, "show", ids[0])
    assert "top-1 agreement" in out and "images.count=40" in out
    heads = [call(capsys, *command)[1].splitlines()[0] for command in (["runs"], ["compare", *ids])]
    assert all("agreement" in head and "accuracy" in head and "perplexity" not in head for head in heads)
    exported = asked(capsys, "export", ids[1], "--to", str(tmp_path / "kept"))
    assert {"recipe.toml", "result.json", "rotation.safetensors", "README.txt"} <= set(exported["files"])
    assert "tokens.safetensors" not in exported["files"]
    assert "top-1 agreement" in (tmp_path / "kept" / "README.txt").read_text()


def test_language_and_vision_runs_in_one_table(capsys):
    vision = asked(capsys, "run", *SMALL)["run_id"]
    small = ["--model", "tiny-llama", "--set", "text.evaluation=pydoc", "--set", "text.windows=1", "--set", "text.length=32"]
    text = asked(capsys, "run", *small)["run_id"]
    _, out, _ = call(capsys, "runs")
    assert "perplexity" in out.splitlines()[0] and "agreement" in out.splitlines()[0]
    _, out, _ = call(capsys, "compare", vision, text)
    assert "must not be compared" in out
    assert not asked(capsys, "compare", vision, text)["same_protocol"]


def test_doctor_and_models(capsys):
    found = asked(capsys, "doctor", "--model", "tiny-deit-distilled")
    assert all(p["holds"] for p in found["proof"]) and dict(map(tuple, found["facts"]))["reads"].startswith("images of 3 x 32 x 32")
    models = asked(capsys, "models")
    assert {"tiny-vit", "tiny-vit-trained"} <= {m["name"] for m in models["models"]} and {"vit", "deit", "deit_distilled"} <= set(models["families"])


def test_what_needs_a_text_is_refused(capsys):
    status, out, err = call(capsys, "inspect", "--model", "tiny-vit")
    assert status == 2 and not out and err.startswith("rotviz: tiny-vit reads images") and err.count("\n") == 1
    run_id = asked(capsys, "run", *SMALL)["run_id"]
    status, _, err = call(capsys, "deploy", run_id, "--to", "kept-model")
    assert status == 2 and "reads images" in err
    for command in (["report", run_id, "--to", "kept.html"], ["figure", "pareto", "--run", run_id, "--to", "kept"]):
        status, _, err = call(capsys, *command)
        assert status == 2 and "images" in err, err
    status, _, err = call(capsys, "run", *SMALL, "--set", "rotation.method=dartquant")
    assert status == 2 and "learns from a text" in err
