"""Low-bit kernels: one folder an operation, each with a reference in torch, a Triton kernel, and the choice between them by what is there.

    hadamard             x D H / sqrt(n) for every width with a Hadamard matrix
    hadamard_quantize    the same, straight to packed codes with a scale a token
    quantize             codes, steps and zeros a token, channel, group or head, and back
    packing              two 4-bit codes in a byte
    weight_only_matmul   x W^T with packed weights
    integer_matmul       int4 x int4 and int8 x int8 with int32 sums
    scores               both losses, the divergence and the top tokens of two models' logits, in one read
    statistics           what a site looks like, in one read

A call works everywhere: on a CPU the reference runs. Nothing here imports Triton, or asks for a GPU, before a kernel is launched (choice.py).

    from rotviz.kernels.hadamard import hadamard            # each operation is the function that its folder is named after
    y = hadamard(x)

packed.py is how quantized tensors lie in memory, cost.py what a model's shape costs, bench.py how fast it is on this machine.
"""
