"""netgraft."""
