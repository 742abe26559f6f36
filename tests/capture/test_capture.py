"""A capture holds what the model's own modules see, and a look finds what was planted."""

import pytest
import torch

from rotviz.capture.capture import open_capture
from rotviz.capture.inspect import Look, capture_path, inspect, look
from rotviz.errors import BadInput, BadText
from rotviz.models.families import family_of
from rotviz.models.loading import load
from rotviz.models.tiny import TINY
from rotviz.models.walk import BlockSource
from rotviz.texts import prompt_tokens
from rotviz.types import Role, Site

TEXT = "Summer is warm. Winter is cold. In the evening the swallows fly low over the water, and it rains."


def wanted(name, **changes):
    return Look(model=name, prompt=TEXT, text="prompt", tokens=64, **changes)


@pytest.mark.parametrize("name", TINY)
def test_plain_sites_are_what_the_modules_read(name):
    """Against plain hooks on the untouched transformers model."""
    loaded = load(name)
    source = BlockSource(loaded.model)
    seen = {}

    def keep(key):
        def hook(_, inputs):
            seen[key] = inputs[0][0] if inputs[0].ndim == 3 else inputs[0]

        return hook

    handles = []
    for index in range(2):
        view = source.original(index)
        handles.append(view.linear(Role.Q).module.register_forward_pre_hook(keep((index, Site.ATTN_IN))))
        handles.append(view.linear(Role.O).module.register_forward_pre_hook(keep((index, Site.O_IN))))
    tokens = prompt_tokens(TEXT, loaded.tokenizer, 64)
    with torch.no_grad():
        hidden = loaded.model(tokens[None], use_cache=False, output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    got = look(wanted(name), loaded)
    assert got.blocks == 2 and len(got.tokens) == len(tokens)
    for (index, site), rows in seen.items():
        torch.testing.assert_close(got.site(index, site), rows, rtol=1e-4, atol=1e-4 * float(rows.abs().max()))
    torch.testing.assert_close(got.site(0, Site.RESID), hidden[1][0], rtol=1e-4, atol=1e-5 * float(hidden[1].abs().max()))


@pytest.mark.parametrize("name", TINY)
def test_every_site_has_its_width_and_folded_rows_are_normalized(name):
    got, source = look(wanted(name)), BlockSource(load(name).model)
    heads = source.original(0).heads
    widths = {Site.O_IN: heads.query * heads.width, Site.KEY: heads.kv * heads.width, Site.VALUE: heads.kv * heads.width}
    for site in Site:
        rows = got.site(1, site)
        owners = got.tokens_of_rows(1, site)
        assert len(rows) == len(got.tokens) or owners is not None
        assert torch.isfinite(rows).all()
        assert site not in widths or rows.shape[1] == widths[site]
    folded = got.site(1, Site.ATTN_IN, folded=True)
    torch.testing.assert_close(folded.square().mean(-1), torch.ones(len(folded)), rtol=1e-3, atol=1e-3)


def test_routed_rows_know_their_tokens():
    got = look(wanted("tiny-mixtral"))
    owners = got.tokens_of_rows(0, Site.DOWN_IN)
    assert owners is not None and set(owners.long().tolist()) == set(range(len(got.tokens)))


def test_a_second_look_reads_the_file(monkeypatch):
    first = look(wanted("tiny-llama"))
    monkeypatch.setattr("rotviz.capture.inspect.load", lambda *_: pytest.fail("the model was loaded again"))
    assert look(wanted("tiny-llama")) == first == open_capture(capture_path(wanted("tiny-llama")))


def test_different_looks_have_different_files():
    looks = [wanted("tiny-llama"), wanted("tiny-qwen2"), wanted("tiny-llama", bos=False),
             Look("tiny-llama", "pydoc", 64), Look("tiny-llama", "pydoc", 32)]
    assert len({capture_path(x) for x in looks}) == len(looks)


def test_planted_sink_is_found_and_the_promised_fields_are_there():
    found = inspect(wanted("tiny-llama")).to_dict()
    assert found["massive"] and {m["index"] for m in found["massive"]} == {0}
    assert {"block", "index", "token", "channel", "value", "ratio"} == set(found["massive"][0])
    assert {"block", "site", "kurtosis", "absmax", "median", "p99"} <= set(found["sites"][0])
    assert len(found["sites"]) == 2 * len(Site)


@pytest.mark.parametrize("tokens", [0, 1, 100_000])
def test_impossible_numbers_of_tokens(tokens):
    with pytest.raises(BadInput, match="2 to 8192"):
        Look("tiny-llama", "pydoc", tokens)


@pytest.mark.parametrize("prompt", ["", "   \n"])
def test_empty_prompts(prompt):
    with pytest.raises(BadText):
        look(Look("tiny-llama", "prompt", 32, True, prompt))


@pytest.mark.embedded
def test_the_embedded_model_has_its_massive_token_at_index_0_channel_507(embedded_home):
    found = inspect(Look(tokens=64)).to_dict()["massive_tokens"]
    strongest = max(found, key=lambda t: t["ratio"])
    assert (strongest["index"], strongest["channel"]) == (0, 507)
    assert strongest["value"] > 20_000 and strongest["first_block"] <= 12


def test_family_names_come_from_the_registry():
    assert family_of(load("tiny-phi3").model).architectures == ("Phi3ForCausalLM",)
