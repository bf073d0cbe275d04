"""O painel: os resultados medidos, numa página só, que se lê sem rede, no telefone e no papel.

    python dashboard.py --config configs/rapido.yaml     # grava resultados/painel_rapido.html

Traz tudo que evaluate.py e train.py gravaram: cada avaliação, as curvas de perda dos treinos, dois
modelos pergunta a pergunta. Sem nenhuma avaliação sua, mostra a que vem com o repositório. A aba
Métricas de app.py mostra o mesmo.
"""

import sys
from pathlib import Path

from comum.files import write_text
from comum.paths import RESULTS_DIR
from comum.terminal import Parser, run_main

from loja_sql.config import add_config_arguments, config_from_args, with_trained


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    add_config_arguments(parser)
    parser.add_argument("--output", type=Path, metavar="HTML", help="onde gravar")
    args = parser.parse_intermixed_args(argv)
    config = with_trained(config_from_args(args))

    from loja_sql.page.panel import page

    output = args.output or RESULTS_DIR / f"painel_{config.output_dir.name}.html"
    write_text(output, page(config))
    print(f"Painel em {output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
