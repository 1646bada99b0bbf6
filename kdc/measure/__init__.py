"""Quality, latency, memory and size of the files that ship."""
