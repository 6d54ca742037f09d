"""Reading networks into graphs and writing graphs as networks; each file imports one framework."""
