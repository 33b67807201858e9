"""What does a study train? A file of settings, read into axes and runs; every fault of it told at once."""
