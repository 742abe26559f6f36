"""The tiny models: each is a real transformers class, the same for the same seed, and holds what makes real models hard."""

import pytest
import torch

from rotviz.errors import UnknownName
from rotviz.models.tiny import BOS, TINY, VOCABULARY, byte_tokenizer, is_norm, tiny

TEXT = "One naïve café, 日本 🙂,\n\tand a <bos> that is only text. " * 2


def logits(model, tokenizer, text: str = TEXT) -> torch.Tensor:
    with torch.no_grad():
        return model(tokenizer(text, return_tensors="pt").input_ids, use_cache=False).logits


@pytest.mark.parametrize("name", list(TINY))
def test_runs_and_is_the_same_for_the_same_seed(name):
    first, again, other = (tiny(name, seed=seed) for seed in (0, 0, 1))
    assert len(first[0].get_submodule(first[0].base_model_prefix).get_decoder().layers) == 2
    out = logits(*first)
    assert out.shape[-1] == VOCABULARY and torch.isfinite(out).all()
    assert torch.equal(out, logits(*again))
    assert not torch.allclose(out, logits(*other))


@pytest.mark.parametrize("name", list(TINY))
def test_gains_and_biases_would_show_a_folding_mistake(name):
    model, _ = tiny(name, outliers=False)
    for path, module in model.named_modules():
        if is_norm(module):
            assert module.weight.std() > 0.05, path
        if getattr(module, "bias", None) is not None:
            assert module.bias.abs().max() > 0.05, path


@pytest.mark.parametrize("name", list(TINY))
def test_bos_is_a_massive_token_with_outliers_only(name):
    ratios = []
    for outliers in (True, False):
        model, tokenizer = tiny(name, outliers=outliers)
        ids = tokenizer(TEXT, return_tensors="pt").input_ids
        with torch.no_grad():
            hidden = model(ids, output_hidden_states=True, use_cache=False).hidden_states[1][0].abs()  # after block 0
        assert not outliers or hidden.amax(-1).argmax() == 0
        ratios.append(float(hidden.max() / hidden.median()))
    assert ratios[0] > 250 and ratios[1] < 100


@pytest.mark.parametrize("name", list(TINY))
def test_sliding_window_matters(name):
    model, tokenizer = tiny(name, outliers=False)
    window = getattr(model.config, "sliding_window", None)
    if not window:
        pytest.skip("this family has no sliding window")
    assert window < 64
    model.config.sliding_window = 4096
    wide = logits(model, tokenizer, "a longer text " * 20)
    narrow = logits(*tiny(name, outliers=False), "a longer text " * 20)
    assert torch.allclose(wide[0, : window - 1], narrow[0, : window - 1], atol=1e-4)
    assert not torch.allclose(wide[0, -1], narrow[0, -1], atol=1e-2)


def test_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    tiny("tiny-llama", seed=3)
    assert torch.equal(torch.rand(3), expected)


def test_dtype_is_cast_not_drawn_again():
    wide, narrow = (tiny("tiny-llama", dtype=dtype)[0] for dtype in (torch.float64, torch.float32))
    assert torch.equal(wide.lm_head.weight.float(), narrow.lm_head.weight)
    assert all(not parameter.requires_grad for parameter in wide.parameters()) and not wide.training


def test_unknown_name_says_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'tiny-llama'"):
        tiny("tiny-lama")


@pytest.mark.parametrize("text", ["plain", TEXT, "\x00\x7f\u2028\U0010ffff", "<bos><eos><unk>", " \n\n  "])
def test_tokenizer_gives_any_text_back(text):
    tokenizer = byte_tokenizer()
    ids = tokenizer(text).input_ids
    assert ids == [BOS, *text.encode()]
    assert tokenizer.decode(ids[1:]) == text


def test_tokenizer_survives_being_saved(tmp_path):
    from transformers import AutoTokenizer

    byte_tokenizer().save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(TEXT).input_ids == [BOS, *TEXT.encode()]
