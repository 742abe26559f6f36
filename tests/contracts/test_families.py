"""What holds for every model family, on tiny instances of the real transformers classes."""


import pytest
import torch

from rotviz.errors import RewriteBroken, UnknownFamily
from rotviz.models.families import FAMILIES, family_for, family_of
from rotviz.models.loading import load
from rotviz.models.norms import in_own_precision
from rotviz.models.tiny import TINY
from rotviz.models.walk import BlockSource, forward
from rotviz.rotations import ROTATIONS
from rotviz.surgery import steps
from rotviz.surgery.doctor import diagnose, source_sizes
from rotviz.surgery.plan import make_plan
from rotviz.surgery.proof import prove, relative_difference, require
from rotviz.surgery.whole import rewrite_model
from rotviz.types import Modality, Slot

EVERY_SLOT = tuple(Slot)


@pytest.fixture(scope="module")
def models():
    return {name: load(name).model for name in TINY}


def tokens(batch=2, length=80):
    """Longer than every sliding window of the tiny models; the first token is <bos>."""
    ids = torch.randint(0, 256, (batch, length), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = 256
    return ids


def logits_of(model, ids):
    with torch.no_grad():
        return model(ids, use_cache=False).logits


def walked(source, ids):
    entry = source.ends.entry(ids)
    hidden = entry.hidden
    for index in range(len(source)):
        hidden = forward(source.original(index).block, hidden, entry.arguments[index])
    return source.ends.finish(hidden)


def plan_for(source, method="hadamard", slots=EVERY_SLOT, seed=0):
    return make_plan(ROTATIONS[method]().build, slots, source_sizes(source), seed)


def test_every_family_has_a_tiny_model(models):
    """Those that read images: test_vision_families."""
    assert {FAMILIES.name_of(family_of(model)) for model in models.values()} == {n for n, f in FAMILIES.items() if f.modality is Modality.TEXT}


@pytest.mark.parametrize("name", TINY)
def test_walk_equals_whole_model(models, name):
    """Block by block and at once: the same kernels on the same numbers."""
    ids = tokens()
    assert relative_difference(logits_of(models[name], ids), walked(BlockSource(models[name]), ids)) <= 1e-6


@pytest.mark.parametrize("name", TINY)
def test_our_attention_equals_transformers_eager(models, name):
    from rotviz.models.tiny import tiny

    eager, _ = tiny(name, attention="eager")
    ids = tokens()
    assert relative_difference(logits_of(eager.eval(), ids), logits_of(models[name], ids)) <= 1e-5


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("method", [m for m in ROTATIONS if m != "none"])
def test_logits_stay_in_float64(name, method):
    """Every step of every rotation, to 1e-9: a thousandfold of float64's resolution at these depths and widths."""
    model = in_own_precision(load(name, torch.float64).model, family_of(load(name).model))
    source = BlockSource(model)
    proofs = prove(source, plan_for(source, method), tokens(1, 48), torch.float64)
    assert {"untie", "fold", "R1", "R2", "R3", "R4"} <= {p.name for p in proofs}
    assert all(p.error <= 1e-9 and p.holds and p.block is None for p in proofs), proofs


@pytest.mark.parametrize("name", TINY)
def test_rewritten_model_keeps_its_logits_and_the_original_is_untouched(models, name):
    model, ids = models[name], tokens()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    reference = logits_of(model, ids)
    rewritten = rewrite_model(model, plan_for(BlockSource(model)))
    assert relative_difference(reference, logits_of(rewritten, ids)) <= 1e-3
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(logits_of(model, ids), reference)


@pytest.mark.parametrize("slot", EVERY_SLOT)
def test_each_slot_alone(models, slot):
    for name in ("tiny-llama-tied", "tiny-gemma3", "tiny-opt", "tiny-qwen2-moe"):
        source = BlockSource(models[name])
        proofs = prove(source, plan_for(source, slots=(slot,)), tokens(1, 40))
        assert proofs[-1].name == slot and all(p.holds for p in proofs), (name, proofs)


@pytest.mark.parametrize("broken", ["rotate_values", "rotate_down", "rotate_residual", "fold_block", "rotate_queries_and_keys"])
def test_a_broken_step_is_named(models, monkeypatch, broken):
    """The proof can fail: a step that skips every other block's work is caught and called by its name."""
    name = {"rotate_values": "R2", "rotate_down": "R4", "rotate_residual": "R1", "fold_block": "fold", "rotate_queries_and_keys": "R3"}[broken]

    def wrong(view, *arguments):
        if broken == "rotate_queries_and_keys":
            steps.add_edit(view.attention, lambda q, k, v: (arguments[0].apply(q), k, v))
        else:
            for linear in view.writers():
                linear.set_weight(linear.weight * 1.05)

    monkeypatch.setattr(steps, broken, wrong)
    source = BlockSource(models["tiny-llama"])
    with pytest.raises(RewriteBroken, match=f"step '{name}'"):
        require(prove(source, plan_for(source), tokens(1, 40)))


@pytest.mark.parametrize("name", TINY)
def test_doctor_speaks_of_every_slot(models, name):
    source = BlockSource(models[name])
    diagnosis = diagnose(source, FAMILIES.name_of(source.family))
    assert [s.slot for s in diagnosis.slots] == list(Slot)
    assert all(s.acts and s.how and s.construction and s.remark for s in diagnosis.slots)
    assert dict(diagnosis.facts)["blocks"] == "2"


def test_unknown_architectures_are_refused_by_name():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=16))
    with pytest.raises(UnknownFamily, match=r"GPT2LMHeadModel.*known: .*LlamaForCausalLM"):
        family_of(model)


def test_opt_350m_is_refused_with_the_reason(models):
    config = models["tiny-opt"].config
    late = type(config)(**{**config.to_dict(), "do_layer_norm_before": False})
    with pytest.raises(UnknownFamily, match="norms come after each sublayer"):
        family_for("OPTForCausalLM", late)


def test_threads_share_a_model(models):
    """The ends are taken off a shallow copy: walks in several threads do not see each other's stand-ins."""
    from concurrent.futures import ThreadPoolExecutor

    model, ids = models["tiny-qwen2"], tokens()
    reference = logits_of(model, ids)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: walked(BlockSource(model), ids), range(8)))
    assert all(torch.equal(reference, x) for x in found)
