"""Many runs of `qtools quantize` from one file: the grid, its cells, where they run, and what they come to."""
