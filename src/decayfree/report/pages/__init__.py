"""The two pages: one of a study that compares methods, one of a study with axes."""
