"""The processes that own a base model, and how the API speaks to them."""
