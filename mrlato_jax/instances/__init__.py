"""The benchmark: real applications on stated systems, the best plans known, and a verifier."""
