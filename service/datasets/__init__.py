"""What they bring: files, uploads and the examples in them."""
