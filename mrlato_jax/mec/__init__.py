"""The edge system: task times, scheduling order, the one latency recurrence, the decision process."""
