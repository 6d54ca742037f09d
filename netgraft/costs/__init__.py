"""What a network costs: counted from its graph (:mod:`.analytic`) or measured on this machine (:mod:`.measured`)."""
