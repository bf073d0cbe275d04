"""Carregar, treinar, exportar e fazer responder o modelo."""
