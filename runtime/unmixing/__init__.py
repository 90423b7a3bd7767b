"""A patch becomes targets: the network, and the fit to the optics."""
