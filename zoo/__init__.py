"""Released models: ``NAME.PRECISION.onnx`` with ``NAME.PRECISION.json``, read through ``glint.cards``."""
