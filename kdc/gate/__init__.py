"""Rules on a record that pass, fail or are inconclusive, held against a baseline."""
