"""The edge system: task times, scheduling order and the one latency recurrence."""
