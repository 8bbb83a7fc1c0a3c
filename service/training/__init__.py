"""How an adapter is made."""
