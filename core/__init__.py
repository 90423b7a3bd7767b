"""glint: infrared small-target detection and unmixing for Jetson-class devices."""

__version__ = "0.1.0"
