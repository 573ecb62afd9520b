"""The seq2seq policy and its one autoregressive recurrence. Knows no simulator."""
