"""What does a study leave on disk, and how is it kept whole?"""
