"""vLLM as an engine. Nothing else imports it; what of it is used is in docs/decisions/0027."""
