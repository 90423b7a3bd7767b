"""What a stream costs, how long it lasts, how good its targets are."""
