"""ALGM's threshold: from the model's own tokens, or searched for by mIoU against speed."""
