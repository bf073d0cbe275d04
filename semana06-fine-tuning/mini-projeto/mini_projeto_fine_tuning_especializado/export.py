"""Exporta o modelo treinado: funde o adaptador e grava as formas de implantação.

    python export.py                                  # tudo o que der: bf16, NF4, GPTQ, GGUF
    python export.py --config configs/rapido.yaml --forms bf16,q8_0
    python export.py --forms adapter                  # só o adaptador, pronto para publicar
    python export.py --force                          # refaz o que já está pronto

O adaptador é fundido à base em float32, também quando foi treinado sobre uma base em 4 bits: fundir
em pesos quantizados arredondaria a soma outra vez. Antes de gravar, confere-se que os logits do
modelo fundido são os do adaptador. Cada forma sai de uma cópia temporária em float32, e não de
outra já arredondada; `adapter` é o próprio LoRA em bf16, metade do tamanho, com o que o PEFT pede
e o registro do treino. Saídas em `<training.output_dir>/exported/`: uma pasta ou um arquivo por
forma, `exported.json` (o que há, tamanhos, o que faltou e como obter), o `Modelfile` do Ollama e a
ficha do modelo (`README.md`, também na pasta do treino, menos na do modelo pronto). Uma forma que
falta não impede as outras.
"""

import sys

from comum.terminal import Parser, run_main

from loja_sql.config import add_config_arguments, config_from_args, with_trained
from loja_sql.model.exports import EXPORT_FOLDER, FORMS, form_list

DEFAULT_FORMS = "bf16,nf4,gptq,q8_0,q4_k_m"


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    add_config_arguments(parser)
    add = parser.add_argument
    known = f"o que gravar: {', '.join(FORMS)}, ou all (padrão: {DEFAULT_FORMS})"
    add("--forms", type=form_list, default=DEFAULT_FORMS, metavar="LISTA", help=known)
    add("--force", action="store_true", help="refaz o que já está pronto")
    args = parser.parse_intermixed_args(argv)
    config = with_trained(config_from_args(args))

    from comum import tables

    from loja_sql.model.exporting import Exporter
    from loja_sql.shop import create_missing

    create_missing(config)
    manifest = Exporter(config).export(args.forms, args.force)
    tables.show(("forma", "tamanho", "tempo", "onde"), manifest.table())
    print(f"Tudo em {config.output_dir / EXPORT_FOLDER}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
