"""How alike tokens of the same class and of different classes are (ALGM, figure 2)."""
