"""Applications as task graphs: record, generator, file readers and stored data sets (host side, numpy only)."""
