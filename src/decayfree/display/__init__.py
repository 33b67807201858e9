"""How is a result shown outside a terminal: as a frame of numbers, a figure on paper, a table in a notebook?

Knows of no result: columns, drawings and texts in, objects of other libraries out.
"""
