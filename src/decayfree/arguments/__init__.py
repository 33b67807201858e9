"""Is an argument what its function wants?"""
