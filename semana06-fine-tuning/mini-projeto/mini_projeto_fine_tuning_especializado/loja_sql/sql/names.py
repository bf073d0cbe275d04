"""Os nomes do banco como se leem: os da loja ganham acento; os de outro, só espaços."""

SHOP_WORDS = {
    "uf": "UF",
    "preco": "preço",
    "preco_unitario": "preço unitário",
    "regiao": "região",
    "id": "número",
    "pagamento": "forma de pagamento",
    "data_cadastro": "data de cadastro",
    "avaliacoes": "avaliações",
    "itens_pedido": "itens dos pedidos",
    "cliente_id": "cliente",
    "vendedor_id": "vendedor",
    "produto_id": "produto",
    "pedido_id": "pedido",
}


def name_words(name: str) -> str:
    """O nome de uma coluna ou tabela como se escreve: `preco_unitario` → preço unitário."""
    return SHOP_WORDS.get(name.lower(), name.replace("_", " "))
