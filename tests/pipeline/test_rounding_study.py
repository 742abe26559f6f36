"""The study of learned rounding: its plan, that it goes on where it was, and that its verdicts follow from its numbers."""

import itertools
import json
import math
from pydoc_data.topics import topics

import pytest

from rotviz.errors import BadInput, UnknownName
from rotviz.pipeline.recipe import Recipe, with_changes
from rotviz.pipeline.rounding_study import Study, base_recipe, found_studies, load_study, planned, study_path, switches_of
from rotviz.pipeline.study_verdicts import (
    NOT_MEASURED,
    NOT_SUPPORTED,
    SUPPORTED,
    UNDECIDED,
    effects,
    spread_rows,
    spreads,
    step_table,
    verdicts,
)

ENVIRONMENT = {"torch": "x", "processor": "y"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    text = tmp_path_factory.mktemp("text") / "small.txt"
    text.write_text(topics["assignment"])
    return base_recipe({"model": "tiny-llama", "text": {"evaluation": str(text), "calibration": str(text), "samples": 4, "windows": 1, "length": 32},
                        "weights": {"group": 16, "rounding": {"iterations": 3, "batch": 2}}})


def record_of(base, numbers, **switches):
    """A study's record with given divergences: of the base's seeds, and by switch and setting."""
    known = switches_of(base, ["pydoc"])
    plain = base.to_dict()

    def entry(switch, setting, kl, recipe=plain):
        return {"switch": switch, "setting": setting, "kl_nats": kl, "recipe": recipe, "learned": {}, "seconds": {"walk": 1.0},
                "perplexity": {"quantized": {"value": 10.0}}}

    runs = [entry("base", f"seed {i}", kl, {**plain, "seed": i}) for i, kl in enumerate(numbers)]
    runs += [entry(switch, setting, kl) for switch, settings in switches.items() for setting, kl in settings.items()]
    return {"base": plain, "runs": runs, "switches": {name: {"base": s.own, "settings": list(s.settings)} for name, s in known.items()}}


def verdict(record, name):
    return next(v for v in verdicts(record) if v["name"] == name)["verdict"]


SEEDS = (1.0, 1.01, 0.99)


def test_every_setting_differs_from_the_base_in_its_switch_alone(base):
    plan = planned(base, 3, switches_of(base, ["pydoc", base.text.calibration]))
    assert len({p.recipe.fingerprint for p in plan}) == len(plan)
    assert [p.recipe.seed for p in plan[:3]] == [0, 1, 2] and plan[3].recipe.weights.method == "rtn"
    names = {"loss", "freedom", "grid", "step", "calibration", "selection", "augmentation", "allocation"}
    assert {p.switch for p in plan} == {"base", "nearest", *names}
    tables = {"calibration": {"text"}, "grid": {"weights"}, "allocation": {"allocation"}}
    for one in plan[4:]:
        plain, own = one.recipe.to_dict(), base.to_dict()
        assert {key for key in plain if plain[key] != own[key]} == tables.get(one.switch, {"weights"}), one


def test_a_base_of_another_kind_is_turned_round(base):
    """Whatever the base is, its own setting is not among the others."""
    other = Recipe.from_dict(with_changes(json.loads(json.dumps(base.to_dict())), [
        ("weights.format", "power"), ("weights.rounding.freedom", "wide"), ("weights.rounding.loss", "kl"), ("weights.rounding.optimizer", "adam"),
        ("weights.rounding.learn_range", False), ("weights.rounding.augment", 0.1)]))
    switches = switches_of(other)
    assert "kl" not in switches["loss"].settings and "normalized" in switches["loss"].settings
    assert "wide" not in switches["freedom"].settings and {"signround", "up_down"} <= set(switches["freedom"].settings)
    assert set(switches["grid"].settings) == {"int", "power, exponent searched"}
    assert set(switches["augmentation"].settings) == {"0", "0.03"}
    steps = switches["step"].settings
    assert len(steps) == 11 and dict(steps["sign, codes, step 4"])["weights.rounding.rate"] == pytest.approx(4 * 3 / 3)


def test_it_goes_on_where_it_was_and_keeps_every_number(base, tmp_path):
    switches = switches_of(base)
    plan = planned(base, 2, switches, ["augmentation"])
    path, seen = tmp_path / "study.json", []
    first = Study(base, plan, switches, path, ENVIRONMENT)
    first.carry_out(lambda fraction, words: seen.append((fraction, words)), most=2)
    assert [s[0] for s in seen] == sorted(s[0] for s in seen) and seen[-1][0] == pytest.approx(1.0) and "seed 1" in seen[-1][1]
    kept = load_study(path)
    assert len(kept["runs"]) == 2 and len(first.missing) == 3 and {"date", "torch", "processor"} <= set(kept["environment"])
    second = Study(base, plan, switches, path, {**ENVIRONMENT, "processor": "z"})
    record = second.carry_out(lambda *_: None)
    assert record["runs"][:2] == kept["runs"] and not second.missing
    assert [r["environment"]["processor"] for r in record["runs"]] == ["y", "y", "z", "z", "z"]
    run = record["runs"][0]
    assert run["recipe"]["seed"] == 0 and run["kl_nats"] > 0 and len(run["perplexity"]["quantized"]["by_window"]) == 1
    assert 0 <= run["learned"]["flips"] < 1 and run["learned"]["loss"] <= 1 and run["seconds"]["weights"] > 0
    before = path.read_text()
    Study(base, plan, switches, path, {"processor": "another machine"}).carry_out(lambda *_: pytest.fail("nothing is missing"))
    assert path.read_text() == before
    assert [row["switch"] for row in effects(record)] == ["base", "base", "nearest", "augmentation", "augmentation"]


def test_refusals(base, tmp_path):
    switches = switches_of(base)
    with pytest.raises(BadInput, match="at least two seeds"):
        planned(base, 1, switches)
    with pytest.raises(UnknownName, match="calibration"):
        planned(base, 2, switches, ["calibrations"])
    with pytest.raises(BadInput, match=r"weights\.method = gptq"):
        base_recipe({"weights": {"method": "gptq"}})
    with pytest.raises(BadInput, match="a switch of this study"):
        base_recipe({"allocation": {"method": "importance"}})
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(BadInput, match="cannot read"):
        load_study(broken)
    broken.write_text("{}")
    with pytest.raises(BadInput, match="holds no rounding-study"):
        load_study(broken)
    path = tmp_path / "study.json"
    path.write_text(json.dumps({"study": "rounding-study", "base": {"model": "another"}, "runs": [1]}))
    with pytest.raises(BadInput, match="another base recipe"):
        Study(base, [], switches, path, ENVIRONMENT)


def test_studies_are_found_in_the_cache_folder(base, tmp_path, monkeypatch):
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path))
    path = study_path(base)
    path.parent.mkdir()
    path.write_text("{}")
    assert found_studies()[0] == path and "tiny-llama-W3g16" in path.name


