"""Accuracy, latency and parity, measured."""
