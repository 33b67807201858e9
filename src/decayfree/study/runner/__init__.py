"""How do the runs of a study get onto processes or a cluster?"""
