"""Os nomes, em português, do que os resultados guardam sob chaves em inglês."""

from comum.numbers import decimal, general
from comum.results import TrainingSummary

# Chave da nota: nome, casas decimais, escala com que se mostra.
SCORES = {
    "perplexity_token": ("perplexidade por token", 2, 1),
    "perplexity_byte": ("perplexidade por byte", 3, 1),
    "next_token_accuracy": ("próximo token certo (%)", 1, 100),
    "bleu": ("BLEU", 1, 1),
    "outside_portuguese": ("fora do domínio, português (por byte)", 3, 1),
    "outside_english": ("fora do domínio, inglês (por byte)", 3, 1),
    "kl_fp32": ("KL em relação ao fp32", 3, 1),
    "agreement_fp32": ("igual ao fp32 (%)", 1, 100),
    "chrf": ("chrF", 1, 1),
    "rouge1": ("ROUGE-1 (%)", 1, 100),
    "rouge2": ("ROUGE-2 (%)", 1, 100),
    "rougeL": ("ROUGE-L (%)", 1, 100),
}
MEMORY = {
    "weights": "pesos",
    "gradients": "gradientes",
    "optimizer": "otimizador",
    "activations": "ativações",
}
METHODS = {
    "full": "todos os pesos",
    "lora": "LoRA",
    "qlora": "QLoRA",
    "rslora": "rsLoRA",
    "dora": "DoRA",
    "lora_plus": "LoRA+",
    "adalora": "AdaLoRA",
}
HYPERPARAMETERS = {
    "method": "variante",
    "r": "posto",
    "alpha": "alpha",
    "dropout": "dropout",
    "learning_rate": "learning rate",
    "target_modules": "camadas",
    "epochs": "passadas",
    "train_examples": "conversas de treino",
}
FORMATS = {"chat": "conversa", "generation": "geração", "classification": "classificação"}
SPLITS = {"train": "treino", "validation": "validação", "test": "teste"}
# Os tipos de sujeira do dia 6.
DIRT = {
    "unreadable": "linha que não se lê",
    "mojibake": "acentos estragados",
    "lost_characters": "letras perdidas (U+FFFD)",
    "html": "HTML",
    "invisible": "caracteres invisíveis",
    "emoji": "emojis",
    "boilerplate": "rodapés repetidos",
    "pii_cpf": "CPF",
    "pii_cnpj": "CNPJ",
    "pii_email": "e-mail",
    "pii_phone": "telefone",
    "pii_cep": "CEP",
    "pii_card": "cartão",
    "date_format": "data noutro formato",
    "date_unreadable": "data que não se entende",
    "empty": "mensagem ou resposta vazia",
    "truncated": "texto cortado",
    "length_outlier": "comprimento fora do razoável",
    "language": "outra língua",
    "label_misspelt": "rótulo mal escrito",
    "label_unknown": "rótulo que não diz nada",
    "duplicate_exact": "repetida igual",
    "duplicate_near": "quase igual a outra",
    "conflict": "mesmo texto, dois rótulos",
    "test_leak": "pergunta do teste oficial",
}
CLASSIFIERS = {
    "majority": "classe mais comum",
    "tfidf": "TF-IDF + regressão logística",
    "untrained": "LLM sem treino",
    "untrained_unbiased": "LLM sem treino, descontado o viés",
    "lora": "LLM ajustado com LoRA",
    "head": "LLM com cabeça de classificação, LoRA",
}


def training_title(training: TrainingSummary) -> str:
    """Um treino do mini-projeto para quem lê: `LoRA, 2.989 exemplos, 374 passos`."""
    method = METHODS.get(training.method, training.method)
    return f"{method}, {decimal(training.examples)} exemplos, {decimal(training.steps)} passos"


def hyperparameter(value: float | str | list[str]) -> str:
    """O valor de um hiperparâmetro para quem lê: `0,004`; `q, v`."""
    if isinstance(value, list):
        return ", ".join(name.removesuffix("_proj") for name in value)
    if value == "all-linear":
        return "todas as lineares"
    return METHODS.get(value, value) if isinstance(value, str) else general(value)
