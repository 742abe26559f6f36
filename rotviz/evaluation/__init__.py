"""How well a quantized model still speaks: perplexity and divergence from the float model, on the same windows."""
