"""Published post-training quantization methods to compare with, one per file, each exposing BASELINE."""
