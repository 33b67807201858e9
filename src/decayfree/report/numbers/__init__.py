"""Which numbers does a page show? Out of the rows of a study, without words or pictures."""
