"""How warm and hungry the board is."""
