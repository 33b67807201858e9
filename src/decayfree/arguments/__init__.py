"""Is an argument what its function wants, and what is inside it?"""
