"""A page on this machine that answers pictures with the float network, the simulation and the artifact."""