def test_effects_are_judged_by_the_spread_of_seeds(base):
    record = record_of(base, SEEDS, loss={"kl": 0.8, "block": 1.5, "cosine": 1.02, "layer": None})
    found = {row["setting"]: row for row in effects(record)}
    assert [found[s]["verdict"] for s in ("kl", "block", "cosine", "layer")] == ["helps", "hurts", "no difference", "cannot be told"]
    assert found["kl"]["factor"] == pytest.approx(0.8, rel=1e-3)
    assert spreads(record)["loss"] == pytest.approx(math.log(1.5 / 0.8))
    assert spread_rows(record)[0] == {"switch": "loss", "settings": 4, "smallest KL": "kl", "largest KL": "block",
                                      "largest / smallest": pytest.approx(1.5 / 0.8)}


@pytest.mark.parametrize(("loss", "calibration", "kind"), [(2.0, 1.05, SUPPORTED), (1.05, 2.0, NOT_SUPPORTED), (1.04, 1.03, UNDECIDED)])
def test_h1_compares_two_effects(base, loss, calibration, kind):
    assert verdict(record_of(base, SEEDS, loss={"block": loss}, calibration={"pydoc": calibration}), "H1") == kind


@pytest.mark.parametrize(("switches", "name", "kind"), [
    ({"freedom": {"up_down": 1.1, "wide": 0.8, "latent": 1.3}}, "H2", SUPPORTED),
    ({"freedom": {"up_down": 0.7, "wide": 0.8, "latent": 1.3}}, "H2", NOT_SUPPORTED),
    ({"freedom": {"up_down": 1.1, "wide": 1.0, "latent": 1.0}}, "H2", UNDECIDED),
    ({"freedom": {"wide": 0.8}}, "H2", NOT_MEASURED),
    ({"grid": {"power, exponent searched": 1.2, "power, exponent learned": 0.9}}, "H3", SUPPORTED),
    ({"grid": {"power, exponent searched": 1.2, "power, exponent learned": None}}, "H3", NOT_MEASURED),
    ({"allocation": {"importance": 0.7, "random": 1.4}}, "H5", SUPPORTED),
    ({"allocation": {"importance": 1.7}}, "H5", NOT_SUPPORTED),
])
def test_h2_h3_and_h5_compare_the_best_of_two_sides(base, switches, name, kind):
    assert verdict(record_of(base, SEEDS, **switches), name) == kind


def test_h4_is_about_what_is_left_after_rows_and_columns(base):
    """A table of a row's factor times a column's has no interaction, however large its effects; one cell that is off has."""
    columns = {"1/4": 1.2, "1": 1.0, "4": 3.0}
    rows = {"sign, codes": 1.0, "sgd, codes": 1.7, "adam, codes": 0.6, "sign, weights": 2.0}
    settings = {f"{row}, step {step}": a * b for (row, a), (step, b) in itertools.product(rows.items(), columns.items())}
    del settings["sign, codes, step 1"]
    record = record_of(base, SEEDS, step=settings)
    assert step_table(record)["sign, codes"]["1"] == pytest.approx(0.0)
    assert verdict(record, "H4") == NOT_SUPPORTED
    assert verdict(record_of(base, SEEDS, step=settings | {"adam, codes, step 4": 0.3}), "H4") == SUPPORTED
    assert verdict(record_of(base, SEEDS, step={"sgd, codes, step 1": 2.0}), "H4") == NOT_MEASURED


def test_h6_sets_the_small_choices_against_the_large(base):
    """The smallest of the large ones decides: one that is small refutes it, whatever the others are."""
    large = {"loss": {"block": 3.0}, "freedom": {"wide": 0.4}, "grid": {"power, exponent learned": 2.0}}
    small = {"selection": {"share 0.5, weights": 1.3}, "augmentation": {"0.1": 1.02}, "calibration": {"pydoc": 1.1}}
    assert verdict(record_of(base, SEEDS, **large, **small), "H6") == SUPPORTED
    assert verdict(record_of(base, SEEDS, **large | {"grid": {"power, exponent learned": 1.02}}, **small), "H6") == NOT_SUPPORTED
    assert verdict(record_of(base, SEEDS, **large), "H6") == NOT_MEASURED


def test_one_seed_gives_no_verdict(base):
    assert {v["verdict"] for v in verdicts(record_of(base, SEEDS[:1], loss={"block": 3.0}, calibration={"pydoc": 1.1}))} == {NOT_MEASURED}
