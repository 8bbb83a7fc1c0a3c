"""Who is asking: tenants and their API keys."""
