"""How is one run trained, from its settings to its last row?"""
