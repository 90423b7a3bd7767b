"""What TensorRT will refuse in an ONNX file."""
