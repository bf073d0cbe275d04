"""A página do mini-projeto: perguntar, comparar modelos e ver as métricas, no navegador.

    python app.py --config configs/rapido.yaml       # http://127.0.0.1:7860
    python app.py --port 8000 --host 0.0.0.0         # aberta à rede: só se for o que você quer

Tudo fica nesta máquina: nenhuma fonte, script ou medição de uso vem de fora. O banco é aberto só
para leitura, com limites de tempo e de tamanho. As opiniões (👍 👎) vão para `feedback.jsonl`, na
pasta dos dados, e entram no próximo treino com `data_prep.py data.feedback=…/feedback.jsonl`.
"""

import sys

from comum.terminal import Parser, UserError, above_zero, run_main

from loja_sql.config import add_config_arguments, config_from_args
from loja_sql.model.assistant import add_model_arguments, settings

ON_LOAD = "() => { document.documentElement.lang = 'pt-BR'; }"
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    add_config_arguments(parser)
    add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="endereço (padrão: só esta máquina)")
    port = above_zero(int, most=65535)
    parser.add_argument("--port", type=port, default=7860, help="porta (padrão: 7860)")
    args = parser.parse_intermixed_args(argv)
    config, adapter = settings(config_from_args(args), args)
    print("Carregando o modelo…")

    from loja_sql.page.session import Page

    page = Page(config, adapter)
    try:
        blocks = launch(page, args.host, args.port)
    except OSError as error:
        place = f"{args.port} em {args.host}"
        raise UserError(f"não consegui abrir a porta {place}; mude-a com --port.") from error
    blocks.block_thread()
    return 0


def launch(page, host: str, port: int):
    """Põe a `Page` no ar, sem nada de fora: devolve o gr.Blocks; OSError se a porta está tomada."""
    import gradio as gr

    from loja_sql.page.panel import STYLE
    from loja_sql.page.tabs import build

    blocks = build(page)
    place = {"server_name": host, "server_port": port, "prevent_thread_lock": True, "quiet": True}
    closed = {"share": False, "footer_links": [], "run_history": False, "enable_monitoring": False}
    look = {"theme": gr.themes.Base(**FONTS), "css_paths": STYLE, "js": ON_LOAD}
    blocks.launch(**place, **closed, **look)
    print(f"Página em {blocks.local_url} ({page.assistant.engine.name}); Ctrl-C encerra.")
    return blocks


if __name__ == "__main__":
    sys.exit(run_main(main))
