"""Why a quantized network answers otherwise than its float one: one file per cause, found by its name, exposing CAUSE.

A cause looks at grids and statistics and names suspects, each with the one change that would prove it. It runs
nothing: whether the change brings the logits nearer to float is measured by the pipeline, on images that no suspect was
named from. A suspect that cannot be proven is not reported.
"""
