"""netgraft: give it the network you already have, get back a Pareto front of better ones."""
