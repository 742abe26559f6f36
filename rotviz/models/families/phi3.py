"""Phi-3: Llama's shape with q, k and v in one linear and gate and up in another; the roles are slices of their rows."""

from typing import Any

from rotviz.models.families import FAMILIES
from rotviz.models.family import Family, heads_of
from rotviz.types import Role


class Phi3(Family):
    """Roles as rows of the fused modules, in the order in which Phi-3 cuts them: q, k, v and gate, up."""

    def rows(self, role: Role, config: Any) -> slice:
        heads = heads_of(config)
        query, kv, mlp = heads.query * heads.width, heads.kv * heads.width, config.intermediate_size
        cuts = {Role.Q: (0, query), Role.K: (query, query + kv), Role.V: (query + kv, query + 2 * kv),
                Role.GATE: (0, mlp), Role.UP: (mlp, 2 * mlp)}
        return slice(*cuts[role]) if role in cuts else slice(None)


PHI3 = FAMILIES.register("phi3")(Phi3(("Phi3ForCausalLM",), linears={
    Role.Q: "self_attn.qkv_proj", Role.K: "self_attn.qkv_proj", Role.V: "self_attn.qkv_proj", Role.O: "self_attn.o_proj",
    Role.GATE: "mlp.gate_up_proj", Role.UP: "mlp.gate_up_proj", Role.DOWN: "mlp.down_proj",
}))
