"""The integer executor: what an artifact's kernels will compute, code by code.

Each public module is one kernel library and exposes KERNELS, OpKind -> rule, and QUANTIZE, floats -> codes. Where it
has them, it also exposes WIDE, rules on 16-bit activations; CONVERT, codes of one grid -> codes of another; DYNAMIC,
how layers run that take floats over integer weights; FLOATS, kinds whose float sums it takes in an order of its own.
"""
