"""What becomes of glint under damage: mutated inputs, lost packets."""
