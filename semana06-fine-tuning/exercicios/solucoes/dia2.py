def lora_parameters(inputs, outputs, r):
    return r * (inputs + outputs)


def lora_forward(x, w0, a, b, alpha):
    return x @ w0.T + alpha / len(a) * (x @ a.T) @ b.T


def lora_gradients(x, a, b, alpha, g):
    scale = alpha / len(a)  # com B = 0 o de A é zero: só B sai do lugar no primeiro passo
    return scale * (g @ b).T @ x, scale * g.T @ (x @ a.T)
