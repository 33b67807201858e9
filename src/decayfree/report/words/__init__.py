"""What do the numbers say, in sentences that are computed from them?"""
