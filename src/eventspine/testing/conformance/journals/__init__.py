"""The groups of tests that every journal passes, and what they are made of."""
