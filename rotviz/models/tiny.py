"""Tiny random models: the real transformers classes with two blocks, for tests, demonstrations and `--model tiny-llama`.

Each is made so that a mistake in a rewrite shows. Norm gains are not ones and biases are not zeros (a gain folded into the wrong
matrix moves the logits), widths are not powers of two and heads times head width need not be the model width (a transposed shape
fails), sliding windows are shorter than a test's text. With `outliers=True` a model has what makes real ones hard at 4 bits:

- outlier channels: a few norm gains, and the same column of every token's embedding, are 20 times their neighbours;
- a massive token: <bos> carries a spike in one channel of the residual stream, thousands of times the median, like the attention
  sinks of trained models (arXiv 2402.17762). Here it comes with the embedding; trained models make it in an early MLP.

The tokenizer works on bytes (256 tokens and <bos>, <eos>, <pad>, <unk>), so any text goes through it and comes back.
Weights come from a generator of their own, layer by layer: the same seed gives the same model whatever transformers' initializers do.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn

from rotviz.errors import unknown

if TYPE_CHECKING:  # importing transformers takes seconds, and the names of the tiny models must be had without
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

BYTES = 256
SPECIALS = ("<bos>", "<eos>", "<pad>", "<unk>")
BOS, EOS, PAD, UNK = range(BYTES, BYTES + len(SPECIALS))
VOCABULARY = BYTES + len(SPECIALS)

OUTLIER_GAIN = 20.0
SPIKE = 30_000.0  # times the median: SmolLM2-135M's is 14,000 in the middle of the model

_COMMON = {"vocab_size": VOCABULARY, "num_hidden_layers": 2, "max_position_embeddings": 4096, "bos_token_id": BOS,
           "eos_token_id": EOS, "pad_token_id": PAD, "use_cache": False}


def _shape(width: int, heads: int, kv_heads: int, mlp: int, head_width: int | None = None) -> dict[str, int]:
    shape = {"hidden_size": width, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "intermediate_size": mlp}
    return _COMMON | shape | ({} if head_width is None else {"head_dim": head_width})


def _config(kind: str, **values: Any) -> "PreTrainedConfig":
    import transformers

    return getattr(transformers, kind)(**values)


TINY: dict[str, Callable[[], "PreTrainedConfig"]] = {
    "tiny-llama": lambda: _config("LlamaConfig", **_shape(80, 4, 2, 224), tie_word_embeddings=False),
    "tiny-llama-tied": lambda: _config("LlamaConfig", **_shape(96, 6, 2, 288), tie_word_embeddings=True, attention_bias=True,
                                       mlp_bias=True),
    "tiny-mistral": lambda: _config("MistralConfig", **_shape(96, 4, 2, 160, 32), tie_word_embeddings=False, sliding_window=24),
    "tiny-qwen2": lambda: _config("Qwen2Config", **_shape(96, 8, 2, 192), tie_word_embeddings=False),
    "tiny-qwen3": lambda: _config("Qwen3Config", **_shape(80, 4, 2, 192, 32), tie_word_embeddings=True),
    "tiny-gemma2": lambda: _config("Gemma2Config", **_shape(96, 4, 2, 192, 32), query_pre_attn_scalar=24, sliding_window=32,
                                   layer_types=["sliding_attention", "full_attention"]),
    "tiny-gemma3": lambda: _config("Gemma3TextConfig", **_shape(96, 4, 2, 192, 32), query_pre_attn_scalar=24, sliding_window=32,
                                   layer_types=["sliding_attention", "full_attention"]),
    "tiny-phi3": lambda: _config("Phi3Config", **_shape(96, 4, 2, 192), sliding_window=48, original_max_position_embeddings=4096,
                                 tie_word_embeddings=False),
    "tiny-opt": lambda: _config("OPTConfig", **_COMMON, hidden_size=96, num_attention_heads=4, ffn_dim=224, word_embed_proj_dim=96,
                                do_layer_norm_before=True, dropout=0.0),
    "tiny-mixtral": lambda: _config("MixtralConfig", **_shape(96, 4, 2, 160), num_local_experts=4, num_experts_per_tok=2, sliding_window=24,
                                    tie_word_embeddings=False),
    "tiny-qwen2-moe": lambda: _config("Qwen2MoeConfig", **_shape(96, 4, 2, 160), num_experts=4, num_experts_per_tok=2,
                                      moe_intermediate_size=80,
                                      shared_expert_intermediate_size=112, tie_word_embeddings=False),
    "tiny-qwen3-moe": lambda: _config("Qwen3MoeConfig", **_shape(80, 4, 2, 160, 32), num_experts=4, num_experts_per_tok=2,
                                      moe_intermediate_size=96, norm_topk_prob=True, tie_word_embeddings=False),
}


def tiny(
    name: str, *, seed: int = 0, outliers: bool = True, dtype: torch.dtype = torch.float32, attention: str = "eager"
) -> tuple["PreTrainedModel", "PreTrainedTokenizerFast"]:
    """A tiny model in evaluation mode without gradients, and its tokenizer.

    Args:
        name: one of TINY.
        seed: of the weights and of the places of the outliers.
        outliers: plant outlier channels and a massive token.
        dtype: the weights are drawn in float32 and cast, so that every dtype holds the same model.
        attention: transformers' attention implementation.

    Raises:
        UnknownName: no tiny model of that name.
    """
    from transformers import AutoModelForCausalLM

    if name not in TINY:
        raise unknown("tiny model", name, TINY)
    with torch.random.fork_rng(devices=[]):  # the initializers draw from the global generator: leave it as it was
        model = AutoModelForCausalLM.from_config(TINY[name](), attn_implementation=attention, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    fill(model, generator)
    if outliers:
        plant_outliers(model, generator)
    return model.to(dtype).eval().requires_grad_(False), byte_tokenizer()


def fill(model: "PreTrainedModel", generator: torch.Generator) -> None:
    """Draw every parameter anew: weights with variance 1 / inputs, gains around one, biases that matter. In place."""
    seen: set[int] = set()
    with torch.no_grad():
        for _, module in sorted(model.named_modules()):
            for name, parameter in sorted(module.named_parameters(recurse=False)):
                if id(parameter) not in seen:  # tied embeddings are drawn once
                    seen.add(id(parameter))
                    parameter.copy_(_draw(module, name, parameter, generator))


def plant_outliers(model: "PreTrainedModel", generator: torch.Generator) -> None:
    """Outlier channels in norms and embedding, and a massive <bos>. In place."""
    embedding = model.get_input_embeddings().weight
    width = embedding.shape[1]
    spiked, loud, first, second = torch.randperm(width, generator=generator)[:4].tolist()
    with torch.no_grad():
        median = embedding.abs().median()
        embedding[:, loud] *= OUTLIER_GAIN
        embedding[BOS, spiked] = SPIKE * median
        for name, module in model.named_modules():
            if not is_norm(module) or module.weight.shape[0] != width:
                continue
            gain = module.weight + _offset(module)
            if name.endswith(("model.norm", "final_layer_norm")) and "layers." not in name:
                # A tied head reads spike and loud channel out again: without this, <bos> would win every prediction.
                shrink = torch.tensor([SPIKE, OUTLIER_GAIN])
                gain[[spiked, loud]] /= shrink
                if getattr(module, "bias", None) is not None:
                    module.bias[[spiked, loud]] /= shrink
            else:
                gain[[first, second]] *= OUTLIER_GAIN
            module.weight.copy_(gain - _offset(module))


def byte_tokenizer() -> "PreTrainedTokenizerFast":
    """A tokenizer whose token b is byte b; <bos> goes first, and a special token's name inside a text stays plain text."""
    from transformers import PreTrainedTokenizerFast

    symbols = _byte_symbols()
    bpe = Tokenizer(models.BPE(vocab={symbol: byte for byte, symbol in enumerate(symbols)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens(list(SPECIALS))
    bpe.post_processor = processors.TemplateProcessing(single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", BOS)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>",
                                   clean_up_tokenization_spaces=False, split_special_tokens=True, model_max_length=4096)


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm with a gain."""
    return "Norm" in type(module).__name__ and isinstance(getattr(module, "weight", None), Tensor)


def _draw(module: nn.Module, name: str, parameter: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(parameter.shape, generator=generator)
    if name == "bias":
        return 0.2 * noise
    if is_norm(module):
        return (0.4 * noise).exp() - _offset(module)
    if isinstance(module, nn.Embedding) or (parameter.ndim == 3 and len(parameter) == 1):  # [1, N, D]: a vision model's tokens and positions
        return noise
    if isinstance(module, nn.Conv2d):
        return noise / parameter[0].numel() ** 0.5
    return noise / parameter.shape[-1] ** 0.5  # linears [out, in] and stacked experts [experts, out, in]


def _offset(module: nn.Module) -> float:
    # Gemma stores the gain less one
    return 1.0 if type(module).__name__.startswith("Gemma") else 0.0


def _byte_symbols() -> list[str]:
    # GPT-2's table: printable bytes stand for themselves, the rest take the code points from 256 on, in order.
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    spare = iter(range(BYTES, 2 * BYTES))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(BYTES)]
