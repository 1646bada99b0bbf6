"""Relations between the examples of a batch: distances, angles, similarities."""
