"""Engine folders and the backends that run them."""
