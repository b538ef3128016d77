"""The integer executor: what an artifact's kernels will compute, code by code.

Each public module is one kernel library and exposes KERNELS, OpKind -> rule, and QUANTIZE, floats -> codes. One that
has kernels on 16-bit activations exposes them as WIDE, and CONVERT, codes of one grid -> codes of another.
"""
