"""Executar SQL com segurança, comparar resultados e entender erros."""
