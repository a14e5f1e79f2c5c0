"""What trained models are measured for: similarity of tokens, thresholds, quality against speed."""
