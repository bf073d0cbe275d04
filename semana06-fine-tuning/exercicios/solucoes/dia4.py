import torch


def merge(w0, a, b, alpha):
    return w0 + alpha / len(a) * b @ a


def trainable(linears, targets, r):
    def chosen(name):
        return any(f".{name}".endswith(f".{target}") for target in targets)

    return r * sum(sum(size) for name, size in linears.items() if chosen(name))


def extract_lora(delta, r):
    u, s, vt = torch.linalg.svd(delta, full_matrices=False)
    return vt[:r], u[:, :r] * s[:r]
