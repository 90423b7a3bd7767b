"""Scores: of unmixing (``glint.metrics.unmixing``) and of detection (``glint.metrics.detection``)."""
