"""2D vision transformers: registry, loading, tokens, token cache, tuned-model directories."""
