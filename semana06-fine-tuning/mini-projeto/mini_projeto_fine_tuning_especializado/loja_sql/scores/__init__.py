"""Medir as variantes do modelo e contar o que se mediu."""
