"""The edge of HTTP: errors as OpenAI's clients read them, request ids, logs, event streams."""
