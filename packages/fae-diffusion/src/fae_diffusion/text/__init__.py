"""Text: frozen encoders, their tokenizers, caches of embeddings, and training on captions."""
