"""Results sent over the network: to a broker, or as datagrams."""
