"""Erasing a tenant with all that is kept of it, and telling so."""
