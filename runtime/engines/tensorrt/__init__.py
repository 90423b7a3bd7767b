"""Build, keep and run TensorRT engines."""
