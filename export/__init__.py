"""From a checkpoint to an ONNX file with its model card."""
