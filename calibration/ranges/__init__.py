"""Range methods, one per file, each exposing RANGE: (TensorStats, QuantScheme) -> (lo, hi)."""
