"""Where artifacts can be timed: one file per kind of machine, found by its name, exposing DEVICE."""
