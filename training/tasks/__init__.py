"""What is learned: data, loss and validation."""
