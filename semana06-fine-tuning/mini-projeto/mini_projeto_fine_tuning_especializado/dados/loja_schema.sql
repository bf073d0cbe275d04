-- Banco da loja do mini-projeto. Tabelas, colunas e domínios são fixos; as linhas são geradas a
-- partir de uma semente (shop.py).
PRAGMA foreign_keys = ON;

CREATE TABLE clientes (
    id            INTEGER PRIMARY KEY,
    nome          TEXT NOT NULL,
    cidade        TEXT NOT NULL,
    uf            TEXT NOT NULL,            -- 27 UFs, duas letras maiúsculas
    data_cadastro TEXT NOT NULL             -- AAAA-MM-DD, de 2022-01-01 a 2025-12-31
);

CREATE TABLE vendedores (
    id     INTEGER PRIMARY KEY,
    nome   TEXT NOT NULL,
    regiao TEXT NOT NULL                    -- Norte | Nordeste | Centro-Oeste | Sudeste | Sul
);

CREATE TABLE produtos (
    id        INTEGER PRIMARY KEY,
    nome      TEXT NOT NULL,
    categoria TEXT NOT NULL,                -- eletrônicos | livros | brinquedos | alimentos | roupas | móveis | esportes | beleza
    preco     REAL NOT NULL,                -- R$, de 5.00 a 8000.00
    estoque   INTEGER NOT NULL              -- de 0 a 200, alguns produtos em 0
);

CREATE TABLE pedidos (
    id          INTEGER PRIMARY KEY,
    cliente_id  INTEGER NOT NULL REFERENCES clientes(id),
    vendedor_id INTEGER NOT NULL REFERENCES vendedores(id),
    data        TEXT NOT NULL,              -- AAAA-MM-DD, de 2022-01-01 a 2025-12-31
    status      TEXT NOT NULL,              -- pendente | pago | enviado | entregue | cancelado
    pagamento   TEXT NOT NULL               -- pix | boleto | cartão
);

CREATE TABLE itens_pedido (
    id             INTEGER PRIMARY KEY,
    pedido_id      INTEGER NOT NULL REFERENCES pedidos(id),
    produto_id     INTEGER NOT NULL REFERENCES produtos(id),
    quantidade     INTEGER NOT NULL,        -- de 1 a 5
    preco_unitario REAL NOT NULL            -- preço no momento da venda
);

CREATE TABLE avaliacoes (
    id         INTEGER PRIMARY KEY,
    produto_id INTEGER NOT NULL REFERENCES produtos(id),
    cliente_id INTEGER NOT NULL REFERENCES clientes(id),
    nota       INTEGER NOT NULL,            -- de 1 a 5
    data       TEXT NOT NULL                -- AAAA-MM-DD
);
