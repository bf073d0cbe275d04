"""O que se pergunta: gramática, redações, valores, leitura e divisão dos dados."""
