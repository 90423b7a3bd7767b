"""Making the library of machine code when a wheel is built."""
