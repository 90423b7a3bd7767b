"""Engines, sources, pipeline and sinks; needs neither torch nor onnx."""
