"""Event sourcing: aggregates, whose state is a fold of their stream, and views, which projections keep."""
