"""Hidden states of texts: layer by layer, the embeddings, and patient distillation of the first token."""
