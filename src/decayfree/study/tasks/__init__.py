"""What a network is asked to do, one file for each: which network, its loss, and how well it does."""
