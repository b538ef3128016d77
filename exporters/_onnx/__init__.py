"""Private parts of the ONNX targets."""
