"""Examples and requests to token ids: one implementation for upload, training and serving."""
