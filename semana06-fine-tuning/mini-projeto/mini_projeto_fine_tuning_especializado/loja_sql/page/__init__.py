"""A página, os gráficos e o painel."""
