"""How do other people's trainers hold norms? One file for each framework, imported by its users only."""
