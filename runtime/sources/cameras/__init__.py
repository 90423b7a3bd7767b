"""Cameras: of this machine, of the network, behind a pipeline of GStreamer; and how they come back."""
