"""Self-attention relations of one layer (MiniLM and MiniLMv2): of queries, keys and values."""
