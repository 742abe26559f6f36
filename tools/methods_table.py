"""Write docs/methods.md: every registered method with its settings, from the classes themselves. `--check` only says whether the file is current."""

import sys
from pathlib import Path

from rotviz.allocation import ALLOCATIONS
from rotviz.config import settings_of
from rotviz.figures import FIGURES
from rotviz.models.families import FAMILIES
from rotviz.pipeline.recipe import recipe_settings
from rotviz.quantizers import QUANTIZERS
from rotviz.rotations import ROTATIONS

TARGET = Path(__file__).parents[1] / "docs" / "methods.md"
HEAD = "# Methods, families, figures and recipe keys\n\nWritten by `python tools/methods_table.py` from the code; a test keeps it current.\n"


def document() -> str:
    """The whole page."""
    rotations = _methods("Rotations", "rotation.method", ROTATIONS)
    return "\n".join([HEAD, rotations, _methods("Weight quantizers", "weights.method", QUANTIZERS),
                      _methods("Bit allocations", "allocation.method", ALLOCATIONS), _families(), _figures(), _keys()])


def _methods(title: str, key: str, registry) -> str:
    lines = [f"## {title}\n", f"`{key} =`\n", "| name | what it does | settings (default) |", "| --- | --- | --- |"]
    for name in sorted(registry):
        settings = ", ".join(f"`{s.name}` ({s.default}): {s.help}" for s in settings_of(registry[name])) or "none"
        lines.append(f"| `{name}` | {registry[name].summary} | {settings.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def _families() -> str:
    lines = ["## Model families\n", "| family | transformers architectures |", "| --- | --- |"]
    lines += [f"| {name} | {', '.join(FAMILIES[name].architectures)} |" for name in sorted(FAMILIES)]
    return "\n".join(lines) + "\n"


def _figures() -> str:
    lines = ["## Figures of papers\n", "`rotviz figure NAME`, page Figures of papers\n", "| name | what it shows | after | settings (default) |",
             "| --- | --- | --- | --- |"]
    for name in sorted(FIGURES):
        preset = FIGURES[name]
        settings = ", ".join(f"`{s.name}` ({', '.join(s.default) if isinstance(s.default, tuple) else s.default}): {s.help}"
                             for s in settings_of(preset)) or "none"
        lines.append(f"| `{name}` | {preset.words.replace('|', '/')} | {preset.paper} | {settings.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def _keys() -> str:
    lines = ["## Recipe keys\n", "| key | default | meaning |", "| --- | --- | --- |"]
    for key, setting in recipe_settings().items():
        default = ", ".join(setting.default) if isinstance(setting.default, tuple) else setting.default
        lines.append(f"| `{key}` | {default} | {setting.help.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    if "--check" in sys.argv:
        return 0 if TARGET.exists() and TARGET.read_text() == document() else 1
    TARGET.write_text(document())
    return 0


if __name__ == "__main__":
    sys.exit(main())
