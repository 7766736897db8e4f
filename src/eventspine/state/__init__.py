"""Event sourcing: aggregates, whose state is a fold of their stream."""
