"""The seq2seq policy and its autoregressive recurrence. This package does not use the simulator."""
