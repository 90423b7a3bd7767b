"""Networks, data and loops in PyTorch; nothing here is needed to run a model."""
