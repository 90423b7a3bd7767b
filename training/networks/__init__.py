"""One file per network, and their register."""
