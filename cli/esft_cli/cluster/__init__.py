"""What `esft status` and `esft logs` do in a cluster, with the rights of whoever calls them."""
