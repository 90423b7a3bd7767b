"""Frames in: images, videos, cameras, network streams, recordings, simulated scenes."""
