"""The groups of tests that every broker passes under the engine, and what they are made of."""
