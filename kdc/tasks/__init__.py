"""What models do, one file a task: encode, collate, graphs, the loop over them, metrics."""
