import math


def answer_labels(prompt, answer):
    return [-100] * len(prompt) + answer


def next_token_loss(probabilities, labels):
    pairs = zip(probabilities, labels[1:], strict=False)  # a posição t prevê o rótulo t + 1
    surprises = [-math.log(row[label]) for row, label in pairs if label != -100]
    return sum(surprises) / len(surprises)


def surprise(logits, token):
    top = max(logits)
    return math.log(sum(math.exp(z - top) for z in logits)) - (logits[token] - top)
