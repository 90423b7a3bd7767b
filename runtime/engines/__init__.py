"""Networks run: one interface, ONNX Runtime and TensorRT."""
