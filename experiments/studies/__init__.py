"""Commands and analyses that belong to no figure alone."""
