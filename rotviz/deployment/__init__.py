"""A quantized run carried out in bits: packed weights, activations quantized on the fly, a KV cache of codes.

    linear.py      linear layers whose weights stay packed, and what happens to their inputs
    cache.py       a KV cache for transformers that stores codes
    replay.py      the step of one token as a CUDA graph
    build.py       a recipe -> a transformers model with `generate`
    shelf.py       which recipes can be; what is known of deployed runs without loading one
    folder.py      that model as a folder that stands on its own, and back
    size.py        bytes by part, measured, beside what rotviz.kernels.cost predicts
    bench.py       tokens a second at prefill and decode, beside the float model

    deployed = rotviz.deploy(recipe)
    deployed.model.generate(**deployed.tokenizer("The", return_tensors="pt"), max_new_tokens=20)

The same code runs everywhere: on a GPU the operations are Triton kernels, elsewhere their references in torch (rotviz.kernels), which are there to
be right, not to be quick.
"""
