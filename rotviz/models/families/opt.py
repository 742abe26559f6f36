"""OPT: the LayerNorm path. Learned positions, biases everywhere, ReLU between two linears, no RoPE.

LayerNorm subtracts each token's mean, which a rotation does not keep. Where every writer to the residual stream is centered first (SliceGPT,
arXiv 2401.15024), the stream has no mean, LayerNorm equals RMSNorm, and R1 can act. That needs the norm before each sublayer and embeddings
of the model's own width: OPT-350m has neither and is refused.
"""

from typing import Any

from rotviz.models.families import FAMILIES
from rotviz.models.family import Family, NormKind
from rotviz.types import Role


class OPT(Family):
    """Refuses the one OPT whose norms come after the sublayers."""

    def refusal(self, config: Any) -> str | None:
        if not config.do_layer_norm_before:
            return "its norms come after each sublayer (OPT-350m), so no rotation of the residual stream can be folded; use another OPT"
        if config.word_embed_proj_dim != config.hidden_size:
            return "its embeddings are projected to another width; use an OPT whose word_embed_proj_dim equals hidden_size"
        if config._remove_final_layer_norm or not config.layer_norm_elementwise_affine:
            return "it has no final LayerNorm or norms without a gain (an early conversion); use the current checkpoint"
        return None


OPT_FAMILY = FAMILIES.register("opt")(OPT(
    ("OPTForCausalLM",), norm=NormKind.LAYER, blocks="model.decoder.layers",
    embeddings=("model.decoder.embed_tokens", "model.decoder.embed_positions"), final_norm="model.decoder.final_layer_norm",
    attn_norm="self_attn_layer_norm", mlp_norm="final_layer_norm", rope=False,
    linears={Role.Q: "self_attn.q_proj", Role.K: "self_attn.k_proj", Role.V: "self_attn.v_proj", Role.O: "self_attn.out_proj",
             Role.UP: "fc1", Role.DOWN: "fc2"},
))
