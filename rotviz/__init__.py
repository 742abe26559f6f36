"""rotviz: a laboratory for low-bit language models."""

__version__ = "0.1.0"
