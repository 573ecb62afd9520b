"""Applications as task graphs: the record, generators, file readers and stored data sets (on the host, without JAX)."""
