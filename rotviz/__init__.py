"""rotviz: a laboratory for low-bit language models.

    import rotviz

    result = rotviz.finish(rotviz.run(rotviz.Recipe.from_dict({"weights": {"bits": 4}})))
    result.quantized.value, result.reference.value

    found = rotviz.inspect(rotviz.Look(model="smollm2-135m"))
    found.massive

Names are imported when they are first used: `import rotviz` costs nothing, and neither Streamlit nor Plotly is ever needed here.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "Look": "rotviz.capture.inspect", "QUANTIZERS": "rotviz.quantizers", "QuantSpec": "rotviz.types", "ROTATIONS": "rotviz.rotations",
    "Recipe": "rotviz.pipeline.recipe", "Site": "rotviz.types", "Slot": "rotviz.types", "Store": "rotviz.store.runs",
    "deploy": "rotviz.deployment.build", "examine": "rotviz.pipeline.examine", "fake_quantize": "rotviz.numerics.grids",
    "finish": "rotviz.pipeline.run",
    "inspect": "rotviz.capture.inspect", "load": "rotviz.models.loading", "load_recipe": "rotviz.pipeline.recipe",
    "look": "rotviz.capture.inspect", "rewrite_model": "rotviz.surgery.whole", "run": "rotviz.pipeline.run",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'rotviz' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
