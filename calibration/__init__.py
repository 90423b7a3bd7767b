"""From an fp32 ONNX file to fp16 and int8 ones that stay the float model."""
