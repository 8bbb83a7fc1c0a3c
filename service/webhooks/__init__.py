"""Being told: webhooks, and the outbox that carries events to them."""
